"""From pixels to what a net takes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fullconv.config import InputConvention


def to_input(images: Tensor, convention: InputConvention) -> Tensor:
    """(N, H, W, C) uint8 or float32 to (N, C, H, W) float32 in the channel order, mean and scale of the weights.

    The first three channels are RGB; those after them (depth, HHA, bands) stay in their order. Images of floats may
    hold what is not finite (nothing was seen there): the net sees the mean.

    >>> red = torch.tensor([[[[255, 0, 0]]]], dtype=torch.uint8)
    >>> to_input(red, InputConvention("bgr", (1.0, 2.0, 3.0), (1.0, 1.0, 1.0))).flatten()
    tensor([ -1.,  -2., 252.])
    """
    size = len(images), len(convention.mean), *images.shape[1:3]
    x = torch.empty(size, device=images.device).contiguous(memory_format=torch.channels_last)
    convention.normalize(images, x, partial(torch.tensor, device=images.device))
    return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0) if images.is_floating_point() else x
