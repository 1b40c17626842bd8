"""From labels to class indices: class 0 is ``background``, the names follow, and some words mean void."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fullconv.datasets.annotations.json import AnnotatedImage, Annotations, Shape
from fullconv.datasets.folder.classes_file import FILE_NAME, ClassesFile
from fullconv.errors import UsageError, shown, suggestion
from fullconv.labels import LabelSpace, voc_colour

VOID = 255
VOID_NAMES = ("void", "ignore", "_ignore_", "__ignore__", "unlabeled")
"""Labels, in any case, that do not count."""

BACKGROUND_NAMES = ("background", "_background_")
"""Labels, in any case, that mean class 0."""

MAX_CLASSES = 254
"""Beside the background: 8 bits hold them, 0 and 255 are reserved."""


def label_space(root: Path, rules: ClassesFile | None, training: Callable[[], Annotations]) -> LabelSpace:
    """Return the label space: the names in ``classes.yaml``, else those that the training annotations list or hold.

    training: returns the training annotations; called only if ``classes.yaml`` has no names. Raises `UsageError` for
    no class, for too many, and for a key of ``classes.yaml`` that annotations do not have.
    """
    name = shown(root / FILE_NAME)
    if rules and (rules.mapping or rules.void_values):
        key = "map" if rules.mapping else "void"
        raise UsageError(f"{name}: '{key}' is for the numbers in masks, and this folder has polygons; remove it")
    palette = rules.palette if rules else None
    if rules and rules.names:
        names = rules.names
        for word in names:
            if word.lower() in VOID_NAMES or (word.lower() in BACKGROUND_NAMES and word != names[0]):
                what = "means void" if word.lower() in VOID_NAMES else "is class 0"
                raise UsageError(f"{name}: '{shown(word)}' {what} and cannot be listed there; correct the names")
    else:
        found = training()
        labels = {shape.label for image in found.images for shape in image.shapes if shape.label is not None}
        listed = sorted(labels) if found.listed is None else found.listed
        names = tuple(label for label in listed if label.lower() not in (*VOID_NAMES, *BACKGROUND_NAMES))
        name = shown(found.images[0].annotation)
        palette = palette if palette and len(palette) == len(names) + 1 else None
    if not names or names[0].lower() not in BACKGROUND_NAMES:
        if palette is not None:
            palette = (voc_colour(0), *palette) if len(palette) == len(names) else palette
        names = (BACKGROUND_NAMES[0], *names)
    if not 1 < len(names) <= MAX_CLASSES + 1:
        many = f"{len(names) - 1} classes beside the background"
        raise UsageError(f"{name}: {many}; name from 1 to {MAX_CLASSES}")
    return LabelSpace.of(names, palette, VOID)


def class_index(shape: Shape, image: AnnotatedImage, labels: LabelSpace, listed: bool) -> int:
    """Return the value that a shape is painted with; `UsageError` with the nearest spelling for an unknown label.

    listed: whether the names are those of ``classes.yaml``.
    """
    if shape.label is None or shape.label.lower() in VOID_NAMES:
        return VOID
    if shape.label in labels.names:
        return labels.names.index(shape.label)
    if shape.label.lower() in BACKGROUND_NAMES:
        return 0
    what = f"the label '{shape.label}' does not occur in {FILE_NAME if listed else 'the training annotations'}"
    raise UsageError(f"{shape.where} of {shown(image.file.name)}: {what}; {suggestion(shape.label, labels.names)}")
