"""Convolutions with more weights than their map has cells, as one matrix product.

fc6 of a VGG has 103 million weights in 7x7 kernels and, on one image, a few hundred cells. A convolution library brings
weights into a layout of its own at every call, forward and twice backward, and for this layer that takes longer than
the arithmetic. Unfolding the map instead copies some 35 MB, and the weights stay as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_WEIGHTS = 8_000_000
"""Layers with fewer weights than this stay convolutions."""

MOST_CELLS = 4096
"""On maps of more cells than this (of one batch) the convolution is as fast, and needs less memory."""


LEAST_POINT_WEIGHTS = 4_000_000
"""From here on a convolution of one tap is faster as a product: VGG16's fc7 three times."""


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
    """`nn.Conv2d` of one tap with the same parameters and the same result, to rounding: its cells times its weights."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H, W), channels last."""
        return F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def is_point(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that is worth being a `PointConv2d`."""
    return (
        type(layer) is nn.Conv2d
        and layer.weight.numel() >= LEAST_POINT_WEIGHTS
        and {*layer.kernel_size, *layer.stride, layer.groups} == {1}
        and layer.padding in ((0, 0), 0, "valid")
    )


def use_products(net: nn.Module) -> list[str]:
    """Make the large convolutions of a net `ProductConv2d`, in place; names, parameters and results stay. Their names.

    Their weights are laid out row by row whatever the layout of the others: call it after a change of that.
    """
    changed = []
    for name, layer in list(net.named_modules()):
        plain = type(layer) in (nn.Conv2d, ProductConv2d) and isinstance(layer, nn.Conv2d)
        if not plain or layer.weight.numel() < LEAST_WEIGHTS or max(layer.kernel_size) < 2:
            continue
        if layer.groups != 1 or tuple(layer.stride) != (1, 1) or layer.padding_mode != "zeros":
            continue
        layer.__class__ = ProductConv2d
        with torch.no_grad():
            layer.weight.data = layer.weight.data.contiguous()
        changed.append(name)
    return changed
