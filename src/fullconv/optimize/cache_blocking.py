"""Layers near the image, some rows at a time, so that what they give stays in the processor's cache.

The first features are by far the largest, 64 MB each for VGG16 on 500x500 pixels, and only the next layer reads them.
From one layer that halves them to the next, a band of rows goes through all layers before the next band does. It begins
and ends some rows further out, by what its windows see; those few rows are computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, prod
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.models.fcn import FCN
from fullconv.models.trace import POINTWISE, POINTWISE_CALLS, windows_of

BAND = 8 << 20
"""Bytes of the largest feature of a band."""

LARGE = 12 << 20
"""Layers whose features are no larger than this are run as a whole."""

WITH_CONSTANTS = {torch.add, torch.maximum, "clamp_"}
"""What works cell by cell where all it is given beside a feature is one number a channel."""


@dataclass(frozen=True)
class Step:
    """The rows of one layer: windows of `span` rows, `stride` apart, over its source with rows added at both ends."""

    span: int = 1
    stride: int = 1
    above: int = 0
    below: int = 0
    ceil: bool = False

    def size(self, rows: int) -> int:
        """How many rows come out."""
        room = rows + self.above + self.below - self.span
        found = (-(-room // self.stride) if self.ceil else room // self.stride) + 1
        return found - 1 if self.ceil and (found - 1) * self.stride >= rows + self.above else found

    def seen(self, first: int, end: int) -> tuple[int, int]:
        """The source rows that these of the result are made from; beyond the ends of the source where it is padded."""
        return first * self.stride - self.above, (end - 1) * self.stride - self.above + self.span


class BandedLayers(nn.Module):
    """Layers one behind the other that are run band by band where their features are large; the result is theirs.

    channels: the values of the largest feature between them, per cell of the input.
    """

    def __init__(self, layers: nn.Module, steps: Sequence[Step], channels: float) -> None:
        super().__init__()
        self.layers, self.steps, self.channels = layers, steps, channels
        self.stride = prod(step.stride for step in steps)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W')."""
        of_row = self.channels * x.shape[3] * x.element_size()
        heights = list(accumulate(self.steps, lambda rows, step: step.size(rows), initial=x.shape[2]))
        if of_row * x.shape[2] <= LARGE or min(heights) < 1:
            found: Tensor = self.layers(x)
            return found
        rows = -(-heights[-1] // min(heights[-1], ceil(of_row * x.shape[2] / BAND)))
        return torch.cat([torch.cat([*self._bands(image, heights, rows)], 2) for image in x.split(1)])

    def _bands(self, image: Tensor, heights: Sequence[int], rows: int) -> Iterator[Tensor]:
        for first in range(0, heights[-1], rows):
            above, below = first, first + rows
            for step, height in zip(self.steps[::-1], heights[-2::-1], strict=True):
                above, below = step.seen(above, below)
                above, below = min(above, height - 1), max(below, 1)  # also where all that is seen is padding
            skipped = max(0, above) // self.stride
            end = None if first + rows >= heights[-1] else below
            # Where it is cut, the layers pad and so spoil some rows, which are not among those that are taken.
            part = self.layers(image[:, :, skipped * self.stride : end])
            yield part[:, :, first - skipped : first - skipped + rows]


def in_bands(net: FCN) -> FCN:
    """A copy of a net for prediction whose layers near the image are `Bands`; weights are shared."""
    return net.with_trunks(banded)


def banded(trunk: fx.GraphModule) -> fx.GraphModule:
    """The same of a graph: from one layer that halves its features to the next, where nobody else reads them."""
    layers, graph, parts = dict(trunk.named_modules()), fx.Graph(), dict[str, Any]()
    runs = {run[-1]: run for run in _runs(trunk, layers)}
    inside = {node for last, run in runs.items() for node in run if node is not last}
    values: dict[fx.Node, fx.Node] = {}
    for node in trunk.graph.nodes:
        if node in runs:
            name = f"bands_{len(parts)}"
            parts[name] = _bands_of(trunk, runs[node], layers)
            values[node] = graph.call_module(name, (values[_source(runs[node][0])],))
        elif node.op == "output":
            graph.output(fx.map_arg(node.args[0], values.__getitem__))
        elif node not in inside and not (node.op == "get_attr" and inside.union(runs).issuperset(node.users)):
            values[node] = graph.node_copy(node, values.__getitem__)
            if node.op in ("call_module", "get_attr"):
                parts[str(node.target)] = attrgetter(str(node.target))(trunk)
    return fx.GraphModule(parts, graph).eval()


def _bands_of(trunk: fx.GraphModule, run: Sequence[fx.Node], layers: Mapping[str, nn.Module]) -> BandedLayers:
    graph, parts = fx.Graph(), dict[str, Any]()
    values = {_source(run[0]): graph.placeholder("x")}
    steps, channels, stride = list[Step](), 0.0, 1
    for node in run:
        for constant in node.all_input_nodes:
            if constant.op == "get_attr":
                parts[str(constant.target)] = attrgetter(str(constant.target))(trunk)
                values[constant] = graph.get_attr(str(constant.target))
        values[node] = graph.node_copy(node, values.__getitem__)
        step = _step(trunk, node, layers)
        assert step is not None
        steps.append(step)
        stride *= step.stride
        if node.op == "call_module":
            layer = parts[str(node.target)] = layers[str(node.target)]
            if isinstance(layer, nn.Conv2d) and node is not run[-1]:
                channels = max(channels, layer.out_channels / stride**2)
    graph.output(values[run[-1]])
    return BandedLayers(fx.GraphModule(parts, graph), steps, channels)


def _runs(trunk: fx.GraphModule, layers: Mapping[str, nn.Module]) -> Iterator[list[fx.Node]]:
    """Layers one behind the other, from a convolution to the next layer with a stride behind it."""
    run: list[fx.Node] = []
    for node in trunk.graph.nodes:
        if node.op == "get_attr":
            continue
        step = _step(trunk, node, layers)
        convolves = node.op == "call_module" and isinstance(layers[str(node.target)], nn.Conv2d)
        if step is not None and run and _source(node) is run[-1] and len(run[-1].users) == 1:
            run.append(node)
        else:
            run = [node] if step is not None and convolves else []
        if step is not None and step.stride > 1:
            if len(run) > 1:
                yield run
            run = []


def _source(node: fx.Node) -> fx.Node:
    """The one feature that a layer of a run reads."""
    (found,) = (source for source in node.all_input_nodes if source.op != "get_attr")
    return found


def _step(trunk: fx.GraphModule, node: fx.Node, layers: Mapping[str, nn.Module]) -> Step | None:
    """What a node does to rows; None for one that reads several features or is not known."""
    sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
    if len(sources) != 1:
        return None
    if node.op == "call_module":
        layer = layers[str(node.target)]
        windows = windows_of(layer) if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)) else None
        if windows is not None and type(layer) in (nn.Conv2d, nn.MaxPool2d):
            rows = windows[0]
            return Step(rows.span, rows.stride, rows.padding, rows.padding, rows.ceil)
        return Step() if isinstance(layer, POINTWISE) and not layer.training else None
    if node.target is F.pad and len(node.args) == 2 and not node.kwargs:
        pads = tuple(node.args[1])  # type: ignore[arg-type]
        return Step(above=pads[2], below=pads[3]) if len(pads) == 4 else None
    if node.target in WITH_CONSTANTS:
        constants = [attrgetter(str(s.target))(trunk) for s in node.all_input_nodes if s.op == "get_attr"]
        return Step() if all(prod(constant.shape[2:]) == 1 for constant in constants) else None
    return Step() if node.target in POINTWISE_CALLS and len(node.all_input_nodes) == 1 else None
