"""COCO: one JSON file for a split, with its images, categories and annotations; and COCO's run lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.datasets.annotations.json import (
    AnnotatedImage,
    Drawings,
    Images,
    Shape,
    brief,
    items,
    label_of,
    mapping,
    read_json,
    ring_of,
    size_of,
    whole,
    wrong,
)
from fullconv.datasets.annotations.rasterize import Rings, Runs, Size
from fullconv.errors import UsageError, shown

MAX_BYTES = 1 << 30
_MAX_DIGITS = 7  # characters of one number in compressed run lengths: 35 bits


@dataclass(frozen=True)
class _Category:
    name: str
    above: Any


def read_coco(path: Path, folders: Sequence[Path], images_needed: bool = True) -> Drawings:
    """The drawings in a COCO file whose images lie in one of the folders; an image without annotations has no marks.

    Crowd regions come first, as void; then the shapes by their area, the larger first, so that what is small stays
    visible on what is large. `images_needed`: whether a missing image is an error. Raises `UsageError` naming file and
    annotation.
    """
    name = shown(path)
    data = mapping(read_json(path, MAX_BYTES), name)
    categories = _categories(data, name)
    images = Images(folders, images_needed)
    found: dict[int | str, tuple[str, Path, Size]] = {}
    ids: dict[int | str, Size] = {}
    for i, item in enumerate(items(data, "images", name)):
        where = f"{name}: image {i}"
        entry = mapping(item, where)
        key = _id(entry.get("id"), "id", where)
        if key in ids:
            raise UsageError(f"{where}: the id {brief(key)} stands twice; export it again")
        ids[key] = size_of(entry.get("height"), entry.get("width"), where)
        place = images.find(entry.get("file_name"), where)
        if place:
            found[key] = (*place, ids[key])
    images.complain(name)
    if not found:
        raise UsageError(f"{name}: no images; export it again")
    marks: dict[int | str, list[tuple[tuple[bool, float], list[Shape]]]] = {key: [] for key in ids}
    used: Counter[str] = Counter()
    for i, item in enumerate(items(data, "annotations", name)):
        where = f"{name}: annotation {i}"
        entry = mapping(item, where)
        image, category = _id(entry.get("image_id"), "image_id", where), entry.get("category_id")
        if image not in ids:
            raise UsageError(f"{where}: no image has the id {brief(image)}; export it again")
        kind = categories.get(_id(category, "category_id", where))
        if kind is None:
            raise UsageError(f"{where}: no category has the id {brief(category)}; export it again")
        used[kind.name] += 1
        crowd = bool(whole(int(c) if isinstance(c := entry.get("iscrowd", 0), bool) else c, "iscrowd", where, 0, 1))
        area, drawn = _marks(entry.get("segmentation"), None if crowd else kind.name, ids[image], where)
        marks[image].append(((not crowd, -area), drawn))
    drawings = []
    for key, (relative, file, size) in found.items():
        ordered = sorted(marks[key], key=lambda pair: pair[0])
        drawings.append(
            AnnotatedImage(relative, file, path, size, tuple(mark for _, group in ordered for mark in group))
        )
    return Drawings(tuple(drawings), _listed(categories, used))


def _categories(data: dict[str, Any], name: str) -> dict[int | str, _Category]:
    """The categories in the order of their ids."""
    found: dict[int | str, _Category] = {}
    names: set[str] = set()
    for i, item in enumerate(items(data, "categories", name)):
        where = f"{name}: category {i}"
        entry = mapping(item, where)
        key, label = _id(entry.get("id"), "id", where), label_of(entry.get("name"), where)
        if key in found or label in names:
            raise UsageError(f"{where}: the id {brief(key)} or the name '{label}' stands twice; give each its own")
        found[key] = _Category(label, entry.get("supercategory"))
        names.add(label)
    return dict(sorted(found.items(), key=lambda pair: (isinstance(pair[0], str), pair[0])))


def _listed(categories: dict[int | str, _Category], used: Counter[str]) -> tuple[str, ...]:
    """The names of the categories, without one that only stands above others (Roboflow writes such a one)."""
    kinds = categories.values()
    above = {kind.name for kind in kinds if any(kind.name == k.above for k in kinds if k is not kind)}
    return tuple(kind.name for kind in kinds if used[kind.name] or kind.name not in above)


def _id(value: Any, what: str, where: str) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise wrong(where, what, value, "a whole number")
    return value


def _marks(segmentation: Any, label: str | None, size: Size, where: str) -> tuple[float, list[Shape]]:
    """The area and the marks of one annotation: its polygons are united, so each is a mark of its own."""
    if isinstance(segmentation, dict):
        runs = _runs(segmentation, size, where)
        return runs.area, [Shape(label, runs, where)]
    if not isinstance(segmentation, list):
        raise wrong(where, "segmentation", segmentation, "polygons or run lengths")
    if not segmentation:
        raise UsageError(f"{where}: no segmentation, a box alone is no mask; export polygons or masks")
    rings = []
    for polygon in segmentation:
        if not isinstance(polygon, list):
            raise wrong(where, "segmentation", segmentation, "a list of polygons [x, y, x, y, ...]")
        rings.append(Rings((ring_of(polygon, where),)))
    return sum(ring.area for ring in rings), [Shape(label, ring, where) for ring in rings]


def _runs(data: dict[str, Any], size: Size, where: str) -> Runs:
    if data.get("size") != list(size):
        given = data.get("size")
        text = f"{brief(given[0])}x{brief(given[1])}" if isinstance(given, list) and len(given) == 2 else brief(given)
        raise UsageError(f"{where}: run lengths of size {text} on an image of {size[0]}x{size[1]}; export it again")
    counts = data.get("counts")
    pixels = size[0] * size[1]
    if isinstance(counts, str):
        lengths = decode_counts(counts, where)
    elif isinstance(counts, list) and all(type(n) is int and 0 <= n <= pixels for n in counts):
        lengths = np.array(counts, np.int64)
    else:
        raise wrong(where, "counts", counts, f"text, or whole numbers from 0 to {pixels}")
    if (lengths < 0).any() or int(lengths.sum()) != pixels:
        raise UsageError(f"{where}: run lengths that do not sum to {size[0]}x{size[1]} pixels; export it again")
    return Runs(0, 0, *size, lengths, by_column=True)


def decode_counts(text: str, where: str = "run lengths") -> NDArray[np.int64]:
    """The lengths (n,) in COCO's compressed text.

    Each character holds five bits of a number, lowest first, and whether more follow; from the fourth number on, the
    one two places before is to be added. Raises `UsageError`, beginning with `where`, for what is no such text.

    >>> decode_counts("52203").tolist()
    [5, 2, 2, 2, 5]
    """
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate(([0], last[:-1] + 1)).astype(np.int64) if len(last) else last
    digits = last - starts + 1
    if not len(last) or last[-1] != len(codes) - 1 or codes.min() < 0 or codes.max() > 63 or digits.max() > _MAX_DIGITS:
        raise UsageError(f"{where}: '{brief(text)}' are no run lengths; export it again")
    place = np.arange(len(codes)) - np.repeat(starts, digits)
    numbers = np.add.reduceat((codes & 31) << (5 * place), starts)
    numbers -= np.where(codes[last] & 16, np.int64(1) << (5 * digits), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
