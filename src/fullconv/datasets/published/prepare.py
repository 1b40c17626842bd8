"""What is made once from the official files: SBD's labels as PNGs, and the list on which the paper validates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fullconv.datasets.published import sbd, voc
from fullconv.datasets.published.catalog import Named
from fullconv.datasets.published.label_spaces import VOC
from fullconv.datasets.published.split import read_list
from fullconv.errors import UsageError, shown
from fullconv.io.atomic import write_atomically
from fullconv.io.label_image import write_label

KINDS = {"cls": "GTcls", "inst": "GTinst"}
"""The two folders of SBD's labels, and the variable that their files hold: classes, and instances."""


def to_png(named: Named, progress: Callable[[int, int], None]) -> tuple[int, list[str]]:
    """Write each ``cls/ID.mat`` and ``inst/ID.mat`` of SBD as a palette PNG beside it, as the authors'
    ``convert_sbdd.py`` does; the reader then takes these. A PNG that is there stays.

    Returns how many were written, and one line for each file that cannot be read: they do not stop the others.
    """
    folder = sbd.folder_of(named.about, named.root)
    files = [file for kind in KINDS for file in sorted((folder / kind).glob("*.mat"))]
    if not files:
        raise UsageError(f"{shown(folder)}: no .mat files in cls and inst; {named.about.source}")
    written, failed = 0, []
    for number, file in enumerate(files, start=1):
        target = file.with_suffix(".png")
        if not target.exists():
            try:
                write_label(target, sbd.read_segmentation(file, KINDS[file.parent.name]), VOC)
                written += 1
            except UsageError as problem:
                failed.append(str(problem))
        progress(number, len(files))
    return written, failed


def leak_free_list(pascal: Named, boundaries: Named) -> tuple[Path, int]:
    """Write ``ImageSets/Segmentation/seg11valid.txt``: VOC's val, in its order, without SBD's train (736 of VOC2011's
    1,111). The paper trains on SBD's train and validates on these; VOC's val as a whole has images of it.

    Returns the file and the number of names.
    """
    folder = voc.folder_of(pascal.about, pascal.root)
    lists = folder / "ImageSets" / "Segmentation"
    val = read_list(pascal.about, lists / "val.txt")
    train = set(read_list(boundaries.about, sbd.folder_of(boundaries.about, boundaries.root) / "train.txt"))
    names = [name for name in val if name not in train]
    if not names:
        raise UsageError(f"{shown(lists / 'val.txt')}: SBD trains on all of it; take the official lists")
    path = lists / f"{voc.LEAK_FREE}.txt"
    write_atomically(path, "".join(f"{name}\n" for name in names).encode())
    return path, len(names)
