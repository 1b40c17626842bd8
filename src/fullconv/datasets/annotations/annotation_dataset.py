"""Polygons as a data set: what people drew in LabelMe, or exported as COCO or from CVAT, read without conversion.

`places` finds what lies where, `labelme`, `coco` and `cvat` read it, `naming` turns labels into classes and `outlines`
turns shapes into pixels. Annotations are parsed once, when a split is opened, and every shape of it is checked then; an
image is read, and its label painted, when the sample is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fullconv.data.dataset import IndexedDataset, Sample
from fullconv.datasets.annotations.class_names import Codes, space_of
from fullconv.datasets.annotations.coco import read_coco
from fullconv.datasets.annotations.cvat import read_cvat
from fullconv.datasets.annotations.discover import (
    COCO,
    CVAT,
    LABELME,
    AnnotationPlace,
    PolygonLayout,
    find_polygons,
)
from fullconv.datasets.annotations.json import Drawings, names_of
from fullconv.datasets.annotations.labelme import embedded_image, read_labelme
from fullconv.datasets.annotations.rasterize import Outline, Size, rasterize
from fullconv.datasets.folder.classes_file import read_rules
from fullconv.datasets.folder.folder_dataset import make_split
from fullconv.datasets.folder.layouts import Pair
from fullconv.errors import UsageError, shown, suggestion
from fullconv.io.image import read_image
from fullconv.labels import LabelSpace

__all__ = ["PolygonLayout", "Polygons", "find_polygons", "open_polygons", "rasterize"]

_READERS = {LABELME: read_labelme, COCO: read_coco, CVAT: read_cvat}

Painting = tuple[Size | None, tuple[tuple[Outline, int], ...]]
"""The size of an image that its annotation notes, and its outlines with their values in the order of painting."""


@dataclass(frozen=True)
class Polygons(IndexedDataset):
    """One split of a folder of polygons, as `fullconv.data.dataset.Dataset`.

    pairs: (name, image file, annotation file) in order; with LabelMe's ``imageData`` the image file is the annotation
    file. split_made: one sentence on how the split was made when the folder has none, else None. notes: what was left
    out of the annotations, a sentence each. The outlines are kept, the images are not.
    """

    root: Path
    split: str
    labels: LabelSpace
    pairs: tuple[Pair, ...]
    split_made: str | None = None
    notes: tuple[str, ...] = ()
    paintings: tuple[Painting, ...] = field(default=(), repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int) -> Sample:
        """Sample number `index`; `UsageError` when the image cannot be read or is not of the size that was noted."""
        name, image_path, annotation = self.pairs[index]
        size, shapes = self.paintings[index]
        image = embedded_image(image_path) if image_path == annotation else read_image(image_path)
        if size is not None and image.shape[:2] != size:
            raise UsageError(_size_line(image_path, (image.shape[0], image.shape[1]), annotation, size))
        return Sample(image, rasterize(shapes, (image.shape[0], image.shape[1])), name)


def open_polygons(layout: PolygonLayout, split: str) -> Polygons:
    """Open one split of a folder of polygons, as found by `find_polygons`.

    The label space comes from ``classes.yaml``, or from the annotations of the training split (of the first split
    where there is none), and every label of the split is checked against it. A folder without splits gets one from
    `folder_dataset.make_split`. Raises `UsageError` naming file and shape for whatever cannot be used.
    """
    if split not in layout.names:
        raise UsageError(f"{shown(layout.root)}: no split '{shown(split)}'; {suggestion(split, layout.names)}")
    place = layout.whole or layout.splits[split]
    drawings = _read(layout, place)
    teacher = layout.whole or layout.splits[layout.names[0]]
    rules = read_rules(layout.root)
    labels = space_of(layout.root, rules, lambda: drawings if teacher == place else _read(layout, teacher, False))
    codes = Codes(labels, bool(rules and rules.names))
    names, drawn = names_of(drawings.drawn), drawings.drawn
    made, chosen = None, range(len(drawn))
    if layout.whole is not None:
        train, val, made = make_split(sorted(names))
        if not val:
            raise UsageError(f"{shown(layout.root)}: one image cannot be split; add images, or make train and val")
        wanted = set(train if split == "train" else val)
        kept: Sequence[int] = [i for i in chosen if names[i] in wanted]
    else:
        kept = chosen
    paintings = tuple((d.size, tuple((mark.outline, codes.of(mark, d)) for mark in d.marks)) for d in drawn)
    pairs = tuple((names[i], drawn[i].image, drawn[i].annotation) for i in kept)
    return Polygons(
        layout.root, split, labels, pairs, made, _notes(drawings.ignored), tuple(paintings[i] for i in kept)
    )


def _read(layout: PolygonLayout, place: AnnotationPlace, images_needed: bool = True) -> Drawings:
    return _READERS[layout.kind](place.annotations, place.images, images_needed)


def _notes(ignored: Counter[str]) -> tuple[str, ...]:
    return tuple(
        f"{count} shape{'' if count == 1 else 's'} of the kind '{kind}' left out: no area"
        for kind, count in sorted(ignored.items())
    )


def _size_line(image: Path, found: Size, annotation: Path, noted: Size) -> str:
    """The error on an image that is not as large as its annotation says (height, width)."""
    sizes = f"{noted[0]}x{noted[1]}, but the image {shown(image.name)} is {found[0]}x{found[1]}"
    turned = found == noted[::-1]
    advice = (
        "it was drawn on the photo without its EXIF rotation: turn the photo's pixels, or draw it again"
        if turned
        else "give the image on which it was drawn"
    )
    return f"{shown(annotation)}: drawn on {sizes} (height x width); {advice}"
