r"""Draw where a SqueezeNet, made dense, sees two classes in a photograph larger than the crop that it was made for.

The weights are SqueezeNet 1.0's, for BGR input minus a mean (songhan/SqueezeNet-Deep-Compression). The photograph of
docs/heatmap.jpg is ``coffee`` of scikit-image, by Rachel Michetti, CC0:

python docs/pictures/heatmap.py --weights FILE --image FILE --out docs/heatmap.jpg \\
    --class 967=espresso --class "910=wooden spoon"
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fullconv.config import InputConvention, ModelConfig
from fullconv.geometry import IMAGE, AxisMap, bilinear_window
from fullconv.inference.tensor_input import to_input
from fullconv.models.build import build_classifier, give_features, native_size
from fullconv.models.convolutionalize import convolutionalize
from fullconv.models.upsample import Upsample
from fullconv.weights import checkpoint

CONFIG = ModelConfig("squeezenet1_0", num_classes=1000)
INPUT = InputConvention.named("bgr:104,117,123")

INK = "#22303c"

Colours = NDArray[np.uint8] | NDArray[np.float64]
"""(H, W, 3), 0 to 255 or 0 to 1."""


@dataclass(frozen=True)
class Seen:
    """What the net says of a photograph.

    shown: the two classes that are drawn. crop: top and left of the native crop where the first is likeliest.
    classes: the probabilities that the classifier itself gives to that crop (1000,). same: those of the dense net in
    the cell at its middle (1000,). maps: the probabilities of the two, and the scores of the first before the average
    pool; each at the size of the photograph.
    """

    shown: tuple[int, int]
    crop: tuple[int, int]
    classes: Tensor
    same: Tensor
    maps: tuple[Tensor, Tensor, Tensor]


def laid_on_the_image(cells: Tensor, grid: AxisMap, height: int, width: int) -> Tensor:
    """A map (h, w) of cells that lie on a grid over the image, as (height, width): each cell's value at its centre, and
    bilinear between them.
    """
    window = bilinear_window(int(grid.stride), grid, IMAGE)
    offset = grid.then(window).offset_to(IMAGE)
    return Upsample(1, window, learned=False)(cells[None, None], offset, height, width)[0, 0]


def best_within(chances: Tensor, stride: int, margin: int, last: tuple[int, int]) -> tuple[int, int]:
    """The cell with the highest probability of those whose crops lie in the photograph: begin at `last` or before."""
    begins = [torch.arange(cells) * stride - margin for cells in chances.shape]
    rows, columns = ((begin >= 0) & (begin <= end) for begin, end in zip(begins, last, strict=True))
    inside = torch.where(rows[:, None] & columns, chances, chances.new_tensor(-1.0))
    row, column = divmod(int(inside.argmax()), inside.shape[1])
    return row, column


def look(photograph: NDArray[np.uint8], tensors: dict[str, Tensor], wanted: Sequence[int] = ()) -> Seen:
    """Run the classifier on one crop, and the dense classifier on all of the photograph.

    wanted: the classes to draw, at most two; those with the highest probability anywhere fill up. Around the
    photograph lies as much of the mean colour as brings the first cell to the first pixel.
    """
    classifier, side = build_classifier(CONFIG, CONFIG.num_classes).eval(), native_size(CONFIG)
    classifier.load_state_dict(tensors)
    dense, report = convolutionalize(classifier, side)
    scores, before = report.trace.last, report.trace[report.trace.sources[report.pools[0]][0]]
    give_features(dense, [scores.name, before.name])
    margin, stride = int(scores.axis.start), int(scores.axis.stride)
    image = to_input(torch.from_numpy(photograph.copy())[None], INPUT)
    height, width = photograph.shape[:2]
    with torch.no_grad():
        found, evidence = dense(F.pad(image, (margin,) * 4))
        chances = found[0].softmax(0)
        likeliest = [k for k in chances.amax((1, 2)).argsort(descending=True).tolist() if k not in wanted]
        first, second = [*wanted, *likeliest][:2]
        row, column = best_within(chances[first], stride, margin, (height - side, width - side))
        top, left = row * stride - margin, column * stride - margin
        classes = classifier(image[:, :, top : top + side, left : left + side])[0].softmax(0)

    def laid(cells: Tensor, axis: AxisMap) -> Tensor:
        return laid_on_the_image(cells, AxisMap(axis.stride, axis.start - margin, axis.field), height, width)

    maps = (
        laid(chances[first], scores.axis),
        laid(chances[second], scores.axis),
        laid(evidence[0, first], before.axis),
    )
    return Seen((first, second), (top, left), classes, chances[:, row, column], maps)


def over(photograph: NDArray[np.uint8], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A map of 0 to 1 in colours over the photograph in gray, (H, W, 3); the higher, the less of the photograph."""
    gray = (photograph @ np.array([0.299, 0.587, 0.114]) / 255)[..., None]
    share = 0.85 * np.sqrt(values)[..., None]
    return share * colormaps["plasma"](values)[..., :3] + (1 - share) * gray


