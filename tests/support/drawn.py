"""Tiny data sets of polygons in every layout that is read, as plain documents that a test may spoil."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

SIZE = (12, 16)

Shapes = list[tuple[str, list[list[float]]]]

SHAPES: dict[str, Shapes] = {  # of each image, from the largest to the smallest: every tool paints them in this order
    "a": [("cell", [[1, 1], [9.5, 1], [9.5, 8], [1, 8]]), ("wall", [[2, 2], [7, 3], [4, 7]])],
    "b": [("wall", [[-3, 4], [20, 5.5], [8, 30]]), ("void", [[3, 6], [9, 6], [9, 9]])],
    "c": [("wall", [[1, 1], [5, 1], [5, 5]]), ("cell", [[6, 6], [9, 6], [9, 9], [6, 9]])],
}
NONE: Shapes = []


def photo(path: Path, size: tuple[int, int] = SIZE, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(path.name.encode("utf-8", "surrogateescape"))).integers(0, 256, (*size, 3))
    Image.fromarray(noise.astype(np.uint8)).save(path, **options)


def write(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))


def labelme_document(name: str, shapes: Shapes) -> dict[str, object]:
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": [
            {"label": label, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}}
            for label, points in shapes
        ],
        "imagePath": name,
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
    }


def coco_document(drawings: dict[str, Shapes], labels: tuple[str, ...] = ("cell", "wall", "void")) -> dict[str, object]:
    ids = {label: 10 * i + 3 for i, label in enumerate(labels)}
    annotations = [
        {
            "id": 100 * i + j,
            "image_id": i,
            "category_id": ids[label],
            "iscrowd": 0,
            "segmentation": [[float(x) for point in points for x in point]],
        }
        for i, shapes in enumerate(drawings.values())
        for j, (label, points) in enumerate(shapes)
    ]
    images = [
        {"id": i, "file_name": f"{name}.png", "height": SIZE[0], "width": SIZE[1]} for i, name in enumerate(drawings)
    ]
    categories = [{"id": i, "name": label, "supercategory": ""} for label, i in reversed(ids.items())]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def cvat_document(drawings: dict[str, Shapes], labels: tuple[str, ...] = ("cell", "wall")) -> str:
    text = "<?xml version='1.0' encoding='utf-8'?>\n<annotations><version>1.1</version><meta><task><labels>"
    text += "".join(f"<label><name>{label}</name><attributes/></label>" for label in labels)
    text += "</labels></task></meta>"
    for i, (name, shapes) in enumerate(drawings.items()):
        inner = "".join(
            f"<polygon label={quoteattr(label)} z_order='0' points='{';'.join(f'{x},{y}' for x, y in points)}'/>"
            for label, points in shapes
        )
        text += cvat_image(f"{name}.png", inner, i)
    return text + "</annotations>"


def cvat_image(name: str, inner: str, number: int = 0) -> str:
    return f"<image id='{number}' name={quoteattr(name)} width='{SIZE[1]}' height='{SIZE[0]}'>{inner}</image>"


def labelme(root: Path, drawings: dict[str, Shapes] = SHAPES, json_folder: str = "", image_folder: str = "") -> Path:
    for name, shapes in drawings.items():
        photo(root / image_folder / f"{name}.png")
        write(root / json_folder / f"{name}.json", labelme_document(f"{name}.png", shapes))
    return root


def coco(root: Path, file: str, images: str, drawings: dict[str, Shapes] = SHAPES) -> Path:
    for name in drawings:
        photo(root / images / f"{name}.png")
    write(root / file, coco_document(drawings))
    return root


def cvat(
    root: Path, file: str = "annotations.xml", images: str = "images", drawings: dict[str, Shapes] = SHAPES
) -> Path:
    for name in drawings:
        photo(root / images / f"{name}.png")
    write(root / file, cvat_document(drawings))
    return root


TRAIN = {name: SHAPES[name] for name in "ac"}
VAL = {"b": SHAPES["b"]}

# (kind, where the annotations of a split lie, where its images lie)
SPLIT_LAYOUTS = {
    "labelme beside": ("labelme", "{s}", "{s}"),
    "labelme, labels in a split": ("labelme", "{s}/labels", "{s}/images"),
    "labelme, annotations": ("labelme", "annotations/{s}", "images/{s}"),
    "labelme, beside in images": ("labelme", "images/{s}", "images/{s}"),
    "coco official": ("coco", "annotations/instances_{s}2017.json", "{s}2017"),
    "coco": ("coco", "annotations/instances_{s}.json", "images/{s}"),
    "coco short": ("coco", "annotations/{s}.json", "{s}"),
    "coco one folder": ("coco", "annotations/{s}.json", "images"),
    "roboflow": ("coco", "{s}/_annotations.coco.json", "{s}"),
    "cvat": ("cvat", "{s}/annotations.xml", "{s}/images"),
    "cvat, files": ("cvat", "annotations/{s}.xml", "images/{s}"),
}
WHOLE_LAYOUTS = {
    "labelme": ("labelme", "", ""),
    "labelme, labels": ("labelme", "labels", "images"),
    "labelme, images": ("labelme", "images", "images"),
    "coco": ("coco", "annotations.json", "images"),
    "coco beside": ("coco", "_annotations.coco.json", ""),
    "coco of cvat": ("coco", "annotations/instances_default.json", "images/default"),
    "cvat": ("cvat", "annotations.xml", "images"),
    "cvat beside": ("cvat", "annotations.xml", ""),
}


def lay(root: Path, layout: tuple[str, str, str], drawings: dict[str, Shapes], split: str = "train") -> None:
    """One split in one layout."""
    kind, annotations, images = (part.format(s=split) for part in layout)
    copied = copy.deepcopy(drawings)
    if kind == "labelme":
        labelme(root, copied, annotations, images)
    else:
        (coco if kind == "coco" else cvat)(root, annotations, images, copied)
