"""Draw the scenes of `fullconv.datasets.synthetic.digits`: each object is a signed distance stamped on the canvas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.datasets.synthetic.handwriting import FINE, OUTSIDE, Indices, Plane

Rng = np.random.Generator
Bytes = NDArray[np.uint8]
Point = NDArray[np.float64]  # (y, x) in pixels; the middle of the first pixel is (0.5, 0.5)
Box = tuple[slice, slice]

EDGE = 2.2  # width in pixels of the soft edge of whatever is drawn


@dataclass(frozen=True)
class Easel:
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


def rgb(hue: Point, lightness: Point, saturation: Point) -> Plane:
    """HSL in [0, 1] (h, w) to RGB (3, h, w)."""
    k = (np.array([0.0, 8.0, 4.0])[:, None, None] + 12 * hue) % 12
    reach = saturation * np.minimum(lightness, 1 - lightness)
    return (255 * (lightness - reach * np.clip(np.minimum(k - 3, 9 - k), -1, 1))).astype(np.float32)


def contrasting_colour(rng: Rng, ground: Plane) -> Plane:
    """Of twelve random colours the first that is 75 levels lighter or darker than the ground, else the farthest."""
    colours = rgb(rng.random((12, 1)), rng.uniform(0.12, 0.92, (12, 1)), rng.uniform(0.45, 0.95, (12, 1)))
    difference = np.abs(np.tensordot([0.30, 0.59, 0.11], colours - ground, axes=1))
    chosen = int(np.argmax(np.minimum(difference, 75)))
    return colours[:, chosen : chosen + 1]


def enlarged(small: NDArray[np.floating], size: tuple[int, int]) -> Plane:
    """A small array drawn out smoothly to (height, width)."""
    return np.asarray(Image.fromarray(small.astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC))


def alpha_of(distance: Plane, edge: float = EDGE) -> Plane:
    """How much of each pixel an object covers, 0 to 1, from the signed distance to its border."""
    return np.clip(distance / np.float32(edge) + np.float32(0.5), 0, 1)


def warped(easel: Easel, field: Image.Image, centre: Point, height: float, turn: float) -> tuple[Box, Plane]:
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
    bicubic = Image.Resampling.BICUBIC
    placed = field.transform((columns, rows), Image.Transform.AFFINE, affine, bicubic, fillcolor=OUTSIDE)
    return box, np.asarray(placed) * np.float32(cell)


def _from(centre: Point, box: Box) -> tuple[Plane, Plane]:
    """How far the box's pixels lie below and right of the centre: a column and a row, to broadcast."""
    down, right = (np.arange(side.start, side.stop) + 0.5 - c for side, c in zip(box, centre, strict=True))
    return down.astype(np.float32)[:, None], right.astype(np.float32)


def arc(easel: Easel, middle: Point) -> tuple[Box, Plane]:
    """A piece of a circle, to either side of `middle`; of a large circle, a line."""
    rng, unit = easel.rng, easel.typical
    reach, half_width = unit * rng.uniform(0.25, 0.9), max(0.6, unit * rng.uniform(0.01, 0.045))
    radius, angle = unit * np.exp(rng.uniform(-1.0, 2.5)), rng.uniform(0, 2 * np.pi)
    box = easel.box(middle, reach + EDGE)
    down, right = _from(middle, box)
    rim = np.abs(np.hypot(*_from(middle - radius * np.array([np.sin(angle), np.cos(angle)]), box)) - float(radius))
    return box, np.minimum(half_width - rim, reach - np.hypot(down, right))


def blob(easel: Easel, centre: Point) -> tuple[Box, Plane]:
    """A round spot with a wavy border."""
    rng, radius = easel.rng, easel.typical * easel.rng.uniform(0.05, 0.2)
    box = easel.box(centre, 1.3 * radius + EDGE)
    down, right = _from(centre, box)
    angle = np.float32(rng.integers(2, 5)) * np.arctan2(down, right) + np.float32(rng.uniform(0, 6))
    wavy = np.float32(radius) * (1 + np.float32(rng.uniform(0.05, 0.25)) * np.cos(angle))
    return box, wavy - np.hypot(down, right)
