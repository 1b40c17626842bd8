"""The fully convolutional network (section 4): FCN-32s, FCN-16s and FCN-8s on any backbone.

The trunk gives features, coarsest first. Each is scored; from where their cells look follow the taps of the bilinear
kernels and the crops. Layers bear the names of the released networks: ``score_pool4`` scores the feature of stride 2^4.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
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
"""The streams of late fusion, for image and depth, as the released NYUDv2 network names them."""

TASKS = {"semantic": "sem", "geometric": "geo"}
"""The two tasks of SIFT Flow, and the ends of the names of their layers in the released networks."""


@dataclass(frozen=True)
class Score:
    """A head step: score a feature by a 1x1 convolution in every stream, and average or sum the streams.

    level: the index of the feature, 0 for the coarsest.
    """

    name: str
    feature: str
    level: int


@dataclass(frozen=True)
class Upscore:
    """A head step: upsample the scores `source` and crop them to the grid of `onto`: other scores, or ``image``."""

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
    """A fully convolutional network: an image (N, C, H, W) of any size from 1x1 up to logits (N, K, H, W).

    The image is the network's own input. With two heads (SIFT Flow) the result is a dict of logits by task. Late fusion
    (NYUDv2) takes the channels of both streams, one after the other, and fuses their scores at every stride.

    Args:
        backbone: A graph that gives a tuple of features, coarsest first: the input of the class scores, then the skips.
        trace: The trace of the backbone.
        features: The names of the features in the trace.
        config: The settings of the head: classes, upsampling, how skips are scaled and fused.
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
        self.joins = plan_joins(grids, self.margin.before)
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
                learned = self.learned_end if join is self.joins[-1] else config.upsample != "fixed"
                self.add_module(f"{upscore}{end}", Upsample(outputs, join.window, learned))

    @property
    def stride(self) -> int:
        """The stride of the finest scores: 8 for FCN-8s."""
        return int(self.trace[self.features[-1]].axis.stride)

    @property
    def scores(self) -> str:
        """The name of the head step that gives the finest scores."""
        return self.head[-2].name

    @property
    def learned_end(self) -> bool:
        """Whether the last upsampling is learned instead of bilinear."""
        return self.config.upsample == "learn-all"

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        """Return logits at the size of the image; with two heads, a dict of them by task."""
        height, width = image.shape[2:]
        logits = {task: self.to_image(task, scores, height, width) for task, scores in self.coarse(image).items()}
        return logits if len(logits) > 1 else logits["semantic"]

    def coarse(self, image: Tensor) -> dict[str, Tensor]:
        """Return the fused scores at the network's stride by task: all but the last upsampling, see `to_image`."""
        height, width = image.shape[2:]
        (top, bottom), (left, right) = self.margin.of(height), self.margin.of(width)
        padded = F.pad(image, (left, right, top, bottom)) if top or bottom or left or right else image
        parts = padded.chunk(len(self.streams), 1) if len(self.streams) > 1 else (padded,)
        streams = [self.get_submodule(f"backbone{s}")(part) for s, part in zip(self.streams, parts, strict=True)]
        return {task: self.decode(streams, end) for task, end in self.tasks.items()}

    def _head_steps(self) -> tuple[HeadStep, ...]:
        """Return the steps of the head in order, for one task; every result is used once.

        The coarsest feature is scored; each finer one is scored, the scores so far are upsampled and cropped onto it,
        and both are fused; the last step brings the scores to the image (section 4.2).
        """
        scores = self.score_names[0]
        steps: list[HeadStep] = [Score(scores, self.features[0], 0)]
        for level, skip in enumerate(self.score_names[1:], start=1):
            join, upscore, fuse = self.joins[level - 1], self.upscore_names[level - 1], skip.replace("score", "fuse")
            steps.append(Score(skip, self.features[level], level))
            steps.append(Upscore(upscore, scores, skip, join))
            steps.append(Fuse(fuse, upscore, skip, join))
            scores = fuse
        return *steps, Upscore(self.upscore_names[-1], scores, "image", self.joins[-1])

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
        """Return the logits of one task from its finest scores, at the size of the image."""
        step = self.head[-1]
        assert isinstance(step, Upscore)
        return self.upsample(step, scores, height, width, self.tasks[task])

    def score(self, step: Score, features: Sequence[Tensor], task: str) -> Tensor:
        """Return the class scores of one feature; of two streams, their average (as released) or sum (as printed).

        The feature of the n-th skip is multiplied by ``skip_scale ** n`` first: the at-once net's 0.01 and 0.0001.
        """
        scale = self.config.skip_scale**step.level
        convs = [self.get_submodule(f"{step.name}{stream}{task}") for stream in self.streams]
        scores: list[Tensor] = [conv(x * scale if scale != 1 else x) for conv, x in zip(convs, features, strict=True)]
        return scores[0] if len(scores) == 1 else self.stream_weight * scores[0] + self.stream_weight * scores[1]

    def fused(self, step: Fuse, upsampled: Tensor, skip: Tensor) -> Tensor:
        """Return the sum or maximum of upsampled scores and a finer feature's scores, cropped to the same cells."""
        start = step.join.crop_skip
        height, width = upsampled.shape[2:]
        fused: Tensor = self.fuse(upsampled, skip[:, :, start : start + height, start : start + width])
        return fused

    def upsample(self, step: Upscore, scores: Tensor, height: int, width: int, task: str) -> Tensor:
        """Return scores on a finer grid, cropped to `height` x `width` cells."""
        upscores: Tensor = self.get_submodule(f"{step.name}{task}")(scores, step.join.crop_scores, height, width)
        return upscores


def _zero_score(channels: int | None, num_classes: int) -> nn.Conv2d:
    """Return a 1x1 layer that starts at zero (section 4.3), so that a new skip changes nothing until it is trained."""
    if channels is None:
        raise GeometryError("a feature with an unknown number of channels cannot be scored")
    layer = nn.Conv2d(channels, num_classes, 1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _layer_names(grids: Sequence[AxisMap], whole: bool) -> tuple[list[str], list[str]]:
    """Return the released names of the score and upsampling layers.

    score_fr, score_pool4, score_pool3; upscore (32s); upscore2, upscore16 (16s); upscore2, upscore_pool4, upscore8
    (8s). A network that scores one skip alone (not `whole`) has that skip's.
    """
    strides = [int(grid.stride) for grid in grids]
    pools = [f"pool{stride.bit_length() - 1}" for stride in strides]
    if not whole:
        return [f"score_{pools[0]}"], [f"upscore{strides[0]}"]
    scores = ["score_fr", *(f"score_{pool}" for pool in pools[1:])]
    if len(grids) == 1:
        return scores, ["upscore"]
    return scores, ["upscore2", *(f"upscore_{pool}" for pool in pools[1:-1]), f"upscore{strides[-1]}"]
