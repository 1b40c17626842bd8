"""GoogLeNet (Szegedy et al. 2015) as Caffe has it, with Caffe's names.

A ``/`` of Caffe's is a ``.`` here, so the keys of the weights are Caffe's: ``inception_3a/5x5_reduce`` is
``inception_3a.5x5_reduce.weight``. Only the final loss is there (section 4.1), so the two auxiliary classifiers are
left out. torchvision's ``googlenet`` is another net, with batch norm and 3x3 for the 5x5; its weights do not fit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fullconv.models.backbones.alexnet import local_response_norm, max_pool, start_as_he

INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Channels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 and pool projection, by module (table 1 of Szegedy et al.)."""


class Inception(nn.Module):
    """Four ways side by side, each convolution with its ReLU: 1x1; 3x3 and 5x5 on reduced channels; a projected pool.

    channels: of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 and pool projection.
    """

    def __init__(self, incoming: int, channels: Sequence[int]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, projection = channels
        self._add("1x1", nn.Conv2d(incoming, one, 1))
        self._add("3x3_reduce", nn.Conv2d(incoming, reduce3, 1))
        self._add("3x3", nn.Conv2d(reduce3, three, 3, padding=1))
        self._add("5x5_reduce", nn.Conv2d(incoming, reduce5, 1))
        self._add("5x5", nn.Conv2d(reduce5, five, 5, padding=2))
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self._add("pool_proj", nn.Conv2d(incoming, projection, 1))
        self.out_channels = one + three + five + projection

    def _add(self, name: str, layer: nn.Conv2d) -> None:
        self.add_module(name, layer)
        self.add_module(f"relu_{name}", nn.ReLU(inplace=True))

    def _way(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.get_submodule(f"relu_{name}")(self.get_submodule(name)(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(N, incoming, H, W) -> (N, out_channels, H, W): the four ways, concatenated in this order."""
        ways = [
            self._way(x, "1x1"),
            self._way(x, "3x3_reduce", "3x3"),
            self._way(x, "5x5_reduce", "5x5"),
            self._way(self.pool(x), "pool_proj"),
        ]
        return torch.cat(ways, 1)


def googlenet(num_classes: int = 1000, width: float = 1.0) -> nn.Sequential:
    """A GoogLeNet classifier: (N, 3, H, W) -> (N, num_classes); native size 224, stride 32.

    `width` scales every channel count. Caffe's final pool is 7x7, which on the native crop is the whole map; here it is
    global on every crop, so that it is known for what it is and an FCN leaves it out (section 4.1).

    >>> [name for name in googlenet(width=1 / 16).state_dict() if "4a" in name and name.endswith("weight")][:3]
    ['inception_4a.1x1.weight', 'inception_4a.3x3_reduce.weight', 'inception_4a.3x3.weight']
    """

    def scaled(channels: int) -> int:
        return max(1, round(channels * width))

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = _named({"7x7_s2": nn.Conv2d(3, scaled(64), 7, stride=2, padding=3), "relu_7x7": _relu()})
    layers["pool1"] = _named({"3x3_s2": max_pool(), "norm1": local_response_norm()})
    layers["conv2"] = _named(
        {
            "3x3_reduce": nn.Conv2d(scaled(64), scaled(64), 1),
            "relu_3x3_reduce": _relu(),
            "3x3": nn.Conv2d(scaled(64), scaled(192), 3, padding=1),
            "relu_3x3": _relu(),
            "norm2": local_response_norm(),
        }
    )
    incoming = scaled(192)
    for name, channels in INCEPTIONS.items():
        if name.endswith("a"):
            layers[f"pool{int(name[0]) - 1}"] = _named({"3x3_s2": max_pool()})
        inception = Inception(incoming, [scaled(n) for n in channels])
        layers[f"inception_{name}"] = inception
        incoming = inception.out_channels
    layers["pool5"] = _named({"7x7_s1": nn.AdaptiveAvgPool2d(1), "drop_7x7_s1": nn.Dropout(0.4)})
    layers["flatten"] = nn.Flatten()
    layers["loss3"] = _named({"classifier": nn.Linear(incoming, num_classes)})
    net = nn.Sequential(layers)
    start_as_he(net)
    return net


def _named(layers: dict[str, nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _relu() -> nn.ReLU:
    return nn.ReLU(inplace=True)
