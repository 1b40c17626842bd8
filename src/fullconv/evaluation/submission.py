"""The folder and archive that PASCAL VOC's evaluation server takes: one palette PNG for each image of the test list."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from fullconv.datasets.published.label_spaces import VOC
from fullconv.errors import UsageError, shown
from fullconv.io.atomic import write_atomically
from fullconv.io.label_image import read_label

COMPETITIONS = {
    "comp5": "trained on nothing but VOC's own training and validation images",
    "comp6": "trained on more (ImageNet, SBD)",
}


def submission(
    predictions: Path, sizes: Mapping[str, tuple[int, int]], year: str, competition: str, archive: Path
) -> Sequence[str]:
    """Write the archive of a folder of predictions: ``results/VOC<year>/Segmentation/<competition>_test_cls/<ID>.png``.

    predictions: holds ``<ID>.png``. sizes: the (height, width) of every image of the list, by its ID. competition:
    ``comp5`` or ``comp6`` (`COMPETITIONS`). Returns the names in the archive.

    Every ID must have its PNG, a palette picture of VOC's 21 classes in the size of its image; else `UsageError` with
    the first that is not so, and nothing is written.
    """
    if competition not in COMPETITIONS:
        raise UsageError(f"submission '{shown(competition)}': there is no such competition; give comp5 or comp6")
    top = f"results/VOC{year}/Segmentation/{competition}_test_cls"
    missing = [name for name in sizes if not (predictions / f"{name}.png").is_file()]
    if missing or not sizes:
        raise UsageError(
            f"{shown(predictions)}: {len(missing):,} of {len(sizes):,} predictions are missing "
            f"({', '.join(missing[:3])}); predict the whole list"
        )
    buffer, names = BytesIO(), []
    with zipfile.ZipFile(buffer, "w") as file:
        for name, size in sizes.items():
            path = predictions / f"{name}.png"
            _check(path, size)
            entry = zipfile.ZipInfo(f"{top}/{name}.png")  # of a fixed date: the same predictions give the same archive
            file.writestr(entry, path.read_bytes())
            names.append(entry.filename)
    write_atomically(archive, buffer.getvalue())
    return names


def _check(path: Path, size: tuple[int, int]) -> None:
    found = read_label(path)
    if found.palette is None:
        raise UsageError(f"{shown(path)}: not a palette PNG; write it with fullconv predict")
    if found.values.shape != size:
        has = " x ".join(map(str, found.values.shape))
        raise UsageError(f"{shown(path)}: it is {has}, its image {size[0]} x {size[1]}; predict it again")
    if found.values.max() >= len(VOC):
        raise UsageError(
            f"{shown(path)}: it holds {found.values.max()}, which is none of VOC's 21 classes; predict again"
        )
