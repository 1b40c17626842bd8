"""From what a mask file holds to class indices: the label space of a folder, and the table that reads its masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fullconv.datasets.folder.classes_file import FILE_NAME, ClassesFile
from fullconv.datasets.folder.mask_facts import MaskFacts, first_place, packed, unpacked
from fullconv.datasets.published.label_spaces import VOC
from fullconv.errors import UsageError, shown
from fullconv.labels import Colour, LabelSpace, voc_colour

VOID = 255
MOST_FOUND = 64
_STRAY = -1
_TABLE = 65536  # one entry more stands for whatever does not fit 16 bits
_VOC_COLOURS = {int(packed(np.array(colour))): i for i, colour in enumerate((*VOC.palette, VOC.void_colour))}


@dataclass(frozen=True)
class MaskEncoding:
    """How the values or colours in the masks of one folder become class indices.

    labels: the label space. values: mask value -> class index or void, for the values that are not their own index.
    colours: packed colour -> class index or void; None when no colours are known.
    """

    labels: LabelSpace
    values: Mapping[int, int]
    colours: Mapping[int, int] | None

    def index(self, key: int, colour: bool) -> int | None:
        """The class index (or void) of one value or packed colour; None when it has none."""
        if colour:
            return None if self.colours is None else self.colours.get(key)
        index = self.values.get(key, key)
        return index if 0 <= index < len(self.labels) or index == self.labels.ignore_index else None

    def keys(self, facts: MaskFacts) -> tuple[Mapping[int, int], bool]:
        """What of a mask is looked up, with pixel counts: values or packed colours, and which of the two."""
        by_colour = facts.colour and not (self.colours is None and facts.gray)
        return (facts.counts if by_colour else facts.values()), by_colour

    def strays(self, facts: MaskFacts) -> dict[int, int]:
        """The values or colours of a mask that mean nothing here, with their pixel counts."""
        keys, by_colour = self.keys(facts)
        return {key: count for key, count in keys.items() if self.index(key, by_colour) is None}

    def pixels(self, facts: MaskFacts) -> tuple[NDArray[np.int64], int]:
        """The pixels of a mask by class (K,) and those of void."""
        keys, by_colour = self.keys(facts)
        classes, void = np.zeros(len(self.labels), np.int64), 0
        for key, count in keys.items():
            index = self.index(key, by_colour)
            if index == self.labels.ignore_index:
                void += count
            elif index is not None:
                classes[index] += count
        return classes, void

    def encode(self, stored: NDArray[np.integer], path: Path) -> NDArray[np.integer]:
        """The label (H, W) of a mask as `read_label_values` gives it: uint8 where every index fits, else int32.

        Raises `UsageError` naming the first value or colour that is no class, its pixel count and its first place.
        """
        if stored.ndim == 2 and stored.dtype == np.uint8 and self._narrow:
            known, bytes_of = self._bytes
            if known[np.flatnonzero(np.bincount(stored.ravel(), minlength=256))].all():
                return bytes_of.take(stored)
        by_colour = stored.ndim == 3
        keys: NDArray[np.integer] = packed(stored) if by_colour else stored
        if by_colour and self.colours is None:
            if (keys % 0x010101).any():
                raise UsageError(
                    f"{shown(path)}: a colour picture, and no colours are known; give colours in {FILE_NAME}"
                )
            by_colour, keys = False, stored[:, :, 0]  # gray, saved as RGB
        if by_colour and self.colours is not None:
            known = np.array(sorted(self.colours), np.int32)
            indices = np.array([self.colours[int(key)] for key in known], np.int32)
            places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            label = np.where(known[places] == keys, indices[places], _STRAY)
        else:
            narrow = keys.dtype in (np.uint8, np.uint16)
            label = self._table[keys if narrow else np.where((keys < 0) | (keys >= _TABLE), _TABLE, keys)]
        if (label == _STRAY).any():
            key = int(keys.ravel()[np.argmax(label.ravel() == _STRAY)])
            raise UsageError(self.stray_line(path, keys, key, by_colour))
        return label.astype(np.uint8 if self._narrow else np.int32)

    @property
    def _narrow(self) -> bool:
        """Whether every index fits a byte."""
        return max(len(self.labels) - 1, self.labels.ignore_index) <= 255

    @cached_property
    def _bytes(self) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
        """Of each byte: whether it means something, and what."""
        return self._table[:256] != _STRAY, self._table[:256].astype(np.uint8)

    @cached_property
    def _table(self) -> NDArray[np.int32]:
        table = np.full(_TABLE + 1, _STRAY, np.int32)
        table[: len(self.labels)] = np.arange(len(self.labels))
        table[self.labels.ignore_index] = self.labels.ignore_index
        for value in self.values:
            index = self.index(value, colour=False)
            table[value] = _STRAY if index is None else index
        return table

    def stray_line(self, path: Path, keys: NDArray[np.integer], key: int, by_colour: bool) -> str:
        """The error on one value or packed colour in a mask that is no class."""
        x, y = first_place(keys, key)
        where = f"in {int((keys == key).sum())} pixels, first at x={x} y={y}"
        if not by_colour:
            scope = f"the classes are 0 to {len(self.labels) - 1}, void {self.labels.ignore_index}"
            return f"{shown(path)}: the value {key} {where}, is no class ({scope}); correct the mask or {FILE_NAME}"
        if self.colours is None:
            return f"{shown(path)}: a colour picture, and no colours are known; give colours in {FILE_NAME}"
        return (
            f"{shown(path)}: the colour {unpacked(key)} {where}, is no class; correct the mask or add it to {FILE_NAME}"
        )


def find_coding(root: Path, rules: ClassesFile, masks: Sequence[MaskFacts]) -> MaskEncoding:
    """The coding of a folder: what its rules say, completed by what all its training masks hold.

    Without names the classes are 0 to the largest value below void, called class0, class1 ...; without colours they
    are drawn in the masks' own palette when all carry the same one, else in PASCAL VOC's. Raises `UsageError` when
    the masks are colour pictures without known colours, look like 0/255 binary masks, or hold a single class.
    """
    palette = rules.palette if rules.palette is not None or not rules.voc else _voc_palette(rules, masks)
    if rules.found:
        rules, palette = _found_colours(root, rules, masks)
    as_colours = [facts.colour and not (palette is None and facts.gray) for facts in masks]
    pictures = [facts for facts, colour in zip(masks, as_colours, strict=True) if colour]
    if pictures and palette is None:
        raise UsageError(_colour_advice(root, pictures, len(masks)))
    values: set[int] = set()
    for facts, colour in zip(masks, as_colours, strict=True):
        if not colour:
            values.update(facts.values())
    if values <= {0, VOID} and VOID in values and 0 in values and VOID not in rules.mapping:
        raise UsageError(
            f"{shown(root)}: the masks hold only 0 and 255, which looks like a 0/255 binary mask, and 255 means void; "
            f"say --map 255=1, or add {FILE_NAME} with `map: {{255: 1}}`"
        )
    count = len(rules.names or palette or ()) or _count_classes(root, rules, values)
    void = VOID if count <= VOID else 65535
    known = {VOID: VOID} if count <= VOID else {}
    known |= dict.fromkeys(rules.void_values, void) | dict(rules.mapping)
    wrong = [(value, index) for value, index in rules.mapping.items() if index >= count and index != void]
    if wrong:
        raise UsageError(
            f"{shown(root / FILE_NAME)}: map sends {wrong[0][0]} to {wrong[0][1]}, and the classes are "
            f"0 to {count - 1}; correct it or name more classes"
        )
    colours = palette or _shared_palette(masks, count) or tuple(voc_colour(i) for i in range(count))
    names = rules.names or tuple(f"class{i}" for i in range(count))
    space = LabelSpace.of(names, colours[:count], void)
    return MaskEncoding(space, known, None if palette is None else _colour_table(root, space, rules, bool(pictures)))


def _count_classes(root: Path, rules: ClassesFile, values: set[int]) -> int:
    kept = {rules.mapping.get(value, value) for value in values - rules.void_values}
    above = sorted(value for value in kept if not 0 <= value <= VOID)
    if above:
        raise UsageError(
            f"{shown(root)}: the masks hold the value {above[0]}, outside 0 to 255; name the classes in {FILE_NAME}, "
            "or save class indices if these are numbers of objects"
        )
    kept |= set(rules.mapping.values())
    count = max(kept - {VOID}, default=-1) + 1
    if count < 2:
        what = "no class, only void" if count == 0 else "only the value 0"
        raise UsageError(
            f"{shown(root)}: the masks hold {what}; nothing can be learnt, or name the classes in {FILE_NAME}"
        )
    return count


def _voc_palette(rules: ClassesFile, masks: Sequence[MaskFacts]) -> tuple[Colour, ...]:
    """PASCAL VOC's colours, as many as there are names, or as the colours and values in the masks need."""
    if rules.names is not None:
        return tuple(voc_colour(i) for i in range(len(rules.names)))
    index = {int(packed(np.array(voc_colour(i)))): i for i in range(VOID)}
    used = {index.get(key, 0) if facts.colour else key for facts in masks for key in facts.counts}
    return tuple(voc_colour(i) for i in range(max((i for i in used if i < VOID), default=0) + 1))


