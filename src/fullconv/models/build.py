"""The FCN that a `ModelConfig` describes: classifier, dense classifier, trunk, padding, features to score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from fullconv.config import ModelConfig
from fullconv.errors import UsageError
from fullconv.models.backbones.registry import backbone
from fullconv.models.convolutionalize import Conversion, convolutionalize, decapitate
from fullconv.models.fcn import FCN
from fullconv.models.graph import give, node_names
from fullconv.models.trace import Trace, walk
from fullconv.models.variants import converted_in, dilate_last_pool, enlarge_last_pool, first_convolution, take_channels

PAPER_PADDING = 100
"""The padding of the first convolution in every released network."""


def build_classifier(config: ModelConfig, classes: int) -> nn.Module:
    """Build the classifier that is the backbone of a configuration, for a number of classes."""
    chosen = backbone(config.backbone)
    options: dict[str, Any] = {"num_classes": classes, "width": config.width}
    if config.native_size is not None:
        if not chosen.resizable:
            raise UsageError(f"native_size: {config.backbone} takes crops of any size; leave native_size out")
        options["native_size"] = config.native_size
    classifier = chosen.make(**options)
    if config.dropout is not None:
        for layer in classifier.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = config.dropout
    return classifier


def native_size(config: ModelConfig) -> int:
    """Return the side of the crop that the classifier takes."""
    return config.native_size or backbone(config.backbone).native_size


def build(config: ModelConfig) -> FCN:
    """Build the FCN of a configuration, with random weights below the scores and zero scores.

    Raises:
        UsageError: The backbone is unknown, or has no feature at the stride.

    >>> net = build(ModelConfig("vgg11", stride=16, num_classes=3, width=1 / 32))
    >>> import torch
    >>> net(torch.zeros(1, 3, 41, 1)).shape
    torch.Size([1, 3, 41, 1])
    """
    if not isinstance(config, ModelConfig):
        raise UsageError(
            f"build: config is a {type(config).__name__}; give a ModelConfig (a classifier of your own goes through "
            "fullconv.convolutionalize)"
        )
    dense, conversion = convolutionalize(build_classifier(config, classes=1), native_size(config))
    return from_classifier(dense, conversion, config, backbone(config.backbone).stages)


def from_classifier(dense: fx.GraphModule, conversion: Conversion, config: ModelConfig, stages: str) -> FCN:
    """Build the FCN on a convolutionalized classifier.

    `stages` is a pattern for the names of the modules whose outputs may be skips.

    Raises:
        UsageError: There is no feature at the stride, or the trunk does not take the variant.
    """
    trunk = decapitate(dense, conversion)
    take_channels(trunk, config.channels)
    if config.last_pool == "enlarged":
        enlarge_last_pool(trunk, conversion)
    apply_padding(trunk, conversion, config.padding)
    if config.last_pool == "dilated":
        trunk = dilate_last_pool(trunk, config.channels)
    trace = walk(trunk, config.channels)
    features = choose_features(trunk, trace, config.stride, stages, config.backbone)
    features = features[-1:] if config.levels == "finest" else features
    give_features(trunk, features)
    return FCN(trunk, walk(trunk, config.channels), features, config)


def apply_padding(trunk: fx.GraphModule, conversion: Conversion, policy: str) -> None:
    """Set the padding of a trunk, in place.

    ``paper``: 100 on the first convolution, none on fc6. ``tight``: every convolution as in the classifier, and fc6
    padded like any other, so that its output covers the image; the network's margin adds what is then still missing.
    """
    if policy == "paper":
        first_convolution(trunk)[1].padding = (PAPER_PADDING, PAPER_PADDING)
        return
    for _, layer in converted_in(trunk, conversion):
        layer.padding = tuple((kernel - 1) // 2 for kernel in layer.kernel_size)


def stage_outputs(graph_module: fx.GraphModule, pattern: str) -> dict[str, str]:
    """Return the output feature of each module whose name matches `pattern`, by that name."""
    names = node_names(graph_module.graph)
    ends: dict[str, str] = {}
    for node in graph_module.graph.nodes:
        for module in node.meta.get("nn_module_stack", {}):
            if re.fullmatch(pattern, module):
                ends[module] = names[node]  # the last node of a module is its output
    return ends


def choose_features(graph_module: fx.GraphModule, trace: Trace, stride: int, stages: str, name: str) -> list[str]:
    """Return the features to score: the trunk's output, and the last stage of each finer stride down to `stride`."""
    coarsest = trace.last
    by_stride = {int(coarsest.axis.stride): coarsest.name}
    for feature in stage_outputs(graph_module, stages).values():
        at = int(trace[feature].axis.stride)
        if at < coarsest.axis.stride:
            by_stride[at] = feature
    if stride not in by_stride:
        have = ", ".join(str(s) for s in sorted(by_stride, reverse=True) if s > 1)
        raise UsageError(f"stride {stride}: {name} has no feature at that stride; One of: {have}")
    return [by_stride[at] for at in sorted(by_stride, reverse=True) if at >= stride]


def give_features(graph_module: fx.GraphModule, features: Sequence[str]) -> None:
    """Make a graph return the named features as a tuple, and erase what none of them needs."""
    nodes = {name: node for node, name in node_names(graph_module.graph).items()}
    give(graph_module, tuple(nodes[feature] for feature in features))
