"""Show what a net is and what it costs: receptive field, stride, crops, layers; arithmetic and memory for an image.
Several nets stand side by side, as in the paper's table 1.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields

from rich.console import Console

from fullconv.cli.options import add_settings
from fullconv.cli.show import console_for, print_json
from fullconv.config import ModelConfig, Size, from_mapping, option
from fullconv.errors import UsageError, shown

EXAMPLE = "fullconv inspect caffenet vgg16 googlenet --stride 32 --padding paper"

LARGEST = 1_000_000
"""The largest side of an image."""


@dataclass(frozen=True)
class InspectSettings:
    """The image that the net is looked at with."""

    size: Size | None = option(
        None, "size that cost and features are told for, HEIGHTxWIDTH (default: 500x500, as in the paper's table 1)"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument(
        "nets",
        nargs="*",
        metavar="NET",
        help="a backbone (vgg16, torchvision:resnet50) or a checkpoint; none: the net that the flags describe",
    )
    parser.add_argument(
        "--layers", action="store_true", help="list every feature: stride, start, field, channels, size"
    )
    parser.add_argument("--time", action="store_true", help="measure the forward pass on this machine too")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    add_settings(parser, InspectSettings, "the image")
    add_settings(parser, ModelConfig, "the net")


def run(args: argparse.Namespace) -> int:
    """Describe the nets."""
    from fullconv.cli.inspect_table import show
    from fullconv.profiling.network_facts import forward_time, network_facts, subjects

    size = from_mapping(InspectSettings, {"size": getattr(args, "size", None)}, "command line").size or (500, 500)
    if max(size) > LARGEST:
        raise UsageError(f"--size {size[0]}x{size[1]}: no image is that large; give sides of at most {LARGEST:,}")
    given = {spec.name: getattr(args, spec.name) for spec in fields(ModelConfig) if hasattr(args, spec.name)}
    found = [network_facts(subject, size, args.layers) for subject in subjects(args.nets, given)]
    if args.time:
        for one in found:
            with Console(stderr=True).status(f"timing {shown(one['net'])} at {size[0]}x{size[1]}"):
                one |= forward_time(one)
    if args.json:
        print_json(found[0] if len(found) == 1 else {"nets": found})
    else:
        show(console_for(False), found)
    return 0
