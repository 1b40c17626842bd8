"""What the files of one pair look like, and masks that can be read and are yet not what was meant.

Each function looks at one thing and returns plain data; `fullconv.checking.check_dataset` makes sentences of it.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fullconv.checking.duplicates import Thumbnail, thumbnail
from fullconv.data.dataset import Dataset, Image
from fullconv.datasets.folder.folder_dataset import Folder
from fullconv.datasets.folder.layouts import Pair
from fullconv.datasets.folder.mask_encoding import MaskEncoding
from fullconv.datasets.folder.mask_facts import MaskFacts, mask_facts, packed, unpacked
from fullconv.errors import UsageError
from fullconv.io.decoding import open_file
from fullconv.io.formats import HEAD_BYTES, sniff
from fullconv.io.image import read_image
from fullconv.io.label_image import read_label_values
from fullconv.io.multispectral import read_bands

LEAST_PIXELS = 1024  # a smaller mask may well consist of details
SPECKS = 0.02  # of the pixels of a mask; CamVid's masks, drawn by hand, reach 0.006
DOMINANT, RARE = 0.01, 0.005  # of the pixels of a mask
COVER_COLOURS, COVER_VALUES = 0.4, 0.7  # of the pixels are dominant ones; a JPEG scatters colours more than values
RARE_COLOURS = 32
RARE_VALUES = 12
RAMP_VALUES = 4
NEAR = 48  # levels in each channel
QUICK_SAMPLE = 50

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class MaskLook:
    """What the pixels of one mask look like.

    specks: the share of the pixels that differ from all four neighbours; 0 in masks of fewer than 1024 pixels.
    lossy: why the mask looks as if it had been saved with loss or enlarged with interpolation, or None.
    """

    specks: float
    lossy: str | None


@dataclass(frozen=True)
class Inspected:
    """One pair of files, read once. What could not be read is None, and its error a line.

    digest: SHA-256 of the image file. kind: its format by content. ended: whether a PNG has its end mark.
    size: (height, width) of the image. flat: whether it is of one colour all over. thumbnail: see
    `fullconv.checking.duplicates`. facts, look: of the mask. copied: whether both files hold the same bytes.
    """

    digest: str | None = None
    kind: str | None = None
    ended: bool = True
    size: tuple[int, int] | None = None
    flat: bool = False
    thumbnail: Thumbnail | None = None
    image_error: str | None = None
    facts: MaskFacts | None = None
    look: MaskLook | None = None
    mask_error: str | None = None
    copied: bool = False


def inspect(pair: Pair, bands: bool = False) -> Inspected:
    """Read both files of a pair; safe to call from several threads. bands: the image is read as it is stored."""
    _, image_path, mask_path = pair
    found: dict[str, Any] = {}
    try:
        found |= _bytes(image_path)
        image = read_bands(image_path) if bands else read_image(image_path)
        small = thumbnail(image)
        found |= {"size": image.shape[:2], "thumbnail": small, "flat": is_flat(image, small)}
    except UsageError as error:
        found["image_error"] = str(error)
    try:
        found["facts"] = facts = mask_facts(mask_path)
        found["look"] = look(read_label_values(mask_path), facts)
    except UsageError as error:
        found["mask_error"] = str(error)
    return Inspected(**found, copied=_same_bytes(image_path, mask_path))


def is_flat(image: Image, small: Thumbnail) -> bool:
    """Whether an image (H, W, C) is of one colour all over; its thumbnail saves looking at most of them."""
    return int(small.max()) - int(small.min()) <= 2 and bool((image == image[:1, :1]).all())


def _bytes(path: Path) -> dict[str, Any]:
    with open_file(path) as stream:
        kind = sniff(stream.read(HEAD_BYTES))[0]
        stream.seek(0)
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
        stream.seek(max(0, stream.tell() - 4096))
        ended = kind != "PNG" or b"IEND" in stream.read()
    return {"digest": digest.hexdigest(), "kind": kind, "ended": ended}


def _same_bytes(image: Path, mask: Path) -> bool:
    try:
        return 0 < image.stat().st_size == mask.stat().st_size and image.read_bytes() == mask.read_bytes()
    except (OSError, ValueError):
        return False


def look(stored: NDArray[np.integer], facts: MaskFacts) -> MaskLook:
    """Look at a mask as `read_label_values` gives it, (H, W) or (H, W, 3), and at its counts."""
    colour = stored.ndim == 3 and not facts.gray
    keys: NDArray[np.integer] = packed(stored) if colour else stored[..., 0] if stored.ndim == 3 else stored
    if keys.size < LEAST_PIXELS:
        return MaskLook(0.0, None)
    equal = company(keys)
    lossy = _lossy_colours(facts.counts, keys.size) if colour else _lossy_values(keys, equal, facts.values())
    return MaskLook(0.0 if lossy else float((equal == 0).mean()), lossy)


def company(keys: NDArray[np.integer]) -> NDArray[np.uint8]:
    """How many of the neighbours of each pixel of (H, W), above, below, left and right, are equal to it.

    >>> company(np.array([[0, 0, 0], [0, 7, 0]])).tolist()
    [[2, 2, 2], [1, 0, 1]]
    """
    equal = np.zeros(keys.shape, np.uint8)
    beside, below = keys[:, 1:] == keys[:, :-1], keys[1:] == keys[:-1]
    equal[:, 1:] += beside
    equal[:, :-1] += beside
    equal[1:] += below
    equal[:-1] += below
    return equal


def _lossy_colours(counts: Mapping[int, int], pixels: int) -> str | None:
    """Many rare colours, a third of them close to one of a few dominant ones."""
    rare = [key for key, n in counts.items() if n < RARE * pixels]
    dominant = [key for key, n in counts.items() if n >= DOMINANT * pixels]
    if len(rare) < max(RARE_COLOURS, 4 * len(dominant)) or sum(counts[k] for k in dominant) < COVER_COLOURS * pixels:
        return None
    few, many = (np.array([unpacked(key) for key in keys], np.int32) for keys in (dominant, rare))
    near = np.abs(many[:, None] - few[None]).max(2).min(1) <= NEAR
    return f"{len(rare)} rare colours around {len(dominant)} frequent ones" if 3 * near.sum() >= len(rare) else None


def _lossy_values(keys: NDArray[np.integer], equal: NDArray[np.uint8], counts: Mapping[int, int]) -> str | None:
    """Rare values that stand as steps between a lower and a higher neighbour, or hardly beside their own kind."""
    rare = np.array(sorted(key for key, n in counts.items() if n < RARE * keys.size), np.int64)
    kept = sum(n for n in counts.values() if n >= DOMINANT * keys.size)
    if len(rare) < RAMP_VALUES or kept < COVER_VALUES * keys.size or rare[0] < 0 or rare[-1] > 65535:
        return None
    places = np.isin(keys, rare)
    step = np.zeros(keys.shape, np.bool_)
    for before, here, after, inner in (
        (keys[:, :-2], keys[:, 1:-1], keys[:, 2:], step[:, 1:-1]),
        (keys[:-2], keys[1:-1], keys[2:], step[1:-1]),
    ):
        inner |= ((before < here) & (here < after)) | ((after < here) & (here < before))
    numbers, steps = (np.bincount(keys[p].astype(np.int64), minlength=65536)[rare] for p in (places, places & step))
    between = int((steps >= 0.7 * numbers).sum())
    if between >= RAMP_VALUES and 2 * between >= len(rare):
        return f"{between} rare values that stand only between lower and higher ones"
    if len(rare) >= RARE_VALUES and (equal[places] <= 2).mean() >= 0.9:
        return f"{len(rare)} rare values, in specks and lines one pixel wide"
    return None


def off_by_one(coding: MaskEncoding, named: bool, masks: Iterable[MaskFacts]) -> str | None:
    """What to write into ``classes.yaml`` when the values look as if they began at 1, else None.

    named: whether the number of classes K was given; then the value K gives it away. Without names the classes were
    counted up to the largest value, and it is a 0 in no mask that does, when all the values from 1 on occur.
    """
    count, present = len(coding.labels), set[int]()
    for facts in masks:
        keys, by_colour = coding.keys(facts)
        if by_colour:
            return None
        present.update(keys)
    if any(value != index and index != coding.labels.ignore_index for value, index in coding.values.items()):
        return None  # somebody has thought about it
    present -= {value for value in present if coding.index(value, colour=False) == coding.labels.ignore_index}
    top = count if named else count - 1
    if not present or max(present) != top or min(present) < 0:
        return None
    mapping = ", ".join(f"{value}: {value - 1}" for value in range(1, top + 1))
    if 0 not in present:
        whole = named or (top >= 2 and present == set(range(1, top + 1)))
        return f"give `map: {{{mapping}}}` in classes.yaml" if whole else None
    if not named:
        return None
    return f"name the class of the value 0 too, or, where 0 is void, give `void: [0]` and `map: {{{mapping}}}`"


def renumbered(masks: Sequence[tuple[Path, MaskFacts]]) -> dict[Path, str]:
    """The masks of one folder in whose palette a used colour has another index than in most of the others, with words.

    Only colours and indices that occur in pixels count, and colours that stand once in the palettes' used part.
    """
    used: dict[bytes, set[int]] = {}
    files: Counter[bytes] = Counter()
    for _, facts in masks:
        if facts.palette is not None and not facts.colour:
            used.setdefault(facts.palette, set()).update(facts.counts)
            files[facts.palette] += 1
    if len(used) < 2:
        return {}
    meant = {palette: _colours(palette, indices) for palette, indices in used.items()}
    votes: dict[bytes, Counter[int]] = {}
    for palette, colours in meant.items():
        for colour, index in colours.items():
            votes.setdefault(colour, Counter())[index] += files[palette]
    usual = {colour: min(counts, key=lambda i: (-counts[i], i)) for colour, counts in votes.items()}
    found = {}
    for path, facts in masks:
        for colour, index in sorted(meant.get(facts.palette or b"", {}).items()):
            if index in facts.counts and index != usual[colour]:
                found[path] = f"the colour {tuple(colour)} is {index}, in the others {usual[colour]}"
                break
    return found


def _colours(palette: bytes, indices: Iterable[int]) -> dict[bytes, int]:
    """The index of each colour that stands for exactly one of the used indices."""
    pairs = [(palette[3 * i : 3 * i + 3], i) for i in indices if 0 <= 3 * i <= len(palette) - 3]
    times = Counter(colour for colour, _ in pairs)
    return {colour: index for colour, index in pairs if times[colour] == 1}


def facts_of(label: NDArray[np.integer]) -> MaskFacts:
    """The counts of a label (H, W) that is no file."""
    values, counts = np.unique(label, return_counts=True)
    size = label.shape[0], label.shape[1]
    return MaskFacts(size, False, dict(zip(values.tolist(), counts.tolist(), strict=True)), None)


def quick_labels(split: str, dataset: Dataset, seed: int) -> list[str]:
    """Sentences on a seeded sample of 50 labels: values that are no class, labels all void, classes absent there."""
    many = len(dataset) > QUICK_SAMPLE
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:QUICK_SAMPLE]
    labels = dataset.labels
    classes, void, wrong = np.zeros(len(labels), np.int64), 0, []
    for index in sorted(int(i) for i in chosen):
        try:
            if isinstance(dataset, Folder):
                coding, facts = dataset.coding, mask_facts(dataset.pairs[index][2])
            else:
                coding, facts = MaskEncoding(labels, {}, None), facts_of(dataset[index].semantic)
        except UsageError as error:
            wrong.append(str(error))
            continue
        if coding.strays(facts):
            wrong.append(f"label {index} holds values or colours that are no class")
        pixels, _ = coding.pixels(facts)
        classes += pixels
        void += not pixels.any()
    number = f"{len(chosen)} {split} labels" + (" drawn at random" if many else "")
    found = [f"{len(wrong)} of {number} cannot be used ({wrong[0]}); see fullconv check."] if wrong else []
    if void:
        found.append(f"{void} of {number} are void all over; they teach and count nothing.")
    absent = [name for name, count in zip(labels.names, classes, strict=True) if not count]
    if absent and len(wrong) < len(chosen):
        some = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        found.append(f"{len(absent)} of {len(labels)} classes are in none of {number}: {some}.")
    return found


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """The results of a function by so many threads, in the order of the items, with few of them waiting."""
    if workers <= 1:
        yield from map(function, items)
        return
    pool, waiting = ThreadPoolExecutor(workers), deque[Future[Result]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
