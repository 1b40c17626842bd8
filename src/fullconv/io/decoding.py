"""Between the bytes of a file and the decoders: which file is opened, which decoder is called, how it may fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from fullconv.errors import UsageError, shown
from fullconv.io.formats import HEAD_BYTES, sniff
from fullconv.warnings import without_warnings

MAX_PIXELS = 178_000_000
"""The largest image that is decoded unless told otherwise: 178 megapixels, 534 MB of RGB."""

ORIENTATION = 0x0112
"""The EXIF tag of the orientation; its eight values say how the stored rows and columns are to be shown."""

# A decoder is called by its own class: no list of plugins is searched, and nobody's global limit has to be changed.
# The class for JPEG reads the main picture of a multi-picture file (phones append a depth or gain map) as an ordinary
# JPEG.
_DECODERS: dict[str, Callable[..., ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "PPM": PpmImageFile,
    "GIF": GifImageFile,
}


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file. A pipe or a device would block for ever, a folder is a mistake of the caller."""
    try:
        file = Path(path)
        if file.is_dir():
            raise UsageError(f"{shown(path)}: a folder, not a file; give the file itself")
        if file.exists() and not file.is_file():
            raise UsageError(f"{shown(path)}: not a regular file; give the path of a file")
        return file.open("rb")
    except FileNotFoundError as error:
        raise UsageError(f"{shown(path)}: no such file; check the name") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{shown(path)}: cannot be opened ({reason}); check the file and its permissions") from error


@contextmanager
def opened(path: str | Path, stream: BinaryIO | None) -> Iterator[BinaryIO]:
    """Yield `stream`, which is the open file, from its start; open the file if there is none."""
    if stream is not None:
        stream.seek(0)
        yield stream
    else:
        with open_file(path) as stream:
            yield stream


def open_image(stream: BinaryIO, name: str, max_pixels: int, allowed: tuple[str, ...]) -> ImageFile:
    """The file with its header read and its size checked; no pixel is decoded yet."""
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    kind, what, advice = sniff(head)
    if kind is None:
        raise UsageError(f"{name}: {what}; {advice}")
    if kind not in allowed:
        raise UsageError(f"{name}: {what}, and {kind} changes label values; save the mask as PNG")
    file = _DECODERS[kind](stream, name)
    check_size(file.height, file.width, name, max_pixels)
    if kind == "TIFF" and file.tag_v2.get(277, 1) > len(file.getbands()):  # type: ignore[attr-defined]
        raise UsageError(f"{name}: {file.tag_v2[277]} bands, {_OF_BANDS}")  # type: ignore[attr-defined]
    pages = getattr(file, "n_frames", 1)
    if pages > 1:
        several = f"a {kind} file of {pages} pages" if kind == "TIFF" else f"an animation of {pages} frames"
        raise UsageError(f"{name}: {several}; save the one that you want as a PNG")
    boxes = [tile[1] or (0, 0, 0, 0) for tile in file.tile]
    described = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
    if kind == "TIFF" and described < file.height * file.width:  # the decoder would leave the rest black
        raise UsageError(f"{name}: the image is damaged (strips are missing); copy or download it again")
    return file


def upright_size(file: ImageFile) -> tuple[int, int]:
    """Return the (height, width) of an image as it is shown, with its EXIF orientation applied, from its header."""
    turned = file.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (file.width, file.height) if turned else (file.height, file.width)


def check_size(height: int, width: int, name: str, max_pixels: int) -> None:
    """Refuse what has more than `max_pixels` pixels, with the numbers and the way out."""
    if height * width > max_pixels:
        raise UsageError(
            f"{name}: {height}x{width} is {height * width:,} pixels, above the limit of {max_pixels:,}; "
            "raise --max-pixels if you trust the file"
        )


@contextmanager
def one_line(name: str, kind: str = "image") -> Iterator[None]:
    """Turn whatever a decoder raises into one `UsageError`.

    Damaged files make Pillow raise OSError, SyntaxError, ValueError, struct.error, zlib.error, OverflowError,
    DecompressionBombError and others, so nothing is listed here: a decoder that fails, fails on its file.
    """
    try:
        with without_warnings():
            yield
    except UsageError:
        raise
    except MemoryError as error:
        raise UsageError(f"{name}: there is not enough memory to decode it; make it smaller") from error
    except Exception as error:
        reason = shown(" ".join(str(error).split()))[:120] or type(error).__name__
        if isinstance(error, Image.DecompressionBombError):
            raise UsageError(
                f"{name}: the decoder refuses a picture of this size; convert it to PNG or make it smaller"
            ) from error
        if "unknown pixel mode" in reason:
            raise UsageError(f"{name}: more or other bands than a photograph has, {_OF_BANDS}") from error
        state = "cut short" if "truncated" in reason.lower() else "damaged"
        raise UsageError(f"{name}: the {kind} is {state} ({reason}); copy or download it again") from error


_OF_BANDS = (
    "and this is the place for a photograph; train on a folder of such images (pip install 'fullconv[geo]' reads them)"
)
