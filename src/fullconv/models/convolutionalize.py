"""Turns a classifier into a fully convolutional net (section 3.1 of the paper, figure 2).

A fully connected layer is a convolution whose kernel covers its whole input; a global average pool is an average
pool as large as the map it sees on the classifier's native crop. With these two exchanges the classifier takes an
image of any size and gives a map of class scores: on the native crop the same numbers as before, on a larger image
the classifier slid over it.
"""

from __future__ import annotations

import copy
import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.errors import UsageError
from fullconv.models.trace import Trace, symbolic_trace, walk


class ConversionError(UsageError):
    """A classifier that has no exact dense form; the layer is named."""


@dataclass(frozen=True)
class Change:
    """One exchange: which layer, what it was, what it became."""

    layer: str
    was: str
    became: str


@dataclass(frozen=True)
class Conversion:
    """What `convolutionalize` did: the exchanges, and the geometry of the result.

    `converted` names the convolutions that were fully connected layers over a map (fc6), `pools` the average pools
    that were global.
    """

    changes: tuple[Change, ...]
    converted: tuple[str, ...]
    pools: tuple[str, ...]
    native_size: tuple[int, int]
    trace: Trace

    def __str__(self) -> str:
        last = self.trace.last
        lines = [f"{c.layer}: {c.was} -> {c.became}" for c in self.changes]
        axis = last.rows
        return "\n".join(
            [*lines, f"stride {axis.stride}, receptive field {axis.field}, first cell centred on {axis.start}"]
        )


def fully_connected_as_convolution(layer: nn.Linear, channels: int, height: int, width: int) -> nn.Conv2d:
    """The convolution equal to a fully connected layer over a flattened (channels, height, width) map.

    The weights are the same numbers in the same order: (out, C*H*W) read as (out, C, H, W).
    """
    if layer.in_features != channels * height * width:
        raise ConversionError(
            f"a Linear with {layer.in_features} inputs over a map of {channels} x {height} x {width}: "
            "the native size is not the one it was made for"
        )
    conv = nn.Conv2d(
        channels,
        layer.out_features,
        (height, width),
        bias=layer.bias is not None,
        dtype=layer.weight.dtype,
        device=layer.weight.device,
    )
    with torch.no_grad():
        conv.weight.copy_(layer.weight.view_as(conv.weight))
        if conv.bias is not None:
            conv.bias.copy_(layer.bias)
    return conv


