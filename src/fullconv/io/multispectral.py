"""Images that are no photographs: 16 bits a value, or more bands than three (TIFF, GeoTIFF, 16-bit PNG), read exactly
as stored. What the numbers mean is found in the data: mean and deviation of each band become the input convention.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fullconv import host
from fullconv.errors import UsageError, shown
from fullconv.io.decoding import MAX_PIXELS, check_size, one_line, open_file, opened
from fullconv.io.formats import HEAD_BYTES, sniff
from fullconv.io.label_image import decode_label

MOST_BANDS = 64
SAMPLED = 200
"""The number of images from which the statistics are taken, at most; spread evenly over the training split."""

PIXELS = 20_000
"""The number of pixels of each of them, at most."""

_PNG_BANDS = {0: 1, 2: 3, 4: 1, 6: 3}  # by colour type, the alpha channel left aside
_ALPHA = (1, 2)  # TIFF's ExtraSamples


@dataclass(frozen=True)
class Bands:
    """What an image file holds: so many bands of this type (``uint8``, ``uint16``, ``float32`` ...)."""

    count: int
    kind: str

    @property
    def channels(self) -> int:
        """The channels that a net is given: gray is replicated to three, as pretrained filters want it."""
        return max(3, self.count)

    def __str__(self) -> str:
        return f"{self.count} band{'s' if self.count != 1 else ''} of {self.kind}"


def bands_of(path: Path) -> Bands | None:
    """What a file holds, from its header; None for what is read as a photograph: 8 bits in gray, RGB, a palette or with
    alpha, and everything that is damaged.
    """
    try:
        with open_file(path) as stream:
            head = stream.read(HEAD_BYTES)
    except UsageError:
        return None
    kind = sniff(head)[0]
    if kind == "PNG":
        count = _PNG_BANDS.get(head[25], 0) if head[24] == 16 else 0
        known = count == 1 or (count and _library("imagecodecs", required=False) is not None)
        return Bands(count, "uint16") if known else None
    if kind != "TIFF":
        return None
    tifffile = _library("tifffile", required=False)
    if tifffile is None:
        return None
    try:
        with tifffile.TiffFile(path) as file:
            series, page = file.series[0], file.pages[0]
            alpha = sum(int(extra) in _ALPHA for extra in page.extrasamples)
            count = math.prod(series.shape) // max(1, page.imagewidth * page.imagelength)
            if str(series.dtype) == "uint8" and (count - alpha in (1, 3) or int(page.photometric) not in (1, 2)):
                return None
            if len(file.pages) > 1 and "C" not in series.axes:
                return None
            return Bands(count - alpha, str(series.dtype))
    except Exception:  # whoever reads it says what is wrong
        return None


def read_bands(path: str | Path, max_pixels: int = MAX_PIXELS, stream: BinaryIO | None = None) -> NDArray[Any]:
    """Read the bands of a file as (H, W, C), C at least 3, in the order in which they are stored.

    uint8 stays as stored, everything else becomes float32, which holds 16 bits exactly. One band is replicated to
    three; the third of two is their mean. NaN and the infinities, with which satellite images mark missing data, stay.

    Args:
        path: the file.
        max_pixels: the largest image that is decoded.
        stream: the file, if it is open already.

    Raises:
        UsageError: the file cannot be read or has several pages, or the library that reads it is missing (the extra
            ``geo``).
    """
    name = shown(path)
    with opened(path, stream) as file, one_line(name):
        kind = sniff(file.read(HEAD_BYTES))[0]
        file.seek(0)
        found = (_png if kind == "PNG" else _tiff)(file, name, max_pixels)
    if found.ndim != 3 or 0 in found.shape:
        raise UsageError(f"{name}: the image is damaged (of shape {found.shape}); copy or download it again")
    if found.dtype.kind not in "uif" or found.dtype.itemsize > 8:
        raise UsageError(f"{name}: numbers of type {found.dtype}; save it as 8- or 16-bit integers or 32-bit floats")
    array = np.ascontiguousarray(found if found.dtype == np.uint8 else found.astype(np.float32))
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    if array.shape[2] == 2:
        return np.concatenate([array, array.mean(2, keepdims=True).astype(array.dtype)], 2)
    return array


def statistics(paths: Sequence[Path]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel of `read_bands`, over a regular grid of pixels of some of the files.
    Values that are not finite are left out. A channel that is constant gets deviation 1.
    """
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(len(paths), SAMPLED)).round().astype(int))]
    count: Any = 0.0
    total: Any = 0.0
    square: Any = 0.0
    for path in chosen:
        image = read_bands(path)
        step = max(1, math.isqrt(image.shape[0] * image.shape[1] // PIXELS))
        pixels = image[step // 2 :: step, step // 2 :: step].reshape(-1, image.shape[2]).astype(np.float64)
        seen = np.isfinite(pixels)
        pixels = np.where(seen, pixels, 0.0)
        count, total, square = count + seen.sum(0), total + pixels.sum(0), square + (pixels**2).sum(0)
    mean = total / np.maximum(count, 1)
    deviation = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean**2, 0.0))
    return mean, np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1e-12), deviation, 1.0)


