"""Small networks that many tests share."""

import pytest

from fullconv.config import ModelConfig
from fullconv.models.backbones.registry import BACKBONES
from fullconv.models.build import build

SMALL = {name: {"width": 1 / 32} for name in BACKBONES if name.startswith("vgg")} | {
    "lenet": {"width": 0.1},
    "mobilenet_v2": {"width": 0.1},
}


def slow_but(quick, values):
    """Parameters of a test, of which all but the quick ones are marked slow."""
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else [value]), marks=() if value in quick else pytest.mark.slow
        )
        for value in values
    ]


FAMILIES = [
    "alexnet",
    "caffenet",
    "googlenet",
    "lenet",
    "mobilenet_v2",
    "resnet18",
    "squeezenet1_1",
    "vgg11",
    "vgg11_bn",
]
"""One backbone of each kind."""
EVERY_BACKBONE = slow_but(FAMILIES, sorted(BACKBONES))


def small(backbone, stride, **more):
    return build(
        ModelConfig(backbone, stride, num_classes=3, **{"width": 1 / 16, **SMALL.get(backbone, {}), **more})
    ).eval()


def strides(backbone):
    return {"lenet": (4,)}.get(backbone, (16, 8) if backbone.startswith("squeeze") else (32, 16, 8))


def ends(backbone):
    """The coarsest and the finest stride."""
    return sorted({strides(backbone)[0], strides(backbone)[-1]})
