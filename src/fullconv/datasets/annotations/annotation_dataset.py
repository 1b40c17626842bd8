"""A folder of annotations as a dataset.

`discover` finds the files, `labelme`, `coco` and `cvat` read them, `class_names` turns labels into classes and
`rasterize` turns shapes into pixels. Annotations are parsed once, when a split is opened, and every shape of it is
checked then; an image is read, and its label painted, when the sample is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fullconv.data.dataset import IndexedDataset, Sample
from fullconv.datasets.annotations.class_names import class_index, label_space
from fullconv.datasets.annotations.coco import read_coco
from fullconv.datasets.annotations.cvat import read_cvat
from fullconv.datasets.annotations.discover import COCO, CVAT, LABELME, AnnotationPlace, PolygonLayout
from fullconv.datasets.annotations.json import Annotations, unique_names
from fullconv.datasets.annotations.labelme import embedded_image, read_labelme
from fullconv.datasets.annotations.rasterize import Outline, Size, rasterize
from fullconv.datasets.folder.classes_file import read_rules
from fullconv.datasets.folder.folder_dataset import choose
from fullconv.datasets.folder.layouts import Pair
from fullconv.errors import UsageError, shown, suggestion
from fullconv.io.image import read_image
from fullconv.labels import LabelSpace

_READERS = {LABELME: read_labelme, COCO: read_coco, CVAT: read_cvat}

Painting = tuple[Size | None, tuple[tuple[Outline, int], ...]]
"""The size of an image in its annotation, and its outlines with their values in the order of painting."""


@dataclass(frozen=True)
class Polygons(IndexedDataset):
    """One split of a folder of annotations, as `fullconv.data.dataset.Dataset`.

    pairs: (name, image file, annotation file) in order; with LabelMe's ``imageData`` the image file is the annotation
    file. split_made: one sentence on how the split was made if the folder has none, else None. notes: what was left
    out of the annotations, a sentence each. The outlines are kept in memory, the images are not.
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
        """Read sample `index`; `UsageError` if the image cannot be read or has another size than its annotation."""
        name, image_path, annotation = self.pairs[index]
        noted, shapes = self.paintings[index]
        image = embedded_image(image_path) if image_path == annotation else read_image(image_path)
        size = image.shape[0], image.shape[1]
        if noted not in (None, size):
            advice = "give the image on which it was drawn"
            if noted == size[::-1]:
                advice = "it was drawn on the photo without its EXIF rotation: turn the photo, or draw it again"
            sizes = f"{noted[0]}x{noted[1]}, but the image {shown(image_path.name)} is {size[0]}x{size[1]}"
            raise UsageError(f"{shown(annotation)}: drawn on {sizes} (height x width); {advice}")
        return Sample(image, rasterize(shapes, size), name)


def open_polygons(layout: PolygonLayout, split: str) -> Polygons:
    """Open one split of a folder of annotations that `find_polygons` found.

    The label space comes from ``classes.yaml``, or from the annotations of the training split (of the first split if
    there is none), and every label of the split is checked against it. A folder without splits gets one as a folder of
    masks does. Raises `UsageError` naming the file and the shape that cannot be used.
    """
    if split not in layout.names:
        raise UsageError(f"{shown(layout.root)}: no split '{shown(split)}'; {suggestion(split, layout.names)}")
    place = layout.whole or layout.splits[split]
    training = layout.whole or layout.splits[layout.names[0]]
    found, rules = _read(layout, place), read_rules(layout.root)
    labels = label_space(layout.root, rules, lambda: found if training == place else _read(layout, training, False))
    listed = bool(rules and rules.names)
    names = unique_names(found.images)
    paintings = {
        name: (image.size, tuple((shape.outline, class_index(shape, image, labels, listed)) for shape in image.shapes))
        for name, image in zip(names, found.images, strict=True)
    }
    every = tuple((name, image.file, image.annotation) for name, image in zip(names, found.images, strict=True))
    pairs, made = choose(layout, split, every)
    notes = tuple(
        f"{count} shape{'' if count == 1 else 's'} of the kind '{kind}' left out: no area"
        for kind, count in sorted(found.ignored.items())
    )
    return Polygons(layout.root, split, labels, pairs, made, notes, tuple(paintings[name] for name, *_ in pairs))


def _read(layout: PolygonLayout, place: AnnotationPlace, images_needed: bool = True) -> Annotations:
    return _READERS[layout.kind](place.annotations, place.images, images_needed)
