"""``classes.yaml``: what the user says about the numbers and colours in the masks. All of it is optional::

    names: [background, cell, wall]         # or classes: [{name: background, color: [0, 0, 0]}, {name: cell, ...}]
    palette: [[0, 0, 0], [255, 0, 0], ...]  # colours of the classes, "#rrggbb" too, or: palette: voc
    void: [254, "#ffffff"]                  # values and colours that count for nothing; 255 always does
    map: {255: 1}                           # mask value: class index, before anything else

Colours are given when the masks are colour pictures; with masks of class indices they only serve for drawing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fullconv.datasets.published.label_spaces import VOC
from fullconv.errors import UsageError, shown, suggestion
from fullconv.io.strict_yaml import load_plain
from fullconv.labels import Colour, voc_colour

FILE_NAME = "classes.yaml"
MAX_BYTES = 1 << 18
MAX_CLASSES = 65535
KEYS = ("names", "classes", "palette", "void", "map")


@dataclass(frozen=True)
class ClassesFile:
    """The content of ``classes.yaml``, checked; `Rules()` is what holds without one.

    names, palette: None where not given. voc: the palette is PASCAL VOC's, of whatever length is needed. found: each
    colour in the training masks is a class.
    void_values, void_colours: what is mapped to void. mapping: mask value -> class index.
    """

    names: tuple[str, ...] | None = None
    palette: tuple[Colour, ...] | None = None
    voc: bool = False
    void_values: frozenset[int] = frozenset()
    void_colours: frozenset[Colour] = frozenset()
    mapping: Mapping[int, int] = field(default_factory=dict)
    found: bool = False


@dataclass(frozen=True)
class MaskOptions:
    """What is said about a folder on the command line, in place of a file or beside it.

    mapping: mask value -> class index, before what ``classes.yaml`` says. colors: "" for what the file says, ``voc``
    for PASCAL VOC's, ``auto`` for a class for each colour in the training masks. skip_unpaired: leave out images
    without a mask and masks without an image.
    """

    mapping: Mapping[int, int] = field(default_factory=dict)
    colors: str = ""
    skip_unpaired: bool = False

    def over(self, rules: ClassesFile) -> ClassesFile:
        """The rules of the file with these over them."""
        chosen = replace(rules, mapping={**rules.mapping, **self.mapping})
        if self.colors:
            chosen = replace(chosen, palette=None, voc=self.colors == "voc", found=self.colors == "auto")
        return chosen


VOC_RULES = ClassesFile(VOC.names, VOC.palette, void_colours=frozenset({VOC.void_colour}))
"""PASCAL VOC's own folder: 21 classes, whether the masks are indices or colours."""


def read_rules(root: Path) -> ClassesFile | None:
    """The rules in ``root/classes.yaml``, or None when there is no such file.

    Raises `UsageError` with the file and the line or key that is wrong.
    """
    path = root / FILE_NAME
    try:
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{shown(path)}: cannot be read ({error.strerror}); check its permissions") from error
    if len(content) > MAX_BYTES:
        raise UsageError(f"{shown(path)}: more than {MAX_BYTES:,} bytes; a list of classes is shorter")
    return parse_rules(content, shown(path))


def parse_rules(content: bytes, name: str = FILE_NAME) -> ClassesFile:
    """The rules in the bytes of a ``classes.yaml``.

    >>> rules = parse_rules(b"classes: [ground, {name: cell, color: '#ff0000'}]")
    >>> rules.names, rules.palette
    (('ground', 'cell'), ((0, 0, 0), (255, 0, 0)))
    """
    data = load_plain(content, name, KEYS)
    if "names" in data and "classes" in data:
        raise UsageError(f"{name}: both 'names' and 'classes' are given; keep one of them")
    names, palette = _classes(data, name)
    voc = data.get("palette") == "voc"
    if "palette" in data and not voc:
        if palette is not None:
            raise UsageError(f"{name}: colours are given in 'classes' and in 'palette'; keep one of them")
        palette = tuple(_colour(c, f"{name}: palette") for c in _list(data["palette"], f"{name}: palette"))
    if names is not None and len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise UsageError(f"{name}: the class name '{shown(twice)}' stands twice; names must differ")
    if names is not None and palette is not None and len(names) != len(palette):
        raise UsageError(f"{name}: {len(names)} names but {len(palette)} colours; give one colour a class")
    values, colours = _void(data.get("void", []), name)
    mapping = _mapping(data.get("map", {}), name)
    both = sorted(values & mapping.keys())
    if both:
        raise UsageError(f"{name}: the value {both[0]} stands in 'void' and in 'map'; keep one of them")
    if voc:
        colours |= {VOC.void_colour}
    return ClassesFile(names, palette, voc, values, colours, mapping)


