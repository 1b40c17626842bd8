"""Show what a net is and what it costs: receptive field, stride, crops, layers; arithmetic and memory for an image.
Several nets stand side by side, as in the paper's table 1.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.cli.options import MODEL_FLAGS, add_settings
from fullconv.config import ModelConfig, Size, from_mapping, option, to_mapping
from fullconv.errors import RunError, UsageError, shown, suggestion

if TYPE_CHECKING:
    from fullconv.models.fcn import FCN

EXAMPLE = "fullconv inspect caffenet vgg16 googlenet --stride 32 --padding paper"

PASSES = 5
"""Forward passes that are timed, after one that is not."""

LARGEST = 1_000_000
"""The largest side of an image."""


@dataclass(frozen=True)
class InspectSettings:
    """The image that the net is looked at with."""

    size: Size | None = option(
        None, "size that cost and features are told for, HEIGHTxWIDTH (default: 500x500, as in the paper's table 1)"
    )


@dataclass(frozen=True)
class Subject:
    """A net to be shown.

    name: as it was given. kind: what that is, a ``backbone``, or a checkpoint of an ``fcn`` or a ``classifier``.
    provenance: what a checkpoint says of its training.
    """

    name: str
    config: ModelConfig
    kind: str = "backbone"
    provenance: dict[str, Any] = field(default_factory=dict)


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
    from rich.console import Console

    from fullconv.cli.inspect_table import show
    from fullconv.cli.show import print_json

    size = from_mapping(InspectSettings, {"size": getattr(args, "size", None)}, "command line").size or (500, 500)
    if max(size) > LARGEST:
        raise UsageError(f"--size {size[0]}x{size[1]}: no image is that large; give sides of at most {LARGEST:,}")
    found = [facts(subject, size, args.layers) for subject in subjects(args)]
    if args.time:
        found = [one | timed(one) for one in found]
    if args.json:
        print_json(found[0] if len(found) == 1 else {"nets": found})
    else:
        show(Console(soft_wrap=True, markup=False, emoji=False, highlight=False), found)
    return 0


def subjects(args: argparse.Namespace) -> list[Subject]:
    """The nets that are named, or else the one that the flags describe.

    The flags say what is made of a backbone or a classifier; a checkpoint of an FCN says itself what net it is.
    """
    from fullconv.models.backbones.external import is_zoo_name
    from fullconv.models.backbones.registry import BACKBONES

    given = {name: getattr(args, name) for name in (*MODEL_FLAGS, "num_classes") if hasattr(args, name)}
    if not args.nets:
        config = from_mapping(ModelConfig, given, "command line")
        return [Subject(config.backbone, config)]
    if "backbone" in given:
        raise UsageError(f"--backbone {given['backbone']}: the nets are named already; give it as one of them")
    found = [
        Subject(name, from_mapping(ModelConfig, {**given, "backbone": name}, "command line"))
        if name in BACKBONES or is_zoo_name(name)
        else checkpoint(name, given, BACKBONES)
        for name in args.nets
    ]
    if given and all(one.kind == "fcn" for one in found):
        flag = "--" + next(iter(given)).replace("_", "-")
        raise UsageError(f"{flag}: a checkpoint says itself what net it is; leave the flag out, or name a backbone")
    return found


def checkpoint(name: str, given: dict[str, Any], backbones: Iterable[str]) -> Subject:
    """The net in a checkpoint's header; of a classifier, the FCN that the given flags make of it."""
    from fullconv.weights import checkpoint as weights

    path = Path(name)
    if not path.exists() and path.name == name and not path.suffix:
        raise UsageError(f"'{shown(name)}': neither a backbone nor a checkpoint; {suggestion(name, backbones)}")
    header = weights.load(path)[1]
    if header is None:
        raise UsageError(f"{path}: plain weights do not say what net they are for; describe it by --backbone")
    config = header.model
    if header.kind != "fcn":
        own = {key: value for key, value in to_mapping(config).items() if key in MODEL_FLAGS}
        config = from_mapping(ModelConfig, {**own, **given}, "command line")
    return Subject(name, config, header.kind, header.provenance)


