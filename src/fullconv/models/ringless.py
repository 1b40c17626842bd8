"""The same net without the work on the ring (`fullconv.models.ring`): equal scores, a third fewer operations with the
paper's padding.

Away from the image every feature is one constant vector c, the feature of an endless empty image. Written as what it is
above c, a feature is zero there; so padding with zeros is an endless ring, and only the cells that see the image are
computed. A convolution of such features needs no bias, and a ReLU becomes max(x + min(c', 0), -max(c', 0)), where c' is
the constant before it. Where image and border of the canvas come together (in VGG16 after pool4), the canvas is
completed: its border depends on the size of the image and on nothing else in it.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.models.fcn import FCN
from fullconv.models.ring import Extent
from fullconv.models.trace import POINTWISE, POINTWISE_CALLS, Trace, Windows, is_concat, node_names

Extents = dict[str, tuple[Extent, Extent]]
"""The extents of features on rows and columns, by name."""

COPY = 100
"""What it costs to copy a number, in multiply-adds; a processor does about so many in the time."""

WORTH = 0.97
"""A net that needs more than this share of the plain net's work is left as it is."""

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
RELUS = (F.relu, torch.relu, torch.relu_, "relu", "relu_")


def without_ring(net: FCN, height: int, width: int) -> FCN:
    """The net for images of height x width alone that gives the same features and scores, and computes no ring.

    Weights are shared. The net itself comes back where nothing is to be gained: with tight padding, and where a layer
    near the image has no such form. Call it in evaluation mode; for other sizes its scores are wrong.

    >>> from fullconv.config import ModelConfig
    >>> from fullconv.models import build
    >>> net = build(ModelConfig("vgg11", stride=8, width=1 / 64, padding="paper")).eval()
    >>> image = torch.rand(1, 3, 90, 64)
    >>> torch.allclose(net(image), without_ring(net, 90, 64)(image), atol=1e-6)
    True
    """
    sides = tuple(pixels + sum(net.margin.of(pixels)) for pixels in (height, width))
    trunks: dict[str, nn.Module] = {}
    for stream in net.streams:
        trunk = net.get_submodule(f"backbone{stream}")
        assert isinstance(trunk, fx.GraphModule)
        plan = plan_for(trunk, net.trace, (sides[0], sides[1]))
        if plan is None:
            return net
        trunks[f"backbone{stream}"] = rewritten(trunk, net.trace, plan)
    found = copy.copy(net)
    found._modules = {**net._modules, **trunks}
    return found


@dataclass(frozen=True)
class Plan:
    """What is computed without the ring.

    constants: the constant vector of each feature, (1, C, 1, 1). ring: the features that are written as what they are
    above it. extents: of all features. work: multiply-adds of it all, as a share of the plain net's.
    """

    constants: Mapping[str, Tensor]
    ring: frozenset[str]
    extents: Extents
    work: float


def plan_for(trunk: fx.GraphModule, trace: Trace, sides: tuple[int, int]) -> Plan | None:
    """The plan for an input of so many rows and columns; None where it is not worth while.

    Zeros around the input cost little, and shift what is computed against the windows of the pools, which then need
    no padding of their own: the least costly shift is taken.
    """
    constants = dict(constants_of(trunk, trace))
    nodes = {name: node for node, name in node_names(trunk.graph).items()}
    layers = dict(trunk.named_modules())

    def found(more: Sequence[int]) -> tuple[float, Extents, frozenset[str]]:
        extents = extents_of(trace, sides, more, constants, nodes, layers)
        ring = ring_of(trace, extents, nodes, layers)
        return _work(trace, extents, ring, nodes, layers), extents, ring

    more = [0, 0, 0, 0]  # above, below, left, right
    work, extents, ring = found(more)
    plain = _work(trace, extents, frozenset(), nodes, layers)
    period = max((int(trace[name].axis.stride) for name in ring), default=1)
    if work > WORTH * plain or period == 1:
        return None
    for place in range(4):
        choices = ([*more[:place], extra, *more[place + 1 :]] for extra in range(period))
        more = min(choices, key=lambda choice: found(choice)[0])
    work, extents, ring = found(more)
    return Plan(constants, ring, extents, work / plain)


