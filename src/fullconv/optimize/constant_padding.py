"""Where the padded image is a constant: the ring that a net of wide padding computes around every image.

The released nets pad the image by 100 pixels (section 4 of the authors' code), so that a third of their work is done
where there is no image. On each axis, cells of a feature are of three kinds: those that see the image, those that see
the border of the padded canvas, and those between them, which are the same for every image and everywhere: the ring.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.geometry import Window
from fullconv.models.graph import layer_of, node_names
from fullconv.models.trace import Trace, Windows
from fullconv.optimize.trunks import call, plain_operation


@dataclass(frozen=True)
class CellRange:
    """The cells of one feature on one axis: `cells` in all; those from `begin` to before `end` may see the image; the
    first `front` and the last `back` see the border of the canvas. All others are ring.
    """

    cells: int
    begin: int
    end: int
    front: int = 0
    back: int = 0

    @property
    def apart(self) -> bool:
        """Whether no cell sees both image and border."""
        return self.front <= self.begin and self.end <= self.cells - self.back

    @property
    def length(self) -> int:
        """The cells that may see the image."""
        return self.end - self.begin

    def through(self, window: Window, borderless: bool) -> CellRange:
        """The extent behind a layer. borderless: its padding is no border: what it pads is what the ring holds.

        >>> CellRange(500, 0, 500).through(Window(3, padding=100), borderless=True)
        CellRange(cells=698, begin=98, end=600, front=0, back=0)
        >>> CellRange(698, 98, 600).through(Window(3, padding=1), borderless=False)
        CellRange(cells=698, begin=97, end=601, front=1, back=1)
        """
        step, pad, reach = window.stride, window.padding, window.span - 1
        cells = window.size(self.cells)
        begin = max(0, -(-(self.begin + pad - reach) // step))
        end = min(cells, (self.end - 1 + pad) // step + 1)
        front = 0 if borderless and not self.front else -(-(self.front + pad) // step)
        first = cells if borderless and not self.back else -(-(self.cells - self.back + pad - reach) // step)
        return CellRange(cells, begin, end, min(front, cells), max(0, min(cells, cells - first)))

    def union(self, other: CellRange) -> CellRange:
        """The extent of a sum or concatenation of two features on one grid."""
        return CellRange(
            self.cells, min(self.begin, other.begin), max(self.end, other.end),
            max(self.front, other.front), max(self.back, other.back),
        )  # fmt: skip

    def leaves(self, window: Window, source: CellRange) -> bool:
        """Whether image cells of this feature look over the border of the one that it is made of."""
        first, last = window.seen(self.begin, self.end)
        return first < 0 or last > source.cells

    def seen_by(self, window: Window, out: CellRange) -> tuple[int, int]:
        """The ring cells that a layer needs before and after the image cells of this feature, to make those of `out`;
        negative where it needs fewer than there are.
        """
        first, last = window.seen(out.begin, out.end)
        return self.begin - first, last - self.end

    def indices(self, wide: CellRange) -> list[int]:
        """For each cell of a wider canvas of the same period the cell of this one that holds the same, image aside."""
        ring = self.front
        assert self.cells - self.front - self.back >= 1
        assert (self.front, self.back) == (wide.front, wide.back)
        behind = wide.cells - wide.back
        return [i if i < ring else ring if i < behind else i - wide.cells + self.cells for i in range(wide.cells)]


CellRanges = dict[str, tuple[CellRange, CellRange]]
"""The extents of features on rows and columns, by name."""

COPY = 100
"""What it costs to copy a number, in multiply-adds; a processor does about so many in the time."""

WORTH = 0.97
"""A net that needs more than this share of the plain net's work is left as it is."""

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass(frozen=True)
class PaddingPlan:
    """What is computed without the ring.

    constants: the constant vector of each feature, (1, C, 1, 1). ring: the features that are written as what they are
    above it. extents: of all features. work: multiply-adds of it all, as a share of the plain net's.
    """

    constants: Mapping[str, Tensor]
    ring: frozenset[str]
    extents: CellRanges
    work: float


