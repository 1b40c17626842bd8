"""Where annotations are: the layouts that LabelMe, COCO and CVAT, and their users, leave on disk."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fullconv.datasets.folder.layouts import IMAGE_SUFFIXES, MASK_SUFFIXES, find_layout, list_files
from fullconv.errors import UsageError, shown

LABELME, COCO, CVAT = "labelme", "coco", "cvat"
FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""The names of the folders and files of each split."""

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
_EXAMINED = 5


@dataclass(frozen=True)
class AnnotationPlace:
    """Where one split is. annotations: the file (COCO, CVAT) or the folder of files (LabelMe). images: folders."""

    annotations: Path
    images: tuple[Path, ...]


@dataclass(frozen=True)
class PolygonLayout:
    """A dataset of annotations on disk.

    kind: ``labelme``, ``coco`` or ``cvat``. splits: where each is. whole: set instead if the folder has no splits; a
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
    """Find the layout of a folder of annotations; None if it is not one, or if it holds masks, which are preferred.

    The names of files decide, and the first megabyte of some; nothing is parsed. Raises `UsageError` if two files
    claim one split.
    """
    root = Path(root)
    try:
        if not root.is_dir() or _has_masks(root):
            return None
        for kind, candidates in ((CVAT, _cvat), (COCO, _coco), (LABELME, _labelme)):
            splits = {split: place for split in FOLDERS if (place := _only(candidates(root, split), split))}
            if splits:
                return PolygonLayout(root, kind, splits)
            whole = next(candidates(root, None), None)
            if whole:
                return PolygonLayout(root, kind, whole=whole)
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{shown(root)}: cannot be examined ({shown(reason)}); check its permissions") from error


def _has_masks(root: Path) -> bool:
    """Whether `fullconv.datasets.folder.layouts` finds masks in the folder, not only a folder for them."""
    try:
        layout = find_layout(root)
    except UsageError:
        return False
    sources = [*layout.splits.values(), *([layout.whole] if layout.whole else [])]
    return layout.voc or any(list_files(source.masks, MASK_SUFFIXES) for source in sources)


def _only(found: Iterable[AnnotationPlace], split: str) -> AnnotationPlace | None:
    places = {place.annotations: place for place in found}
    if len(places) > 1:
        first, second, *_ = places
        raise UsageError(f"{shown(second)}: the split '{split}' is in {shown(first)} too; remove one of the files")
    return next(iter(places.values()), None)


# The places of one split, or of a folder without splits (None), whose files are in the folders of the name "".


def _cvat(root: Path, split: str | None) -> Iterator[AnnotationPlace]:
    for name in FOLDERS[split] if split else ("",):
        folders = _existing(root / name / "images", root / name, root / "images" / name, root / "images")
        for path in (root / name / "annotations.xml", root / "annotations" / f"{name or 'annotations'}.xml"):
            if path.is_file():
                yield AnnotationPlace(path, folders)


def _coco(root: Path, split: str | None) -> Iterator[AnnotationPlace]:
    if split is None:
        for path in (folder / name for folder in (root, root / "annotations") for name in WHOLE_COCO):
            if path.is_file() and not _has(path, "shapes"):
                folders = _existing(root / "images", root / "images" / "default", root, root / "data")
                yield AnnotationPlace(path, folders)
        return
    for name in FOLDERS[split]:
        for path in (root / name / "_annotations.coco.json", root / name / "annotations.json"):
            if path.is_file() and not _has(path, "shapes"):
                yield AnnotationPlace(path, _coco_images(root, name, split))
        pattern = re.compile(rf"(instances_)?({name}(\d{{4}})?)\.json")
        for folder in _existing(root / "annotations", root):
            for path in list_files(folder, (".json",)):
                match = pattern.fullmatch(path.name)
                if match and (match[1] or (_has(path, "images", "annotations") and not _has(path, "shapes"))):
                    yield AnnotationPlace(path, _coco_images(root, match[2], name, split))


def _coco_images(root: Path, *names: str) -> tuple[Path, ...]:
    own = [folder for name in names for folder in (root / name, root / "images" / name, root / name / "images")]
    return _existing(*own, root / "images", root)


def _labelme(root: Path, split: str | None) -> Iterator[AnnotationPlace]:
    """Yield the first folder that holds files of LabelMe."""
    for name in FOLDERS[split] if split else ("",):
        beside = (root / name, *(root / name / folder for folder in DRAWINGS))
        across = [root / folder / name for folder in DRAWINGS]
        for images, folders in ((root / name / "images", beside), (root / "images" / name, across)):
            for folder in _existing(*folders, images):
                place = AnnotationPlace(folder, tuple(f for f in _existing(images) if f != folder))
                drawings = list_files(folder, (".json",))
                stems = {path.stem for there in (folder, *place.images) for path in list_files(there, IMAGE_SUFFIXES)}
                if any(p.stem in stems for p in drawings) or any(_has(p, "shapes") for p in drawings[:_EXAMINED]):
                    yield place
                    return


def _existing(*folders: Path) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def _has(path: Path, *keys: str) -> bool:
    """Whether one of the keys is in the first megabyte of a file."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    return any(f'"{key}"'.encode() in head for key in keys)
