"""How far an exported file is from its net: its scores and its labels, on images of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fullconv.config import InputConvention, Size
from fullconv.data.dataset import Image
from fullconv.errors import RunError, UsageError
from fullconv.inference.model import Model

SIZES = ((1, 1), (33, 47), (97, 131), (240, 321), (375, 500))
"""Of images for a file that takes any: the least one, odd ones, and that of a photograph."""


@dataclass(frozen=True)
class Agreement:
    """What a file says against what its net says.

    difference: the largest of the scores. spread: the range of the net's scores. labels: the part of the pixels with
    the same label, as everybody sees them (the file's logits) or as this package does (its coarse scores), whichever is
    less. sizes: of the images, each once. pixels: of all of them.
    """

    difference: float
    spread: float
    labels: float
    sizes: tuple[Size, ...]
    images: int
    pixels: int

    @property
    def relative(self) -> float:
        """The largest difference as a part of the range."""
        return self.difference / self.spread if self.spread else float(self.difference > 0)


def compare(predictor: Model, exported: Model, whole: Model, images: Sequence[Image]) -> Agreement:
    """The agreement of a net with its file, run in both ways: to the coarse scores, and `whole` to the logits."""
    difference, low, high = 0.0, np.inf, -np.inf
    same = {"coarse": 0, "whole": 0}
    pixels, sizes = 0, []
    for image in images:
        expected = predictor.coarse(image)
        said = {"coarse": exported.coarse(image), "whole": whole.coarse(image)}
        for task, scores in expected.items():
            logits, labels = scores.logits(), scores.prediction()
            found = said["whole"][task].logits()
            if found.shape != logits.shape or not np.isfinite(found).all():
                raise RunError(
                    f"export: the file gives scores of {found.shape} for an image of {image.shape[:2]}, or some that "
                    "are no numbers; export to another format"
                )
            difference = max(difference, float(np.abs(found - logits).max()))
            low, high = min(low, float(logits.min())), max(high, float(logits.max()))
            pixels += labels.size
            for way, outputs in said.items():
                same[way] += int((outputs[task].prediction() == labels).sum())
        sizes.append((image.shape[0], image.shape[1]))
    return Agreement(
        difference, high - low, min(same.values()) / pixels, tuple(dict.fromkeys(sizes)), len(images), pixels
    )


def odd_sizes(size: Size | None, least: int = 1) -> tuple[Size, ...]:
    """The sizes that a file is tried on: its own, or several from the least that it takes on."""
    return (size,) if size is not None else tuple((max(h, least), max(w, least)) for h, w in SIZES)


def photographs(channels: int, convention: InputConvention, sizes: Sequence[Size], seed: int = 0) -> list[Image]:
    """Images that vary as photographs do, coarse structures more than fine ones; two for each size."""
    rng = np.random.default_rng(seed)
    return [_smooth(rng, channels, size, convention) for size in sizes for _ in range(2)]


def _smooth(rng: np.random.Generator, channels: int, size: Size, convention: InputConvention) -> Image:
    """Noise whose amplitude falls with its frequency, as that of photographs does (Field 1987)."""
    rows, columns = (np.fft.fftfreq(pixels) for pixels in size)
    fall = 1 / np.maximum(np.hypot(rows[:, None], columns[None]), 1 / max(*size, 2))
    image = np.empty((*size, channels))
    gray = np.fft.fft2(rng.normal(size=size))
    for channel in range(channels):
        wave = np.fft.ifft2((gray + 0.3 * np.fft.fft2(rng.normal(size=size))) * fall).real
        image[:, :, channel] = (wave - wave.mean()) / (wave.std() or 1)
    if channels == 3 and not convention.bands:
        return (128 + 50 * image).clip(0, 255).astype(np.uint8)
    mean, std = np.array(convention.mean), np.array(convention.std)
    return (mean + image * np.where(std == 1, 50, std)).astype(np.float32)


def to_size(image: Image, size: Size | None) -> Image:
    """The middle of an image, mirrored at its borders where it is smaller than the size; None is its own."""
    if size is None:
        return image
    if 0 in image.shape:
        raise UsageError("export: an image without pixels; give another")
    for axis, pixels in enumerate(size):
        has = image.shape[axis]
        place = np.arange(pixels) + (max(0, has - pixels) // 2)
        folded = place % (2 * has)
        image = image.take(np.where(folded < has, folded, 2 * has - 1 - folded), axis)
    return image
