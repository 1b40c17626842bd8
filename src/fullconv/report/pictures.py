"""Pictures beside each other, and labels in their colours: what is drawn by placing pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import UsageError
from fullconv.labels import LabelSpace

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
