"""What the three readers share: records whose values are checked, the images that files name, and the shapes they give.

A value of the wrong kind raises one `UsageError` that names the file and the place in it.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.datasets.annotations.rasterize import Outline, Size
from fullconv.datasets.folder.layouts import EXAMPLES, list_files, spelled
from fullconv.errors import UsageError, shown
from fullconv.io.decoding import MAX_PIXELS, one_line, open_file

MAX_POINTS = 100_000
FAR = 1e9
"""The largest coordinate, in pixels from the corner of the image."""

MAX_LABEL = 200


@dataclass(frozen=True, eq=False, slots=True)
class Shape:
    """One drawn shape. label: None for a region that does not count (a crowd). where: its name in messages."""

    label: str | None
    outline: Outline
    where: str


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """One image and its shapes in the order of painting.

    name: how the annotation calls it. file: the image; the annotation itself if it holds the pixels.
    size: the (height, width) in the annotation.
    """

    name: str
    file: Path
    annotation: Path
    size: Size | None
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, eq=False)
class Annotations:
    """What one reader found. listed: the labels that the file declares, in order; None if it has no list.

    ignored: the number of shapes without an area, by kind.
    """

    images: tuple[AnnotatedImage, ...]
    listed: tuple[str, ...] | None = None
    ignored: Counter[str] = field(default_factory=Counter)


# -- values ------------------------------------------------------------------------------------------------------------


def read_json(path: Path, most_bytes: int) -> AnnotationRecord:
    """Read a JSON file of at most `most_bytes` that holds an object; no object may have a key twice."""
    name = shown(path)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise UsageError(f"{name}: the key '{brief(twice)}' occurs twice in one object; keep one")
        return found

    try:
        text = read_bytes(path, most_bytes).decode("utf-8-sig")
        return AnnotationRecord(json.loads(text, object_pairs_hook=unique), name)
    except UnicodeDecodeError:
        raise UsageError(f"{name}: not UTF-8 text; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise UsageError(f"{name}: {place}: invalid JSON ({shown(error.msg)}); export it again") from None
    except RecursionError:
        raise UsageError(f"{name}: lists nested too deeply; export it again") from None
    except ValueError:  # Python's limit on the digits of an integer
        raise UsageError(f"{name}: a number of thousands of digits; export it again") from None


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """Read a regular file of at most `most_bytes`."""
    with open_file(path) as stream, one_line(shown(path), "file"):
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise UsageError(f"{shown(path)}: more than {most_bytes:,} bytes; divide it into several datasets")
    return content


class AnnotationRecord:
    """An object of a file and its place there; its values are checked when they are asked for.

    Every method but `get` raises `UsageError` for a value of the wrong kind.
    """

    __slots__ = ("data", "where")

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise UsageError(f"{where}: {brief(data)} instead of an object; export it again")
        self.data, self.where = data, where

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value unchecked."""
        return self.data.get(key, default)

    def wrong(self, key: str, wanted: str) -> UsageError:
        """Return the error for a value of the wrong kind."""
        return UsageError(f"{self.where}: '{key}' is {brief(self.get(key))}; it must be {wanted}")

    def entries(self, key: str) -> list[Any]:
        """Return the values in a list."""
        value = self.get(key)
        if not isinstance(value, list):
            raise self.wrong(key, "a list")
        return value

    def records(self, key: str, noun: str) -> Iterator[AnnotationRecord]:
        """Return the objects in a list; messages call them by the noun and their number."""
        return (AnnotationRecord(item, f"{self.where}: {noun} {i}") for i, item in enumerate(self.entries(key)))

    def whole(self, key: str, least: int, most: int) -> int:
        """Return a whole number from `least` to `most`; 640.0 is one."""
        value = self.get(key)
        number = int(value) if isinstance(value, float) and value.is_integer() else value
        if type(number) is not int or not least <= number <= most:
            raise self.wrong(key, f"a whole number from {least} to {most}")
        return number

    def size(self, height: str = "height", width: str = "width") -> Size:
        """Return the (height, width) of an image."""
        size = self.whole(height, 1, MAX_PIXELS), self.whole(width, 1, MAX_PIXELS)
        if size[0] * size[1] > MAX_PIXELS:
            pixels = f"{size[0]}x{size[1]} pixels, above the limit of {MAX_PIXELS:,}"
            raise UsageError(f"{self.where}: {pixels}; make it smaller")
        return size

    def label(self, key: str = "label") -> str:
        """Return the name of a class."""
        value = self.get(key)
        if not isinstance(value, str) or not value.strip() or len(value) > MAX_LABEL or not value.isprintable():
            raise self.wrong(key, f"a name of 1 to {MAX_LABEL} printable characters")
        return value

    def identifier(self, key: str) -> int | str:
        """Return an id."""
        value = self.get(key)
        if type(value) not in (int, str):
            raise self.wrong(key, "a whole number")
        return value


