"""The fully convolutional network (section 4): trunk, scores, upsampling, skips, crop. FCN-32s, FCN-16s, FCN-8s on
any backbone.

Nothing here knows a backbone. The trunk gives features, coarsest first; the geometry says where their cells look;
from that follow the taps of each bilinear kernel and every crop. Layers bear the names of the released nets:
``score_pool4`` scores the feature of stride 2^4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.geometry import IMAGE, AxisMap, GeometryError, Window, bilinear_window
from fullconv.models.trace import Trace
from fullconv.models.upsample import Upsample


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

    def covered(pixels: int, after: int) -> bool:
        sizes = trace.sizes(before + pixels + after)
        if min(sizes.values()) < 1:
            return False
        scores = sizes[features[0]]
        for join, skip in zip(joins, [*(sizes[name] for name in features[1:]), pixels], strict=True):
            scores = join.size(scores, skip)
        return scores >= pixels

    for after in range(2 * period + 1):
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


class FCN(nn.Module):
    """A fully convolutional network: (N, C, H, W), the net's own input, to logits (N, K, H, W), for any H and W from
    1 up.

    backbone: a graph that gives a tuple of features, coarsest first: the input of the class scores, then the skips.
    features: the names of those features in `trace`, which is the walk of the backbone.
    upsample: ``fixed``, ``learn-intermediate`` or ``learn-all`` (which transposed convolutions are learned).
    """

    def __init__(
        self, backbone: fx.GraphModule, trace: Trace, features: Sequence[str], num_classes: int, upsample: str = "fixed"
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.trace = trace
        self.features = tuple(features)
        self.num_classes = num_classes
        self.margin = least_margin(trace, features)
        grids = [trace[name].axis for name in features]
        self.joins = plan_joins([AxisMap(grid.stride, grid.start - self.margin.before, grid.field) for grid in grids])
        self.score_names = ["score_fr", *(f"score_pool{_power(grid)}" for grid in grids[1:])]
        self.upscore_names = _upscore_names(grids)
        for score, feature in zip(self.score_names, features, strict=True):
            self.add_module(score, _zero_score(trace[feature].channels, num_classes))
        for upscore, join in zip(self.upscore_names, self.joins, strict=True):
            learned = upsample == "learn-all" or (upsample == "learn-intermediate" and join is not self.joins[-1])
            self.add_module(upscore, Upsample(num_classes, join.window, learned))

    @property
    def stride(self) -> int:
        """The stride of the finest scores: 8 for FCN-8s."""
        return int(self.trace[self.features[-1]].axis.stride)

    def forward(self, image: Tensor) -> Tensor:
        """Logits at the size of the image."""
        height, width = image.shape[2:]
        (top, bottom), (left, right) = self.margin.of(height), self.margin.of(width)
        features = self.backbone(F.pad(image, (left, right, top, bottom)) if top or bottom or left or right else image)
        scores = self.get_submodule(self.score_names[0])(features[0])
        for join, upscore, score, feature in zip(
            self.joins, self.upscore_names, self.score_names[1:], features[1:], strict=False
        ):
            skip = self.get_submodule(score)(feature)
            rows, columns = (join.size(s, f) for s, f in zip(scores.shape[2:], skip.shape[2:], strict=True))
            upsampled = self.get_submodule(upscore)(scores, join.crop_scores, rows, columns)
            scores = upsampled + crop(skip, join.crop_skip, rows, columns)
        return self.get_submodule(self.upscore_names[-1])(scores, self.joins[-1].crop_scores, height, width)


def crop(x: Tensor, offset: int, height: int, width: int) -> Tensor:
    """The cells from `offset` on, on both axes, to the given size."""
    return x[:, :, offset : offset + height, offset : offset + width]


def _zero_score(channels: int | None, num_classes: int) -> nn.Conv2d:
    """A 1x1 scoring layer that starts at zero (section 4.1), so a new skip changes nothing until it is trained."""
    if channels is None:
        raise GeometryError("a feature with an unknown number of channels cannot be scored")
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _power(grid: AxisMap) -> int:
    return int(grid.stride).bit_length() - 1


def _upscore_names(grids: Sequence[AxisMap]) -> list[str]:
    """The released names: upscore (32s); upscore2, upscore16 (16s); upscore2, upscore_pool4, upscore8 (8s)."""
    if len(grids) == 1:
        return ["upscore"]
    inner = ["upscore2", *(f"upscore_pool{_power(grid)}" for grid in grids[1:-1])]
    return [*inner, f"upscore{int(grids[-1].stride)}"]
