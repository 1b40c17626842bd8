"""Figure 5 and section 4.3, "Patch sampling": training on whole images against a loss over a part of their cells, with
so many more images a step that as many cells count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from fullconv.reporting.figures import running_mean
from fullconv.reproduce.learning import Learned, StudyPlan, learn, plan
from fullconv.reproduce.plots import Panel, lines
from fullconv.reproduce.result import Result, Row, Say
from fullconv.reproduce.setting import Setting

KEPT = {"whole images": 1.0, "50 % of cells": 0.5, "25 % of cells": 0.25}
"""The probability that a cell counts, as in the paper's figure."""

SAME = 0.1
"""Final losses that differ by less than this part of the larger count as the same."""

COLUMNS = {"final loss": "", "images/s": "", "s/step": "s", "time": "s"}


def trained(setting: Setting, say: Say) -> tuple[dict[str, Learned], StudyPlan]:
    """An FCN-32s for each probability, for equally many steps."""
    runs = {name: (32, replace(setting.training, keep=keep)) for name, keep in KEPT.items()}
    planned = plan(setting, runs, say, scores=False)
    nets = {}
    for name, (stride, config) in runs.items():
        say(f"training on {name} ...")
        nets[name] = learn(setting, stride, config, planned.steps, setting.start)
    return nets, planned


def rows_of(nets: dict[str, Learned]) -> tuple[Row, ...]:
    """Final loss, images a second, seconds a step and of the whole training."""
    return tuple(
        Row(
            name,
            {
                "final loss": learned.last_loss,
                "images/s": learned.images_per_second,
                "s/step": learned.images / learned.images_per_second,
                "time": sum(learned.seconds),
            },
        )
        for name, learned in nets.items()
    )


def verdict(rows: Sequence[Row], classes: int) -> str:
    """Whether sampling changes the loss at equal iterations, and what a step of it costs. No verdict where the loss of
    whole images is still more than half of its beginning, log(classes).
    """
    whole, *parts = rows
    if whole["final loss"] > 0.5 * math.log(classes):
        return (
            f"No verdict: the loss of whole images is {whole['final loss']:.2f}, more than half of the "
            f"{math.log(classes):.2f} that it begins at; give a larger --budget."
        )
    said = []
    for part in parts:
        apart = (part["final loss"] - whole["final loss"]) / max(part["final loss"], whole["final loss"], 1e-12)
        much = f"by {100 * abs(apart):.0f} % of the larger"
        loss = (
            "the same loss, as in the paper" if abs(apart) < SAME
            else f"a higher loss ({much}), unlike the paper" if apart > 0
            else f"a lower loss ({much}), unlike the paper"
        )  # fmt: skip
        factor = part["s/step"] / whole["s/step"]
        cost = f"each step takes {factor:.1f} times as long" + (
            ", slower as in the paper" if factor > 1 else ", not slower, unlike the paper"
        )
        said.append(f"{part.name}: after equally many steps {loss}; {cost}")
    return ". ".join(said) + f". Losses within {100 * SAME:.0f} % of each other count as the same."


def figure(nets: dict[str, Learned]) -> bytes:
    """The loss against iterations, images and seconds."""
    loss = {
        name: running_mean(np.array(one.losses), max(1, len(one.losses) // 25)).tolist() for name, one in nets.items()
    }
    steps = {name: (list(range(1, len(y) + 1)), y) for name, y in loss.items()}
    images = {name: ([nets[name].images * x for x in xs], y) for name, (xs, y) in steps.items()}
    seconds = {name: (list(accumulate(nets[name].seconds)), y) for name, y in loss.items()}
    return lines(
        [
            Panel("loss", "iterations", steps),
            Panel("loss", "images processed", images),
            Panel("loss", "seconds", seconds),
        ]
    )


def result(study: str, claim: str, setting: Setting, say: Say) -> Result:
    """The trainings as a result of one of the two studies that they are for."""
    nets, planned = trained(setting, say)
    rows = rows_of(nets)
    note = "The paper shows this as curves without numbers."
    return Result(
        study,
        claim,
        setting.name,
        COLUMNS,
        rows,
        verdict(rows, len(setting.train.labels)),
        {**setting.facts(), **planned.facts(), "images_per_step": {n: one.images for n, one in nets.items()}},
        notes=(*setting.notes, note),
        curves={name: {"loss": list(one.losses), "seconds": list(one.seconds)} for name, one in nets.items()},
        figure=figure(nets),
    )


def run(setting: Setting, say: Say) -> Result:
    """Train and compare final loss and speed."""
    claim = "Section 4.3: sampling patches does not converge faster for equally many iterations, and takes more time."
    return result("sampling", claim, setting, say)


def run_figure5(setting: Setting, say: Say) -> Result:
    """Train as `run` does, for the curves."""
    claim = (
        "Section 4.3, figure 5: whole images converge as sampled patches do by iterations, and faster by images "
        "processed."
    )
    return result("figure5", claim, setting, say)
