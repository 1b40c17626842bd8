"""Images whose rows are read when they are wanted: TIFF and GeoTIFF of any size by windows, all others decoded once.

JPEG and PNG are decoded whole, as uint8. A TIFF file is read by windows where that gives the same pixels: bands as they
are stored, and photographs of 8 bits in gray or RGB. The limit of pixels is one of memory, so it holds for what is
decoded at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import UsageError, shown
from fullconv.io.decoding import MAX_PIXELS, check_size, one_line, open_image, opened, upright_size
from fullconv.io.formats import HEAD_BYTES, IMAGE_FORMATS, sniff
from fullconv.io.image import read_image
from fullconv.io.multispectral import read_bands
from fullconv.warnings import without_warnings

CACHE = 64
"""MB of decoded blocks that the reader of TIFF keeps: tiles or strips that the next rows need too."""


@dataclass(frozen=True)
class GeoReference:
    """Where the pixels of an image lie on the earth: coordinate reference system and affine transform, as rasterio has
    them.
    """

    crs: Any
    transform: Any


@dataclass(frozen=True)
class Decoded:
    """An image in memory, with the face of one that is not."""

    image: NDArray[Any]
    place: GeoReference | None = None

    @property
    def height(self) -> int:
        """Rows in all."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Pixels of a row."""
        return int(self.image.shape[1])

    @property
    def bytes(self) -> int:
        """What is in memory of it."""
        return self.image.nbytes

    @property
    def bytes_of_row(self) -> int:
        """What a row takes in memory when it is read: nothing more."""
        return 0

    def rows(self, top: int, bottom: int) -> NDArray[Any]:
        """The rows from `top` to before `bottom`, (rows, W, C)."""
        return self.image[top:bottom]


@dataclass
class Windows:
    """A TIFF file that is read by windows. bands: as `read_bands` gives them; else a photograph."""

    dataset: Any
    name: str
    bands: bool
    kept: tuple[int, ...]
    max_pixels: int = MAX_PIXELS
    place: GeoReference | None = None
    _last: tuple[int, int, NDArray[Any]] | None = field(default=None, repr=False)

    @property
    def height(self) -> int:
        """Rows in all."""
        return int(self.dataset.height)

    @property
    def width(self) -> int:
        """Pixels of a row."""
        return int(self.dataset.width)

    @property
    def bytes(self) -> int:
        """What is in memory of it before anything is read."""
        return 0

    @property
    def bytes_of_row(self) -> int:
        """What a row takes in memory when it is read, twice while it is made."""
        size = 1 if self.dataset.dtypes[0] == "uint8" else 4
        return 2 * size * max(3, len(self.kept)) * self.width

    def rows(self, top: int, bottom: int) -> NDArray[Any]:
        """The rows from `top` to before `bottom`, (rows, W, C). Those read last are remembered."""
        if self._last is None or self._last[:2] != (top, bottom):
            self._last = None
            check_size(bottom - top, self.width, self.name, self.max_pixels)
            with one_line(self.name):
                found = self.dataset.read(list(self.kept), window=((top, bottom), (0, self.width)))
            self._last = (top, bottom, self._arranged(found))
        return self._last[2]

    def _arranged(self, found: NDArray[Any]) -> NDArray[Any]:
        """(C, rows, W) as stored to (rows, W, C), C at least 3."""
        if found.dtype.kind not in "uif" or found.dtype.itemsize > 8:
            raise UsageError(
                f"{self.name}: numbers of type {found.dtype}; save it as 8- or 16-bit integers or 32-bit floats"
            )
        array = found.transpose(1, 2, 0)
        array = np.ascontiguousarray(array if array.dtype == np.uint8 else array.astype(np.float32))
        if array.shape[2] == 1:
            return np.repeat(array, 3, axis=2)
        if array.shape[2] == 2:
            return np.concatenate([array, array.mean(2, keepdims=True).astype(array.dtype)], 2)
        return array


Source = Decoded | Windows


@dataclass(frozen=True)
class Outline:
    """What the header of an image file says: its size, whether it is read by windows, where it lies on the earth."""

    height: int
    width: int
    windowed: bool
    place: GeoReference | None = None


