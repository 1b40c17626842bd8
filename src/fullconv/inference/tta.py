"""What a net says on average of an image, its mirror image, and the image in other sizes.

The mean is that of the probabilities of the classes, at the size of the image: each pass is mirrored and resized back
before it counts. It is taken at full resolution, so it needs memory for two to three times K x H x W float32 numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Resampling, fromarray

from fullconv.data.dataset import SEMANTIC, Image, Sample, photograph
from fullconv.data.transforms import resized
from fullconv.errors import UsageError
from fullconv.inference.coarse_scores import CoarseScores
from fullconv.inference.model import Model
from fullconv.inference.preprocess import as_input
from fullconv.inference.segmentation import Segmentation
from fullconv.inference.uncertainty import softmax

Timer = Callable[[str], AbstractContextManager[Any]]


class Augmented(Model):
    """A model that takes the mean of what another says of an image in several sizes, and of its mirror image.

    scales: the sizes as parts of the image's own; without 1 the image as it is does not count. flip: whether each is
    also mirrored. timer: called with ``network``, ``flip`` or ``scales`` for the passes of each kind.
    """

    def __init__(
        self, model: Model, scales: Sequence[float] = (1.0,), flip: bool = False, timer: Timer = lambda _: nullcontext()
    ) -> None:
        wrong = [scale for scale in scales if not 0.1 <= scale <= 10]
        if wrong or not scales:
            raise UsageError(
                f"scales {', '.join(map(str, wrong)) or 'none'}: give sizes from 0.1 to 10, such as 0.75,1,1.25"
            )
        self.model, self.header = model, model.header
        self.scales = sorted(set(scales))  # the order of a sum is in its last bits
        self.flip = flip
        self.timer = timer

    def coarse(self, image: Image) -> dict[str, CoarseScores]:
        """The logarithms of the mean probabilities by task, at full resolution; of one plain pass its scores."""
        return {task: part.scores for task, part in _tasks(self(image)).items()}

    def __call__(self, image: Any) -> Segmentation:
        """Segment an image, given as for any `Model`."""
        pixels = as_input(image, self.header.input)
        if self.scales == [1] and not self.flip:
            with self.timer("network"):
                return self.model(pixels)
        total: dict[str, NDArray[np.float32]] = {}
        for scale in self.scales:
            for mirrored in (False, True) if self.flip else (False,):
                with self.timer("flip" if mirrored else "network" if scale == 1 else "scales"):
                    given = pixels if scale == 1 else _resized(pixels, scale)
                    found = _tasks(self.model(np.ascontiguousarray(given[:, ::-1]) if mirrored else given))
                    for task, part in found.items():
                        here = _at(softmax(part.scores.logits()), mirrored, pixels.shape[:2])
                        total[task] = total[task] + here if task in total else here
        passes = len(self.scales) * (1 + self.flip)
        seen = photograph(pixels)
        mean = {
            task: replace(part, image=seen, scores=_logarithms(total[task] / np.float32(passes)), geometric=None)
            for task, part in found.items()
        }
        return replace(mean[SEMANTIC], geometric=mean.get("geometric"))


def _tasks(found: Segmentation) -> dict[str, Segmentation]:
    return {SEMANTIC: found} | ({"geometric": found.geometric} if found.geometric else {})


def _resized(image: Image, scale: float) -> Image:
    """An image (H, W, C) in another size, bilinear; where it shrinks each pixel is a mean of those it covers."""
    height, width = image.shape[:2]
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return resized(Sample(image, np.zeros((height, width), np.uint8), ""), size).image


def _at(probabilities: NDArray[np.float32], mirrored: bool, size: tuple[int, ...]) -> NDArray[np.float32]:
    """Probabilities (K, h, w) at the place and the size of the image."""
    placed = probabilities[:, :, ::-1] if mirrored else probabilities
    if placed.shape[1:] == size:
        return placed
    found = np.empty((len(placed), *size), np.float32)
    for k, plane in enumerate(placed):
        picture = fromarray(np.ascontiguousarray(plane)).resize((size[1], size[0]), Resampling.BILINEAR)
        found[k] = np.asarray(picture)
    return found


def _logarithms(probabilities: NDArray[np.float32]) -> CoarseScores:
    """The scores whose softmax they are."""
    return CoarseScores.of_logits(np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)))
