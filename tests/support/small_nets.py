"""Small nets to export, and what was exported of them: made once, since the exporters take seconds."""

from functools import cache

import numpy as np
import torch

from fullconv.backends import onnx
from fullconv.config import InputConvention, ModelConfig
from fullconv.exporting.export import card_of
from fullconv.inference.predictor import Predictor
from fullconv.labels import LabelSpace
from fullconv.models.build import build
from fullconv.weights.checkpoint import Header

LABELS = LabelSpace.of(["sky", "road", "tree"])
CONVENTION = InputConvention("bgr", (104.0, 117.0, 123.0), (60.0, 61.0, 62.0))


@cache
def predictor(backbone="vgg11", stride=8, **more):
    """A net whose scores are far from all alike."""
    torch.manual_seed(1)
    config = ModelConfig(backbone, stride, **{"num_classes": 3, "width": 1 / 16, "native_size": 32, **more})
    net = build(config).eval()
    for name, layer in net.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.data.mul_(1.5)
            if "score" in name:
                torch.nn.init.normal_(layer.weight)
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
            torch.nn.init.normal_(layer.running_mean, 0, 0.1)
    channels = config.channels * len(net.streams)
    convention = InputConvention("bgr", (104.0,) * channels, (60.0,) * channels) if channels > 3 else CONVENTION
    geometric = LabelSpace.of(["flat", "upright", "sky"]) if config.geometric_classes == 3 else None
    return Predictor(net, Header(config, LABELS, convention, provenance={"data": "none"}, geometric=geometric))


@cache
def graph(size, **more):
    """The bytes of a net's .onnx, its card inside."""
    one = predictor(**more)
    model = onnx.to_onnx(one.net, size)
    onnx.write_card(model, card_of(one, size))
    return model.SerializeToString()


def image(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def outputs_of(one, x):
    """The logits and coarse scores of a net by their names in a file."""
    from fullconv.backends.metadata import COARSE, LOGITS

    with torch.inference_mode():
        coarse = one.net.coarse(torch.from_numpy(x))
        logits = {task: one.net.to_image(task, scores, *x.shape[2:]) for task, scores in coarse.items()}
    return {LOGITS[t]: s.numpy() for t, s in logits.items()} | {COARSE[t]: s.numpy() for t, s in coarse.items()}


def agree(found, expected, tolerance=1e-5):
    """Whether all outputs are those of the net, to rounding."""
    return all(
        values.shape == expected[name].shape
        and np.abs(values - expected[name]).max() <= tolerance * max(1, np.ptp(expected[name]))
        for name, values in found.items()
    )
