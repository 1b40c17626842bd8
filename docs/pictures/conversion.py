"""Draws docs/conversion.png: VGG16 as a classifier of one crop, and with the same weights on a larger image.

Every size in it is asked of the nets (the paper's figure 2).

python docs/pictures/conversion.py [--out FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import nn

from fullconv.config import ModelConfig
from fullconv.models.build import build_classifier, native_size
from fullconv.models.convolutionalize import Conversion, convolutionalize

INK, QUIET = "#22303c", "#7b868f"
IMAGE_COLOUR = "#d5dade"
COLOURS = {"pool5": "#8ecae6", "fc6": "#ffd08a", "fc7": "#ffd08a", "fc8": "#d9c2ea"}

IMAGE = 375, 500
"""Height and width of the larger image: a photograph of PASCAL VOC."""

CELL = 0.3
"""The side of a cell of stride 32, in units of which the picture is 25 wide."""

LEFT = {"image": 0.1, "pool5": 6.05, "fc6": 12.1, "fc7": 16.5, "fc8": 20.9}
"""Where the image and each map begin."""


def write(
    axes: Axes, x: float, y: float, text: str, size: float = 11, colour: str = INK, weight: str = "normal"
) -> None:
    """Words that stand on the line at y, from x on."""
    axes.text(x, y, text, fontsize=size, color=colour, fontweight=weight, va="baseline")


def caption(axes: Axes, x: float, y: float, name: str, *below: str) -> None:
    """A name, and smaller lines below it."""
    write(axes, x, y, name, 12.5)
    for number, line in enumerate(below, start=1):
        write(axes, x, y + 0.08 + 0.53 * number, line, 10.5, QUIET)


def times(*sizes: int | None) -> str:
    """Sizes as they are said."""
    return "×".join(map(str, sizes))


def frame(axes: Axes, left: float, top: float, height: float, width: float) -> None:
    """The outline of the crop that one class score stands for, or of that score."""
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=INK, linewidth=1.8, zorder=4))


def cells(axes: Axes, left: float, top: float, rows: int, columns: int, colour: str) -> None:
    """A map; two more behind it stand for its channels."""
    for shift in (0.22, 0.11, 0):
        corner, size = (left + shift, top - shift), (columns * CELL, rows * CELL)
        axes.add_patch(Rectangle(corner, *size, facecolor=colour, edgecolor="white", linewidth=1.2))
    for line in range(1, rows):
        axes.plot([left, left + columns * CELL], [top + line * CELL] * 2, color="white", linewidth=0.9)
    for line in range(1, columns):
        axes.plot([left + line * CELL] * 2, [top, top + rows * CELL], color="white", linewidth=0.9)


def arrow(axes: Axes, start: float, end: float, y: float) -> None:
    """From one map to the next."""
    axes.add_patch(FancyArrowPatch((start, y), (end, y), arrowstyle="-|>", mutation_scale=13, color=INK, linewidth=1.3))


def chain(axes: Axes, report: Conversion, layers: nn.Module, image: tuple[int, int], middle: float) -> None:
    """The image and the maps that the net makes of it, around a line. Outlined is the crop of one class score."""
    sizes = [report.trace.sizes(pixels, axis) for axis, pixels in enumerate(image)]
    window = tuple(pixels * CELL / 32 for pixels in report.native_size)
    height, width = (pixels * CELL / 32 for pixels in image)
    words = middle + height / 2 + 0.75
    left, top = LEFT["image"], middle - height / 2
    axes.add_patch(Rectangle((left, top), width, height, facecolor=IMAGE_COLOUR))
    frame(axes, left, top, *window)
    caption(axes, left, words, "image", times(*image, 3))
    for name, colour in COLOURS.items():
        end, left = left + width, LEFT[name]
        rows, columns = (along[name] for along in sizes)
        arrow(axes, end + 0.4, left - 0.15, middle)
        cells(axes, left, middle - rows * CELL / 2, rows, columns, colour)
        frame(axes, left, middle - rows * CELL / 2, *(window if name == "pool5" else (CELL, CELL)))
        lines = [times(rows, columns, report.trace[name].channels)]
        if name.startswith("fc"):
            lines.append(times(*layers.get_parameter(f"{name}.weight").shape))
        caption(axes, left, words, name, *lines)
        width = columns * CELL
    axes.text(LEFT["fc6"] - 0.25, words + 1.14, "weights", fontsize=10.5, color=QUIET, ha="right", va="baseline")


def draw() -> Figure:
    """The classifier above, its dense form below."""
    config = ModelConfig("vgg16")
    with torch.device("meta"):
        classifier = build_classifier(config, 1000)
        dense, report = convolutionalize(classifier, native_size(config))
    figure = Figure(figsize=(10, 5.4), dpi=160)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 25), ylim=(13.5, 0), aspect="equal")
    axes.axis("off")
    write(axes, 0.1, 0.8, "The classifier: one crop, one list of scores", 15, weight="bold")
    chain(axes, report, classifier, report.native_size, 2.7)
    write(axes, 0.1, 6.85, "The same numbers as convolutions: any image, a map of scores", 15, weight="bold")
    chain(axes, report, dense, IMAGE, 9.5)
    return figure


def main() -> None:
    """Draw the picture and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "conversion.png")
    draw().savefig(parser.parse_args().out, facecolor="white")


if __name__ == "__main__":
    main()
