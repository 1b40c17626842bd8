"""``digits``: scenes of real handwritten digits on textured grounds, composed on the fly, with nothing to download.

The handwriting is scikit-learn's copy of the UCI "Optical Recognition of Handwritten Digits": 1797 digits of 8x8 cells,
each cell a count of ink from 0 to 16. Reading several digits at once with a net trained as a classifier is the oldest
use of a fully convolutional net: Matan, Burges, LeCun and Denker, "Multi-digit recognition using a space displacement
neural network" (1992).

`Digits` gives scenes with a label per pixel; `single_digits` gives crops with one class each, for a classifier to begin
from. Both are pure functions of (seed, split, index), so that any worker may draw any sample at any time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.data import Sample
from fullconv.errors import UsageError, suggestion
from fullconv.labels import DIGITS

Rng = np.random.Generator
Bytes = NDArray[np.uint8]
Indices = NDArray[np.int64]
Plane = NDArray[np.float32]  # (H, W), or (3, H, W) for colours from 0 to 255
Point = NDArray[np.float64]  # (y, x) in pixels; the middle of the first pixel is (0.5, 0.5)
Box = tuple[slice, slice]

SPLITS = ("train", "val", "test")
LENGTHS = {"train": 4000, "val": 200, "test": 200}

TYPICAL = 84.0  # height of a typical digit in pixels; less in a scene too small for it
HEIGHTS = (0.75, 1.3)  # the least and the greatest height, in typical heights: 63 to 109 pixels
BOLD = 0.2  # how far the pen reaches beyond the stroke, in cells of the 8x8 digit: a broad brush, some 18 pixels wide
INK = 0.44  # the share of ink where a stroke ends: below one half, since a thin stroke never fills a cell
FLATTEST = 0.3  # the least slope of the ink, per cell, that is taken for a border
MARGIN, FINE = 2, 5  # empty cells around a glyph; samples per cell
EDGE = 2.2  # width in pixels of the soft edge of whatever is drawn
VOID = (0.12, 0.88)  # a pixel between these alphas is neither digit nor ground: a ring 1.7 pixels wide


class Digits:
    """One split of the scenes: images (H, W, 3) of several digits, labels (H, W): k + 1 for digit k, 0 for ground.

    A thin ring at the border of each digit is void, 255, as in PASCAL VOC. Where digits overlap, the upper one counts.

    split: ``train``, ``val`` or ``test``; no handwritten digit stands in two of them, whatever the seeds.
    size: (height, width) in pixels, at least (1, 1). Digits are some 63 to 109 pixels tall, or as the scene has room;
        a larger scene has more of them.
    length: the number of scenes; 4000 for training and else 200 when not given. No scene depends on it.
    seed: another seed, other scenes.

    `sources` are the indices of the split's handwriting. Raises `UsageError` when scikit-learn is missing.

    >>> scenes = Digits("val", size=(96, 160))
    >>> scenes[3].image.shape, scenes[3].label.shape, scenes[3].name, len(scenes)
    ((96, 160, 3), (96, 160), 'digits-val-00003', 200)
    """

    def __init__(
        self, split: str, size: tuple[int, int] = (192, 192), length: int | None = None, seed: int = 0
    ) -> None:
        self.labels = DIGITS
        self.sources = _sources(split)
        self.split, self.size, self.seed = split, (int(size[0]), int(size[1])), seed
        self.length = LENGTHS[split] if length is None else length
        if min(self.size) < 1 or self.length < 0 or seed < 0:
            given = f"size {self.size}, length {self.length}, seed {seed}"
            raise UsageError(f"digits: {given}; give a size of at least (1, 1) and no negative number")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        index = range(self.length)[index]
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        image, label = _scene(rng, self.sources, self.size)
        return Sample(image, label, f"digits-{self.split}-{index:05d}")


def single_digits(
    split: str, size: int, indices: Iterable[int], seed: int = 0, background: float = 0.25
) -> tuple[Bytes, Indices]:
    """Crops for a classifier of native size `size`: images (N, size, size, 3) uint8 and classes (N,), one per index.

    The classes are those of the scenes: digit k, which fills most of its crop, is k + 1. A share `background` of the
    crops has class 0: nothing but ground, clutter and digits cut off by the border. These surround the others too.

    >>> images, classes = single_digits("train", 32, range(5))
    >>> images.shape, classes.shape, int(classes.max()) <= 10
    ((5, 32, 32, 3), (5,), True)
    """
    if size < 1 or seed < 0:
        raise UsageError(f"digits: size {size}, seed {seed}; give a size of at least 1 and no negative number")
    sources, number = _sources(split), SPLITS.index(split)
    # The fourth number keeps crop i from repeating the random draws of scene i.
    drawn = [_crop(np.random.default_rng([seed, number, i, 1]), sources, size, background) for i in indices]
    images = np.stack([image for image, _ in drawn]) if drawn else np.zeros((0, size, size, 3), np.uint8)
    return images, np.array([kind for _, kind in drawn], np.int64)


# --- the handwriting


@cache
def _handwriting() -> tuple[Plane, Indices]:
    """All digits as shares of ink (1797, 8, 8) in [0, 1], and what they are, 0 to 9."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError("digits: needs scikit-learn; pip install 'fullconv[demo]'") from None
    bunch = load_digits()
    return (bunch.images / 16).astype(np.float32), bunch.target.astype(np.int64)


