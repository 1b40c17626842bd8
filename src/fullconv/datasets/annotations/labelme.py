"""LabelMe: a JSON file beside each image, with its shapes in the order in which they were drawn."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.datasets.annotations.json import (
    AnnotatedImage,
    AnnotationRecord,
    Annotations,
    ImageFiles,
    Shape,
    base_name,
    brief,
    points_of,
    read_json,
)
from fullconv.datasets.annotations.rasterize import Ellipse, Outline, Rings, runs_of
from fullconv.datasets.folder.layouts import IMAGE_SUFFIXES, list_files, spelled
from fullconv.errors import UsageError, shown
from fullconv.io.image import decode_image

MAX_BYTES = 1 << 28
NO_AREA = ("line", "point", "points", "linestrip")


def read_labelme(folder: Path, image_folders: Sequence[Path], images_needed: bool = True) -> Annotations:
    """Read all JSON files of a folder, by name; images are beside them or in `image_folders`.

    An image without a JSON file was not annotated and is left out. Raises `UsageError` naming the file and the shape,
    and for a missing image if `images_needed`.
    """
    images, ignored = ImageFiles(dict.fromkeys((folder, *image_folders)), images_needed), Counter[str]()
    pictures = [(name, file) for files in reversed(images.files) for name, file in files.items()]
    pictures = [(name, file) for name, file in pictures if file.suffix.lower() in IMAGE_SUFFIXES]
    by_name, by_stem = dict(pictures), {Path(name).stem: file for name, file in pictures}
    found = [_read(path, images, by_name, by_stem, ignored) for path in list_files(folder, (".json",))]
    if not found:
        raise UsageError(f"{shown(folder)}: no JSON files of LabelMe; put them there")
    return Annotations(tuple(found), None, ignored)


def embedded_image(path: Path) -> NDArray[np.uint8]:
    """Return the image (H, W, 3), uint8 RGB, that is inside a JSON file (``imageData``)."""
    record = read_json(path, MAX_BYTES)
    return decode_image(_base64(record, "imageData"), f"{record.where} (imageData)")


def _read(
    path: Path, images: ImageFiles, by_name: dict[str, Path], by_stem: dict[str, Path], ignored: Counter[str]
) -> AnnotatedImage:
    record = read_json(path, MAX_BYTES)
    noted, data = record.get("imagePath"), record.get("imageData")
    if not isinstance(noted, str | None):
        raise record.wrong("imagePath", "the name of the image")
    last = spelled(base_name(noted or ""))
    file = by_name.get(last) or by_stem.get(spelled(path.stem)) or path
    if file == path and data is None and images.needed:
        called = f"its image '{brief(last)}'" if last else "its image"
        raise UsageError(f"{record.where}: {called} is not there; put it beside the file")
    if file == path and not isinstance(data, str | None):
        raise record.wrong("imageData", "text in base64")
    images.use(file, record.where)
    unsized = record.get("imageHeight") is None and record.get("imageWidth") is None
    size = None if unsized else record.size("imageHeight", "imageWidth")
    shapes = []
    for shape in record.records("shapes", "shape"):
        kind = shape.get("shape_type")
        if kind in NO_AREA:
            ignored[kind] += 1
        else:
            shapes.append(_shape(shape, "polygon" if kind is None else kind))
    return AnnotatedImage(file.name, file, path, size, tuple(shapes))


def _shape(shape: AnnotationRecord, kind: Any) -> Shape:
    label = shape.label()
    return Shape(label, _outline(AnnotationRecord(shape.data, f"{shape.where} ('{label}')"), kind), shape.where)


def _outline(shape: AnnotationRecord, kind: Any) -> Outline:
    flat: list[Any] = []
    for point in shape.entries("points"):
        if not isinstance(point, list) or len(point) != 2:
            raise UsageError(f"{shape.where}: {brief(point)} instead of a point; a point is [x, y]")
        flat += point
    if kind not in ("polygon", "rectangle", "circle", "mask"):
        raise UsageError(f"{shape.where}: the kind '{brief(kind)}' is not read; draw it as a polygon")
    points = points_of(flat, shape.where, 3 if kind == "polygon" else 2)
    if kind == "polygon" or (kind == "rectangle" and len(points) == 4):
        return Rings((points,))
    if len(points) != 2:
        raise UsageError(f"{shape.where}: a {kind} of {len(points)} points; it has two")
    (x0, y0), (x1, y1) = points.tolist()
    if kind == "rectangle":
        return Rings((np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]),))
    if kind == "circle":
        radius = float(np.hypot(x1 - x0, y1 - y0))
        return Ellipse(x0, y0, radius, radius)
    pixels = decode_image(_base64(shape, "mask"), shape.where)
    return runs_of(pixels[:, :, 0] > 0, False, round(y0), round(x0))


def _base64(record: AnnotationRecord, key: str) -> BytesIO:
    text = record.get(key)
    if not isinstance(text, str):
        raise record.wrong(key, "text in base64")
    try:
        return BytesIO(base64.b64decode(text.split(",", 1)[-1] if text.startswith("data:") else text))
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"{record.where}: '{key}' is not base64 ({shown(error)}); export it again") from None
