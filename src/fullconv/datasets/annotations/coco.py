"""COCO: one JSON file for a split, with its images, categories and annotations; and COCO's run-length encoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fullconv.datasets.annotations.json import (
    AnnotatedImage,
    AnnotationRecord,
    Annotations,
    ImageFiles,
    Shape,
    brief,
    points_of,
    read_json,
)
from fullconv.datasets.annotations.rasterize import Rings, Runs, Size
from fullconv.errors import UsageError

MAX_BYTES = 1 << 30
_MAX_DIGITS = 7  # characters of one number in compressed run lengths: 35 bits


def read_coco(path: Path, folders: Sequence[Path], images_needed: bool = True) -> Annotations:
    """Read a COCO file whose images are in one of the folders; an image without annotations has no shapes.

    Crowd regions are painted first, as void; then the shapes by area, the largest first, so that small objects stay
    visible on large ones. Raises `UsageError` naming the file and the annotation, and for missing images if
    `images_needed`.
    """
    data = read_json(path, MAX_BYTES)
    categories, images = _categories(data), ImageFiles(folders, images_needed)
    sizes: dict[int | str, Size] = {}
    files: dict[int | str, tuple[str, Path]] = {}
    for entry in data.records("images", "image"):
        key = entry.identifier("id")
        if key in sizes:
            raise UsageError(f"{entry.where}: the id {brief(key)} occurs twice; export it again")
        sizes[key] = entry.size()
        if file := images.find(entry, "file_name"):
            files[key] = file
    images.check(data.where)
    if not files:
        raise UsageError(f"{data.where}: no images; export it again")
    groups: dict[int | str, list[tuple[bool, float, list[Shape]]]] = {key: [] for key in sizes}
    used: set[str] = set()
    for entry in data.records("annotations", "annotation"):
        image, category = entry.identifier("image_id"), entry.identifier("category_id")
        for key, known, noun in ((image, sizes, "image"), (category, categories, "category")):
            if key not in known:
                raise UsageError(f"{entry.where}: no {noun} has the id {brief(key)}; export it again")
        label, crowd = categories[category].label("name"), entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise entry.wrong("iscrowd", "0 or 1")
        used.add(label)
        outlines = _outlines(entry, sizes[image])
        shapes = [Shape(None if crowd else label, outline, entry.where) for outline in outlines]
        groups[image].append((not crowd, -sum(outline.area for outline in outlines), shapes))
    found = []
    for key, file in files.items():
        ordered = sorted(groups[key], key=lambda group: group[:2])
        found.append(
            AnnotatedImage(*file, path, sizes[key], tuple(shape for *_, shapes in ordered for shape in shapes))
        )
    return Annotations(tuple(found), _listed(list(categories.values()), used))


def _categories(data: AnnotationRecord) -> dict[int | str, AnnotationRecord]:
    """Return the categories in the order of their ids."""
    found: dict[int | str, AnnotationRecord] = {}
    names: set[str] = set()
    for entry in data.records("categories", "category"):
        key, label = entry.identifier("id"), entry.label("name")
        if key in found or label in names:
            what = f"the id {brief(key)} or the name '{label}' occurs twice"
            raise UsageError(f"{entry.where}: {what}; give each its own")
        found[key] = entry
        names.add(label)
    return dict(sorted(found.items(), key=lambda pair: (isinstance(pair[0], str), pair[0])))


def _listed(categories: list[AnnotationRecord], used: set[str]) -> tuple[str, ...]:
    """Return the names of the categories, without an unused one that is only a supercategory (Roboflow writes one)."""
    names = [(category.get("name"), category.get("supercategory")) for category in categories]
    return tuple(
        name
        for i, (name, _) in enumerate(names)
        if name in used or not any(name == above for j, (_, above) in enumerate(names) if j != i)
    )


def _outlines(entry: AnnotationRecord, size: Size) -> list[Rings | Runs]:
    """Return the parts of one annotation: its polygons are united, so each is painted by itself."""
    given = entry.get("segmentation")
    if isinstance(given, dict):
        return [_runs(AnnotationRecord(given, entry.where), size)]
    if not isinstance(given, list):
        raise entry.wrong("segmentation", "polygons or run lengths")
    if not given:
        raise UsageError(f"{entry.where}: no segmentation, a box alone is not a mask; export polygons or masks")
    if not all(isinstance(polygon, list) for polygon in given):
        raise entry.wrong("segmentation", "a list of polygons [x, y, x, y, ...]")
    return [Rings((points_of(polygon, entry.where),)) for polygon in given]


def _runs(data: AnnotationRecord, size: Size) -> Runs:
    given, counts, pixels = data.get("size"), data.get("counts"), size[0] * size[1]
    if given != list(size):
        text = f"{brief(given[0])}x{brief(given[1])}" if isinstance(given, list) and len(given) == 2 else brief(given)
        what = f"run lengths of size {text} on an image of {size[0]}x{size[1]}"
        raise UsageError(f"{data.where}: {what}; export it again")
    if isinstance(counts, str):
        lengths = decode_counts(counts, data.where)
    elif isinstance(counts, list) and all(type(n) is int and 0 <= n <= pixels for n in counts):
        lengths = np.array(counts, np.int64)
    else:
        raise data.wrong("counts", f"text, or whole numbers from 0 to {pixels}")
    if (lengths < 0).any() or int(lengths.sum()) != pixels:
        what = f"run lengths that do not sum to {size[0]}x{size[1]} pixels"
        raise UsageError(f"{data.where}: {what}; export it again")
    return Runs(0, 0, *size, lengths, by_column=True)


def decode_counts(text: str, where: str = "run lengths") -> NDArray[np.int64]:
    """Return the lengths (n,) in COCO's compressed text; `UsageError`, beginning with `where`, if it is invalid.

    Each character holds five bits of a number, lowest first, and whether more follow; from the fourth number on, the
    number two places before is added.

    >>> decode_counts("52203").tolist()
    [5, 2, 2, 2, 5]
    """
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate(([0], last[:-1] + 1)).astype(np.int64) if len(last) else last
    digits = last - starts + 1
    if not len(last) or last[-1] != len(codes) - 1 or codes.min() < 0 or codes.max() > 63 or digits.max() > _MAX_DIGITS:
        raise UsageError(f"{where}: '{brief(text)}' is not a run-length encoding; export it again")
    place = np.arange(len(codes)) - np.repeat(starts, digits)
    numbers = np.add.reduceat((codes & 31) << (5 * place), starts)
    numbers -= np.where(codes[last] & 16, np.int64(1) << (5 * digits), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
