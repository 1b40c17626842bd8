"""Convolutions with fewer multiplications: Winograd's minimal filtering (Lavin and Gray, arXiv 1509.09308, 2015).

m outputs of a filter of r taps are the coefficients of a product of polynomials; so they can be had from its values at
n = m + r - 1 points, with one multiplication each: y = A [(G g) * (B d)], for outputs y, taps g and inputs d. In two
dimensions (n / m)^2 multiplications are left of r^2: 2.25 of 9 for kernels of 3x3, 16 of 49 for VGG16's fc6. B and A
cost too, by the channels and not by their product, so it pays for layers of many channels. The values at all cells of
one point make one product of matrices, which is what a library is best at.

The result is the convolution's to rounding, which is two to four times its own: 1e-6 of what a feature varies by.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POINTS = tuple(map(Fraction, ("0", "1", "-1", "1/2", "-2", "2", "-1/2")))
"""Where the polynomials are taken, besides infinity: few and small, as rounding grows with their powers."""

OUTPUTS = {3: 4, 5: 4, 7: 2}
"""Outputs of a tile, on each axis, by the taps of the kernel: eight points at most."""

WORTH = 2.5
"""How many times fewer multiplications, those of A and B among the others, make up for what is copied."""

STRIP = 16 << 20
"""Bytes of the tiles that are computed together: what a processor's cache holds."""

TILES = 128
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
        scale = even / _product(point - other for other in others)
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


def _product(values: Any) -> Fraction:
    found = Fraction(1)
    for value in values:
        found *= value
    return found


def _matrix(rows: list[list[Fraction]]) -> Tensor:
    return torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)


def fewer(layer: nn.Module) -> float:
    """How many times fewer multiplications a layer needs by `WinogradConv2d`; 0 where it has no such form."""
    if type(layer) is not nn.Conv2d or layer.kernel_size[0] not in OUTPUTS or len(set(layer.kernel_size)) > 1:
        return 0.0
    if set(layer.stride) | set(layer.dilation) | {layer.groups} != {1}:
        return 0.0
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return 0.0
    taps = layer.kernel_size[0]
    outputs, channels, features = OUTPUTS[taps], layer.in_channels, layer.out_channels
    points = (outputs + taps - 1) ** 2
    ours = points * (channels * features + points * channels + outputs**2 * features)
    return outputs**2 * taps**2 * channels * features / ours


def transformed(weight: Tensor) -> Tensor:
    """The weights (O, C, r, r) of a layer at the points: (n * n, O, C), in their own precision."""
    features, channels, taps, _ = weight.shape
    taps_2d = _twice(filtering(OUTPUTS[taps], taps).taps)
    found = weight.new_empty(len(taps_2d), features, channels)
    for part in range(0, features, 64):  # in double precision the whole of fc6 would be a gigabyte
        piece = slice(part, part + 64)
        values = weight[piece].detach().permute(0, 2, 3, 1).reshape(-1, taps * taps, channels).double()
        found[:, piece] = (taps_2d @ values).transpose(0, 1)
    return found


def bytes_at_points(weight: Tensor) -> int:
    """What the `transformed` weights take."""
    taps = weight.shape[2]
    return weight.nbytes * (OUTPUTS[taps] + taps - 1) ** 2 // taps**2


def _twice(matrix: Tensor) -> Tensor:
    """A transform of both axes at once."""
    return torch.kron(matrix, matrix)


class WinogradConv2d(nn.Module):
    """A convolution of stride 1 for prediction. values: its weights as `transformed` gives them, which several may
    share; it keeps no others.

    >>> layer = nn.Conv2d(8, 4, 3, padding=1).eval()
    >>> x = torch.rand(1, 8, 9, 14)
    >>> torch.allclose(WinogradConv2d(layer, transformed(layer.weight))(x), layer(x), atol=1e-5)
    True
    """

    def __init__(self, layer: nn.Conv2d, values: Tensor) -> None:
        super().__init__()
        self.taps, self.outputs = layer.kernel_size[0], OUTPUTS[layer.kernel_size[0]]
        assert not isinstance(layer.padding, str)
        self.padding = layer.padding
        self.bias = None if layer.bias is None else layer.bias.detach()
        found = filtering(self.outputs, self.taps)
        self.values = values
        self.into, self.out = _twice(found.into).to(values.dtype), _twice(found.out).to(values.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W'), channels last."""
        taps, outputs = self.taps, self.outputs
        rows, columns = (side + 2 * padding - taps + 1 for side, padding in zip(x.shape[2:], self.padding, strict=True))
        if min(rows, columns) < 1:
            raise RuntimeError(
                f"a kernel of {taps}x{taps} does not fit in {tuple(x.shape[2:])} padded by {self.padding}"
            )
        down, across = -(-rows // outputs), -(-columns // outputs)
        # Zeros beyond the padding complete the last tiles; what comes of them is cut off.
        (top, left), below, right = self.padding, down * outputs - rows, across * outputs - columns
        pads = (left, left + right, top, top + below)
        x = (F.pad(x, pads) if any(pads) else x).permute(0, 2, 3, 1).contiguous()
        found = x.new_empty(len(x), down * outputs, across * outputs, self.values.shape[1])
        for image, result in zip(x, found, strict=True):
            self._tiles(image, result)
        return found[:, :rows, :columns].permute(0, 3, 1, 2)

    def _tiles(self, image: Tensor, result: Tensor) -> None:
        """One image (H, W, C), strip by strip, into (H', W', O)."""
        outputs, points, features = self.outputs, self.outputs + self.taps - 1, result.shape[2]
        _, width, channels = image.shape
        down, across = result.shape[0] // outputs, result.shape[1] // outputs
        of_row = across * points**2 * (2 * channels + features) * image.element_size()
        strip = max(1, STRIP // of_row, -(-TILES // across))
        pixel, row = channels, width * channels
        for first in range(0, down, strip):
            rows = min(strip, down - first)
            tiles = image.as_strided(
                (points, points, rows, across, channels), (row, pixel, outputs * row, outputs * pixel, 1),
                image.storage_offset() + first * outputs * row,
            )  # fmt: skip
            values = self.into @ tiles.reshape(points**2, -1)
            products = torch.bmm(values.view(points**2, rows * across, channels), self.values.transpose(1, 2))
            part = (self.out @ products.view(points**2, -1)).view(outputs, outputs, rows, across, features)
            place = result[first * outputs : (first + rows) * outputs].view(rows, outputs, across, outputs, features)
            part = part.permute(2, 0, 3, 1, 4)
            if self.bias is None:
                place.copy_(part)
            else:
                torch.add(part, self.bias, out=place)
