"""Colours of a photograph changed: brightness, contrast, saturation and hue as one affine map, applied once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fullconv.data.dataset import Image
from fullconv.errors import UsageError

HUE = 0.1
"""The largest change of hue at strength 1, in turns of the colour circle."""

_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])  # NTSC; I and Q of gray are 0
_RGB = np.linalg.inv(_YIQ)
_STEP = 2048  # the map is in whole multiples of 1/2048: then no sum of it in float32 rounds, in whatever order
_CHUNK = 16384  # pixels that are changed at once, in the cache


def colour_matrix(brightness: float, contrast: float, saturation: float, hue: float) -> NDArray[np.float64]:
    """The matrix (3, 3) of the changes on (red, green, blue), without what contrast adds.

    Brightness and contrast are factors; saturation is a factor on the distance from gray; hue turns the plane of I and
    Q in YIQ by so many turns. Every row sums to brightness x contrast, so gray stays gray.

    >>> colour_matrix(1, 1, 0, 0).round(3).tolist()[0]
    [0.299, 0.587, 0.114]
    """
    cosine, sine = np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)
    turn = _RGB @ np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ _YIQ
    saturate = saturation * np.eye(3) + (1 - saturation) * np.tile(_LUMA, (3, 1))
    return brightness * contrast * turn @ saturate


def changed_color(image: Image, brightness: float, contrast: float, saturation: float, hue: float) -> Image:
    """The image (H, W, C) uint8 with the first three channels changed, in memory of its own; C is at least 3.

    brightness, contrast, saturation: factors from 0 to 2, applied in this order, contrast about the mean gray of the
    whole image. hue: turns, applied last. Nothing is clipped in between. The map is rounded to 1/2048, so that gray
    stays gray and every machine computes the same; the result is clipped to 0..255 and rounded, a half up.

    >>> changed_color(np.array([[[100, 0, 0], [0, 0, 0]]], np.uint8), 2, 1, 1, 0).tolist()
    [[[200, 0, 0], [0, 0, 0]]]
    """
    height, width, channels = image.shape
    sums = image.reshape(height, width * channels).sum(0, dtype=np.uint32).reshape(width, channels).sum(0)
    gray = float(_LUMA @ sums[:3]) / max(1, height * width)
    exact = np.rint(colour_matrix(brightness, contrast, saturation, hue) * _STEP)
    exact[np.diag_indices(3)] += np.rint(brightness * contrast * _STEP) - exact.sum(1)  # all rows have one sum
    columns = (exact.T / _STEP).astype(np.float32)
    shift = np.float32(np.rint(brightness * (1 - contrast) * gray * _STEP) / _STEP + 0.5)  # then cutting rounds
    flat = image.reshape(-1, channels)
    out = np.empty_like(flat) if channels == 3 else flat.copy()
    before, after = np.empty((2, min(_CHUNK, len(flat)), 3), np.float32)
    for start in range(0, len(flat), _CHUNK):
        pixels = flat[start : start + _CHUNK, :3]
        wide, mixed = before[: len(pixels)], after[: len(pixels)]
        wide[:] = pixels
        np.matmul(wide, columns, out=mixed)
        mixed += shift
        np.clip(mixed, 0, 255, out=mixed)
        out[start : start + _CHUNK, :3] = mixed  # cuts
    return out.reshape(image.shape)


def drawn_color(strength: float) -> Callable[[np.random.Generator], Callable[[Image], Image]]:
    """What draws a change of colours from a generator, of a strength from 0 (none) to 1.

    Four numbers are drawn, evenly and in this order: factors of brightness, contrast and saturation from 1 - strength
    to 1 + strength, and turns of the hue from -0.1 x strength to 0.1 x strength. They go to `changed_color`. Of an
    image the first three channels are changed and others stay: HHA beside colour. (HHA alone cannot be told from a
    photograph, and is changed too.) Raises `UsageError` for a strength outside 0 to 1; the change does, for an image
    that is not uint8 with three channels or more.

    >>> drawn_color(0)(np.random.default_rng(0))(np.array([[[1, 2, 3]]], np.uint8)).tolist()
    [[[1, 2, 3]]]
    """
    if not 0 <= strength <= 1:
        raise UsageError(f"color is {strength:g}; give a strength from 0 to 1")

    def draw(rng: np.random.Generator) -> Callable[[Image], Image]:
        factors = [float(rng.uniform(1 - strength, 1 + strength)) for _ in range(3)]
        hue = float(rng.uniform(-HUE * strength, HUE * strength))

        def change(image: Image) -> Image:
            if image.dtype != np.uint8 or image.shape[2] < 3:
                has = f"{image.shape[2]} channels of {image.dtype}"
                raise UsageError(f"color changes photographs, 3 channels of uint8, and an image has {has}; leave it 0")
            brightness, contrast, saturation = factors
            return changed_color(image, brightness, contrast, saturation, hue)

        return change

    return draw