def constants_of(trunk: fx.GraphModule, trace: Trace) -> Iterator[tuple[str, Tensor]]:
    """The vector that each feature is of an endless image of zeros, (1, C, 1, 1); features without one are left out."""
    layers, names = dict(trunk.named_modules()), node_names(trunk.graph)
    known: dict[fx.Node, Any] = {}
    weight = next(trunk.parameters())
    with torch.no_grad():
        for node in trunk.graph.nodes:
            kind = kind_of(node, layers)
            if node.op == "placeholder":
                known[node] = weight.new_zeros(1, trace[names[node]].channels or 3, 1, 1)
            elif kind is None or any(source not in known for source in node.all_input_nodes):
                continue
            elif kind == "convolution":
                known[node] = _constant(layers[str(node.target)], known[node.args[0]])
            elif kind in ("max", "average"):
                known[node] = known[node.args[0]]
            else:
                known[node] = _call(node, layers, lambda source: known[source].clone())  # some layers work in place
            yield names[node], known[node]


def _constant(layer: nn.Module, constant: Tensor) -> Tensor:
    assert isinstance(layer, nn.Conv2d)
    everywhere = constant.expand(-1, -1, *layer.kernel_size)
    return F.conv2d(everywhere, layer.weight, layer.bias, groups=layer.groups)


