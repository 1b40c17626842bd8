"""What ``inspect`` prints for reading: one net fact by fact, or several as the columns of the paper's table 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fullconv.cli.show import key_values
from fullconv.errors import shown
from fullconv.reporting.page import percent


def show(console: Console, found: Sequence[dict[str, Any]]) -> None:
    """One net in words, several side by side; then the layers of each."""
    if len(found) == 1:
        console.print(key_values(summary(found[0])))
    else:
        for part in in_width(console, found):
            console.print(side_by_side(part))
        measured = f"; timed on {processor(found[0])}" if "machine" in found[0] else ""
        console.print(f"for an image of {dimensions(found[0]['size'])}{measured}")
    for one in found:
        if "layers" in one:
            console.print(f"\n{shown(one['net'])}" if len(found) > 1 else "")
            console.print(layer_table(one))


def in_width(console: Console, found: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The nets in as many parts as the width of the terminal asks for."""
    unbounded = console.options.update(width=10_000)
    parts: list[list[dict[str, Any]]] = [[]]
    for one in found:
        if parts[-1] and console.measure(side_by_side([*parts[-1], one]), options=unbounded).maximum > console.width:
            parts.append([])
        parts[-1].append(one)
    return parts


def amount(number: float) -> str:
    """A number to three digits, without an exponent.

    >>> [amount(n) for n in (14985.4, 361.98, 30.14, 0.0051)]
    ['14,985', '362', '30.1', '0.0051']
    """
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def duration(found: dict[str, Any]) -> str:
    """The time of a forward pass; empty where it was not measured."""
    seconds = found.get("forward_seconds")
    return "" if seconds is None else f"{amount(1000 * seconds)} ms" if seconds < 1 else f"{amount(seconds)} s"


def processor(found: dict[str, Any]) -> str:
    """What the time was measured on."""
    return f"{found['machine']['cpu']}, {found['machine']['threads']} threads"


def mean_iu(found: dict[str, Any]) -> str:
    """The mean IU on the validation split in percent; empty where no checkpoint says it."""
    return percent(found["mean_iu"]) if isinstance(found["mean_iu"], float) else ""


def dimensions(size: Sequence[int]) -> str:
    """A size as it is written on the command line."""
    return "x".join(str(side) for side in size)


def summary(found: dict[str, Any]) -> list[tuple[str, str]]:
    """One net, fact by fact; what has nothing to say is left out."""
    model, margin, pool = found["model"], found["margin"], found["receptive_field_with_pool"]
    file = "a classifier; shown is the net that begins with it" if found["kind"] == "classifier" else ""
    joins = [
        f"{j['upscore']} x{j['factor']} by {j['taps']} taps, crop {j['crop']}"
        + (f", skip crop {j['crop_skip']}" if j["crop_skip"] else "")
        for j in found["joins"]
    ]
    shares = ", ".join(f"{part} {100 * n / found['flops']:.1f} %" for part, n in found["flops_by_part"].items())
    rows = [
        ("file", file),
        ("net", f"FCN-{model['stride']}s on {model['backbone']}, {model['num_classes']} classes, "
                f"{model['padding']} padding"),
        ("mean IU on val", mean_iu(found)),
        ("parameters", f"{found['parameters']:,}, {amount(found['weight_bytes'] / 1e6)} MB"),
        ("depth", f"{found['depth']} layers with weights"),
        ("receptive field", f"{found['receptive_field']} pixels at stride {found['coarsest_stride']}"),
        ("", f"{pool} with the classifier's average pool, which section 4.1 drops" if pool else ""),
        ("scores", "\n".join(f"{score} on {feature}" for score, feature in found["scores"].items())),
        ("upsampling", "\n".join(joins)),
        ("margin", f"{margin['before']} before, {margin['after']} after, at least {margin['least']} pixels"),
        ("image", dimensions(found["size"])),
        ("arithmetic", f"{amount(found['flops'] / 1e9)} GFLOPs: {shares}"),
        ("memory", f"{amount(found['peak_bytes'] / 1e6)} MB of activations at most; training keeps "
                   f"{amount(found['kept_bytes'] / 1e6)} MB"),
        ("forward pass", f"{duration(found)} on {processor(found)}" if "machine" in found else ""),
    ]  # fmt: skip
    return [row for row in rows if row[1]]


TABLE: dict[str, Callable[[dict[str, Any]], str]] = {
    "net": lambda found: f"FCN-{found['model']['stride']}s",
    "backbone": lambda found: found["model"]["backbone"] if found["net"] != found["model"]["backbone"] else "",
    "mean IU on val": mean_iu,
    "forward pass": duration,
    "conv. layers": lambda found: str(found["depth"]),
    "parameters": lambda found: f"{amount(found['parameters'] / 1e6)}M",
    "rf size": lambda found: found["receptive_field"],
    "with average pool": lambda found: found["receptive_field_with_pool"] or "",
    "max stride": lambda found: found["coarsest_stride"],
    "GFLOPs": lambda found: amount(found["flops"] / 1e9),
    "weights, MB": lambda found: amount(found["weight_bytes"] / 1e6),
    "activations, MB": lambda found: amount(found["peak_bytes"] / 1e6),
    "kept to train, MB": lambda found: amount(found["kept_bytes"] / 1e6),
}
"""The rows of table 1, then those of arithmetic and memory."""


def side_by_side(found: Sequence[dict[str, Any]]) -> Table:
    """The nets as the columns of the paper's table 1; a row that says nothing of any of them is left out."""
    table = Table("", box=None, header_style="bold", pad_edge=False)
    for one in found:
        path = Path(one["net"])
        run_folder = path.name == "model.safetensors" and path.parent.name
        table.add_column(shown(path.parent.name if run_folder else path.name), justify="right", no_wrap=True)
    for title, cell in TABLE.items():
        cells = [cell(one) for one in found]
        if any(cells):
            table.add_row(title, *cells)
    table.columns[0].style, table.columns[0].no_wrap = "dim", True
    return table


def layer_table(found: dict[str, Any]) -> Table:
    """The features of a net."""
    table = Table("feature", box=None, header_style="bold", pad_edge=False)
    for title in ("stride", "start", "field", "channels", "size"):
        table.add_column(title, justify="right")
    for row in found["layers"]:
        where = row["stride"], row["start"], row["field"]
        table.add_row(row["name"], *where, str(row["channels"]), dimensions(row["size"]))
    return table
