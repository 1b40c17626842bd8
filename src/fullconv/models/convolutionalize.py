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
    graph_module = symbolic_trace(copy.deepcopy(classifier)).eval()
    name = type(classifier).__name__
    surgery = _Surgery(graph_module, _shapes_at(graph_module, name, (1, channels, height, width)))
    for node in list(graph_module.graph.nodes):
        surgery.exchange(node)
    _drop_dead(graph_module.graph)
    graph_module.graph.lint()
    graph_module.recompile()
    graph_module.train(classifier.training)
    try:
        trace = walk(graph_module, channels)
    except UsageError as problem:
        raise ConversionError(f"{name}: {problem}") from None
    report = Conversion(tuple(surgery.changes), tuple(surgery.converted), tuple(surgery.pools), (height, width), trace)
    return graph_module, report


def _shapes_at(graph_module: fx.GraphModule, name: str, size: tuple[int, int, int, int]) -> dict[fx.Node, torch.Size]:
    """The shapes for an image of a size; a classifier that does not take it is refused."""
    like = next(graph_module.parameters(), torch.zeros(()))
    run = _Shapes(graph_module)
    try:
        with torch.no_grad():
            run.run(torch.zeros(size, dtype=like.dtype, device=like.device))
    except (RuntimeError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise ConversionError(
            f"{name}: it does not take an image of {size[2]}x{size[3]} ({reason}); "
            "give the native size of the classifier"
        ) from None
    return run.shapes


class _Surgery:
    """A graph whose layers are exchanged one by one, in their order, and the record of it.

    spatial: the values that were flat and stay maps now, with their shape before the flattening.
    """

    def __init__(self, graph_module: fx.GraphModule, shapes: dict[fx.Node, torch.Size]) -> None:
        self.graph_module, self.graph, self.shapes = graph_module, graph_module.graph, shapes
        self.changes: list[Change] = []
        self.converted: list[str] = []
        self.pools: list[str] = []
        self.spatial: dict[fx.Node, torch.Size] = {}

    def exchange(self, node: fx.Node) -> None:
        """Put the dense form of one layer in its place, or leave it."""
        if not node.all_input_nodes or node.op == "output":
            return
        source = node.all_input_nodes[0]
        layer = self.graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if _is_flatten(node, layer, self.shapes):
            self.spatial[source] = self.shapes[source]
            self.record(node, layer, _kind(node, layer), "nothing")
            self.bypass(node, source)
        elif isinstance(layer, nn.Linear):
            self.linear(node, layer, source)
        elif _is_pool_to_a_size(node, layer):
            self.pool(node, layer, source)
        elif source in self.spatial:
            self.spatial[node] = self.spatial[source]

    def record(self, node: fx.Node, layer: nn.Module | None, was: str, became: str) -> None:
        """Note a change under the layer's name."""
        self.changes.append(Change(_name(node, layer), was, became))

    def bypass(self, node: fx.Node, source: fx.Node) -> None:
        """Take a node out; what used it uses its source."""
        node.replace_all_uses_with(source)
        self.graph.erase_node(node)

    def linear(self, node: fx.Node, layer: nn.Linear, source: fx.Node) -> None:
        """A fully connected layer over a flattened map becomes the convolution that covers the map."""
        name = str(node.target)
        if source not in self.spatial:
            raise ConversionError(
                f"layer '{name}' (Linear): it works on something other than a flattened map; no dense form is known"
            )
        _, channels, height, width = self.spatial[source]
        self.graph_module.set_submodule(name, fully_connected_as_convolution(layer, channels, height, width))
        self.spatial[node] = torch.Size((1, layer.out_features, 1, 1))
        if height * width > 1:
            self.converted.append(name)
        was = f"Linear {layer.in_features} -> {layer.out_features}"
        self.record(node, layer, was, f"Conv2d {channels} -> {layer.out_features}, {height}x{width}")

    def pool(self, node: fx.Node, layer: nn.Module | None, source: fx.Node) -> None:
        """A pool to a given size: nothing where the map has that size, else the pool as large as the native map."""
        before, after = self.shapes[source], self.shapes[node]
        goal = (after[2], after[3]) if len(after) == 4 else (1, 1)
        kind, side = _kind(node, layer), f"{goal[0]}x{goal[1]}"
        if goal == tuple(before[2:]) and goal != (1, 1):
            self.record(node, layer, f"{kind} to {side}", "nothing (the map has that size already)")
            self.bypass(node, source)
            return
        if goal != (1, 1):
            raise ConversionError(
                f"layer '{_name(node, layer)}' ({kind} from {before[2]}x{before[3]} to {side}): its windows depend on "
                "the image's size; choose a native size at which the map has the pool's own size"
            )
        kernel = (before[2], before[3])
        dense: nn.Module = (
            nn.MaxPool2d(kernel, 1) if isinstance(layer, nn.AdaptiveMaxPool2d) else nn.AvgPool2d(kernel, 1)
        )
        became = f"{type(dense).__name__} {kernel[0]}x{kernel[1]}, stride 1"
        self.record(node, layer, f"{kind} over the whole map", became)
        name = str(node.target) if layer is not None else f"{node.name}_pool"
        self.graph_module.add_submodule(name, dense)
        self.pools.append(name)
        with self.graph.inserting_after(node):
            new = self.graph.call_module(name, (source,))
        self.shapes[new] = torch.Size((*before[:2], 1, 1))
        if len(after) == 2:  # a mean over the map flattens too
            self.spatial[new] = self.shapes[new]
        self.bypass(node, new)


def _name(node: fx.Node, layer: nn.Module | None) -> str:
    return str(node.target) if layer is not None else node.name


def _kind(node: fx.Node, layer: nn.Module | None) -> str:
    return type(layer).__name__ if layer is not None else str(getattr(node.target, "__name__", node.target))


def _is_pool_to_a_size(node: fx.Node, layer: nn.Module | None) -> bool:
    adaptive = isinstance(layer, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
    return adaptive or node.target is F.adaptive_avg_pool2d or _is_mean_over_map(node)


def _drop_dead(graph: fx.Graph) -> None:
    """Removes what nothing uses any more (the sizes that a ``view`` asked for)."""
    for node in reversed(list(graph.nodes)):
        asked = node.op not in ("output", "placeholder") and node.target in (getattr, operator.getitem, "size")
        if asked and not node.users:
            graph.erase_node(node)


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
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)
    trunk.delete_all_unused_submodules()
    trunk.recompile()
    return trunk
