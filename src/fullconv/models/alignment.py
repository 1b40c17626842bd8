"""Alignment of scores of several strides (section 4.2): the taps of the bilinear kernels, the crops, the least margin.

The crops of the released networks are not typed in: all of it follows from the maps of the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from fullconv.geometry import IMAGE, AxisMap, GeometryError, Window, bilinear_window
from fullconv.models.trace import Trace


@dataclass(frozen=True)
class Join:
    """A step to the next finer grid: the transposed convolution, then the cells to crop in front of each."""

    window: Window
    crop_scores: int
    crop_skip: int

    def size(self, scores: int, skip: int) -> int:
        """Return the number of cells that both have after the crop, on one axis."""
        return min(self.window.size(scores) - self.crop_scores, skip - self.crop_skip)


@dataclass(frozen=True)
class Margin:
    """Zeros (the mean color) around the image: `before` at top and left, `after` at bottom and right; an image with
    fewer than `least` pixels on an axis is extended to that.
    """

    before: int = 0
    after: int = 0
    least: int = 1

    def of(self, pixels: int) -> tuple[int, int]:
        """Return the numbers of zeros before and after an axis of so many pixels."""
        return self.before, self.after + max(0, self.least - pixels)


def plan_joins(grids: Sequence[AxisMap], before: int = 0) -> list[Join]:
    """Return the joins from the coarsest of the grids over each finer one to the image with `before` zeros in front.

    Raises:
        GeometryError: Two grids cannot be aligned by whole cells.

    The offsets 5, 9 and 31 of the released FCN-8s of VGG16:

    >>> vgg = lambda convs, at: at.then(Window(2 * convs + 1, padding=convs)).then(Window(2, 2))
    >>> pool3 = vgg(3, vgg(2, vgg(2, IMAGE.then(Window(1, padding=99)))))
    >>> pool4 = vgg(3, pool3)
    >>> fc7 = vgg(3, pool4).then(Window(7))
    >>> [(j.window.kernel, j.crop_scores, j.crop_skip) for j in plan_joins([fc7, pool4, pool3])]
    [(4, 0, 5), (4, 0, 9), (16, 31, 0)]
    """
    joins = []
    scores, *finer_grids = [AxisMap(grid.stride, grid.start - before, grid.field) for grid in grids]
    for finer in [*finer_grids, IMAGE]:
        factor = scores.stride / finer.stride
        if factor.denominator != 1:
            raise GeometryError(
                f"skip: its stride {finer.stride} does not divide the stride {scores.stride} of the coarser scores"
            )
        window = bilinear_window(int(factor), scores, finer)
        upsampled = scores.then(window)
        offset = upsampled.offset_to(finer)
        joins.append(Join(window, max(offset, 0), max(-offset, 0)))
        scores = upsampled.cropped(max(offset, 0))
    return joins


def least_margin(trace: Trace, features: Sequence[str]) -> Margin:
    """Return the least margin with which the upsampled scores cover an image of any size, from 1x1 up.

    Once every layer has cells, an image longer by one stride has one coarse cell more. So one whole period of sizes
    without failure proves all that follow, and smaller images are extended.

    Raises:
        GeometryError: No margin suffices.
    """
    grids = [trace[name].axis for name in features]
    before = plan_joins(grids)[-1].crop_skip
    joins = plan_joins(grids, before)
    period = int(grids[0].stride)
    sizes_of = cache(trace.sizes)

    def covered(pixels: int, after: int) -> bool:
        sizes = sizes_of(before + pixels + after)
        if min(sizes.values()) < 1:
            return False
        scores = sizes[features[0]]
        for join, skip in zip(joins, [*(sizes[name] for name in features[1:]), pixels], strict=True):
            scores = join.size(scores, skip)
        return scores >= pixels

    for after in range(8 * period + 1):
        run = 0
        for pixels in range(1, 64 * period):
            run = run + 1 if covered(pixels, after) else 0
            if run == period:
                return Margin(before, after, pixels - period + 1)
            if not run and pixels > 8 * period + before:
                break
    raise GeometryError(
        f"feature '{features[0]}': no margin brings its upsampled scores over the whole image; pad its layers"
    )