def _colour_table(root: Path, space: LabelSpace, rules: ClassesFile, needed: bool) -> dict[int, int] | None:
    table = dict.fromkeys((int(packed(np.array(colour))) for colour in rules.void_colours), space.ignore_index)
    for i, colour in enumerate(space.palette):
        key = int(packed(np.array(colour)))
        if table.get(key, i) != i:
            if not needed:
                return None
            other = "void" if table[key] == space.ignore_index else f"'{space.names[table[key]]}'"
            raise UsageError(
                f"{shown(root / FILE_NAME)}: the colour {colour} stands for {other} and '{space.names[i]}'; "
                "masks of colours need a colour of its own for each"
            )
        table[key] = i
    return table


def _shared_palette(masks: Sequence[MaskFacts], count: int) -> tuple[Colour, ...] | None:
    palettes = {facts.palette for facts in masks}
    shared = palettes.pop() if len(palettes) == 1 else None
    if shared is None:
        return None
    colours = tuple((shared[i], shared[i + 1], shared[i + 2]) for i in range(0, min(len(shared) // 3, count) * 3, 3))
    return colours if len(set(colours)) == count else None


def _colour_advice(root: Path, pictures: Sequence[MaskFacts], masks: int) -> str:
    found = set().union(*(facts.counts for facts in pictures))
    start = f"{shown(root)}: {len(pictures)} of {masks} masks are colour pictures"
    if found <= _VOC_COLOURS.keys():
        return f"{start} in PASCAL VOC's colours; say --colors voc, or add {FILE_NAME} with the line `palette: voc`"
    if any(len(facts.counts) > 1000 for facts in pictures):
        return f"{start} of thousands of colours, like photographs; give masks of class indices (PNG)"
    some = ", ".join(str(unpacked(key)) for key in sorted(found)[:5]) + (", ..." if len(found) > 5 else "")
    by_hand = f"add {FILE_NAME} with `classes: [{{name: ..., color: [r, g, b]}}, ...]`"
    return f"{start} ({some}); say --colors auto to make each a class, or {by_hand}"


def _found_colours(
    root: Path, rules: ClassesFile, masks: Sequence[MaskFacts]
) -> tuple[ClassesFile, tuple[Colour, ...]]:
    """A class for each colour of the training masks, black first as the background and the others by their number;
    PASCAL VOC's colour of void is void. They are called by their colours, where no names are given.
    """
    found = set().union(*(facts.counts for facts in masks if facts.colour)) - {int(packed(np.array(VOC.void_colour)))}
    if not 2 <= len(found) <= MOST_FOUND:
        raise UsageError(
            f"{shown(root)}: the masks hold {len(found)} colours; --colors auto makes a class of each, for 2 to "
            f"{MOST_FOUND} of them; give masks of class indices, or the colours in {FILE_NAME}"
        )
    palette = tuple(unpacked(key) for key in sorted(found))
    names = rules.names or tuple("background" if not any(colour) else "#{:02x}{:02x}{:02x}".format(*colour)
                                 for colour in palette)  # fmt: skip
    if len(names) != len(palette):
        raise UsageError(
            f"{shown(root / FILE_NAME)}: {len(names)} names, and the masks hold {len(palette)} colours; give as many"
        )
    return replace(rules, names=names, palette=palette, void_colours=rules.void_colours | {VOC.void_colour}), palette
