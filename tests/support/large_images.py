"""Images and predictors for the tests of large images."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from fullconv.config import CONVENTIONS, InputConvention, ModelConfig
from fullconv.inference.predictor import Predictor
from fullconv.labels import LabelSpace
from fullconv.weights.checkpoint import Header

CLASSES = 6


def predictor_of(backbone="vgg11", stride=8, classes=CLASSES, precision="fp32", **more):
    """A small net with scores that differ from place to place."""
    torch.manual_seed(0)
    config = ModelConfig(backbone, stride, num_classes=classes, **{"width": 1 / 16, **more})
    from fullconv.models.build import build

    net = build(config).eval()
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    labels = LabelSpace.of(["background", *(f"class {n}" for n in range(1, classes))])
    geometric = LabelSpace.of(["flat", "round"]) if config.geometric_classes else None
    convention = CONVENTIONS["torchvision"]
    if config.channels != 3:
        convention = InputConvention("rgb", (900.0,) * config.channels, (500.0,) * config.channels, bands=True)
    return Predictor(net, Header(config, labels, convention, geometric=geometric), precision)


def photo(height, width, seed=0):
    """Smooth noise, so that segments have a size."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 30 + 2, width // 30 + 2, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
