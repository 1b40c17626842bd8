"""Images that are larger than memory allows, in ``fullconv predict``: the flags, and what is said of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.errors import UsageError, shown

if TYPE_CHECKING:
    from fullconv.inference import Predictor
    from fullconv.inference.large import Facts, Settings

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


def refuse(args: argparse.Namespace) -> None:
    """Refuse the flags for large images with an exported file, which takes an image as a whole."""
    for flag in ("halo", "memory", "max_pixels", "format"):
        if getattr(args, flag) is not None:
            raise UsageError(f"--{flag.replace('_', '-')}: an exported file takes whole images; give the checkpoint")
    if args.tile not in ("auto", "none"):
        raise UsageError(f"--tile {args.tile}: an exported file takes whole images; give the checkpoint")


def settings_of(args: argparse.Namespace) -> Settings:
    """The flags as they are meant; refused in one line where they are not."""
    from fullconv.data.decoding import MAX_PIXELS
    from fullconv.inference.large import Settings

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
    return Settings(
        tile,
        args.halo,
        most,
        args.max_pixels or MAX_PIXELS,
        args.format,
    )


def predict(
    predictor: Predictor, path: Path, out: Path, name: str, settings: Settings, overlay: bool,
    line: Callable[[str], Any], note: Callable[[str], Any],
) -> dict[str, Any] | None:  # fmt: skip
    """Predict one file and say what was written; None for one that goes the ordinary way.

    line: prints a line; note: shows how far it has come.
    """
    from fullconv.inference.large import described, is_ordinary, predict_file

    if is_ordinary(predictor, path, settings):
        return None
    facts = predict_file(
        predictor, path, out, name, settings, overlay,
        planned=lambda plan: line(f"{shown(path)}, {plan.height}x{plan.width}: {plan}"),
        progress=lambda done, rows: note(f"{done / rows:.0%} of {shown(name)}"),
    )  # fmt: skip
    for words in remarks(facts):
        line(f"{shown(path)}: {words}")
    return {"name": name, "input": str(path), **described(facts)}


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
