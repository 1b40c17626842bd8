"""Label files written row by row, from top to bottom: no more of them is in memory than what is written at a time.

A file appears under its name when it is whole, or not at all: until then it has a short name beside it.
"""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import RunError, UsageError, shown
from fullconv.io.windowed import GeoReference
from fullconv.labels import LabelSpace
from fullconv.warnings import without_warnings

LEVEL = 4
"""Of zlib: labels have long runs, which higher levels make hardly smaller."""

CHUNK = 1 << 20
"""Compressed bytes of one IDAT chunk, about."""

AT_A_TIME = 1 << 22
"""Pixels that are compressed at a time."""


class RowWriter(Protocol):
    """A file that takes rows of labels in their order; a context manager, at whose end the file is there."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the file its name; or, after an error, leave nothing."""

    def write(self, labels: NDArray[np.integer]) -> None:
        """The next rows, (rows, width)."""


def row_writer(path: Path, height: int, width: int, labels: LabelSpace, place: GeoReference | None = None) -> RowWriter:
    """The writer for the suffix of `path`: ``.png`` as `write_label` writes them, ``.tif`` with their place."""
    if path.suffix == ".tif":
        return TiffRows(path, height, width, labels, place)
    return PngRows(path, height, width, labels)


class _Rows:
    """What both have in common: the name, and how it is given."""

    def __init__(self, path: Path, height: int, width: int, labels: LabelSpace) -> None:
        self.path, self.height, self.width, self.labels = path, height, width, labels
        self.temporary = path.parent / f".fullconv-{os.getpid()}-{secrets.token_hex(4)}.tmp"
        self.kind = np.dtype(np.uint8 if len(labels) <= 256 else np.uint16)
        self.done = 0

    def __enter__(self) -> Self:
        try:
            self._begin()
        except Exception as error:
            self._remove()
            raise self._failed(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end()
            if kind is None:
                assert self.done == self.height, (self.done, self.height)
                self.temporary.replace(self.path)
        except Exception as error:
            if kind is None:
                raise self._failed(error) from error
        finally:
            self._remove()

    def write(self, labels: NDArray[np.integer]) -> None:
        """The next rows, (rows, width)."""
        if labels.shape[1] != self.width or self.done + len(labels) > self.height:
            raise UsageError(f"{shown(self.path)}: rows of shape {labels.shape}; give those of {self.width} pixels")
        try:
            self._write(np.ascontiguousarray(labels, self.kind))
        except Exception as error:
            raise self._failed(error) from error
        self.done += len(labels)

    def _begin(self) -> None:
        raise NotImplementedError

    def _write(self, labels: NDArray[Any]) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError

    def _failed(self, error: Exception) -> RunError:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        return RunError(
            f"{shown(self.path)}: cannot be written ({reason}); check the folder, its permissions and the space left"
        )

    def _remove(self) -> None:
        with suppress(OSError):  # it is there only when something failed
            self.temporary.unlink()


class PngRows(_Rows):
    """A PNG of class indices: 8 bits with the palette, or 16-bit gray for more than 256 classes."""

    file: BinaryIO | None = None

    def _begin(self) -> None:
        self.file = self.temporary.open("wb")
        self.packer = zlib.compressobj(LEVEL)
        self.packed = bytearray()
        palette = self.kind == np.uint8
        self.file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", self.width, self.height, 8 * self.kind.itemsize,
                                         3 if palette else 0, 0, 0, 0))  # fmt: skip
        if palette:
            self._chunk(b"PLTE", bytes(self.labels.flat_palette()))

    def _write(self, labels: NDArray[Any]) -> None:
        step = max(1, AT_A_TIME // self.width)
        for top in range(0, len(labels), step):
            wide = labels[top : top + step].astype(self.kind.newbyteorder(">"))
            lines = np.zeros((len(wide), 1 + self.kind.itemsize * self.width), np.uint8)  # filter: none
            lines[:, 1:] = wide.view(np.uint8).reshape(len(wide), -1)
            self.packed += self.packer.compress(lines.tobytes())
            if len(self.packed) >= CHUNK:
                self._chunk(b"IDAT", self.packed)
                self.packed = bytearray()

    def _end(self) -> None:
        if self.file is not None:
            with self.file:
                self._chunk(b"IDAT", self.packed + self.packer.flush())
                self._chunk(b"IEND", b"")

    def _chunk(self, kind: bytes, content: bytes | bytearray) -> None:
        assert self.file is not None
        self.file.write(struct.pack(">I", len(content)) + kind)
        self.file.write(content)
        self.file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))


class TiffRows(_Rows):
    """A GeoTIFF of class indices in the place of its image, with the palette as its colour table and void as nodata."""

    dataset: Any = None

    def __init__(self, path: Path, height: int, width: int, labels: LabelSpace, place: GeoReference | None) -> None:
        super().__init__(path, height, width, labels)
        self.place = place

    def _begin(self) -> None:
        try:
            import rasterio
        except ImportError:
            raise UsageError(
                f"{shown(self.path)}: rasterio is missing, which writes TIFF; pip install 'fullconv[geo]', or give "
                "--format png"
            ) from None
        void = self.labels.ignore_index
        where: dict[str, Any] = {} if self.place is None else {"crs": self.place.crs, "transform": self.place.transform}
        with without_warnings():  # a file without a place is wanted, too
            self.dataset = rasterio.open(
                self.temporary, "w", driver="GTiff", height=self.height, width=self.width, count=1,
                dtype=self.kind.name, nodata=void if 0 <= void < 256**self.kind.itemsize else None,
                tiled=True, blockxsize=256, blockysize=256,
                compress="deflate", BIGTIFF="IF_SAFER", **where,
            )  # fmt: skip
        if self.kind == np.uint8:
            flat = list(self.labels.flat_palette())
            colours = [(*flat[3 * k : 3 * k + 3], 255) for k in range(len(flat) // 3)]
            self.dataset.write_colormap(1, dict(enumerate(colours)))
        self.dataset.set_band_description(1, "class")

    def _write(self, labels: NDArray[Any]) -> None:
        self.dataset.write(labels, 1, window=((self.done, self.done + len(labels)), (0, self.width)))

    def _end(self) -> None:
        if self.dataset is not None:
            self.dataset.close()
