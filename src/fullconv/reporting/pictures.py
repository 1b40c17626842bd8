"""Pictures beside each other, and labels in their colours: what is drawn by placing pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fullconv.data.dataset import Image as Pixels
from fullconv.data.dataset import photograph
from fullconv.errors import UsageError
from fullconv.io import image as images
from fullconv.labels import LabelSpace
from fullconv.reporting.regions import widened

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFont import FreeTypeFont

Picture = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""

DENSITY = 2
"""Pixels of a figure for each CSS pixel (of 1/96 inch) that it takes on a page."""

INK = "#767b82"  # contrast 4.3 with white and 4.4 with the dark page


def colour_label(label: NDArray[np.integer], labels: LabelSpace) -> Picture:
    """The label (H, W) in the colours of its classes, void in `labels.void_colour`: (H, W, 3) uint8.

    Raises `UsageError` for a value that is neither a class nor void.

    >>> colour_label(np.array([[1, 255]]), LabelSpace.of(["background", "cell"])).tolist()
    [[[128, 0, 0], [224, 224, 192]]]
    """
    void = label == labels.ignore_index
    wrong = ~void & ((label < 0) | (label >= len(labels)))
    if wrong.any():
        raise UsageError(
            f"figures: the label holds {label[wrong][0]}, outside the {len(labels)} classes; check the label space"
        )
    palette = np.array([*labels.palette, labels.void_colour], dtype=np.uint8)
    return palette[np.where(void, len(labels), label)]


def seen(image: Pixels) -> Picture:
    """What there is to look at of any image, as (H, W, 3): one channel is gray, a fourth is left out."""
    pixels = photograph(image)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels[:, :, :1], 3, axis=2)


def over_gray(image: Picture, label: NDArray[np.integer], labels: LabelSpace) -> Picture:
    """The classes of a label (H, W) in their colours over the image in gray; background and void are left gray.

    The gray is lifted towards the middle: under it no colour of a class changes its hue, or drowns.
    """
    gray = (48 + 0.7 * (image @ np.array([0.299, 0.587, 0.114]))).astype(np.uint8)
    return images.overlay(np.repeat(gray[:, :, None], 3, axis=2), label, labels, 0.7)


def outlined(image: Picture, mask: NDArray[np.bool_], width: int) -> Picture:
    """The image with a mask (H, W) in its own light, the rest dimmed, and a yellow line between them.

    width: CSS pixels that the image is shown wide, for the line.

    >>> outlined(np.full((1, 3, 3), 100, np.uint8), np.array([[True, False, False]]), 5)[0].tolist()
    [[100, 100, 100], [255, 221, 0], [45, 45, 45]]
    """
    line = max(1, round(1.5 * image.shape[1] / width))
    found = (image * np.where(mask, 1, 0.45)[..., None]).astype(np.uint8)
    found[widened(mask, line) & ~mask] = (255, 221, 0)
    return found


def view(picture: Picture, width: int) -> bytes:
    """A picture to be shown `width` CSS pixels wide: a PNG, or a JPEG where that is smaller (a photograph).

    >>> view(np.zeros((4, 4, 3), np.uint8), 8)[1:4]
    b'PNG'
    """
    shown = _at_width(picture, width * DENSITY)
    photo = BytesIO()
    shown.save(photo, format="JPEG", quality=90, subsampling=0, dpi=(96 * DENSITY, 96 * DENSITY))
    return min(_png(shown), photo.getvalue(), key=len)


def side_by_side(rows: Sequence[Sequence[Picture]], titles: Sequence[str] = (), width: int = 736) -> bytes:
    """A grid of pictures, image | truth | prediction ..., under the titles of its columns: the paper's figure 4.

    rows: pictures (H, W, 3) uint8 RGB, the same number in each row; sizes may differ, all are shown equally wide.
    width: of the whole, in CSS pixels; small pictures are enlarged without blur, so that their pixels can be seen.
    """
    from PIL import Image, ImageDraw

    columns = {len(row) for row in rows}
    if len(columns) != 1 or 0 in columns or (titles and len(titles) not in columns):
        raise UsageError(
            f"figures: rows of {sorted(columns)} pictures under {len(titles)} titles; give as many in each row"
        )
    (count,) = columns
    gap = 8 * DENSITY
    cell = (width * DENSITY - gap * (count - 1)) // count
    grid = [[_at_width(picture, cell) for picture in row] for row in rows]
    heights = [max(picture.height for picture in row) for row in grid]
    top = 26 * DENSITY if titles else 0
    sheet = Image.new(
        "RGBA", (cell * count + gap * (count - 1), top + sum(heights) + gap * (len(rows) - 1)), (0, 0, 0, 0)
    )
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        font = _font(13 * DENSITY)
        pen.text(
            (column * (cell + gap), top // 2 - 3 * DENSITY),
            _fitting(title, font, cell),
            font=font,
            fill=INK,
            anchor="lm",
        )
    for row, height in zip(grid, heights, strict=True):
        for column, picture in enumerate(row):
            sheet.paste(picture, (column * (cell + gap), top + (height - picture.height) // 2))
        top += height + gap
    return _png(sheet)


def _png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format="PNG", dpi=(96 * DENSITY, 96 * DENSITY))
    return buffer.getvalue()


def _at_width(picture: Picture, width: int) -> Image.Image:
    from PIL import Image

    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
        raise UsageError(
            f"figures: a picture of shape {picture.shape} and type {picture.dtype}; give (H, W, 3) uint8 RGB"
        )
    small = Image.fromarray(np.ascontiguousarray(picture))
    if small.width < width:  # first by a whole factor, pixel for pixel, so that all stay equally large
        times = math.ceil(width / small.width)
        small = small.resize((small.width * times, small.height * times), Image.Resampling.NEAREST)
    return small.resize((width, max(1, round(width * picture.shape[0] / picture.shape[1]))), Image.Resampling.LANCZOS)


def _font(size: int) -> FreeTypeFont:
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _fitting(text: str, font: FreeTypeFont, width: int) -> str:
    """The text, cut at its end until it is no wider than `width` pixels."""
    text = whole = clean(text)
    while text and font.getlength(text) > width:
        text = shortened(whole, len(text) - 1)
    return text


def shortened(text: str, most: int) -> str:
    """The text in at most so many characters, with an ellipsis where it was cut."""
    text = clean(text)
    return text if len(text) <= most else text[: max(0, most - 1)] + "…" if most > 0 else ""


def clean(text: str) -> str:
    """On one line, without characters that no font has."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