@dataclass(frozen=True)
class Layers:
    """The nodes of a trunk by name: its trace, what they are to a feature that is written above its constant (None for
    what has no such form), and their modules.
    """

    trace: Trace
    kinds: Mapping[str, str | None]
    modules: Mapping[str, nn.Module | None]

    @classmethod
    def of(cls, trunk: fx.GraphModule, trace: Trace) -> Layers:
        """The layers of a trunk that `trace` is the walk of."""
        nodes = {name: node for node, name in node_names(trunk.graph).items() if name in trace.features}
        kinds = {name: kind_of(trunk, node) for name, node in nodes.items()}
        return cls(trace, kinds, {name: layer_of(trunk, node) for name, node in nodes.items()})


def plan_for(trunk: fx.GraphModule, trace: Trace, sides: tuple[int, int]) -> PaddingPlan | None:
    """The plan for an input of so many rows and columns; None where it is not worth while.

    Zeros around the input cost little, and shift what is computed against the windows of the pools, which then need
    no padding of their own: the least costly shift is taken.
    """
    constants, layers = dict(constants_of(trunk, trace)), Layers.of(trunk, trace)

    def found(more: Sequence[int]) -> tuple[float, CellRanges, frozenset[str]]:
        extents = extents_of(layers, sides, more, constants)
        ring = ring_of(layers, extents)
        extents.update(_widened(layers, extents, ring))
        return _work(layers, extents, ring), extents, ring

    more = [0, 0, 0, 0]  # above, below, left, right
    work, extents, ring = found(more)
    plain = _work(layers, extents, frozenset())
    period = max((int(trace[name].axis.stride) for name in ring), default=1)
    if work > WORTH * plain or period == 1:
        return None
    for place in range(4):
        choices = ([*more[:place], extra, *more[place + 1 :]] for extra in range(period))
        more = min(choices, key=lambda choice: found(choice)[0])
    work, extents, ring = found(more)
    return PaddingPlan(constants, ring, extents, work / plain)


def constants_of(trunk: fx.GraphModule, trace: Trace) -> Iterator[tuple[str, Tensor]]:
    """The vector that each feature is of an endless image of zeros, (1, C, 1, 1); features without one are left out."""
    names, known = node_names(trunk.graph), dict[fx.Node, Any]()
    weight = next(trunk.parameters())
    with torch.no_grad():
        for node in trunk.graph.nodes:
            kind, layer = kind_of(trunk, node), layer_of(trunk, node)
            if node.op == "placeholder":
                known[node] = weight.new_zeros(1, trace[names[node]].channels or 3, 1, 1)
            elif kind is None or any(source not in known for source in node.all_input_nodes):
                continue
            elif isinstance(layer, nn.Conv2d):
                everywhere = known[node.args[0]].expand(-1, -1, *layer.kernel_size)
                known[node] = F.conv2d(everywhere, layer.weight, layer.bias, groups=layer.groups)
            elif kind in ("max", "average"):
                known[node] = known[node.args[0]]
            else:
                known[node] = call(trunk, node, lambda source: known[source].clone())  # some layers work in place
            yield names[node], known[node]


def kind_of(trunk: fx.GraphModule, node: fx.Node) -> str | None:
    """What a node is to a feature that is written above its constant; None for what has no such form here."""
    operation = plain_operation(trunk, node)
    if operation is None or getattr(operation.layer, "divisor_override", None) is not None:
        return None  # with a divisor of its own a pool is not a mean: another constant comes out
    inputs = len(node.all_input_nodes)
    if operation.kind == "sum":  # of two features: a difference or a product has other constants
        return "sum" if node.target in ADDITIONS and inputs == len(node.args) == 2 and not node.kwargs else None
    if operation.kind == "pointwise":
        return "pointwise" if inputs == 1 else None
    return operation.kind if operation.kind in ("convolution", "max", "average", "concatenation") else None