def _call(node: fx.Node, layers: Mapping[str, nn.Module], value: Any) -> Any:
    """What a node gives for other inputs than its own."""
    args, kwargs = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
    if node.op == "call_module":
        return layers[str(node.target)](*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def kind_of(node: fx.Node, layers: Mapping[str, nn.Module]) -> str | None:
    """What a node is to a feature that is written above its constant; None for what has no such form here."""
    if node.op == "call_module":
        layer = layers[str(node.target)]
        kinds = {nn.Conv2d: "convolution", nn.MaxPool2d: "max", nn.AvgPool2d: "average"}
        if type(layer) in kinds:
            return kinds[type(layer)]
        return "pointwise" if isinstance(layer, POINTWISE) and not layer.training else None
    if node.op in ("call_function", "call_method"):
        if is_concat(node):
            return "concatenation"
        if node.target in ADDITIONS and len(node.all_input_nodes) == len(node.args) == 2 and not node.kwargs:
            return "sum"
        if node.target in POINTWISE_CALLS and len(node.all_input_nodes) == 1:
            return "pointwise"
    return None


def extents_of(
    trace: Trace, sides: tuple[int, int], more: Sequence[int], constants: Mapping[str, Tensor],
    nodes: Mapping[str, fx.Node], layers: Mapping[str, nn.Module],
) -> Extents:  # fmt: skip
    """The extents of all features; `more` zeros are taken for image above, below, left and right of it."""
    found: Extents = {}
    for name in trace.features:
        sources = [found[source] for source in trace.sources[name]]
        if not sources:
            found[name] = (
                Extent(sides[0], -more[0], sides[0] + more[1]), Extent(sides[1], -more[2], sides[1] + more[3])
            )  # fmt: skip
            continue
        kind, first = kind_of(nodes[name], layers), trace.sources[name][0]
        # A maximum over what there is of a window is that of the window, and zeros beside zeros are no border.
        free = kind == "max" or (kind == "convolution" and first in constants and not constants[first].any())
        joined = sources[0]
        for other in sources[1:]:
            joined = joined[0].union(other[0]), joined[1].union(other[1])
        rows, columns = trace.windows[name]
        found[name] = joined[0].through(rows, free), joined[1].through(columns, free)
    return found


def ring_of(
    trace: Trace, extents: Extents, nodes: Mapping[str, fx.Node], layers: Mapping[str, nn.Module]
) -> frozenset[str]:
    """The features that can be written above their constants: all that they are made of can, and no cell of them sees
    both image and border.
    """
    ring: set[str] = set()
    for name, (rows, columns) in extents.items():
        local = not trace.sources[name] or kind_of(nodes[name], layers) is not None
        if local and rows.apart and columns.apart and ring.issuperset(trace.sources[name]):
            ring.add(name)
    return frozenset(ring)


def _work(
    trace: Trace, extents: Extents, ring: frozenset[str], nodes: Mapping[str, fx.Node],
    layers: Mapping[str, nn.Module],
) -> float:  # fmt: skip
    """Multiply-adds of the convolutions, and copies for padding in terms of them."""
    total = 0.0
    for name, (rows, columns) in extents.items():
        cells = rows.length * columns.length if name in ring else rows.cells * columns.cells
        layer = layers.get(str(nodes[name].target)) if nodes[name].op == "call_module" else None
        if isinstance(layer, nn.Conv2d):
            total += cells * layer.weight.numel()
        if name in ring and trace.sources[name]:
            source = trace.sources[name][0]
            if not _own_padding(*_needed(extents[source], extents[name], trace.windows[name]), layer):
                seen = extents[source]
                total += COPY * (trace[source].channels or 1) * seen[0].length * seen[1].length
    return total


def _needed(source: tuple[Extent, Extent], out: tuple[Extent, Extent], windows: Windows) -> list[tuple[int, int]]:
    """The cells of padding before and after, on both axes."""
    return [source[axis].seen_by(windows[axis], out[axis]) for axis in (0, 1)]


def _own_padding(rows: tuple[int, int], columns: tuple[int, int], layer: nn.Module | None) -> bool:
    """Whether a layer pads by itself as is needed, without a copy."""
    even = rows[0] == rows[1] >= 0 and columns[0] == columns[1] >= 0
    return even and (isinstance(layer, nn.Conv2d) or (rows, columns) == ((0, 0), (0, 0)))


# -- the net that is written -------------------------------------------------------------------------------------------


def rewritten(trunk: fx.GraphModule, trace: Trace, plan: Plan) -> fx.GraphModule:
    """The trunk by the plan: the same features, on the same canvases."""
    names, layers = node_names(trunk.graph), dict(trunk.named_modules())
    graph, parts = fx.Graph(), dict[str, Any]()
    above: dict[str, fx.Node] = {}  # what features are above their constants, where they may see the image
    whole: dict[fx.Node, fx.Node] = {}  # features on their canvases
    seams = _seams(trunk, names, plan)
    canvases = dict(zip(seams, _canvases(trunk, trace, plan, seams), strict=True))

    def completed(node: fx.Node) -> fx.Node:
        """A feature on its canvas."""
        name = names[node]
        if node not in whole:
            rows, columns = plan.extents[name]
            pads = (columns.begin, columns.cells - columns.end, rows.begin, rows.cells - rows.end)
            parts[f"canvas_{len(parts)}"] = canvases[name]
            canvas = graph.get_attr(f"canvas_{len(parts) - 1}")
            whole[node] = graph.call_function(torch.add, (graph.call_function(F.pad, (above[name], pads)), canvas))
        return whole[node]

    for node in trunk.graph.nodes:
        name = names[node]
        if node.op == "placeholder":
            whole[node] = above[name] = graph.placeholder(name)
            (top, bottom), (left, right) = ((-e.begin, e.end - e.cells) for e in plan.extents[name])
            if any((top, bottom, left, right)):
                above[name] = graph.call_function(F.pad, (whole[node], (left, right, top, bottom)))
        elif node.op == "output":
            graph.output(fx.map_arg(node.args[0], completed))
        elif name not in plan.ring:
            whole[node] = graph.node_copy(node, completed)
            if node.op in ("call_module", "get_attr"):
                parts[str(node.target)] = layers.get(str(node.target)) or _attribute(trunk, str(node.target))
        elif not _waits(node, names, layers, plan):
            above[name] = _Above(graph, parts, trace, plan, names, layers, above).write(node)
    made = fx.GraphModule(parts, graph)
    return made.eval()


def _attribute(trunk: nn.Module, target: str) -> Any:
    for part in target.split("."):
        trunk = getattr(trunk, part)
    return trunk


def _seams(trunk: fx.GraphModule, names: Mapping[fx.Node, str], plan: Plan) -> list[str]:
    """The features of the ring that others need on their canvases."""
    seams = []
    for node in trunk.graph.nodes:
        if node.op == "output" or names[node] not in plan.ring:
            seams += [names[source] for source in node.all_input_nodes if source.op != "placeholder"]
    return [name for name in dict.fromkeys(seams) if name in plan.ring]


def _waits(node: fx.Node, names: Mapping[fx.Node, str], layers: Mapping[str, nn.Module], plan: Plan) -> bool:
    """Whether a convolution is written together with the ReLU behind it."""
    users = list(node.users)
    return (
        kind_of(node, layers) == "convolution"
        and len(users) == 1
        and _is_relu(users[0], layers)
        and names[users[0]] in plan.ring
    )


def _is_relu(node: fx.Node, layers: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(layers[str(node.target)]) is nn.ReLU
    return node.target in RELUS


def _canvases(trunk: fx.GraphModule, trace: Trace, plan: Plan, seams: Sequence[str]) -> list[Tensor]:
    """What features of an image of zeros are on their canvases: the ring and its border, (1, C, rows, columns).

    They are computed from an image that is shorter by whole periods, since the ring between can be made longer.
    """
    names = node_names(trunk.graph)
    nodes, layers = {name: node for node, name in names.items()}, dict(trunk.named_modules())
    inputs = next(iter(trace.features))
    period = int(max(feature.axis.stride for feature in trace))
    small = []
    for axis, extent in enumerate(plan.extents[inputs]):
        for pixels in range((extent.cells - 1) % period + 1, extent.cells + 1, period):
            sizes = trace.sizes(pixels, axis)
            wide = plan.extents
            if min(sizes.values()) > 0 and all(
                sizes[name] - wide[name][axis].front - wide[name][axis].back >= 1 for name in seams
            ):
                break
        small.append(pixels)
    extents = extents_of(trace, (small[0], small[1]), (0, 0, 0, 0), plan.constants, nodes, layers)
    weight = next(trunk.parameters())
    empty = weight.new_zeros(1, trace[inputs].channels or 3, *small)
    kept = _Keeping(trunk, {nodes[name] for name in seams})
    with torch.no_grad():
        kept.run(empty)
    found = []
    for name in seams:
        rows, columns = (
            torch.tensor(less.indices(wide), device=weight.device)
            for less, wide in zip(extents[name], plan.extents[name], strict=True)
        )
        found.append(kept.kept[nodes[name]].index_select(2, rows).index_select(3, columns))
    return found


class _Keeping(fx.Interpreter):
    """Runs a graph and keeps what some nodes gave."""

    def __init__(self, module: fx.GraphModule, wanted: set[fx.Node]) -> None:
        super().__init__(module)
        self.wanted, self.kept = wanted, dict[fx.Node, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        """Keep a copy: layers behind may work in place."""
        found = super().run_node(n)
        if n in self.wanted:
            self.kept[n] = found.clone()
        return found


@dataclass(frozen=True)
class _Above:
    """Writes nodes of features that are taken above their constants."""

    graph: fx.Graph
    parts: dict[str, Any]
    trace: Trace
    plan: Plan
    names: Mapping[fx.Node, str]
    layers: Mapping[str, nn.Module]
    written: Mapping[str, fx.Node]

    def write(self, node: fx.Node) -> fx.Node:
        """The node that computes it."""
        kind, source = kind_of(node, self.layers), node.all_input_nodes[0]
        if kind == "convolution":
            return self.convolution(node, None)
        if _is_relu(node, self.layers):
            if _waits(source, self.names, self.layers, self.plan):
                before = self.plan.constants[self.names[source]]
                return self.floor(self.convolution(source, before.clamp(max=0).flatten()), before)
            before = self.plan.constants[self.names[source]]
            shifted = self.add(self.written[self.names[source]], before.clamp(max=0))
            return self.floor(shifted, before)
        if kind in ("max", "average"):
            layer = self.layers[str(node.target)]
            assert isinstance(layer, nn.MaxPool2d | nn.AvgPool2d)
            own = {"dilation": layer.dilation} if isinstance(layer, nn.MaxPool2d) else {}
            pool: Any = type(layer)(layer.kernel_size, layer.stride, **own)
            return self.layer(node, pool, self.padded(node, source))
        if kind in ("sum", "concatenation"):
            parts = {other: self.aligned(node, other) for other in node.all_input_nodes}
            return self.graph.node_copy(node, lambda other: parts[other])
        constant = self.plan.constants[self.names[node]]
        given = self.add(self.written[self.names[source]], self.plan.constants[self.names[source]])
        if node.op == "call_module":
            self.parts[str(node.target)] = self.layers[str(node.target)]
        return self.add(self.graph.node_copy(node, lambda _: given), -constant)

    def convolution(self, node: fx.Node, bias: Tensor | None) -> fx.Node:
        """The layer with this bias in place of its own, padded as is needed."""
        layer, source = self.layers[str(node.target)], node.all_input_nodes[0]
        assert isinstance(layer, nn.Conv2d)
        rows, columns = self.needed(node, source)
        own = _own_padding(rows, columns, layer)
        with torch.device("meta"):
            made = nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,  # type: ignore[arg-type]
                (rows[0], columns[0]) if own else 0, layer.dilation, layer.groups, bias=bias is not None,  # type: ignore[arg-type]
            )  # fmt: skip
        made.weight = layer.weight
        if bias is not None:
            made.bias = nn.Parameter(bias, requires_grad=False)
        given = self.written[self.names[source]] if own else self.padded(node, source)
        return self.layer(node, made, given)

    def layer(self, node: fx.Node, made: nn.Module, given: fx.Node) -> fx.Node:
        self.parts[str(node.target)] = made
        return self.graph.call_module(str(node.target), (given,))

    def floor(self, value: fx.Node, before: Tensor) -> fx.Node:
        """Not below the negative of the constant; an ordinary ReLU where that is 0."""
        least = -before.clamp(min=0)
        if not least.any():
            return self.graph.call_function(F.relu, (value,))
        return self.graph.call_function(torch.maximum, (value, self.attribute(least)))

    def add(self, value: fx.Node, constant: Tensor) -> fx.Node:
        return self.graph.call_function(torch.add, (value, self.attribute(constant))) if constant.any() else value

    def attribute(self, tensor: Tensor) -> fx.Node:
        name = f"constant_{len(self.parts)}"
        self.parts[name] = tensor
        return self.graph.get_attr(name)

    def needed(self, node: fx.Node, source: fx.Node) -> list[tuple[int, int]]:
        name = self.names[node]
        return _needed(self.plan.extents[self.names[source]], self.plan.extents[name], self.trace.windows[name])

    def padded(self, node: fx.Node, source: fx.Node) -> fx.Node:
        """The source with the ring cells that a layer needs around it."""
        return self.pad(source, self.needed(node, source))

    def aligned(self, node: fx.Node, source: fx.Node) -> fx.Node:
        """The source with ring cells around it, or without some of its own, so that it has those of the node."""
        has, wanted = self.plan.extents[self.names[source]], self.plan.extents[self.names[node]]
        return self.pad(source, [(h.begin - w.begin, w.end - h.end) for h, w in zip(has, wanted, strict=True)])

    def pad(self, source: fx.Node, cells: Sequence[tuple[int, int]]) -> fx.Node:
        value, (rows, columns) = self.written[self.names[source]], cells
        if not any((*rows, *columns)):
            return value
        return self.graph.call_function(F.pad, (value, (*columns, *rows)))
