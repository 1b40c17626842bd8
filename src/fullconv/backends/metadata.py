"""What an exported net says of itself: everything that is needed to feed it and to read what it gives, as one JSON text
that travels inside the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from fullconv.config import InputConvention, Size
from fullconv.errors import UsageError, shown
from fullconv.geometry import Window
from fullconv.labels import LabelSpace

KEY = "fullconv"
"""The key of the text: in the metadata of an .onnx, the rt_info of an .xml, the extra files of a .pt2."""

FORMAT = 1
"""Version of the text; raised when its meaning changes."""

IMAGE = "image"
"""The name of the input: (N, C, H, W) float32, in the channel order, mean and scale of the net."""

LOGITS = {"semantic": "logits", "geometric": "logits_geometric"}
"""The names of the outputs: (N, K, H, W) float32, one for each task."""

COARSE = {"semantic": "coarse", "geometric": "coarse_geometric"}
"""The names of the scores at the net's own stride, inside the graph; an output of those that are cut there."""


def refuse_program(path: Path) -> NoReturn:
    """Raise the `UsageError` of a .pt2 that is given as a model."""
    raise UsageError(
        f"{shown(path)}: a .pt2 is not read here, since torch may run code that is in it; give the .onnx or .xml of "
        "the net, or its checkpoint"
    )


@dataclass(frozen=True)
class ExportMetadata:
    """What an exported net says of itself.

    size: the height and width of the images that it takes; None for any from `least` pixels on. window, offset: how
    its coarse scores come to the pixels (`CoarseScores`); None where the last upsampling is learned. reach: how many
    pixels before and after a pixel its scores are computed from, and the period with which they repeat. precision: of
    its weights; exact: how many of the first convolutions have fp32 in a file of int8. model, provenance: of the
    checkpoint that it is from.
    """

    labels: LabelSpace
    input: InputConvention
    size: Size | None
    stride: int
    reach: tuple[int, int, int]
    window: Window | None = None
    offset: int = 0
    geometric: LabelSpace | None = None
    least: int = 1
    precision: str = "fp32"
    exact: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> dict[str, LabelSpace]:
        """The classes of each head, by its task."""
        return {"semantic": self.labels} | ({"geometric": self.geometric} if self.geometric else {})

    def to_json(self) -> str:
        """The text in the file."""
        said: dict[str, Any] = {
            "format": FORMAT,
            "labels": self.labels.to_dict(),
            "input": self.input.to_dict(),
            "size": list(self.size) if self.size else None,
            "least": self.least,
            "stride": self.stride,
            "reach": dict(zip(("before", "after", "period"), self.reach, strict=True)),
            "outputs": {task: LOGITS[task] for task in self.tasks},
            "precision": self.precision,
            "exact": self.exact,
            "model": self.model,
            "provenance": self.provenance,
        }
        if self.window is not None:
            said["coarse"] = {
                "outputs": {task: COARSE[task] for task in self.tasks},
                "kernel": self.window.kernel,
                "factor": self.window.stride,
                "offset": self.offset,
            }
        if self.geometric is not None:
            said["geometric"] = self.geometric.to_dict()
        return json.dumps(said, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None, path: Path) -> ExportMetadata:
        """The inverse of `to_json`; `path` is the file, for errors. Raises `UsageError` where there is no such text."""
        if text is None:
            raise UsageError(
                f"{shown(path)}: it was not exported by fullconv: it does not say its classes, its palette and the "
                "input it wants; make it with fullconv export"
            )
        try:
            said = json.loads(text)
            if said["format"] != FORMAT:
                raise UsageError(
                    f"{shown(path)}: its format is version {shown(said['format'])}, this fullconv reads {FORMAT}; "
                    "update fullconv"
                )
            return cls(
                labels=LabelSpace.from_dict(said["labels"]),
                input=InputConvention.from_dict(said["input"], shown(path)),
                size=(int(said["size"][0]), int(said["size"][1])) if said["size"] else None,
                stride=int(said["stride"]),
                reach=(int(said["reach"]["before"]), int(said["reach"]["after"]), int(said["reach"]["period"])),
                window=_window(said.get("coarse")),
                offset=int(said["coarse"]["offset"]) if said.get("coarse") else 0,
                geometric=LabelSpace.from_dict(said["geometric"]) if "geometric" in said else None,
                least=int(said["least"]),
                precision=str(said["precision"]),
                exact=int(said["exact"]),
                model=dict(said["model"]),
                provenance=dict(said["provenance"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as problem:
            raise UsageError(
                f"{shown(path)}: what it says of itself is damaged ({type(problem).__name__}: {shown(problem)}); "
                "take another copy"
            ) from None


def _window(said: Mapping[str, Any] | None) -> Window | None:
    """The upsampling of the coarse scores. At most two taps a pixel, at least one: what `CoarseScores` can do."""
    if not said:
        return None
    kernel, factor = int(said["kernel"]), int(said["factor"])
    if not (1 <= factor <= kernel <= 2 * factor and int(said["offset"]) >= 0):
        raise ValueError(f"kernel {kernel}, factor {factor}")
    return Window(kernel, factor, transposed=True)
