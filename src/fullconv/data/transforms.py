"""Random changes of a sample, the same for image and label. All off by default, as in the paper (section 4.3).

A transform is any callable ``(Sample, Generator) -> Sample``. What it draws comes from the generator it is given,
which is a function of (seed, step, sample); so a run can be stopped anywhere and go on with the very same pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
from PIL.Image import Resampling

from fullconv.config import InputConvention, Size, TrainConfig
from fullconv.data import Image, Label, Sample

Transform = Callable[[Sample, np.random.Generator], Sample]
Fill = tuple[tuple[float, ...], int]
"""What stands outside the image: a colour of as many channels as it has, and the label there (void)."""


def outside(convention: InputConvention, ignore_index: int) -> Fill:
    """The mean colour of the weights, so that the net sees zeros outside the image, and void."""
    color = convention.mean[:3] if convention.order == "rgb" else convention.mean[2::-1]
    return (*color, *convention.mean[3:]), ignore_index


def window(sample: Sample, top: int, left: int, size: Size, fill: Fill) -> Sample:
    """The box of the given size at (top, left), which may reach outside the image.

    >>> pixel = Sample(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8), "p")
    >>> window(pixel, 0, -1, (1, 2), ((9, 9, 9), 255)).label
    array([[255,   0]], dtype=uint8)
    """
    (height, width), (colour, void) = size, fill

    def cut(pixels: Any, canvas: Any) -> Any:
        rows, columns = pixels.shape[:2]
        y0, y1 = max(top, 0), min(top + height, rows)
        x0, x1 = max(left, 0), min(left + width, columns)
        if y0 < y1 and x0 < x1:
            canvas[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0:y1, x0:x1]
        return canvas

    def of_image(image: Image) -> Image:
        outside = np.clip(np.rint(colour), 0, 255) if image.dtype == np.uint8 else np.asarray(colour)
        canvas = np.empty((height, width, image.shape[2]), image.dtype)
        canvas[:] = outside.astype(image.dtype)
        return cut(image, canvas)

    def of_label(label: Label) -> Label:
        kind = label.dtype if np.iinfo(label.dtype).max >= void else np.dtype(np.int32)
        return cut(label, np.full((height, width), void, kind))

    return sample.changed(of_image, of_label)


def resized(sample: Sample, size: Size) -> Sample:
    """The sample at another size: the image interpolated, the label by its nearest pixel."""
    target = (size[1], size[0])

    def of_image(image: Image) -> Image:
        if image.dtype == np.uint8 and image.shape[2] == 3:
            return np.asarray(PIL.Image.fromarray(image).resize(target, Resampling.BILINEAR))
        channels = [
            PIL.Image.fromarray(channel).resize(target, Resampling.BILINEAR) for channel in image.transpose(2, 0, 1)
        ]
        return np.dstack([np.asarray(channel) for channel in channels])

    def of_label(label: Label) -> Label:
        picture = PIL.Image.fromarray(label if label.dtype == np.uint8 else label.astype(np.int32))
        return np.asarray(picture.resize(target, Resampling.NEAREST)).astype(label.dtype)

    return sample.changed(of_image, of_label)


def random_scale(limit: float) -> Transform:
    """Scale by a factor from 1/limit to limit, evenly on the logarithm."""

    def transform(sample: Sample, rng: np.random.Generator) -> Sample:
        factor = float(np.exp(rng.uniform(-np.log(limit), np.log(limit))))
        height, width = (max(1, round(n * factor)) for n in sample.image.shape[:2])
        return resized(sample, (height, width))

    return transform


def random_flip() -> Transform:
    """Mirror left to right, half of the time."""

    def transform(sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() < 0.5:
            return sample
        return sample.changed(
            lambda image: np.ascontiguousarray(image[:, ::-1]), lambda label: np.ascontiguousarray(label[:, ::-1])
        )

    return transform


def random_jitter(pixels: int, fill: Fill) -> Transform:
    """Shift by up to so many pixels in each direction; what comes in is the mean colour, void (section 4.3: 32
    pixels).
    """

    def transform(sample: Sample, rng: np.random.Generator) -> Sample:
        down, right = (int(n) for n in rng.integers(-pixels, pixels + 1, 2))
        return window(sample, -down, -right, (sample.image.shape[0], sample.image.shape[1]), fill)

    return transform


def random_crop(size: Size, fill: Fill) -> Transform:
    """A box of the given size at a random place; an image that is smaller is put somewhere inside it."""

    def transform(sample: Sample, rng: np.random.Generator) -> Sample:
        spare = [have - want for have, want in zip(sample.image.shape[:2], size, strict=True)]
        top, left = (int(rng.integers(min(s, 0), max(s, 0) + 1)) for s in spare)
        return window(sample, top, left, size, fill)

    return transform


def augmentation(config: TrainConfig, fill: Fill) -> Transform:
    """The transforms that the settings ask for, one after the other: scale, jitter, crop, flip."""
    chosen: list[Transform] = []
    if config.scale is not None and config.scale > 1:
        chosen.append(random_scale(config.scale))
    if config.jitter:
        chosen.append(random_jitter(config.jitter, fill))
    if config.crop is not None:
        chosen.append(random_crop(config.crop, fill))
    if config.flip:
        chosen.append(random_flip())

    def transform(sample: Sample, rng: np.random.Generator) -> Sample:
        for step in chosen:
            sample = step(sample, rng)
        return sample

    return transform
