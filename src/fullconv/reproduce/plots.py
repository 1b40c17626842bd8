"""The figures of the studies: lines in panels, and bars of what was measured beside those of the paper.

They have the ink of `fullconv.reporting.figures`: a transparent ground, and gray that is legible on white and on black.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fullconv.reporting.figures import BLUE, FAINT, ORANGE, new_figure, to_png
from fullconv.reporting.pictures import INK
from fullconv.reproduce.paper_tables import UNVERIFIED, Entry
from fullconv.reproduce.result import Row

COLOURS = (BLUE, ORANGE, "#3d9970", "#a45fc0", "#c0504d")

Points = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its lines by name, each x and y, and what stands at the axes."""

    title: str
    across: str
    lines: Mapping[str, Points]
    dots: bool = False
    logarithmic: bool = False


def lines(panels: Sequence[Panel], width: int = 640, height: int = 250) -> bytes:
    """Panels below each other, the lines of one name in one colour: a PNG."""
    figure = new_figure(width, len(panels) * height)
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    for number, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(len(panels), 1, number)
        _quiet(axes, panel.title)
        for name, (x, y) in panel.lines.items():
            colour = COLOURS[names.index(name) % len(COLOURS)]
            axes.plot(x, y, color=colour, linewidth=1.6, label=name, marker="o" if panel.dots else None, markersize=4)
        if panel.logarithmic:
            axes.set_xscale("log", base=2)
            ticks = sorted({value for x, _ in panel.lines.values() for value in x})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        axes.set_xlabel(panel.across, color=INK)
        axes.legend(frameon=False, labelcolor=INK, fontsize=9.5)
    figure.tight_layout()
    return to_png(figure)


def bars(rows: Sequence[Row], column: str, unit: str, label: str = "paper", width: int = 640) -> bytes:
    """A column of each row as a bar, with that of the paper beside it: a PNG. What is missing has no bar, and an
    unverified number says so.
    """
    figure = new_figure(width, 300)
    axes = figure.add_subplot()
    _quiet(axes, f"{column}, {unit}" if unit else column)
    printed: list[Entry | None] = [row.paper.get(label, {}).get(column) for row in rows]
    series: list[tuple[str, str, float, list[tuple[float | None, str]]]] = [
        ("here", BLUE, -0.2, [(row.measured.get(column), "") for row in rows]),
        (label, ORANGE, 0.2,
         [(None, "") if entry is None else (entry.value, f"\n{UNVERIFIED}" if entry.unverified else "")
          for entry in printed]),
    ]  # fmt: skip
    for name, colour, offset, cells in series:
        known = [(place + offset, value, mark) for place, (value, mark) in enumerate(cells) if value is not None]
        if not known:
            continue
        axes.bar([x for x, _, _ in known], [value for _, value, _ in known], 0.36, color=colour, label=name)
        for x, value, mark in known:
            axes.annotate(
                f"{value:.3g}{mark}", (x, value), (0, 3), textcoords="offset points", ha="center", color=INK, fontsize=9
            )
    axes.set_xticks(range(len(rows)), [row.name for row in rows], fontsize=9.5)
    axes.margins(y=0.15)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=INK, fontsize=9.5, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    return to_png(figure)


def _quiet(axes: Any, title: str) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=INK, labelcolor=INK, labelsize=10, length=0, pad=5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_title(title, loc="left", color=INK, fontsize=11, pad=5)
