"""Specialize a network for one image size: equal scores without computing the constant padding around the image.

With the paper's padding of 100 pixels this saves a third of the operations (`fullconv.optimize.constant_padding`).

Away from the image every feature is one constant vector c, the feature of an endless empty image. Written as what it is
above c, a feature is zero there; so padding with zeros is an endless ring, and only the cells that see the image are
computed. A convolution of such features needs no bias, and a ReLU becomes max(x + min(c', 0), -max(c', 0)), where c' is
the constant before it. Where image and border of the canvas come together (in VGG16 after pool4), the canvas is
completed: its border depends on the size of the image and on nothing else in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.models.fcn import FCN
from fullconv.models.graph import layer_of, node_names
from fullconv.models.trace import Trace
from fullconv.optimize.constant_padding import Layers, PaddingPlan, extents_of, kind_of, needed, own_padding, plan_for
from fullconv.optimize.trunks import with_trunks

RELUS = (F.relu, torch.relu, torch.relu_, "relu", "relu_")


def specialize_for_size(net: FCN, height: int, width: int) -> FCN:
    """Return a form of a network for images of height x width alone that does not compute the constant padding.

    It gives the same features and scores and shares the weights; for other sizes its scores are wrong. The network
    itself comes back if nothing is gained (tight padding) or a layer near the image has no such form. Call it in
    evaluation mode.

    >>> from fullconv.config import ModelConfig
    >>> from fullconv.models.build import build
    >>> net = build(ModelConfig("vgg11", stride=8, width=1 / 64, padding="paper")).eval()
    >>> image = torch.rand(1, 3, 90, 64)
    >>> torch.allclose(net(image), specialize_for_size(net, 90, 64)(image), atol=1e-6)
    True
    """
    sides = tuple(pixels + sum(net.margin.of(pixels)) for pixels in (height, width))
    plans: dict[nn.Module, PaddingPlan] = {}
    for stream in net.streams:
        trunk = net.get_submodule(f"backbone{stream}")
        assert isinstance(trunk, fx.GraphModule)
        plan = plan_for(trunk, net.trace, (sides[0], sides[1]))
        if plan is None:
            return net
        plans[trunk] = plan
    return with_trunks(net, lambda trunk: rewritten(trunk, net.trace, plans[trunk]))


def rewritten(trunk: fx.GraphModule, trace: Trace, plan: PaddingPlan) -> fx.GraphModule:
    """Return the trunk rewritten by a plan: the same features, on the same canvases."""
    writer, whole = _GraphWriter(trunk, trace, plan), dict[fx.Node, fx.Node]()  # features on their canvases
    names, graph, above = writer.names, writer.graph, writer.written
    seams = _seams(trunk, names, plan)
    canvases = dict(zip(seams, _canvases(trunk, trace, plan, seams), strict=True))

    def completed(node: fx.Node) -> fx.Node:
        """A feature on its canvas."""
        name = names[node]
        if node not in whole:
            rows, columns = plan.extents[name]
            pads = (columns.begin, columns.cells - columns.end, rows.begin, rows.cells - rows.end)
            canvas = writer.constant(canvases[name], "canvas")
            whole[node] = graph.call_function(torch.add, (graph.call_function(F.pad, (above[name], pads)), canvas))
        return whole[node]

    for node in trunk.graph.nodes:
        name = names[node]
        if node.op == "placeholder":
            whole[node] = above[name] = graph.placeholder(name)
            above[name] = writer.pad(node, [(-e.begin, e.end - e.cells) for e in plan.extents[name]])
        elif node.op == "output":
            graph.output(fx.map_arg(node.args[0], completed))
        elif name not in plan.ring:
            whole[node] = writer.copy(node, completed)
        elif not writer.waits(node):
            above[name] = writer.write(node)
    return fx.GraphModule(writer.parts, graph).eval()


def _seams(trunk: fx.GraphModule, names: Mapping[fx.Node, str], plan: PaddingPlan) -> list[str]:
    """Return the features of the ring that others need on their canvases."""
    seams = []
    for node in trunk.graph.nodes:
        if node.op == "output" or names[node] not in plan.ring:
            seams += [names[source] for source in node.all_input_nodes if source.op != "placeholder"]
    return [name for name in dict.fromkeys(seams) if name in plan.ring]


def _canvases(trunk: fx.GraphModule, trace: Trace, plan: PaddingPlan, seams: Sequence[str]) -> list[Tensor]:
    """Return features of an image of zeros on their canvases, (1, C, rows, columns): the ring and its border.

    They are computed from an image that is shorter by whole periods, since the ring between can be made longer.
    """
    names = node_names(trunk.graph)
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
    extents = extents_of(Layers.of(trunk, trace), (small[0], small[1]), (0, 0, 0, 0), plan.constants)
    weight = next(trunk.parameters())
    empty = weight.new_zeros(1, trace[inputs].channels or 3, *small)
    kept: dict[str, Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if names[n] in seams:
                kept[names[n]] = value.clone()  # later layers may work in place
            return value

    with torch.no_grad():
        Recorder(trunk).run(empty)
    found = []
    for name in seams:
        rows, columns = (
            torch.tensor(less.indices(wide), device=weight.device)
            for less, wide in zip(extents[name], plan.extents[name], strict=True)
        )
        found.append(kept[name].index_select(2, rows).index_select(3, columns))
    return found


class _GraphWriter:
    """Writes the graph of features minus their constants; `written` holds its nodes by the features' names."""

    def __init__(self, trunk: fx.GraphModule, trace: Trace, plan: PaddingPlan) -> None:
        self.old, self.trace, self.plan, self.names = trunk, trace, plan, node_names(trunk.graph)
        self.graph, self.parts = fx.Graph(), dict[str, Any]()  # parts: the layers and tensors that the graph calls
        self.written: dict[str, fx.Node] = {}

    def copy(self, node: fx.Node, value: Callable[[fx.Node], fx.Node]) -> fx.Node:
        if node.op in ("call_module", "get_attr"):
            self.parts[str(node.target)] = attrgetter(str(node.target))(self.old)
        return self.graph.node_copy(node, value)

    def layer(self, name: str, layer: nn.Module, source: fx.Node) -> fx.Node:
        self.parts[name] = layer
        return self.graph.call_module(name, (source,))

    def constant(self, tensor: Tensor, name: str = "constant") -> fx.Node:
        self.parts[free := f"{name}_{len(self.parts)}"] = tensor
        return self.graph.get_attr(free)

    def waits(self, node: fx.Node) -> bool:
        """Whether a convolution is written together with the ReLU behind it."""
        users = list(node.users)
        alone = kind_of(self.old, node) == "convolution" and len(users) == 1
        return alone and self.is_relu(users[0]) and self.names[users[0]] in self.plan.ring

    def is_relu(self, node: fx.Node) -> bool:
        """Whether a node is a ReLU, whose constant is that before it without what is below 0."""
        layer = layer_of(self.old, node)
        return node.target in RELUS if layer is None else type(layer) is nn.ReLU

    def write(self, node: fx.Node) -> fx.Node:
        """The node that computes it."""
        kind, source, layer = kind_of(self.old, node), node.all_input_nodes[0], layer_of(self.old, node)
        if kind == "convolution":
            return self.convolution(node, None)
        if self.is_relu(node):
            before = self.plan.constants[self.names[source]]
            if self.waits(source):
                return self.floor(self.convolution(source, before.clamp(max=0).flatten()), before, own=True)
            shifted = self.add(self.written[self.names[source]], before.clamp(max=0))
            return self.floor(shifted, before)
        if kind in ("max", "average"):
            pool: Any = copy.copy(layer)
            pool.padding, pool.ceil_mode = 0, False
            return self.layer(str(node.target), pool, self.padded(node, source))
        if kind in ("sum", "concatenation"):
            parts = {other: self.aligned(node, other) for other in node.all_input_nodes}
            return self.graph.node_copy(node, lambda other: parts[other])
        constant = self.plan.constants[self.names[node]]
        given = self.add(self.written[self.names[source]], self.plan.constants[self.names[source]])
        return self.add(self.copy(node, lambda _: given), -constant)

    def convolution(self, node: fx.Node, bias: Tensor | None) -> fx.Node:
        """The layer with this bias in place of its own, padded as is needed."""
        layer, source = layer_of(self.old, node), node.all_input_nodes[0]
        assert isinstance(layer, nn.Conv2d)
        rows, columns = self.needed(node, source)
        own = own_padding(rows, columns, layer)
        with torch.device("meta"):
            made = nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,  # type: ignore[arg-type]
                (rows[0], columns[0]) if own else 0, layer.dilation, layer.groups, bias=bias is not None,  # type: ignore[arg-type]
            )  # fmt: skip
        made.weight = layer.weight
        if bias is not None:
            made.bias = nn.Parameter(bias, requires_grad=False)
        given = self.written[self.names[source]] if own else self.padded(node, source)
        return self.layer(str(node.target), made, given)

    def floor(self, value: fx.Node, before: Tensor, own: bool = False) -> fx.Node:
        """Not below the negative of the constant, a plain ReLU where that is 0. own: nobody else reads the value."""
        least = -before.clamp(min=0)
        if not least.any():
            return self.graph.call_function(F.relu, (value,), {"inplace": own})
        if own:
            return self.graph.call_method("clamp_", (value,), {"min": self.constant(least)})
        return self.graph.call_function(torch.maximum, (value, self.constant(least)))

    def add(self, value: fx.Node, constant: Tensor) -> fx.Node:
        return self.graph.call_function(torch.add, (value, self.constant(constant))) if constant.any() else value

    def needed(self, node: fx.Node, source: fx.Node) -> tuple[tuple[int, int], tuple[int, int]]:
        name = self.names[node]
        return needed(self.plan.extents[self.names[source]], self.plan.extents[name], self.trace.windows[name])

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
