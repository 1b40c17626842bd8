"""CVAT: ``annotations.xml`` of "CVAT for images 1.1", read without any feature of XML that reaches outside the file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import cos, inf, isfinite, radians, sin
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from fullconv.datasets.annotations.json import (
    FAR,
    AnnotatedImage,
    AnnotationRecord,
    Annotations,
    ImageFiles,
    Shape,
    brief,
    points_of,
    read_bytes,
)
from fullconv.datasets.annotations.rasterize import Ellipse, Outline, Rings, Runs, Size
from fullconv.errors import UsageError, shown

MAX_BYTES = 1 << 28
MAX_DEPTH = 40
NO_AREA = ("polyline", "points")
AREAS = ("polygon", "box", "mask", "ellipse")

_TEXTS, _WHOLE = ("label", "name", "points", "rle"), ("height", "width", "top", "left", "z_order")
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)


def read_cvat(path: Path, folders: Sequence[Path], images_needed: bool = True) -> Annotations:
    """Read an ``annotations.xml`` whose images are in one of the folders.

    Shapes are painted by ``z_order``, those of one order as they are in the file. Raises `UsageError` naming the file
    and the shape, and for missing images if `images_needed`; a document type, and with it every entity, is refused.
    """
    name, root = shown(path), _parse(path)
    if root.tag != "annotations":
        what = f"'{brief(root.tag)}' instead of CVAT's 'annotations'"
        raise UsageError(f"{name}: {what}; export 'CVAT for images 1.1'")
    if root.find("track") is not None:
        raise UsageError(f"{name}: tracks of a video; export it as 'CVAT for images 1.1'")
    images, ignored, found = ImageFiles(folders, images_needed), Counter[str](), []
    for i, element in enumerate(root.iterfind("image")):
        image = _record(element, f"{name}: image {i}")
        size, subset, shapes = image.size(), element.get("subset", ""), []
        file = images.find(image, "name", subset if re.fullmatch(r"[\w -]+", subset) else "")
        for k, part in enumerate(part for part in element if part.tag != "tag"):
            where = f"{image.where}: shape {k} ({brief(part.tag)} '{brief(part.get('label', ''))}')"
            if part.tag in NO_AREA:
                ignored[part.tag] += 1
            elif part.tag not in AREAS:
                raise UsageError(f"{where}: the kind '{brief(part.tag)}' is not read; draw it as a polygon")
            else:
                shape = _record(part, where)
                order = shape.whole("z_order", -(10**9), 10**9) if "z_order" in shape.data else 0
                shapes.append((order, Shape(shape.label(), _outline(part.tag, shape, size), where)))
        if file:
            ordered = sorted(shapes, key=lambda pair: pair[0])
            found.append(AnnotatedImage(*file, path, size, tuple(shape for _, shape in ordered)))
    images.check(name)
    if not found:
        raise UsageError(f"{name}: no images; export it as 'CVAT for images 1.1'")
    listed = [
        AnnotationRecord({"name": (element.text or "").strip()}, f"{name}: label {i}").label("name")
        for i, element in enumerate(root.iterfind("meta//labels/label/name"))
    ]
    return Annotations(tuple(found), tuple(dict.fromkeys(listed)) or None, ignored)


def _parse(path: Path) -> Element:
    """Return the root of an XML document without a document type, of elements nested at most `MAX_DEPTH` deep."""
    name, builder, parser = shown(path), TreeBuilder(), expat.ParserCreate()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise UsageError(f"{name}: line {parser.CurrentLineNumber}: elements nested too deeply; export it again")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        what = "a document type (DTD), which CVAT does not write"
        raise UsageError(f"{name}: line {parser.CurrentLineNumber}: {what}; remove it")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(read_bytes(path, MAX_BYTES), True)
    except expat.ExpatError as error:
        place = f"line {error.lineno} column {error.offset + 1}"
        reason = shown(expat.errors.messages.get(error.code, "broken"))
        raise UsageError(f"{name}: {place}: invalid XML ({reason}); export it again") from None
    except (ValueError, LookupError):
        raise UsageError(f"{name}: an encoding that is not read; save it as UTF-8") from None
    return builder.close()


def _record(element: Element, where: str) -> AnnotationRecord:
    """Return the attributes of an element, numbers as numbers."""
    given = element.attrib.items()
    return AnnotationRecord({key: text if key in _TEXTS else _value(text, key in _WHOLE) for key, text in given}, where)


def _value(text: str, whole: bool = False) -> Any:
    """Return the number in a text; the text if it is not a finite number, or not a whole one and that is wanted."""
    if re.fullmatch(r"\s*-?\d{1,9}\s*", text, re.ASCII):
        return int(text)
    number = float(text) if _NUMBER.fullmatch(text) and not whole else inf
    return number if isfinite(number) else text


def _outline(tag: str, shape: AnnotationRecord, size: Size) -> Outline:
    if tag == "polygon":
        flat: list[Any] = []
        for pair in shape.get("points", "").strip().rstrip(";").split(";"):
            point = [_value(text) for text in pair.split(",")]
            if len(point) != 2 or str in map(type, point):
                raise UsageError(f"{shape.where}: '{brief(pair)}' instead of a point; a point is x,y")
            flat += point
        return Rings((points_of(flat, shape.where),))
    if tag == "mask":
        return _mask(shape, size)
    keys = ("xtl", "ytl", "xbr", "ybr") if tag == "box" else ("cx", "cy", "rx", "ry")
    a, b, c, d = (_number(shape, key) for key in keys)
    turn = _number(shape, "rotation") if "rotation" in shape.data else 0.0
    if (c < a or d < b) if tag == "box" else (c < 0 or d < 0):
        raise UsageError(f"{shape.where}: a {tag} of negative size; draw it again")
    if tag == "ellipse":
        return Ellipse(a, b, c, d, turn)
    corners = np.array([[a, b], [c, b], [c, d], [a, d]])
    if turn:
        middle, angle = corners.mean(axis=0), radians(turn)
        corners = (corners - middle) @ np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]]) + middle
    return Rings((corners,))


def _number(shape: AnnotationRecord, key: str) -> float:
    value = shape.get(key)
    if type(value) not in (int, float) or not abs(value) <= FAR:  # NaN too
        raise shape.wrong(key, "a number in the image")
    return float(value)


def _mask(shape: AnnotationRecord, size: Size) -> Runs:
    far = int(FAR)
    top, left, height, width = (shape.whole(key, -far, far) for key in ("top", "left", "height", "width"))
    if top < 0 or left < 0 or height < 0 or width < 0 or top + height > size[0] or left + width > size[1]:
        what = f"a mask of {height}x{width} at x={left} y={top} on an image of {size[0]}x{size[1]}"
        raise UsageError(f"{shape.where}: {what}; export it again")
    texts = shape.get("rle", "").split(",")
    if not all(re.fullmatch(r"\s*\d{1,12}\s*", text, re.ASCII) for text in texts):
        raise shape.wrong("rle", "whole numbers with commas between them")
    counts = np.array([int(text) for text in texts], np.int64)
    if int(counts.sum()) != height * width:
        raise UsageError(f"{shape.where}: run lengths that do not sum to {height}x{width} pixels; export it again")
    return Runs(top, left, height, width, counts, by_column=False)
