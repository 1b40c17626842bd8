"""Walks any module and gives the place, size and channels of every feature in it.

The walk follows the layers with ``torch.fx``, as Caffe's ``coord_map`` follows the layers of a prototxt: each layer
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
from fullconv.models.graph import features_of, kind_name, layer_of, node_names

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
SUMS = {operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, operator.truediv, torch.add,
torch.mul, torch.maximum,
        "add", "add_", "mul", "mul_"}  # fmt: skip


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


POINTWISE_NAMES = ("DropPath", "LayerNorm2d", "StochasticDepth")
"""Layers of torchvision and timm that work cell by cell: branches left out in training, a norm over the channels."""

REWEIGHTED = ("ScaledStdConv2d", "StdConv2d")
"""Convolutions of timm that normalize their weights first, and are convolutions else."""


@singledispatch
def windows_of(layer: nn.Module) -> Windows | None:
    """The windows of a layer on both axes, or None for a layer that has no affine map.

    A subclass with a forward of its own may do anything (timm's ``Conv2dSame`` pads by the size of the image), so only
    the known ones are taken for what they inherit from.
    """
    if isinstance(layer, POINTWISE) or type(layer).__name__ in POINTWISE_NAMES:
        return Window(1), Window(1)
    return None


def _changed(layer: nn.Module, base: type[nn.Module]) -> bool:
    return type(layer).forward is not base.forward and type(layer).__name__ not in REWEIGHTED


@windows_of.register(nn.Conv2d)
def _(layer: nn.Conv2d) -> Windows | None:
    if layer.padding_mode != "zeros" or _changed(layer, nn.Conv2d):
        return None
    padding: Any = layer.padding
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        spans = [(k - 1) * d for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        if any(span % 2 for span in spans):
            return None
        padding = tuple(span // 2 for span in spans)
    rows, columns = (Window(layer.kernel_size[a], layer.stride[a], padding[a], layer.dilation[a]) for a in (0, 1))
    return rows, columns


@windows_of.register(nn.ConvTranspose2d)
def _(layer: nn.ConvTranspose2d) -> Windows:
    rows, columns = (
        Window(layer.kernel_size[a], layer.stride[a], int(layer.padding[a]), layer.dilation[a],
               transposed=True, output_padding=layer.output_padding[a])
        for a in (0, 1)
    )  # fmt: skip
    return rows, columns


def _padding(pads: Sequence[int]) -> Windows:
    """The windows of constants (or, below 0, a cut) at the left, right, top and bottom."""
    left, right, top, bottom = pads
    return Window(1, padding=top, after=bottom), Window(1, padding=left, after=right)


@windows_of.register(nn.ConstantPad2d)
def _(layer: nn.ConstantPad2d) -> Windows | None:
    return None if _changed(layer, nn.ConstantPad2d) else _padding(layer.padding)


def pool_windows(layer: nn.MaxPool2d | nn.AvgPool2d) -> Windows:
    """The windows of a pool, or of a layer that has the settings of one."""
    kernel, stride, padding = _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding)
    dilation = _pair(layer.dilation) if isinstance(layer, nn.MaxPool2d) else (1, 1)
    rows, columns = (Window(kernel[a], stride[a], padding[a], dilation[a], ceil=layer.ceil_mode) for a in (0, 1))
    return rows, columns


@windows_of.register(nn.MaxPool2d)
@windows_of.register(nn.AvgPool2d)
def _(layer: nn.MaxPool2d | nn.AvgPool2d) -> Windows | None:
    changed = _changed(layer, nn.MaxPool2d if isinstance(layer, nn.MaxPool2d) else nn.AvgPool2d)
    return None if changed else pool_windows(layer)


@dataclass(frozen=True)
class Feature:
    """One feature of a net: its name, where its cells look on both axes, and its channels (None where unknown)."""

    name: str
    rows: AxisMap
    columns: AxisMap
    channels: int | None

    @property
    def axis(self) -> AxisMap:
        """The map of both axes, for nets with square windows; refused where they differ."""
        if self.rows != self.columns:
            raise GeometryError(
                f"feature '{self.name}': rows and columns differ ({self.rows}, {self.columns}); square windows needed"
            )
        return self.rows


@dataclass(frozen=True)
class Trace:
    """The features of a net in the order in which they are computed, by name."""

    features: dict[str, Feature]
    sources: dict[str, tuple[str, ...]]
    windows: dict[str, Windows]

    def __getitem__(self, name: str) -> Feature:
        return self.features[name]

    def __iter__(self) -> Iterator[Feature]:
        return iter(self.features.values())

    @property
    def last(self) -> Feature:
        """The feature computed last: the output of the net."""
        return next(reversed(self.features.values()))

    def sizes(self, cells: int, axis: int = 0) -> dict[str, int]:
        """The size of every feature for an image of `cells` pixels on that axis; 0 or less where a layer would
        refuse it.
        """
        out: dict[str, int] = {}
        for name in self.features:
            inputs = [out[source] for source in self.sources[name]]
            # Where one source is too small the answer stays "too small", whatever a later layer would add.
            out[name] = (
                self.windows[name][axis].size(inputs[0]) if inputs and min(inputs) > 0 else (cells if not inputs else 0)
            )
        return out

    def support(self, name: str, cells: Iterable[int], pixels: int, axis: int = 0) -> set[int]:
        """The pixels, of an axis of so many, that the given cells of a feature are computed from: exactly, borders
        included.

        >>> sorted(walk(nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.MaxPool2d(2))).support("1", [0], pixels=8))
        [0, 1, 2]
        """
        sizes = self.sizes(pixels, axis)
        needed: dict[str, set[int]] = {name: set(cells)}
        for current in reversed(list(self.features)):
            for source in self.sources[current] if current in needed else ():
                found = self.windows[current][axis].sources(needed[current], sizes[source])
                needed.setdefault(source, set()).update(found)
        return needed.get(next(iter(self.features)), set())


class _Tracer(fx.Tracer):
    """Stops at every layer whose geometry is known, and at torch's own layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return windows_of(m) is not None or super().is_leaf_module(m, module_qualified_name)


