"""The batches of a run: which samples make up step t, and what is drawn for them, computed from t and nothing else.

There is no sampler state to save: a run that begins at step t sees what an uninterrupted run sees from step t on,
with any number of worker processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.data import Dataset, Image, Sample
from fullconv.data.transforms import Fill, Transform, window
from fullconv.errors import FullconvError

# Streams of random numbers that must not meet, told apart by the second word of their seed.
_ORDER, _AUGMENT = 1, 2


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(length)


def sample_index(seed: int, position: int, length: int, replacement: bool = False) -> int:
    """Which sample stands at a position of the endless order: a new shuffle each epoch, or drawn with replacement.

    >>> sorted(sample_index(7, position, 5) for position in range(10, 15))
    [0, 1, 2, 3, 4]
    """
    if replacement:
        return int(np.random.default_rng([seed, _ORDER, position]).integers(length))
    epoch, place = divmod(position, length)
    return int(_permutation(seed, epoch, length)[place])


@dataclass(frozen=True)
class Batch:
    """The samples of one step, of one size: images (N, H, W, C) as they are, and labels (N, H, W) int64 by task."""

    images: Image
    labels: Mapping[str, NDArray[np.int64]]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Stream:
    """The endless sequence of batches of a data set: ``stream[t]`` is the batch of step t, whoever asks and
    whenever.
    """

    dataset: Dataset
    transform: Transform
    fill: Fill
    batch_size: int
    seed: int
    replacement: bool = False

    def __getitem__(self, step: int) -> Batch:
        samples = []
        for slot in range(self.batch_size):
            index = sample_index(self.seed, step * self.batch_size + slot, len(self.dataset), self.replacement)
            rng = np.random.default_rng([self.seed, _AUGMENT, step, slot])
            samples.append(self.transform(self.dataset[index], rng))
        return collate(samples, self.fill)


def collate(samples: list[Sample], fill: Fill) -> Batch:
    """Samples as one batch; smaller ones are extended at the bottom and right by the mean colour and void."""
    size = (max(s.image.shape[0] for s in samples), max(s.image.shape[1] for s in samples))
    if all(s.semantic.shape == s.image.shape[:2] for s in samples):
        samples = [s if s.semantic.shape == size else window(s, 0, 0, size, fill) for s in samples]
    images = np.stack([s.image for s in samples])
    labels = {
        task: np.stack([s.tasks[task] for s in samples], dtype=np.int64, casting="unsafe") for task in samples[0].tasks
    }
    return Batch(images, labels, tuple(s.name for s in samples))


def batches(stream: Stream, start: int, stop: int, workers: int | None = None) -> Iterator[Batch]:
    """The batches of steps `start` to `stop`, made ahead by so many worker processes (0: in this one).

    None: as many as there are cores beyond two, at most four; a net that trains on two cores wants both.
    """
    from torch.utils.data import DataLoader

    if workers is None:
        workers = min(4, max(0, (os.cpu_count() or 1) - 2))
    steps: Any = _Steps(stream, start, stop)  # what DataLoader wants of a data set is len and getitem
    ahead = 4 if workers else None
    loader: Iterable[Batch | FullconvError] = DataLoader(
        steps, batch_size=1, collate_fn=_only, num_workers=workers, prefetch_factor=ahead
    )
    for batch in loader:
        if isinstance(batch, FullconvError):
            raise batch
        yield batch


def _only(items: list[Any]) -> Any:
    return items[0]


@dataclass(frozen=True)
class _Steps:
    stream: Stream
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Batch | FullconvError:
        try:
            return self.stream[self.start + index]
        except FullconvError as problem:  # raised in a worker it would come back wrapped in a traceback
            return problem