def outline(path: Path, bands: bool, max_pixels: int = MAX_PIXELS, stream: BinaryIO | None = None) -> Outline:
    """Return the outline of an image, from its header.

    Args:
        path: the file.
        bands: whether it is read as bands (`read_bands`) or as a photograph.
        max_pixels: the largest image that is decoded as a whole.
        stream: the file, if it is open already.

    Raises:
        UsageError: the file cannot be read, or has more than `max_pixels` pixels and cannot be read by windows.
    """
    name = shown(path)
    with opened(path, stream) as opened_file:
        head = opened_file.read(HEAD_BYTES)
        kind = sniff(head)[0]
        if kind == "TIFF":
            with _dataset(path) as dataset, one_line(name):
                if dataset is not None:
                    windowed = bool(_kept(dataset, bands))
                    if not windowed:
                        check_size(dataset.height, dataset.width, name, max_pixels)
                    return Outline(dataset.height, dataset.width, windowed, _place(dataset))
        if bands:  # its reader checks it
            if kind == "PNG":
                height, width = int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")
                check_size(height, width, name, max_pixels)
                return Outline(height, width, windowed=False)
            found = read_bands(path, max_pixels, opened_file)
            return Outline(found.shape[0], found.shape[1], windowed=False)
        with one_line(name):
            opened_file.seek(0)
            return Outline(*upright_size(open_image(opened_file, name, max_pixels, IMAGE_FORMATS)), windowed=False)


@contextlib.contextmanager
def open_source(path: Path, bands: bool, channels: int, max_pixels: int = MAX_PIXELS) -> Iterator[Source]:
    """The image in a file as a net of so many channels takes it, `bands` as they are stored or a photograph.

    Raises `UsageError` naming the file.
    """
    found = outline(path, bands, max_pixels)
    if found.windowed:
        with _dataset(path) as dataset:
            with one_line(shown(path)):
                kept = _kept(dataset, bands)
            if max(3, len(kept)) != channels:
                raise UsageError(f"{shown(path)}: {len(kept)} bands, and this net takes {channels}; give such images")
            yield Windows(dataset, shown(path), bands, kept, max_pixels, found.place)
        return
    image: NDArray[Any] = read_bands(path, max_pixels) if bands else read_image(path, max_pixels)
    if image.shape[2] != channels:
        raise UsageError(f"{shown(path)}: {image.shape[2]} bands, and this net takes {channels}; give such images")
    yield Decoded(image, found.place)


@contextlib.contextmanager
def _dataset(path: Path) -> Iterator[Any]:
    """The open TIFF file; None where rasterio is missing or cannot open it: another reader says why then."""
    try:
        import rasterio
    except ImportError:
        yield None
        return
    with contextlib.ExitStack() as stack:
        dataset = None
        with without_warnings(), contextlib.suppress(Exception):  # damaged files raise errors of GDAL and others
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE))
            dataset = stack.enter_context(rasterio.open(path, driver="GTiff", sharing=False))
        yield dataset


def _kept(dataset: Any, bands: bool) -> tuple[int, ...]:
    """The bands that are read by windows, from 1; none for a file that another reader has to decode."""
    colours = [colour.name for colour in dataset.colorinterp]
    tags = dataset.tags()
    if len(set(dataset.dtypes)) > 1 or dataset.subdatasets or tags.get("TIFFTAG_ORIENTATION", "1") != "1":
        return ()
    opaque = tuple(range(1, 1 + (colours.index("alpha") if "alpha" in colours else len(colours))))
    if bands:
        return opaque
    plain = colours in (["gray"], ["red", "green", "blue"])
    return opaque if plain and dataset.dtypes[0] == "uint8" and not _is_inverted(dataset) else ()


def _is_inverted(dataset: Any) -> bool:
    """Whether 0 is white."""
    return bool(dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES")


def _place(dataset: Any) -> GeoReference | None:
    """Where the image lies on the earth, if it says so."""
    if dataset.crs is None and dataset.transform.is_identity:
        return None
    return GeoReference(dataset.crs, dataset.transform)
