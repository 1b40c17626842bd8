"""Paint outlines as class indices by one rule: a pixel belongs to an outline if its centre does.

Pixel (row, column) has its centre at x = column + 0.5, y = row + 0.5. A centre on an edge belongs to the outline on its
right or below it, so two polygons that share an edge leave no gap and share no pixel. Drawing libraries also paint the
border line, which makes every polygon half a pixel too large.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import cos, pi, radians, sin

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
"""Height, width."""

BAND = 2_000_000
"""Number of crossings of edges and rows that are computed together; it bounds the memory, not what can be drawn."""


@dataclass(frozen=True, eq=False, slots=True)
class Rings:
    """Closed rings of points (n, 2), x and y in pixels, filled by the even-odd rule: a ring in a ring is a hole."""

    rings: tuple[NDArray[np.float64], ...]

    @property
    def area(self) -> float:
        """The sum of the areas of the rings (shoelace formula), in pixels."""
        corners = [(ring - ring[0]).T for ring in self.rings]
        return float(sum(abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2) for x, y in corners))

    def paint(self, out: NDArray[np.uint8], value: int) -> None:
        """Set the pixels inside to `value`, those in `out` (H, W)."""
        begin = np.concatenate(self.rings)
        end = np.concatenate([np.roll(ring, -1, axis=0) for ring in self.rings])
        down = (begin[:, 1] <= end[:, 1])[:, None]  # each edge from its upper end: the same on both its sides
        _paint_rows(np.where(down, begin, end), np.where(down, end, begin), 0, len(out), out, value)


@dataclass(frozen=True, eq=False, slots=True)
class Ellipse:
    """An ellipse: centre and two radii in pixels, the first of them turned clockwise by `turn` degrees."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    turn: float = 0.0

    @property
    def area(self) -> float:
        """The area in pixels."""
        return pi * self.radius_x * self.radius_y

    def paint(self, out: NDArray[np.uint8], value: int) -> None:
        """Set the pixels whose centre is inside or on the edge to `value`."""
        if not (self.radius_x > 1e-6 and self.radius_y > 1e-6):
            return
        height, width = out.shape
        c, s = cos(radians(self.turn)), sin(radians(self.turn))
        p, q = self.radius_x**-2, self.radius_y**-2
        down = np.arange(height) + 0.5 - self.y
        a, b = c * c * p + s * s * q, down * (c * s * (p - q))  # the ellipse on a row: a x^2 + 2 b x + ... <= 1
        under = b * b - a * (down * down * (s * s * p + c * c * q) - 1)
        rows = np.flatnonzero(under >= 0)
        middle, half = self.x - b[rows] / a, np.sqrt(under[rows]) / a
        start = rows * width + np.clip(np.ceil(middle - half - 0.5), 0, width).astype(np.int64)
        end = rows * width + np.clip(np.floor(middle + half - 0.5) + 1, 0, width).astype(np.int64)
        _fill(out, start, end, value)


@dataclass(frozen=True, eq=False, slots=True)
class Runs:
    """A mask in a box of the image, as lengths (n,) of runs that are outside, inside, outside, ... in turn.

    by_column: whether the runs go down the columns (COCO) or along the rows (CVAT).
    """

    top: int
    left: int
    height: int
    width: int
    counts: NDArray[np.integer]
    by_column: bool

    @property
    def area(self) -> float:
        """The number of pixels inside."""
        return float(self.counts[1::2].sum())

    def bitmap(self) -> NDArray[np.bool_]:
        """The mask (height, width).

        >>> Runs(0, 0, 2, 3, np.array([1, 2, 3]), by_column=True).bitmap().astype(int)
        array([[0, 1, 0],
               [1, 0, 0]])
        """
        flat = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        return flat.reshape(self.width, self.height).T if self.by_column else flat.reshape(self.height, self.width)

    def paint(self, out: NDArray[np.uint8], value: int) -> None:
        """Set the pixels inside to `value`, those in `out` (H, W)."""
        top, left = max(self.top, 0), max(self.left, 0)
        bottom, right = min(self.top + self.height, out.shape[0]), min(self.left + self.width, out.shape[1])
        if top < bottom and left < right:
            inside = self.bitmap()[top - self.top : bottom - self.top, left - self.left : right - self.left]
            out[top:bottom, left:right][inside] = value


Outline = Rings | Ellipse | Runs


def rasterize(shapes: Iterable[tuple[Outline, int]], size: Size, ground: int = 0) -> NDArray[np.uint8]:
    """Paint outlines with their values, 0 to 255, into a label (H, W); a later one covers the earlier ones.

    ground: the value where nothing is painted.

    >>> triangle = Rings((np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]),))
    >>> rasterize([(triangle, 7)], (3, 5))
    array([[7, 7, 7, 0, 0],
           [7, 7, 0, 0, 0],
           [7, 0, 0, 0, 0]], dtype=uint8)
    """
    out = np.full(size, ground, np.uint8)
    for outline, value in shapes:
        outline.paint(out, value)
    return out


def runs_of(mask: NDArray[np.bool_], by_column: bool, top: int = 0, left: int = 0) -> Runs:
    """Encode a mask (H, W); the inverse of `Runs.bitmap`.

    >>> runs_of(np.array([[False, True], [True, True]]), by_column=False).counts.tolist()
    [1, 3]
    """
    flat = (mask.T if by_column else mask).ravel()
    places = np.flatnonzero(np.diff(np.concatenate(([False], flat)).astype(np.int8)))
    height, width = mask.shape
    return Runs(top, left, height, width, np.diff(np.concatenate(([0], places, [flat.size]))), by_column)


def _paint_rows(
    upper: NDArray[np.float64], lower: NDArray[np.float64], top: int, bottom: int, out: NDArray[np.uint8], value: int
) -> None:
    """Paint the inside of the edges from `upper` to `lower` (n, 2) in the rows from `top` to `bottom`.

    An edge crosses the rows whose centre is at or below its upper end and above its lower end, so each row has an even
    number of crossings; in order, they are starts and ends of the inside.
    """
    first = np.clip(np.ceil(upper[:, 1] - 0.5), top, bottom).astype(np.int64)
    counts = np.clip(np.ceil(lower[:, 1] - 0.5), top, bottom).astype(np.int64) - first
    total = int(counts.sum())
    if total > BAND and bottom - top > 1:
        middle = (top + bottom) // 2
        _paint_rows(upper, lower, top, middle, out, value)
        _paint_rows(upper, lower, middle, bottom, out, value)
        return
    if not total:
        return
    edge = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    x, y = upper[edge].T
    across, down = (lower - upper)[edge].T
    crossing = (x * down + (row + 0.5 - y) * across) / down
    width = out.shape[1]
    places = np.sort(row * width + np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64))
    _fill(out, places[::2], places[1::2], value)


def _fill(out: NDArray[np.uint8], start: NDArray[np.int64], end: NDArray[np.int64], value: int) -> None:
    """Set the pixels from `start` to before `end`, counted along the rows of `out`."""
    flat, some = out.reshape(-1), start < end
    for i, j in zip(start[some].tolist(), end[some].tolist(), strict=True):
        flat[i:j] = value
