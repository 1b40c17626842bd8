"""How an image of any size is predicted in the memory that there is: whole, by strips, by tiles, or blended.

A plan is made before anything is computed, from the size of the image and the graph of the net.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

from fullconv.backends.metadata import ExportMetadata
from fullconv.errors import FullconvError, RunError, UsageError
from fullconv.geometry import GeometryError, Reach
from fullconv.inference.large_image.halo import reach as reach_of
from fullconv.inference.large_image.streamed_layers import layers_of
from fullconv.inference.large_image.strips import memory_of_strip
from fullconv.inference.large_image.tiles import (
    Tile,
    along,
    cut,
    memory_of_blending,
    share_of_pixels,
    uncertain_share,
)
from fullconv.inference.large_image.tiling_options import WHOLE
from fullconv.inference.model import Model
from fullconv.inference.predictor import Predictor
from fullconv.models.fcn import FCN
from fullconv.profiling import process_memory
from fullconv.profiling.graph_cost import peak_bytes
from fullconv.profiling.process_memory import format_bytes

MOST = 700 * 10**6
"""Bytes that the work on an image takes at most unless told otherwise: more makes nothing faster."""

SHARE = 0.8
"""Of the memory that is available."""

SIDE_BY_SIDE = 1, 2, 3, 4, 6, 8, 12, 16
"""Columns of an image that is too wide for a strip: what all hold together hardly falls with more."""

STRIP = 300_000
"""Pixels of a strip that are enough to keep a processor busy."""

TILE = 1024
"""The side of a tile for a net whose memory is not known."""

BLENDED = 512, 128
"""For a net that sees without bounds: the side of a tile, and the overlap."""

SLACK = 32 << 20

REFERENCE = 256
"""Side of the image that bounds the bytes a pixel of larger ones."""

_KNOWN: WeakKeyDictionary[FCN, dict[tuple[int, int], int]] = WeakKeyDictionary()

Way = Literal["whole", "strips", "tiles", "blended"]


@dataclass(frozen=True)
class TilingPlan:
    """How an image of `height` x `width` is predicted.

    rows, columns: of a strip or a tile, what it sees beyond itself included. tiles: the tiles, or of strips the columns
    that go down side by side, as if each were one. around: pixels that are seen around a tile. reach: those that
    its scores look at; None where that is everything. seen: pixels that are computed for each pixel of the image.
    uncertain: the share of the pixels that may differ from the whole's. bytes: what the work takes at most, besides
    what the process had before; None where it is not known. held: what the decoded image takes.
    """

    way: Way
    height: int
    width: int
    rows: int
    columns: int
    tiles: tuple[Tile, ...] = ()
    around: int = 0
    reach: Reach | None = None
    seen: float = 1.0
    uncertain: float = 0.0
    bytes: int | None = None
    held: int = 0

    def __str__(self) -> str:
        most = f"; {format_bytes(self.bytes)} at most" if self.bytes is not None else ""
        most += f", {format_bytes(self.held)} for the image besides" if most and self.held >= 10**6 else ""
        if self.way == "whole":
            return f"as a whole{most}"
        more = f", {self.seen - 1:.0%} more pixels than the image" if self.seen > 1.005 else ""
        if self.way == "strips":
            several = f", {len(self.tiles)} side by side" if len(self.tiles) > 1 else ""
            return f"strips of {self.rows}x{self.columns}{several}, exactly the whole{more}{most}"
        words = f"{len(self.tiles)} tiles of {self.rows}x{self.columns}"
        if self.way == "blended":
            return (
                f"{words}, blended where they overlap, by {self.around} pixels: the net sees without bounds, so no "
                f"tile can be exactly the whole{more}{most}"
            )
        if self.reach is not None and self.uncertain:
            return (
                f"{words}, {self.around} of them around each, where its scores look as far as {self.reach.after}: up "
                f"to {self.uncertain:.0%} of the pixels, near the seams, may differ from the whole{more}{most}"
            )
        return f"{words}, {self.around} of them around each, exactly the whole{more}{most}"


def plan(
    predictor: Model, height: int, width: int, tile: int | str = "auto", halo: int | None = None,
    budget: int | None = None, bytes_of_row: int = 0,
) -> TilingPlan:  # fmt: skip
    """How an image of `height` x `width` is predicted.

    tile: ``auto`` chooses, ``none`` is the whole, a number the side of the tiles without their halo. halo: pixels
    around a tile, where fewer than the net looks at are to do. budget: bytes for the work (default: what is available,
    at most `MOST`). bytes_of_row: what a row of the image takes while it is read. Raises `RunError` where
    nothing fits, `UsageError` for a tile that is none.
    """
    room = budget if budget is not None else _room()
    whole = TilingPlan("whole", height, width, height, width, bytes=memory_of_whole(predictor, height, width))
    if tile == "none":
        return whole
    auto = isinstance(tile, str) and halo is None
    if auto and whole.bytes is not None and whole.bytes + height * bytes_of_row <= room:
        return whole
    far = reach(predictor)
    if auto and whole.bytes is None and far is not None and height * width <= WHOLE:
        return whole
    net = fcn_of(predictor)
    if auto and net is not None and far is not None and is_run_by_strips(net):
        try:
            return _strips(net, height, width, far, room, bytes_of_row)
        except RunError:  # `MOST` is what is sensible, not what there is
            if budget is not None:
                raise
            return _strips(net, height, width, far, int(SHARE * process_memory.available()), bytes_of_row)
    side = tile if isinstance(tile, int) else None
    if side is not None and side < 1:
        raise UsageError(f"--tile {side}: give auto, none, or the side of a tile in pixels")
    if far is None:
        return _blended(predictor, height, width, side, halo, bytes_of_row)
    return _tiles(predictor, height, width, far, side, halo, room, bytes_of_row)


def reach(predictor: Model) -> Reach | None:
    """How far the scores of a pixel look; None for a net that sees without bounds, or whose geometry is not known."""
    if isinstance(predictor.header, ExportMetadata):  # an exported file states it
        return Reach(*predictor.header.reach)
    net = fcn_of(predictor)
    try:
        return None if net is None else reach_of(net)
    except (FullconvError, ValueError):
        return None


def fcn_of(predictor: Model) -> FCN | None:
    """Return the FCN of a model; None if it is an exported file or another net."""
    return predictor.net if isinstance(predictor, Predictor) and isinstance(predictor.net, FCN) else None


def is_run_by_strips(net: FCN) -> bool:
    """Whether every layer of a net can be run in rows."""
    try:
        layers_of(net, 64, 64)
    except GeometryError:
        return False
    return True


def _room() -> int:
    return min(MOST, int(SHARE * process_memory.available()))


def fits_easily(predictor: Model, height: int, width: int) -> bool:
    """Return whether an image takes less than half of the memory for it as a whole, by an upper bound.

    A dry run of each size costs up to a second; the bound takes one for each network. With its padding an image of
    more pixels takes fewer bytes a pixel.
    """
    net = fcn_of(predictor)
    if net is None:
        return False
    share = max(height, REFERENCE) * max(width, REFERENCE) / REFERENCE**2
    fixed = _with_overhead(net, 0)
    return share * (_with_overhead(net, _peak(net, REFERENCE, REFERENCE)) - fixed) + fixed < _room() / 2


def memory_of_whole(predictor: Model, height: int, width: int) -> int | None:
    """The bytes that an image takes as a whole; None for a net whose graph is not known."""
    net = fcn_of(predictor)
    return None if net is None else _with_overhead(net, _peak(net, height, width))


def _peak(net: FCN, height: int, width: int) -> int:
    period = int(net.trace[net.features[0]].axis.stride)
    size = -(-height // period) * period, -(-width // period) * period  # so that a few dry runs serve many images
    known = _KNOWN.setdefault(net, {})
    if size not in known:
        known[size] = peak_bytes(net, *size)
    return known[size]


def _with_overhead(net: FCN, most: int) -> int:
    weights = max((p.nbytes for p in net.parameters() if p.ndim == 4), default=0)  # that a library lays out anew
    return int(1.3 * most) + weights + SLACK


def _strips(net: FCN, height: int, width: int, reach: Reach, room: int, bytes_of_row: int) -> TilingPlan:
    """Strips that are tall enough to keep a processor busy, or as tall as memory allows; then side by side."""
    least = None
    for count in SIDE_BY_SIDE:
        places = along(width, -(-width // count), reach)
        if len(places) < count:
            continue
        seen = places[0][3] - places[0][2]
        enough = reach.period * max(1, round(STRIP / seen / reach.period))
        for rows in (enough, reach.period) if enough > reach.period else (enough,):
            rows = min(rows, height)
            # Between strips the rows of the image, their labels and those of the files are held besides.
            most = memory_of_strip(net, rows, seen, len(places)) + rows * (bytes_of_row + 16 * width)
            least = most if least is None else min(least, most)
            if most <= room:
                tiles = tuple(
                    Tile((0, begin, height, end), (0, first, height, last)) for begin, end, first, last in places
                )
                around = max(reach.before, reach.after) if len(tiles) > 1 else 0
                return TilingPlan(
                    "strips", height, width, rows, seen, tiles, around, reach, share_of_pixels(tiles), bytes=most
                )
    raise _too_little(height, width, least, room)


def _tiles(
    predictor: Model, height: int, width: int, reach: Reach, side: int | None, halo: int | None, room: int,
    bytes_of_row: int,
) -> TilingPlan:  # fmt: skip
    """The tiles of a size, or the largest that memory allows."""

    def planned(size: int) -> TilingPlan:
        tiles = tuple(cut(height, width, size, reach, halo))
        top, left, bottom, right = tiles[0].seen
        rows, columns = bottom - top, right - left
        of_net = memory_of_whole(predictor, rows, columns)
        around = max(reach.before, reach.after) if halo is None else min(halo, max(reach.before, reach.after))
        return TilingPlan(
            "tiles", height, width, rows, columns, tiles, around if len(tiles) > 1 else 0, reach,
            share_of_pixels(tiles), uncertain_share(tiles, reach) if halo is not None else 0.0,
            None if of_net is None else of_net + rows * (bytes_of_row + 16 * width),
        )  # fmt: skip

    if side is not None or memory_of_whole(predictor, 1, 1) is None:
        return planned(side or max(TILE, reach.period))
    fits = largest(lambda steps: (planned(steps * reach.period).bytes or 0) <= room,
                   -(-max(height, width) // reach.period))  # fmt: skip
    if not fits:
        raise _too_little(height, width, planned(reach.period).bytes, room)
    return planned(fits * reach.period)


def _blended(
    predictor: Model, height: int, width: int, side: int | None, halo: int | None, bytes_of_row: int
) -> TilingPlan:
    """Tiles that overlap, for a net that sees without bounds."""
    side, overlap = side or BLENDED[0], BLENDED[1] if halo is None else 2 * halo
    tiles = tuple(cut(height, width, side, Reach(overlap // 2, overlap - overlap // 2, 1)))
    if len(tiles) == 1:
        return TilingPlan("whole", height, width, height, width)
    rows, columns = tiles[0].seen[2] - tiles[0].seen[0], tiles[0].seen[3] - tiles[0].seen[1]
    held = memory_of_blending(width, side, overlap, len(predictor.labels))
    if held + rows * bytes_of_row > process_memory.available():
        raise _too_little(height, width, held + rows * bytes_of_row, process_memory.available())
    return TilingPlan(
        "blended", height, width, rows, columns, tiles, overlap, seen=share_of_pixels(tiles), uncertain=1.0
    )


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` that fits, when all below it do; 0 where not even 1 does.

    >>> largest(lambda n: n * n < 50, 100)
    7
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _too_little(height: int, width: int, needed: int | None, room: int) -> RunError:
    wanted = f"{format_bytes(needed)} at least are needed" if needed is not None else "more memory is needed"
    return RunError(
        f"image of {height}x{width}: {wanted}, and there are {format_bytes(max(0, room))} for it; free memory or "
        "raise --memory, or take a smaller net"
    )
