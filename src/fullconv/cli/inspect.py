"""Show what a net is: parameters, receptive field, stride, the crops that align it, and its layers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fullconv.cli.options import MODEL_FLAGS, add_settings
from fullconv.config import ModelConfig, from_mapping, to_mapping

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
    from rich.console import Console
    from rich.table import Table

    from fullconv import weights
    from fullconv.cli.show import key_values, print_json
    from fullconv.errors import UsageError
    from fullconv.models import build

    if args.model is not None:
        _, header = weights.load(args.model)
        if header is None:
            raise UsageError(f"{args.model}: plain weights do not say what net they are for; describe it by --backbone")
        config = header.model
    else:
        given = {name: getattr(args, name) for name in (*MODEL_FLAGS, "num_classes") if hasattr(args, name)}
        config = from_mapping(ModelConfig, given, "command line")
    with torch.device("meta"):
        net = build(config)
    top = net.trace[net.features[0]].axis
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in net.named_children()}
    facts: dict[str, Any] = {
        "model": to_mapping(config),
        "parameters": sum(counts.values()),
        "parameters_by_part": {name: count for name, count in counts.items() if count},
        "receptive_field": str(top.field),
        "coarsest_stride": str(top.stride),
        "margin": {"before": net.margin.before, "after": net.margin.after, "least": net.margin.least},
        "joins": [
            {
                "upscore": name,
                "taps": j.window.kernel,
                "factor": j.window.stride,
                "crop": j.crop_scores,
                "crop_skip": j.crop_skip,
            }
            for name, j in zip(net.upscore_names, net.joins, strict=True)
        ],
        "skips": dict(zip(net.score_names, net.features, strict=True)),
    }
    if args.json:
        rows = [
            {"name": f.name, "channels": f.channels}
            | {part: str(getattr(f.rows, part)) for part in ("stride", "start", "field")}
            for f in net.trace
        ]
        print_json({**facts, **({"layers": rows} if args.layers else {})})
        return 0
    console = Console(soft_wrap=True)
    crops = ", ".join(
        f"{j['upscore']} x{j['factor']} by {j['taps']} taps, crop {j['crop']}"
        + (f", skip crop {j['crop_skip']}" if j["crop_skip"] else "")
        for j in facts["joins"]
    )
    console.print(
        key_values(
            [
                (
                    "net",
                    f"FCN-{config.stride}s on {config.backbone}, {config.num_classes} classes, "
                    f"{config.padding} padding",
                ),
                ("parameters", f"{facts['parameters']:,}"),
                ("receptive field", f"{top.field} pixels at stride {top.stride}"),
                (
                    "scores",
                    ", ".join(
                        f"{score} on {feature}" for score, feature in zip(net.score_names, net.features, strict=True)
                    ),
                ),
                ("upsampling", crops),
                ("margin", f"{net.margin.before} before, {net.margin.after} after, at least {net.margin.least} pixels"),
            ]
        )
    )
    if args.layers:
        table = Table("feature", box=None, header_style="bold", pad_edge=False)
        for title in ("stride", "start", "field", "channels"):
            table.add_column(title, justify="right")
        for f in net.trace:
            table.add_row(f.name, str(f.rows.stride), str(f.rows.start), str(f.rows.field), str(f.channels))
        console.print(table)
    return 0
