"""From the labels in words to class indices: class 0 is ``background``, then the names, and some words mean void."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fullconv.datasets.annotations.json import AnnotatedImage, Drawings, Shape
from fullconv.datasets.folder.classes_file import FILE_NAME, ClassesFile
from fullconv.errors import UsageError, shown, suggestion
from fullconv.labels import LabelSpace, voc_colour

VOID = 255
VOID_NAMES = ("void", "ignore", "_ignore_", "__ignore__", "unlabeled")
"""Labels, in capitals or not, that count for nothing."""

GROUND_NAMES = ("background", "_background_")
"""Labels, in capitals or not, that mean class 0."""

MAX_CLASSES = 254
"""Beside the background: 8 bits hold them, 0 and 255 are taken."""


def space_of(root: Path, rules: ClassesFile | None, training: Callable[[], Drawings]) -> LabelSpace:
    """The label space: the names of ``classes.yaml``, else those that the training annotations list or hold.

    training: gives the training annotations; called only when ``classes.yaml`` has no names. Raises `UsageError` for
    no class, for too many, and for what ``classes.yaml`` says that polygons do not have.
    """
    name = shown(root / FILE_NAME)
    if rules and (rules.mapping or rules.void_values):
        key = "map" if rules.mapping else "void"
        raise UsageError(f"{name}: '{key}' is about numbers in masks, and here are polygons; remove it")
    palette = rules.palette if rules else None
    if rules and rules.names:
        names = rules.names
        reserved = [n for n in names if n.lower() in VOID_NAMES or (n.lower() in GROUND_NAMES and n != names[0])]
        if reserved:
            what = "means void" if reserved[0].lower() in VOID_NAMES else "is class 0"
            raise UsageError(f"{name}: '{shown(reserved[0])}' {what} and cannot stand there; correct the list of names")
    else:
        found = training()
        marked = {mark.label for drawn in found.drawn for mark in drawn.marks if mark.label is not None}
        listed = sorted(marked) if found.listed is None else found.listed
        names = tuple(label for label in listed if label.lower() not in (*VOID_NAMES, *GROUND_NAMES))
        name = shown(found.drawn[0].annotation)
        palette = palette if palette and len(palette) == len(names) + 1 else None
    if not names or names[0].lower() not in GROUND_NAMES:
        given = None if palette is None or len(palette) > len(names) else palette
        palette = palette if given is None else (voc_colour(0), *given)
        names = (GROUND_NAMES[0], *names)
    if not 1 < len(names) <= MAX_CLASSES + 1:
        many = f"{len(names) - 1} classes beside the background"
        raise UsageError(f"{name}: {many}; name from 1 to {MAX_CLASSES}")
    return LabelSpace.of(names, palette, VOID)


class Codes:
    """The class index, or void, of each label of a label space; `listed` says whether `FILE_NAME` has the names."""

    def __init__(self, space: LabelSpace, listed: bool) -> None:
        self.names = space.names
        self.index = {name: i for i, name in enumerate(space.names)}
        self.scope = FILE_NAME if listed else "the training annotations"

    def of(self, mark: Shape, drawn: AnnotatedImage) -> int:
        """The value that a shape is painted with; `UsageError` with the nearest spelling for an unknown label."""
        if mark.label is None or mark.label.lower() in VOID_NAMES:
            return VOID
        if mark.label in self.index:
            return self.index[mark.label]
        if mark.label.lower() in GROUND_NAMES:
            return 0
        what = f"the label '{mark.label}' does not occur in {self.scope}"
        raise UsageError(f"{mark.where} of {shown(drawn.image.name)}: {what}; {suggestion(mark.label, self.names)}")
