"""What the three readers share: JSON as plain data, checks of its values, the files that are named in it, and what
they give: the drawings of a split, with their labels still in words.

A value of the wrong kind is one `UsageError` that names the file and the place in it.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.datasets.annotations.rasterize import Outline, Size
from fullconv.datasets.folder.layouts import EXAMPLES
from fullconv.errors import UsageError, shown
from fullconv.io.decoding import MAX_PIXELS, open_file

MAX_POINTS = 100_000
FAR = 1e9
"""A coordinate is at most this many pixels away from the corner of its image."""

MAX_LABEL = 200


@dataclass(frozen=True, eq=False, slots=True)
class Shape:
    """One drawn shape. label: its name as it was written, None for a region that counts for nothing (a crowd).

    where: what it is called in messages.
    """

    label: str | None
    outline: Outline
    where: str


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """One annotated image: its shapes in the order in which they are painted, and the size (H, W) that was noted.

    image: its file; the annotation file itself when the picture is inside. relative: what the file is called.
    """

    relative: str
    image: Path
    annotation: Path
    size: Size | None
    marks: tuple[Shape, ...]


@dataclass(frozen=True, eq=False)
class Drawings:
    """What one reader found. listed: the labels that the file itself declares, in order; None where it has no list.

    ignored: how many shapes of each kind were left out, for they have no area.
    """

    drawn: tuple[AnnotatedImage, ...]
    listed: tuple[str, ...] | None = None
    ignored: Counter[str] = field(default_factory=Counter)


# -- JSON --------------------------------------------------------------------------------------------------------------


def read_json(path: Path, most: int) -> Any:
    """The value in a JSON file of at most `most` bytes; no key may stand twice in an object.

    Raises `UsageError` with line and column where it is broken.
    """
    name = shown(path)
    content = read_bytes(path, most)
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError:
        raise UsageError(f"{name}: no UTF-8 text; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise UsageError(f"{name}: {place}: no valid JSON ({shown(error.msg)}); export it again") from None
    except RecursionError:
        raise UsageError(f"{name}: lists nested too deeply; export it again") from None
    except _TwiceError as error:
        raise UsageError(f"{name}: the key '{brief(error.args[0])}' stands twice in one object; keep one") from None
    except ValueError:  # Python's limit on the digits of a whole number
        raise UsageError(f"{name}: a number of thousands of digits; export it again") from None


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes."""
    with open_file(path) as stream:
        try:
            content = stream.read(most + 1)
        except OSError as error:
            raise UsageError(f"{shown(path)}: cannot be read ({error.strerror}); check the file") from error
    if len(content) > most:
        raise UsageError(f"{shown(path)}: more than {most:,} bytes; divide it into several data sets")
    return content


class _TwiceError(Exception):
    """A key that stands twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1))
    return found


# -- values ------------------------------------------------------------------------------------------------------------


def brief(value: Any) -> str:
    """A value in a few words.

    >>> brief([1, 2]), brief(None), brief("x" * 99)[-6:]
    ('a list', 'null', 'xxx...')
    """
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "an object"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = str(value)
    return shown(text if len(text) <= 60 else text[:57] + "...")


def wrong(where: str, what: str, value: Any, wanted: str) -> UsageError:
    """The error on a value of the wrong kind."""
    return UsageError(f"{where}: '{what}' is {brief(value)}; it must be {wanted}")


def items(data: Any, key: str, where: str) -> list[Any]:
    """The list under a key of an object."""
    value = mapping(data, where).get(key)
    if not isinstance(value, list):
        raise wrong(where, key, value, "a list")
    return value


def mapping(data: Any, where: str) -> dict[str, Any]:
    """An object, as such."""
    if not isinstance(data, dict):
        raise UsageError(f"{where}: {brief(data)} in place of an object; export it again")
    return data


def whole(value: Any, what: str, where: str, least: int, most: int) -> int:
    """A whole number from `least` to `most`; 640.0 is one."""
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise wrong(where, what, value, f"a whole number from {least} to {most}")
    return number


def size_of(height: Any, width: Any, where: str) -> Size:
    """The size (H, W) of an image as noted in a file."""
    size = whole(height, "height", where, 1, MAX_PIXELS), whole(width, "width", where, 1, MAX_PIXELS)
    if size[0] * size[1] > MAX_PIXELS:
        raise UsageError(f"{where}: {size[0]}x{size[1]} pixels, above the limit of {MAX_PIXELS:,}; make it smaller")
    return size


def label_of(value: Any, where: str) -> str:
    """A label: a word that can be printed."""
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_LABEL or not value.isprintable():
        raise wrong(where, "label", value, f"a name of 1 to {MAX_LABEL} printable characters")
    return value


def ring_of(flat: list[Any], where: str, least: int = 3) -> NDArray[np.float64]:
    """The points (n, 2) of x, y, x, y, ...; at least so many."""
    if not set(map(type, flat)) <= {int, float}:
        stray = next(value for value in flat if type(value) not in (int, float))
        raise UsageError(f"{where}: {brief(stray)} in place of a coordinate; draw the shape again")
    if len(flat) % 2 or not 2 * least <= len(flat) <= 2 * MAX_POINTS:
        count = f"{len(flat) / 2:g} points"
        raise UsageError(f"{where}: {count} in place of {least} to {MAX_POINTS:,}; draw the shape again")
    try:
        points = np.array(flat, np.float64).reshape(-1, 2)
    except OverflowError:
        points = np.full((1, 2), np.inf)
    if not (np.abs(points) <= FAR).all():  # NaN too
        stray = next(value for value in flat if not abs(value) <= FAR)
        raise UsageError(f"{where}: the coordinate {brief(stray)} is in no image; draw the shape again")
    return points


# -- files -------------------------------------------------------------------------------------------------------------


def listing(folder: Path) -> dict[str, Path]:
    """The files of a folder by name, in order, accents in one spelling; hidden ones are not meant."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and not e.is_dir())
    except OSError as error:
        raise UsageError(f"{shown(folder)}: cannot be listed ({error.strerror}); check its permissions") from error
    return {spelled(name): folder / name for name in names}


