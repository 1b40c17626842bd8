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

import numpy as np

from fullconv.data.dataset import SPLITS, IndexedDataset, Sample
from fullconv.datasets.published.label_spaces import DIGITS
from fullconv.datasets.synthetic.handwriting import Indices, glyph, handwriting, shard_of, sources_of
from fullconv.datasets.synthetic.painting import (
    Bytes,
    Easel,
    Point,
    Rng,
    alpha_of,
    arc,
    blob,
    contrasting_colour,
    enlarged,
    rgb,
    warped,
)
from fullconv.errors import UsageError

LENGTHS = {"train": 4000, "val": 200, "test": 200}

TYPICAL = 84.0  # height of a typical digit in pixels; less in a scene too small for it
HEIGHTS = (0.75, 1.3)  # the least and the greatest height, in typical heights: 63 to 109 pixels
VOID = (0.12, 0.88)  # a pixel between these alphas is neither digit nor ground: a ring 1.7 pixels wide


class Digits(IndexedDataset):
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
        self.sources = sources_of(split)
        self.split, self.size, self.seed = split, (int(size[0]), int(size[1])), seed
        self.length = LENGTHS[split] if length is None else length
        if min(self.size) < 1 or self.length < 0 or seed < 0:
            given = f"size {self.size}, length {self.length}, seed {seed}"
            raise UsageError(f"digits: {given}; give a size of at least (1, 1) and no negative number")

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int) -> Sample:
        """Draw scene number `index`."""
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
    sources, number = sources_of(split), SPLITS.index(split)
    # The fourth number keeps crop i from repeating the random draws of scene i.
    drawn = [_crop(np.random.default_rng([seed, number, i, 1]), sources, size, background) for i in indices]
    images = np.stack([image for image, _ in drawn]) if drawn else np.zeros((0, size, size, 3), np.uint8)
    return images, np.array([kind for _, kind in drawn], np.int64)


def _ground(rng: Rng, sources: Indices, size: tuple[int, int], typical: float) -> Easel:
    """A smooth field of related colours, mottled, and often striped or woven, with nothing on it yet."""
    spread, light, depth = rng.random((3, 3, 3)) - 0.5
    second_hue = 0.5 * (rng.random() < 0.3) * (spread > 0.1)
    hue = rng.random() + rng.uniform(0.03, 0.16) * spread + second_hue
    lightness = np.clip(rng.uniform(0.22, 0.86) + 0.28 * light, 0.1, 0.95)
    colours = rgb(hue, lightness, rng.uniform(0.1, 0.55) * (0.8 + 0.4 * depth))
    canvas = np.stack([enlarged(channel, size) for channel in colours])
    for blotches_per_digit, strength in ((0.5, 9.0), (2.5, 6.0)):
        grid = [max(2, round(blotches_per_digit * side / typical)) for side in size]
        canvas += enlarged(rng.uniform(0.3, 1) * strength * rng.standard_normal(grid), size)
    angle, per_pixel = rng.uniform(0, np.pi), 2 * np.pi / (typical * rng.uniform(0.07, 0.4))
    rows, columns = (np.arange(side, dtype=np.float32) for side in size)
    for crossing in range(rng.integers(3)):  # plain, striped or woven
        y, x = (float(per_pixel * f(angle + crossing * np.pi / 2)) for f in (np.sin, np.cos))
        canvas += rng.uniform(2, 9) * np.sin(y * rows[:, None] + x * columns)
    return Easel(rng, sources, typical, canvas, np.zeros(size, np.uint8))


def _clutter(easel: Easel) -> None:
    """What is in the way and no digit: arcs and lines, blobs, shards smaller than the smallest digit."""
    rng, size = easel.rng, np.array(easel.label.shape)
    for _ in range(rng.poisson(1 + 0.4 * min(40, size.prod() / easel.typical**2))):
        centre, kind = rng.random(2) * size, rng.random()
        if kind < 0.45:
            box, distance = arc(easel, centre)
        elif kind < 0.85:
            box, distance = blob(easel, centre)
        else:
            shard = shard_of(int(rng.choice(easel.sources)), int(rng.integers(4)))
            box, distance = warped(easel, shard, centre, easel.typical * rng.uniform(0.5, 0.9), turn=180)
        colour = rgb(rng.random((1, 1)), rng.uniform(0.15, 0.9, (1, 1)), rng.uniform(0.2, 0.8, (1, 1)))
        easel.stamp(box, alpha_of(distance) * np.float32(rng.uniform(0.35, 0.9)), colour)


def _digit(easel: Easel, centre: Point, height: float) -> int:
    """Write one digit over whatever is there, on canvas and label. Its class, k + 1."""
    rng, digit = easel.rng, int(easel.rng.integers(10))
    source = int(rng.choice(easel.sources[handwriting()[1][easel.sources] == digit]))
    box, distance = warped(easel, glyph(source), centre, height, turn=10)
    alpha = alpha_of(distance)
    if alpha.any():
        shade = alpha_of(distance + np.float32(0.03 * height), 0.12 * height) * np.float32(rng.uniform(0.1, 0.35))
        easel.stamp(box, shade, np.zeros((3, 1, 1), np.float32))
        under = np.tensordot(easel.canvas[:, *box], alpha, axes=2) / alpha.sum()
        # A stroke is a little lighter along its middle, like a bead of paint.
        bead = np.minimum(distance * np.float32(2 / height), np.float32(0.16)) * np.float32(rng.uniform(0, 300))
        easel.stamp(box, alpha, contrasting_colour(rng, under[:, None, None]) + bead)
        easel.label[box][alpha > VOID[0]] = DIGITS.ignore_index
        easel.label[box][alpha > VOID[1]] = digit + 1
    return digit + 1


def _photograph(easel: Easel) -> Bytes:
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
        # Forty attempts to find a place, all but a rim of the digit inside, where its disc hardly meets another.
        inset = np.minimum(0.45 * height, np.array(size) / 2)
        centres = rng.uniform(inset, size - inset, (40, 2))
        gaps = np.linalg.norm(centres[:, None] - placed[:, :2], axis=2) - 0.44 * (placed[:, 2] + height)
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
