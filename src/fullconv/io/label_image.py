"""Label images: read exactly as class indices or palette values, and written with a palette.

Values come out as they are stored; a file whose values cannot be exact (JPEG, lossy WebP) is refused by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from fullconv.errors import UsageError, shown
from fullconv.io.decoding import MAX_PIXELS, check_size, one_line, open_file, open_image
from fullconv.io.formats import HEAD_BYTES, sniff
from fullconv.io.image import write_image
from fullconv.labels import LabelSpace

_EXACT = ("PNG", "BMP", "TIFF", "GIF")  # the formats that keep label values as they were


@dataclass(frozen=True)
class LabelFile:
    """What a mask file holds, as stored.

    values: (H, W) integers, or (H, W, 3) uint8 when it is a colour picture.
    palette: the colours of a palette image as bytes R, G, B, R, ... in the order of its indices; None where there is
        none.
    """

    values: NDArray[np.integer]
    palette: bytes | None = None


def read_label_values(path: str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.integer]:
    """The numbers in a mask file: (H, W) integers exactly as stored, or (H, W, 3) uint8 when it is a colour picture.

    PNG, BMP, TIFF and GIF; a palette image gives its indices, never its colours; 1, 2, 4, 8, 16 and 32 bits are read
    exactly and an alpha channel is left aside. ``.npy`` arrays of whole numbers are read too, without pickle. Raises
    `UsageError` naming the file, also for JPEG and WebP, which change values, and for numbers with fractions or NaN.
    """
    return read_label(path, max_pixels).values


def read_label(path: str | Path, max_pixels: int = MAX_PIXELS) -> LabelFile:
    """`read_label_values` together with the palette of the file."""
    if Path(path).suffix.lower() == ".npy":
        return LabelFile(_npy(path, shown(path), max_pixels))
    with open_file(path) as stream:
        return decode_label(stream, shown(path), max_pixels)


def decode_label(stream: BinaryIO, name: str, max_pixels: int = MAX_PIXELS) -> LabelFile:
    """`read_label` for an open image file; `name` is what messages call it."""
    with one_line(name):
        file = open_image(stream, name, max_pixels, _EXACT)
        arguments = file.tile[0][3] if file.tile else ()
        packing = str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)
        file.load()
        palette = bytes(file.getpalette() or ()) if file.mode == "P" else None
        return LabelFile(_label_values(file, packing, name), palette)


def write_label(path: str | Path, prediction: NDArray[np.integer], labels: LabelSpace) -> None:
    """Write (H, W) class indices as PNG: 8 bits with the palette of `labels`, or 16-bit gray for more than 256 classes.

    The file appears whole or not at all. Raises `UsageError` when a value does not fit, `RunError` when it cannot be
    written.
    """
    array = np.asarray(prediction)
    most = 255 if len(labels) <= 256 else 65535
    if array.ndim != 2 or not array.size or not np.issubdtype(array.dtype, np.integer):
        raise UsageError(
            f"{shown(path)}: a label must be (H, W) integers, not {array.shape} {array.dtype}; give class indices"
        )
    if array.min() < 0 or array.max() > most:
        raise UsageError(
            f"{shown(path)}: values from {array.min()} to {array.max()} do not fit 0 to {most}; give class indices"
        )
    picture = Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8 if most == 255 else np.uint16))
    if most == 255:
        picture.putpalette(labels.flat_palette())
    write_image(Path(path), picture, format="PNG")


def _label_values(file: ImageFile, packing: str, name: str) -> NDArray[np.integer]:
    mode = file.mode
    if ";16" in packing and mode in ("LA", "RGB", "RGBA"):
        raise UsageError(
            f"{name}: 16 bits in each of several channels; save the mask as 8-bit palette or 16-bit gray PNG"
        )
    if mode in ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "RGBa"):
        return np.array(file)[:, :, :3] if mode in ("RGB", "RGBA", "RGBX") else np.array(file.convert("RGB"))
    array = np.array(file)
    if mode in ("LA", "PA"):
        return array[:, :, 0].copy()
    if mode == "1":
        return array.astype(np.uint8)
    if mode == "F":
        return _whole_numbers(array, name)
    if mode == "L":  # gray of 2 and 4 bits comes stretched to 0..255; the values are wanted
        step = {"L;2": 85, "L;4": 17}.get(packing[:3], 1)
        return array // np.uint8(step)
    if mode == "P" or mode.startswith("I"):
        return array.astype(array.dtype.newbyteorder("="))
    raise UsageError(f"{name}: a mask of the colour model {mode}; save it as 8-bit palette or 16-bit gray PNG")


def _npy(path: str | Path, name: str, max_pixels: int) -> NDArray[np.integer]:
    """Read an array of whole numbers; one whose header promises more bytes than the file has is refused unread."""
    with open_file(path) as stream, one_line(name, "NumPy array"):
        _, what, _ = sniff(stream.read(HEAD_BYTES))
        if what != "a NumPy array":
            raise UsageError(f"{name}: {what}, not a NumPy array; save the mask with numpy.save or as PNG")
        stream.seek(0)
        read_header = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        if len(shape) != 2 and not (len(shape) == 3 and shape[2] == 3 and dtype == np.uint8):
            raise UsageError(f"{name}: an array of shape {shape}; a mask is (height, width)")
        check_size(shape[0], shape[1], name, max_pixels)
        if math.prod(shape) * dtype.itemsize > Path(path).stat().st_size - stream.tell():
            raise ValueError("it ends before its data does")
        stream.seek(0)
        array = np.load(stream, allow_pickle=False)
        if array.dtype == np.bool_:
            return array.astype(np.uint8)
        if np.issubdtype(array.dtype, np.floating):
            return _whole_numbers(array, name)
        if not np.issubdtype(array.dtype, np.integer):
            raise UsageError(f"{name}: an array of {array.dtype}; a mask holds whole numbers")
        return array.astype(array.dtype.newbyteorder("="))


def _whole_numbers(array: NDArray[np.floating], name: str) -> NDArray[np.int64]:
    wrong = ~((np.abs(array) < 2**53) & (array == np.rint(array)))  # NaN and the infinities are wrong too
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        raise UsageError(f"{name}: {array[y, x]} at x={x} y={y} is no whole number; a mask holds class indices")
    return array.astype(np.int64)
