"""Which folders hold what: the layouts of data sets as people have them on disk, read as they are.

Nothing is refused here but a folder without any layout: `scan` lists the pairs of a split and everything that is
wrong with its files, and whoever asked decides whether that is an error (`folder_dataset`) or a finding
(`fullconv.check`).
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fullconv.data.dataset import SPLITS
from fullconv.errors import UsageError, shown
from fullconv.io.formats import FORMAT_SUFFIXES

MASK_FOLDERS = ("labels", "masks", "annotations")
IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMAT_SUFFIXES.values() for suffix in suffixes)
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".npy", ".gif")
MASK_ENDINGS = ("_mask", "_label", "_gt", "_L")  # 'a.jpg' pairs with 'a.png', or else with 'a_mask.png' and so on
HINT = (
    "expected train/images + train/labels (or masks, annotations), images/train + labels/train, images + labels, "
    "train + trainannot, or JPEGImages + SegmentationClass + ImageSets/Segmentation"
)
EXAMPLES = 5

Pair = tuple[str, Path, Path]
"""Name (the image's stem), image file, mask file."""


@dataclass(frozen=True)
class Problem:
    """One kind of thing that is wrong, however often it occurs.

    kind: a short word for programs. severity: ``error`` (cannot be used) or ``warning``.
    message: ``THING: WHAT; WHAT TO DO``. examples: the first few files, lines or values. count: how many in all.
    """

    kind: str
    severity: str
    message: str
    examples: tuple[str, ...] = ()
    count: int = 1

    @classmethod
    def of(cls, kind: str, severity: str, message: str, found: Sequence[str]) -> Problem:
        """The problem with the first of the things found as examples."""
        return cls(kind, severity, message, tuple(found[:EXAMPLES]), len(found))

    def line(self) -> str:
        """Message and examples in one line."""
        if not self.examples:
            return self.message
        return f"{self.message} ({', '.join(self.examples)}{', ...' if self.count > len(self.examples) else ''})"


@dataclass(frozen=True)
class Source:
    """Where the files of one split lie. `listed` is VOC's list of names."""

    images: Path
    masks: Path
    listed: Path | None = None


@dataclass(frozen=True)
class Layout:
    """A data set on disk: its splits and where each lies.

    whole: set instead of `splits` when images and masks are not divided; a split is then made.
    unlabelled: splits that have images but no masks. voc: PASCAL VOC's own folder.
    """

    root: Path
    splits: Mapping[str, Source] = field(default_factory=dict)
    whole: Source | None = None
    unlabelled: tuple[str, ...] = ()
    voc: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The splits that can be opened."""
        return tuple(self.splits) if self.whole is None else ("train", "val")


@dataclass(frozen=True)
class Scan:
    """The pairs of one source in the order of their names (or of the list), and what is wrong with its files."""

    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...]


def find_layout(root: Path) -> Layout:
    """The layout of a folder; raises `UsageError` saying what is there and what was looked for when it has none."""
    _require_folder(root)
    lists = root / "ImageSets" / "Segmentation"
    if all(folder.is_dir() for folder in (root / "JPEGImages", root / "SegmentationClass", lists)):
        splits = {
            split: Source(root / "JPEGImages", root / "SegmentationClass", lists / f"{split}.txt")
            for split in (*SPLITS, "trainval")
            if (lists / f"{split}.txt").is_file()
        }
        if not splits:
            raise UsageError(f"{shown(lists)}: no list of a split; put train.txt and val.txt there")
        return Layout(root, splits, voc=True)
    splits, unlabelled = {}, []
    for split in SPLITS:
        found, images = _split_folders(root, split)
        if found:
            splits[split] = found
        elif images:
            unlabelled.append(split)
    if splits:
        return Layout(root, splits, unlabelled=tuple(unlabelled))
    if (root / "images").is_dir() and not unlabelled:
        for masks in MASK_FOLDERS:
            if (root / masks).is_dir():
                return Layout(root, whole=Source(root / "images", root / masks))
    raise UsageError(f"{shown(root)}: {_what_is_there(root)}; {HINT}")


def scan(source: Source) -> Scan:
    """The pairs of a source and everything that is wrong with its files, without opening one of them."""
    return _scan_list(source, source.listed) if source.listed else _scan_folders(source)


def _split_folders(root: Path, split: str) -> tuple[Source | None, bool]:
    """The folders of one split in the layouts without lists, and whether there are images of it at all."""
    seen = False
    for images, masks in (
        *((root / split / "images", root / split / folder) for folder in MASK_FOLDERS),
        *((root / "images" / split, root / folder / split) for folder in MASK_FOLDERS),
        (root / split, root / f"{split}annot"),
    ):
        if images.is_dir() and masks.is_dir():
            return Source(images, masks), True
        seen = seen or (images.is_dir() and bool(list_files(images, IMAGE_SUFFIXES)))
    return None, seen


def _scan_folders(source: Source) -> Scan:
    problems: list[Problem] = []
    images, masks = _by_stem(source.images, IMAGE_SUFFIXES), _by_stem(source.masks, MASK_SUFFIXES)
    here, there = shown(source.images), shown(source.masks)
    if not images:
        what = f"{here}: no images{_inside(source.images)}; put JPEG or PNG files there"
        return Scan((), (Problem("empty", "error", what),))
    if not masks:
        what = f"{there}: no masks for {_number(len(images), 'image')}{_inside(source.masks)}; save masks as PNG there"
        return Scan((), (Problem("no-mask", "error", what, count=len(images)),))
    for where, files in ((here, images), (there, masks)):
        twins = [" and ".join(shown(p.name) for p in paths) for paths in files.values() if len(paths) > 1]
        if twins:
            what = f"{where}: {_number(len(twins), 'name')} borne by several files; keep one file of each"
            problems.append(Problem.of("same-name", "error", what, twins))
    pairs, lonely, used = [], [], set()
    for stem, (image, *_) in images.items():
        match = next((m for m in (stem, *(stem + ending for ending in MASK_ENDINGS)) if m in masks), None)
        if match is None:
            lonely.append(shown(image.name))
        else:
            used.add(match)
            pairs.append((image.stem, image, masks[match][0]))
    if lonely:
        alone = f"{here}: {_number(len(lonely), 'image')} without a mask in {there}"
        what = f"{alone}; add the masks, take the images out, or say --skip-unpaired"
        problems.append(Problem.of("no-mask", "error", what, lonely))
    idle = [shown(paths[0].name) for stem, paths in masks.items() if stem not in used]
    if idle:
        alone = f"{there}: {_number(len(idle), 'mask')} without an image in {here}"
        what = f"{alone}; add the images, take the masks out, or say --skip-unpaired"
        problems.append(Problem.of("no-image", "error", what, idle))
    return Scan(tuple(pairs), tuple(problems))


def _scan_list(source: Source, listed: Path) -> Scan:
    """The names in one of VOC's lists: one a line; any line ends, a byte order mark and blank lines are fine."""
    try:
        text = listed.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"{shown(listed)}: cannot be read ({error.strerror}); check its permissions") from error
    images, masks = _by_stem(source.images, IMAGE_SUFFIXES), _by_stem(source.masks, MASK_SUFFIXES)
    first: dict[str, int] = {}
    pairs, repeated, unknown = [], [], []
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        name = line.strip()
        stem = spelled(name)
        if not name:
            continue
        if stem in first:
            repeated.append(f"line {number}: '{shown(name)}' stands in line {first[stem]} already")
            continue
        first[stem] = number
        sides = ((source.images, images), (source.masks, masks))
        missing = [shown(folder) for folder, files in sides if stem not in files]
        if missing:
            unknown.append(f"line {number}: '{shown(name)}' is not in {' nor in '.join(missing)}")
        else:
            pairs.append((name, images[stem][0], masks[stem][0]))
    problems = []
    if repeated:
        what = f"{shown(listed)}: {_number(len(repeated), 'name')} listed twice; keep one line of each"
        problems.append(Problem.of("list", "error", what, repeated))
    if unknown:
        what = (
            f"{shown(listed)}: {_number(len(unknown), 'name')} without image or mask; add the files or remove the lines"
        )
        problems.append(Problem.of("list", "error", what, unknown))
    if not first:
        problems.append(Problem("empty", "error", f"{shown(listed)}: no names; write one a line"))
    return Scan(tuple(pairs), tuple(problems))


