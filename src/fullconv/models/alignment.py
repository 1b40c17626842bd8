"""How scores of several strides come together on the image: the taps of each bilinear kernel, every crop, and the least
margin (section 4.2, and the crops of the released nets).

Nothing here is a number from a paper: all of it follows from the maps of the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from fullconv.geometry import IMAGE, AxisMap, GeometryError, Window, bilinear_window
from fullconv.models.trace import Trace


@dataclass(frozen=True)
class Join:
    """How scores are brought onto the next finer grid: the transposed convolution, then what is cut from the front
    of each.
    """

    window: Window
    crop_scores: int
    crop_skip: int

    def size(self, scores: int, skip: int) -> int:
        """The cells that both have after the crop."""
        return min(self.window.size(scores) - self.crop_scores, skip - self.crop_skip)


@dataclass(frozen=True)
class Margin:
    """Zeros around the image (its mean colour): `before` at top and left, `after` at bottom and right, and at least
    `least` pixels.
    """

    before: int = 0
    after: int = 0
    least: int = 1

    def of(self, pixels: int) -> tuple[int, int]:
        """The cells added before and after an axis of so many pixels."""
        return self.before, self.after + max(0, self.least - pixels)


def plan_joins(grids: Sequence[AxisMap]) -> list[Join]:
    """The joins from the coarsest of the grids over each finer one to the image.

    The released FCN-8s of VGG16, whose numbers 5, 9 and 31 come out:

    >>> vgg = lambda convs, at: at.then(Window(2 * convs + 1, padding=convs)).then(Window(2, 2))
    >>> pool3 = vgg(3, vgg(2, vgg(2, IMAGE.then(Window(1, padding=99)))))
    >>> pool4 = vgg(3, pool3)
    >>> fc7 = vgg(3, pool4).then(Window(7))
    >>> [(j.window.kernel, j.crop_scores, j.crop_skip) for j in plan_joins([fc7, pool4, pool3])]
    [(4, 0, 5), (4, 0, 9), (16, 31, 0)]
    """
    joins = []
    scores = grids[0]
    for finer in [*grids[1:], IMAGE]:
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
    """The least margin with which the upsampled scores cover an image of any size, from 1x1 up.

    From the sizes on, where every layer has cells, an image longer by one stride has one coarse cell more; so one
    whole period without failure proves all that follow, and what is smaller is extended.
    """
    before = plan_joins([trace[name].axis for name in features])[-1].crop_skip
    grids = [trace[name].axis for name in features]
    joins = plan_joins([AxisMap(grid.stride, grid.start - before, grid.field) for grid in grids])
    period = int(grids[0].stride)

    sizes_of = cache(trace.sizes)  # many images and margins have one size together

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
