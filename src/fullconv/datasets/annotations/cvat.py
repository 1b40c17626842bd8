"""CVAT: ``annotations.xml`` of "CVAT for images 1.1", read without any feature of XML that reaches outside the file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import cos, radians, sin
from pathlib import Path
from xml.parsers import expat

import numpy as np

from fullconv.datasets.annotations.json import (
    FAR,
    AnnotatedImage,
    Drawings,
    Images,
    Shape,
    brief,
    label_of,
    read_bytes,
    ring_of,
    size_of,
    wrong,
)
from fullconv.datasets.annotations.rasterize import Ellipse, Outline, Rings, Runs, Size
from fullconv.errors import UsageError, shown

MAX_BYTES = 1 << 28
MAX_DEPTH = 40
NO_AREA = ("polyline", "points")
AREAS = ("polygon", "box", "mask", "ellipse")

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)


def read_cvat(path: Path, folders: Sequence[Path], images_needed: bool = True) -> Drawings:
    """The drawings in an ``annotations.xml`` whose images lie in one of the folders.

    Shapes are painted by ``z_order``, those of the same in the order of the file. Raises `UsageError` naming file and
    shape, and for missing images if `images_needed`; a document type (and with it every entity) is refused.
    """
    reader = _Reader(path, Images(folders, images_needed))
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = reader.refuse
    reader.line = lambda: parser.CurrentLineNumber
    try:
        parser.Parse(read_bytes(path, MAX_BYTES), True)
    except expat.ExpatError as error:
        place = f"line {error.lineno} column {error.offset + 1}"
        reason = shown(expat.errors.messages.get(error.code, "broken"))
        raise UsageError(f"{reader.name}: {place}: no valid XML ({reason}); export it again") from None
    except (ValueError, LookupError):
        raise UsageError(f"{reader.name}: an encoding that is not read; save it as UTF-8") from None
    return reader.drawings()


class _Reader:
    """The state while the elements go by."""

    def __init__(self, path: Path, images: Images) -> None:
        self.path, self.name = path, shown(path)
        self.images = images
        self.above: list[str] = []
        self.labels: list[str] = []
        self.word = ""
        self.drawn: list[AnnotatedImage] = []
        self.ignored: Counter[str] = Counter()
        self.where = self.name
        self.number = -1
        self.place: tuple[str, Path] | None = None
        self.size: Size = (1, 1)
        self.marks: list[tuple[int, Shape]] = []
        self.count = 0
        self.line = lambda: 0

    def refuse(self, *_: object) -> None:
        raise UsageError(
            f"{self.name}: line {self.line()}: a document type (DTD), which CVAT does not write; remove it"
        )

    def start(self, tag: str, given: Mapping[str, str]) -> None:
        if not self.above and tag != "annotations":
            raise UsageError(
                f"{self.name}: '{brief(tag)}' in place of CVAT's 'annotations'; export 'CVAT for images 1.1'"
            )
        self.above.append(tag)
        if len(self.above) > MAX_DEPTH:
            raise UsageError(f"{self.name}: line {self.line()}: elements nested too deeply; export it again")
        self.word = ""
        if self.above == ["annotations", "track"]:
            raise UsageError(f"{self.name}: tracks of a video; export it as 'CVAT for images 1.1'")
        if self.above == ["annotations", "image"]:
            self.number += 1
            self.where = f"{self.name}: image {self.number}"
            self.size = size_of(_whole(given, "height", self.where), _whole(given, "width", self.where), self.where)
            subset = given.get("subset", "")
            self.place = self.images.find(given.get("name"), self.where, subset if _is_folder(subset) else "")
            self.marks, self.count = [], 0
        elif self.above[:-1] == ["annotations", "image"] and tag != "tag":
            self.shape(tag, given, f"{self.where}: shape {self.count} ({brief(tag)} '{brief(given.get('label', ''))}')")
            self.count += 1

    def shape(self, tag: str, given: Mapping[str, str], where: str) -> None:
        if tag in NO_AREA:
            self.ignored[tag] += 1
            return
        if tag not in AREAS:
            raise UsageError(f"{where}: the kind '{brief(tag)}' is not read; draw it as a polygon")
        label = label_of(given.get("label"), where)
        order = _whole(given, "z_order", where) if "z_order" in given else 0
        self.marks.append((order, Shape(label, _outline(tag, given, self.size, where), where)))

    def end(self, tag: str) -> None:
        if self.above[-3:] == ["labels", "label", "name"] and self.above[1] == "meta":
            label = label_of(self.word.strip(), f"{self.name}: line {self.line()}")
            if label not in self.labels:
                self.labels.append(label)
        if self.above == ["annotations", "image"] and self.place:
            ordered = sorted(self.marks, key=lambda pair: pair[0])
            self.drawn.append(AnnotatedImage(*self.place, self.path, self.size, tuple(mark for _, mark in ordered)))
        self.above.pop()

    def text(self, text: str) -> None:
        if self.above[-1] == "name":
            self.word += text

    def drawings(self) -> Drawings:
        self.images.complain(self.name)
        if not self.drawn:
            raise UsageError(f"{self.name}: no images; export it as 'CVAT for images 1.1'")
        return Drawings(tuple(self.drawn), tuple(self.labels) or None, self.ignored)


def _outline(tag: str, given: Mapping[str, str], size: Size, where: str) -> Outline:
    if tag == "polygon":
        return Rings((ring_of(_coordinates(given.get("points", ""), where), where),))
    if tag == "mask":
        return _mask(given, size, where)
    turn = _number(given["rotation"], "rotation", where) if "rotation" in given else 0.0
    keys = ("xtl", "ytl", "xbr", "ybr") if tag == "box" else ("cx", "cy", "rx", "ry")
    a, b, c, d = (_number(given.get(key, ""), key, where) for key in keys)
    if (c < a or d < b) if tag == "box" else (c < 0 or d < 0):
        raise UsageError(f"{where}: a {tag} of negative size; draw it again")
    if tag == "ellipse":
        return Ellipse(a, b, c, d, turn)
    corners = np.array([[a, b], [c, b], [c, d], [a, d]])
    if turn:
        middle, angle = corners.mean(axis=0), radians(turn)
        corners = (corners - middle) @ np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]]) + middle
    return Rings((corners,))


def _mask(given: Mapping[str, str], size: Size, where: str) -> Runs:
    top, left, height, width = (_whole(given, key, where) for key in ("top", "left", "height", "width"))
    if top < 0 or left < 0 or height < 0 or width < 0 or top + height > size[0] or left + width > size[1]:
        box = f"{height}x{width} at x={left} y={top}"
        raise UsageError(f"{where}: a mask of {box} on an image of {size[0]}x{size[1]}; export it again")
    texts = given.get("rle", "").split(",")
    if not all(re.fullmatch(r"\s*\d{1,12}\s*", text, re.ASCII) for text in texts):
        raise wrong(where, "rle", given.get("rle", ""), "whole numbers with commas between them")
    counts = np.array([int(text) for text in texts], np.int64)
    if int(counts.sum()) != height * width:
        raise UsageError(f"{where}: run lengths that do not sum to {height}x{width} pixels; export it again")
    return Runs(top, left, height, width, counts, by_column=False)


def _coordinates(text: str, where: str) -> list[float]:
    flat: list[float] = []
    for pair in text.strip().rstrip(";").split(";"):
        x, comma, y = pair.partition(",")
        if not comma:
            raise UsageError(f"{where}: '{brief(pair)}' in place of a point; a point is x,y")
        flat += _number(x, "points", where), _number(y, "points", where)
    return flat


def _number(text: str, what: str, where: str) -> float:
    if not _NUMBER.fullmatch(text) or not abs(float(text)) <= FAR:
        raise wrong(where, what, text, "a number in the image")
    return float(text)


def _whole(given: Mapping[str, str], key: str, where: str) -> int:
    text = given.get(key, "")
    if not re.fullmatch(r"\s*-?\d{1,9}\s*", text, re.ASCII):
        raise wrong(where, key, text, "a whole number")
    return int(text)


def _is_folder(name: str) -> bool:
    return bool(re.fullmatch(r"[\w -]+", name))
