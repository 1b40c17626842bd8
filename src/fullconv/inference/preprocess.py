"""What a net is fed with: the image in a file as it wants it, checked, and brought into its numbers. No torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fullconv.config import InputConvention
from fullconv.data.dataset import Image
from fullconv.errors import UsageError, shown
from fullconv.io import image as images
from fullconv.io.multispectral import read_bands


def read_input(path: str | Path, convention: InputConvention, stream: BinaryIO | None = None) -> Image:
    """Read the image in a file as a model takes it: a photograph, or bands as they are stored.

    stream: the file, if it is open already; it may be closed afterwards. Raises `UsageError` naming the file.
    """
    if not convention.bands:
        return images.read_image(path, stream=stream)
    found, channels = read_bands(path, stream=stream), len(convention.mean)
    if found.shape[2] != channels:
        raise UsageError(f"{shown(path)}: {found.shape[2]} bands, and this net takes {channels}; give such images")
    return found


def as_input(image: Any, convention: InputConvention) -> Image:
    """Return an image that is given as a path, a PIL image, bytes, an array or a tensor, as a net takes it."""
    if isinstance(image, str | Path):
        return read_input(image, convention)
    if convention.bands and not (isinstance(image, np.ndarray) or hasattr(image, "detach")):
        raise UsageError(f"image: a {type(image).__name__}; this net takes bands: give a path, an array or a tensor")
    return images.to_image(image, channels=len(convention.mean))


def check_input(image: Image, convention: InputConvention) -> None:
    """Refuse an image that a net does not take."""
    if not isinstance(image, np.ndarray):
        raise UsageError(f"image: a {type(image).__name__}; give an array (H, W, C), or call the model with it")
    channels = len(convention.mean)
    photographs = channels == 3 and not convention.bands
    kinds = (np.uint8,) if photographs else (np.uint8, np.float32)
    if image.ndim != 3 or 0 in image.shape or image.shape[2] not in (3, channels) or image.dtype not in kinds:
        wanted = "(H, W, 3) uint8 RGB, or a path" if photographs else f"(H, W, {channels}) uint8 or float32"
        raise UsageError(f"image of shape {image.shape} and type {image.dtype}: give {wanted}")
    if image.shape[2] != channels:
        what, name = ("depth", "nyudv2-color-d") if channels == 4 else ("HHA", "nyudv2-color-hha")
        raise UsageError(
            f"this net takes {channels} channels (colour and {what}), an image has 3; give a data set with them "
            f"({name}:DIR), or an array"
        )


def to_input(image: Image, convention: InputConvention) -> NDArray[np.float32]:
    """(H, W, C) uint8 or float32 to (1, C, H, W) float32: bit-identical to `tensor_input.to_input`, without torch.

    >>> red = np.array([[[255, 0, 0]]], np.uint8)
    >>> to_input(red, InputConvention("bgr", (1.0, 2.0, 3.0), (1.0, 1.0, 1.0))).ravel().tolist()
    [-1.0, -2.0, 252.0]
    """
    x = np.empty((1, len(convention.mean), *image.shape[:2]), np.float32)
    convention.normalize(image[None], x, partial(np.array, dtype=np.float32))
    return np.nan_to_num(x, copy=False, nan=0.0, posinf=0.0, neginf=0.0) if image.dtype.kind == "f" else x
