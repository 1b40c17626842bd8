"""Open a dataset by name or folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fullconv.errors import UsageError

if TYPE_CHECKING:
    from fullconv.datasets.folder.classes_file import MaskOptions
from fullconv.data.dataset import SPLITS, Dataset


def splits_of(name_or_path: str | Path) -> tuple[str, ...]:
    """The splits that a data set has, by `open_dataset`'s name for it."""
    if str(name_or_path) == "digits":
        return SPLITS
    from fullconv.datasets.published.catalog import named

    official = named(name_or_path)
    if official:
        return official.about.names
    from fullconv.datasets.annotations.discover import find_polygons
    from fullconv.datasets.folder.layouts import find_layout

    drawn = find_polygons(Path(name_or_path))
    return drawn.names if drawn else find_layout(Path(name_or_path)).names


def default_splits(name_or_path: str | Path) -> tuple[str, str | None]:
    """The splits to train and to validate on, where nobody says otherwise: ``train`` and ``val``, or what a published
    set uses instead (SIFT Flow: ``trainval`` and ``test``); None for validation where there is none.
    """
    from fullconv.datasets.published.catalog import named

    official = named(name_or_path)
    if official:
        return official.about.train, official.about.val
    return "train", "val" if "val" in splits_of(name_or_path) else None


def open_dataset(name_or_path: str | Path, split: str, reading: MaskOptions | None = None) -> Dataset:
    """Open one split of a data set: ``digits``; the name of an official one with its folder, ``voc2012:DIR`` (all
    names: `fullconv.datasets.published.catalog.abouts`); a folder of images and masks in one of the layouts of
    `fullconv.datasets.folder.layouts`; or one of polygons (`fullconv.datasets.annotations`). reading: what is said
    about the masks of a folder beside its ``classes.yaml``.

    Raises `UsageError` when there is no such split, or when the folder, its images or its masks are not there.

    >>> scenes = open_dataset("digits", "val")
    >>> scenes[0].image.shape[2], len(scenes.labels)
    (3, 11)
    """
    from fullconv.datasets.published.catalog import named

    official = None if str(name_or_path) == "digits" else named(name_or_path)
    if reading is not None and (official or str(name_or_path) == "digits"):
        raise UsageError(f"{name_or_path}: --map, --colors and --skip-unpaired are for folders; leave them out")
    if str(name_or_path) == "digits":
        from fullconv.datasets.synthetic.digits import Digits

        return Digits(split)
    if official:
        return official.open(split)
    from fullconv.datasets.annotations.annotation_dataset import open_polygons
    from fullconv.datasets.annotations.discover import find_polygons

    drawn = find_polygons(Path(name_or_path))
    if drawn:
        if reading is not None:
            raise UsageError(f"{name_or_path}: it holds polygons, whose classes have names; leave --map, --colors out")
        return open_polygons(drawn, split)
    from fullconv.datasets.folder.folder_dataset import open_folder

    return open_folder(Path(name_or_path), split, reading)
