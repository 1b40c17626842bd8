"""Evaluation: a model over a data set gives one confusion matrix a task, and from it the four numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from fullconv.data.dataset import SEMANTIC, Dataset, adapt, facts_of
from fullconv.datasets.open_dataset import default_splits, open_dataset
from fullconv.distributed import ALONE, ProcessGroup
from fullconv.errors import UsageError
from fullconv.inference.model import Model
from fullconv.inference.predictor import as_model
from fullconv.metrics import Counts, Scores, confusion_matrix, scores


class Interrupted(Exception):
    """An evaluation was broken off because it was asked to end; nothing is wrong."""


def confusions(
    predictor: Model, dataset: Dataset, first: int = 0, every: int = 1
) -> Iterator[tuple[str, dict[str, Counts]]]:
    """The name of each sample and its confusion matrix for each task that the net and the data share, one image at a
    time, at its own size; their sum is that of the split.

    first, every: of the samples, every so many from the first on.
    """
    tasks = {task: space for task, space in facts_of(dataset).tasks.items() if task in predictor.header.tasks}
    for task, space in tasks.items():
        has = len(predictor.header.tasks[task])
        if len(space) != has:
            raise UsageError(
                f"evaluate: the model has {has} classes and the data {len(space)}; they must be of one label space"
            )
    for index in range(first, len(dataset), every):
        sample = dataset[index]
        outputs = predictor.coarse(sample.image)
        yield (
            sample.name,
            {
                task: confusion_matrix(outputs[task].prediction(), sample.tasks[task], len(space), space.ignore_index)
                for task, space in tasks.items()
            },
        )


def evaluate_tasks(
    predictor: Model | str | Path,
    dataset: Dataset,
    progress: Callable[[int, int], None] | None = None,
    processes: ProcessGroup = ALONE,
    ended: Callable[[], bool] | None = None,
) -> Mapping[str, Scores]:
    """The four numbers of the paper for each task (``semantic``; SIFT Flow's ``geometric``, of which the paper gives
    the pixel accuracy), each from one confusion matrix over the whole split.

    predictor: a model, or the path of one. dataset: for what is not a `Dataset` see `fullconv.adapt`; of pairs without
    a label space the classes are the model's.
    progress: called with (images done, images in all).
    processes: those that share the work; process r of W takes the images r, r + W, ..., and the counts are added as
    integers, so that every number of processes gives the same scores.
    ended: asked after each image; where it says yes in any process, `Interrupted` is raised in all.
    """
    predictor = as_model(predictor, "evaluate")
    dataset = adapt(dataset, predictor.labels)
    total = {task: np.zeros((len(space),) * 2, np.int64) for task, space in facts_of(dataset).tasks.items()}
    broken_off = False
    for done, (_, counts) in enumerate(confusions(predictor, dataset, processes.rank, processes.size), start=1):
        for task, found in counts.items():
            total[task] += found
        if progress is not None:
            progress(min(done * processes.size, len(dataset)), len(dataset))
        if ended is not None and ended():
            broken_off = True
            break
    if processes.any(broken_off):
        raise Interrupted
    return {
        task: scores(processes.counts(counts), facts_of(dataset).present_only)
        for task, counts in total.items()
        if task in predictor.header.tasks
    }


def evaluate(
    predictor: Model | str | Path,
    dataset: Dataset | str | Path,
    progress: Callable[[int, int], None] | None = None,
    processes: ProcessGroup = ALONE,
    ended: Callable[[], bool] | None = None,
    *,
    split: str | None = None,
) -> Scores:
    """The four numbers of the paper for a model on a split, from one confusion matrix over all of it.

    dataset: also what `open_dataset` opens; then `split` is its split (default: ``val``, or the dataset's own for
    validation). The other arguments are those of `evaluate_tasks`; `evaluate_model` returns more.
    """
    if isinstance(dataset, str | Path):
        dataset = open_dataset(dataset, split or default_splits(dataset)[1] or "val")
    return evaluate_tasks(predictor, dataset, progress, processes, ended)[SEMANTIC]
