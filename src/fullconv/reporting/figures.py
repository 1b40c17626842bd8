"""The figures: curves of a run, pictures side by side as in the paper's figure 4, score maps, confusion matrices.

All are PNG. The ground is transparent and the ink a gray that is legible on white and on black, so a figure fits a
light page and a dark one. The resolution is written in the file: a page shows a figure at its true size, with more
pixels than a screen of 96 dots an inch needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import UsageError
from fullconv.reporting.pictures import (
    DENSITY,
    INK,
    Picture,
    clean,
    colour_label,
    shortened,
    side_by_side,
)
from fullconv.warnings import without_warnings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["colour_label", "confusion", "curves", "curves_together", "heat_map", "run_colour", "side_by_side"]

FAINT = "#767b8240"
BLUE, ORANGE = "#3b82d6", "#d97a26"
RUNS = (BLUE, ORANGE, "#2f9e6e", "#a067d6", "#d65353", "#1fa0b4", "#a58a1c", "#d062a2")  # legible on white and black
PALE, DEEP = "#5a88cc", "#1d4f9e"  # a share of 0.2 and of 1 in the confusion matrix; white is legible on both


def heat_map(
    image: Picture,
    probability: NDArray[np.floating],
    name: str = "",
    low: float = 0.0,
    high: float = 1.0,
    width: int = 480,
) -> bytes:
    """A score map over the image that it was computed from, with a colour bar.

    image: (H, W, 3). probability: (h, w), as large or coarser; a coarse map is laid out in its own cells, so that its
    stride can be seen. low, high: the values at the ends of the colour bar. name: of what the scores are. width: of the
    image, in CSS pixels.
    """
    from matplotlib import colormaps
    from PIL import Image

    if image.ndim != 3 or probability.ndim != 2 or not high > low:
        raise UsageError(
            f"figures: an image {image.shape}, a map {probability.shape}, {low} to {high}; give (H, W, 3) and (h, w)"
        )
    height = image.shape[0] * width / image.shape[1]
    bar, ends = 14, 44  # CSS pixels: the colour bar and its numbers
    strip = 24 if name else 0
    figure = new_figure(width + bar + ends, height + strip)
    whole_width, whole_height = width + bar + ends, height + strip
    axes = figure.add_axes((0, 0, width / whole_width, height / whole_height))
    axes.set_axis_off()

    def blend(values: NDArray[np.float64], gray: NDArray[np.float64]) -> NDArray[np.float64]:
        # The opacity grows with the score: where it is low, the image stays to be seen.
        share = (0.3 + 0.5 * values)[..., None]
        return share * colormaps["plasma"](values)[..., :3] + (1 - share) * gray[..., None]

    values = np.nan_to_num((probability.astype(np.float64) - low) / (high - low)).clip(0, 1)
    cells = Image.fromarray(values.astype(np.float32)).resize(image.shape[1::-1], Image.Resampling.NEAREST)
    gray = image.astype(np.float64) @ (0.299, 0.587, 0.114) / 255
    small = image.shape[1] < width
    axes.imshow(
        blend(np.asarray(cells, np.float64), gray), interpolation="nearest" if small else "antialiased", aspect="auto"
    )
    if name:
        figure.text(0, 1 - 9 / whole_height, clean(name), color=INK, ha="left", va="center", parse_math=False)

    scale = figure.add_axes(((width + 8) / whole_width, 0.02, bar / whole_width, 0.96 * height / whole_height))
    levels = np.linspace(0, 1, 256)[:, None]
    scale.imshow(blend(levels, np.full(levels.shape, 0.5)), origin="lower", aspect="auto", extent=(0, 1, low, high))
    scale.set_xticks([])
    scale.yaxis.tick_right()
    scale.tick_params(length=0, pad=4, labelcolor=INK)
    for side in scale.spines.values():
        side.set_visible(False)
    return to_png(figure)


def curves(log: Sequence[Mapping[str, Any]], width: int = 640) -> bytes:
    """How a run went: the loss of each step and its running mean, the mean IU at each evaluation, the learning rate.

    log: the lines of ``log.jsonl``, at least one. The panel of the mean IU is left out when there was no evaluation.
    """
    if not log:
        raise UsageError("figures: no step to draw the curves of; train first")
    from matplotlib.ticker import MaxNLocator

    steps = np.array([line["step"] for line in log], dtype=np.float64)
    loss = np.array([line["loss"] for line in log], dtype=np.float64)
    points = [
        (line["step"], line["scores"]["mean_iu"])
        for line in log
        if (line.get("scores") or {}).get("mean_iu") is not None
    ]
    parts = [("loss", 220), *([("iu", 160)] if points else []), ("rate", 70)]
    figure, panel = _panels(width, dict(parts), 70, hspace=0.22, sharex=True)

    window = max(1, len(log) // 40)
    if window > 1:
        panel["loss"].plot(steps, loss, color=BLUE, alpha=0.3, linewidth=0.8)
    panel["loss"].plot(
        steps, running_mean(loss, window), color=BLUE, linewidth=1.8, marker="o" if len(log) == 1 else None
    )
    _name(panel["loss"], "loss" + (f"  (line: mean of {window} steps)" if window > 1 else ""))
    if loss.max() >= 10_000:  # a sum over pixels
        panel["loss"].yaxis.set_major_formatter(lambda value, _: f"{value / 1000:,g}k" if value else "0")
    # One bad step must not flatten the rest: the axis of a long run ends above all but the highest hundredth.
    panel["loss"].set_ylim(0, 1.1 * max(np.quantile(loss, 0.99) if len(log) > 100 else loss.max(), 1e-12))

    if points:
        x, y = zip(*[(step, 100 * value) for step, value in points], strict=True)
        best = int(np.argmax(y))
        panel["iu"].plot(x, y, color=ORANGE, linewidth=1.4, marker="o", markersize=4)
        panel["iu"].plot(x[best], y[best], color=ORANGE, marker="o", markersize=8)
        panel["iu"].set_ylim(0, max(1.0, 1.22 * max(y)))
        edge = len(x) > 1 and (x[best] - x[0]) / max(1, x[-1] - x[0]) > 0.5
        panel["iu"].annotate(
            f"{y[best]:.1f}", (x[best], y[best]), (0, 8), textcoords="offset points", color=ORANGE, weight="bold",
            ha="right" if edge else "left",
        )  # fmt: skip
        _name(panel["iu"], "mean IU on the validation split, %")

    rates = np.array([line["lr"] for line in log], dtype=np.float64)
    panel["rate"].plot(steps, rates, color=INK, linewidth=1.2, marker="o" if len(log) == 1 else None)
    panel["rate"].set_ylim(0, 1.25 * rates.max() if rates.max() > 0 else 1)
    panel["rate"].set_yticks([0, float(f"{rates.max():.2g}")] if rates.max() > 0 else [0])
    panel["rate"].yaxis.set_major_formatter(lambda rate, _: f"{rate:.2g}")
    _name(panel["rate"], "learning rate")
    panel["rate"].set_xlabel("step")
    panel["rate"].xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    if len(log) == 1:
        panel["rate"].set_xticks(steps)
    panel["rate"].xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    return to_png(figure)


def run_colour(place: int) -> tuple[int, int, int]:
    """The colour of the curves of one of several runs.

    >>> run_colour(0) == run_colour(8)
    True
    """
    code = RUNS[place % len(RUNS)]
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def curves_together(logs: Mapping[str, Sequence[Mapping[str, Any]]], width: int = 640) -> bytes:
    """The curves of several runs: the running mean of the loss and the mean IU by step, and the mean IU by the time
    that training took.

    logs: name -> lines of ``log.jsonl``; a run without a line has no curve. Each run has the colour `run_colour` of its
    place, from the ninth on with a dashed line. The panels of the mean IU are left out when there was no evaluation.
    """
    from matplotlib.ticker import MaxNLocator

    if not any(logs.values()):
        raise UsageError("figures: no step to draw the curves of; train first")
    lines = [(place, name, log) for place, (name, log) in enumerate(logs.items()) if log]
    points = [
        [(n, line) for n, line in enumerate(log) if (line.get("scores") or {}).get("mean_iu") is not None]
        for _, _, log in lines
    ]
    parts = [("loss", 210), *([("iu", 190), ("time", 190)] if any(points) else [])]
    figure, panel = _panels(width, dict(parts), 62 * len(parts), hspace=0.42)
    ends, values = [], []
    for (place, _, log), found in zip(lines, points, strict=True):
        dashed = "-" if place < len(RUNS) else "--"
        style: dict[str, Any] = {"color": RUNS[place % len(RUNS)], "linestyle": dashed, "linewidth": 1.6}
        steps, loss = ([line[key] for line in log] for key in ("step", "loss"))
        mean = running_mean(np.array(loss, dtype=np.float64), max(1, len(log) // 40))
        panel["loss"].plot(steps, mean, marker="o" if len(log) == 1 else None, **style)
        ends.append(float(np.quantile(mean, 0.99)))
        values.append(max(float(np.median(mean)), 1e-12))
        minutes = np.cumsum([line["seconds"] for line in log]) / 60
        reached = [100 * line["scores"]["mean_iu"] for _, line in found]
        for name, x in (("iu", [line["step"] for _, line in found]), ("time", [minutes[n] for n, _ in found])):
            if found:
                panel[name].plot(x, reached, marker="o", markersize=4, **style)
    if max(values) > 30 * min(values):
        panel["loss"].set_yscale("log")
        panel["loss"].grid(axis="y", color=FAINT, linewidth=0.7)
    else:
        panel["loss"].set_ylim(0, 1.1 * max(*ends, 1e-12))
    titles = {"loss": "loss (mean of some steps)", "iu": "mean IU on the validation split, %",
              "time": "the same by time, %"}  # fmt: skip
    for name, axes in panel.items():
        _name(axes, titles[name])
        axes.set_xlabel("minutes of training" if name == "time" else "step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=name != "time"))
        if name != "loss":
            axes.set_ylim(0, None)
        axes.set_xlim(0, None)
    return to_png(figure)


def confusion(counts: NDArray[np.number], names: Sequence[str], width: int = 640) -> bytes:
    """The confusion matrix with rows that sum to 100: of the pixels of a class, the percentage taken for each class.

    counts: (K, K), rows are truth. names: of the K classes. A class without pixels has an empty row. Numbers stand in
    the cells where there is room for them (up to 24 classes), names at the sides up to 48.
    """
    from matplotlib.colors import to_rgb

    total = counts.sum(1, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    count = len(names)
    named = count <= 48
    shown = [shortened(name, 20) for name in names] if named else []
    text = min(10.5, 0.43 * width / count)  # points
    side = 0.85 * text * max(map(len, shown), default=0) + 8  # CSS pixels for the names
    cell = min(64.0, (width - side - 26) / count)
    extent = cell * count
    whole = extent + side + 26
    figure = new_figure(whole, whole)
    axes = figure.add_axes(((side + 25) / whole, 1 / whole, extent / whole, extent / whole))
    # Small shares are a breath of blue over the page, light or dark; from a fifth on the cell is solid, so that white
    # numbers are legible on it whatever the page is.
    solid = shares > 0.2
    depth = ((shares - 0.2) / 0.8).clip(0, 1)[..., None]
    colours = (1 - depth) * to_rgb(PALE) + depth * to_rgb(DEEP)
    axes.imshow(np.dstack([colours, np.where(solid, 1.0, 0.05 + 1.2 * shares)]), interpolation="nearest")
    style_axes(axes, grid=False)
    axes.spines[:].set_visible(False)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("predicted", loc="left", labelpad=6)
    axes.set_ylabel("truth", loc="top", labelpad=6)
    axes.set_xticks(range(len(shown)), shown, fontsize=text, parse_math=False)
    axes.set_yticks(range(len(shown)), shown, fontsize=text, parse_math=False)
    for name in axes.get_xticklabels():
        name.set_rotation(90 if 0.85 * text * len(name.get_text()) > cell else 0)

    written = (shares >= 0.0005) & (count <= 24)  # less would print as 0.0
    for row, column in zip(*np.nonzero(written), strict=True):
        share = shares[row, column]
        axes.text(
            column, row, f"{100 * share:.0f}" if share > 0.9995 else f"{100 * share:.1f}",
            ha="center", va="center", fontsize=min(10.5, 0.27 * cell), color="white" if solid[row, column] else INK,
        )  # fmt: skip
    return to_png(figure)


# -- how they are drawn -----------------------------------------------------------------------------------------------


def _panels(
    width: int, parts: Mapping[str, int], margins: int, hspace: float, sharex: bool = False
) -> tuple[Figure, dict[str, Axes]]:
    """Panels below each other by name. parts: the height of each; margins: of all text between them, in CSS pixels."""
    height = sum(parts.values()) + margins
    figure = new_figure(width, height)
    grid = figure.subplots(len(parts), 1, sharex=sharex, height_ratios=[*parts.values()], squeeze=False)[:, 0]
    figure.subplots_adjust(
        left=58 / width, right=1 - 16 / width, top=1 - 24 / height, bottom=46 / height, hspace=hspace
    )
    for axes in grid:
        style_axes(axes)
    return figure, dict(zip(parts, grid, strict=True))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many CSS pixels, apart from pyplot and its global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 96, height / 96), dpi=96 * DENSITY)


def style_axes(axes: Axes, grid: bool = True) -> None:
    """Ink that suits light and dark, and as little of it as does the work."""
    from matplotlib.ticker import MaxNLocator

    axes.set_facecolor("none")
    axes.tick_params(colors=INK, labelcolor=INK, labelsize=10.5, length=0, pad=5)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.spines["bottom"].set_linewidth(0.6)
    if grid:
        axes.grid(axis="y", color=FAINT, linewidth=0.7)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)


def _name(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", color=INK, fontsize=11, pad=5)


def to_png(figure: Figure) -> bytes:
    """The figure as PNG, with a transparent ground and the same letters on every machine."""
    from matplotlib.text import Text

    buffer = BytesIO()
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_fontfamily("DejaVu Sans")  # matplotlib brings it: the same picture on every machine
    with without_warnings():  # of a missing glyph: a box in its place is all that can be done
        figure.savefig(buffer, format="png", transparent=True, metadata={"Software": None})
    return buffer.getvalue()


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The mean of the last `window` values at each place (of those there are, at the beginning).

    >>> running_mean(np.array([4.0, 2.0, 0.0]), 3).tolist()
    [4.0, 3.0, 2.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(1, len(values) + 1) - window, 0)
    return (sums[1:] - sums[first]) / np.arange(1, len(values) + 1).clip(max=window)
