"""AlexNet (Krizhevsky et al. 2012) as Caffe has it, in both of its orders, with Caffe's layer names: conv1 ... pool5,
fc6, fc7, fc8.

The paper's AlexNet is the CaffeNet reference model (section 4.1). torchvision's ``alexnet`` is a third net, with other
channels, without groups and normalization; its weights fit neither.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import count
from typing import Literal

from torch import nn

from fullconv.errors import UsageError
from fullconv.models.trace import walk

CHANNELS = (96, 256, 384, 384, 256)

GROUPS = 2
"""conv2, conv4 and conv5 are two halves that do not see each other, since the first AlexNet ran on two GPUs."""


def alexnet(
    order: Literal["caffenet", "alexnet"] = "caffenet",
    num_classes: int = 1000,
    width: float = 1.0,
    native_size: int = 227,
) -> nn.Sequential:
    """A CaffeNet or AlexNet classifier: (N, 3, native, native) -> (N, num_classes); stride 32.

    `order`: CaffeNet pools, then normalizes; AlexNet normalizes, then pools. Nothing else differs, the keys of the
    weights included. `width` scales every channel count, fc6 and fc7 included; those of the convolutions stay even, for
    the groups. `native_size` decides the kernel of fc6, 6x6 at 227. The first convolution has no padding, and pools are
    in ceil mode, as Caffe's are.

    Raises `UsageError` for a `native_size` of which nothing is left after pool5.

    >>> alexnet("caffenet", width=1 / 16).fc6, alexnet("caffenet", width=1 / 16, native_size=99).fc6
    (Linear(in_features=576, out_features=256, bias=True), Linear(in_features=64, out_features=256, bias=True))
    """
    c1, c2, c3, c4, c5 = (GROUPS * max(1, round(channels * width / GROUPS)) for channels in CHANNELS)
    hidden = max(1, round(4096 * width))
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, c1, 11, stride=4),
        relu1=nn.ReLU(inplace=True),
        **_pool_and_norm(1, order),
        conv2=nn.Conv2d(c1, c2, 5, padding=2, groups=GROUPS),
        relu2=nn.ReLU(inplace=True),
        **_pool_and_norm(2, order),
        conv3=nn.Conv2d(c2, c3, 3, padding=1),
        relu3=nn.ReLU(inplace=True),
        conv4=nn.Conv2d(c3, c4, 3, padding=1, groups=GROUPS),
        relu4=nn.ReLU(inplace=True),
        conv5=nn.Conv2d(c4, c5, 3, padding=1, groups=GROUPS),
        relu5=nn.ReLU(inplace=True),
        pool5=max_pool(),
    )
    side = _side_of_the_map(nn.Sequential(layers), native_size)
    layers |= OrderedDict(
        flatten=nn.Flatten(),
        fc6=nn.Linear(c5 * side * side, hidden),
        relu6=nn.ReLU(inplace=True),
        drop6=nn.Dropout(0.5),
        fc7=nn.Linear(hidden, hidden),
        relu7=nn.ReLU(inplace=True),
        drop7=nn.Dropout(0.5),
        fc8=nn.Linear(hidden, num_classes),
    )
    net = nn.Sequential(layers)
    start_as_he(net)
    return net


def max_pool() -> nn.MaxPool2d:
    """The pool of AlexNet and GoogLeNet: windows of 3x3 that overlap, every second cell, Caffe's rounding."""
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def local_response_norm() -> nn.LocalResponseNorm:
    """The normalization of AlexNet and GoogLeNet: x / (1 + 1e-4 / 5 * sum of x^2 over 5 neighbouring channels)^0.75."""
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


def start_as_he(net: nn.Module) -> None:
    """Random weights that keep the signal's variance from one ReLU to the next (He et al. 2015), and zero biases.

    Counted over the inputs of a layer, which groups and narrow 1x1 layers do not mislead.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _pool_and_norm(number: int, order: str) -> dict[str, nn.Module]:
    pool: dict[str, nn.Module] = {f"pool{number}": max_pool()}
    norm: dict[str, nn.Module] = {f"norm{number}": local_response_norm()}
    return pool | norm if order == "caffenet" else norm | pool


def _side_of_the_map(trunk: nn.Sequential, native_size: int) -> int:
    """The side of the map that fc6 covers."""
    trace = walk(trunk)
    side = trace.sizes(native_size)[trace.last.name]
    if side < 1:
        least = next(size for size in count(native_size) if trace.sizes(size)[trace.last.name] > 0)
        raise UsageError(f"native_size {native_size}: nothing of it is left after pool5; give {least} or more")
    return side
