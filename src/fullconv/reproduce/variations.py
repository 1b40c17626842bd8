"""Studies that train one net in several ways and compare the four numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fullconv.config import TrainConfig
from fullconv.data.dataset import Dataset
from fullconv.hardware import machine
from fullconv.reproduce.learning import StudyPlan, learn, plan, scored
from fullconv.reproduce.paper_tables import FOUR
from fullconv.reproduce.plots import bars
from fullconv.reproduce.result import NOTICEABLE, Result, Row, Say, compared, four, too_little
from fullconv.reproduce.setting import Setting

STRIDE = 16
"""Of the net that is trained: FCN-16s, directly from the classifier."""


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
        machine(),
        (*setting.notes, *notes, "The paper prints no numbers for these runs."),
        figure=bars(rows, "mean IU", "percent"),
    )