@cache
def _sources(split: str) -> Indices:
    """The handwriting of a split, sorted: 70, 15 and 15 per cent of every class, with a seed that is not the user's."""
    if split not in SPLITS:
        raise UsageError(f"digits: there is no split '{split}'; {suggestion(split, SPLITS)}")
    _, target = _handwriting()
    rng = np.random.default_rng(1992)
    parts = []
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(target == digit))
        cuts = [round(share * len(members)) for share in (0.7, 0.85)]
        parts.append(np.split(members, cuts)[SPLITS.index(split)])
    chosen = np.sort(np.concatenate(parts))
    chosen.flags.writeable = False  # it is shared by all who ask
    return chosen


def _smoothing(cells: int) -> NDArray[np.float64]:
    """The matrix that resamples a row of cells to FINE samples per cell, with MARGIN empty cells at both ends.

    The kernel is Mitchell and Netravali's (1988): a cubic between those that round strokes off and that show the cells.
    """
    samples = (np.arange((cells + 2 * MARGIN) * FINE) + 0.5) / FINE - MARGIN - 0.5
    x = np.abs(samples[:, None] - np.arange(cells))
    near, far = 7 * x**3 - 12 * x**2 + 16 / 3, -7 / 3 * x**3 + 12 * x**2 - 20 * x + 32 / 3
    return np.where(x < 1, near, np.where(x < 2, far, 0)) / 6


def _distance_field(ink: Plane) -> Image.Image:
    """The signed distance to the border of the strokes, in cells, positive inside: edges stay sharp at any scale.

    To first order it is how far the ink is from the threshold, over the slope of the ink.
    """
    rows, columns = (_smoothing(cells) for cells in ink.shape)
    smooth = rows @ ink @ columns.T
    slope = np.hypot(*np.gradient(smooth, 1 / FINE))
    return Image.fromarray(((smooth - INK) / np.maximum(slope, FLATTEST) + BOLD).astype(np.float32))


@cache
def _glyph(source: int) -> Image.Image:
    return _distance_field(_handwriting()[0][source])


