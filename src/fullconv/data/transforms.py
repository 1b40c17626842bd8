"""Random changes of a sample, the same for image and label. All off by default, as in the paper (section 4.3).

A transform is any callable ``(Sample, Generator) -> Sample``. What it draws comes from the generator it is given,
which is a function of (seed, step, sample); so a run can be stopped anywhere and go on with the very same pictures.

Scale, shift, crop and mirror only say where to look (`View`); the pixels are made once, at the end, and only those that
are seen: of an image that is enlarged and cropped the rest is never enlarged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
from PIL.Image import Resampling, Transpose

from fullconv.config import InputConvention, Size, TrainConfig
from fullconv.data.color import drawn_color
from fullconv.data.dataset import Image, Label, Sample
from fullconv.errors import UsageError

Transform = Callable[[Sample, np.random.Generator], Sample]
Fill = tuple[tuple[float, ...], int]
"""What stands outside the image: a colour of as many channels as it has, and the label there (void)."""

_NOWHERE: Fill = (), 0  # of a view that does not reach outside


def outside(convention: InputConvention, ignore_index: int) -> Fill:
    """The mean colour of the weights, so that the net sees zeros outside the image, and void."""
    color = [convention.mean[channel] for channel in convention.channels[:3]]
    return (*color, *convention.mean[3:]), ignore_index


# -- where to look -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """What is to be seen of a sample: a frame on the sample scaled to another size.

    whole: (height, width) of the scaled sample. top, left: the corner of the frame in its pixels; it may lie outside.
    frame: (height, width) of the result. box: (top, left, bottom, right) in the pixels of `whole`: what is not
    outside; it may be empty, and it may be less than what the frame shows of `whole`. mirrored: left to right, within
    the frame.
    """

    whole: Size
    top: int
    left: int
    frame: Size
    box: tuple[int, int, int, int]
    mirrored: bool = False

    @classmethod
    def of(cls, size: Size) -> View:
        """All of a sample at a size."""
        return cls(size, 0, 0, size, (0, 0, *size))

    def moved(self, top: int, left: int, frame: Size) -> View:
        """A frame whose corner is at (top, left) of this one; what this one does not show stays outside."""
        if self.mirrored:
            left = self.frame[1] - left - frame[1]
        top, left = self.top + top, self.left + left
        y0, x0, y1, x1 = self.box
        box = max(y0, top), max(x0, left), min(y1, top + frame[0]), min(x1, left + frame[1])
        return replace(self, top=top, left=left, frame=frame, box=box)


Move = Callable[[View, np.random.Generator], View]
"""Where a transform looks next."""


def render(sample: Sample, view: View, fill: Fill = _NOWHERE, change: Callable[[Image], Image] | None = None) -> Sample:
    """The pixels of a view: the image interpolated (bilinear, over all of what a smaller pixel covers) and changed, the
    label by its nearest pixel, and `fill` outside.

    Equal to scaling the whole sample and cutting then, to one grey level (two in one of 100,000 values): Pillow takes
    the box in float32, and rounds twice. Labels are equal exactly. Raises `UsageError` where image and label differ in
    size.
    """
    size = (sample.image.shape[0], sample.image.shape[1])
    if view == View.of(size):
        return sample if change is None else Sample(change(sample.image), sample.label, sample.name)
    for task, label in sample.tasks.items():
        if label.shape != size:
            raise UsageError(
                f"{sample.name}: the {task} label is {label.shape} and the image {size}; give both one size"
            )
    (height, width), (colour, void), (y0, x0, y1, x1) = view.frame, fill, view.box
    top, left = y0 - view.top, x0 - view.left
    if view.mirrored:
        left = width - left - (x1 - x0)
    empty = y0 >= y1 or x0 >= x1
    covered = not empty and (y1 - y0, x1 - x0) == view.frame

    def laid(pixels: Any, canvas: Any) -> Any:
        part = canvas[top : top + y1 - y0, left : left + x1 - x0]
        if pixels.ndim == 3 and pixels.strides[1] < 0:  # mirrored: NumPy is many times faster channel by channel
            for channel in range(pixels.shape[2]):
                part[:, :, channel] = pixels[:, :, channel]
        else:
            part[:] = pixels
        return canvas

    def of_image(image: Image) -> Image:
        pixels = None if empty else _image_box(image, view)
        if pixels is not None and change is not None:
            turn = slice(None, None, -1 if pixels.strides[1] < 0 else 1)  # what is changed lies in memory as it was
            pixels = change(pixels[:, turn])[:, turn]
        if covered and pixels is not None and pixels.flags.c_contiguous and pixels.base is not image:
            return pixels
        canvas = np.empty((height, width, image.shape[2]), image.dtype)
        if not covered:
            value = np.clip(np.rint(colour), 0, 255) if image.dtype == np.uint8 else np.asarray(colour)
            canvas[:] = np.tile(value.astype(image.dtype), (width, 1))  # row by row, which is fast
        return canvas if pixels is None else laid(pixels, canvas)

    def of_label(label: Label) -> Label:
        kind = label.dtype if np.iinfo(label.dtype).max >= void else np.dtype(np.int32)
        canvas = np.empty((height, width), kind) if covered else np.full((height, width), void, kind)
        return canvas if empty else laid(_label_box(label, view), canvas)

    return sample.changed(of_image, of_label)


def _image_box(image: Image, view: View) -> Image:
    """What a view shows of an image, without what is outside; of an image that is not scaled a view, not a copy."""
    y0, x0, y1, x1 = view.box
    if image.shape[:2] == view.whole:
        return image[y0:y1, x0:x1][:, :: -1 if view.mirrored else 1]
    ranges, edges = [], []
    for have, want, begin, end in zip(image.shape[:2], view.whole, (y0, x0), (y1, x1), strict=True):
        scale = have / want
        reach = max(scale, 1) + 1  # how far the bilinear filter sees
        first, last = max(0, int(begin * scale - reach)), min(have, int(end * scale + reach) + 1)
        ranges.append(slice(first, last))
        edges.append((begin * scale - first, min(end * scale, have) - first))
    (upper, lower), (left, right) = edges
    part, channels = image[ranges[0], ranges[1]], image.shape[2]

    def made(pixels: Image) -> Image:
        picture = PIL.Image.fromarray(np.ascontiguousarray(pixels))
        picture = picture.resize((x1 - x0, y1 - y0), Resampling.BILINEAR, box=(left, upper, right, lower))
        return np.asarray(picture.transpose(Transpose.FLIP_LEFT_RIGHT) if view.mirrored else picture)

    if image.dtype == np.uint8 and channels % 3 == 0:
        threes = [made(part[:, :, first : first + 3]) for first in range(0, channels, 3)]
        return threes[0] if channels == 3 else np.concatenate(threes, 2)
    return np.dstack([made(part[:, :, channel]) for channel in range(channels)])


def _label_box(label: Label, view: View) -> Label:
    """What a view shows of a label, without what is outside. A pixel takes the value at its centre: in whole numbers,
    so that a part is a part of the whole.
    """
    y0, x0, y1, x1 = view.box
    if label.shape == view.whole:
        return label[y0:y1, x0:x1][:, :: -1 if view.mirrored else 1]
    rows, columns = (
        (2 * np.arange(begin, end) + 1) * have // (2 * want)
        for have, want, begin, end in zip(label.shape, view.whole, (y0, x0), (y1, x1), strict=True)
    )
    return label.take(rows, 0).take(columns[::-1] if view.mirrored else columns, 1)


def window(sample: Sample, top: int, left: int, size: Size, fill: Fill) -> Sample:
    """The box of the given size at (top, left), which may reach outside the image.

    >>> pixel = Sample(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8), "p")
    >>> window(pixel, 0, -1, (1, 2), ((9, 9, 9), 255)).label
    array([[255,   0]], dtype=uint8)
    """
    return render(sample, _all(sample).moved(top, left, size), fill)


def resized(sample: Sample, size: Size) -> Sample:
    """The sample at another size: the image interpolated, the label by its nearest pixel."""
    return render(sample, View.of(size))


def _all(sample: Sample) -> View:
    return View.of((sample.image.shape[0], sample.image.shape[1]))


# -- what is drawn -----------------------------------------------------------------------------------------------------


def _scale(limit: float) -> Move:
    def move(view: View, rng: np.random.Generator) -> View:
        factor = float(np.exp(rng.uniform(-np.log(limit), np.log(limit))))
        height, width = (max(1, round(n * factor)) for n in view.whole)
        return View.of((height, width))

    return move


def _jitter(pixels: int) -> Move:
    def move(view: View, rng: np.random.Generator) -> View:
        down, right = (int(n) for n in rng.integers(-pixels, pixels + 1, 2))
        return view.moved(-down, -right, view.frame)

    return move


def _crop(size: Size) -> Move:
    def move(view: View, rng: np.random.Generator) -> View:
        spare = [have - want for have, want in zip(view.frame, size, strict=True)]
        top, left = (int(rng.integers(min(s, 0), max(s, 0) + 1)) for s in spare)
        return view.moved(top, left, size)

    return move


def _flip(view: View, rng: np.random.Generator) -> View:
    return view if rng.random() < 0.5 else replace(view, mirrored=not view.mirrored)


def _transform(
    moves: list[Move],
    fill: Fill = _NOWHERE,
    color: Callable[[np.random.Generator], Callable[[Image], Image]] | None = None,
) -> Transform:
    def transform(sample: Sample, rng: np.random.Generator) -> Sample:
        view = _all(sample)
        for move in moves:
            view = move(view, rng)
        return render(sample, view, fill, color and color(rng))

    return transform


def random_scale(limit: float) -> Transform:
    """Scale by a factor from 1/limit to limit, evenly on the logarithm."""
    return _transform([_scale(limit)])


def random_flip() -> Transform:
    """Mirror left to right, half of the time."""
    return _transform([_flip])


def random_jitter(pixels: int, fill: Fill) -> Transform:
    """Shift by up to so many pixels in each direction; what comes in is the mean colour, void (section 4.3: 32
    pixels).
    """
    return _transform([_jitter(pixels)], fill)


def random_crop(size: Size, fill: Fill) -> Transform:
    """A box of the given size at a random place; an image that is smaller is put somewhere inside it."""
    return _transform([_crop(size)], fill)


def random_color(strength: float) -> Transform:
    """Change brightness, contrast, saturation and hue of a photograph; the label stays. What is drawn stands at
    `fullconv.data.color.drawn_color`, what is done with it at `changed_color`.
    """
    draw = drawn_color(strength)

    def transform(sample: Sample, rng: np.random.Generator) -> Sample:
        return Sample(draw(rng)(sample.image), sample.label, sample.name)

    return transform


def augmentation(config: TrainConfig, fill: Fill) -> Transform:
    """The transforms that the settings ask for, one after the other: scale, jitter, crop, flip, color.

    Color changes the image and nothing outside it, where the net goes on to see zeros.
    """
    moves: list[Move] = []
    if config.scale is not None and config.scale > 1:
        moves.append(_scale(config.scale))
    if config.jitter:
        moves.append(_jitter(config.jitter))
    if config.crop is not None:
        moves.append(_crop(config.crop))
    if config.flip:
        moves.append(_flip)
    return _transform(moves, fill, drawn_color(config.color) if config.color else None)
