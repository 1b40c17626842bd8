"""The upper bound that a coarse grid of scores puts on mean IU (appendix A of the paper): the truth itself, brought
down by a factor and up again, and scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fullconv.data.dataset import SEMANTIC, Dataset, Label, facts_of
from fullconv.errors import UsageError
from fullconv.labels import LabelSpace
from fullconv.metrics import Scores, confusion_matrix, scores

FACTORS = (128, 64, 32, 16, 8, 4)
"""Those of the paper's table."""


def coarse(label: Label, factor: int, space: LabelSpace) -> Label:
    """A label (H, W) that is constant on cells of factor x factor pixels: each has the class of most of its pixels that
    are not void, the first of several; class 0 where all are.

    No label that is constant on these cells agrees with the truth in more pixels. The paper does not say how it goes
    down and up; this is the most that it can mean.

    >>> coarse(np.array([[1, 1, 0, 255, 2]]), 2, LabelSpace.of(["a", "b", "c"]))
    array([[1, 1, 0, 0, 2]])
    """
    if factor < 1:
        raise UsageError(f"factor {factor}: a label cannot be brought down by it; give at least 1")
    height, width = label.shape
    columns = np.arange(width) // factor
    number, classes = int(columns[-1]) + 1, len(space)
    rows = []
    for top in range(0, height, factor):  # one row of cells at a time, so that many classes need little memory
        band = label[top : top + factor].astype(np.int64)
        valid = band != space.ignore_index
        keys = np.broadcast_to(columns * classes, band.shape)[valid] + band[valid]
        counts = np.bincount(keys, minlength=number * classes).reshape(number, classes)
        rows.append(counts.argmax(1))
    cells = np.stack(rows)
    return cells.repeat(factor, 0)[:height].repeat(factor, 1)[:, :width]


def upper_bounds(
    dataset: Dataset, factors: Sequence[int] = FACTORS, progress: Callable[[int, int], None] | None = None
) -> Mapping[int, Scores]:
    """The four numbers of `coarse` truth for each factor, over a whole split: what no net whose scores are constant on
    cells of that size surpasses in pixel accuracy, and hardly in mean IU.
    """
    space = dataset.labels
    totals = {factor: np.zeros((len(space),) * 2, np.int64) for factor in factors}
    for index in range(len(dataset)):
        truth = dataset[index].tasks[SEMANTIC]
        for factor, total in totals.items():
            total += confusion_matrix(coarse(truth, factor, space), truth, len(space), space.ignore_index)
        if progress is not None:
            progress(index + 1, len(dataset))
    return {factor: scores(total, facts_of(dataset).present_only) for factor, total in totals.items()}
