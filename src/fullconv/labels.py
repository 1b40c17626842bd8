"""Label spaces: what the numbers in a label mean, and the colours they are drawn in.

A label space is shared by a data set, the nets trained on it and the pictures that they draw; it travels in the
header of every checkpoint. The value ``ignore_index`` (void) is no class: it adds nothing to a loss or a score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fullconv.errors import UsageError

Colour = tuple[int, int, int]


def voc_colour(value: int) -> Colour:
    """The colour of one label value in PASCAL VOC's palette.

    The bits of the value are dealt out three at a time to red, green and blue, the lowest three to the highest bit
    of each.

    >>> [voc_colour(v) for v in (0, 1, 15, 255)]
    [(0, 0, 0), (128, 0, 0), (192, 128, 128), (224, 224, 192)]
    """
    red = green = blue = 0
    for place in range(7, -1, -1):
        red |= (value & 1) << place
        green |= (value >> 1 & 1) << place
        blue |= (value >> 2 & 1) << place
        value >>= 3
    return red, green, blue


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a segmentation task: their names in the order of their indices, and a colour for each.

    >>> space = LabelSpace.of(["background", "cell"])
    >>> len(space), space.names[1], space.palette[1], space.ignore_index
    (2, 'cell', (128, 0, 0), 255)
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore_index: int = 255
    void_colour: Colour = (224, 224, 192)

    def __post_init__(self) -> None:
        if not self.names:
            raise UsageError("label space: it has no class; give at least two names")
        if len(self.names) != len(self.palette):
            raise UsageError(
                f"label space: {len(self.names)} names but {len(self.palette)} colours; give one colour a class"
            )
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise UsageError(f"label space: the class name '{repeated[0]}' stands twice; names must differ")
        if 0 <= self.ignore_index < len(self.names):
            raise UsageError(
                f"label space: the void value {self.ignore_index} is also a class; "
                f"choose one above {len(self.names) - 1}"
            )

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(
        cls, names: Sequence[str], palette: Sequence[Sequence[int]] | None = None, ignore_index: int = 255
    ) -> LabelSpace:
        """A label space from names alone, drawn in PASCAL VOC's colours where no palette is given."""
        colours = (
            [voc_colour(i) for i in range(len(names))]
            if palette is None
            else [(int(r), int(g), int(b)) for r, g, b in palette]
        )
        return cls(tuple(names), tuple(colours), ignore_index)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for a checkpoint header or ``classes.yaml``."""
        return {
            "names": list(self.names),
            "palette": [list(c) for c in self.palette],
            "ignore_index": self.ignore_index,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelSpace:
        """The inverse of `to_dict`."""
        return cls.of(data["names"], data["palette"], data["ignore_index"])

    def flat_palette(self) -> list[int]:
        """256 colours as 768 numbers, for a palette PNG: the classes, the void colour at `ignore_index`, black
        elsewhere.
        """
        colours: list[Colour] = [(0, 0, 0)] * 256
        colours[: len(self)] = self.palette[:256]
        if 0 <= self.ignore_index < 256:
            colours[self.ignore_index] = self.void_colour
        return [channel for colour in colours for channel in colour]
