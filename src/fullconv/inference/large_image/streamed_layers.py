"""An FCN as layers that make rows from rows: which they look at, and how they are computed without the others.

Layers of windows get rows with the padding that belongs there; all others work cell by cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.geometry import GeometryError, Window
from fullconv.models.alignment import Join
from fullconv.models.dense_scores import WidelyPaddedMaxPool2d
from fullconv.models.fcn import FCN, Fuse, Score, Upscore
from fullconv.models.graph import features_of, kind_name, node_names, works_in_place
from fullconv.models.trace import operation_of
from fullconv.models.upsample import upsampling_matrix
from fullconv.optimize.trunks import call
from fullconv.profiling.graph_cost import feature_sizes, head_sizes

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

    def seen(self, first: int, end: int) -> tuple[int, int]:
        """The source rows, from the first to before the last, that rows of the result are made from, padding too."""
        return self.window.seen(first + self.skip, end + self.skip)

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
    """The tensors of `FCN.coarse` for an image of that size, in their order; the last one of each task is its scores.

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
                found[name + stream] = StreamedLayer(
                    tuple(source + stream for source in sources),
                    (RowWindow(net.trace.windows[name][0]),) * len(sources),
                    sizes[name][0],
                    int(net.trace[name].rows.stride),
                    _maker(trunk, node, name),
                )
    for end in net.tasks.values():
        found.update(_head(net, end, sizes))
    return found


def _maker(trunk: fx.GraphModule, node: fx.Node, name: str) -> Callable[[SourceRows], Tensor]:
    """Return the function that makes rows of a node."""
    operation = operation_of(trunk, node)
    assert operation is not None
    layer, (rows, columns) = operation.layer, operation.windows
    if (rows, columns) == (POINT, POINT) and operation.kind != "split":
        return partial(_by_cell, trunk, node, works_in_place(node, layer) and len(features_of(node)[0].users) > 1)
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
    raise GeometryError(f"layer '{name}' ({kind_name(node, layer)}): it cannot be run strip by strip; give --tile")


def _by_cell(trunk: fx.GraphModule, node: fx.Node, shared: bool, seen: SourceRows) -> Tensor:
    """Rows of a node that works cell by cell; `shared`: on a copy of the first feature, which others read too."""
    parts = dict(zip(features_of(node), seen.parts, strict=True))
    if shared:
        parts[features_of(node)[0]] = seen.parts[0].clone()
    made: Tensor = call(trunk, node, parts.__getitem__)
    return made


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


def _head(net: FCN, end: str, features: dict[str, tuple[int, int]]) -> Iterator[tuple[str, StreamedLayer]]:
    """The steps of `FCN.decode`."""
    if any(net.get_submodule(f"{name}{end}").weight is not None for name in net.upscore_names):
        raise GeometryError("its learned upsampling is not run strip by strip; give --tile")
    rows, columns = (head_sizes(net, {name: size[axis] for name, size in features.items()}, 0) for axis in (0, 1))
    strides = {step.name: int(net.trace[step.feature].rows.stride) for step in net.head if isinstance(step, Score)}
    for step in net.head[:-1]:
        sources: tuple[str, ...]
        looks: tuple[RowWindow, ...]
        if isinstance(step, Score):
            sources = tuple(f"{step.feature}{stream}" for stream in net.streams)
            looks, make = (RowWindow(),) * len(sources), partial(_score, net, step, end)
        elif isinstance(step, Upscore):
            sources, looks = (f"{step.source}{end}",), (RowWindow(step.join.window, step.join.crop_scores),)
            make = partial(_upsample, step.join, columns[step.name])
            strides[step.name] = strides[step.onto]
        else:
            sources = f"{step.upscore}{end}", f"{step.skip}{end}"
            looks, make = (RowWindow(), RowWindow(POINT, step.join.crop_skip)), partial(_fuse, net, step)
            strides[step.name] = strides[step.skip]
        yield f"{step.name}{end}", StreamedLayer(sources, looks, rows[step.name], strides[step.name], make)


def _score(net: FCN, step: Score, end: str, seen: SourceRows) -> Tensor:
    return net.score(step, seen.parts, end)


def _fuse(net: FCN, step: Fuse, seen: SourceRows) -> Tensor:
    upsampled, skip = seen.parts
    return net.fuse(upsampled, skip[..., step.join.crop_skip :][..., : upsampled.shape[3]])


def _upsample(join: Join, columns: int, seen: SourceRows) -> Tensor:
    """Rows of the fixed `Upsample`, of so many columns."""
    (x,) = seen.parts
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    with torch.autocast(x.device.type, enabled=False):
        offset = join.crop_scores + seen.row - seen.first * join.window.stride
        down = upsampling_matrix(join.window, x.shape[2], offset, seen.rows, x)
        right = upsampling_matrix(join.window, x.shape[3], join.crop_scores, columns, x)
        return down @ (x @ right.T)
