"""LabelMe: a JSON file beside each image, with its shapes in the order in which they were drawn."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.datasets.annotations.json import (
    AnnotatedImage,
    Drawings,
    Shape,
    base_name,
    brief,
    items,
    label_of,
    listing,
    mapping,
    read_json,
    ring_of,
    size_of,
    spelled,
    wrong,
)
from fullconv.datasets.annotations.rasterize import Ellipse, Outline, Rings, runs_of
from fullconv.datasets.folder.layouts import IMAGE_SUFFIXES
from fullconv.errors import UsageError, shown
from fullconv.io.image import decode_image

MAX_BYTES = 1 << 28
NO_AREA = ("line", "point", "points", "linestrip")


def read_labelme(folder: Path, image_folders: Sequence[Path], images_needed: bool = True) -> Drawings:
    """The drawings in all JSON files of a folder, by name; images lie beside them or in `image_folders`.

    An image without a JSON file was not annotated and is left out. `images_needed`: whether a missing image is an
    error. Raises `UsageError` naming file and shape.
    """
    files = [listing(place) for place in dict.fromkeys((folder, *image_folders))]
    by_stem = [
        {Path(name).stem: path for name, path in there.items() if path.suffix.lower() in IMAGE_SUFFIXES}
        for there in files
    ]
    drawn, ignored, seen = [], Counter[str](), dict[Path, Path]()
    for path in listing(folder).values():
        if path.suffix.lower() != ".json":
            continue
        found = _drawn(path, files, by_stem, ignored, images_needed)
        if found.image in seen:
            both = f"{shown(path)}: the image {shown(found.image.name)} belongs to {shown(seen[found.image].name)} too"
            raise UsageError(f"{both}; keep one file for each image")
        seen[found.image] = path
        drawn.append(found)
    if not drawn:
        raise UsageError(f"{shown(folder)}: no JSON files of LabelMe; put them there")
    return Drawings(tuple(drawn), None, ignored)


def embedded_image(path: Path) -> NDArray[np.uint8]:
    """The image (H, W, 3), uint8 RGB, that is inside a JSON file (``imageData``)."""
    name = shown(path)
    data = mapping(read_json(path, MAX_BYTES), name).get("imageData")
    return decode_image(BytesIO(_base64(data, "imageData", name)), f"{name} (imageData)")


def _drawn(
    path: Path,
    files: Sequence[Mapping[str, Path]],
    by_stem: Sequence[Mapping[str, Path]],
    ignored: Counter[str],
    image_needed: bool,
) -> AnnotatedImage:
    name = shown(path)
    data = mapping(read_json(path, MAX_BYTES), name)
    noted = data.get("imagePath")
    if noted is not None and not isinstance(noted, str):
        raise wrong(name, "imagePath", noted, "the name of the image")
    last = spelled(base_name(noted or ""))
    image = next((there[last] for there in files if last in there and last.lower().endswith(IMAGE_SUFFIXES)), None)
    image = image or next((there[spelled(path.stem)] for there in by_stem if spelled(path.stem) in there), None)
    if image is None and data.get("imageData") is None and image_needed:
        called = f"'{brief(last)}' " if last else ""
        raise UsageError(f"{name}: its image {called}is not there; put it beside the file")
    if image is None and not isinstance(data.get("imageData"), str | None):
        raise wrong(name, "imageData", data["imageData"], "text in base64")
    height, width = data.get("imageHeight"), data.get("imageWidth")
    size = None if height is None and width is None else size_of(height, width, name)
    marks = []
    for i, given in enumerate(items(data, "shapes", name)):
        mark = _mark(mapping(given, f"{name}: shape {i}"), f"{name}: shape {i}", ignored)
        if mark:
            marks.append(mark)
    return AnnotatedImage((image or path).name, image or path, path, size, tuple(marks))


def _mark(shape: Mapping[str, Any], where: str, ignored: Counter[str]) -> Shape | None:
    kind = shape.get("shape_type")
    if kind in NO_AREA:
        ignored[kind] += 1
        return None
    label = label_of(shape.get("label"), where)
    return Shape(label, _outline(shape, "polygon" if kind is None else kind, f"{where} ('{label}')"), where)


def _outline(shape: Mapping[str, Any], kind: Any, where: str) -> Outline:
    flat: list[Any] = []
    for point in items(shape, "points", where):
        if not isinstance(point, list) or len(point) != 2:
            raise UsageError(f"{where}: {brief(point)} in place of a point; a point is [x, y]")
        flat += point
    if kind == "polygon":
        return Rings((ring_of(flat, where),))
    if kind not in ("rectangle", "circle", "mask"):
        raise UsageError(f"{where}: the kind '{brief(kind)}' is not read; draw it as a polygon")
    points = ring_of(flat, where, 2)
    if kind == "rectangle" and len(points) == 4:
        return Rings((points,))
    if len(points) != 2:
        raise UsageError(f"{where}: a {kind} of {len(points)} points; it has two")
    (x0, y0), (x1, y1) = points.tolist()
    if kind == "rectangle":
        return Rings((np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]),))
    if kind == "circle":
        radius = float(np.hypot(x1 - x0, y1 - y0))
        return Ellipse(x0, y0, radius, radius)
    pixels = decode_image(BytesIO(_base64(shape.get("mask"), "mask", where)), where)
    return runs_of(pixels[:, :, 0] > 0, False, round(y0), round(x0))


def _base64(text: Any, what: str, where: str) -> bytes:
    if not isinstance(text, str):
        raise wrong(where, what, text, "text in base64")
    try:
        return base64.b64decode(text.split(",", 1)[-1] if text.startswith("data:") else text)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"{where}: '{what}' is no base64 ({shown(error)}); export it again") from None