def facts(subject: Subject, size: Size, layers: bool) -> dict[str, Any]:
    """All that is printed of a net for an image of a size, as plain values."""
    import torch

    from fullconv.models.build import build
    from fullconv.profiling.graph_cost import PARTS, cost, depth

    with torch.device("meta"):
        net = build(subject.config)
        with_pool = field_with_pool(subject.config)
    top, spent = net.trace[net.features[0]].axis, cost(net, *size)
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in net.named_children()}
    measured = subject.provenance.get("val")
    found = {
        "net": subject.name,
        "kind": subject.kind,
        "model": to_mapping(subject.config),
        "parameters": spent.parameters,
        "parameters_by_part": {name: count for name, count in counts.items() if count},
        "depth": depth(net),
        "receptive_field": str(top.field),
        "receptive_field_with_pool": with_pool if with_pool != str(top.field) else None,
        "coarsest_stride": str(top.stride),
        "margin": {"before": net.margin.before, "after": net.margin.after, "least": net.margin.least},
        "joins": [
            {"upscore": name, "taps": join.window.kernel, "factor": join.window.stride,
             "crop": join.crop_scores, "crop_skip": join.crop_skip}
            for name, join in zip(net.upscore_names, net.joins, strict=True)
        ],
        "scores": dict(zip(net.score_names, net.features, strict=True)),
        "size": list(size),
        "flops": spent.flops,
        "flops_by_part": {part: 2 * getattr(spent, part) for part in PARTS},
        "weight_bytes": spent.weight_bytes,
        "peak_bytes": spent.peak_bytes,
        "kept_bytes": spent.kept_bytes,
        "mean_iu": measured.get("mean_iu") if isinstance(measured, dict) else None,
    }  # fmt: skip
    return found | ({"layers": layer_facts(net, size)} if layers else {})


def layer_facts(net: FCN, size: Size) -> list[dict[str, Any]]:
    """Every feature of the trunk, in the order in which they are computed."""
    from fullconv.profiling.graph_cost import feature_sizes

    sizes = feature_sizes(net, *size)
    return [
        {"name": f.name, "channels": f.channels, "size": list(sizes[f.name])}
        | {part: str(getattr(f.rows, part)) for part in ("stride", "start", "field")}
        for f in net.trace
    ]


def field_with_pool(config: ModelConfig) -> str | None:
    """The receptive field of the whole classifier, where it ends in a global average pool, which an FCN leaves out
    (section 4.1). The 907 that table 1 prints for GoogLeNet is this one.
    """
    from fullconv.models.build import build_classifier, native_size
    from fullconv.models.convolutionalize import convolutionalize

    if config.levels != "all":
        return None
    conversion = convolutionalize(build_classifier(config, classes=1), native_size(config))[1]
    return str(conversion.trace.last.axis.field) if conversion.pools else None


def timed(found: dict[str, Any]) -> dict[str, Any]:
    """The seconds of a forward pass of one image, the median of some, and the machine that they were measured on.

    With random weights, which take as long as others, in fp32, laid out as ``predict`` does.
    """
    import statistics
    import time

    import torch
    from rich.console import Console

    from fullconv.bench.machine import machine
    from fullconv.models.build import build

    name, (height, width) = shown(found["net"]), found["size"]
    needed, there = (
        found["weight_bytes"] + found["peak_bytes"],
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )
    if needed > there:
        raise RunError(
            f"{name}: a forward pass at {height}x{width} needs {needed / 1e6:,.0f} MB, this machine has "
            f"{there / 1e6:,.0f}; give a smaller --size"
        )
    config, seconds = from_mapping(ModelConfig, found["model"], name), []
    with Console(stderr=True).status(f"timing {name} at {height}x{width}"), torch.inference_mode():
        net = build(config).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        image = torch.randn(1, config.channels * len(net.streams), height, width)
        image = image.contiguous(memory_format=torch.channels_last)
        for _ in range(1 + PASSES):
            began = time.perf_counter()
            net(image)
            seconds.append(time.perf_counter() - began)
    return {"forward_seconds": statistics.median(seconds[1:]), "machine": machine()}
