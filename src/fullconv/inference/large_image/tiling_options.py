"""What may be said of images that do not go through a net as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from fullconv.io.decoding import MAX_PIXELS

WHOLE = 4_000_000
"""Pixels that a net takes as a whole whose memory is not known."""


@dataclass(frozen=True)
class TilingOptions:
    """What a user may say. tile: ``auto``, ``none`` or a side. memory: bytes of the process at most. format: ``png`` or
    ``tif`` (default: ``tif`` for an image that has a place on the earth).
    """

    tile: int | str = "auto"
    halo: int | None = None
    memory: int | None = None
    max_pixels: int = MAX_PIXELS
    format: str | None = None
