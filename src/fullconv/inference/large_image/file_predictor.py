"""Files that are predicted row by row because they do not fit through a network as a whole, and what is logged."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fullconv.errors import UsageError, shown

if TYPE_CHECKING:
    from fullconv.inference.large_image.predict_file import Facts
    from fullconv.inference.large_image.tiling_options import TilingOptions
    from fullconv.inference.model import Model
    from fullconv.inference.outputs import OutputWriter


@dataclass(frozen=True)
class LargeFilePredictor:
    """Predicts files that do not go through the network as a whole.

    model: a checkpoint's or an exported one. whole: the flag, if any, for which an image must go as a whole. log: is
    called with the plan of each file, and with remarks afterwards.
    """

    model: Model
    settings: TilingOptions
    outputs: OutputWriter
    whole: str | None
    log: Callable[[str], Any]

    def accepts(self, path: Path, stream: BinaryIO) -> bool:
        """Return whether an open file is to be predicted here. Raises `UsageError` if it must be, and cannot be."""
        from fullconv.inference.exported import ExportedPredictor
        from fullconv.inference.large_image.tiling_options import WHOLE, TilingOptions
        from fullconv.io.windowed import outline

        if isinstance(self.model, ExportedPredictor):  # without torch, as long as that will do
            found = outline(path, self.model.header.input.bands, self.settings.max_pixels, stream)
            small = found.height * found.width <= WHOLE and found.place is None
            if self.settings == TilingOptions(max_pixels=self.settings.max_pixels) and small:
                return False
        from fullconv.inference.large_image.predict_file import is_ordinary

        if is_ordinary(self.model, path, self.settings, stream):
            return False
        if self.whole is not None:
            raise UsageError(
                f"{shown(path)}: it is not predicted as a whole, and {self.whole} needs that; leave {self.whole} out, "
                "or give --tile none where the memory is there"
            )
        return True

    def predict(self, path: Path, name: str) -> dict[str, Any]:
        """Predict one file and return what was written."""
        from fullconv.inference.large_image.predict_file import described, predict_file

        facts = predict_file(
            self.model, path, self.outputs.folder, name, self.settings, self.outputs.overlay,
            planned=lambda plan: self.log(f"{shown(path)}, {plan.height}x{plan.width}: {plan}"),
            progress=PercentLog(name, self.log),
        )  # fmt: skip
        for words in remarks(facts):
            self.log(f"{shown(path)}: {words}")
        return {"name": name, "input": str(path), **described(facts)}


class PercentLog:
    """Logs how much of a file is done, at most once in some seconds."""

    def __init__(self, name: str, log: Callable[[str], Any], every: float = 5.0) -> None:
        self.name, self.log, self.every = name, log, every
        self.last = time.monotonic()

    def __call__(self, done: int, rows: int) -> None:
        """Report the rows that are done."""
        if time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            self.log(f"{shown(self.name)}: {done / rows:.0%}")


def remarks(facts: Facts) -> list[str]:
    """Return remarks on a finished image, beside its plan."""
    found = []
    if facts.differ is not None:
        differ, compared = facts.differ
        found.append(
            f"{differ:,} of {compared:,} labels where seams cross ({differ / max(1, compared):.1%}) are not those of "
            "the exact halo; leave --halo out for none"
        )
    if facts.reduced > 1 and "overlay" in facts.written:
        found.append(f"the overlay shows one of {facts.reduced} pixels on each axis")
    return found