def extents_of(
    layers: Layers, sides: tuple[int, int], more: Sequence[int], constants: Mapping[str, Tensor]
) -> CellRanges:
    """The extents of all features; `more` zeros are taken for image above, below, left and right of it."""
    found: CellRanges = {}
    trace = layers.trace
    for name in trace.features:
        sources = [found[source] for source in trace.sources[name]]
        if not sources:
            found[name] = (
                CellRange(sides[0], -more[0], sides[0] + more[1]), CellRange(sides[1], -more[2], sides[1] + more[3])
            )  # fmt: skip
            continue
        kind, first = layers.kinds[name], trace.sources[name][0]
        # A maximum over what there is of a window is that of the window, and zeros beside zeros are no border.
        free = kind == "max" or (kind == "convolution" and first in constants and not constants[first].any())
        joined = sources[0]
        for other in sources[1:]:
            joined = joined[0].union(other[0]), joined[1].union(other[1])
        rows, columns = (
            source.through(window, free and not (kind == "max" and source.through(window, True).leaves(window, source)))
            for source, window in zip(joined, trace.windows[name], strict=True)
        )
        found[name] = rows, columns
    return found


def ring_of(layers: Layers, extents: CellRanges) -> frozenset[str]:
    """The features that can be written above their constants: all that they are made of can, and no cell of them sees
    both image and border.
    """
    ring: set[str] = set()
    for name, (rows, columns) in extents.items():
        sources = layers.trace.sources[name]
        local = not sources or layers.kinds[name] is not None
        if local and rows.apart and columns.apart and ring.issuperset(sources):
            ring.add(name)
    return frozenset(ring)


def _widened(layers: Layers, extents: CellRanges, ring: frozenset[str]) -> CellRanges:
    """The extents of features in front of a pool with the ring cells that it looks at: the convolution that they come
    from computes them, a row or two, and nothing is copied to pad them. It also keeps 8-bit integers such.
    """
    found: CellRanges = {}
    trace, kinds = layers.trace, layers.kinds
    readers = {name: [user for user in extents if name in trace.sources[user]] for name in extents}
    for pool, out in extents.items():
        if pool not in ring or kinds[pool] not in ("max", "average"):
            continue
        chain = [trace.sources[pool][0]]
        while kinds[chain[-1]] == "pointwise":
            chain.append(trace.sources[chain[-1]][0])
        convolved = kinds[chain[-1]] == "convolution" and chain[-1] in ring
        if convolved and all(len(readers[name]) == 1 for name in chain):
            for name in chain:
                rows, columns = (
                    replace(extent, begin=extent.begin - before, end=extent.end + after)
                    for extent, (before, after) in zip(
                        extents[name], needed(extents[name], out, trace.windows[pool]), strict=True
                    )
                )
                found[name] = rows, columns
    return found


def _work(layers: Layers, extents: CellRanges, ring: frozenset[str]) -> float:
    """Multiply-adds of the convolutions, and copies for padding in terms of them."""
    total, trace = 0.0, layers.trace
    for name, (rows, columns) in extents.items():
        cells = rows.length * columns.length if name in ring else rows.cells * columns.cells
        layer = layers.modules[name]
        if isinstance(layer, nn.Conv2d):
            total += cells * layer.weight.numel()
        if name in ring and trace.sources[name]:
            source = trace.sources[name][0]
            pads = needed(extents[source], extents[name], trace.windows[name])
            if not own_padding(*pads, layer):  # each side counts for itself, so that a better one is seen as better
                sides = sum(cells != 0 for pair in pads for cells in pair) / 4
                seen = extents[source]
                total += COPY * sides * (trace[source].channels or 1) * seen[0].length * seen[1].length
    return total


def needed(
    source: tuple[CellRange, CellRange], out: tuple[CellRange, CellRange], windows: Windows
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The cells of padding before and after, on rows and columns."""
    return source[0].seen_by(windows[0], out[0]), source[1].seen_by(windows[1], out[1])


def own_padding(rows: tuple[int, int], columns: tuple[int, int], layer: nn.Module | None) -> bool:
    """Whether a layer pads by itself as is needed, without a copy."""
    even = rows[0] == rows[1] >= 0 and columns[0] == columns[1] >= 0
    return even and (isinstance(layer, nn.Conv2d) or (rows, columns) == ((0, 0), (0, 0)))
