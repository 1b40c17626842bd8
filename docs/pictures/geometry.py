"""Draws docs/geometry.png: one axis of the FCN-8s on VGG16, padded by 100: what its cells see, how its scores meet.

Every number in it is asked of the net.

python docs/pictures/geometry.py [--out FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fullconv.config import ModelConfig
from fullconv.geometry import IMAGE, AxisMap
from fullconv.models.build import PAPER_PADDING, build
from fullconv.models.fcn import FCN

INK, QUIET = "#22303c", "#7b868f"
IMAGE_COLOUR, ZEROS_COLOUR = "#d5dade", "#f2f4f5"
COLOURS = ("#ffd08a", "#8ecae6", "#b5dfa8")
"""Of the scores, coarsest first: stride 32, 16, 8."""

CUT: dict[str, Any] = {"edgecolor": QUIET, "linewidth": 0.9, "linestyle": (0, (3, 2))}
"""How cells look that a crop takes away."""

PIXELS = 500
"""The side of the image of the paper's examples."""

SEEN = -125, 640
NEAR = -103.5, 60.5
"""The pixels that the two halves of the picture show."""

PAIRS = (0.0, 1.2, 2.02, 3.3, 4.12, 5.4, 6.22)
"""The rows of the second half: scores, then three times what is upsampled and what it is laid on."""


def box(axes: Axes, start: float, end: float, y: float, colour: str, **line: Any) -> None:
    """A bar over an axis from start to end, in the middle of a row."""
    axes.add_patch(Rectangle((start, y - 0.31), end - start, 0.62, facecolor=colour, **line))


def write(axes: Axes, x: float, y: float, text: str, colour: str = INK, ha: str = "center") -> None:
    """A word in a row; what runs out of the axes is left out."""
    axes.text(x, y, text, fontsize=11, color=colour, ha=ha, va="center_baseline", clip_on=True)


def cells(axes: Axes, grid: AxisMap, cut: int, y: float, colour: str) -> None:
    """The first cells of a feature as boxes, each as wide as its stride; those that the crop cuts are empty and
    counted.
    """
    stride, cell = float(grid.stride), 0
    while (centre := float(grid.cropped(cell).start)) - stride / 2 < NEAR[1]:
        if cell < cut:
            box(axes, centre - stride / 2, centre + stride / 2, y, "white", **CUT)
            write(axes, centre, y, str(cell), QUIET)
        else:
            box(axes, centre - stride / 2, centre + stride / 2, y, colour, edgecolor="white", linewidth=1.6)
            axes.plot(centre, y, ".", color=INK, markersize=4.5)
        cell += 1


def panel(figure: Figure, title: str, bottom: float, height: float, pixels: tuple[float, float], rows: float) -> Axes:
    """Axes over some pixels, with rows counted from the top, under a title."""
    axes = figure.add_axes((0.17, bottom, 0.815, height))
    axes.set(xlim=pixels, ylim=(rows + 0.45, -0.5))
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=INK, labelsize=11.5, length=4)
    figure.text(0.005, bottom + height + 0.022, title, fontsize=15, fontweight="bold", color=INK)
    return axes


def name(axes: Axes, y: float, text: str, below: str = "") -> None:
    """The name of a row at its left, and a smaller line below it."""
    place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
    axes.text(-0.203, y - (0.17 if below else 0), text, fontsize=12.5, color=INK, **place)
    axes.text(-0.203, y + 0.2, below, fontsize=10.5, color=QUIET, **place)


def the_image(axes: Axes, y: float) -> None:
    """The image, and the zeros around it."""
    before, after = -PAPER_PADDING - 0.5, PIXELS + PAPER_PADDING - 0.5
    box(axes, before, after, y, ZEROS_COLOUR, edgecolor=QUIET, linewidth=0.7)
    box(axes, -0.5, PIXELS - 0.5, y, IMAGE_COLOUR)
    zeros = f"{PAPER_PADDING} zeros"
    for x, text in ((-PAPER_PADDING / 2, zeros), (PIXELS / 2, "image"), (PIXELS + PAPER_PADDING / 2, zeros)):
        write(axes, x, y, text)


