"""Dense scores by other means than skips: shift-and-stitch, and the rarefied (a trous) net (section 3.2 of the paper).

A net of stride s scores every s-th pixel. `shift_and_stitch` runs it on shifted views of the image and interlaces the
results; `rarefy` removes strides and spreads the taps of the later filters by as much. Both slide the classifier over
the image pixel by pixel. For a net of stride f t that becomes f times denser, and a canvas of any size::

    dense = rarefy(net, t)(canvas)
    stitched = shift_and_stitch(net, canvas, f)
    h, w = stitched.shape[2:]               # those of dense, rounded down to a multiple of f
    stitched == dense[:, :, :h, :w]         # without padding inside the net
    net(canvas) == dense[:, :, ::f, ::f]    # with padding too, borders included

Padding inside the net is zeros at the border of each shifted view, where the rarefied net has pixels, so there the
first equation holds on the cells that see no padding: those of `interior`, each with all its phases. A pool in ceil
mode adds partial windows at the bottom and right; with stride 1 there are none, so both equations hold on such cells.
"""

from __future__ import annotations

import copy
import itertools
import math
from fractions import Fraction
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.errors import UsageError
from fullconv.geometry import AxisMap, Window
from fullconv.models.graph import finish, kind_name, layer_of, node_names
from fullconv.models.trace import (
    Feature,
    Trace,
    Windows,
    pool_windows,
    symbolic_trace,
    walk,
    windows_of,
)

Pair = tuple[int, int]
"""One number for the rows and one for the columns."""

POINT = Window(1), Window(1)
"""The windows of a point-wise layer."""


class DilatedAvgPool2d(nn.AvgPool2d):
    """An average pool with dilation, which torch lacks: a depthwise convolution with a constant filter.

    It has no parameters, so a rarefied net has the names of the net it came from.
    """

    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    def extra_repr(self) -> str:
        """Return what ``print(net)`` shows."""
        return f"{super().extra_repr()}, dilation={self.dilation}"

    def forward(self, input: Tensor) -> Tensor:
        """Return the mean of each window: (N, C, H, W) -> (N, C, h, w)."""
        if self.divisor_override is not None:
            return self._sums(input) / self.divisor_override
        if self.count_include_pad or self.padding == (0, 0):
            return self._sums(input) / math.prod(self.kernel_size)
        return self._sums(input) / self._sums(torch.ones_like(input[:1, :1]))

    def _sums(self, x: Tensor) -> Tensor:
        ones = x.new_ones(1, 1, *self.kernel_size).expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, ones, None, self.stride, self.padding, self.dilation, groups=x.shape[1])


class WidelyPaddedMaxPool2d(nn.MaxPool2d):
    """A max pool whose padding may exceed half of its kernel, which torch refuses: 3 spread taps padded by 1."""

    stride: Pair
    padding: Pair

    def forward(self, input: Tensor) -> Tensor:
        """Return the maximum of each window: (N, C, H, W) -> (N, C, h, w)."""
        rows, columns = self.padding
        padded = F.pad(input, (columns, columns, rows, rows), value=-math.inf)
        return F.max_pool2d(padded, self.kernel_size, self.stride, 0, self.dilation)


for _pool in (DilatedAvgPool2d, WidelyPaddedMaxPool2d):
    windows_of.register(_pool, pool_windows)

Filter = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d
"""The layers that have a rarefied form and are more than point-wise."""


def with_windows(layer: Filter, rows: Window, columns: Window) -> Filter:
    """Return a layer with the strides, paddings and dilations of other windows of the same kernel, sharing weights."""
    changed: Any = copy.copy(layer)  # keeps the class and its hooks
    if isinstance(layer, nn.AvgPool2d):
        changed = DilatedAvgPool2d(
            (rows.kernel, columns.kernel),
            count_include_pad=layer.count_include_pad,
            divisor_override=layer.divisor_override,
        )
    elif isinstance(layer, nn.MaxPool2d):
        if any(2 * window.padding > window.kernel for window in (rows, columns)):
            changed = WidelyPaddedMaxPool2d(layer.kernel_size)
        changed.ceil_mode = False
    changed.stride = rows.stride, columns.stride
    changed.padding = rows.padding, columns.padding
    changed.dilation = rows.dilation, columns.dilation
    changed.training = layer.training
    return cast(Filter, changed)


