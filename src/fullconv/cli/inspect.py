"""Show what a net is: parameters, receptive field, stride, the crops that align it, and its layers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.cli.options import MODEL_FLAGS, add_settings
from fullconv.config import ModelConfig, from_mapping, to_mapping

if TYPE_CHECKING:
    from fullconv.models.fcn import FCN

HELP = "receptive field, stride, crops and layers of a net"
EXAMPLE = "fullconv inspect --backbone vgg16 --stride 8 --padding paper"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("model", type=Path, nargs="?", metavar="MODEL", help="a checkpoint; or describe a net by flags")
    parser.add_argument("--layers", action="store_true", help="list every feature with its stride, start and field")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    add_settings(parser, ModelConfig, "the net")


def run(args: argparse.Namespace) -> int:
    """Describe the net."""
    import torch

    from fullconv.cli.show import print_json
    from fullconv.models import build

    config = described(args)
    with torch.device("meta"):
        net = build(config)
    found = facts(net, config)
    if not args.layers:
        del found["layers"]
    if args.json:
        print_json(found)
    else:
        show(found, config)
    return 0


def described(args: argparse.Namespace) -> ModelConfig:
    """The settings in a checkpoint's header, or those that the flags give."""
    if args.model is None:
        given = {name: getattr(args, name) for name in (*MODEL_FLAGS, "num_classes") if hasattr(args, name)}
        return from_mapping(ModelConfig, given, "command line")
    from fullconv import weights
    from fullconv.errors import UsageError

    header = weights.load(args.model)[1]
    if header is None:
        raise UsageError(f"{args.model}: plain weights do not say what net they are for; describe it by --backbone")
    return header.model


def facts(net: FCN, config: ModelConfig) -> dict[str, Any]:
    """All that is printed, as plain values."""
    top = net.trace[net.features[0]].axis
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in net.named_children()}
    return {
        "model": to_mapping(config),
        "parameters": sum(counts.values()),
        "parameters_by_part": {name: count for name, count in counts.items() if count},
        "receptive_field": str(top.field),
        "coarsest_stride": str(top.stride),
        "margin": {"before": net.margin.before, "after": net.margin.after, "least": net.margin.least},
        "joins": [
            {"upscore": name, "taps": join.window.kernel, "factor": join.window.stride,
             "crop": join.crop_scores, "crop_skip": join.crop_skip}
            for name, join in zip(net.upscore_names, net.joins, strict=True)
        ],
        "scores": dict(zip(net.score_names, net.features, strict=True)),
        "layers": [
            {"name": f.name, "channels": f.channels}
            | {part: str(getattr(f.rows, part)) for part in ("stride", "start", "field")}
            for f in net.trace
        ],
    }  # fmt: skip


def show(found: dict[str, Any], config: ModelConfig) -> None:
    """The facts for reading."""
    from rich.console import Console
    from rich.table import Table

    from fullconv.cli.show import key_values

    console = Console(soft_wrap=True)
    joins = [
        f"{j['upscore']} x{j['factor']} by {j['taps']} taps, crop {j['crop']}"
        + (f", skip crop {j['crop_skip']}" if j["crop_skip"] else "")
        for j in found["joins"]
    ]
    margin = found["margin"]
    rows = [
        ("net", f"FCN-{config.stride}s on {config.backbone}, {config.num_classes} classes, {config.padding} padding"),
        ("parameters", f"{found['parameters']:,}"),
        ("receptive field", f"{found['receptive_field']} pixels at stride {found['coarsest_stride']}"),
        ("scores", ", ".join(f"{score} on {feature}" for score, feature in found["scores"].items())),
        ("upsampling", "; ".join(joins)),
        ("margin", f"{margin['before']} before, {margin['after']} after, at least {margin['least']} pixels"),
    ]
    console.print(key_values(rows))
    if "layers" in found:
        table = Table("feature", box=None, header_style="bold", pad_edge=False)
        for title in ("stride", "start", "field", "channels"):
            table.add_column(title, justify="right")
        for row in found["layers"]:
            table.add_row(row["name"], row["stride"], row["start"], row["field"], str(row["channels"]))
        console.print(table)
