"""Changes to a trunk: more input channels (early fusion, section 5), the last subsampling removed (section 4.2)."""

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
    """Return the name of the convolution that takes the image, and the layer; `trunk` is a graph."""
    assert isinstance(trunk, fx.GraphModule)
    for node, layer in layers_of(trunk):
        if isinstance(layer, nn.Conv2d):
            return str(node.target), layer
    raise UsageError("the net has no convolution: it cannot take an image")


def more_channels(weight: Tensor, channels: int) -> Tensor:
    """Return the (O, C, h, w) weight of a convolution extended to more input channels.

    Each new filter is the mean of the first three (the released NYUDv2 RGB-D net, for depth beside color).

    >>> more_channels(torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1), 4).flatten()
    tensor([1., 2., 6., 3.])
    """
    mean = weight[:, :3].mean(1, keepdim=True)
    return torch.cat([weight, mean.expand(-1, channels - weight.shape[1], -1, -1)], 1)


def take_channels(trunk: fx.GraphModule, channels: int) -> None:
    """Make the trunk take more input channels (`more_channels`), in place; refuse fewer."""
    name, conv = first_convolution(trunk)
    if channels == conv.in_channels:
        return
    if conv.groups != 1 or channels < conv.in_channels:
        raise UsageError(f"channels {channels}: layer '{name}' takes {conv.in_channels}; give at least as many")
    trunk.set_submodule(name, _with_weight(conv, more_channels(conv.weight.detach(), channels)))


def double_kernel(weight: Tensor) -> Tensor:
    """Return the (O, I, 2h, 2w) weight that does on a map of twice the density what (O, I, h, w) does on the map.

    Each tap becomes the mean of the four cells that lie where its one cell was.
    """
    return weight.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4


def enlarge_last_pool(trunk: fx.GraphModule, conversion: Conversion) -> None:
    """Set the last pooling's stride to 1, in place, and double the kernel of the fully connected layer on it.

    Section 4.2: "decreasing pool5's stride to 1 requires our convolutionalized fc6 to have kernel size 14x14".
    """
    converted = converted_in(trunk, conversion)
    if not converted:
        raise UsageError("last_pool enlarged: this net has no fully connected layer over a map; choose dilated")
    layer = _last_strided(trunk)
    layer.stride = (1, 1) if isinstance(layer, nn.Conv2d) else 1  # type: ignore[assignment]
    name, fc6 = converted[0]
    trunk.set_submodule(name, _with_weight(fc6, double_kernel(fc6.weight.detach())))


def dilate_last_pool(trunk: fx.GraphModule, channels: int) -> fx.GraphModule:
    """Return the trunk at half its stride by filter rarefaction: the same weights and receptive field, denser cells."""
    return rarefy(trunk, stride=int(walk(trunk, channels).last.axis.stride) // 2, channels=channels)


def converted_in(trunk: fx.GraphModule, conversion: Conversion) -> list[tuple[str, nn.Conv2d]]:
    """Return the convolutions of a trunk that were fully connected layers over a map, with their names."""
    layers = dict(trunk.named_modules())
    return [(name, layers[name]) for name in conversion.converted if name in layers]


def _last_strided(trunk: fx.GraphModule) -> nn.Module:
    """Return the last layer that subsamples."""
    for _, layer in reversed(list(layers_of(trunk))):
        windows = windows_of(layer)
        if windows and windows[0].stride > 1 and not windows[0].transposed:
            return layer
    raise UsageError("last_pool: no layer of this net subsamples; leave it out")


def _with_weight(conv: nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    """Return a copy of a convolution with another weight and its kernel size."""
    new = copy.copy(conv)
    new.in_channels, new.kernel_size = weight.shape[1] * conv.groups, (weight.shape[2], weight.shape[3])
    new._parameters = {**conv._parameters, "weight": nn.Parameter(weight)}
    return new
