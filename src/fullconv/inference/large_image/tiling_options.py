"""How images are predicted that do not go through a network as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from fullconv.errors import UsageError
from fullconv.io.decoding import MAX_PIXELS

WHOLE = 4_000_000
"""Pixels that a net takes as a whole whose memory is not known."""

FORMATS = ("png", "tif")


@dataclass(frozen=True)
class TilingOptions:
    """The choices of a user, checked when they are constructed.

    tile: ``auto``, ``none`` or the side of a tile in pixels. halo: pixels around each tile; None for the exact number.
    memory: bytes of the process at most. format: ``png`` or ``tif`` (default: ``tif`` for a georeferenced image).
    """

    tile: int | str = "auto"
    halo: int | None = None
    memory: int | None = None
    max_pixels: int = MAX_PIXELS
    format: str | None = None

    def __post_init__(self) -> None:
        if self.tile not in ("auto", "none") and not (isinstance(self.tile, int) and self.tile > 0):
            raise UsageError(f"--tile {self.tile}: give auto, none, or the side of a tile in pixels")
        for flag, value, least in (
            ("halo", self.halo, 0),
            ("memory", self.memory, 1),
            ("max-pixels", self.max_pixels, 1),
        ):
            if value is not None and value < least:
                raise UsageError(f"--{flag} {value}: give {least} or more")
        if self.tile == "none" and self.halo is not None:
            raise UsageError("--halo: the whole has no tiles; leave it out, or --tile none")
        if self.format not in (None, *FORMATS):
            raise UsageError(f"--format {self.format}: there is no such format; One of: {', '.join(FORMATS)}")
