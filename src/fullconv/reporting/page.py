"""A page from plain parts: text, tables and pictures in, one HTML file out that asks the network for nothing.

Every text is escaped: names of files and classes come from strangers.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO

from fullconv import __version__
from fullconv.labels import Colour

_NUMBER = re.compile(r"[-+−]?\d[\d,.]*(e[-+]?\d+)?( ?%)?|\d+:\d\d:\d\d|-", re.IGNORECASE)
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def percent(fraction: float | None) -> str:
    """A fraction as the paper prints it: percent with one decimal, no sign; ``-`` for what cannot be computed.

    >>> percent(0.6267), percent(None)
    ('62.7', '-')
    """
    return "-" if fraction is None else f"{100 * fraction:.1f}"


@dataclass(frozen=True)
class Figure:
    """A picture with its words.

    picture: the bytes of a PNG or JPEG; the resolution written in it (96 dots an inch if none) decides how wide it is
    shown. caption: stands below it; may be empty. alt: what it shows, for somebody who cannot see it. narrow: the same
    drawn for the width of a phone, where its letters would else be too small.
    """

    picture: bytes
    caption: str
    alt: str
    narrow: bytes | None = None

    @cached_property
    def size(self) -> tuple[int, int]:
        """(width, height) in CSS pixels. Raises `ValueError` when the bytes are neither PNG nor JPEG."""
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(BytesIO(self.picture), formats=["PNG", "JPEG"]) as picture:
                dots = picture.info.get("dpi", (96, 96))[0] or 96
                return round(picture.width * 96 / dots), round(picture.height * 96 / dots)
        except UnidentifiedImageError:
            raise ValueError(f"figure '{self.alt}': its bytes are no PNG and no JPEG") from None

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return _data(self.picture)

    @property
    def narrow_source(self) -> str | None:
        """The one for a phone, if any."""
        return None if self.narrow is None else _data(self.narrow)


def _data(picture: bytes) -> str:
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode()


@dataclass(frozen=True)
class Gallery:
    """Pictures beside each other, at most so many in a row; fewer where the page is narrow."""

    figures: tuple[Figure, ...]
    columns: int = 3


@dataclass(frozen=True)
class Strip:
    """Views of one thing beside each other, each under its title (its caption), and words for all of them. Where the
    page is narrow they stand two in a row, the first of an odd number alone above the others.
    """

    views: tuple[Figure, ...]
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column names the row.

    caption: stands above it; may be empty. swatches: a colour for each row, drawn before its name. marked: (row,
    column) of the cells that stand out.

    A column of numbers, and dashes for missing ones, is set flush right:

    >>> Table(("class", "IU"), (("cat", "77.7"), ("dog", "-")), "").numeric
    (False, True)
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    swatches: tuple[Colour, ...] | None = None
    marked: frozenset[tuple[int, int]] = frozenset()

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.rows} - {len(self.header)}
        if widths:
            raise ValueError(
                f"table '{self.caption}': a row of {widths.pop()} cells under a header of {len(self.header)}"
            )
        if self.swatches is not None and len(self.swatches) != len(self.rows):
            raise ValueError(f"table '{self.caption}': {len(self.swatches)} swatches for {len(self.rows)} rows")

    @cached_property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers only."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.header))]
        return tuple(i > 0 and bool(cells) and all(map(_NUMBER.fullmatch, cells)) for i, cells in enumerate(columns))


@dataclass(frozen=True)
class Code:
    """Lines to be copied, such as a command."""

    text: str
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs (parted by empty lines; may be none), and the parts that follow them."""

    heading: str
    text: str = ""
    parts: tuple[Figure | Table | Gallery | Strip | Code, ...] = ()

    @property
    def paragraphs(self) -> list[str]:
        """The text, paragraph by paragraph."""
        return _paragraphs(self.text)


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def render(title: str, lead: str, sections: Sequence[Section], facts: Mapping[str, str]) -> str:
    """The page: a title, what it comes to (`lead`), the few facts to remember, then the sections.

    facts: what a number is -> the number, shown large in one row. The result holds no script and no address outside
    itself, and can be encoded in UTF-8 whatever the texts were: what cannot be printed is shown as U+FFFD.

    >>> "&lt;b&gt;" in render("<b>", "It works.", [Section("Numbers")], {"mean IU": "62.7 %"})
    True
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fullconv", "reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(
        title=title,
        lead=_paragraphs(lead),
        sections=[(section, [(type(part).__name__, part) for part in section.parts]) for section in sections],
        facts=dict(facts),
        version=__version__,
    )
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", page)