def spelled(name: str) -> str:
    """One spelling of accents: some systems store them composed, others decomposed."""
    return unicodedata.normalize("NFC", name)


def base_name(name: str) -> str:
    r"""The last part of a path in the manner of any system.

    >>> base_name("C:\\photos\\a.jpg"), base_name("../images/a.jpg")
    ('a.jpg', 'a.jpg')
    """
    return name.replace("\\", "/").rsplit("/", 1)[-1]


class Images:
    """Where the images named in a file lie: the first of some folders that has them; `needed`: whether they must be."""

    def __init__(self, folders: Sequence[Path], needed: bool) -> None:
        self.folders, self.needed = folders, needed
        self.files = [listing(folder) for folder in folders]
        self.missing: list[str] = []
        self.seen: dict[Path, str] = {}

    def find(self, name: Any, where: str, below: str = "") -> tuple[str, Path] | None:
        """The name and file of one image; None, and remembered, when there is none. `below`: a folder it may be in.

        Raises `UsageError` for a name that leads out of the folders and for an image that was found already.
        """
        if not isinstance(name, str) or not name:
            raise wrong(where, "file name", name, "the name of an image")
        plain = name.replace("\\", "/").removeprefix("./")
        parts = plain.split("/")
        if ".." in parts or not parts[0] or re.match("[A-Za-z]:", plain) or "\0" in plain:
            raise UsageError(f"{where}: the file name '{brief(name)}' leads out of the data set; name a file in it")
        tries = [plain, f"{below}/{plain}", parts[-1]] if below else [plain, parts[-1]]
        for relative in dict.fromkeys(tries):
            for folder, files in zip(self.folders, self.files, strict=True):
                path = files.get(spelled(relative)) if "/" not in relative else _file(folder / relative)
                if path is not None:
                    self.once(path, where)
                    return plain, path
        self.missing.append(brief(name))
        return None if self.needed else (plain, Path(plain))

    def once(self, path: Path, where: str) -> None:
        """Remember a file; `UsageError` when it was there before."""
        if path in self.seen:
            raise UsageError(
                f"{where}: the image {shown(path.name)} stands twice ({self.seen[path]}); keep one of them"
            )
        self.seen[path] = where.rsplit(": ", 1)[-1]

    def complain(self, name: str) -> None:
        """Raise `UsageError` when images were missing."""
        if self.missing and self.needed:
            count, some = len(self.missing), ", ".join(self.missing[:EXAMPLES])
            places = ", ".join(shown(folder) for folder in self.folders) or "no folder of images"
            raise UsageError(
                f"{name}: {count} image{'' if count == 1 else 's'} not found in {places} "
                f"({some}{', ...' if count > EXAMPLES else ''}); add the files or take out their entries"
            )


def _file(path: Path) -> Path | None:
    try:
        return path if path.is_file() else None
    except (OSError, ValueError):  # a name too long, or no name at all
        return None


def names_of(drawn: Sequence[AnnotatedImage]) -> list[str]:
    """A name for each image: its stem, or with its folders where stems are borne twice.

    Raises `UsageError` when names still are not distinct.
    """
    plain = [(base_name(d.relative), d.relative.replace("\\", "/")) for d in drawn]
    names = [_stem(last) for last, _ in plain]
    if len(set(names)) < len(names):
        names = [_stem(path.replace("/", "_")) for _, path in plain]
    count = Counter(names)
    twice = [d for d, name in zip(drawn, names, strict=True) if count[name] > 1]
    if twice:
        pair = " and ".join(brief(d.relative) for d in twice[:2])
        raise UsageError(f"{shown(twice[0].annotation)}: images of the same name ({pair}); rename one of them")
    return names


def _stem(name: str) -> str:
    return Path(name).stem or name
