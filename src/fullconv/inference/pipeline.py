"""Many things through one net, with reading, net and writing at the same time, so that the net never waits.

Threads read ahead, the net runs in the thread that calls, threads write behind it. What waits between them is bounded
in bytes, whatever the size of the images, and results come out in the order in which things went in.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fullconv.errors import UsageError

ROOM = 256 << 20
"""Bytes of images that may be read ahead, and of images with their scores that may wait to be written."""

THREADS = max(2, min(8, (os.cpu_count() or 2) // 2))
"""Threads that read, and as many that write."""

Job = TypeVar("Job")


@dataclass
class Throughput:
    """How fast it went: images through the net, seconds in all, and of those from the first image at the net to the end
    of the last the seconds in which the net worked.
    """

    images: int = 0
    seconds: float = 0.0
    worked: float = 0.0
    first: float = 0.0
    last: float = 0.0

    @property
    def busy(self) -> float:
        """The part of the time in which the net did not wait, 0 to 1.

        >>> Throughput(images=10, worked=3.0, first=1.0, last=5.0).busy
        0.75
        """
        return self.worked / (self.last - self.first) if self.images else 1.0

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds if self.seconds else 0.0

    def add(self, other: Throughput) -> None:
        """What another net did, somewhere else: the times of both are summed."""
        self.images += other.images
        self.seconds += other.seconds
        self.worked += other.worked
        self.last += other.last - other.first

    @contextmanager
    def count(self) -> Iterator[None]:
        """Count one image, and the time of the block as that of the network."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.last = time.perf_counter()
            self.first = self.first or began
            self.worked += self.last - began
            self.images += 1


class Clock:
    """Seconds by what they were spent on, summed over all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.lock = threading.Lock()

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Count the time of the block under a word."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add({what: time.perf_counter() - began})

    def add(self, seconds: dict[str, float]) -> None:
        """Add what another clock counted."""
        with self.lock:
            for what, more in seconds.items():
                self.seconds[what] = self.seconds.get(what, 0.0) + more


def run_pipeline(
    jobs: Iterable[Job],
    read: Callable[[Job], Any],
    work: Callable[[Any], Any],
    write: Callable[[Job, Any], Any],
    done: Callable[[Job, Any], Any],
    size: Callable[[Any], int],
    room: int = ROOM,
    threads: int = THREADS,
) -> Throughput:
    """Read, work and write every job; `work` is called here, one after the other, the others in threads.

    read: what `work` takes, or None for a job that has nothing for the net. write: of what `work` gave. done: called
    for each job in the order of the jobs, in one thread, with what `write` gave, with the `UsageError` that one of the
    three raised for it, or with None. size: the bytes of what `read` and `work` gave. `jobs` is iterated here.

    What is read ahead is at most `room` bytes, and one image more in each thread; what waits behind the net as many, or
    one image. Any other error ends the work and is raised, as an interruption is: what is being written is then
    finished, and nothing new begun.
    """
    names = (("read", threads), ("write", threads), ("done", 1))
    readers, writers, last = pools = [ThreadPoolExecutor(n, f"fullconv-{name}") for name, n in names]
    ahead, behind = Prefetcher(room), Writeback(room, 4 * threads)
    pace, began = Throughput(), time.perf_counter()
    coming, waiting = enumerate(jobs), deque[tuple[int, Job, Future[Any]]]()

    def read_ahead() -> None:
        while len(waiting) < 4 * threads and (following := next(coming, None)) is not None:
            number, job = following
            waiting.append((number, job, readers.submit(ahead.read, number, partial(read, job), size)))

    def end(job: Job, outcome: Any) -> None:
        try:
            outcome = outcome.result() if isinstance(outcome, Future) else outcome
        except UsageError as problem:
            outcome = problem
        done(job, outcome)

    try:
        read_ahead()
        while waiting:
            behind.make_room()
            number, job, reading = waiting.popleft()
            outcome: Any = None
            taken = 0
            try:
                image = ahead.take(number, reading)
                read_ahead()
                if image is not None:
                    with pace.count():
                        found = work(image)
                    outcome, taken = writers.submit(write, job, found), size(image) + size(found)
                    del found
                del image
            except UsageError as problem:
                outcome = problem
                read_ahead()
            behind.put(last.submit(end, job, outcome), taken)
        behind.finish()
    except BaseException:
        ahead.close()
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        for pool in pools:
            pool.shutdown()
    pace.seconds = time.perf_counter() - began
    return pace


class Prefetcher:
    """The images that are read and wait for the net, in bytes. A thread reads when there is room for one more as large
    as the largest of the last ones, or when the net waits for just this one.
    """

    def __init__(self, room: int) -> None:
        self.room, self.held, self.reading, self.turn, self.closed = room, 0, 0, 0, False
        self.recent: deque[int] = deque(maxlen=16)
        self.sizes: dict[int, int] = {}
        self.changed = threading.Condition()

    def _may_read(self, number: int) -> bool:
        expected = max(self.recent, default=0)
        return self.closed or number == self.turn or self.held + (self.reading + 1) * expected <= self.room

    def read(self, number: int, read: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """Read number so and so, when there is room."""
        with self.changed:
            self.changed.wait_for(lambda: self._may_read(number))
            if self.closed:
                return None
            self.reading += 1
        taken = 0
        try:
            image = read()
            taken = 0 if image is None else size(image)
            return image
        finally:
            with self.changed:
                self.reading -= 1
                self.held += taken
                self.sizes[number] = taken
                self.recent.append(taken)
                self.changed.notify_all()

    def take(self, number: int, reading: Future[Any]) -> Any:
        """What was read as number so and so, as soon as it is."""
        with self.changed:
            self.turn = number
            self.changed.notify_all()
        try:
            return reading.result()
        finally:
            with self.changed:
                self.held -= self.sizes.pop(number, 0)
                self.changed.notify_all()

    def close(self) -> None:
        """Read nothing more."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class Writeback:
    """What the net has done and is not written yet, in its order, and its bytes."""

    def __init__(self, room: int, most: int) -> None:
        self.room, self.most, self.held = room, most, 0
        self.recent: deque[int] = deque(maxlen=16)
        self.waiting: deque[tuple[Future[None], int]] = deque()

    def put(self, ending: Future[None], taken: int) -> None:
        """One more."""
        self.waiting.append((ending, taken))
        self.held += taken
        self.recent.append(taken)

    def _take(self) -> None:
        ending, taken = self.waiting.popleft()
        ending.result()  # an error of a thread comes out here
        self.held -= taken

    def make_room(self) -> None:
        """Until one more, as large as the largest of the last ones, has room, or nothing waits."""
        while self.waiting and (
            self.waiting[0][0].done() or len(self.waiting) >= self.most or self.held + max(self.recent) > self.room
        ):
            self._take()

    def finish(self) -> None:
        """Until all is written."""
        while self.waiting:
            self._take()