def _classes(data: Mapping[str, Any], name: str) -> tuple[tuple[str, ...] | None, tuple[Colour, ...] | None]:
    """Names and colours from ``names`` or ``classes``; a class without a colour among coloured ones gets VOC's."""
    key = "classes" if "classes" in data else "names"
    if key not in data:
        return None, None
    names: list[str] = []
    colours: list[Colour | None] = []
    for i, item in enumerate(_list(data[key], f"{name}: {key}")):
        where = f"{name}: {key}[{i}]"
        colour = None
        if key == "classes" and isinstance(item, dict):
            for word in item:
                if word not in ("name", "color", "colour"):
                    raise UsageError(
                        f"{where}: unknown key '{shown(word)[:60]}'; {suggestion(str(word), ('name', 'color'))}"
                    )
            given = item.get("color", item.get("colour"))
            colour = None if given is None else _colour(given, where)
            item = item.get("name")
        if isinstance(item, bool) or not isinstance(item, str | int) or str(item) == "":
            raise UsageError(
                f"{where}: {_brief(item)} is no class name; write a word, in quotes if it is yes, no, on or off"
            )
        names.append(str(item))
        colours.append(colour)
    if not names or len(names) > MAX_CLASSES:
        raise UsageError(f"{name}: {key} lists {len(names)} classes; give from 1 to {MAX_CLASSES}")
    if not any(colours):
        return tuple(names), None
    return tuple(names), tuple(colour or voc_colour(i) for i, colour in enumerate(colours))


def _void(given: Any, name: str) -> tuple[frozenset[int], frozenset[Colour]]:
    values, colours = set(), set()
    for item in given if isinstance(given, list) else [given]:
        if isinstance(item, int) and not isinstance(item, bool):
            values.add(_value(item, f"{name}: void"))
        else:
            colours.add(_colour(item, f"{name}: void"))
    return frozenset(values), frozenset(colours)


def _mapping(given: Any, name: str) -> dict[int, int]:
    if not isinstance(given, dict):
        raise UsageError(f"{name}: map: {_brief(given)}; write it as `map: {{255: 1}}`")
    return {_value(k, f"{name}: map"): _value(v, f"{name}: map") for k, v in given.items()}


def _value(given: Any, where: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= 65535:
        raise UsageError(f"{where}: {_brief(given)} is no mask value; give a whole number from 0 to 65535")
    return given


def _colour(given: Any, where: str) -> Colour:
    """A colour from [r, g, b] or "#rrggbb"."""
    if isinstance(given, str) and re.fullmatch("#[0-9a-fA-F]{6}", given):
        return int(given[1:3], 16), int(given[3:5], 16), int(given[5:7], 16)
    if isinstance(given, list) and len(given) == 3 and all(type(c) is int and 0 <= c <= 255 for c in given):
        return given[0], given[1], given[2]
    raise UsageError(f"{where}: {_brief(given)} is no colour; write [r, g, b] of 0 to 255, or '#rrggbb' in quotes")


def _list(given: Any, where: str) -> list[Any]:
    if not isinstance(given, list):
        raise UsageError(f"{where}: {_brief(given)} is no list; write it as [..., ...]")
    return given


def _brief(value: Any) -> str:
    text = repr(value)
    return shown(text if len(text) <= 60 else text[:57] + "...")
