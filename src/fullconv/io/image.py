"""Read and write images. Label images have `fullconv.io.label_image`.

Whatever bytes a file holds, the outcome is either its pixels or one `UsageError` that names it. Three rules are kept
everywhere: the format is told from the first bytes and only the decoders of `fullconv.io.formats` are ever called;
the size in the header is checked before memory is taken; and a file that is cut short is refused, never half read.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from fullconv.errors import RunError, UsageError, shown
from fullconv.io.decoding import MAX_PIXELS, ORIENTATION, one_line, open_image, opened
from fullconv.io.formats import IMAGE_FORMATS
from fullconv.labels import LabelSpace

BAND = 1 << 22
"""Pixels that are converted at a time."""

_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS, stream: BinaryIO | None = None) -> NDArray[np.uint8]:
    """Read the image in a file as (H, W, 3) uint8 RGB, upright (EXIF orientation applied), in memory of its own.

    Gray is replicated, palettes and CMYK are converted, 16 bits become 8 by division by 257 (65535 -> 255), and
    transparent pixels are laid on white.

    Args:
        path: the file.
        max_pixels: the largest image that is decoded.
        stream: the file, if it is open already; it is closed afterwards.

    Raises:
        UsageError: the file is missing, not an image, damaged, cut short, animated, of several pages, of floats, or
            has more than `max_pixels` pixels.
    """
    with opened(path, stream) as file:
        return decode_image(file, shown(path), max_pixels)


def decode_image(stream: BinaryIO, name: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """`read_image` for bytes that are no file of their own; `name` stands in the messages.

    >>> decode_image(BytesIO(b"P5 2 1 255 " + bytes([7, 250])), "two pixels")[:, :, 0].tolist()
    [[7, 250]]
    """
    with one_line(name):
        file = open_image(stream, name, max_pixels, IMAGE_FORMATS)
        file.load()
        turn = turn_upright(file)
        pixels = _rgb_by_bands(file, name)
        file.close()  # the decoder's copy of a large photo goes before the turned one comes
        return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def to_numbers(given: Any) -> NDArray[Any]:
    """Return a PIL image, an array or a tensor as an array with the same numbers."""
    return np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)


def to_image(given: Any, name: str = "image", channels: int = 3) -> NDArray[Any]:
    """Return an image in memory as an array (H, W, C).

    Args:
        given: A PIL image, the bytes of an image file, or an array or a tensor, (H, W, C) or (C, H, W).
        name: What it is called in messages.
        channels: C; if the first axis of an array has this length and the last has not, it is moved to the end.

    Raises:
        UsageError: It is something else, or bytes that cannot be decoded.

    >>> to_image(np.zeros((3, 5, 7), np.uint8)).shape
    (5, 7, 3)
    """
    if isinstance(given, bytes | bytearray | memoryview):
        return decode_image(BytesIO(given), name)
    if isinstance(given, Image.Image):
        with one_line(name):
            turn, pixels = turn_upright(given), _rgb(given, given.format, name)
            return pixels if turn is None else np.ascontiguousarray(turn(pixels))
    if not (isinstance(given, np.ndarray) or hasattr(given, "detach")):
        raise UsageError(
            f"{name}: a {type(given).__name__}; give a path, a PIL image, the bytes of an image file, or an array or "
            f"tensor of shape (H, W, {channels}) or ({channels}, H, W)"
        )
    array = to_numbers(given)
    if array.ndim == 3 and array.shape[2] != channels and array.shape[0] == channels:
        return np.ascontiguousarray(array.transpose(1, 2, 0))
    return array


def write_overlay(
    path: str | Path, image: NDArray[np.uint8], prediction: NDArray[np.integer], labels: LabelSpace, alpha: float = 0.5
) -> None:
    """Write `overlay` as JPEG of quality 90. Raises `RunError` when it cannot be written."""
    write_image(Path(path), Image.fromarray(overlay(image, prediction, labels, alpha)), format="JPEG", quality=90)


def write_gray(path: str | Path, values: NDArray[np.floating]) -> None:
    """Write (H, W) numbers from 0 to 1 as 8-bit gray PNG, 255 for 1. Raises `RunError` when it cannot be written."""
    write_image(Path(path), Image.fromarray(np.rint(values * 255).astype(np.uint8)), format="PNG")


def is_whole(path: Path) -> bool:
    """Whether a PNG or JPEG is there to its last bytes."""
    try:
        with path.open("rb") as file:
            file.seek(-12, os.SEEK_END)
            end = file.read()
    except OSError:
        return False
    return end[4:8] == b"IEND" or end.endswith(b"\xff\xd9")


def overlay(
    image: NDArray[np.uint8], prediction: NDArray[np.integer], labels: LabelSpace, alpha: float = 0.5
) -> NDArray[np.uint8]:
    """The image (H, W, 3) with the colours of the prediction (H, W) over it, `alpha` 0 to 1: image only to colours
    only.

    Void, and class 0 where it is called "background", are not drawn.

    >>> grey = np.full((1, 2, 3), 100, np.uint8)
    >>> overlay(grey, np.array([[0, 1]]), LabelSpace.of(["background", "cell"]), alpha=0.5).tolist()
    [[[100, 100, 100], [114, 50, 50]]]
    """
    if image.shape != (*prediction.shape, 3):
        raise UsageError(f"overlay: image {image.shape} and prediction {prediction.shape} differ; give equal sizes")
    if not 0 <= alpha <= 1:
        raise UsageError(f"overlay: alpha {alpha}; give a number from 0 to 1")
    weight = round(alpha * 256)
    first = 1 if labels.names[0] == "background" else 0
    palette = np.array(labels.palette, dtype=np.uint16)
    out = image.copy()
    for top in range(0, len(image), 256):  # in bands: a large photo needs no second copy of itself in wider numbers
        band, values = out[top : top + 256], prediction[top : top + 256]
        drawn = (values >= first) & (values < len(labels)) & (values != labels.ignore_index)
        band[drawn] = (band[drawn] * np.uint16(256 - weight) + palette[values[drawn]] * np.uint16(weight) + 128) >> 8
    return out


# -- decoding ----------------------------------------------------------------------------------------------------------


def _rgb_by_bands(file: ImageFile, name: str) -> NDArray[np.uint8]:
    """`_rgb`, of a large image in bands of rows: Pillow holds 4 bytes of each pixel, and copies on the way."""
    width, height = file.size
    if width * height <= BAND:
        return _rgb(file, file.format, name)
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        pixels[top:bottom] = _rgb(file.crop((0, top, width, bottom)), file.format, name)
    return pixels


def _rgb(file: Image.Image, kind: str | None, name: str) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 from every mode that Pillow gives for the formats that are read, of which `kind` is one."""
    sixteen = file.mode.startswith("I;16") or (file.mode == "I" and kind in ("PPM", "PNG"))
    if sixteen:
        wide = np.asarray(file).astype(np.uint32)
        gray = ((wide + 128) // 257).astype(np.uint8)  # Pillow's own conversion clips at 255 instead
        clear = file.info.get("transparency")
        if isinstance(clear, int):
            gray[wide == clear] = 255
        return np.repeat(gray[:, :, None], 3, axis=2)
    if file.mode == "RGB" and not file.has_transparency_data:
        return np.array(file)
    if file.mode in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"):
        if not file.has_transparency_data:
            return np.array(file.convert("RGB"))
        front = file.convert("RGBA")
        back = Image.new("RGBA", front.size, (255, 255, 255, 255))  # white: what a page shows behind a cut-out
        return np.array(Image.alpha_composite(back, front).convert("RGB"))
    what = {"F": "floating-point numbers", "I": "32-bit integers"}.get(file.mode, f"the colour model {file.mode}")
    raise UsageError(
        f"{name}: {what} in place of 8- or 16-bit colours; save it as an 8-bit image with the range that you want"
    )


def turn_upright(file: Image.Image) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
    """What brings the stored rows and columns upright, if anything has to."""
    try:
        return _UPRIGHT.get(file.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the orientation, and the pixels are whole
        return None


# -- writing -----------------------------------------------------------------------------------------------------------


def write_image(path: Path, picture: Image.Image, **options: Any) -> None:
    """Encode in memory, write under a short name beside the target, rename: readers see the old file or the new one."""
    temporary = path.parent / f".fullconv-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        buffer = BytesIO()
        picture.save(buffer, **options)
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(
            f"{shown(path)}: cannot be written ({reason}); check the folder, its permissions and the space left"
        ) from error
    finally:
        with suppress(OSError):  # it is there only when something failed
            temporary.unlink()