def visible(image: NDArray[Any]) -> NDArray[np.uint8]:
    """The first three channels as a picture to look at: each from its 2nd to its 98th percentile, black to white.

    >>> visible(np.array([[[0, 0, 0]], [[4000, 4000, 4000]]], np.float32)).ravel().tolist()
    [0, 0, 0, 255, 255, 255]
    """
    front = np.where(np.isfinite(image[..., :3]), image[..., :3], 0).astype(np.float32)
    low, high = (np.percentile(front, q, axis=(0, 1)) for q in (2, 98))
    scaled = (front - low) / np.maximum(high - low, 1e-6)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def _png(file: BinaryIO, name: str, max_pixels: int) -> NDArray[Any]:
    data = file.read()
    check_size(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"), name, max_pixels)
    if data[25] == 0:  # gray, which Pillow reads whole; of colours it keeps 8 bits
        return np.asarray(decode_label(BytesIO(data), name, max_pixels).values)[:, :, None]
    array = np.asarray(_library("imagecodecs").png_decode(data))
    return array[:, :, :1] if array.shape[2] == 2 else array[:, :, :3]


def _tiff(file: BinaryIO, name: str, max_pixels: int) -> NDArray[Any]:
    with _library("tifffile").TiffFile(file) as tiff:
        series, page = tiff.series[0], tiff.pages[0]
        axes, shape = series.axes, series.shape
        if len(tiff.pages) > 1 and "C" not in axes:
            raise UsageError(
                f"{name}: a TIFF file of {len(tiff.pages)} pages; save the bands as the samples of one page"
            )
        if not {"Y", "X"} <= set(axes) or len(axes) > 3 or len(tiff.series) > 1:
            raise UsageError(f"{name}: its axes are {axes}; give images of rows, columns and bands")
        bands = math.prod(shape) // (shape[axes.index("Y")] * shape[axes.index("X")])
        if bands > MOST_BANDS:
            raise UsageError(f"{name}: {bands} bands; at most {MOST_BANDS} are read, choose among them")
        check_size(shape[axes.index("Y")], shape[axes.index("X")] * max(1, bands // 4), name, max_pixels)
        array = np.asarray(series.asarray())
        other = next((place for place, axis in enumerate(axes) if axis not in "YX"), None)
        array = array[:, :, None] if other is None else np.moveaxis(array, other, 2)
        alpha = [int(extra) in _ALPHA for extra in page.extrasamples]
        kept = bands - len(alpha) + alpha.index(True) if True in alpha else bands
        return array[:, :, :kept]


def _library(name: str, required: bool = True) -> Any:
    """A library of the extra ``geo``."""
    from importlib import import_module

    try:
        if host.owns_process():
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # what it finds wrong is said here, in one line
        return import_module(name)
    except ImportError:
        if not required:
            return None
        raise UsageError(f"{name} is missing, which reads many bands of 16 bits; pip install 'fullconv[geo]'") from None
