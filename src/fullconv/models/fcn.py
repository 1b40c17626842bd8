"""The fully convolutional network (section 4): trunk, scores, upsampling, skips, crop. FCN-32s, FCN-16s, FCN-8s on
any backbone.

Nothing here knows a backbone. The trunk gives features, coarsest first; the geometry says where their cells look;
from that follow the taps of each bilinear kernel and every crop. Layers bear the names of the released nets:
``score_pool4`` scores the feature of stride 2^4.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.config import ModelConfig
from fullconv.geometry import AxisMap, GeometryError
from fullconv.models.alignment import Join, least_margin, plan_joins
from fullconv.models.trace import Trace
from fullconv.models.upsample import Upsample

STREAMS = ("color", "hha")
"""The two streams of late fusion, by the names of the released NYUDv2 net: one for the image, one for the depth."""

TASKS = {"semantic": "sem", "geometric": "geo"}
"""The two tasks of SIFT Flow, and how the layers of their heads are told apart in the released nets."""


@dataclass(frozen=True)
class Score:
    """A head step: score one feature by a 1x1 convolution in every stream, and average or sum the streams.

    level: the index of the feature, 0 for the coarsest; its values are multiplied by ``skip_scale ** level`` first.
    """

    name: str
    feature: str
    level: int


@dataclass(frozen=True)
class Upscore:
    """A head step: upsample the scores `source` and crop them to the grid of `onto`, other scores or ``image``."""

    name: str
    source: str
    onto: str
    join: Join


@dataclass(frozen=True)
class Fuse:
    """A head step: crop the scores `skip` of a finer feature to the upsampled ones and add, or take the maximum."""

    name: str
    upscore: str
    skip: str
    join: Join


HeadStep = Score | Upscore | Fuse


class FCN(nn.Module):
    """A fully convolutional network: (N, C, H, W), the net's own input, to logits (N, K, H, W), for any H and W from
    1 up.

    backbone: a graph that gives a tuple of features, coarsest first: the input of the class scores, then the skips.
    features: the names of those features in `trace`, which is the walk of the backbone.
    config: the settings of the head: classes, upsampling, how skips are scaled and fused.

    Two heads (SIFT Flow) give a dict of logits, one for each task. Late fusion (NYUDv2) takes the channels of both
    its streams, one after the other, and fuses the scores of each stride.
    """

    def __init__(self, backbone: fx.GraphModule, trace: Trace, features: Sequence[str], config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.trace = trace
        self.features = tuple(features)
        self.num_classes = config.num_classes
        self.fuse = {"sum": operator.add, "max": torch.maximum}[config.fuse]
        self.stream_weight = 0.5 if config.late_fusion == "average" else 1.0
        self.streams = ("",) if config.late_fusion == "none" else tuple(f"_{stream}" for stream in STREAMS)
        self.tasks = {"semantic": ""} if not config.geometric_classes else {t: f"_{end}" for t, end in TASKS.items()}
        self.classes = dict(zip(self.tasks, (config.num_classes, config.geometric_classes or 0), strict=False))

        grids = [trace[name].axis for name in features]
        self.margin = least_margin(trace, features)
        self.joins = plan_joins([AxisMap(grid.stride, grid.start - self.margin.before, grid.field) for grid in grids])
        self.score_names, self.upscore_names = _layer_names(grids, whole=config.levels == "all")
        self.head = self._head_steps()

        for number, stream in enumerate(self.streams):
            self.add_module(f"backbone{stream}", copy.deepcopy(backbone) if number else backbone)
        for task, end in self.tasks.items():
            outputs = self.classes[task]
            for score, feature in zip(self.score_names, features, strict=True):
                for stream in self.streams:
                    self.add_module(f"{score}{stream}{end}", _zero_score(trace[feature].channels, outputs))
            for upscore, join in zip(self.upscore_names, self.joins, strict=True):
                learned = config.upsample == "learn-all" or (
                    config.upsample == "learn-intermediate" and join is not self.joins[-1]
                )
                self.add_module(f"{upscore}{end}", Upsample(outputs, join.window, learned))

    @property
    def stride(self) -> int:
        """The stride of the finest scores: 8 for FCN-8s."""
        return int(self.trace[self.features[-1]].axis.stride)

    @property
    def scores(self) -> str:
        """The name of the head step that gives the finest scores, those of `coarse`."""
        return self.head[-2].name

    @property
    def learned_end(self) -> bool:
        """Whether the last upsampling is learned, and so no bilinear one."""
        return self.config.upsample == "learn-all"

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        """Logits at the size of the image; for two heads, a dict of them by task."""
        height, width = image.shape[2:]
        logits = {task: self.to_image(task, scores, height, width) for task, scores in self.coarse(image).items()}
        return logits if len(logits) > 1 else logits["semantic"]

    def with_trunks(self, change: Callable[[fx.GraphModule], nn.Module]) -> FCN:
        """A copy with changed trunks, which give the same features; all else is shared."""
        found = copy.copy(self)
        found._modules = dict(self._modules)
        for stream in self.streams:
            trunk = self.get_submodule(f"backbone{stream}")
            assert isinstance(trunk, fx.GraphModule)
            found._modules[f"backbone{stream}"] = change(trunk)
        return found

    def coarse(self, image: Tensor) -> dict[str, Tensor]:
        """The fused scores at the net's stride by task: all but the last upsampling, which `to_image` is."""
        height, width = image.shape[2:]
        (top, bottom), (left, right) = self.margin.of(height), self.margin.of(width)
        padded = F.pad(image, (left, right, top, bottom)) if top or bottom or left or right else image
        parts = padded.chunk(len(self.streams), 1) if len(self.streams) > 1 else (padded,)
        streams = [self.get_submodule(f"backbone{s}")(part) for s, part in zip(self.streams, parts, strict=True)]
        return {task: self.decode(streams, end) for task, end in self.tasks.items()}

    def _head_steps(self) -> tuple[HeadStep, ...]:
        """Return the steps of the head in order: all that `forward` does behind the trunk, for one task.

        The coarsest feature is scored; each finer one is scored, the scores so far are upsampled and cropped onto it,
        and both are fused; the last step brings the scores to the image (section 4.2). Every result is used once.
        """
        scores = self.score_names[0]
        steps: list[HeadStep] = [Score(scores, self.features[0], 0)]
        for level, skip in enumerate(self.score_names[1:], start=1):
            join, upscore, fused = self.joins[level - 1], self.upscore_names[level - 1], skip.replace("score", "fuse")
            steps += [
                Score(skip, self.features[level], level),
                Upscore(upscore, scores, skip, join),
                Fuse(fused, upscore, skip, join),
            ]
            scores = fused
        return *steps, Upscore(self.upscore_names[-1], scores, "image", self.joins[-1])

    def head_sizes(self, features: Mapping[str, int], pixels: int) -> dict[str, int]:
        """Return the size of every head step's result on one axis, by name, from the sizes of the trunk's features
        (`Trace.sizes`) and of the image without its margin.
        """
        sizes = {"image": pixels}
        for step in self.head:
            if isinstance(step, Score):
                sizes[step.name] = features[step.feature]
            elif isinstance(step, Upscore):
                sizes[step.name] = step.join.size(sizes[step.source], sizes[step.onto])
            else:
                sizes[step.name] = sizes[step.upscore]
        return sizes

    def decode(self, streams: Sequence[tuple[Tensor, ...]], task: str) -> Tensor:
        """Run all head steps but the last: from the features of each stream to the finest scores of one task."""
        values: dict[str, Tensor] = {}
        for step in self.head[:-1]:
            if isinstance(step, Score):
                values[step.name] = self.score(step, [features[step.level] for features in streams], task)
            elif isinstance(step, Upscore):
                rows, columns = map(step.join.size, values[step.source].shape[2:], values[step.onto].shape[2:])
                values[step.name] = self.upsample(step, values.pop(step.source), rows, columns, task)
            else:
                values[step.name] = self.fused(step, values.pop(step.upscore), values.pop(step.skip))
        return values.popitem()[1]

    def to_image(self, task: str, scores: Tensor, height: int, width: int) -> Tensor:
        """The logits of one task from its finest scores, at the size of the image."""
        step = self.head[-1]
        assert isinstance(step, Upscore)
        return self.upsample(step, scores, height, width, self.tasks[task])

    def score(self, step: Score, features: Sequence[Tensor], task: str) -> Tensor:
        """The class scores of one feature; of two streams, their average (as released) or sum (as printed).

        The feature of the n-th skip is multiplied by ``skip_scale ** n`` first: the at-once net's 0.01 and 0.0001.
        """
        scale = self.config.skip_scale**step.level
        found: list[Tensor] = []
        for stream, feature in zip(self.streams, features, strict=True):
            scaled = feature * scale if scale != 1 else feature
            found.append(self.get_submodule(f"{step.name}{stream}{task}")(scaled))
        return found[0] if len(found) == 1 else self.stream_weight * found[0] + self.stream_weight * found[1]

    def fused(self, step: Fuse, upsampled: Tensor, skip: Tensor) -> Tensor:
        """The sum, or the maximum, of upsampled scores and those of a finer feature, cropped to their size."""
        fused: Tensor = self.fuse(upsampled, crop(skip, step.join.crop_skip, *upsampled.shape[2:]))
        return fused

    def upsample(self, step: Upscore, scores: Tensor, height: int, width: int, task: str) -> Tensor:
        """Scores on a finer grid, cropped to `height` x `width` cells."""
        upscores: Tensor = self.get_submodule(f"{step.name}{task}")(scores, step.join.crop_scores, height, width)
        return upscores


