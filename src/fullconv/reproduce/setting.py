"""What a study works with: data, weights to begin from, and a budget of minutes that everything has to fit in."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullconv.config import CONVENTIONS, InputConvention, ModelConfig, TrainConfig
from fullconv.data.dataset import Dataset, Subset
from fullconv.datasets.open_dataset import default_splits, open_dataset
from fullconv.datasets.synthetic.digits import Digits
from fullconv.errors import UsageError
from fullconv.models.build import build_classifier
from fullconv.models.convolutionalize import convolutionalize
from fullconv.reproduce.demo import Kept, Settings, SingleDigits
from fullconv.reproduce.result import Say
from fullconv.training.loop import Record, State, fit
from fullconv.weights import checkpoint

MOST_STEPS = 100_000


@dataclass(frozen=True)
class Setting:
    """Everything that decides the numbers of a study.

    name: of the data. train, validation: its splits. model: the net, whatever its stride. training: how it is trained;
    studies change single settings of it. start: the tensors of a classifier; None for random ones.
    budget: minutes for the whole study, from `began` on (seconds of `time.perf_counter`); the training of a classifier
    counts. seed: of everything random. steps: the number of steps of each training; chosen for the budget if not given.
    scored: validation images at most. image: side of the image that times are measured on, in pixels. rounds: how often
    a time is measured, at most. width: factor on the channels of the nets whose times are measured.
    """

    name: str
    train: Dataset
    validation: Dataset
    model: ModelConfig
    training: TrainConfig
    input: InputConvention
    start: Mapping[str, Tensor] | None = None
    budget: float = 10.0
    seed: int = 0
    steps: int | None = None
    scored: int = 200
    image: int = 500
    rounds: int = 5
    width: float = 1.0
    notes: tuple[str, ...] = ()
    began: float = field(default_factory=time.perf_counter, compare=False)

    def left(self) -> float:
        """Seconds of the budget that are left; 0 when it is spent."""
        return max(0.0, 60 * self.budget - (time.perf_counter() - self.began))

    def facts(self) -> dict[str, Any]:
        """The settings as plain values for a result."""
        return {
            "budget_minutes": self.budget,
            "seed": self.seed,
            "backbone": self.model.backbone,
            "width": self.model.width,
            "batch_size": self.training.batch_size,
            "lr": self.training.lr,
            "schedule": self.training.schedule,
            "training_images": len(self.train),
            "begins_from": "random weights" if self.start is None else "a classifier",
        }


def part(dataset: Dataset, count: int, seed: int) -> Subset:
    """Return the first `count` samples of an order that `seed` decides: a smaller part is part of a larger one."""
    return Subset(dataset, np.sort(np.random.default_rng([seed, len(dataset)]).permutation(len(dataset))[:count]))


def affordable(seconds: float, costs: Mapping[str, float], least: int = 2) -> int:
    """How many steps each of several trainings may have, so that all of them together take at most so many seconds;
    `least` where even that is more. costs: seconds of one step of each training.

    >>> affordable(60.0, {"FCN-32s": 0.125, "FCN-16s": 0.25}), affordable(0.0, {"FCN-32s": 0.125})
    (160, 2)
    """
    one_of_each = max(sum(costs.values()), 1e-9)
    return max(least, min(MOST_STEPS, int(seconds / one_of_each)))


def open_setting(
    data: str,
    file: Path | None = None,
    convention: str | None = None,
    backbone: str | None = None,
    *,
    budget: float = 10.0,
    seed: int = 0,
    trains: bool = True,
    say: Say = print,
) -> Setting:
    """The setting for data by its name. Of ``digits``, where a study trains and no weights are given, a classifier is
    trained first, within the budget, as `fullconv.reproduce.demo` does.

    file: weights of a classifier. convention: the input that plain weights want, by name. backbone: the net that plain
    weights are of (vgg16 if not given), or the one that begins from random weights (mobilenet_v2).
    Raises `UsageError` where there is no validation split, or the weights are no classifier's.
    """
    began = time.perf_counter()
    if not budget > 0:
        raise UsageError(f"--budget is {budget:g}; give minutes, such as 10")
    if file is None and convention is not None:
        raise UsageError(f"--input {convention}: it belongs to weights; add --weights, or leave it out")
    train, validation = _splits(data, budget)
    demo = Settings()
    if data == "digits" and file is None and backbone is None:
        notes: tuple[str, ...] = ()
        start = _single_digits(demo, 0.3 * 60 * budget, seed, say) if trains else None
        model, used = demo.model, CONVENTIONS["rgb128"]
    else:
        model, used, start, notes = _given(file, convention, backbone)
    learned_anew = data == "digits" and file is None
    training = (
        TrainConfig(batch_size=8, lr=0.05, warmup=10, freeze_bn=False, workers=0, seed=seed)
        if learned_anew
        else TrainConfig(batch_size=2, lr=0.004, warmup=10, workers=0 if data == "digits" else None, seed=seed)
    )
    return Setting(
        data, train, validation, model, training, used, start, budget=budget, seed=seed, notes=notes, began=began
    )


def _splits(data: str, budget: float) -> tuple[Dataset, Dataset]:
    """Training and validation split. Of digits as many scenes as a budget has time for, at most the demo's."""
    if data == "digits":
        scenes = min(Settings().scenes, max(64, int(300 * budget)))
        size = Settings().size
        return Kept(Digits("train", size, scenes)), Kept(Digits("val", size))
    train, validation = default_splits(data)
    if validation is None:
        raise UsageError(f"{data}: it has no split to validate on; add a folder val")
    return open_dataset(data, train), open_dataset(data, validation)


