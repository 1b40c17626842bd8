"""Changes to a trunk that the paper made or tried: more input channels (early fusion, section 5), and its last
subsampling taken away (section 4.2).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from fullconv.errors import UsageError
from fullconv.models.convolutionalize import Conversion
from fullconv.models.dense_scores import rarefy
from fullconv.models.graph import layers_of
from fullconv.models.trace import walk, windows_of


def first_convolution(trunk: nn.Module) -> tuple[str, nn.Conv2d]:
    """The convolution that takes the image, and its name; `trunk` is a graph."""
    assert isinstance(trunk, fx.GraphModule)
    for node, layer in layers_of(trunk):
        if isinstance(layer, nn.Conv2d):
            return str(node.target), layer
    raise UsageError("the net has no convolution: it cannot take an image")


def more_channels(weight: Tensor, channels: int) -> Tensor:
    """The (O, C, h, w) weight of a convolution for more input channels: each new filter is the mean of the first
    three (the released NYUDv2 RGB-D net, for depth beside colour).

    >>> more_channels(torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1), 4).flatten()
    tensor([1., 2., 6., 3.])
    """
    mean = weight[:, :3].mean(1, keepdim=True)
    return torch.cat([weight, mean.expand(-1, channels - weight.shape[1], -1, -1)], 1)


def take_channels(trunk: fx.GraphModule, channels: int) -> None:
    """Makes the trunk take so many channels; a net for another number keeps its filters and gets `more_channels`."""
    name, conv = first_convolution(trunk)
    if channels == conv.in_channels:
        return
    if conv.groups != 1 or channels < conv.in_channels:
        raise UsageError(f"channels {channels}: layer '{name}' takes {conv.in_channels}; give at least as many")
    trunk.set_submodule(name, _like(conv, more_channels(conv.weight.detach(), channels), conv.kernel_size))


def double_kernel(weight: Tensor) -> Tensor:
    """The (O, I, 2h, 2w) weight that does on a map of twice the density what (O, I, h, w) does on the map: each tap
    becomes the mean of the four cells that lie where its one cell was.
    """
    return weight.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4


def enlarge_last_pool(trunk: fx.GraphModule, conversion: Conversion) -> None:
    """Stride 1 in the last pooling, and the fully connected layer on it twice as large: 14x14 for a VGG (section
    4.2: "decreasing pool5's stride to 1 requires our convolutionalized fc6 to have kernel size 14x14").
    """
    here = [name for name in conversion.converted if name in dict(trunk.named_modules())]
    if not here:
        raise UsageError("last_pool enlarged: this net has no fully connected layer over a map; choose dilated")
    last = _last_strided(trunk)
    layer = trunk.get_submodule(last)
    layer.stride = (1, 1) if isinstance(layer, nn.Conv2d) else 1  # type: ignore[assignment]
    fc6 = trunk.get_submodule(here[0])
    assert isinstance(fc6, nn.Conv2d)
    doubled = (2 * fc6.kernel_size[0], 2 * fc6.kernel_size[1])
    trunk.set_submodule(here[0], _like(fc6, double_kernel(fc6.weight.detach()), doubled))


def dilate_last_pool(trunk: fx.GraphModule, channels: int) -> fx.GraphModule:
    """The trunk at half its stride by filter rarefaction: the same weights, receptive field and function, four times
    the cells.
    """
    return rarefy(trunk, stride=int(walk(trunk, channels).last.axis.stride) // 2, channels=channels)


def _last_strided(trunk: fx.GraphModule) -> str:
    """The name of the last layer that subsamples."""
    for node, layer in reversed(list(layers_of(trunk))):
        windows = windows_of(layer)
        if windows and windows[0].stride > 1 and not windows[0].transposed:
            return str(node.target)
    raise UsageError("last_pool: no layer of this net subsamples; leave it out")


def _like(conv: nn.Conv2d, weight: Tensor, kernel: tuple[int, ...]) -> nn.Conv2d:
    """A convolution with another weight and kernel, else as given."""
    new = copy.copy(conv)
    new.in_channels, new.kernel_size = weight.shape[1] * conv.groups, (kernel[0], kernel[1])
    new._parameters = {**conv._parameters, "weight": nn.Parameter(weight)}
    return new
