"""Draws docs/rarefaction.png: four shifted views interlaced, and the dilated filter that reads one of them.

python docs/pictures/rarefaction.py     # from the root of the repository
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

SIDE = 4
"""Cells of one view on each axis."""

PHASES = {(0, 0): "#8ecae6", (0, 1): "#ffd08a", (1, 0): "#b5dfa8", (1, 1): "#d9c2ea"}
INK = "#22303c"


def grid(axes: Axes, left: float, top: float, cell: float, colours: list[list[str]]) -> None:
    """Coloured cells from (left, top) down and to the right."""
    for i, row in enumerate(colours):
        for j, colour in enumerate(row):
            corner = left + j * cell, top + i * cell
            axes.add_patch(Rectangle(corner, cell, cell, facecolor=colour, edgecolor="white", linewidth=1.6))


def taps(axes: Axes, left: float, top: float, cell: float, apart: int) -> None:
    """The 3x3 taps of a filter on the first cells of a grid, so many cells from each other, and what they span."""
    span = (2 * apart + 1) * cell
    axes.add_patch(Rectangle((left, top), span, span, fill=False, edgecolor=INK, linewidth=2, zorder=3))
    for i in range(3):
        for j in range(3):
            middle = left + (j * apart + 0.5) * cell, top + (i * apart + 0.5) * cell
            axes.add_patch(Circle(middle, 0.16, facecolor=INK, zorder=4))


def say(axes: Axes, x: float, y: float, text: str, size: float = 13, weight: str = "normal") -> None:
    """Words that stand on the line at y, from x on."""
    axes.text(x, y, text, fontsize=size, fontweight=weight, color=INK, ha="left", va="bottom")


def main() -> None:
    """Draw the picture and write it."""
    figure, axes = plt.subplots(figsize=(10, 5.4), dpi=160)
    axes.set(xlim=(-0.3, 25.3), ylim=(13.2, -0.5), aspect="equal")
    axes.axis("off")
    say(axes, 0, 0.5, "Shift-and-stitch: 4 runs at stride 2", 15, "bold")
    for (a, b), colour in PHASES.items():
        left, top = 5.2 * b, 1.8 + 5.2 * a
        say(axes, left, top - 0.1, f"view from ({a}, {b})")
        grid(axes, left, top, 1, [[colour] * SIDE] * SIDE)
    taps(axes, 0, 1.8, 1, apart=1)
    say(axes, 0, 12.4, "The next filter takes 3x3 neighbours of a map.")

    left, top, cell = 14.6, 1.8, 1.15
    axes.add_patch(
        FancyArrowPatch((9.9, 6.4), (14, 6.4), arrowstyle="-|>", mutation_scale=18, color=INK, linewidth=1.6)
    )
    say(axes, 10.4, 6.1, "interlace")
    say(axes, left, 0.5, "The rarefied net: 1 run", 15, "bold")
    say(axes, left, top - 0.1, "stride removed: all four maps at once")
    grid(axes, left, top, cell, [[PHASES[i % 2, j % 2] for j in range(2 * SIDE)] for i in range(2 * SIDE)])
    taps(axes, left, top, cell, apart=2)
    say(axes, left, 12.4, "The same nine values: taps 2 cells apart.")
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99)
    figure.savefig(Path("docs") / "rarefaction.png", facecolor="white")


if __name__ == "__main__":
    main()
