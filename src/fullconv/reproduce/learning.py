"""Trainings that are compared: the same net, data, seed and number of steps, one setting changed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fullconv.config import TrainConfig
from fullconv.data.dataset import Dataset
from fullconv.evaluation.evaluate import evaluate
from fullconv.inference.predictor import Predictor
from fullconv.metrics import Scores
from fullconv.models.build import build
from fullconv.reproduce.result import Say
from fullconv.reproduce.setting import Setting, affordable, part
from fullconv.training.adapt import input_of, suited
from fullconv.training.loop import State, fit
from fullconv.weights.checkpoint import Header
from fullconv.weights.transplant import transplant

TRIED = 3
"""Steps that the speed is measured on; the first of them is not counted."""

SCORING, RESERVE = 0.2, 0.1
"""The shares of what is left of the budget that evaluation may take, and that are kept for all else."""


@dataclass(frozen=True)
class Learned:
    """A trained net and its way: the loss and the seconds of each step, and the images of a step."""

    predictor: Predictor
    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    images: int

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The weights, for the next net to begin from."""
        return self.predictor.net.state_dict()

    @property
    def last_loss(self) -> float:
        """The mean loss of the last fifth of the steps."""
        count = max(1, len(self.losses) // 5)
        return sum(self.losses[-count:]) / count

    @property
    def images_per_second(self) -> float:
        """Images processed a second; the first step, which is slow, is left out where there are others."""
        counted = self.seconds[1:] or self.seconds
        return self.images * len(counted) / max(sum(counted), 1e-9)


@dataclass(frozen=True)
class StudyPlan:
    """How long to train, and what to score on (None: nothing is scored). speeds: seconds of a step of each training."""

    steps: int
    scored: Dataset | None
    speeds: Mapping[str, float]

    def facts(self) -> dict[str, Any]:
        """Plain values for a result."""
        speeds = {name: round(seconds, 4) for name, seconds in self.speeds.items()}
        count = None if self.scored is None else len(self.scored)
        return {"steps": self.steps, "scored_images": count, "seconds_per_step_tried": speeds}


def learn(
    setting: Setting,
    stride: int,
    config: TrainConfig,
    steps: int,
    start: Mapping[str, Tensor] | None,
    data: Dataset | None = None,
) -> Learned:
    """Train an FCN of a stride for some steps, from tensors (a classifier's, or a coarser FCN's) or random weights.

    data: what to train on, the setting's own if not given. Raises `RunError` when the loss is not finite.
    """
    data = setting.train if data is None else data
    config = replace(config, steps=steps, epochs=None, warmup=min(config.warmup, steps // 4))
    if config.freeze_bn is None:
        config = replace(config, freeze_bn=start is not None)
    model = suited(setting.name, data, replace(setting.model, stride=stride))
    convention = input_of(data, setting.input)
    torch.manual_seed(config.seed)
    net = build(model)
    if start is not None:
        transplant(net, start, "the starting weights")
    records = list(fit(State.of(net, config), data, config, convention))
    return Learned(
        Predictor(net, Header(model, data.labels, convention)),
        tuple(record.loss for record in records),
        tuple(record.seconds for record in records),
        records[0].images,
    )


def plan(setting: Setting, runs: Mapping[str, tuple[int, TrainConfig]], say: Say, scores: bool = True) -> StudyPlan:
    """The steps that each of some trainings may have, so that all fit into what is left of the budget: every one is
    tried for `TRIED` steps first, on other samples than it will begin with. runs: stride and settings by name.

    scores: whether each net is scored too. Where the setting says the number of steps, nothing is tried.
    """
    everything = min(len(setting.validation), setting.scored)
    if setting.steps is not None:
        return StudyPlan(setting.steps, part(setting.validation, everything, setting.seed) if scores else None, {})
    say("measuring the speed of a step ...")
    speeds, per_image = {}, 0.0
    for number, (name, (stride, config)) in enumerate(runs.items()):
        elsewhere = replace(config, seed=config.seed + 1000 + number)
        tried = learn(setting, stride, elsewhere, TRIED, setting.start)
        speeds[name] = statistics.mean(tried.seconds[1:])
        if scores:
            began = time.perf_counter()
            tried.predictor(setting.validation[number % len(setting.validation)].image)
            per_image += time.perf_counter() - began
    left = setting.left()
    steps = affordable((1 - SCORING - RESERVE) * left, speeds)
    count = min(everything, max(2, int(SCORING * left / max(per_image, 1e-9))))
    planned = StudyPlan(steps, part(setting.validation, count, setting.seed) if scores else None, speeds)
    say(f"{steps:,} steps for each of {len(runs)} trainings" + (f", scored on {count:,} images" if scores else ""))
    return planned


def scored(learned: Learned, planned: StudyPlan) -> Scores:
    """The four numbers on the planned images."""
    if planned.scored is None:
        raise ValueError("this plan has no images to score on")
    return evaluate(learned.predictor, planned.scored)