def panel(figure: Figure, place: int, title: str, picture: Colours, ends: tuple[str, str] | None = None) -> Axes:
    """One of four pictures under its title, with a colour bar from one end to the other at the title's right."""
    across, down = place % 2, place // 2
    left, bottom, width, height = 0.507 * across, 0.502 * (1 - down), 0.493, 0.438
    axes = figure.add_axes((left, bottom, width, height))
    axes.imshow(picture, aspect="auto", interpolation="lanczos")
    axes.set_axis_off()
    line = bottom + height + 0.023
    figure.text(left + 0.002, line, title, fontsize=13, fontweight="bold", color=INK, va="center_baseline")
    if ends:
        bar = figure.add_axes((left + width - 0.128, line - 0.009, 0.09, 0.018))
        bar.imshow(over(np.full((1, 256, 3), 128, np.uint8), np.linspace(0, 1, 256)[None]), aspect="auto")
        bar.set_axis_off()
        for x, text, side in ((-0.07, ends[0], "right"), (1.07, ends[1], "left")):
            bar.text(x, 0.5, text, fontsize=11, color=INK, ha=side, va="center_baseline", transform=bar.transAxes)
    return axes


def draw(photograph: NDArray[np.uint8], seen: Seen, names: Mapping[int, str]) -> Figure:
    """The photograph with one crop; the maps of two classes; where the score of the first comes from."""
    one, other = (names.get(k, f"class {k}") for k in seen.shown)
    one, other = one[:1].upper() + one[1:], other[:1].upper() + other[1:]
    height, width = photograph.shape[:2]
    (top, left), side = seen.crop, native_size(CONFIG)
    first, second, evidence = (found.double().numpy() for found in seen.maps)
    highest = float(evidence.max())
    figure = Figure(figsize=(10, 10 * 0.493 * height / width / 0.438), dpi=122)

    axes = panel(figure, 0, f"One crop of {side}×{side}", photograph)
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor="white", linewidth=2))
    chances, classes = (found.tolist() for found in seen.classes.topk(3))
    said = "\n".join(f"{100 * p:.0f}% {names.get(k, f'class {k}')}" for p, k in zip(chances, classes, strict=True))
    ground = {"facecolor": INK, "alpha": 0.75, "edgecolor": "none", "boxstyle": "square,pad=0.6"}
    place: dict[str, Any] = {"ha": "right", "va": "bottom", "multialignment": "left"}
    axes.text(width - 22, height - 23, said, fontsize=12, color="white", linespacing=1.4, bbox=ground, **place)

    axes = panel(figure, 1, f"{one}: probability", over(photograph, first), ("0", "1"))
    x, y, said = left + side // 2, top + side // 2, f"{100 * seen.same[seen.shown[0]]:.0f}%"
    axes.plot(x, y, "o", markersize=9, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=2)
    axes.text(x + 12, y, said, fontsize=12, fontweight="bold", color=INK, va="center_baseline")
    panel(figure, 2, f"{other}: probability", over(photograph, second), ("0", "1"))
    ends = "0", f"{highest:.0f}"
    panel(figure, 3, f"{one}: before averaging", over(photograph, (evidence / max(highest, 1e-9)).clip(0, 1)), ends)
    return figure


def main() -> None:
    """Look at the photograph, and draw what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="of SqueezeNet 1.0, as .safetensors")
    parser.add_argument("--image", type=Path, required=True, help="a photograph of 227x227 pixels or more")
    parser.add_argument("--out", type=Path, required=True, help="the picture that is written")
    parser.add_argument(
        "--class", dest="classes", action="append", default=[], metavar="NUMBER[=NAME]",
        help="a class to draw, 0 to 999; twice for both (default: the likeliest in the photograph)",
    )  # fmt: skip
    parser.add_argument("--names", type=Path, help="the names of all classes, one a line")
    args = parser.parse_args()
    names = dict(enumerate(args.names.read_text("utf-8").splitlines())) if args.names else {}
    wanted = []
    for text in args.classes:
        number, _, name = text.partition("=")
        if not number.isdecimal() or int(number) >= CONFIG.num_classes:
            parser.error(f"--class {text}: give a number from 0 to {CONFIG.num_classes - 1}, or NUMBER=NAME")
        wanted.append(int(number))
        names |= {int(number): name} if name else {}
    if len(set(wanted)) != len(wanted) or len(wanted) > 2:
        parser.error("--class: give at most two different classes")
    photograph = np.asarray(Image.open(args.image).convert("RGB"))
    if min(photograph.shape[:2]) < native_size(CONFIG):
        parser.error(f"{args.image}: it is smaller than one crop; give a larger photograph")
    seen = look(photograph, checkpoint.load(args.weights)[0], wanted)
    draw(photograph, seen, names).savefig(args.out, facecolor="white", pil_kwargs={"quality": 80})


if __name__ == "__main__":
    main()
