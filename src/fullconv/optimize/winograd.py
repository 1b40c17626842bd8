"""Convolutions with fewer multiplications: Winograd's minimal filtering (Lavin and Gray, arXiv 1509.09308, 2015).

m outputs of a filter of r taps are the coefficients of a product of polynomials; so they can be had from its values at
n = m + r - 1 points, with one multiplication each: y = A [(G g) * (B d)], for outputs y, taps g and inputs d. In two
dimensions (n / m)^2 multiplications are left of r^2: 2.25 of 9 for kernels of 3x3, 16 of 49 for VGG16's fc6. B and A
cost too, by the channels and not by their product, so it pays for layers of many channels. The values at all cells of
one point make one product of matrices, which is what a library is best at.

The result is the convolution's to rounding, some ten times its own: a few 1e-6 of what a feature varies by in single
precision, and in bf16, with smaller tiles, 1e-2 where the rounding of its inputs makes 3e-3.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullconv.optimize.im2col import steps_by_one
from fullconv.optimize.packed_gemm import Matrices, Workspace

POINTS = tuple(map(Fraction, ("0", "1", "-1", "1/2", "-2", "2", "-1/2")))
"""Where the polynomials are taken, besides infinity: few and small, as rounding grows with their powers."""


@dataclass(frozen=True)
class WinogradTile:
    """How a kernel is filtered: so many outputs at a time, on each axis, from blocks of so many of its taps."""

    outputs: int
    taps: int

    @property
    def points(self) -> int:
        """The inputs, and the points, of a block on each axis."""
        return self.outputs + self.taps - 1

    def blocks(self, kernel: int) -> int:
        """The blocks that make up a kernel on each axis; zeros complete the last."""
        return -(-kernel // self.taps)


TILES = {3: WinogradTile(4, 3), 5: WinogradTile(4, 5), 7: WinogradTile(2, 7)}
"""By the taps of the kernel: eight points at most."""

SHORT = {3: WinogradTile(2, 3), 7: WinogradTile(2, 4)}
"""The same in bf16, where more points would cost many times the rounding of the convolution."""

WORTH = 1.85
"""How many times less work, as `fewer` has it, makes up for what is copied."""

STRIP = 8 << 20
"""Bytes of the tiles that are computed together: what a processor's cache holds."""

LEAST = 256
"""Fewer tiles than this are not computed together: a product of matrices needs rows to be fast."""


@dataclass(frozen=True)
class Filtering:
    """m outputs from n inputs: `into` is B (n, n), `taps` is G (n, r), `out` is A (m, n), all float64.

    >>> found = filtering(2, 3)
    >>> inputs, taps = torch.arange(4).double(), torch.tensor([1.0, 10.0, 100.0]).double()
    >>> (found.out @ ((found.taps @ taps) * (found.into @ inputs))).tolist()
    [210.0, 321.0]
    """

    into: Tensor
    taps: Tensor
    out: Tensor


@cache
def filtering(outputs: int, taps: int) -> Filtering:
    """The matrices for so many outputs and taps (Toom and Cook's, transposed), computed in fractions."""
    points = POINTS[: outputs + taps - 2]
    into, of_taps, out = [], [], []
    for point in points:
        others = [other for other in points if other != point]
        row = _with_roots(others)
        size = max(map(abs, row))  # a power of two in G instead of B rounds nothing, and keeps features of one size
        even = Fraction(2) ** (int(size).bit_length() - 1) if size >= 1 else Fraction(1)
        scale = even / prod((point - other for other in others), start=Fraction(1))
        into.append([value / even for value in [*row, Fraction(0)]])
        of_taps.append([scale * point**power for power in range(taps)])
        out.append([point**power for power in range(outputs)])
    into.append(_with_roots(points))  # infinity: the highest coefficient
    of_taps.append([Fraction(int(power == taps - 1)) for power in range(taps)])
    out.append([Fraction(int(power == outputs - 1)) for power in range(outputs)])
    return Filtering(_matrix(into), _matrix(of_taps), _matrix(out).T.contiguous())


def _with_roots(roots: list[Fraction] | tuple[Fraction, ...]) -> list[Fraction]:
    """The coefficients of the polynomial with these roots, from the lowest power."""
    found = [Fraction(1)]
    for root in roots:
        found = [
            below - root * value for below, value in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)
        ]
    return found


def _matrix(rows: list[list[Fraction]]) -> Tensor:
    return torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)


def tile(weight: Tensor) -> WinogradTile | None:
    """How weights (O, C, r, r) are filtered in their precision; None where there is no such way."""
    return (SHORT if weight.dtype is torch.bfloat16 else TILES).get(weight.shape[2])


def fewer(layer: nn.Module) -> float:
    """How many times less work a layer is as a `WinogradConv2d`, in multiplications, where those of A and B, which are
    done more slowly, count three times; 0 where it has no such form.
    """
    if type(layer) is not nn.Conv2d or (way := tile(layer.weight)) is None or len(set(layer.kernel_size)) > 1:
        return 0.0
    if not steps_by_one(layer):
        return 0.0
    taps, outputs, points, features = layer.kernel_size[0], way.outputs**2, way.points**2, layer.out_channels
    channels = layer.in_channels * way.blocks(taps) ** 2
    ours = points * (channels * features + 3 * points * channels + 3 * outputs * features)
    return outputs * taps**2 * layer.in_channels * features / ours


