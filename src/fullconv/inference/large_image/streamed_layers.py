"""An FCN as layers that make rows from rows: which they look at, and how they are computed without the others.

Layers of windows get rows with the padding that belongs there; all others work cell by cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.geometry import GeometryError, Window
from fullconv.models.dense_scores import WidelyPaddedMaxPool2d
from fullconv.models.fcn import FCN
from fullconv.models.trace import node_names, windows_of
from fullconv.models.upsample import upsampling_matrix
from fullconv.profiling.graph_cost import feature_sizes

POINT = Window(1)
INFINITY = float("inf")

WIDE = 25
"""Taps from which on a convolution is one product of matrices here: a library would lay all its weights out anew for
each strip, 411 MB of VGG16's fc6."""


@dataclass(frozen=True)
class RowWindow:
    """Which rows of a source the rows of a layer look at. skip: rows of the result that a crop cuts off in front."""

    window: Window = POINT
    skip: int = 0

    def first(self, row: int) -> int:
        """The first source row that a row is made from; below 0 where that is padding."""
        if self.window.transposed:
            return -((self.window.kernel - 1 - row - self.skip) // self.window.stride)
        return (row + self.skip) * self.window.stride - self.window.padding

    def end(self, row: int) -> int:
        """The source row behind the last one that a row is made from."""
        if self.window.transposed:
            return (row + self.skip) // self.window.stride + 1
        return self.first(row) + self.window.span

    def ready(self, rows: int) -> int:
        """The rows that can be made when so many of the source are there."""
        if self.window.transposed:
            return rows * self.window.stride - self.skip
        return (rows + self.window.padding - self.window.span) // self.window.stride + 1 - self.skip


@dataclass(frozen=True)
class SourceRows:
    """What a layer makes rows from: `rows` of them from `row` on, of these rows of its sources; `first` is the first
    row of the first source, and so many rows of padding lie above and below it.
    """

    parts: list[Tensor]
    row: int
    rows: int
    first: int
    above: int
    below: int


@dataclass
class StreamedLayer:
    """One tensor of the net, of which the rows that are still looked at are in memory.

    sources: the layers that it is made from; looks: how. height: its rows in the whole; made: those that were made.
    stride: the pixels between its rows.
    """

    sources: tuple[str, ...]
    looks: tuple[RowWindow, ...]
    height: int
    stride: int = 1
    make: Callable[[SourceRows], Tensor] | None = None
    made: int = 0
    held: Tensor | None = field(default=None, repr=False)
    place: Tensor | None = field(default=None, repr=False)

    def take(self, rows: Tensor) -> None:
        """Put new rows below those that are held."""
        self.made += rows.shape[2]
        self.held = rows if self.held is None or not self.held.shape[2] else torch.cat([self.held, rows], 2)

    def part(self, first: int, end: int) -> Tensor:
        """The rows from `first` to before `end`."""
        assert self.held is not None
        above = self.made - self.held.shape[2]
        return self.held[:, :, first - above : end - above] if first < end else self.held[:, :, :0]

    def drop(self, before: float) -> None:
        """Give up the rows before one."""
        if self.held is None:
            return
        if before >= self.made:
            self.held = self.held.new_empty(1, self.held.shape[1], 0, self.held.shape[3])
        elif self.made - before < self.held.shape[2]:  # a copy: a view would keep them all in memory
            rows = self.held[:, :, -int(self.made - before) :]
            if self.place is None or self.place.shape != rows.shape or self.held is self.place:
                self.place = rows.clone()
            else:  # at one and the same place, so that large tensors come and go around it
                self.place.copy_(rows)
            self.held = self.place


def layers_of(net: FCN, height: int, width: int) -> dict[str, StreamedLayer]:
    """The tensors of `FCN.coarse` for an image of that size, in their order; those named ``end`` are the scores.

    Raises `GeometryError` naming a layer that cannot be run in rows.
    """
    sizes = feature_sizes(net, height, width)
    found: dict[str, StreamedLayer] = {}
    for stream in net.streams:
        trunk = net.get_submodule(f"backbone{stream}")
        assert isinstance(trunk, fx.GraphModule)
        for node, name in node_names(trunk.graph).items():
            if node.op == "placeholder":
                found[f"image{stream}"] = StreamedLayer((), (), sizes[name][0])
                image = name
            elif node.op not in ("output", "get_attr"):
                sources = tuple("image" if s == image else s for s in net.trace.sources[name])
                look = RowWindow(net.trace.windows[name][0])
                make = _module(trunk, node, name) if node.op == "call_module" else _call(trunk, node, name)
                found[name + stream] = StreamedLayer(
                    tuple(source + stream for source in sources),
                    (look,) * len(sources),
                    sizes[name][0],
                    int(net.trace[name].rows.stride),
                    make,
                )
    for end in net.tasks.values():
        found.update(_head(net, end, sizes))
    return found


def _module(trunk: fx.GraphModule, node: fx.Node, name: str) -> Callable[[SourceRows], Tensor]:
    """How a module makes rows."""
    layer = trunk.get_submodule(str(node.target))
    rows, columns = windows_of(layer) or (POINT, POINT)
    if (rows, columns) == (POINT, POINT):
        shared = getattr(layer, "inplace", False) and len(node.all_input_nodes[0].users) > 1
        return lambda seen: layer(seen.parts[0].clone() if shared else seen.parts[0])
    if isinstance(layer, nn.Conv2d) and type(layer).forward is nn.Conv2d.forward:
        return lambda seen: convolve(_extended(seen, 0.0), layer, columns)
    if isinstance(layer, nn.MaxPool2d):
        wide = columns.padding if isinstance(layer, WidelyPaddedMaxPool2d) else 0

        def pool(seen: SourceRows) -> Tensor:
            x = F.pad(_extended(seen, -INFINITY), (wide, wide), value=-INFINITY) if wide else _extended(seen, -INFINITY)
            return F.max_pool2d(
                x, (rows.kernel, columns.kernel), (rows.stride, columns.stride), (0, 0 if wide else columns.padding),
                (rows.dilation, columns.dilation), columns.ceil,
            )  # fmt: skip

        return pool
    if isinstance(layer, nn.AvgPool2d) and not rows.padding and not rows.ceil:
        return lambda seen: layer(seen.parts[0])
    raise GeometryError(f"layer '{name}' ({type(layer).__name__}): it cannot be run strip by strip; give --tile")


def _extended(seen: SourceRows, value: float) -> Tensor:
    """The rows with their padding."""
    return F.pad(seen.parts[0], (0, 0, seen.above, seen.below), value=value) if seen.above or seen.below else (
        seen.parts[0]
    )  # fmt: skip


def convolve(x: Tensor, layer: nn.Conv2d, columns: Window) -> Tensor:
    """A convolution that pads no rows; one of many taps as a product of matrices, with its weights as they lie."""
    weight = layer.weight
    taps = weight.shape[2] * weight.shape[3]
    rows = (x.shape[2] - (weight.shape[2] - 1) * layer.dilation[0] - 1) // layer.stride[0] + 1
    cells = rows * columns.size(x.shape[3])
    if (taps < WIDE or layer.groups > 1 or layer.stride != (1, 1) or layer.dilation != (1, 1)
            or x.dtype != weight.dtype or torch.is_autocast_enabled(x.device.type)
            or cells * taps * weight.shape[1] > weight.numel()):  # fmt: skip
        padding = (0, columns.padding)
        return F.conv2d(x, weight, layer.bias, layer.stride, padding, layer.dilation, layer.groups)
    padded = F.pad(x, (columns.padding, columns.padding)) if columns.padding else x
    windows = padded[0].unfold(1, weight.shape[2], 1).unfold(2, weight.shape[3], 1)  # (C, rows, columns, kh, kw)
    last = weight.is_contiguous(memory_format=torch.channels_last)
    order, laid = ((1, 2, 3, 4, 0), weight.permute(0, 2, 3, 1)) if last else ((1, 2, 0, 3, 4), weight)
    matrix = windows.permute(order).reshape(rows * windows.shape[2], -1)
    made = matrix @ laid.reshape(len(weight), -1).T
    if layer.bias is not None:
        made += layer.bias
    return made.reshape(1, rows, windows.shape[2], -1).permute(0, 3, 1, 2)


def _call(trunk: fx.GraphModule, node: fx.Node, name: str) -> Callable[[SourceRows], Tensor]:
    """How a function or a method makes rows, cell by cell."""
    kind = str(getattr(node.target, "__name__", node.target))
    if kind in ("chunk", "split", "getitem"):
        raise GeometryError(f"layer '{name}': it deals channels out, which is not run strip by strip; give --tile")
    given = [source for source in node.all_input_nodes if source.op != "get_attr"]
    overwrites = kind in ("iadd", "imul") or kind.endswith("_") or bool(node.kwargs.get("inplace"))
    shared = overwrites and len(given[0].users) > 1

    def make(seen: SourceRows) -> Tensor:
        parts = dict(zip(given, seen.parts, strict=True))
        if shared:
            parts[given[0]] = parts[given[0]].clone()

        def value(source: fx.Node) -> Any:
            return parts[source] if source in parts else attrgetter(str(source.target))(trunk)

        args, kwargs = fx.node.map_arg(node.args, value), fx.node.map_arg(node.kwargs, value)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    return make


def _head(net: FCN, end: str, sizes: dict[str, tuple[int, int]]) -> Iterator[tuple[str, StreamedLayer]]:
    """The steps of `FCN.decode`."""
    if any(net.get_submodule(f"{name}{end}").weight is not None for name in net.upscore_names):
        raise GeometryError("its learned upsampling is not run strip by strip; give --tile")

    def scores(level: int) -> Iterator[tuple[str, StreamedLayer]]:
        feature, rows = net.features[level], sizes[net.features[level]][0]
        stride = int(net.trace[feature].rows.stride)
        sources = tuple(feature + stream for stream in net.streams)

        def make(seen: SourceRows) -> Tensor:
            streams = [(part,) * (level + 1) for part in seen.parts]
            return net.score(level, streams, end)

        yield f"scores {level}{end}", StreamedLayer(sources, (RowWindow(),) * len(sources), rows, stride, make)

    yield from scores(0)
    last, here = f"scores 0{end}", sizes[net.features[0]]
    for level, join in enumerate(net.joins[:-1], start=1):
        there, stride = sizes[net.features[level]], int(net.trace[net.features[level]].rows.stride)
        goal = join.size(here[0], there[0]), join.size(here[1], there[1])
        yield from scores(level)
        yield f"upsampled {level}{end}", StreamedLayer(
            (last,), (RowWindow(join.window, join.crop_scores),), goal[0], stride,
            _upsampling(join.window, join.crop_scores, goal[1]),
        )  # fmt: skip

        def fuse(seen: SourceRows, skip: int = join.crop_skip, columns: int = goal[1]) -> Tensor:
            return net.fuse(seen.parts[0], seen.parts[1][..., skip : skip + columns])

        sources = f"upsampled {level}{end}", f"scores {level}{end}"
        yield (
            f"fused {level}{end}",
            StreamedLayer(sources, (RowWindow(), RowWindow(POINT, join.crop_skip)), goal[0], stride, fuse),
        )
        last, here = f"fused {level}{end}", goal
    yield f"end{end}", StreamedLayer((last,), (RowWindow(),), here[0], net.stride, lambda seen: seen.parts[0])


def _upsampling(window: Window, offset: int, columns: int) -> Callable[[SourceRows], Tensor]:
    """How `Upsample` makes rows, of so many columns from `offset` on."""

    def make(seen: SourceRows) -> Tensor:
        (x,) = seen.parts
        x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        with torch.autocast(x.device.type, enabled=False):
            down = upsampling_matrix(window, x.shape[2], offset + seen.row - seen.first * window.stride, seen.rows, x)
            right = upsampling_matrix(window, x.shape[3], offset, columns, x)
            return down @ (x @ right.T)

    return make
