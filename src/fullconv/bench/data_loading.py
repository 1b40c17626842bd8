"""Whether the data keeps up with training: images a second that are read and augmented, beside those that a training
step takes on the same machine.

The files come from the system's cache (each is read once before). The ways run by turns: decoding alone; decoding with
augmentation (scale 1.5, crop, flip, color 0.5) as batches, in this process and in two worker processes; and steps of
training of an FCN-8s on MobileNetV2, whose samples are at hand in memory. Medians of the rounds count. Workers share
the cores with nothing while they are measured; beside training they have what it leaves.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fullconv.bench.medians import medians, seconds
from fullconv.config import InputConvention, ModelConfig, Size, TrainConfig
from fullconv.data.dataset import Dataset, adapt
from fullconv.data.loader import BatchStream, batches
from fullconv.data.transforms import augmentation, outside, window
from fullconv.datasets.open_dataset import default_splits, open_dataset
from fullconv.datasets.published.label_spaces import VOC
from fullconv.models.build import build
from fullconv.training.loop import State, fit

STEPS = 8
"""Batches of a round, of each way but training, which takes one."""

WORKERS = 2
CONVENTION = InputConvention()


@contextmanager
def pictures(count: int = 32, size: Size = (360, 480)) -> Iterator[Path]:
    """A folder of so many pairs, JPEG and palette PNG, that compress as photographs and their masks do."""
    rng = np.random.default_rng(0)
    height, width = size
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for folder in ("train/images", "train/labels"):
            (root / folder).mkdir(parents=True)
        for number in range(count):
            cells = rng.integers(0, len(VOC), (7, 9)).astype(np.uint8)
            mask = Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST)
            shades = np.asarray(VOC.palette, np.uint8)[np.asarray(mask)] // 2 + 64
            coarse = rng.normal(0, 25, (height // 4, width // 4)).astype(np.float32)
            texture = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))
            photo = shades + texture[:, :, None] + rng.normal(0, 6, (height, width, 1))
            Image.fromarray(np.clip(photo, 0, 255).astype(np.uint8)).save(
                root / "train/images" / f"{number:03}.jpg", quality=90
            )
            mask.putpalette(VOC.flat_palette())
            mask.save(root / "train/labels" / f"{number:03}.png")
        (root / "classes.yaml").write_text(f"classes: [{', '.join(VOC.names)}]\n")
        yield root


def measure(data: str | None = None, rounds: int = 5, batch: int = 4, crop: Size = (288, 384)) -> dict[str, Any]:
    """Images a second of each way, and as multiples of what training takes (``share_of_training``).

    data: a name or folder for `fullconv.open_dataset`, its training split; a generated folder if not given.
    rounds: of each way, after one that is not counted. batch, crop: of a training step. Raises `UsageError` for data
    that cannot be used.
    """
    if data is None:
        with pictures() as root:
            return _measure(
                open_dataset(str(root), "train"), "generated, 360x480 JPEG and palette PNG", rounds, batch, crop
            )
    return _measure(open_dataset(data, default_splits(data)[0]), data, rounds, batch, crop)


def _measure(dataset: Dataset, name: str, rounds: int, batch: int, crop: Size) -> dict[str, Any]:
    fill = outside(CONVENTION, dataset.labels.ignore_index)
    config = TrainConfig(crop=crop, scale=1.5, flip=True, color=0.5, batch_size=batch, workers=0, steps=10**6)
    stream = BatchStream(dataset, augmentation(config, fill), fill, batch, config.seed)
    plain = replace(config, scale=None, flip=False, color=0.0)
    kept = [window(dataset[index % len(dataset)], 0, 0, crop, fill) for index in range(batch)]
    net = build(ModelConfig("mobilenet_v2", stride=8, num_classes=len(dataset.labels)))
    training = fit(State.of(net, plain), adapt(kept, dataset.labels), plain, CONVENTION)
    place = itertools.count(0, STEPS * batch)

    def decode() -> None:
        first = next(place)
        for index in range(first, first + STEPS * batch):
            dataset[index % len(dataset)]

    def here() -> None:
        first = next(place)
        for step in range(first, first + STEPS):
            stream[step]

    def workers() -> float:
        """From when each worker has handed over its first batch: starting them is not counted."""
        first = next(place)
        arriving = batches(stream, first, first + (4 * STEPS + 1) * WORKERS, WORKERS)
        for _ in range(WORKERS):
            next(arriving)
        began = time.perf_counter()
        return sum(batch for _ in arriving) / (time.perf_counter() - began)

    ways: dict[str, Callable[[], float]] = {
        "decoding": lambda: STEPS * batch / seconds(decode),
        "decoding, augmentation, batches": lambda: STEPS * batch / seconds(here),
        f"the same, {WORKERS} workers": workers,
        "training step": lambda: batch / seconds(lambda: next(training)),
    }
    medians(ways, 1)  # which is not counted
    rates = medians(ways, rounds)
    return {
        "data": name,
        "net": "FCN-8s on mobilenet_v2",
        "batch": batch,
        "crop": list(crop),
        "rounds": rounds,
        "ways": [
            {"way": way, "images_per_second": round(rate, 2),
             "share_of_training": round(rate / rates["training step"], 2)}
            for way, rate in rates.items()
        ],
    }  # fmt: skip
