"""The exchanges that make a classifier dense, layer by layer, on its graph (section 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.errors import UsageError
from fullconv.models.graph import argument, bypass, erase_dead, kind_name, layer_of, replace, works_in_place
from fullconv.models.trace import POINTWISE


class ConversionError(UsageError):
    """A classifier without an exact dense form; the message names the layer."""


@dataclass(frozen=True)
class Change:
    """One exchange: the layer, what it was, what it became."""

    layer: str
    was: str
    became: str


class LayerNorm2d(nn.LayerNorm):
    """ConvNeXt's norm over the channels of each cell, (N, C, H, W) -> (N, C, H, W), for maps with channels first."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize each cell by its own mean and deviation."""
        cells = F.layer_norm(input.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return cells.movedim(-1, 1)


def fully_connected_as_convolution(layer: nn.Linear, channels: int, height: int, width: int) -> nn.Conv2d:
    """Return the convolution equal to a fully connected layer over a flattened (channels, height, width) map.

    The weights are the same numbers in the same order: (out, C*H*W) read as (out, C, H, W).

    Raises:
        ConversionError: The layer has another number of inputs.
    """
    if layer.in_features != channels * height * width:
        raise ConversionError(
            f"a Linear with {layer.in_features} inputs over a map of {channels} x {height} x {width}: "
            "the native size is not the one it was made for"
        )
    like: dict[str, Any] = {"dtype": layer.weight.dtype, "device": layer.weight.device}
    conv = nn.Conv2d(channels, layer.out_features, (height, width), bias=layer.bias is not None, **like)
    with torch.no_grad():
        conv.weight.copy_(layer.weight.view_as(conv.weight))
        if conv.bias is not None:
            conv.bias.copy_(layer.bias)
    return conv


ADAPTIVE_POOLS = nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d
VIEWS = ("view", "reshape", torch.reshape)


def _is_flatten(node: fx.Node, layer: nn.Module | None, shapes: dict[fx.Node, torch.Size]) -> bool:
    if not (isinstance(layer, nn.Flatten) or node.target in ("flatten", torch.flatten, *VIEWS)):
        return False
    before, after = shapes.get(node.all_input_nodes[0], ()), shapes.get(node)
    return len(before) == 4 and after == (before[0], math.prod(before[1:]))


ROWS_FIRST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def _turn(node: fx.Node, shapes: dict[fx.Node, torch.Size]) -> tuple[int, ...] | None:
    """Return the order to which a node turns a map's axes, if it is `ROWS_FIRST` or `CHANNELS_FIRST`."""
    if node.target not in ("permute", torch.permute) or len(shapes.get(node, ())) != 4:
        return None
    dims: Any = argument(node, 1, "dims") if len(node.args) <= 2 else node.args[1:]
    order = tuple(int(d) % 4 for d in dims) if isinstance(dims, list | tuple) else ()
    return order if order in (ROWS_FIRST, CHANNELS_FIRST) else None


def _back(node: fx.Node) -> fx.Node:
    """Return what a node reads, past a copy in memory."""
    source = node.all_input_nodes[0]
    return _back(source) if source.target == "contiguous" else source


def _shuffles(node: fx.Node, shapes: dict[fx.Node, torch.Size]) -> int | None:
    """Return the groups of a channel shuffle that a node ends: (N, C, H, W) as (N, g, C/g, H, W), turned, and back."""
    if node.target not in VIEWS or len(shapes.get(node, ())) != 4:
        return None
    turned = _back(node)
    if turned.target not in ("transpose", torch.transpose) or tuple(turned.args[1:]) not in ((1, 2), (2, 1)):
        return None
    parts = _back(turned)
    before = shapes.get(parts.all_input_nodes[0]) if parts.target in VIEWS else None
    grouped = shapes.get(parts, torch.Size())
    fits = before == shapes[node] and len(grouped) == 5 and grouped[1] * grouped[2] == shapes[node][1]
    return int(grouped[1]) if fits else None


def _is_mean_over_map(node: fx.Node) -> bool:
    if node.target not in ("mean", torch.mean):
        return False
    dims = node.args[1:] or (node.kwargs.get("dim", node.kwargs.get("axis")),)
    flat = dims[0] if len(dims) == 1 and isinstance(dims[0], list | tuple) else dims
    return sorted(int(d) % 4 for d in flat if isinstance(d, int)) == [2, 3]


def shapes_at(graph_module: fx.GraphModule, name: str, size: tuple[int, int, int, int]) -> dict[fx.Node, torch.Size]:
    """Return the shape of every tensor in a graph for an image of `size` (N, C, H, W).

    Raises:
        ConversionError: The classifier, `name` in the message, does not take an image of that size.
    """
    like = next(graph_module.parameters(), torch.zeros(()))
    shapes: dict[fx.Node, torch.Size] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                shapes[n] = result.shape
            return result

    try:
        with torch.no_grad():
            Recorder(graph_module).run(torch.zeros(size, dtype=like.dtype, device=like.device))
    except (RuntimeError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise ConversionError(
            f"{name}: it does not take an image of {size[2]}x{size[3]} ({reason}); "
            "give the native size of the classifier"
        ) from None
    return shapes


class Surgery:
    """A graph whose layers are exchanged one by one, in order, and the record of it.

    spatial: the values that are flat in the classifier and maps in the dense network, with their shape as maps.
    rows_first: the values that are (N, H, W, C) in the classifier and (N, C, H, W) in the dense network.
    turns: the nodes that permute between the two.
    """

    def __init__(self, graph_module: fx.GraphModule, shapes: dict[fx.Node, torch.Size]) -> None:
        self.graph_module, self.graph, self.shapes = graph_module, graph_module.graph, shapes
        self.changes: list[Change] = []
        self.converted: list[str] = []
        self.pools: list[str] = []
        self.spatial: dict[fx.Node, torch.Size] = {}
        self.rows_first: set[fx.Node] = set()
        self.turns: list[fx.Node] = []

    def exchange(self, node: fx.Node) -> None:
        """Replace one layer by its dense form, if it needs one."""
        if not node.all_input_nodes or node.op == "output":
            return
        source = node.all_input_nodes[0]
        layer = layer_of(self.graph_module, node)
        if (turned := _turn(node, self.shapes)) is not None:
            self.turns.append(node)
            if turned == ROWS_FIRST:
                self.rows_first.add(node)
        elif source in self.rows_first:
            self.channels_last(node, layer, source)
        elif (groups := _shuffles(node, self.shapes)) is not None:
            self.shuffle(node, groups)
        elif isinstance(layer, nn.BatchNorm1d) and source in self.spatial:
            self.batch_norm(node, layer, source)
        elif _is_flatten(node, layer, self.shapes):
            self.spatial[source] = self.shapes[source]
            self.record(node, kind_name(node, layer), "nothing")
            bypass(node, source)
        elif isinstance(layer, nn.Linear):
            self.linear(node, layer, source)
        elif isinstance(layer, ADAPTIVE_POOLS) or node.target is F.adaptive_avg_pool2d or _is_mean_over_map(node):
            self.pool(node, layer, source)
        elif source in self.spatial:
            self.spatial[node] = self.spatial[source]

    def finish(self) -> None:
        """Erase what no layer needs once all are exchanged."""
        for node in self.turns:
            bypass(node)
        # Sizes that a ``view`` asked for, checks, views that became a layer. What works in place has an effect.
        erase_dead(self.graph, lambda n: n.op in ("call_function", "call_method") and not works_in_place(n))

    def record(self, node: fx.Node, was: str, became: str) -> None:
        """Record a change under the layer's name."""
        self.changes.append(Change(_name(node), was, became))

    def linear(self, node: fx.Node, layer: nn.Linear, source: fx.Node) -> None:
        """Replace a fully connected layer over a flattened map by the convolution that covers the map."""
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
        self.record(node, was, f"Conv2d {channels} -> {layer.out_features}, {height}x{width}")

    def channels_last(self, node: fx.Node, layer: nn.Module | None, source: fx.Node) -> None:
        """Replace a layer on (N, H, W, C), as in ConvNeXt; with channels first a Linear is a 1x1 convolution."""
        name = _name(node)
        if isinstance(layer, nn.Linear):
            self.graph_module.set_submodule(name, fully_connected_as_convolution(layer, layer.in_features, 1, 1))
            self.record(node, f"Linear {layer.in_features} -> {layer.out_features} at each cell", "Conv2d, 1x1")
        elif isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
            layer.__class__ = LayerNorm2d  # with the same parameters
            self.record(node, "LayerNorm at each cell", "the same, channels first")
        elif not isinstance(layer, POINTWISE):
            raise ConversionError(
                f"layer '{name}' ({kind_name(node, layer)}): it works on rows before channels; no dense form is known"
            )
        self.rows_first.add(node)

    def shuffle(self, node: fx.Node, groups: int) -> None:
        """Replace the view, transpose and view that shuffle channels (ShuffleNet) by one layer."""
        first = _back(_back(node))
        self.record(node, "view, transpose, view", f"ChannelShuffle of {groups} groups")
        shuffle, name = nn.ChannelShuffle(groups), f"{node.name}_shuffle"
        new = replace(self.graph_module, node, name, shuffle, first.all_input_nodes[0])
        self.shapes[new] = self.shapes[node]

    def batch_norm(self, node: fx.Node, layer: nn.BatchNorm1d, source: fx.Node) -> None:
        """Replace a batch norm over a vector by one over the channels of a map of 1x1 cells."""
        _, channels, height, width = self.spatial[source]
        if height * width > 1 or channels != layer.num_features:
            raise ConversionError(
                f"layer '{node.target}' (BatchNorm1d): it has numbers of its own for each place of the map; "
                "fold it into the Linear before or after it"
            )
        layer.__class__ = nn.BatchNorm2d  # type: ignore[assignment]  # with the same parameters and statistics
        self.record(node, f"BatchNorm1d of {channels}", f"BatchNorm2d of {channels}")
        self.spatial[node] = self.spatial[source]

    def pool(self, node: fx.Node, layer: nn.Module | None, source: fx.Node) -> None:
        """Erase a pool to the size that the map has; replace a global pool by one as large as the native map."""
        before, after = self.shapes[source], self.shapes[node]
        goal = (after[2], after[3]) if len(after) == 4 else (1, 1)
        kind, side = kind_name(node, layer), f"{goal[0]}x{goal[1]}"
        if goal == tuple(before[2:]) and goal != (1, 1):
            self.record(node, f"{kind} to {side}", "nothing (the map has that size already)")
            bypass(node, source)
            return
        if goal != (1, 1):
            raise ConversionError(
                f"layer '{_name(node)}' ({kind} from {before[2]}x{before[3]} to {side}): its windows depend on "
                "the image's size; choose a native size at which the map has the pool's own size"
            )
        dense = (nn.MaxPool2d if isinstance(layer, nn.AdaptiveMaxPool2d) else nn.AvgPool2d)((before[2], before[3]), 1)
        became = f"{type(dense).__name__} {before[2]}x{before[3]}, stride 1"
        self.record(node, f"{kind} over the whole map", became)
        name = str(node.target) if layer is not None else f"{node.name}_pool"
        self.pools.append(name)
        new = replace(self.graph_module, node, name, dense, source)
        self.shapes[new] = torch.Size((*before[:2], 1, 1))
        if len(after) == 2:  # a mean over the map flattens too
            self.spatial[new] = self.shapes[new]


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name
