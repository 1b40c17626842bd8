"""Handwritten digits from scikit-learn as distance fields, in three disjoint splits."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.data.dataset import SPLITS
from fullconv.errors import UsageError, suggestion

Indices = NDArray[np.int64]
Plane = NDArray[np.float32]

BOLD = 0.2  # how far the pen reaches beyond the stroke, in cells of the 8x8 digit: a broad brush, some 18 pixels wide
INK = 0.44  # the share of ink where a stroke ends: below one half, since a thin stroke never fills a cell
FLATTEST = 0.3  # the least slope of the ink, per cell, that is taken for a border
MARGIN, FINE = 2, 5  # empty cells around a glyph; samples per cell
OUTSIDE = BOLD - INK / FLATTEST  # the distance, in cells, where there is no ink at all


@cache
def handwriting() -> tuple[Plane, Indices]:
    """All digits as shares of ink (1797, 8, 8) in [0, 1], and what they are, 0 to 9."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError("digits: needs scikit-learn; pip install 'fullconv[demo]'") from None
    bunch = load_digits()
    return (bunch.images / 16).astype(np.float32), bunch.target.astype(np.int64)


@cache
def sources_of(split: str) -> Indices:
    """The handwriting of a split, sorted: 70, 15 and 15 per cent of every class, with a seed that is not the user's."""
    if split not in SPLITS:
        raise UsageError(f"digits: there is no split '{split}'; {suggestion(split, SPLITS)}")
    _, target = handwriting()
    rng = np.random.default_rng(1992)
    parts = []
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(target == digit))
        cuts = [round(share * len(members)) for share in (0.7, 0.85)]
        parts.append(np.split(members, cuts)[SPLITS.index(split)])
    chosen = np.sort(np.concatenate(parts))
    chosen.flags.writeable = False  # it is shared by all who ask
    return chosen


def _smoothing(cells: int) -> NDArray[np.float64]:
    """The matrix that resamples a row of cells to FINE samples per cell, with MARGIN empty cells at both ends.

    The kernel is Mitchell and Netravali's (1988): a cubic between those that round strokes off and that show the cells.
    """
    samples = (np.arange((cells + 2 * MARGIN) * FINE) + 0.5) / FINE - MARGIN - 0.5
    x = np.abs(samples[:, None] - np.arange(cells))
    near, far = 7 * x**3 - 12 * x**2 + 16 / 3, -7 / 3 * x**3 + 12 * x**2 - 20 * x + 32 / 3
    return np.where(x < 1, near, np.where(x < 2, far, 0)) / 6


def _distance_field(ink: Plane) -> Image.Image:
    """The signed distance to the border of the strokes, in cells, positive inside: edges stay sharp at any scale.

    To first order it is how far the ink is from the threshold, over the slope of the ink.
    """
    rows, columns = (_smoothing(cells) for cells in ink.shape)
    smooth = rows @ ink @ columns.T
    slope = np.hypot(*np.gradient(smooth, 1 / FINE))
    return Image.fromarray(((smooth - INK) / np.maximum(slope, FLATTEST) + BOLD).astype(np.float32))


@cache
def glyph(source: int) -> Image.Image:
    """The distance field of one handwritten digit."""
    return _distance_field(handwriting()[0][source])


@lru_cache(maxsize=1024)
def shard_of(source: int, quarter: int) -> Image.Image:
    """A quarter of a digit: strokes like all others, but nothing to be read."""
    top, left = 4 * (quarter // 2), 4 * (quarter % 2)
    return _distance_field(handwriting()[0][source, top : top + 4, left : left + 4])
