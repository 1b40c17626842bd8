"""Scores at the stride of the net, and how they come to the pixels: bilinear upsampling and a crop (section 3.3).

Between four neighbouring cells every score is one and the same mean of the four, so a class that wins in all of them
wins at every pixel between. Only the blocks where the four disagree, those at the borders of the segments, have to be
upsampled to be labelled: the labels are those of the scores at full resolution, which are never made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fullconv import geometry
from fullconv.geometry import Window, bilinear_line

PIXEL = Window(1)
"""The window of scores that are at full resolution already."""

BUDGET = 1 << 20
"""Scores of pixels that are made at a time, in numbers: what a processor's cache holds."""


@dataclass(frozen=True)
class CoarseScores:
    """The scores of an image before the last upsampling.

    scores: (K, h, w) float32. window: the bilinear transposed convolution that upsamples them, of at most two taps a
    pixel. offset: what the crop cuts off at the top and at the left, in pixels. size: the height and width of the
    image.

    >>> two = CoarseScores(np.array([[[0, 1]], [[1, 0]]], np.float32), Window(4, 2, transposed=True), (1, 1), (2, 4))
    >>> two.prediction().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0]]
    """

    scores: NDArray[np.float32]
    window: Window = PIXEL
    offset: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)

    @classmethod
    def of_logits(cls, logits: NDArray[np.float32]) -> CoarseScores:
        """Those of logits (K, H, W), which are at full resolution already."""
        return cls(logits, size=(logits.shape[1], logits.shape[2]))

    @property
    def classes(self) -> int:
        """K."""
        return len(self.scores)

    def part(self, rows: slice, columns: slice) -> CoarseScores:
        """The scores of a part of the image, with no more cells than it is made of."""
        if self.window == PIXEL:
            return CoarseScores.of_logits(self.scores[:, rows, columns])
        scores, offset, size = self.scores, [], []
        for axis, (cut, whole) in enumerate(zip((rows, columns), self.size, strict=True)):
            begin, end, _ = cut.indices(whole)
            first = max(0, (self.offset[axis] + begin) // self.window.stride - 1)
            last = (self.offset[axis] + end - 1) // self.window.stride
            scores = scores.take(range(first, min(last + 1, scores.shape[axis + 1])), axis + 1)
            offset.append(self.offset[axis] + begin - first * self.window.stride)
            size.append(end - begin)
        return replace(self, scores=scores, offset=(offset[0], offset[1]), size=(size[0], size[1]))

    def logits(self) -> NDArray[np.float32]:
        """(K, H, W) float32: the score of each class at each pixel."""
        if self.window == PIXEL:
            return self.scores
        rows, columns = (
            upsampling_matrix(self.window, cells, offset, pixels)
            for cells, offset, pixels in zip(self.scores.shape[1:], self.offset, self.size, strict=True)
        )
        return rows @ (self.scores @ columns.T)

    def prediction(self) -> NDArray[np.uint8]:
        """(H, W) uint8, int32 for more than 256 classes: the class of the highest score at each pixel, the first of
        equal ones.
        """
        kind = np.uint8 if self.classes <= 256 else np.int32
        winner = self.scores.argmax(0).astype(kind)
        if self.window == PIXEL:
            return winner
        factor = self.window.stride
        # A block lies between four cells; those outside the scores are zeros for all classes and decide nothing.
        firsts = [offset // factor for offset in self.offset]
        counts = [(o + n - 1) // factor - f + 1 for o, n, f in zip(self.offset, self.size, firsts, strict=True)]
        (top, left), (rows, columns) = firsts, counts
        around = np.pad(winner, 1, mode="edge")
        corners = [around[top + y : top + y + rows, left + x : left + x + columns] for y in (0, 1) for x in (0, 1)]
        labels = np.repeat(np.repeat(corners[0], factor, 0), factor, 1)
        blocks = labels.reshape(rows, factor, columns, factor).swapaxes(1, 2)  # a view
        down, right = np.nonzero((corners[0] != corners[1]) | (corners[0] != corners[2]) | (corners[0] != corners[3]))
        self._label(blocks, down, right)
        above, before = (offset - first * factor for offset, first in zip(self.offset, firsts, strict=True))
        return labels[above : above + self.size[0], before : before + self.size[1]]

    def _label(self, blocks: NDArray[np.integer], down: NDArray[np.intp], right: NDArray[np.intp]) -> None:
        """Labels the blocks at (down, right), of (rows, columns, factor, factor), from their upsampled scores."""
        factor = self.window.stride
        line = bilinear_line(self.window.kernel)
        taps = np.zeros((2, factor), np.float32)  # of the cell before a pixel and of the cell at or behind it
        taps[1] = line[:factor]
        taps[0, : len(line) - factor] = line[factor:]
        kernel = np.einsum("yi,xj->yxij", taps, taps).reshape(4, factor * factor)
        cells = np.pad(self.scores, ((0, 0), (1, 1), (1, 1)))
        top, left = (offset // factor for offset in self.offset)
        for begin in range(0, len(down), step := max(1, BUDGET // (self.classes * factor * factor))):
            y, x = down[begin : begin + step] + top, right[begin : begin + step] + left
            corners = np.stack([cells[:, y + i, x + j] for i in (0, 1) for j in (0, 1)], 2)
            scores = corners @ kernel  # (K, blocks, pixels of a block)
            best, found = scores[0], np.zeros(scores.shape[1:], blocks.dtype)
            for k in range(1, self.classes):
                higher = scores[k] > best
                found[higher] = k
                np.maximum(best, scores[k], out=best)
            blocks[y - top, x - left] = found.reshape(-1, factor, factor)


def upsampling_matrix(window: Window, cells: int, offset: int, pixels: int) -> NDArray[np.float32]:
    """The (pixels, cells) matrix that upsamples one axis and crops it: the pixels from `offset` on."""
    line = np.array(bilinear_line(window.kernel), np.float32)
    matrix: NDArray[np.float32] = geometry.upsampling_matrix(
        window, np.arange(cells), np.arange(offset, offset + pixels), line
    )
    return matrix