def transformed(weight: Tensor) -> list[Tensor]:
    """The weights (O, C, r, r) of a layer at the points: for each (O, B * B * C), of B blocks on each axis, in their
    own precision.
    """
    features, channels, kernel, _ = weight.shape
    way = tile(weight)
    assert way is not None
    blocks, taps = way.blocks(kernel), way.taps
    of_taps = filtering(way.outputs, taps).taps
    taps_2d, zeros = torch.kron(of_taps, of_taps), blocks * taps - kernel
    found = [weight.new_empty(features, blocks**2 * channels) for _ in taps_2d]
    for part in range(0, features, 64):  # in double precision the whole of fc6 would be a gigabyte
        piece = slice(part, part + 64)
        whole = F.pad(weight[piece].detach().double(), (0, zeros, 0, zeros))
        values = whole.view(-1, channels, blocks, taps, blocks, taps).permute(0, 3, 5, 2, 4, 1)
        values = taps_2d @ values.reshape(-1, taps**2, blocks**2 * channels)
        for of_point, value in zip(found, values.unbind(1), strict=True):
            of_point[piece] = value
    return found


class WinogradConv2d(nn.Module):
    """A convolution of stride 1 for prediction. values: its weights as `prepared` gives them, which several may share;
    it keeps no others.

    >>> layer = nn.Conv2d(8, 4, 3, padding=1).requires_grad_(False)
    >>> x = torch.rand(1, 8, 9, 14)
    >>> torch.allclose(WinogradConv2d(layer, WinogradConv2d.prepared(layer.weight))(x), layer(x), atol=1e-5)
    True
    """

    @staticmethod
    def suits(layer: nn.Conv2d) -> bool:
        """Whether a layer is faster so."""
        return fewer(layer) >= WORTH

    @staticmethod
    def prepared(weight: Tensor) -> Matrices:
        """The weights (O, C, r, r) of a layer at the points."""
        return Matrices(transformed(weight))

    @staticmethod
    def more_bytes(weight: Tensor) -> int:
        """What that takes beside the weights."""
        way, taps = tile(weight), weight.shape[2]
        return 0 if way is None else weight.nbytes * (way.points * way.blocks(taps)) ** 2 // taps**2

    def __init__(self, layer: nn.Conv2d, values: Matrices, space: Workspace | None = None) -> None:
        super().__init__()
        way = tile(layer.weight)
        assert way is not None and not isinstance(layer.padding, str)
        self.kernel, self.way, self.padding = layer.kernel_size[0], way, layer.padding
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.values, self.space = values, space or Workspace()
        found = filtering(way.outputs, way.taps)
        self.into, self.out = (torch.kron(one, one).to(layer.weight.dtype) for one in (found.into, found.out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W'), channels last."""
        kernel, outputs = self.kernel, self.way.outputs
        rows, columns = (n + 2 * padding - kernel + 1 for n, padding in zip(x.shape[2:], self.padding, strict=True))
        if min(rows, columns) < 1:
            raise RuntimeError(
                f"a kernel of {kernel}x{kernel} does not fit in {tuple(x.shape[2:])} padded by {self.padding}"
            )
        down, across = -(-rows // outputs), -(-columns // outputs)
        # Zeros beyond the padding complete the last tiles, and a kernel's last block; what comes of them is cut off.
        more = self.way.blocks(kernel) * self.way.taps - kernel
        (top, left), below, right = self.padding, down * outputs - rows + more, across * outputs - columns + more
        pads = (left, left + right, top, top + below)
        x = (F.pad(x, pads) if any(pads) else x).permute(0, 2, 3, 1).contiguous()
        found = x.new_empty(len(x), down * outputs, across * outputs, self.values.features)
        for image, result in zip(x, found, strict=True):
            self._tiles(image, result)
        return found[:, :rows, :columns].permute(0, 3, 1, 2)

    def _tiles(self, image: Tensor, result: Tensor) -> None:
        """One image (H, W, C), strip by strip, into (H', W', O)."""
        outputs, points, taps, blocks = self.way.outputs, self.way.points, self.way.taps, self.way.blocks(self.kernel)
        (_, width, pixel), features = image.shape, result.shape[2]
        row, channels = width * pixel, blocks**2 * pixel
        down, across = result.shape[0] // outputs, result.shape[1] // outputs
        of_row = across * points**2 * (2 * channels + features) * image.element_size()
        strip = max(1, STRIP // of_row, -(-LEAST // across))
        for first in range(0, down, strip):
            rows = min(strip, down - first)
            cells = rows * across

            def place(name: str, *shape: int) -> Tensor:
                return self.space.take(name, shape, image)

            # Both transforms go tile by tile, where the numbers of a tile are near each other.
            tiles = place("tiles", rows, across, points, points, blocks, blocks, pixel)
            tiles.copy_(image.as_strided(
                tiles.shape, (outputs * row, outputs * pixel, row, pixel, taps * row, taps * pixel, 1),
                image.storage_offset() + first * outputs * row,
            ))  # fmt: skip
            values = place("values", cells, points**2, channels)
            torch.bmm(self.into.expand(cells, -1, -1), tiles.view(values.shape), out=values)
            seen = values.transpose(0, 1)
            if self.values.each:
                seen = place("tiles", *seen.shape).copy_(seen)
            products = self.values(seen, place("products", points**2, cells, features))
            made = place("values", cells, outputs**2, features)
            torch.bmm(self.out.expand(cells, -1, -1), products.transpose(0, 1), out=made)
            part = made.view(rows, across, outputs, outputs, features).transpose(1, 2)
            within = result[first * outputs : (first + rows) * outputs].view(rows, outputs, across, outputs, features)
            if self.bias is None:
                within.copy_(part)
            else:
                torch.add(part, self.bias, out=within)
