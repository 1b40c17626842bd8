"""Evaluation: a model over a data set gives one confusion matrix, and from it the four numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fullconv.data import Dataset
from fullconv.errors import UsageError
from fullconv.inference import Predictor
from fullconv.metrics import Counts, Scores, confusion_matrix, scores


def confusions(predictor: Predictor, dataset: Dataset) -> Iterator[tuple[str, Counts]]:
    """The name and the confusion matrix of each sample, one image at a time, at its own size; their sum is that of
    the split.
    """
    if len(dataset.labels) != len(predictor.labels):
        raise UsageError(
            f"evaluate: the model has {len(predictor.labels)} classes and the data {len(dataset.labels)}; "
            "they must be of one label space"
        )
    for index in range(len(dataset)):
        sample = dataset[index]
        prediction = predictor.logits(sample.image)[0].argmax(0).numpy()
        yield sample.name, confusion_matrix(prediction, sample.label, len(dataset.labels), dataset.labels.ignore_index)


def evaluate(predictor: Predictor, dataset: Dataset, progress: Callable[[int, int], None] | None = None) -> Scores:
    """The four numbers of the paper for a model on a split, from one confusion matrix over all of it.

    `progress` is called with (images done, images in all).
    """
    total = np.zeros((len(dataset.labels), len(dataset.labels)), np.int64)
    for done, (_, counts) in enumerate(confusions(predictor, dataset), start=1):
        total += counts
        if progress is not None:
            progress(done, len(dataset))
    return scores(total)
