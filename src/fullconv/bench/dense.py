"""What denser scores cost (section 3.2): shift-and-stitch, the rarefied net, and the plain net with its scores
upsampled.

A VGG16 of a quarter of the channels, for crops of 128 pixels and made fully convolutional, scores an image at a finer
stride than its own 32. The three ways run by turns in one process, each once unmeasured; the median of the rounds
counts. Shift-and-stitch runs the net 16 times for stride 8, and 1024 times for stride 1. The weights are random: the
cost does not depend on them. The maps differ by some cells in size, since the pools are in ceil mode, as the released
nets' are: a shifted view, which is smaller than the image, ends in partial windows, which a rarefied net has none of.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fullconv.bench.medians import medians, seconds
from fullconv.config import ModelConfig
from fullconv.errors import UsageError
from fullconv.geometry import AxisMap, bilinear_window
from fullconv.models.build import build_classifier, native_size
from fullconv.models.convolutionalize import convolutionalize
from fullconv.models.dense_scores import rarefy, shift_and_stitch
from fullconv.models.trace import walk
from fullconv.models.upsample import Upsample


def measure(
    image: int = 256,
    stride: int = 8,
    backbone: str = "vgg16",
    width: float = 0.25,
    native: int = 128,
    classes: int = 21,
    rounds: int = 5,
) -> dict[str, Any]:
    """Median seconds for the scores of one image x image picture at `stride`, in each of the three ways.

    image: a multiple of 32 that is at least `native`, the crop that the net was made for. stride: 1, 2, 4, 8 or 16.
    `difference` is between the net's own scores and those of the rarefied net at the same places, relative to the
    greatest: rounding, where no pool has a partial window (for VGG: sides that are multiples of 32).
    """
    if image < native or image % 32:
        raise UsageError(f"image {image}: give a multiple of 32 that is at least {native}, the crop of the net")
    torch.manual_seed(0)
    config = ModelConfig(backbone, width=width, native_size=native)
    net, _ = convolutionalize(build_classifier(config, classes), native_size(config))
    net.eval()
    axis = walk(net).last.axis
    factor = int(axis.stride) // stride
    # The grid of the rarefied net: the stride asked for, from the net's own first cell on.
    window = bilinear_window(factor, axis, AxisMap(axis.stride / factor, axis.start, axis.field))
    dense, upsample = rarefy(net, stride), Upsample(classes, window, learned=False)

    def upsampled(x: Tensor) -> Tensor:
        coarse = net(x)
        return upsample(coarse, window.kernel // 2, factor * coarse.shape[2], factor * coarse.shape[3])

    ways: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
        "shift-and-stitch": (factor * factor, lambda x: shift_and_stitch(net, x, factor)),
        "rarefied": (1, dense),
        "upsampled": (1, upsampled),
    }
    x = torch.randn(1, 3, image, image)
    with torch.no_grad():
        plain, finer = net(x), dense(x)[:, :, ::factor, ::factor]
        shapes = {name: list(way(x).shape[2:]) for name, (_, way) in ways.items()}
        taken = medians({name: partial(seconds, partial(way, x)) for name, (_, way) in ways.items()}, rounds)
    return {
        "net": f"{backbone}, width {width:g}, native size {native}, {classes} classes, stride {axis.stride}",
        "image": [image, image],
        "stride": stride,
        "rounds": rounds,
        "ways": [
            {"way": name, "runs": runs, "scores": shapes[name], "seconds": round(taken[name], 5),
             "ratio_to_upsampled": round(taken[name] / taken["upsampled"], 2)}
            for name, (runs, _) in ways.items()
        ],
        "difference": float((plain - finer).abs().max() / plain.abs().max()),
    }  # fmt: skip
