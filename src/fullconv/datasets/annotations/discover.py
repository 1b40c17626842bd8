"""Where polygon annotations lie: the layouts that LabelMe, COCO and CVAT, and those who use them, leave on disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fullconv.datasets.folder.layouts import IMAGE_SUFFIXES, MASK_SUFFIXES, find_layout
from fullconv.errors import UsageError, shown

LABELME, COCO, CVAT = "labelme", "coco", "cvat"
FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""The splits, and the names that their folders and files have."""

DRAWINGS = ("labels", "annotations", "json", "jsons")
WHOLE_COCO = (
    "annotations.json",
    "_annotations.coco.json",
    "annotations.coco.json",
    "instances.json",
    "instances_default.json",
    "result.json",
)
_HEAD = 1 << 20
_LOOKED_AT = 5


@dataclass(frozen=True)
class AnnotationPlace:
    """Where one split lies. annotations: the file (COCO, CVAT) or the folder of files (LabelMe); images: folders."""

    annotations: Path
    images: tuple[Path, ...]


@dataclass(frozen=True)
class PolygonLayout:
    """A data set of polygons on disk.

    kind: ``labelme``, ``coco`` or ``cvat``. splits: where each lies. whole: set instead when nothing is divided; a
    split into train and val is then made.
    """

    root: Path
    kind: str
    splits: Mapping[str, AnnotationPlace] = field(default_factory=dict)
    whole: AnnotationPlace | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The splits that can be opened."""
        return tuple(self.splits) if self.whole is None else ("train", "val")


def find_polygons(root: Path) -> PolygonLayout | None:
    """The layout of a folder of polygons; None when it is none, or when it holds masks, which are preferred.

    Names of files decide, and of some the first megabyte; nothing is parsed. Raises `UsageError` when two files claim
    one split.
    """
    root = Path(root)
    try:
        if not root.is_dir() or _has_masks(root):
            return None
        for kind, of_split, of_all in ((CVAT, _cvat, _whole_cvat), (COCO, _coco, _whole_coco)):
            splits = {split: place for split in FOLDERS if (place := _only(of_split(root, split), split))}
            if splits:
                return PolygonLayout(root, kind, splits)
            whole = next(iter(of_all(root)), None)
            if whole:
                return PolygonLayout(root, kind, whole=whole)
        splits = {split: place for split in FOLDERS if (place := next(iter(_labelme(root, split)), None))}
        if splits:
            return PolygonLayout(root, LABELME, splits)
        whole = next(iter(_whole_labelme(root)), None)
        return PolygonLayout(root, LABELME, whole=whole) if whole else None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{shown(root)}: cannot be looked at ({shown(reason)}); check its permissions") from error


def _has_masks(root: Path) -> bool:
    """Whether `fullconv.datasets.folder.layouts` finds masks in the folder, not only a folder for them."""
    try:
        layout = find_layout(root)
    except UsageError:
        return False
    sources = [*layout.splits.values(), *([layout.whole] if layout.whole else [])]
    return layout.voc or any(_files(source.masks, MASK_SUFFIXES) for source in sources)


def _only(found: Iterable[AnnotationPlace], split: str) -> AnnotationPlace | None:
    places = {place.annotations: place for place in found}
    if len(places) > 1:
        first, second, *_ = places
        raise UsageError(f"{shown(second)}: the split '{split}' is in {shown(first)} too; take one of the files away")
    return next(iter(places.values()), None)


def _cvat(root: Path, split: str) -> Iterable[AnnotationPlace]:
    for name in FOLDERS[split]:
        dirs = _dirs(root / name / "images", root / name, root / "images" / name, root / "images")
        for path in (root / name / "annotations.xml", root / "annotations" / f"{name}.xml"):
            if path.is_file():
                yield AnnotationPlace(path, dirs)


def _whole_cvat(root: Path) -> Iterable[AnnotationPlace]:
    for path in (root / "annotations.xml", root / "annotations" / "annotations.xml"):
        if path.is_file():
            yield AnnotationPlace(path, _dirs(root / "images", root))


def _coco(root: Path, split: str) -> Iterable[AnnotationPlace]:
    for name in FOLDERS[split]:
        for path in (root / name / "_annotations.coco.json", root / name / "annotations.json"):
            if path.is_file() and not _has(path, "shapes"):
                yield AnnotationPlace(path, _coco_dirs(root, name, split))
        pattern = re.compile(rf"(instances_)?({name}(\d{{4}})?)\.json")
        for folder in _dirs(root / "annotations", root):
            for path in _files(folder, (".json",)):
                match = pattern.fullmatch(path.name)
                if match and (match[1] or (_has(path, "images", "annotations") and not _has(path, "shapes"))):
                    yield AnnotationPlace(path, _coco_dirs(root, match[2], name, split))


def _coco_dirs(root: Path, *names: str) -> tuple[Path, ...]:
    own = [place for name in names for place in (root / name, root / "images" / name, root / name / "images")]
    return _dirs(*own, root / "images", root)


def _whole_coco(root: Path) -> Iterable[AnnotationPlace]:
    for folder in _dirs(root, root / "annotations"):
        for name in WHOLE_COCO:
            path = folder / name
            if path.is_file() and not _has(path, "shapes"):
                yield AnnotationPlace(path, _dirs(root / "images", root / "images" / "default", root, root / "data"))


def _labelme(root: Path, split: str) -> Iterable[AnnotationPlace]:
    for name in FOLDERS[split]:
        yield from _labelme_in(root / name / "images", (root / name, *(root / name / d for d in DRAWINGS)))
        yield from _labelme_in(root / "images" / name, [root / d / name for d in DRAWINGS])


def _whole_labelme(root: Path) -> Iterable[AnnotationPlace]:
    yield from _labelme_in(root / "images", [root, *(root / d for d in DRAWINGS)])


def _labelme_in(images: Path, folders: Iterable[Path]) -> Iterable[AnnotationPlace]:
    """Those of the folders, and of the one of images, that hold files of LabelMe."""
    for folder in _dirs(*folders, images):
        place = AnnotationPlace(folder, tuple(d for d in _dirs(images) if d != folder))
        drawings = _files(folder, (".json",))
        stems = {path.stem for there in (folder, *place.images) for path in _files(there, IMAGE_SUFFIXES)}
        if any(path.stem in stems for path in drawings) or any(_has(p, "shapes") for p in drawings[:_LOOKED_AT]):
            yield place


def _dirs(*folders: Path) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.name.lower().endswith(suffixes) and not e.name.startswith("."))
    return [folder / name for name in names if (folder / name).is_file()]


def _has(path: Path, *keys: str) -> bool:
    """Whether one of the keys stands in the first megabyte of a file."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    return any(f'"{key}"'.encode() in head for key in keys)
