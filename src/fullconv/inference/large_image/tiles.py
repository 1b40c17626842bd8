"""Images in tiles with a halo, whose scores are those of the whole; and nets without bounds, whose tiles are blended.

What a tile sees begins on a multiple of the net's period, so that every pooling has the windows that it has in the
whole, and goes as far around it as its scores look (`Reach`). At the border of the image it ends with the image: zeros
are padded where the whole has them, and nowhere else. All tiles see parts of one size, where the image is that large.

No torch is needed here: the net is a function from an image to its scores by task, whatever runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.data.dataset import Image
from fullconv.errors import UsageError
from fullconv.geometry import Reach
from fullconv.inference.coarse_scores import CoarseScores

Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels; bottom and right are the first that are not in it."""

Scores = Callable[[Image], dict[str, CoarseScores]]
"""A net: from an image to its scores by task, as `Predictor.coarse`."""

Labels = dict[str, NDArray[np.integer]]
"""Classes by task: (rows, W)."""


class Rows(Protocol):
    """An image whose rows are read when they are wanted; `fullconv.io.windowed` has them."""

    @property
    def height(self) -> int:
        """Rows in all."""

    @property
    def width(self) -> int:
        """Pixels of a row."""

    def rows(self, top: int, bottom: int) -> Image:
        """The rows from `top` to before `bottom`, (rows, W, C)."""


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