def _filters(graph_module: fx.GraphModule, trace: Trace) -> list[tuple[fx.Node, str, Filter]]:
    """Return every layer that is more than point-wise, with its node and name; refuse one without a rarefied form."""
    found = []
    for node, name in node_names(graph_module.graph).items():
        if trace.windows.get(name, POINT) == POINT:
            continue
        layer = layer_of(graph_module, node)
        if not isinstance(layer, Filter):
            reason = "no rarefied form of it is known; write it as a Conv2d, MaxPool2d or AvgPool2d module"
            if isinstance(layer, nn.ConvTranspose2d):
                reason = "it is an upsampling, which has no rarefied form; rarefy the net below it"
            raise UsageError(f"layer '{name}' ({kind_name(node, layer)}): {reason}")
        found.append((node, name, layer))
    return found


def _rarefied(window: Window, before: Fraction, after: Fraction, stride: int) -> Window:
    """Return the window of a layer between two grids, each of which keeps what of its stride divides `stride`.

    The cells of its input lie denser by the stride that they lost: taps and padding are spread by as much.
    """
    kept, left = math.gcd(int(before), stride), math.gcd(int(after), stride)
    lost = int(before) // kept
    if (lost, left // kept) == (1, window.stride):
        return window
    return Window(window.kernel, left // kept, window.padding * lost, window.dilation * lost)


def rarefy(net: nn.Module, stride: int = 1, channels: int = 3) -> fx.GraphModule:
    """Return the net with its output at another stride and the taps of its filters spread (filter rarefaction, 3.2).

    A layer that loses its stride gives as many times more cells, so every filter after it is dilated by the product of
    the strides that were removed before it, and its padding grows by as much. Receptive field and first cell stay. A
    value of stride s keeps gcd(s, stride), so that the factors agree where branches join: at 8, a VGG keeps its first
    three pools and loses the strides of the last two (DeepLab's use).

    Args:
        net: A net that `walk` takes, of convolutions, max and average pools, point-wise layers, sums and
            concatenations. It is copied, with the same parameter names (a layer that is called twice is two layers with
            one weight), in its training or evaluation mode; the laws of this module hold in evaluation mode.
        stride: The stride of the output, a divisor of the net's own.
        channels: The channels of the image.

    Raises:
        UsageError: Another stride, or a layer without a rarefied form (a transposed convolution, or one without an
            affine map; `convolutionalize` turns a global pool into a pool with a map).

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.MaxPool2d(3, 2), nn.Conv2d(8, 2, 3))
    >>> for layer in rarefy(net).children():
    ...     print(layer)
    Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
    MaxPool2d(kernel_size=3, stride=(1, 1), padding=(0, 0), dilation=(2, 2), ceil_mode=False)
    Conv2d(8, 2, kernel_size=(3, 3), stride=(1, 1), dilation=(4, 4))
    >>> walk(net).last.axis, walk(rarefy(net)).last.axis
    (AxisMap(stride=4, start=7, field=15), AxisMap(stride=1, start=7, field=15))
    """
    copied = copy.deepcopy(net)
    graph_module = copied if isinstance(copied, fx.GraphModule) else symbolic_trace(copied)
    trace = walk(graph_module, channels)
    filters = _filters(graph_module, trace)
    strides = trace.last.rows.stride, trace.last.columns.stride
    common = math.gcd(int(strides[0]), int(strides[1]))
    if stride < 1 or common % stride:
        divisors = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        own = " by ".join(str(s) for s in dict.fromkeys(strides))
        raise UsageError(f"stride {stride}: it does not divide the net's stride, {own}; One of: {divisors}")
    places: dict[tuple[str, Windows], str] = {}
    for node, name, layer in filters:
        source, result = trace[trace.sources[name][0]], trace[name]
        windows = trace.windows[name]
        rows = _rarefied(windows[0], source.rows.stride, result.rows.stride, stride)
        columns = _rarefied(windows[1], source.columns.stride, result.columns.stride, stride)
        target = str(node.target)
        place = target, (rows, columns)
        if place not in places:  # a module that is called twice may need two dilations: two places, one weight
            taken = {name for name, _ in graph_module.named_modules(remove_duplicate=False)}
            names = (f"{target}_{n}" for n in itertools.count(2))
            first = all(target != other for other, _ in places)
            places[place] = target if first else next(name for name in names if name not in taken)
            same = (rows, columns) == windows
            graph_module.add_submodule(places[place], layer if same else with_windows(layer, rows, columns))
        node.target = places[place]
    return finish(graph_module, drop_unused=False)


def shift_and_stitch(net: nn.Module, image: Tensor, factor: int | None = None) -> Tensor:
    """Return scores that are `factor` times denser, from runs on factor x factor shifted views of the image (3.2).

    The image is one canvas, and nothing is added to it. With t = stride / factor, the view of phase (a, b) is
    ``canvas[a t : a t + H', b t : b t + W']``, H' = H - (factor - 1) t and W' likewise, so all views have one size;
    ``stitched[i factor + a, j factor + b] = net(view)[i, j]``. At the default t is 1: the views are shifted by pixels.

    Args:
        net: A net that `walk` takes, with one map of scores, in evaluation mode.
        image: (N, C, H, W).
        factor: A divisor of the net's stride; by default the stride, on rows and on columns, which gives a score for
            every pixel that is the centre of a receptive field.

    Returns:
        (N, K, factor h, factor w), where a view gives (N, K, h, w).

    Raises:
        UsageError: The factor does not divide the stride, the image is too small, or there is not one map of scores.
        GeometryError: A layer has no affine map; the message names it.

    >>> net = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2), nn.MaxPool2d(2))
    >>> net(torch.zeros(1, 3, 20, 24)).shape, shift_and_stitch(net, torch.zeros(1, 3, 20, 24)).shape
    (torch.Size([1, 2, 4, 5]), torch.Size([1, 2, 16, 20]))
    """
    if image.dim() != 4:
        raise UsageError(f"image of shape {tuple(image.shape)}: four axes are needed; give (N, C, H, W)")
    trace = walk(net, image.shape[1])
    factors = _factors(trace.last, factor)
    steps = [int(axis.stride) // f for axis, f in zip((trace.last.rows, trace.last.columns), factors, strict=True)]
    height, width = (size - (f - 1) * t for size, f, t in zip(image.shape[2:], factors, steps, strict=True))
    if any(size < 1 or min(trace.sizes(size, axis).values()) < 1 for axis, size in enumerate((height, width))):
        raise UsageError(
            f"image of {image.shape[2]}x{image.shape[3]}: its shifted views, {max(height, 0)}x{max(width, 0)}, are too "
            f"small for the net; give one that is larger than the receptive field, {trace.last.rows.field}x"
            f"{trace.last.columns.field}, by the stride"
        )
    maps = []
    for a, b in itertools.product(range(factors[0]), range(factors[1])):
        top, left = a * steps[0], b * steps[1]
        maps.append(net(image[:, :, top : top + height, left : left + width]))
        if not isinstance(maps[0], Tensor):
            raise UsageError(
                f"{type(net).__name__}: it gives a {type(maps[0]).__name__} and not one map of scores; "
                "choose one of its outputs"
            )
    phases = torch.stack(maps).unflatten(0, factors)  # (a, b, N, K, i, j)
    return phases.permute(2, 3, 4, 0, 5, 1).flatten(4, 5).flatten(2, 3)


def _factors(output: Feature, factor: int | None) -> Pair:
    factors = []
    for stride in (output.rows.stride, output.columns.stride):
        wanted = stride if factor is None else Fraction(factor)
        if wanted < 1 or wanted.denominator != 1 or stride % wanted:
            raise UsageError(
                f"factor {wanted}: it is no whole divisor of the net's stride, {stride}; "
                "give one, or leave the net's upsampling out"
            )
        factors.append(int(wanted))
    return factors[0], factors[1]


def interior(axis: AxisMap, pixels: int) -> range:
    """Return the cells of a feature whose receptive field lies inside an image of `pixels` pixels, on one axis.

    No padding and no partial window of any layer below has touched them.
    For a net of stride f and an image of n pixels, `shift_and_stitch` gives such cells from ``f * start`` to
    ``f * stop`` of ``interior(axis, n - f + 1)``, the cells of one view, each with all its phases.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(8, 2, 3, padding=1))
    >>> interior(walk(net).last.axis, pixels=20)
    range(2, 8)
    """
    reach = (axis.field - 1) / 2
    first = math.ceil((reach - axis.start) / axis.stride)
    last = math.floor((pixels - 1 - reach - axis.start) / axis.stride)
    return range(first, max(first, last + 1))