@lru_cache(maxsize=1024)
def _shard(source: int, quarter: int) -> Image.Image:
    """A quarter of a digit: strokes like all others, but nothing to be read."""
    top, left = 4 * (quarter // 2), 4 * (quarter % 2)
    return _distance_field(_handwriting()[0][source, top : top + 4, left : left + 4])


# --- the drawing: every object is a signed distance in pixels over a box, stamped on the canvas


@dataclass(frozen=True)
class _Easel:
    """A picture while it is painted: canvas (3, H, W), label (H, W), and what the painting draws upon."""

    rng: Rng
    sources: Indices
    typical: float  # height of a typical digit in pixels, the unit of all that is drawn
    canvas: Plane
    label: Bytes

    def box(self, centre: Point, reach: float) -> Box:
        """The pixels within `reach` of the centre, as far as they are on the canvas; perhaps none."""
        low, high = np.floor(centre - reach).astype(int), np.ceil(centre + reach).astype(int)
        starts = [min(max(0, n), side) for n, side in zip(low, self.label.shape, strict=True)]
        stops = [max(start, min(n, side)) for start, n, side in zip(starts, high, self.label.shape, strict=True)]
        return slice(starts[0], stops[0]), slice(starts[1], stops[1])

    def stamp(self, box: Box, alpha: Plane, colour: Plane) -> None:
        """Paint over the canvas; the colour is (3, 1, 1), or (3, h, w) where it varies."""
        ground = self.canvas[:, *box]
        ground += alpha * (colour - ground)


def _rgb(hue: Point, lightness: Point, saturation: Point) -> Plane:
    """HSL in [0, 1] (h, w) to RGB (3, h, w)."""
    k = (np.array([0.0, 8.0, 4.0])[:, None, None] + 12 * hue) % 12
    reach = saturation * np.minimum(lightness, 1 - lightness)
    return (255 * (lightness - reach * np.clip(np.minimum(k - 3, 9 - k), -1, 1))).astype(np.float32)


def _contrasting_colour(rng: Rng, ground: Plane) -> Plane:
    """Of twelve random colours the first that is 75 levels lighter or darker than the ground, else the farthest."""
    colours = _rgb(rng.random((12, 1)), rng.uniform(0.12, 0.92, (12, 1)), rng.uniform(0.45, 0.95, (12, 1)))
    difference = np.abs(np.tensordot([0.30, 0.59, 0.11], colours - ground, axes=1))
    chosen = int(np.argmax(np.minimum(difference, 75)))
    return colours[:, chosen : chosen + 1]


def _enlarged(small: NDArray[np.floating], size: tuple[int, int]) -> Plane:
    return np.asarray(Image.fromarray(small.astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC))


def _alpha(distance: Plane, edge: float = EDGE) -> Plane:
    return np.clip(distance / np.float32(edge) + np.float32(0.5), 0, 1)


def _warped(easel: _Easel, field: Image.Image, centre: Point, height: float, turn: float) -> tuple[Box, Plane]:
    """A glyph turned by up to `turn` degrees, slanted, narrowed or widened; `height` is that of eight cells."""
    rng, cell = easel.rng, height / 8
    angle, slant, width = np.radians(rng.uniform(-turn, turn)), rng.uniform(-0.1, 0.1), rng.uniform(0.95, 1.1)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = cell * rotation @ np.array([[width, slant], [0, 1]])  # cells (x, y) to pixels (x, y)
    box = easel.box(centre, 5 * np.abs(forward).sum(axis=1).max())
    rows, columns = (side.stop - side.start for side in box)
    if not rows * columns:
        return box, np.zeros((rows, columns), np.float32)
    back = FINE * np.linalg.inv(forward)
    start = back @ (np.array([box[1].start, box[0].start]) - centre[::-1]) + np.array(field.size) / 2
    affine = (*back[0], start[0], *back[1], start[1])
    bicubic, far_outside = Image.Resampling.BICUBIC, -INK / FLATTEST + BOLD
    placed = field.transform((columns, rows), Image.Transform.AFFINE, affine, bicubic, fillcolor=far_outside)
    return box, np.asarray(placed) * np.float32(cell)


def _from(centre: Point, box: Box) -> tuple[Plane, Plane]:
    """How far the box's pixels lie below and right of the centre: a column and a row, to broadcast."""
    down, right = (np.arange(side.start, side.stop) + 0.5 - c for side, c in zip(box, centre, strict=True))
    return down.astype(np.float32)[:, None], right.astype(np.float32)


def _arc(easel: _Easel, middle: Point) -> tuple[Box, Plane]:
    """A piece of a circle, to either side of `middle`; of a large circle, a line."""
    rng, unit = easel.rng, easel.typical
    reach, half_width = unit * rng.uniform(0.25, 0.9), max(0.6, unit * rng.uniform(0.01, 0.045))
    radius, angle = unit * np.exp(rng.uniform(-1.0, 2.5)), rng.uniform(0, 2 * np.pi)
    box = easel.box(middle, reach + EDGE)
    down, right = _from(middle, box)
    rim = np.abs(np.hypot(*_from(middle - radius * np.array([np.sin(angle), np.cos(angle)]), box)) - float(radius))
    return box, np.minimum(half_width - rim, reach - np.hypot(down, right))


def _blob(easel: _Easel, centre: Point) -> tuple[Box, Plane]:
    """A round spot with a wavy border."""
    rng, radius = easel.rng, easel.typical * easel.rng.uniform(0.05, 0.2)
    box = easel.box(centre, 1.3 * radius + EDGE)
    down, right = _from(centre, box)
    angle = np.float32(rng.integers(2, 5)) * np.arctan2(down, right) + np.float32(rng.uniform(0, 6))
    wavy = np.float32(radius) * (1 + np.float32(rng.uniform(0.05, 0.25)) * np.cos(angle))
    return box, wavy - np.hypot(down, right)


# --- the story: ground, clutter, digits, photograph


def _ground(rng: Rng, sources: Indices, size: tuple[int, int], typical: float) -> _Easel:
    """A smooth field of related colours, mottled, and often striped or woven, with nothing on it yet."""
    spread, light, depth = rng.random((3, 3, 3)) - 0.5
    second_hue = 0.5 * (rng.random() < 0.3) * (spread > 0.1)
    hue = rng.random() + rng.uniform(0.03, 0.16) * spread + second_hue
    lightness = np.clip(rng.uniform(0.22, 0.86) + 0.28 * light, 0.1, 0.95)
    colours = _rgb(hue, lightness, rng.uniform(0.1, 0.55) * (0.8 + 0.4 * depth))
    canvas = np.stack([_enlarged(channel, size) for channel in colours])
    for blotches_per_digit, strength in ((0.5, 9.0), (2.5, 6.0)):
        grid = [max(2, round(blotches_per_digit * side / typical)) for side in size]
        canvas += _enlarged(rng.uniform(0.3, 1) * strength * rng.standard_normal(grid), size)
    angle, per_pixel = rng.uniform(0, np.pi), 2 * np.pi / (typical * rng.uniform(0.07, 0.4))
    rows, columns = (np.arange(side, dtype=np.float32) for side in size)
    for crossing in range(rng.integers(3)):  # plain, striped or woven
        y, x = (float(per_pixel * f(angle + crossing * np.pi / 2)) for f in (np.sin, np.cos))
        canvas += rng.uniform(2, 9) * np.sin(y * rows[:, None] + x * columns)
    return _Easel(rng, sources, typical, canvas, np.zeros(size, np.uint8))


def _clutter(easel: _Easel) -> None:
    """What is in the way and no digit: arcs and lines, blobs, shards smaller than the smallest digit."""
    rng, size = easel.rng, np.array(easel.label.shape)
    for _ in range(rng.poisson(1 + 0.4 * min(40, size.prod() / easel.typical**2))):
        centre, kind = rng.random(2) * size, rng.random()
        if kind < 0.45:
            box, distance = _arc(easel, centre)
        elif kind < 0.85:
            box, distance = _blob(easel, centre)
        else:
            shard = _shard(int(rng.choice(easel.sources)), int(rng.integers(4)))
            box, distance = _warped(easel, shard, centre, easel.typical * rng.uniform(0.5, 0.9), turn=180)
        colour = _rgb(rng.random((1, 1)), rng.uniform(0.15, 0.9, (1, 1)), rng.uniform(0.2, 0.8, (1, 1)))
        easel.stamp(box, _alpha(distance) * np.float32(rng.uniform(0.35, 0.9)), colour)


def _digit(easel: _Easel, centre: Point, height: float) -> int:
    """Write one digit over whatever is there, on canvas and label. Its class, k + 1."""
    rng, digit = easel.rng, int(easel.rng.integers(10))
    source = int(rng.choice(easel.sources[_handwriting()[1][easel.sources] == digit]))
    box, distance = _warped(easel, _glyph(source), centre, height, turn=10)
    alpha = _alpha(distance)
    if alpha.any():
        shade = _alpha(distance + np.float32(0.03 * height), 0.12 * height) * np.float32(rng.uniform(0.1, 0.35))
        easel.stamp(box, shade, np.zeros((3, 1, 1), np.float32))
        under = np.tensordot(easel.canvas[:, *box], alpha, axes=2) / alpha.sum()
        # A stroke is a little lighter along its middle, like a bead of paint.
        bead = np.minimum(distance * np.float32(2 / height), np.float32(0.16)) * np.float32(rng.uniform(0, 300))
        easel.stamp(box, alpha, _contrasting_colour(rng, under[:, None, None]) + bead)
        easel.label[box][alpha > VOID[0]] = DIGITS.ignore_index
        easel.label[box][alpha > VOID[1]] = digit + 1
    return digit + 1


def _photograph(easel: _Easel) -> Bytes:
    """Add the grain of a sensor, the same in all three colours, and round to bytes (H, W, 3)."""
    grain = easel.rng.uniform(1, 4.5) * easel.rng.standard_normal(easel.label.shape, np.float32)
    exposed = np.clip(easel.canvas + (grain + np.float32(0.5)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(exposed.transpose(1, 2, 0))


def _scene(rng: Rng, sources: Indices, size: tuple[int, int]) -> tuple[Bytes, Bytes]:
    easel = _ground(rng, sources, size, typical=max(8.0, min(TYPICAL, 0.62 * min(size))))
    _clutter(easel)
    most = max(1, round(1.2 * size[0] * size[1] / easel.typical**2))
    placed = np.zeros((0, 3))  # y, x, height
    for height in easel.typical * rng.uniform(*HEIGHTS, rng.integers(1 + most // 2, most + 1)):
        # Twenty attempts to find a place, all but a rim of the digit inside, where its disc meets no other.
        inset = np.minimum(0.45 * height, np.array(size) / 2)
        centres = rng.uniform(inset, size - inset, (20, 2))
        gaps = np.linalg.norm(centres[:, None] - placed[:, :2], axis=2) - 0.48 * (placed[:, 2] + height)
        free = np.flatnonzero((gaps > 0).all(axis=1))
        if len(free):
            _digit(easel, centres[free[0]], height)
            placed = np.vstack([placed, [*centres[free[0]], height]])
    return _photograph(easel), easel.label


def _crop(rng: Rng, sources: Indices, size: int, background: float) -> tuple[Bytes, int]:
    easel = _ground(rng, sources, (size, size), typical=0.76 * size)
    _clutter(easel)
    empty = rng.random() < background
    for _ in range(rng.integers(3)):  # neighbours, which reach in from a side, at most by half
        across = rng.choice([-1, 1]) * rng.uniform(0.5 if empty else 0.75, 0.9)
        centre = size * (0.5 + rng.permutation([across, rng.uniform(-0.7, 0.7)]))
        _digit(easel, centre, easel.typical * rng.uniform(0.8, 1.3))
    kind = 0 if empty else _digit(easel, size * rng.uniform(0.4, 0.6, 2), easel.typical * rng.uniform(0.8, 1.2))
    return _photograph(easel), kind