class _Shapes(fx.Interpreter):
    """The shape of every value of a graph, seen by running it once."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = result.shape
        return result


FLATTEN_CALLS = {torch.flatten, "flatten", "view", "reshape", torch.reshape}


def _is_flatten(node: fx.Node, layer: nn.Module | None, shapes: dict[fx.Node, torch.Size]) -> bool:
    if not (isinstance(layer, nn.Flatten) or node.target in FLATTEN_CALLS):
        return False
    source = node.all_input_nodes[0]
    before, after = shapes.get(source), shapes.get(node)
    return before is not None and after is not None and len(before) == 4 and after == (before[0], math.prod(before[1:]))


def _is_mean_over_map(node: fx.Node) -> bool:
    if node.target not in ("mean", torch.mean):
        return False
    dims = node.args[1:] or (node.kwargs.get("dim", node.kwargs.get("axis")),)
    flat = dims[0] if len(dims) == 1 and isinstance(dims[0], list | tuple) else dims
    return sorted(int(d) % 4 for d in flat if isinstance(d, int)) == [2, 3]


def convolutionalize(
    classifier: nn.Module, native_size: int | tuple[int, int], channels: int = 3
) -> tuple[fx.GraphModule, Conversion]:
    """The dense form of a classifier, and the report of what became what.

    classifier: takes (N, channels, H, W) of the native size, gives (N, classes). It is copied, not changed.
    native_size: the side of the crop that its fully connected layers were made for, or (height, width).
    Returns a module from (N, channels, H, W) of any size that is large enough to a map (N, classes, h, w), in the
    classifier's training or evaluation mode.

    Raises `ConversionError` naming the layer that has no exact dense form.

    >>> lenet = nn.Sequential(nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 12 * 12, 10))
    >>> dense, report = convolutionalize(lenet, 28, channels=1)
    >>> dense(torch.zeros(1, 1, 28, 28)).shape[2:], dense(torch.zeros(1, 1, 32, 30)).shape[2:]
    (torch.Size([1, 1]), torch.Size([3, 2]))
    >>> print(report)
    2: Flatten -> nothing
    3: Linear 576 -> 10 -> Conv2d 4 -> 10, 12x12
    stride 2, receptive field 28, first cell centred on 27/2
    """
    height, width = (native_size, native_size) if isinstance(native_size, int) else native_size
    graph_module = symbolic_trace(copy.deepcopy(classifier))
    training = classifier.training
    reference = next(classifier.parameters(), torch.zeros(()))
    shapes_run = _Shapes(graph_module.eval())
    try:
        with torch.no_grad():
            shapes_run.run(torch.zeros(1, channels, height, width, dtype=reference.dtype, device=reference.device))
    except (RuntimeError, ValueError) as problem:
        raise ConversionError(
            f"{type(classifier).__name__}: it does not take an image of {height}x{width} "
            f"({str(problem).strip().splitlines()[0]}); "
            "give the native size of the classifier"
        ) from None
    shapes = shapes_run.shapes
    changes: list[Change] = []
    converted: list[str] = []
    pools: list[str] = []
    spatial: dict[
        fx.Node, torch.Size
    ] = {}  # values that were flat and stay maps now: their shape before the flattening

    graph = graph_module.graph
    for node in list(graph.nodes):
        layer = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        name = str(node.target) if layer is not None else node.name
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        if source is None or node.op == "output":
            continue
        if _is_flatten(node, layer, shapes):
            spatial[source] = shapes[source]
            changes.append(
                Change(
                    name,
                    type(layer).__name__ if layer else str(getattr(node.target, "__name__", node.target)),
                    "nothing",
                )
            )
            _bypass(graph, node, source)
        elif isinstance(layer, nn.Linear):
            if source not in spatial:
                raise ConversionError(
                    f"layer '{name}' (Linear): it works on something other than a flattened map; no dense form is known"
                )
            over = spatial[source]
            conv = fully_connected_as_convolution(layer, over[1], over[2], over[3])
            graph_module.set_submodule(name, conv)
            spatial[node] = torch.Size((1, layer.out_features, 1, 1))
            if over[2] * over[3] > 1:
                converted.append(name)
            changes.append(Change(name, f"Linear {layer.in_features} -> {layer.out_features}",
                                  f"Conv2d {over[1]} -> {layer.out_features}, {over[2]}x{over[3]}"))  # fmt: skip
        elif (
            isinstance(layer, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
            or node.target is F.adaptive_avg_pool2d
            or _is_mean_over_map(node)
        ):
            pool = _dense_pool(name, layer, node, shapes, changes)
            if pool is None:
                _bypass(graph, node, source)
            else:
                pooled = name if layer is not None else f"{node.name}_pool"
                graph_module.add_submodule(pooled, pool)
                pools.append(pooled)
                with graph.inserting_after(node):
                    new = graph.call_module(pooled, (source,))
                node.replace_all_uses_with(new)
                graph.erase_node(node)
                shapes[new] = torch.Size((*shapes[source][:2], 1, 1))
                if len(shapes[node]) == 2:  # mean over the map flattens too
                    spatial[new] = shapes[new]
        elif source in spatial and node.op != "placeholder":
            spatial[node] = spatial[source]
    _drop_dead(graph)
    graph.lint()
    graph_module.recompile()
    graph_module.train(training)
    try:
        trace = walk(graph_module, channels)
    except UsageError as problem:
        raise ConversionError(f"{type(classifier).__name__}: {problem}") from None
    return graph_module, Conversion(tuple(changes), tuple(converted), tuple(pools), (height, width), trace)


def _bypass(graph: fx.Graph, node: fx.Node, source: fx.Node) -> None:
    node.replace_all_uses_with(source)
    graph.erase_node(node)


def _drop_dead(graph: fx.Graph) -> None:
    """Removes what nothing uses any more (the sizes that a ``view`` asked for)."""
    for node in reversed(list(graph.nodes)):
        if (
            node.op not in ("output", "placeholder")
            and not node.users
            and (node.target in (getattr, operator.getitem, "size"))
        ):
            graph.erase_node(node)


def _dense_pool(
    name: str, layer: nn.Module | None, node: fx.Node, shapes: dict[fx.Node, torch.Size], changes: list[Change]
) -> nn.Module | None:
    """What stands for an adaptive or global pool: nothing where it changes nothing, else the pool of the native
    map's size.
    """
    before, after = shapes[node.all_input_nodes[0]], shapes[node]
    goal = (after[2], after[3]) if len(after) == 4 else (1, 1)
    kind = type(layer).__name__ if layer is not None else str(getattr(node.target, "__name__", node.target))
    if goal == tuple(before[2:]) and goal != (1, 1):
        changes.append(Change(name, f"{kind} to {goal[0]}x{goal[1]}", "nothing (the map has that size already)"))
        return None
    if goal != (1, 1):
        raise ConversionError(
            f"layer '{name}' ({kind} from {before[2]}x{before[3]} to {goal[0]}x{goal[1]}): "
            "its windows depend on the image's size; "
            "choose a native size at which the map has the pool's own size"
        )
    kernel = (before[2], before[3])
    pool: nn.Module = nn.MaxPool2d(kernel, 1) if isinstance(layer, nn.AdaptiveMaxPool2d) else nn.AvgPool2d(kernel, 1)
    changes.append(
        Change(name, f"{kind} over the whole map", f"{type(pool).__name__} {kernel[0]}x{kernel[1]}, stride 1")
    )
    return pool


def decapitate(dense: fx.GraphModule, conversion: Conversion) -> fx.GraphModule:
    """The dense classifier without its class scores: the trunk that an FCN scores anew (section 4.1).

    The last layer with weights goes, with all that follows it, and so do global pools (GoogLeNet's final average
    pool "is dropped"). The output of the trunk is what the class scores were computed from (for VGG16: fc7 after its
    dropout).
    """
    trunk = fx.GraphModule(dense, copy.deepcopy(dense.graph))
    graph = trunk.graph
    weighted = [
        node
        for node in graph.nodes
        if node.op == "call_module"
        and any(True for _ in trunk.get_submodule(str(node.target)).parameters(recurse=False))
    ]
    if not weighted:
        raise ConversionError("the classifier has no layer with weights: nothing to take the features from")
    scores = weighted[-1]
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = (scores.all_input_nodes[0],)
    for node in reversed(list(graph.nodes)):
        if node.op != "output" and not node.users:
            if node.op == "placeholder":
                raise ConversionError(
                    f"layer '{scores.target}': it is the only layer with weights; an FCN needs features below it"
                )
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.op == "call_module" and str(node.target) in conversion.pools:
            _bypass(graph, node, node.all_input_nodes[0])
    trunk.delete_all_unused_submodules()
    trunk.recompile()
    return trunk
