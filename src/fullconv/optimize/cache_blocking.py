"""Layers near the image, some rows at a time, so that what they give stays in the processor's cache.

The first features are by far the largest, 64 MB each for VGG16 on 500x500 pixels, and only the next layer reads them.
From one layer that halves them to the next, a band of rows goes through all layers before the next band does. It begins
and ends some rows further out, by what its windows see; those few rows are computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import ceil, prod
from operator import attrgetter

import torch
from torch import Tensor, fx, nn

from fullconv.geometry import Window
from fullconv.models.fcn import FCN
from fullconv.models.graph import erase_dead, features_of, finish, layer_of, replace, shared_copy, works_in_place
from fullconv.optimize.trunks import plain_operation, with_trunks

POINT = Window(1)

BAND = 8 << 20
"""Bytes of the largest feature of a band."""

LARGE = 12 << 20
"""Layers whose features are no larger than this are run as a whole."""

KNOWN = ("convolution", "max", "pad", "pointwise")
"""The kinds of layers that are run in bands."""

WITH_CONSTANTS = {torch.add, torch.maximum, "clamp_"}
"""What works cell by cell where all it is given beside a feature is one number a channel."""


class BandedLayers(nn.Module):
    """Layers one behind the other that are run band by band where their features are large; the result is theirs.

    steps: the window of each layer on the rows. channels: the values of the largest feature between them, per cell of
    the input.
    """

    def __init__(self, layers: nn.Module, steps: Sequence[Window], channels: float) -> None:
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
    """A copy of a net for prediction whose layers near the image are `BandedLayers`; weights are shared."""
    return with_trunks(net, banded)


def banded(trunk: fx.GraphModule) -> fx.GraphModule:
    """The same of a graph: from one layer that halves its features to the next, where nobody else reads them."""
    found = shared_copy(trunk)
    runs = list(_runs(found))
    for number, run in enumerate(runs):
        (source,) = features_of(run[0])
        replace(found, run[-1], f"bands_{number}", _bands_of(found, run, source), source)
    replaced = {node for run in runs for node in run}  # in-place ones too: they change nothing but their own run
    erase_dead(found.graph, lambda node: node in replaced or not works_in_place(node))
    return finish(found).eval()


def _bands_of(trunk: fx.GraphModule, run: Sequence[fx.Node], source: fx.Node) -> BandedLayers:
    graph = fx.Graph()
    values = {source: graph.placeholder("x")}
    steps, channels, stride = list[Window](), 0.0, 1
    for node in run:
        for constant in node.all_input_nodes:
            if constant.op == "get_attr":
                values[constant] = graph.node_copy(constant)
        values[node] = graph.node_copy(node, values.__getitem__)
        step, layer = _rows(trunk, node), layer_of(trunk, node)
        assert step is not None
        steps.append(step)
        stride *= step.stride
        if isinstance(layer, nn.Conv2d) and node is not run[-1]:
            channels = max(channels, layer.out_channels / stride**2)
    graph.output(values[run[-1]])
    return BandedLayers(fx.GraphModule(trunk, graph).eval(), steps, channels)


def _runs(trunk: fx.GraphModule) -> Iterator[list[fx.Node]]:
    """Layers one behind the other, from a convolution to the next layer with a stride behind it."""
    run: list[fx.Node] = []
    for node in trunk.graph.nodes:
        if node.op == "get_attr":
            continue
        step = _rows(trunk, node)
        if step is not None and run and features_of(node) == run[-1:] and len(run[-1].users) == 1:
            run.append(node)
        else:
            run = [node] if step is not None and isinstance(layer_of(trunk, node), nn.Conv2d) else []
        if step is not None and step.stride > 1:
            if len(run) > 1:
                yield run
            run = []


def _rows(trunk: fx.GraphModule, node: fx.Node) -> Window | None:
    """The window of a node on the rows; None for one that reads several features or is not known."""
    if len(features_of(node)) != 1:
        return None
    operation = plain_operation(trunk, node)
    constants = [attrgetter(str(s.target))(trunk) for s in node.all_input_nodes if s.op == "get_attr"]
    if node.target in WITH_CONSTANTS:
        return POINT if all(prod(constant.shape[2:]) == 1 for constant in constants) else None
    if operation is None or operation.kind not in KNOWN or constants:
        return None
    rows = operation.windows[0]
    return rows if min(rows.padding, rows.both - rows.padding) >= 0 else None  # a band cannot be cut
