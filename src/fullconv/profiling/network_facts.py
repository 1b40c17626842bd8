"""Geometry and cost of networks as plain values: what ``fullconv inspect`` prints."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fullconv.config import ModelConfig, Size, from_mapping, to_mapping
from fullconv.errors import RunError, UsageError, shown, suggestion
from fullconv.hardware import machine
from fullconv.models.backbones.external import is_zoo_name
from fullconv.models.backbones.registry import BACKBONES
from fullconv.models.build import build, build_classifier, native_size
from fullconv.models.convolutionalize import convolutionalize
from fullconv.models.fcn import FCN
from fullconv.profiling.graph_cost import PARTS, cost, depth, feature_sizes
from fullconv.weights import checkpoint

PASSES = 5
"""Forward passes that are timed, after one that is not."""


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


def subjects(names: Sequence[str], given: Mapping[str, Any]) -> list[Subject]:
    """Return the networks that are named, or the one that the settings describe if none is.

    given: settings of an FCN on a backbone or a classifier; a checkpoint of an FCN holds its own.
    """
    if not names:
        config = from_mapping(ModelConfig, given, "command line")
        return [Subject(config.backbone, config)]
    if "backbone" in given:
        raise UsageError(f"--backbone {given['backbone']}: the nets are named already; give it as one of them")
    found = [
        Subject(name, from_mapping(ModelConfig, {**given, "backbone": name}, "command line"))
        if name in BACKBONES or is_zoo_name(name)
        else _of_checkpoint(name, given, BACKBONES)
        for name in names
    ]
    if given and all(one.kind == "fcn" for one in found):
        flag = "--" + next(iter(given)).replace("_", "-")
        raise UsageError(f"{flag}: a checkpoint says itself what net it is; leave the flag out, or name a backbone")
    return found


def _of_checkpoint(name: str, given: Mapping[str, Any], backbones: Iterable[str]) -> Subject:
    """Return the network of a checkpoint's header; for a classifier, the FCN that the settings make of it."""
    path = Path(name)
    if not path.exists() and path.name == name and not path.suffix:
        raise UsageError(f"'{shown(name)}': neither a backbone nor a checkpoint; {suggestion(name, backbones)}")
    header = checkpoint.load(path)[1]
    if header is None:
        raise UsageError(f"{path}: plain weights do not say what net they are for; describe it by --backbone")
    config = header.model
    if header.kind != "fcn":
        own = {key: value for key, value in to_mapping(config).items() if key != "num_classes"}
        config = from_mapping(ModelConfig, {**own, **given}, "command line")
    return Subject(name, config, header.kind, header.provenance)


def network_facts(subject: Subject, size: Size, layers: bool = False) -> dict[str, Any]:
    """Return geometry and cost of a network for an image of a size, as plain values; with `layers` of each feature."""
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
    if config.levels != "all":
        return None
    conversion = convolutionalize(build_classifier(config, classes=1), native_size(config))[1]
    return str(conversion.trace.last.axis.field) if conversion.pools else None


def forward_time(found: dict[str, Any]) -> dict[str, Any]:
    """Measure a forward pass of one image: the median of some in seconds, and the machine.

    found: what `network_facts` returned. The weights are random, which takes as long, in fp32, in the memory layout of
    ``predict``.
    """
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
    with torch.inference_mode():
        net = build(config).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        image = torch.randn(1, config.channels * len(net.streams), height, width)
        image = image.contiguous(memory_format=torch.channels_last)
        for _ in range(1 + PASSES):
            began = time.perf_counter()
            net(image)
            seconds.append(time.perf_counter() - began)
    return {"forward_seconds": statistics.median(seconds[1:]), "machine": machine()}
