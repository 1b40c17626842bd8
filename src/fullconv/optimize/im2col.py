"""Convolutions with more weights than their map has cells, as one matrix product.

fc6 of a VGG has 103 million weights in 7x7 kernels and, on one image, a few hundred cells. A convolution library brings
weights into a layout of its own at every call, forward and twice backward, and for this layer that takes longer than
the arithmetic. Unfolding the map instead copies some 35 MB, and the weights stay as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullconv.models.trace import windows_of
from fullconv.optimize.packed_gemm import Matrix, Workspace, packs

LEAST_WEIGHTS = 8_000_000
"""Layers with fewer weights than this stay convolutions."""

MOST_CELLS = 4096
"""On maps of more cells than this (of one batch) the convolution is as fast, and needs less memory."""

LEAST_POINT_WEIGHTS = 4_000_000
"""From here on a prediction's convolution of one tap is faster by rows, VGG16's fc7 twice; one of more taps is from
`LEAST_WEIGHTS` on.
"""

FEW_OUTPUTS = 16
"""Convolutions of one tap with fewer outputs than this are products where they are trained, as all score layers are.
oneDNN writes beyond its memory in the gradient of such weights: of 4,096 inputs and 2 or 11 outputs in bf16 with AMX
(torch 2.13), of others in single precision with AVX2 and AVX-512.
"""

MOST_WINDOWS = 512
"""Windows that are copied together."""


class ProductConv2d(nn.Conv2d):
    """`nn.Conv2d` of stride 1 with the same parameters and the same result, to rounding, by unfolding its input."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W')."""
        kernel, padding, dilation = self.kernel_size, self.padding, self.dilation
        assert not isinstance(padding, str)
        height, width = (
            n + 2 * p - d * (k - 1) for n, p, k, d in zip(input.shape[2:], padding, kernel, dilation, strict=True)
        )
        if input.shape[0] * height * width > MOST_CELLS or min(height, width) < 1:
            return super().forward(input)
        columns = F.unfold(input, kernel, dilation, padding)
        product = self.weight.flatten(1) @ columns
        if self.bias is not None:
            product = product + self.bias[:, None].to(product.dtype)
        return product.view(input.shape[0], self.out_channels, height, width)


class PointConv2d(nn.Conv2d):
    """`nn.Conv2d` of one tap with the same parameters and the same result, to rounding: cells by channels, times its
    weights.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H, W)."""
        return F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def steps_by_one(layer: nn.Conv2d) -> bool:
    """Whether a convolution takes every window of neighbouring cells, of all channels, with so many zeros around."""
    windows = windows_of(layer) or ()
    steps = {layer.groups, *(w.stride for w in windows), *(w.dilation for w in windows)}
    return steps == {1} and bool(windows) and not isinstance(layer.padding, str)


class RowsConv2d(nn.Module):
    """A convolution of stride 1 for prediction, channels last: the windows as rows, times its weights. values: those,
    as `prepared` gives them, which several may share.

    >>> layer = nn.Conv2d(8, 4, 2, padding=1).requires_grad_(False)
    >>> x = torch.rand(1, 8, 9, 14)
    >>> torch.allclose(RowsConv2d(layer, RowsConv2d.prepared(layer.weight))(x), layer(x), atol=1e-5)
    True
    """

    @staticmethod
    def suits(layer: nn.Conv2d) -> bool:
        """Whether a layer is faster so."""
        return (
            type(layer) is nn.Conv2d
            and layer.weight.numel() >= (LEAST_POINT_WEIGHTS if set(layer.kernel_size) == {1} else LEAST_WEIGHTS)
            and steps_by_one(layer)
        )

    @staticmethod
    def prepared(weight: Tensor) -> Matrix:
        """The weights (O, C, h, w) of a layer as (O, h * w * C): where they lie if the channels are last."""
        return Matrix(weight.detach().permute(0, 2, 3, 1).flatten(1))

    @staticmethod
    def more_bytes(weight: Tensor) -> int:
        """What that takes beside the weights."""
        return weight.nbytes if packs(weight) or not weight.is_contiguous(memory_format=torch.channels_last) else 0

    def __init__(self, layer: nn.Conv2d, values: Matrix, space: Workspace | None = None) -> None:
        super().__init__()
        assert not isinstance(layer.padding, str)
        self.kernel, self.padding, self.matrix = layer.kernel_size, layer.padding, values
        self.space = space or Workspace()
        self.bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W')."""
        (high, wide), (top, left) = self.kernel, self.padding
        x = (F.pad(x, (left, left, top, top)) if top or left else x).permute(0, 2, 3, 1)
        n, height, width, channels = x.shape
        rows, columns = height - high + 1, width - wide + 1
        if high == wide == 1:
            return self.matrix(x, self.bias).permute(0, 3, 1, 2)
        x = x.contiguous()
        windows = x.as_strided(
            (n, rows, columns, high, wide, channels),
            (height * width * channels, width * channels, channels, width * channels, channels, 1),
        )
        strip = max(1, MOST_WINDOWS // columns)  # so that a large map's windows are not all there at once
        found = x.new_empty(n, rows, columns, self.matrix.features)
        for image, result in zip(windows, found, strict=True):
            for part in range(0, rows, strip):
                seen = self.space.take("windows", image[part : part + strip].shape, x)
                seen.copy_(image[part : part + strip])
                of_part = self.matrix(seen.view(-1, high * wide * channels), self.bias)
                result[part : part + strip] = of_part.view(-1, columns, self.matrix.features)
        return found.permute(0, 3, 1, 2)


def use_products(net: nn.Module) -> list[str]:
    """Make convolutions of a net products for training, in place: large ones `ProductConv2d`, score layers and others
    of one tap and few outputs `PointConv2d`. Names and parameters stay, and results to rounding. Their names.

    Their weights are laid out row by row whatever the layout of the others: call it after a change of that.
    """
    changed = []
    for name, layer in list(net.named_modules()):
        if type(layer) not in (nn.Conv2d, ProductConv2d, PointConv2d) or not isinstance(layer, nn.Conv2d):
            continue
        if layer.groups != 1 or tuple(layer.stride) != (1, 1) or layer.padding_mode != "zeros":
            continue
        point = max(layer.kernel_size) == 1 and layer.padding in ("valid", "same", (0, 0))
        if point and (layer.out_channels < FEW_OUTPUTS or name.rpartition(".")[2].startswith("score_")):
            layer.__class__ = PointConv2d
        elif layer.weight.numel() >= LEAST_WEIGHTS and max(layer.kernel_size) > 1:
            layer.__class__ = ProductConv2d
        else:
            continue
        with torch.no_grad():
            layer.weight.data = layer.weight.data.contiguous()
        changed.append(name)
    return changed
