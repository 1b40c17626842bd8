"""The batches of a run: which samples make up step t, and what is drawn for them, computed from t and nothing else.

There is no sampler state to save: a run that begins at step t sees what an uninterrupted run sees from step t on,
with any number of worker processes.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from fullconv import host
from fullconv.data.dataset import Dataset, Image, Sample
from fullconv.data.transforms import Fill, Transform, window
from fullconv.errors import FullconvError, RunError, UsageError

AHEAD = 4
"""Batches that each process that loads has ready."""

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
"""What people and batch systems send to end a run: Ctrl-C, the end of a job, and the warning before it."""

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
class BatchStream:
    """The endless sequence of batches of a data set: ``stream[t]`` is the batch of step t, whoever asks and
    whenever.

    slots: the first of the samples of each batch that are taken, and every so many: several processes share it.
    """

    dataset: Dataset
    transform: Transform
    fill: Fill
    batch_size: int
    seed: int
    replacement: bool = False
    slots: tuple[int, int] = (0, 1)

    def __getitem__(self, step: int) -> Batch:
        samples = []
        for slot in range(self.slots[0], self.batch_size, self.slots[1]):
            index = sample_index(self.seed, step * self.batch_size + slot, len(self.dataset), self.replacement)
            rng = np.random.default_rng([self.seed, _AUGMENT, step, slot])
            samples.append(self.transform(self._sample(index), rng))
        return collate(samples, self.fill)

    def _sample(self, index: int) -> Sample:
        try:
            return self.dataset[index]
        except FullconvError:
            raise
        except Exception as problem:  # of a data set that is not ours
            raise RunError(
                f"sample {index}: the data set failed on it ({type(problem).__name__}: {problem}); look at this sample"
            ) from problem


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


@dataclass(frozen=True)
class RankShard:
    """What process `rank` of `size` takes of a stream of which `parts` batches make a step: every `size`-th of them
    where that comes out even, else every `size`-th sample of each. Together they are the batches of one process.
    """

    stream: BatchStream
    parts: int
    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if self.parts % self.size and self.stream.batch_size < self.size:
            raise UsageError(
                f"{self.size} processes: they cannot share {self.parts} batches of {self.stream.batch_size} images; "
                f"give --batch-size {self.size} or more, or fewer processes"
            )

    @property
    def whole(self) -> bool:
        """Whether the batches are taken whole."""
        return self.parts % self.size == 0

    @property
    def mine(self) -> int:
        """The batches of a step that come to this process."""
        return self.parts // self.size if self.whole else self.parts

    def number(self, index: int) -> int:
        """The number in the stream of the batch `index` of this process."""
        step, place = divmod(index, self.mine)
        return step * self.parts + (place * self.size + self.rank if self.whole else place)

    def draw(self, index: int) -> int:
        """What random choices for that batch are drawn by: no two processes, and no two batches, have the same."""
        return self.number(index) + (0 if self.whole else self.rank << 40)

    def __getitem__(self, index: int) -> Batch:
        stream = self.stream if self.whole else replace(self.stream, slots=(self.rank, self.size))
        return stream[self.number(index)]


def loading_processes(workers: int | None) -> int:
    """The processes that load images: as many as asked for, else the cores beyond two, at most four."""
    return min(4, max(0, (os.cpu_count() or 1) - 2)) if workers is None else workers


def batches(
    stream: BatchStream | RankShard, start: int, stop: int, workers: int | None = None, timeout: float = 0
) -> Iterator[Batch]:
    """The batches `start` to `stop`, made ahead by so many worker processes (0: in this one).

    workers: None for as many as there are cores beyond two, at most four; a net that trains on two cores wants both.
    timeout: seconds after which a worker that gives nothing counts as hung; 0 for never. Raises `RunError` when one
    hangs or dies.
    """
    from torch.utils.data import DataLoader

    workers = loading_processes(workers)
    steps: Any = _Steps(stream, start, stop)  # what DataLoader wants of a data set is len and getitem
    loader: Iterator[Batch | FullconvError] = iter(
        DataLoader(
            steps,
            batch_size=1,
            collate_fn=_only,
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            timeout=timeout if workers else 0,
            worker_init_fn=partial(_begin_worker, os.getpid()),
        )
    )
    _loaders.add(loader)
    try:
        with worker_faults(loader):
            for batch in loader:
                if isinstance(batch, FullconvError):
                    raise batch
                yield batch
    finally:
        _end_workers(loader)


_loaders: WeakSet[Any] = WeakSet()
"""The loaders of `batches` that are in use, whose processes are ours to end."""


@contextlib.contextmanager
def worker_faults(loader: Any = None) -> Iterator[None]:
    """Turn the death of a loader process, which torch raises wherever the main process is at that moment, or its
    silence into one line, and end the processes of the loader that failed: `loader`, or the one that has the process
    which torch names.
    """
    try:
        yield
    except RuntimeError as problem:
        text = str(problem)
        if "DataLoader" not in text:
            raise
        named = {int(number) for number in re.findall(r"\d+", text)}
        for one in list(_loaders):
            if one is loader or named & {worker.pid for worker in getattr(one, "_workers", ())}:
                _end_workers(one)
        if "timed out" in text:
            what = f"no images came for {text.split('after ')[-1].split(' seconds')[0]} seconds: a loader process hangs"
            way = "look at the disk or the data set, or give a longer --worker-timeout"
        else:
            what = f"a loader process died ({text.split('.')[0].split(') ')[-1]})"
            way = "it may have been killed for its memory: give fewer --workers; go on with --resume"
        raise RunError(f"loader: {what}; {way}") from None


def _end_workers(loader: Any) -> None:
    """Kill the processes of a loader that are left; torch is told first, or it would report the death of each."""
    workers = getattr(loader, "_workers", ())
    if workers and loader._worker_pids_set:
        from torch.utils.data._utils.signal_handling import _remove_worker_pids

        loader._worker_pids_set = False
        _remove_worker_pids(id(loader))
    for worker in workers:
        worker.kill()
        worker.join()


def _begin_worker(parent: int, worker: int) -> None:
    """Loader processes leave signals to the main process, which ends them: Ctrl-C and a batch system reach all. And
    they end with it, however it ended: one that waits to hand over a batch would wait for ever.
    """
    host.own_process()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _only(items: list[Any]) -> Any:
    return items[0]


@dataclass(frozen=True)
class _Steps:
    stream: BatchStream | RankShard
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Batch | FullconvError:
        try:
            return self.stream[self.start + index]
        except FullconvError as problem:  # raised in a worker it would come back wrapped in a traceback
            return problem
