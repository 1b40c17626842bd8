"""What the net will see: samples of a training split as they are, and as the settings change them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fullconv.config import InputConvention, TrainConfig
from fullconv.data.dataset import SEMANTIC, Dataset, Image, adapt
from fullconv.data.loader import BatchStream, sample_index
from fullconv.data.transforms import augmentation, outside
from fullconv.errors import UsageError
from fullconv.io.image import overlay
from fullconv.labels import LabelSpace
from fullconv.reporting.pictures import Picture, seen, side_by_side


def draw_augmented(
    dataset: Dataset, config: TrainConfig, convention: InputConvention, rows: int = 4, columns: int = 6
) -> bytes:
    """A PNG of `rows` samples, each as it is and in `columns` - 1 versions by `augmentation`, with their labels over
    them.

    Row t has the first sample of step t of training with these settings, and its version v is what slot v of step t
    draws for it: the first is the very picture that the net is shown in that step. Versions of one row are made equally
    large as a batch is, by the mean colour of `convention` and void. Void and background are not coloured; of several
    labels the semantic one is shown. Raises `UsageError` for an empty data set and for less than 1 row or 2 columns.

    >>> from fullconv.datasets.open_dataset import open_dataset
    >>> draw_augmented(open_dataset("digits", "val"), TrainConfig(flip=True), InputConvention(), 1, 2)[1:4]
    b'PNG'
    """
    if rows < 1 or columns < 2 or not len(dataset):
        raise UsageError(
            f"figures: {rows} rows and {columns} columns of {len(dataset)} samples; give at least 1, 2 and 1"
        )
    fill = outside(convention, dataset.labels.ignore_index)
    transform = augmentation(config, fill)
    grid = []
    for step in range(rows):
        index = sample_index(config.seed, step * config.batch_size, len(dataset), config.replacement)
        sample = dataset[index]
        again = adapt([sample], dataset.labels)
        batch = BatchStream(again, transform, fill, batch_size=columns - 1, seed=config.seed)[step]
        versions = zip(batch.images, batch.labels[SEMANTIC], strict=True)
        grid.append([_seen(*pair, dataset.labels) for pair in ((sample.image, sample.semantic), *versions)])
    return side_by_side(grid, ["as it is", *(f"slot {slot}" for slot in range(columns - 1))])


def _seen(image: Image, label: NDArray[np.integer], labels: LabelSpace) -> Picture:
    return overlay(seen(image), label, labels)