# -- files of a folder -------------------------------------------------------------------------------------------------


def list_files(folder: Path, suffixes: Sequence[str] = ()) -> list[Path]:
    """List the files with one of the suffixes, in any case, by name; hidden ones (``._a.jpg``) are left out."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and not e.is_dir())
    except OSError as error:
        raise UsageError(f"{shown(folder)}: cannot be listed ({error.strerror}); check its permissions") from error
    return [folder / name for name in names if not suffixes or Path(name).suffix.lower() in suffixes]


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in list_files(folder, suffixes):
        files.setdefault(spelled(path.stem), []).append(path)
    return files


def spelled(name: str) -> str:
    """Return a name with composed accents; some systems store them composed, others decomposed."""
    return unicodedata.normalize("NFC", name)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _inside(folder: Path) -> str:
    """What a folder holds that has nothing of the right kind."""
    kinds = Counter("folder" if entry.is_dir() else entry.suffix.lower() for entry in folder.iterdir())
    words = [(n, kind if kind == "folder" else shown(f"{kind} file".strip())) for kind, n in kinds.most_common(3)]
    found = ", ".join(_number(n, word) for n, word in words)
    jpeg = ", and JPEG changes label values" if kinds.keys() & {".jpg", ".jpeg"} else ""
    return f" (it holds {found or 'nothing'}{jpeg})"


# -- words for what is not there ---------------------------------------------------------------------------------------


def _require_folder(root: Path) -> None:
    try:
        if root.is_dir():
            return
        if root.exists():
            raise UsageError(f"{shown(root)}: a file, not a folder; give the folder that holds images and masks")
        nearest = next((p for p in root.absolute().parents if p.is_dir()), Path("/"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown(root)}: cannot be opened ({error}); check the name") from error
    raise UsageError(f"{shown(root)}: no such folder; the nearest one that exists is {shown(nearest)}")


def _what_is_there(root: Path) -> str:
    try:
        entries = sorted(p.name + "/" * p.is_dir() for p in root.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{shown(root)}: cannot be listed ({error.strerror}); check its permissions") from error
    if not entries:
        return "an empty folder"
    places = [root, *(root / split for split in SPLITS), root / "images", root / "JPEGImages"]
    places += [root / a / b for split in SPLITS for a, b in (("images", split), (split, "images"))]
    images = next(((p, n) for p in places if p.is_dir() and (n := len(list_files(p, IMAGE_SUFFIXES)))), None)
    if images:
        return f"{_number(images[1], 'image')} in {shown(images[0])} but no folder of masks"
    some = ", ".join(shown(entry) for entry in entries[:6]) + (", ..." if len(entries) > 6 else "")
    return f"no images and masks (it holds {some})"
