"""The built-in classifiers. Each is a classifier first: it goes to a fully convolutional net by the same path as
anybody's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from fullconv.errors import UsageError, suggestion
from fullconv.models.backbones.alexnet import alexnet
from fullconv.models.backbones.external import is_zoo_name, native_size_of, zoo_classifier
from fullconv.models.backbones.googlenet import googlenet
from fullconv.models.backbones.lenet import lenet
from fullconv.models.backbones.mobilenet import MobileNetV2
from fullconv.models.backbones.resnet import BLOCKS, resnet
from fullconv.models.backbones.squeezenet import SqueezeNet
from fullconv.models.backbones.vgg import CONVOLUTIONS, vgg


@dataclass(frozen=True)
class Backbone:
    """A family member: how it is made, and the crop it was made for.

    stages: pattern of the names of the modules that a skip may come from: the last of each block of layers. Which of
    them has stride 16 or 8 is found by the geometry.
    resizable: whether it can be made for another crop, by `native_size`.
    """

    make: Callable[..., nn.Module]
    native_size: int
    stages: str
    resizable: bool = False


BACKBONES: dict[str, Backbone] = {
    "lenet": Backbone(lenet, 28, r"pool\d", resizable=True),
    "caffenet": Backbone(partial(alexnet, "caffenet"), 227, r"pool\d", resizable=True),
    "alexnet": Backbone(partial(alexnet, "alexnet"), 227, r"pool\d", resizable=True),
    **{f"vgg{depth}": Backbone(partial(vgg, depth), 224, r"pool\d", resizable=True) for depth in CONVOLUTIONS},
    **{
        f"vgg{depth}_bn": Backbone(partial(vgg, depth, norm=True), 224, r"pool\d", resizable=True)
        for depth in CONVOLUTIONS
    },
    "googlenet": Backbone(googlenet, 224, r"conv\d|inception_\d[a-e]"),
    **{f"resnet{depth}": Backbone(partial(resnet, depth), 224, r"layer\d") for depth in BLOCKS},
    "squeezenet1_0": Backbone(partial(SqueezeNet, "1_0"), 227, r"features\.\d+"),
    "squeezenet1_1": Backbone(partial(SqueezeNet, "1_1"), 224, r"features\.\d+"),
    "mobilenet_v2": Backbone(MobileNetV2, 224, r"features\.\d+"),
}


def backbone(name: str) -> Backbone:
    """A backbone by name, built in or a library's (``torchvision:resnet50``); `UsageError` with the nearest name for
    an unknown one.
    """
    if is_zoo_name(name):
        # Stages are modules of the first and second level: layer3, features.4, stages.2.
        return Backbone(partial(_of_a_library, name), native_size_of(name), r"[^.]+(\.[^.]+)?")
    if name not in BACKBONES:
        raise UsageError(f"backbone '{name}': there is no such backbone; {suggestion(name, BACKBONES)}")
    return BACKBONES[name]


def _of_a_library(name: str, num_classes: int = 1000, width: float = 1.0) -> nn.Module:
    if width != 1.0:
        raise UsageError(f"width {width:g}: {name} has the channels that its library gives it; leave --width out")
    return zoo_classifier(name, num_classes=num_classes)[0]