def what_cells_see(axes: Axes, net: FCN) -> None:
    """The centres of all cells of each feature, and the receptive field of one in the middle."""
    sizes = net.trace.sizes(PIXELS)
    for row, (feature, colour) in enumerate(zip(net.features, COLOURS, strict=True)):
        grid = net.trace[feature].axis
        centres = [float(grid.cropped(cell).start) for cell in range(sizes[feature])]
        seen, half = min(centres, key=lambda centre: abs(centre - PIXELS / 2)), float(grid.field) / 2
        box(axes, seen - half, seen + half, row, colour)
        axes.plot(centres, [row] * len(centres), "|", color=INK, markersize=9, markeredgewidth=1)
        axes.plot(seen, row, "o", color=INK, markersize=6.5)
        axes.text(seen + half + 6, row - 0.21, f"{grid.field}", fontsize=13, fontweight="bold", color=INK)
        # What fc7 gives comes out of its dropout.
        name(axes, row, feature.replace("drop", "fc"), f"stride {grid.stride}, {sizes[feature]} cells")
    the_image(axes, len(net.features))
    axes.set_xticks(range(-100, 601, 100))


def how_scores_meet(axes: Axes, net: FCN) -> None:
    """The beginning of the axis: scores are upsampled, the finer ones cut to begin where they begin, both added; and
    so on to the pixels.
    """
    scores = net.trace[net.features[0]].axis
    cells(axes, scores, 0, PAIRS[0], COLOURS[0])
    name(axes, PAIRS[0], net.score_names[0], f"stride {scores.stride}")
    for level, join in enumerate(net.joins[:-1]):
        finer, above, below = net.trace[net.features[level + 1]].axis, PAIRS[2 * level + 1], PAIRS[2 * level + 2]
        scores = scores.then(join.window)
        cells(axes, scores, join.crop_scores, above, COLOURS[level])
        cells(axes, finer, join.crop_skip, below, COLOURS[level + 1])
        name(axes, above, net.upscore_names[level], f"x{join.window.stride}, stride {scores.stride}")
        name(axes, below, net.score_names[level + 1], f"crop {join.crop_skip}")
        scores = scores.cropped(join.crop_scores)
        meet(axes, float(scores.start), float(scores.stride) / 2, above, below)
    join, (above, below) = net.joins[-1], PAIRS[-2:]
    start = float(scores.then(join.window).start)
    box(axes, start - 0.5, -0.5, above, "white", **CUT)
    write(axes, start / 2 - 0.5, above, f"{-start:g} pixels", QUIET)
    box(axes, -0.5, NEAR[1], above, COLOURS[-1])
    name(axes, above, net.upscore_names[-1], f"x{join.window.stride}, crop {join.crop_scores}")
    the_image(axes, below)
    name(axes, below, "image")
    meet(axes, float(IMAGE.start), -start + 0.5, above, below)
    axes.set_xticks(range(-100, 61, 20))
    axes.set_xlabel("pixels of the image", color=INK, fontsize=11.5, labelpad=6)


def meet(axes: Axes, x: float, room: float, above: float, below: float) -> None:
    """A line through two cells that look at one place, and the pixel that it is, left of the upper row."""
    axes.plot([x, x], [above, below], color=INK, linewidth=1.8, solid_capstyle="butt")
    axes.plot([x, x], [above, below], ".", color=INK, markersize=9)
    write(axes, x - room - 2, above, f"meet at {x:g}".replace("-", "−"), ha="right")


def draw() -> Figure:
    """Both halves of the picture."""
    with torch.device("meta"):
        net = build(ModelConfig("vgg16", stride=8, padding="paper"))
    figure = Figure(figsize=(10, 9), dpi=160)
    seen, met = "What a cell sees: receptive fields in pixels", "Where scores meet: a crop is a difference of starts"
    what_cells_see(panel(figure, seen, 0.685, 0.26, SEEN, 3), net)
    how_scores_meet(panel(figure, met, 0.075, 0.5, NEAR, PAIRS[-1]), net)
    return figure


def main() -> None:
    """Draw the picture and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "geometry.png")
    draw().savefig(parser.parse_args().out, facecolor="white")


if __name__ == "__main__":
    main()
