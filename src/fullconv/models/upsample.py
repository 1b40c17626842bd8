"""Upsampling as a transposed convolution with the bilinear kernel (section 3.3 of the paper).

Fixed, the layer treats every channel alike and its kernel is the product of two lines, so it equals one matrix product
on each axis, borders included. Learned, it is a transposed convolution, initialized with the kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullconv import geometry
from fullconv.geometry import Window, bilinear_line


def bilinear_weight(channels: int, taps: int) -> Tensor:
    """Return a (channels, channels, taps, taps) weight: the bilinear kernel on the diagonal, 0 elsewhere."""
    weight = torch.zeros(channels, channels, taps, taps)
    line = torch.tensor(bilinear_line(taps))
    weight[range(channels), range(channels)] = torch.outer(line, line)
    return weight


def upsampling_matrix(window: Window, cells: int, offset: int, count: int, like: Tensor) -> Tensor:
    """Return the (count, cells) matrix that upsamples one axis and keeps `count` output cells from `offset` on."""
    pixels = torch.arange(offset, offset + count, device=like.device)
    line = torch.tensor(bilinear_line(window.kernel), dtype=like.dtype, device=like.device)
    matrix: Tensor = geometry.upsampling_matrix(window, torch.arange(cells, device=like.device), pixels, line)
    return matrix


class Upsample(nn.Module):
    """A transposed convolution and a crop: bilinear without parameters, or learned, starting from the bilinear kernel.

    (N, C, h, w) -> (N, C, height, width): the cells from `offset` on, on both axes, of f(h-1)+taps by f(w-1)+taps.
    """

    def __init__(self, channels: int, window: Window, learned: bool) -> None:
        super().__init__()
        self.window = window
        self.weight = nn.Parameter(bilinear_weight(channels, window.kernel)) if learned else None

    def forward(self, x: Tensor, offset: int, height: int, width: int) -> Tensor:
        """Upsample in at least single precision, since half would round the interpolated scores away; crop."""
        if self.weight is not None:
            if not torch.is_autocast_enabled("cuda" if x.is_cuda else "cpu"):
                x = x.to(self.weight.dtype)
            full = F.conv_transpose2d(x, self.weight, stride=self.window.stride)
            return full[:, :, offset : offset + height, offset : offset + width]
        with torch.autocast("cuda" if x.is_cuda else "cpu", enabled=False):
            x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
            rows = upsampling_matrix(self.window, x.shape[2], offset, height, x)
            columns = upsampling_matrix(self.window, x.shape[3], offset, width, x)
            return rows @ (x @ columns.T)

    def extra_repr(self) -> str:
        """Return what ``print(net)`` shows."""
        return f"factor={self.window.stride}, taps={self.window.kernel}, learned={self.weight is not None}"
