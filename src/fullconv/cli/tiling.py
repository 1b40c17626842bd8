"""Images that are larger than memory allows, in ``fullconv predict``: the flags, and what is said of them."""

from __future__ import annotations

import argparse
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

FORMATS = ("png", "tif")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags for large images."""
    parser.add_argument(
        "--tile", default="auto", metavar="auto|none|N",
        help="an image larger than memory allows: strips or tiles that are exactly the whole (default: auto), the "
        "whole at once (none), tiles of N pixels",
    )  # fmt: skip
    parser.add_argument(
        "--halo", type=int, metavar="N",
        help="of tiles: look N pixels around each, fewer than the net does; faster, and not exact near the seams",
    )  # fmt: skip
    parser.add_argument("--memory", type=int, metavar="MB", help="the most that the process may take")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="the largest image that is decoded (178000000)")
    parser.add_argument(
        "--format", metavar="png|tif", help="of the masks (default: png; tif in its place for a GeoTIFF)"
    )


def settings_of(args: argparse.Namespace) -> TilingOptions:
    """The flags as they are meant; refused in one line where they are not."""
    from fullconv.inference.large_image.tiling_options import TilingOptions
    from fullconv.io.decoding import MAX_PIXELS

    tile: int | str = args.tile
    if tile not in ("auto", "none"):
        if not str(tile).isdigit() or not int(tile):
            raise UsageError(f"--tile {tile}: give auto, none, or the side of a tile in pixels")
        tile = int(tile)
    for flag, least in (("halo", 0), ("memory", 1), ("max_pixels", 1)):
        given = getattr(args, flag)
        if given is not None and given < least:
            raise UsageError(f"--{flag.replace('_', '-')} {given}: give {least} or more")
    if tile == "none" and args.halo is not None:
        raise UsageError("--halo: the whole has no tiles; leave it out, or --tile none")
    if args.format not in (None, *FORMATS):
        raise UsageError(f"--format {args.format}: there is no such format; One of: {', '.join(FORMATS)}")
    most = None if args.memory is None else args.memory * 10**6
    return TilingOptions(tile, args.halo, most, args.max_pixels or MAX_PIXELS, args.format)


@dataclass(frozen=True)
class Large:
    """Who predicts files that do not go through the net as a whole.

    model: a checkpoint's or an exported one. whole: the flag, if any, for which an image must go as a whole. say: is
    told the plan of each, and what there is to say of it afterwards.
    """

    model: Model
    settings: TilingOptions
    outputs: OutputWriter
    whole: str | None
    say: Callable[[str], Any]

    def takes(self, path: Path, stream: BinaryIO) -> bool:
        """Whether a file, which is open, is for here. Raises `UsageError` where it is, and cannot be."""
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
        """Predict one file, and what was written."""
        from fullconv.inference.large_image.predict_file import described, predict_file

        facts = predict_file(
            self.model, path, self.outputs.folder, name, self.settings, self.outputs.overlay,
            planned=lambda plan: self.say(f"{shown(path)}, {plan.height}x{plan.width}: {plan}"),
            progress=Steps(name, self.say),
        )  # fmt: skip
        for words in remarks(facts):
            self.say(f"{shown(path)}: {words}")
        return {"name": name, "input": str(path), **described(facts)}


class Steps:
    """Says every tenth of a long way, at most once in some seconds."""

    def __init__(self, name: str, say: Callable[[str], Any], every: float = 5.0) -> None:
        self.name, self.say, self.every = name, say, every
        self.said = time.monotonic()

    def __call__(self, done: int, rows: int) -> None:
        """So many of the rows are done."""
        if time.monotonic() - self.said >= self.every:
            self.said = time.monotonic()
            self.say(f"{shown(self.name)}: {done / rows:.0%}")


def remarks(facts: Facts) -> list[str]:
    """What there is to say of a finished image beside its plan."""
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
