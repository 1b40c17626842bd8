"""Appendix A: the mean IU of the truth itself, brought down by a factor and up again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

from fullconv.evaluation.upper_bounds import FACTORS, upper_bounds
from fullconv.reproduce.plots import Panel, lines
from fullconv.reproduce.result import Result, Row, Say, beside
from fullconv.reproduce.setting import Setting, part

COLUMNS = {"mean IU": "percent", "pixel acc.": "percent"}

STRIDE_8 = 90.0
"""Mean IU in percent that cells of 8 pixels must allow for the verdict to call them no obstacle."""


def verdict(rows: Sequence[Row]) -> str:
    """Whether the bound rises as the cells get finer, and what is left at a factor of 8."""
    coarse_to_fine = sorted(rows, key=lambda row: -int(row.name))
    values = [row["mean IU"] for row in coarse_to_fine]
    rises = all(fine >= coarse for coarse, fine in pairwise(values))
    first = "The bound rises as the cells get finer, as in the paper" if rises else (
        "The bound does not rise steadily as the cells get finer, unlike the paper"
    )  # fmt: skip
    eight = next((row["mean IU"] for row in rows if row.name == "8"), None)
    if eight is None:
        return first + "."
    claim = (
        "cells of 8 pixels are no obstacle to good scores, as the paper says" if eight >= STRIDE_8
        else "cells of 8 pixels are an obstacle on this data, unlike in the paper"
    )  # fmt: skip
    return f"{first}; at a factor of 8 it is {eight:.1f}: {claim} ({STRIDE_8:g} or more counts as no obstacle)."


def run(setting: Setting, say: Say) -> Result:
    """Score the coarse truth of as many validation labels as half of the budget allows."""
    if setting.steps is None:
        tried = part(setting.validation, 2, setting.seed + 1)
        began = time.perf_counter()
        upper_bounds(tried)
        each = (time.perf_counter() - began) / max(1, len(tried))
        count = max(2, int(0.5 * setting.left() / max(each, 1e-9)))
    else:
        count = setting.scored
    some = part(setting.validation, count, setting.seed)
    say(f"bringing {len(some):,} labels down and up ...")
    found = upper_bounds(some)
    rows = tuple(
        Row(
            str(factor),
            {"mean IU": _percent(found[factor].mean_iu), "pixel acc.": _percent(found[factor].pixel_accuracy)},
            beside(str(factor), paper="upper bounds"),
        )
        for factor in FACTORS
    )
    here = [row["mean IU"] for row in rows]
    printed = [row.paper["paper"]["mean IU"].value for row in rows]
    panel = Panel(
        "mean IU, percent",
        "factor",
        {"here": (FACTORS, here), "paper": (FACTORS, printed)},
        dots=True,
        logarithmic=True,
    )
    return Result(
        "upper-bounds",
        "Appendix A: coarse predictions do not limit mean IU much.",
        setting.name,
        COLUMNS,
        rows,
        verdict(rows),
        {"budget_minutes": setting.budget, "seed": setting.seed, "scored_images": len(some)},
        notes=(
            "Each cell has the class of most of its pixels; the paper does not say how it brings the truth down.",
            "The paper's are of PASCAL VOC 2011 val.",
        ),
        figure=lines([panel], height=320),
    )


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
