"""Upsampling as a transposed convolution with the bilinear kernel (section 3.3 of the paper).

Fixed, the C x C transposed convolution is diagonal, so it equals an interpolation of the coarse map with a ring of
zeros around it: the same numbers, borders included, for a small part of the work. Learned, it is the dense layer
itself, started from the kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullconv.geometry import Window
from fullconv.models.trace import Windows, windows_of


def bilinear_kernel(taps: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The (taps, taps) bilinear kernel of Caffe's filler and of the authors' ``upsample_filt``.

    >>> bilinear_kernel(4)[0] * 4
    tensor([0.2500, 0.7500, 0.7500, 0.2500])
    """
    factor = (taps + 1) // 2
    centre = factor - 1 if taps % 2 else factor - 0.5
    line = 1 - (torch.arange(taps, dtype=torch.float64) - centre).abs() / factor
    return torch.outer(line, line).to(dtype)


def bilinear_weight(channels: int, taps: int) -> Tensor:
    """The (channels, channels, taps, taps) weight of a transposed convolution: the kernel on the diagonal, zero off
    it.
    """
    weight = torch.zeros(channels, channels, taps, taps)
    weight[range(channels), range(channels)] = bilinear_kernel(taps)
    return weight


def bilinear_upsample(x: Tensor, factor: int, taps: int) -> Tensor:
    """Bilinear upsampling of (N, C, h, w) by the full transposed convolution of `taps` = 2f or 2f - 1 and stride f,
    no padding.

    Gives (N, C, f(h-1)+taps, f(w-1)+taps), equal to the transposed convolution up to rounding, at the borders too.
    """
    if factor == 1 and taps == 1:
        return x
    height, width = (factor * (n - 1) + taps for n in x.shape[2:])
    ringed = F.pad(x, (1, 1, 1, 1))
    if taps % 2 == 0:  # cells are squares: output j lies at (j + 1/2) / f - 1/2
        full = F.interpolate(ringed, scale_factor=float(factor), mode="bilinear", align_corners=False)
        first = factor // 2 if factor % 2 == 0 else None
    else:  # cells are points: output j lies at j / f
        size = [factor * (n - 1) + 1 for n in ringed.shape[2:]]
        full = F.interpolate(ringed, size=size, mode="bilinear", align_corners=True)
        first = 1
    if first is None:
        channels = x.shape[1]
        kernel = bilinear_kernel(taps, x.dtype).to(x.device).expand(channels, 1, taps, taps).contiguous()
        return F.conv_transpose2d(x, kernel, stride=factor, groups=channels)
    return full[:, :, first : first + height, first : first + width]


class Upsample(nn.Module):
    """A transposed convolution of stride `factor`: fixed bilinear (no parameters), or learned from the bilinear kernel.

    (N, C, h, w) -> (N, C, f(h-1)+taps, f(w-1)+taps).
    """

    def __init__(self, channels: int, window: Window, learned: bool) -> None:
        super().__init__()
        self.window = window
        self.weight = nn.Parameter(bilinear_weight(channels, window.kernel)) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        """Upsample; in at least single precision, since half precision would round the interpolated scores away."""
        if self.weight is None:
            return bilinear_upsample(
                x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, self.window.stride, self.window.kernel
            )
        return F.conv_transpose2d(x, self.weight, stride=self.window.stride)

    def extra_repr(self) -> str:
        """What ``print(net)`` shows."""
        return f"factor={self.window.stride}, taps={self.window.kernel}, learned={self.weight is not None}"


@windows_of.register(Upsample)
def _(layer: Upsample) -> Windows:
    return layer.window, layer.window