def points_of(flat: list[Any], where: str, least: int = 3) -> NDArray[np.float64]:
    """Return the points (n, 2) of the coordinates x, y, x, y, ...; at least `least` of them."""
    if not set(map(type, flat)) <= {int, float}:
        stray = next(value for value in flat if type(value) not in (int, float))
        raise UsageError(f"{where}: {brief(stray)} instead of a coordinate; draw the shape again")
    if len(flat) % 2 or not 2 * least <= len(flat) <= 2 * MAX_POINTS:
        count = f"{len(flat) / 2:g} points"
        raise UsageError(f"{where}: {count} instead of {least} to {MAX_POINTS:,}; draw the shape again")
    try:
        points = np.array(flat, np.float64).reshape(-1, 2)
    except OverflowError:  # an integer of hundreds of digits
        points = np.full((1, 2), np.inf)
    if not (np.abs(points) <= FAR).all():  # NaN too
        stray = next(value for value in flat if not abs(value) <= FAR)
        raise UsageError(f"{where}: the coordinate {brief(stray)} is in no image; draw the shape again")
    return points


def brief(value: Any) -> str:
    """Return a value in a few words.

    >>> brief([1, 2]), brief(None), brief("x" * 99)[-6:]
    ('a list', 'null', 'xxx...')
    """
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "an object"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = str(value)
    return shown(text if len(text) <= 60 else text[:57] + "...")


# -- files -------------------------------------------------------------------------------------------------------------


def base_name(name: str) -> str:
    r"""Return the last part of a path of any system.

    >>> base_name("C:\\photos\\a.jpg"), base_name("../images/a.jpg")
    ('a.jpg', 'a.jpg')
    """
    return name.replace("\\", "/").rsplit("/", 1)[-1]


class ImageFiles:
    """The images that annotations name, each in the first of some folders that has it.

    needed: whether a missing image is an error.
    """

    def __init__(self, folders: Iterable[Path], needed: bool) -> None:
        self.folders, self.needed = tuple(folders), needed
        self.files = [{spelled(f.name): f for f in list_files(folder)} for folder in self.folders]
        self.missing: list[str] = []
        self.used: dict[Path, str] = {}

    def find(self, record: AnnotationRecord, key: str, below: str = "") -> tuple[str, Path] | None:
        """Return the name and file of the image that a record names; None, and remember it, if there is none.

        below: a folder that the name may be in. Raises `UsageError` for a name that leads out of the folders and for
        an image that was found before.
        """
        name = record.get(key)
        if not isinstance(name, str) or not name:
            raise record.wrong(key, "the name of an image")
        plain = name.replace("\\", "/").removeprefix("./")
        parts = plain.split("/")
        if ".." in parts or not parts[0] or re.match("[A-Za-z]:", plain) or "\0" in plain:
            what = f"the file name '{brief(name)}' leads out of the dataset"
            raise UsageError(f"{record.where}: {what}; name a file in it")
        for relative in dict.fromkeys([plain, f"{below}/{plain}" if below else plain, parts[-1]]):
            for folder, files in zip(self.folders, self.files, strict=True):
                path = files.get(spelled(relative)) if "/" not in relative else folder / relative
                if path and os.path.isfile(path):  # noqa: PTH113 - unlike Path.is_file, not an error for a long name
                    self.use(path, record.where)
                    return plain, path
        self.missing.append(brief(name))
        return None if self.needed else (plain, Path(plain))

    def use(self, path: Path, where: str) -> None:
        """Remember a file; raise `UsageError` if it was used before."""
        if path in self.used:
            what = f"the image {shown(path.name)} occurs twice ({self.used[path]})"
            raise UsageError(f"{where}: {what}; keep one of them")
        self.used[path] = where.rsplit(": ", 1)[-1]

    def check(self, name: str) -> None:
        """Raise `UsageError` if images that an annotation file names are missing."""
        if self.missing and self.needed:
            count, some = len(self.missing), ", ".join(self.missing[:EXAMPLES])
            places = ", ".join(shown(folder) for folder in self.folders) or "no folder of images"
            raise UsageError(
                f"{name}: {count} image{'' if count == 1 else 's'} not found in {places} "
                f"({some}{', ...' if count > EXAMPLES else ''}); add the files or remove their entries"
            )


def unique_names(images: Sequence[AnnotatedImage]) -> list[str]:
    """Return a name for each image: its stem, or with its folders if two images have one stem."""
    paths = [image.name.replace("\\", "/") for image in images]
    for parts in ([base_name(path) for path in paths], [path.replace("/", "_") for path in paths]):
        names = [Path(part).stem or part for part in parts]
        if len(set(names)) == len(names):
            return names
    twice = Counter(names).most_common(1)[0][0]
    same = [image for image, name in zip(images, names, strict=True) if name == twice]
    pair = " and ".join(brief(image.name) for image in same[:2])
    raise UsageError(f"{shown(same[0].annotation)}: images of the same name ({pair}); rename one of them")