def crop(x: Tensor, offset: int, height: int, width: int) -> Tensor:
    """The cells from `offset` on, on both axes, to the given size."""
    return x[:, :, offset : offset + height, offset : offset + width]


def _zero_score(channels: int | None, num_classes: int) -> nn.Conv2d:
    """A 1x1 scoring layer that starts at zero (section 4.3), so a new skip changes nothing until it is trained."""
    if channels is None:
        raise GeometryError("a feature with an unknown number of channels cannot be scored")
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _power(grid: AxisMap) -> int:
    return int(grid.stride).bit_length() - 1


def _layer_names(grids: Sequence[AxisMap], whole: bool) -> tuple[list[str], list[str]]:
    """The released names: score_fr, score_pool4, score_pool3; upscore (32s); upscore2, upscore16 (16s); upscore2,
    upscore_pool4, upscore8 (8s). A net that scores one skip alone (not `whole`) has that skip's.
    """
    if not whole:
        return [f"score_pool{_power(grids[0])}"], [f"upscore{int(grids[0].stride)}"]
    scores = ["score_fr", *(f"score_pool{_power(grid)}" for grid in grids[1:])]
    if len(grids) == 1:
        return scores, ["upscore"]
    inner = ["upscore2", *(f"upscore_pool{_power(grid)}" for grid in grids[1:-1])]
    return scores, [*inner, f"upscore{int(grids[-1].stride)}"]
