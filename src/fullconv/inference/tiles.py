"""Images that are larger than the memory: tiles with a halo, whose scores are those of the whole.

What a tile sees begins on a multiple of the net's period, so that every pooling has the windows that it has in the
whole, and goes as far around it as its scores look (`fullconv.models.reach`). At the border of the image it ends with
the image: zeros are padded where the whole has them, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fullconv.data import Image
from fullconv.errors import UsageError
from fullconv.models.reach import Reach

Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels; bottom and right are the first that are not in it."""


@dataclass(frozen=True)
class Tile:
    """A part of the image, `box`, and what must be seen to predict it, `seen`."""

    box: Box
    seen: Box

    @property
    def inside(self) -> tuple[slice, slice]:
        """Where the box lies in what is seen: rows and columns."""
        (top, left, bottom, right), (above, before, _, _) = self.box, self.seen
        return slice(top - above, bottom - above), slice(left - before, right - before)

    @property
    def pixels(self) -> int:
        """The pixels that are seen."""
        top, left, bottom, right = self.seen
        return (bottom - top) * (right - left)


def cut(height: int, width: int, tile: int | tuple[int, int], reach: Reach, halo: int | None = None) -> list[Tile]:
    """An image of height by width in tiles of at most `tile` pixels (rows and columns), from top left in rows.

    halo: pixels that are seen around a tile, where fewer than the reach are to do: the tiles are then not the whole,
    near their seams. Raises `UsageError` for tiles smaller than the net's period.

    >>> [t.box for t in cut(100, 70, 64, Reach(before=40, after=40, period=32))]
    [(0, 0, 64, 64), (0, 64, 64, 70), (64, 0, 100, 64), (64, 64, 100, 70)]
    """
    rows, columns = (tile, tile) if isinstance(tile, int) else tile
    if min(rows, columns) < reach.period:
        raise UsageError(f"tile {rows}x{columns}: smaller than the stride of the net; give {reach.period} or more")
    before, after = (reach.before, reach.after) if halo is None else (min(halo, reach.before), min(halo, reach.after))

    def along(pixels: int, most: int) -> list[tuple[int, int, int, int]]:
        """Begin and end of each tile on an axis, and of what it sees."""
        places = [*range(0, pixels, most // reach.period * reach.period), pixels]
        return [
            (begin, end, max(0, begin - before) // reach.period * reach.period, min(pixels, end + after))
            for begin, end in pairwise(places)
        ]

    return [
        Tile((top, left, bottom, right), (above, first, below, last))
        for top, bottom, above, below in along(height, rows)
        for left, right, first, last in along(width, columns)
    ]


def scores_by_tile(
    image: Image, tiles: list[Tile], outputs: Callable[[Image], dict[str, Tensor]]
) -> Iterator[tuple[Tile, dict[str, Tensor]]]:
    """Each tile with its scores by task, (K, rows, columns); `outputs` gives those of an image, (1, K, H, W)."""
    for tile in tiles:
        top, left, bottom, right = tile.seen
        found = outputs(image[top:bottom, left:right])
        yield tile, {task: scores[0][:, tile.inside[0], tile.inside[1]] for task, scores in found.items()}


def predict_by_tile(
    image: Image, tiles: list[Tile], outputs: Callable[[Image], dict[str, Tensor]],
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, NDArray[np.uint8]]:  # fmt: skip
    """The class of the highest score at each pixel, (H, W) uint8 by task, without the scores of the whole at any time.

    progress: called with (tiles done, tiles in all).
    """
    found: dict[str, NDArray[np.uint8]] = {}
    for done, (tile, scores) in enumerate(scores_by_tile(image, tiles, outputs), start=1):
        top, left, bottom, right = tile.box
        for task, of_tile in scores.items():
            labels = found.setdefault(task, np.empty(image.shape[:2], np.uint8))
            labels[top:bottom, left:right] = of_tile.argmax(0).numpy().astype(np.uint8)
        if progress is not None:
            progress(done, len(tiles))
    return found