def symbolic_trace(net: nn.Module) -> fx.GraphModule:
    """The net as a graph of its layers, sharing its parameters; a net that `torch.fx` cannot follow is refused."""
    if windows_of(net) is not None:  # one bare layer: it is a leaf of a graph, not a graph
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
    """Pools that a forward calls as functions, as the layers that they are."""
    for node in graph_module.graph.nodes:
        node.type = None  # an annotation, which is a text here, and with which fx cannot be pickled
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
"""The kinds of layers that are more than point-wise."""


@dataclass(frozen=True)
class Operation:
    """What a node of a graph does to the features that it reads.

    kind: one of `KINDS`, or ``image``, ``pointwise``, ``sum`` (of features, and other arithmetic cell by cell),
    ``concatenation`` or ``split`` (into equal parts of the channels, or one of them). layer: the module it calls.
    """

    kind: str
    windows: Windows = (Window(1), Window(1))
    layer: nn.Module | None = None

    @property
    def plain(self) -> bool:
        """Whether it computes what torch's own layer of this kind does in evaluation mode, not what a subclass may."""
        if self.kind in KINDS.values():
            return self.layer is None or type(self.layer) in KINDS
        return self.layer is None or (isinstance(self.layer, POINTWISE) and not self.layer.training)


def operation_of(graph_module: fx.GraphModule, node: fx.Node) -> Operation | None:
    """Return what a node does; None for one that has no affine map from output to input cells."""
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
        pads: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
        mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
        return Operation("pad", _padding(pads)) if mode == "constant" and len(pads) == 4 else None
    if node.target in POINTWISE_CALLS and sources == 1:
        return Operation("pointwise")
    if is_concat(node) and sources:
        return Operation("concatenation")
    return Operation("sum") if node.target in SUMS and sources else None


def walk(net: nn.Module, channels: int = 3) -> Trace:
    """The trace of a net that takes (N, channels, H, W): every feature's map, and what it is computed from.

    Raises `GeometryError` naming the layer that has no affine map, or the branches that do not meet.

    >>> trace = walk(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2)))
    >>> trace.last.axis, trace.last.channels
    (AxisMap(stride=2, start=1/2, field=4), 8)
    """
    graph_module = net if isinstance(net, fx.GraphModule) else symbolic_trace(net)
    names = node_names(graph_module.graph)
    trace = Trace({}, {}, {})
    for node in graph_module.graph.nodes:
        if node.op in ("output", "get_attr"):
            continue  # a parameter by itself (a scale per channel) is no feature
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
    """The maps that all sources share."""
    rows, columns = sources[0].rows, sources[0].columns
    try:
        for source in sources[1:]:
            rows, columns = rows.joined(source.rows), columns.joined(source.columns)
    except GeometryError as problem:
        raise GeometryError(f"layer '{name}' joins {' and '.join(s.name for s in sources)}: {problem}") from None
    return rows, columns


def _channels(node: fx.Node, operation: Operation, sources: list[Feature]) -> int | None:
    """The channels of a result; None where they are not known."""
    channels = [source.channels for source in sources]
    if isinstance(operation.layer, nn.Conv2d | nn.ConvTranspose2d):
        return operation.layer.out_channels
    if operation.kind == "concatenation":
        return None if None in channels else sum(c for c in channels if c is not None)
    if operation.kind != "split" or node.target is operator.getitem:
        return channels[0]
    parts: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("chunks", 0)
    equal = node.target in ("chunk", torch.chunk) and isinstance(parts, int) and parts > 0
    whole = channels[0]
    return whole // parts if equal and whole is not None and whole % parts == 0 else None


def _splits(node: fx.Node) -> bool:
    """Whether a node splits the channels, or takes one part of such a split."""
    if node.target is operator.getitem:
        return _splits(node.all_input_nodes[0])
    dim = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)
    return node.target in ("chunk", "split", torch.chunk, torch.split) and dim in (1, -3)


def is_concat(node: fx.Node) -> bool:
    """Whether a node concatenates along the channels."""
    if node.target not in (torch.cat, torch.concat):
        return False
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    return dim in (1, -3)
