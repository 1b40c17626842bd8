"""Prediction: an image in, its segmentation out, at the image's own size."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fullconv import weights
from fullconv.data import images
from fullconv.errors import RunError, UsageError
from fullconv.labels import LabelSpace
from fullconv.models import build
from fullconv.models.input import to_input
from fullconv.weights import Header


@dataclass(frozen=True)
class Segmentation:
    """What a net says of one image.

    image: (H, W, 3) uint8 RGB. logits: (K, H, W) float32, the score of each class at each pixel.
    """

    image: NDArray[np.uint8]
    logits: NDArray[np.float32]
    labels: LabelSpace

    @cached_property
    def prediction(self) -> NDArray[np.uint8]:
        """(H, W) uint8: the class of the highest score at each pixel."""
        kind = np.uint8 if len(self.labels) <= 256 else np.int32
        return self.logits.argmax(0).astype(kind)

    def overlay(self, alpha: float = 0.5) -> NDArray[np.uint8]:
        """(H, W, 3) uint8: the image with the classes' colours laid over it; class ``background`` stays clear."""
        return images.overlay(self.image, self.prediction, self.labels, alpha)


class Predictor:
    """A net together with what it needs to be fed and read: call it with an image.

    net: from the net's own input (N, 3, H, W) to logits (N, K, H, W); of two heads the semantic one is read.
    header: its input convention and label space.
    precision: ``fp32``, or ``bf16`` for a CPU that multiplies it (the logits are float32 either way).
    """

    def __init__(self, net: nn.Module, header: Header, precision: str = "fp32") -> None:
        if precision not in ("fp32", "bf16"):
            raise UsageError(f"precision '{precision}': there is no such precision; One of: fp32, bf16")
        self.net = net
        self.header = header
        self.precision = precision

    @property
    def labels(self) -> LabelSpace:
        """The classes of the net."""
        return self.header.labels

    def logits(self, image: NDArray[np.uint8]) -> Tensor:
        """(1, K, H, W) float32 scores of an image (H, W, 3) uint8 RGB."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise UsageError(
                f"image of shape {image.shape} and type {image.dtype}: give (H, W, 3) uint8 RGB, or a path"
            )
        if len(self.header.input.mean) != 3:
            raise UsageError(
                f"this net takes {len(self.header.input.mean)} channels (colour with depth or HHA), an image has 3; "
                "call predictor.net with the input that it wants"
            )
        training = self.net.training
        self.net.eval()
        half = torch.autocast("cpu", torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()
        try:
            with torch.inference_mode(), half:
                x = to_input(torch.from_numpy(np.array(image)[None]), self.header.input)
                found: Tensor | dict[str, Tensor] = self.net(x.contiguous(memory_format=torch.channels_last))
                return (found["semantic"] if isinstance(found, dict) else found).float()
        except RuntimeError as problem:
            if "can't allocate memory" in str(problem):
                height, width = image.shape[:2]
                raise RunError(f"image of {height}x{width}: not enough memory; give a smaller image") from None
            raise
        finally:
            self.net.train(training)

    def __call__(self, image: NDArray[np.uint8] | str | Path) -> Segmentation:
        """The segmentation of an image: (H, W, 3) uint8 RGB, or the path of one."""
        pixels = images.read_image(image) if isinstance(image, str | Path) else image
        return Segmentation(pixels, self.logits(pixels)[0].numpy(), self.labels)


def load(path: str | Path, precision: str = "fp32") -> Predictor:
    """The predictor in a checkpoint, ``RUN/model.safetensors``; the file needs nothing else.

    Raises `UsageError` naming the file when it is missing, damaged, or no fullconv checkpoint of an FCN.
    """
    path = Path(path)
    tensors, header = weights.load(path)
    if header is None or header.kind != "fcn":
        what = "plain weights without a fullconv header" if header is None else f"the weights of a {header.kind}"
        raise UsageError(f"{path}: it holds {what}, not a trained FCN; train one with fullconv train --weights {path}")
    with torch.device("meta"):
        net = build(header.model)
    try:
        net.load_state_dict(tensors, assign=True)
    except RuntimeError as problem:
        reason = str(problem).strip().splitlines()[-1].strip()
        raise UsageError(f"{path}: its tensors do not fit its header ({reason}); take another copy") from None
    return Predictor(net.to(memory_format=torch.channels_last).eval(), header, precision)  # type: ignore[call-overload]