def _given(
    file: Path | None, convention: str | None, backbone: str | None
) -> tuple[ModelConfig, InputConvention, Mapping[str, Tensor] | None, tuple[str, ...]]:
    """Net, input, tensors and notes for weights in a file, or for none."""
    if file is None:
        model = ModelConfig(backbone or "mobilenet_v2")
        note = f"{model.backbone} begins from random weights; the paper begins from a classifier of ImageNet."
        return model, CONVENTIONS["torchvision"], None, (note,)
    tensors, header = checkpoint.load(file)
    if header is None:
        if convention is None:
            raise UsageError(f"{file}: it does not say what input it wants; add --input caffe, torchvision or rgb128")
        return ModelConfig(backbone or "vgg16"), InputConvention.named(convention), tensors, ()
    if header.kind != "classifier":
        raise UsageError(f"{file}: it holds a trained FCN; give a classifier, which the studies begin from")
    if convention is not None and InputConvention.named(convention) != header.input:
        raise UsageError(f"--input {convention}: {file} says itself what it wants; leave --input out")
    if backbone is not None and backbone != header.model.backbone:
        raise UsageError(f"--backbone {backbone}: {file} is of {header.model.backbone}; leave --backbone out")
    return header.model, header.input, tensors, ()


def _single_digits(settings: Settings, seconds: float, seed: int, say: Say) -> Mapping[str, Tensor]:
    """A classifier of single digits, trained in its dense form for so many seconds, at most as long as the demo's."""
    say("training a classifier of single digits to begin from ...")
    size = settings.model.native_size or 96
    digits = Kept(SingleDigits("train", size, settings.crops))

    def trained(steps: int, seed: int) -> tuple[Mapping[str, Tensor], list[Record]]:
        config = replace(settings.classifier, steps=steps, warmup=min(20, steps // 4), seed=seed, workers=0)
        torch.manual_seed(seed)
        dense, _ = convolutionalize(build_classifier(settings.model, classes=len(digits.labels)), size)
        state = State.of(dense, config)
        records = list(fit(state, digits, config, CONVENTIONS["rgb128"], transform=lambda sample, _: sample))
        return dense.state_dict(), records

    tried = trained(3, seed + 1000)[1]
    cost = statistics.mean(record.seconds for record in tried[1:])
    steps = min(settings.classifier.steps or 1, affordable(seconds, {"classifier": cost}, least=4))
    tensors, records = trained(steps, seed)
    say(f"classifier: {steps:,} steps, loss {records[-1].loss:.2f}")
    return tensors
