"""The trace of a network: where the cells of every feature look, and the feature's size and channels (section 3).

`walk` follows the layers with ``torch.fx``, as Caffe's ``coord_map`` follows the layers of a prototxt: each layer
contributes its window on each axis, point-wise layers contribute nothing, branches must agree. A layer without an
affine map (a fully connected layer, a global pooling, attention) is refused by its name.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fullconv.geometry import IMAGE, AxisMap, GeometryError, Window
from fullconv.models.graph import argument, features_of, kind_name, layer_of, node_names

Windows = tuple[Window, Window]
"""The windows of one layer on the rows and on the columns."""

POINTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softplus,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.BatchNorm2d,
    nn.ChannelShuffle, nn.LocalResponseNorm,
)  # fmt: skip
POINTWISE_CALLS = {
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.sigmoid, F.tanh, F.hardswish, F.hardsigmoid, F.dropout,
    F.dropout2d, F.local_response_norm, torch.relu, torch.relu_, torch.sigmoid, torch.tanh, torch.clamp, operator.neg,
    "relu", "relu_", "sigmoid", "tanh", "clamp", "contiguous", "float",
}  # fmt: skip
SUMS = {
    operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, operator.truediv, torch.add, torch.mul,
    torch.maximum, "add", "add_", "mul", "mul_",
}  # fmt: skip
"""Sums and other arithmetic of features, cell by cell."""

POINTWISE_NAMES = ("DropPath", "LayerNorm2d", "StochasticDepth")
"""Point-wise layers of torchvision and timm: branches left out in training, a norm over the channels."""

REWEIGHTED = ("ScaledStdConv2d", "StdConv2d")
"""Convolutions of timm that normalize their weights first."""


@singledispatch
def windows_of(layer: nn.Module) -> Windows | None:
    """Return the windows of a layer on both axes; None if it has no affine map.

    A subclass with a forward of its own may do anything (timm's ``Conv2dSame`` pads by the size of the image), so it
    has no map unless it is registered or named in `POINTWISE_NAMES` or `REWEIGHTED`.
    """
    pointwise = isinstance(layer, POINTWISE) or type(layer).__name__ in POINTWISE_NAMES
    return (Window(1), Window(1)) if pointwise else None


def _changed(layer: nn.Module, base: type[nn.Module]) -> bool:
    return type(layer).forward is not base.forward and type(layer).__name__ not in REWEIGHTED


def _windows(**settings: Any) -> Windows:
    """Return the windows with these settings, each of which is one number or a pair (rows, columns)."""

    def along(axis: int) -> dict[str, Any]:
        return {name: value if isinstance(value, int) else value[axis] for name, value in settings.items()}

    return Window(**along(0)), Window(**along(-1))


@windows_of.register(nn.Conv2d)
def _(layer: nn.Conv2d) -> Windows | None:
    if layer.padding_mode != "zeros" or _changed(layer, nn.Conv2d):
        return None
    padding: Any = layer.padding
    if padding == "valid":
        padding = 0
    elif padding == "same":
        spans = [(k - 1) * d for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        if any(span % 2 for span in spans):
            return None
        padding = [span // 2 for span in spans]
    return _windows(kernel=layer.kernel_size, stride=layer.stride, padding=padding, dilation=layer.dilation)


@windows_of.register(nn.ConvTranspose2d)
def _(layer: nn.ConvTranspose2d) -> Windows:
    return _windows(
        kernel=layer.kernel_size, stride=layer.stride, padding=layer.padding, dilation=layer.dilation,
        transposed=True, output_padding=layer.output_padding,
    )  # fmt: skip


def _pad_windows(pads: Sequence[int]) -> Windows:
    """Return the windows of constants (or, below 0, of a cut) at the left, right, top and bottom."""
    left, right, top, bottom = pads
    return Window(1, padding=top, after=bottom), Window(1, padding=left, after=right)


@windows_of.register(nn.ConstantPad2d)
def _(layer: nn.ConstantPad2d) -> Windows | None:
    return None if _changed(layer, nn.ConstantPad2d) else _pad_windows(layer.padding)


def pool_windows(layer: nn.MaxPool2d | nn.AvgPool2d) -> Windows:
    """Return the windows of a pool, whatever its forward; torch's average pools have no dilation."""
    return _windows(
        kernel=layer.kernel_size, stride=layer.stride, padding=layer.padding, dilation=getattr(layer, "dilation", 1),
        ceil=layer.ceil_mode,
    )  # fmt: skip


@windows_of.register(nn.MaxPool2d)
@windows_of.register(nn.AvgPool2d)
def _(layer: nn.MaxPool2d | nn.AvgPool2d) -> Windows | None:
    changed = _changed(layer, nn.MaxPool2d if isinstance(layer, nn.MaxPool2d) else nn.AvgPool2d)
    return None if changed else pool_windows(layer)


@dataclass(frozen=True)
class Feature:
    """A feature of a network: its name, where its cells look on both axes, and its channels (None if unknown)."""

    name: str
    rows: AxisMap
    columns: AxisMap
    channels: int | None

    @property
    def axis(self) -> AxisMap:
        """The map of both axes; `GeometryError` if they differ."""
        if self.rows != self.columns:
            raise GeometryError(
                f"feature '{self.name}': rows and columns differ ({self.rows}, {self.columns}); square windows needed"
            )
        return self.rows


@dataclass(frozen=True)
class Trace:
    """The features of a network by name, in the order in which they are computed."""

    features: dict[str, Feature]
    sources: dict[str, tuple[str, ...]]
    windows: dict[str, Windows]

    def __getitem__(self, name: str) -> Feature:
        return self.features[name]

    def __iter__(self) -> Iterator[Feature]:
        return iter(self.features.values())

    @property
    def last(self) -> Feature:
        """The feature computed last: the output of the network."""
        return next(reversed(self.features.values()))

    def sizes(self, cells: int, axis: int = 0) -> dict[str, int]:
        """Return the size of every feature on one axis of an image of `cells` pixels; 0 or less if it is too small."""
        sizes: dict[str, int] = {}
        for name, sources in self.sources.items():
            if not sources:
                sizes[name] = cells
            elif min(sizes[source] for source in sources) < 1:
                sizes[name] = 0  # too small stays too small, whatever this layer would add
            else:
                sizes[name] = self.windows[name][axis].size(sizes[sources[0]])
        return sizes

    def support(self, name: str, cells: Iterable[int], pixels: int, axis: int = 0) -> set[int]:
        """Return the pixels, of `pixels` on one axis, from which cells of a feature are computed, borders included.

        >>> sorted(walk(nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.MaxPool2d(2))).support("1", [0], pixels=8))
        [0, 1, 2]
        """
        sizes = self.sizes(pixels, axis)
        needed: dict[str, set[int]] = {name: set(cells)}
        for current in reversed(list(self.features)):
            for source in self.sources[current] if current in needed else ():
                seen = self.windows[current][axis].sources(needed[current], sizes[source])
                needed.setdefault(source, set()).update(seen)
        return needed.get(next(iter(self.features)), set())


class _Tracer(fx.Tracer):
    """Treat every layer with a known geometry, and torch's own layers, as one node."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return windows_of(m) is not None or super().is_leaf_module(m, module_qualified_name)


def symbolic_trace(net: nn.Module) -> fx.GraphModule:
    """Return the graph of a network's layers, with the same parameters; `GeometryError` if fx cannot follow it."""
    if windows_of(net) is not None:  # one bare layer is a leaf of a graph, not a graph
        net = nn.Sequential(net)
    try:
        return _pools_as_layers(fx.GraphModule(net, _Tracer().trace(net)))
    except (fx.proxy.TraceError, TypeError, RuntimeError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise GeometryError(
            f"{type(net).__name__}: torch.fx cannot follow its forward ({reason}); "
            "keep control flow that depends on the image out of it"
        ) from None


POOLS = {F.max_pool2d: nn.MaxPool2d, F.avg_pool2d: nn.AvgPool2d}


def _pools_as_layers(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Replace calls of pooling functions by layers."""
    for node in graph_module.graph.nodes:
        node.type = None  # an annotation is a string here, with which fx cannot be pickled
        if node.op == "call_function" and node.target in POOLS:
            settings = {key: value for key, value in node.kwargs.items() if key != "input"}
            graph_module.add_submodule(f"{node.name}_layer", POOLS[node.target](*node.args[1:], **settings))
            node.op, node.target = "call_module", f"{node.name}_layer"
            node.args, node.kwargs = (node.all_input_nodes[0],), {}
    graph_module.recompile()
    return graph_module


KINDS = {
    nn.Conv2d: "convolution",
    nn.ConvTranspose2d: "transposed",
    nn.MaxPool2d: "max",
    nn.AvgPool2d: "average",
    nn.ConstantPad2d: "pad",
}
"""The layers that are more than point-wise."""


@dataclass(frozen=True)
class Operation:
    """What a node of a graph does to the features that it reads.

    kind: a value of `KINDS`, or ``image``, ``pointwise``, ``sum`` (see `SUMS`), ``concatenation`` or ``split`` (of the
    channels into parts, or one of these parts). layer: the module that the node calls.
    """

    kind: str
    windows: Windows = (Window(1), Window(1))
    layer: nn.Module | None = None


def operation_of(graph_module: fx.GraphModule, node: fx.Node) -> Operation | None:
    """Return what a node does; None if it has no affine map from output to input cells."""
    layer, sources = layer_of(graph_module, node), len(features_of(node))
    if node.op == "placeholder":
        return Operation("image")
    if layer is not None:
        windows = windows_of(layer)
        kind = next((kind for base, kind in KINDS.items() if isinstance(layer, base)), "pointwise")
        return Operation(kind, windows, layer) if windows is not None and sources == 1 else None
    if sources == 1 and _splits(node):
        return Operation("split")
    if sources == 1 and node.target is F.pad:
        pads = argument(node, 1, "pad")
        constant = argument(node, 2, "mode", "constant") == "constant"
        return Operation("pad", _pad_windows(pads)) if constant and len(pads) == 4 else None
    if node.target in POINTWISE_CALLS and sources == 1:
        return Operation("pointwise")
    if node.target in (torch.cat, torch.concat) and argument(node, 1, "dim", 0) in (1, -3) and sources:
        return Operation("concatenation")
    return Operation("sum") if node.target in SUMS and sources else None


def walk(net: nn.Module, channels: int = 3) -> Trace:
    """Trace a network that takes (N, channels, H, W).

    Raises:
        GeometryError: A layer has no affine map, or branches do not meet; the message names the layer.

    >>> trace = walk(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2)))
    >>> trace.last.axis, trace.last.channels
    (AxisMap(stride=2, start=1/2, field=4), 8)
    """
    graph_module = net if isinstance(net, fx.GraphModule) else symbolic_trace(net)
    names = node_names(graph_module.graph)
    trace = Trace({}, {}, {})
    for node in graph_module.graph.nodes:
        if node.op in ("output", "get_attr"):
            continue  # a parameter (a scale for each channel) is not a feature
        name, operation = names[node], operation_of(graph_module, node)
        if operation is None:
            raise GeometryError(
                f"layer '{name}' ({kind_name(node, layer_of(graph_module, node))}): it has no affine map from output "
                "to input cells; convolutionalize the net first, or leave it out"
            )
        sources = [trace[names[source]] for source in features_of(node)]
        if sources:
            rows, columns = _grid(name, sources)
            rows, columns = rows.then(operation.windows[0]), columns.then(operation.windows[1])
            trace.features[name] = Feature(name, rows, columns, _channels(node, operation, sources))
        else:
            trace.features[name] = Feature(name, IMAGE, IMAGE, channels)
        trace.windows[name] = operation.windows
        trace.sources[name] = tuple(source.name for source in sources)
    return trace


def _grid(name: str, sources: list[Feature]) -> tuple[AxisMap, AxisMap]:
    """Return the maps of the grid on which all sources lie."""
    rows, columns = sources[0].rows, sources[0].columns
    try:
        for source in sources[1:]:
            rows, columns = rows.joined(source.rows), columns.joined(source.columns)
    except GeometryError as problem:
        raise GeometryError(f"layer '{name}' joins {' and '.join(s.name for s in sources)}: {problem}") from None
    return rows, columns


def _channels(node: fx.Node, operation: Operation, sources: list[Feature]) -> int | None:
    if isinstance(operation.layer, nn.Conv2d | nn.ConvTranspose2d):
        return operation.layer.out_channels
    channels = [source.channels for source in sources]
    if operation.kind == "concatenation":
        return None if None in channels else sum(c for c in channels if c is not None)
    whole = channels[0]
    if operation.kind != "split" or node.target is operator.getitem:
        return whole
    parts = argument(node, 1, "chunks", 0)
    equal = node.target in ("chunk", torch.chunk) and isinstance(parts, int) and parts > 0
    return whole // parts if equal and whole is not None and whole % parts == 0 else None


def _splits(node: fx.Node) -> bool:
    """Whether a node splits the channels, or takes one part of such a split."""
    if node.target is operator.getitem:
        return _splits(node.all_input_nodes[0])
    return node.target in ("chunk", "split", torch.chunk, torch.split) and argument(node, 2, "dim", 0) in (1, -3)