def along(pixels: int, most: int, reach: Reach) -> list[tuple[int, int, int, int]]:
    """Begin and end of each tile on an axis, and of what it sees: `most` pixels and the reach around them.

    As few tiles as that allows, and those as small as so few can be. All see equally many pixels, which differ from
    `pixels` by a multiple of the period: so each of them begins on one.

    >>> along(200, 64, Reach(before=10, after=10, period=8))
    [(0, 72, 0, 88), (72, 128, 56, 144), (128, 200, 112, 200)]
    """
    around, period = reach.before + reach.after, reach.period
    seen = most + around + (pixels - most - around) % period
    if pixels <= seen:
        return [(0, pixels, 0, pixels)]

    def gaps(size: int) -> int:
        return -(-(pixels - size) // ((size - around) // period * period))

    count = gaps(seen)
    while seen - around - period >= period and gaps(seen - period) == count:
        seen -= period
    steps = (pixels - seen) // period
    firsts = [number * steps // count * period for number in range(count + 1)]
    # A seam lies in the middle of what the tiles at both sides of it could tell.
    seams = [(after + reach.before + before + seen - reach.after) // 2
             for before, after in pairwise(firsts)]  # fmt: skip
    return [
        (begin, end, first, first + seen)
        for begin, end, first in zip([0, *seams], [*seams, pixels], firsts, strict=True)
    ]


def cut(height: int, width: int, tile: int | tuple[int, int], reach: Reach, halo: int | None = None) -> list[Tile]:
    """An image of height by width in tiles that see at most about `tile` pixels (rows and columns) and what lies around
    them, from top left in rows.

    halo: pixels that are seen around a tile, where fewer than the reach are to do: the tiles are then not the whole,
    near their seams. Raises `UsageError` for tiles smaller than the net's period.

    >>> [t.box for t in cut(400, 70, 64, Reach(before=40, after=40, period=32))]
    [(0, 0, 104, 70), (104, 0, 168, 70), (168, 0, 232, 70), (232, 0, 296, 70), (296, 0, 400, 70)]
    """
    rows, columns = (tile, tile) if isinstance(tile, int) else tile
    if min(rows, columns) < reach.period:
        raise UsageError(f"tile {rows}x{columns}: smaller than the stride of the net; give {reach.period} or more")
    if halo is not None:
        reach = Reach(min(halo, reach.before), min(halo, reach.after), reach.period)
    return [
        Tile((top, left, bottom, right), (above, first, below, last))
        for top, bottom, above, below in along(height, rows, reach)
        for left, right, first, last in along(width, columns, reach)
    ]


def share_of_pixels(tiles: Sequence[Tile]) -> float:
    """The pixels that are seen for each pixel of the image."""
    area = sum((bottom - top) * (right - left) for top, left, bottom, right in (tile.box for tile in tiles))
    return sum(tile.pixels for tile in tiles) / area


def uncertain_share(tiles: Sequence[Tile], reach: Reach) -> float:
    """The share of the pixels whose scores look beyond what their tile sees: those that a small halo may change."""
    height, width = max(tile.box[2] for tile in tiles), max(tile.box[3] for tile in tiles)
    certain = 0
    for tile in tiles:
        (top, left, bottom, right), (above, before, below, after) = tile.box, tile.seen
        rows = min(bottom, below if below == height else below - reach.after) - max(
            top, above + reach.before if above else 0
        )
        columns = min(right, after if after == width else after - reach.after) - max(
            left, before + reach.before if before else 0
        )
        certain += max(0, rows) * max(0, columns)
    return 1 - certain / (height * width)


def scores_by_tile(
    image: Rows, tiles: Sequence[Tile], scores: Scores
) -> Iterator[tuple[Tile, dict[str, CoarseScores]]]:
    """Each tile with its scores by task. Of each row of tiles, which must follow each other, the image is read once."""
    for (top, bottom), row in groupby(tiles, lambda tile: (tile.seen[0], tile.seen[2])):
        pixels = image.rows(top, bottom)
        for tile in row:
            found = scores(np.ascontiguousarray(pixels[:, tile.seen[1] : tile.seen[3]]))
            yield tile, {task: of_tile.part(*tile.inside) for task, of_tile in found.items()}


def labels_by_tile(image: Rows, tiles: Sequence[Tile], scores: Scores) -> Iterator[Labels]:
    """The class of the highest score at each pixel by task, in rows of tiles from top to bottom."""
    row: list[Labels] = []
    for tile, found in scores_by_tile(image, tiles, scores):
        row.append({task: of_tile.prediction() for task, of_tile in found.items()})
        if tile.box[3] == image.width:
            yield {task: np.concatenate([labels[task] for labels in row], 1) for task in row[0]}
            row = []


def blended_labels(image: Rows, tile: tuple[int, int], overlap: int, scores: Scores) -> Iterator[Labels]:
    """The classes for a net that sees without bounds: tiles of at most so many rows and columns overlap by `overlap`
    pixels at least, and where they do, their scores are averaged with weights that fade smoothly from one to the other
    and sum to one. No tile's scores are those of the whole then, but there is no seam.
    """
    reach = Reach(overlap // 2, overlap - overlap // 2, 1)
    downs, acrosses = along(image.height, tile[0] - overlap, reach), along(image.width, tile[1] - overlap, reach)
    down, across = (
        fading([(first, last) for _, _, first, last in places], pixels, overlap)
        for places, pixels in ((downs, image.height), (acrosses, image.width))
    )
    sums: dict[str, NDArray[np.float32]] = {}
    for number, (_, _, top, bottom) in enumerate(downs):
        pixels = image.rows(top, bottom)
        for (_, _, left, right), weights in zip(acrosses, across, strict=True):
            for task, found in scores(np.ascontiguousarray(pixels[:, left:right])).items():
                logits = found.logits()
                if task not in sums:
                    sums[task] = np.zeros((len(logits), 0, image.width), np.float32)
                if missing := bottom - top - sums[task].shape[1]:
                    sums[task] = np.pad(sums[task], ((0, 0), (0, missing), (0, 0)))
                sums[task][:, :, left:right] += logits * (down[number][:, None] * weights)
        done = (downs[number + 1][2] if number + 1 < len(downs) else bottom) - top
        yield {task: CoarseScores.of_logits(scores[:, :done]).prediction() for task, scores in sums.items()}
        sums = {task: scores[:, done:].copy() for task, scores in sums.items()}


def fading(places: Sequence[tuple[int, int]], pixels: int, overlap: int) -> list[NDArray[np.float32]]:
    """The weight of each tile at each pixel that it sees on an axis; those of all tiles sum to one at every pixel.

    >>> [w.tolist() for w in fading([(0, 4), (2, 6)], 6, 2)]
    [[1.0, 1.0, 0.84375, 0.15625], [0.15625, 0.84375, 1.0, 1.0]]
    """
    total, found = np.zeros(pixels), []
    for first, last in places:
        place = np.arange(first, last) + 0.5
        inside = np.minimum(
            place - first if first else np.inf, last - place if last < pixels else np.inf
        )  # pixels to the nearest end that is not the image's
        t = np.clip(inside / max(1, overlap), 0, 1)
        found.append(t * t * (3 - 2 * t))
        total[first:last] += found[-1]
    return [
        (weight / total[first:last]).astype(np.float32) for weight, (first, last) in zip(found, places, strict=True)
    ]


def memory_of_blending(width: int, tile: int, overlap: int, classes: int) -> int:
    """The bytes of the sums of scores that `blended_labels` holds."""
    return 4 * classes * (tile + 2 * overlap) * width
