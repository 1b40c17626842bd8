"""Studies of section 4.3 that train one net in several ways and compare the four numbers.

Augmentation: mirror images, and shifts by up to 32 pixels. Class balancing: weights for the classes in the loss, and
images of rare classes drawn more often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fullconv.config import TrainConfig
from fullconv.data.dataset import Dataset
from fullconv.reproduce.learning import StudyPlan, learn, plan, scored
from fullconv.reproduce.paper_tables import FOUR, lookup
from fullconv.reproduce.plots import bars
from fullconv.reproduce.result import NOTICEABLE, Result, Row, Say, compared, four, too_little
from fullconv.reproduce.setting import Setting, part
from fullconv.training.sampling import pixel_counts

STRIDE = 16
"""Of the net that is trained: FCN-16s, directly from the classifier."""

PAPER_JITTER, PAPER_SIDE = 32, 500
"""The greatest shift that the paper tried, and the longer side of its images, in pixels."""

MOST = 1000
"""Training samples at most: drawing by class needs to look at every label."""


def rows_of(
    setting: Setting, ways: Mapping[str, TrainConfig], say: Say, data: Dataset | None = None
) -> tuple[tuple[Row, ...], StudyPlan]:
    """The four numbers of each way of training, each for equally many steps; data: other training samples."""
    planned = plan(setting, {name: (STRIDE, config) for name, config in ways.items()}, say)
    rows = []
    for name, config in ways.items():
        say(f"training: {name} ...")
        learned = learn(setting, STRIDE, config, planned.steps, setting.start, data)
        rows.append(Row(name, four(scored(learned, planned))))
    return tuple(rows), planned


def verdict(rows: Sequence[Row], claim: str) -> str:
    """Which ways help or hurt the first of them in mean IU; the paper's `claim` is that none helps."""
    if (nothing := too_little(rows)) is not None:
        return nothing
    plain, *others = rows
    words = {1: "is better than", 0: "makes no difference to", -1: "is worse than"}
    found = {row.name: compared(row.name, row["mean IU"], plain.name, plain["mean IU"]) for row in others}
    said = "; ".join(
        f"{row.name} {words[found[row.name]]} {plain.name} ({row['mean IU'] - plain['mean IU']:+.1f} points)"
        for row in others
    )
    agrees = "unlike" if any(sign > 0 for sign in found.values()) else "as in"
    return f"{said}: {agrees} the paper, {claim}. Less than {NOTICEABLE:g} point of mean IU counts as no difference."


def result(
    study: str,
    claim: str,
    short: str,
    setting: Setting,
    rows: tuple[Row, ...],
    planned: StudyPlan,
    notes: tuple[str, ...],
    **facts: Any,
) -> Result:
    """The rows as a whole study. short: the claim as the verdict says it."""
    return Result(
        study,
        claim,
        setting.name,
        FOUR,
        rows,
        verdict(rows, short),
        {**setting.facts(), **planned.facts(), "stride": STRIDE, **facts},
        notes=(*setting.notes, *notes, "The paper prints no numbers for these runs."),
        figure=bars(rows, "mean IU", "percent"),
    )


def jitter_for(height: int, width: int) -> int:
    """The paper's shift for images of another size: the same part of the longer side, at least 1 pixel.

    >>> jitter_for(375, 500), jitter_for(192, 192)
    (32, 12)
    """
    return max(1, round(PAPER_JITTER * max(height, width) / PAPER_SIDE))


def run_augmentation(setting: Setting, say: Say) -> Result:
    """Train without augmentation, with mirror images, and with both."""
    height, width = setting.train[0].image.shape[:2]
    jitter = jitter_for(height, width)
    plain = setting.training
    ways = {
        "no augmentation": plain,
        "mirror": replace(plain, flip=True),
        "mirror and jitter": replace(plain, flip=True, jitter=jitter),
    }
    rows, planned = rows_of(setting, ways, say)
    notes: tuple[str, ...] = (
        f"Jitter of up to {jitter} pixels: the paper's {PAPER_JITTER}, scaled to images of {height}x{width}.",
    )
    if setting.name == "digits":
        notes += ("A mirrored digit is mostly no digit, unlike a mirrored photograph.",)
    claim = "Section 4.3: mirroring and jittering the training data gives no noticeable improvement."
    short = "which saw no noticeable gain"
    return result("augmentation", claim, short, setting, rows, planned, notes, jitter=jitter)


def run_balancing(setting: Setting, say: Say) -> Result:
    """Train without balancing, with two kinds of weights, and with balanced drawing."""
    plain = setting.training
    ways = {
        "no balancing": plain,
        "inverse weights": replace(plain, class_weights="inverse"),
        "median weights": replace(plain, class_weights="median"),
        "balanced drawing": replace(plain, balance=True),
    }
    few = part(setting.train, min(MOST, max(64, int(100 * setting.budget))), setting.seed)
    counts = pixel_counts(few).sum(0)
    background = round(100 * float(counts[0]) / max(1, int(counts.sum())), 1)
    printed = lookup("balance", "data", "background")
    rows, planned = rows_of(replace(setting, train=few), ways, say)
    name = setting.train.labels.names[0]
    note = f"Class '{name}' has {background:g} % of the pixels; on PASCAL VOC background has about {printed} %."
    claim = "Section 4.3: balancing the classes by weights or by sampling is not needed, though most is background."
    short = "where balancing is not needed"
    return result("balancing", claim, short, setting, rows, planned, (note,), training_images=len(few))
