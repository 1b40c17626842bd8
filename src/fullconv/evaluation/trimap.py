"""Scores near the borders of objects alone: trimap IU. No number of the paper: our extra, after Kohli, Ladicky and
Torr, "Robust higher order potentials for enforcing label consistency" (IJCV 2009).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fullconv.data.dataset import SEMANTIC, Dataset, Label, facts_of
from fullconv.inference.model import Model
from fullconv.metrics import Scores, confusion_matrix, scores


def border(label: Label, width: int) -> NDArray[np.bool_]:
    """(H, W) bool: the pixels of a label (H, W) less than `width` rows and columns away from a change of value. Void is
    a value like any other here, so that the void rims of PASCAL VOC are borders too.

    >>> border(np.array([[0, 0, 0, 1, 1, 1]]), 1).astype(int)
    array([[0, 0, 1, 1, 0, 0]])
    """
    changes = np.zeros(label.shape, bool)
    down, right = label[1:] != label[:-1], label[:, 1:] != label[:, :-1]
    changes[1:] |= down
    changes[:-1] |= down
    changes[:, 1:] |= right
    changes[:, :-1] |= right
    for axis in (0, 1):
        changes = _widened(changes, width - 1, axis)
    return changes


def _widened(found: NDArray[np.bool_], reach: int, axis: int) -> NDArray[np.bool_]:
    """True wherever a True is at most `reach` places away along an axis: a difference of running counts."""
    length = found.shape[axis]
    before = np.concatenate([np.zeros_like(found.take([0], axis), int), found.cumsum(axis)], axis)
    places = np.arange(length)
    stop, start = np.minimum(places + reach + 1, length), np.maximum(places - reach, 0)
    return before.take(stop, axis) > before.take(start, axis)


def trimap_scores(
    predictor: Model,
    dataset: Dataset,
    widths: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> Mapping[int, Scores]:
    """The four numbers over the pixels near a border alone, for each width in pixels (`border`), over a whole split."""
    space = dataset.labels
    totals = {width: np.zeros((len(space),) * 2, np.int64) for width in widths}
    for index in range(len(dataset)):
        sample = dataset[index]
        truth = sample.tasks[SEMANTIC].astype(np.int64)
        prediction = predictor.coarse(sample.image)["semantic"].prediction()
        for width, total in totals.items():
            near = np.where(border(truth, width), truth, space.ignore_index)
            total += confusion_matrix(prediction, near, len(space), space.ignore_index)
        if progress is not None:
            progress(index + 1, len(dataset))
    return {width: scores(total, facts_of(dataset).present_only) for width, total in totals.items()}
