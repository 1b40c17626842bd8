"""A clean copy of a folder: what is right is copied, what can be repaired without guessing is repaired, and the rest
is left out with its reason. The original is only read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from fullconv.checking.findings import Findings
from fullconv.datasets.folder.classes_file import FILE_NAME
from fullconv.datasets.folder.folder_dataset import Folder
from fullconv.datasets.folder.layouts import Pair, find_layout
from fullconv.errors import RunError, UsageError, shown
from fullconv.io.atomic import write_atomically
from fullconv.io.decoding import open_file
from fullconv.io.formats import FORMAT_SUFFIXES, HEAD_BYTES, sniff
from fullconv.io.image import read_image
from fullconv.io.label_image import read_label_values, write_label
from fullconv.labels import LabelSpace

LEFT_OUT = "left-out.txt"
FATAL = ("classes", "off-by-one", "bands")
"""Findings on the folder as a whole that only its owner can settle."""
DOUBTFUL = ("renumbered", "lossy", "copied")
"""Warnings on a mask whose numbers can be read and mean something else."""


@dataclass(frozen=True)
class Repaired:
    """What `repair` wrote: pairs by split, how many files were changed on the way, and what was left out, in lines."""

    pairs: dict[str, int]
    masks_rewritten: int
    images_turned: int
    left_out: tuple[str, ...]


def repair(root: Path, out: Path, findings: Findings, progress: Callable[[int, int], None] | None = None) -> Repaired:
    """Write a clean copy of the folder `root` into the new or empty folder `out`.

    The layout is ``{train,val,test}/{images,labels}`` with ``classes.yaml``. Images are copied byte for byte; one with
    an EXIF orientation is written upright as PNG. Masks become palette PNG of class indices (16-bit gray for more than
    256 classes): known colours, ``map`` and ``void`` are applied. Pairs with an error, masks whose numbers are in
    doubt (`DOUBTFUL`), names borne by several files, and images that an earlier split holds already are left out and
    listed with the reason in ``left-out.txt``.

    findings: of `check_dataset` on all splits of `root`. Raises `UsageError` when `out` is not empty, or lies in
    `root`, or `root` in it, when the classes are in doubt, or when no training pair remains; `RunError` when a file
    cannot be written.
    """
    layout = find_layout(root)
    _check_out(root, out)
    settled = [problem for problem in findings.problems if problem.kind in FATAL]
    if settled or findings.labels is None:
        why = settled[0].line() if settled else f"{shown(root)}: no mask can be read; replace them"
        raise UsageError(f"{why} (before --fix)")
    reasons = {(m.split, m.name): m.line for m in findings.marks if m.severity == "error" or m.kind in DOUBTFUL}
    twice = [line for p in findings.problems if p.kind == "same-name" for line in p.examples]
    if any(p.kind == "same-name" and p.count > len(p.examples) for p in findings.problems):
        raise UsageError(f"{shown(root)}: many names are borne by several files ({twice[0]} ...); keep one of each")
    borne = {Path(name).stem for line in twice for name in line.split(" and ")}
    splits = {split: folder for split, folder in findings.samples.items() if isinstance(folder, Folder)}
    left = [f"{split}: no masks" for split in layout.unlabelled]
    for problem in findings.problems:
        if problem.kind in ("no-mask", "no-image", "list"):
            left.append(problem.line() + (f" [{problem.count} in all]" if problem.count > 1 else ""))
    copier, total = _Copier(out, findings.labels), sum(map(len, splits.values()))
    done, pairs = 0, {}
    for split, folder in splits.items():
        kept = 0
        for pair in folder.pairs:
            reason = reasons.get((split, pair[0])) or (
                "several files bear this name; keep one of each" if shown(pair[0]) in borne else None
            )
            reason = reason or copier.copy(split, folder, pair)
            kept += reason is None
            if reason:
                left.append(f"{split}/{shown(pair[0])}: {reason}")
            done += 1
            if progress:
                progress(done, total)
        pairs[split] = kept
    if not pairs.get("train", sum(pairs.values())):
        raise UsageError(f"{shown(root)}: no pair of its training split is usable ({left[-1]}); see fullconv check")
    write_atomically(out / FILE_NAME, _classes(findings.labels, next(iter(copier.values.values()))).encode())
    if left:
        write_atomically(out / LEFT_OUT, ("\n".join(map(shown, left)) + "\n").encode())
    return Repaired(pairs, copier.rewritten, copier.turned, tuple(left))


class _Copier:
    """Writes pairs one after the other and remembers what it has written."""

    def __init__(self, out: Path, labels: LabelSpace) -> None:
        self.out, self.labels = out, labels
        self.digests: dict[str, str] = {}
        self.values: dict[str, set[int]] = {}
        self.rewritten = self.turned = 0

    def copy(self, split: str, folder: Folder, pair: Pair) -> str | None:
        """Write one pair; the reason why not, when it cannot be."""
        name, image, mask = pair
        digest = hashlib.sha256(image.read_bytes()).hexdigest()
        if self.digests.get(digest, split) != split:
            return f"the image stands in {self.digests[digest]} already"
        try:
            stored = read_label_values(mask)
            label = folder.coding.encode(stored, mask)
            upright = None if folder.bands else _upright(image)
            target = self.out / split
            for side in ("images", "labels"):
                (target / side).mkdir(parents=True, exist_ok=True)
            write_label(target / "labels" / f"{name}.png", label, self.labels)
        except UsageError as error:
            return str(error)
        if upright is None:
            _copied(image, target / "images" / f"{name}{_suffix(image)}")
        else:
            self.turned += 1
            _saved(PIL.Image.fromarray(upright), target / "images" / f"{name}.png")
        self.rewritten += stored.shape != label.shape or not np.array_equal(stored, label)
        self.values.setdefault(split, set()).update(np.unique(label).tolist())
        self.digests.setdefault(digest, split)
        return None


def _check_out(root: Path, out: Path) -> None:
    here, there = root.resolve(), out.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UsageError(f"{shown(out)}: the clean copy must lie apart from {shown(root)}; give another folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{shown(out)}: it is there already and is not empty; give a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{shown(out)}: cannot be made ({error.strerror}); give another folder") from None


def _upright(path: Path) -> np.ndarray | None:
    """The image as it is to be shown, when its file says that it must be turned for that."""
    with PIL.Image.open(path, formats=tuple(FORMAT_SUFFIXES)) as file:
        turned = file.getexif().get(0x0112, 1) in range(2, 9)
    return read_image(path) if turned else None


def _suffix(path: Path) -> str:
    """The file's own suffix, or that of its format where it has that of another."""
    with open_file(path) as stream:
        kind = sniff(stream.read(HEAD_BYTES))[0]
    if kind is None or path.suffix.lower() in FORMAT_SUFFIXES[kind]:
        return path.suffix
    return FORMAT_SUFFIXES[kind][0]


def _copied(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise RunError(f"{shown(target)}: cannot be written ({error.strerror}); free the disk") from None


def _saved(picture: PIL.Image.Image, target: Path) -> None:
    try:
        picture.save(target, format="PNG")
    except OSError as error:
        raise RunError(f"{shown(target)}: cannot be written ({error.strerror}); free the disk") from None


def _classes(labels: LabelSpace, values: set[int]) -> str:
    """A ``classes.yaml`` of names and colours.

    >>> print(_classes(LabelSpace.of(["ground", "no"]), {0, 1}))
    names: ["ground", "no"]
    palette: [[0, 0, 0], [128, 0, 0]]
    <BLANKLINE>
    """
    text = f"names: {json.dumps(labels.names)}\npalette: {json.dumps(labels.palette)}\n"
    if values == {0, 255} and labels.ignore_index == 255:  # 255 is void here, not the 1 of a 0/255 mask
        text += "map: {255: 255}\n"
    return text
