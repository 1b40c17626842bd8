"""Several processes that train or evaluate one net as if they were one: which part is mine, and sums over all.

``torchrun`` starts them; `join` is called once in each, and without torchrun gives `ALONE`. accelerate wraps the net
and picks the device. What is counted is added as int64, so an evaluation on any number of processes is exact.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fullconv.errors import RunError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

TIMEOUT = 60.0
"""Seconds that a process waits for the others before it is an error."""


@dataclass(frozen=True)
class ProcessGroup:
    """The process that runs this, among all: number `rank` of `size`. Alone, it is all of them, and nothing is sent
    anywhere.
    """

    rank: int = 0
    size: int = 1
    accelerator: Any = None
    pulse: Heartbeat | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """The sums over all processes, in double precision."""
        import torch

        return list(numbers) if self.size == 1 else self._summed(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def counts(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum of integer arrays over all processes, exact."""
        import torch

        return counts if self.size == 1 else self._summed(torch.from_numpy(counts.copy())).numpy()

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag if self.size == 1 else self.sum([float(flag)])[0] > 0

    def _summed(self, tensor: Any) -> Any:
        import torch.distributed as dist

        device = self.accelerator.device
        moved = tensor.to(device)
        with self.translate_errors():
            dist.all_reduce(moved)
        return moved.cpu()

    def wrap(self, net: nn.Module) -> Any:
        """What is called for a forward pass, so that the gradients of all processes are averaged."""
        if self.size == 1:
            return net
        with self.translate_errors():
            return self.accelerator.prepare_model(net)

    def no_sync(self, wrapped: Any, last: bool) -> AbstractContextManager[None]:
        """Keep gradients local except in the `last` part of a step, so that they are averaged once."""
        return self.accelerator.no_sync(wrapped) if self.size > 1 and not last else contextlib.nullcontext()

    def at(self, step: int) -> None:
        """Note how far this process is, for the others to name it when it stays behind."""
        if self.pulse is not None:
            self.pulse.step = step

    def after_first(self, work: str, ended: Callable[[], bool] = lambda: False) -> None:
        """Wait until the first process has come to this point too, however long its work takes as long as it lives:
        what it writes (`work`, a name of its own each time) is then there.

        ended: whether this process was told to end: then a pulse that stands still for some beats is enough.
        """
        if self.pulse is None:
            return
        if self.first:
            self.pulse.store.set(f"done/{work}", "")
            return
        with self.translate_errors():
            self.pulse.wait(f"done/{work}", ended)

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise a lost connection or a time-out as one line that names the missing process."""
        try:
            yield
        except RuntimeError as problem:
            if self.pulse is None or not lost(problem):
                raise
            # Of a connection that was closed torchrun says itself whose process died.
            missing = self.pulse.missing() if "time" in str(problem).lower() else []
            who = f"process {', '.join(map(str, missing))}" if missing else "another process"
            raise RunError(
                f"process {self.rank} of {self.size}: {who} does not answer; look at its machine and its log, then go "
                "on with --resume (torchrun --max-restarts does so by itself)"
            ) from problem


ALONE = ProcessGroup()


def lost(problem: RuntimeError) -> bool:
    """Whether an error is about the connection between processes."""
    text = str(problem).lower()
    return any(word in text for word in ("gloo", "connection", "timed out", "timeout", "nccl", "broken pipe"))


class Heartbeat:
    """Tells the others that this process lives, and how far it is; they look when they wait in vain.

    A thread writes its step and a count into the store every second: the count of one that is stopped or dead
    stands still. One whose thread cannot write for twice the time that the others wait ends itself (`Deadline`).
    """

    def __init__(self, store: Any, rank: int, size: int, timeout: float) -> None:
        self.store, self.rank, self.size, self.timeout = store, rank, size, timeout
        self.every = min(1.0, timeout / 20)
        self.step = 0
        self.count = 0
        self.ended = threading.Event()
        self.deadline = Deadline()
        self._beat()
        self.thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self.thread.start()

    def _beat(self) -> None:
        self.count += 1
        self.deadline.set(2 * self.timeout)
        self.store.set(f"pulse/{self.rank}", f"{self.step} {self.count}")

    def _run(self) -> None:
        while not self.ended.wait(self.every):
            try:
                self._beat()
            except RuntimeError:  # the store went with the process that kept it
                break
        self.deadline.set(0)

    def _read(self) -> dict[int, tuple[int, int] | None]:
        """Step and count of each; None where the store does not answer."""
        found: dict[int, tuple[int, int] | None] = {}
        for rank in range(self.size):
            try:
                step, count = self.store.get(f"pulse/{rank}").decode().split(" ")
                found[rank] = (int(step), int(count))
            except (RuntimeError, ValueError):
                found[rank] = None
        return found

    def wait(self, key: str, ended: Callable[[], bool]) -> None:
        """Until a key is in the store; an error of the connection where the first process stops to live before."""
        seen, since = self._read()[0], time.monotonic()
        while not self.store.check([key]):
            time.sleep(min(0.1, self.every))
            now = self._read()[0]
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > (4 * self.every if ended() else self.timeout):
                raise RuntimeError("timed out")

    def missing(self) -> list[int]:
        """The processes whose pulse stands still; if none does, those that are a step or more behind the others."""
        before = self._read()
        time.sleep(3 * self.every)
        now = self._read()
        still = [rank for rank in now if rank != self.rank and (now[rank] is None or now[rank] == before[rank])]
        if still:
            return still
        furthest = max((place[0] for place in now.values() if place is not None), default=0)
        return [rank for rank, place in now.items() if place is not None and place[0] < furthest]

    def end(self) -> None:
        """Stop telling."""
        self.ended.set()
        self.thread.join()


class Deadline:
    """A timer of the kernel that kills this process unless it is set again in time. It also reaches a process that is
    stopped, for which torchrun waits for half a minute. Linux only; elsewhere there is none.
    """

    class Event(ctypes.Structure):
        """``struct sigevent``."""

        _fields_ = (("value", ctypes.c_void_p), ("signal", ctypes.c_int), ("notify", ctypes.c_int),
                    ("rest", ctypes.c_char * 48))  # fmt: skip

    def __init__(self) -> None:
        self.timer = ctypes.c_void_p()
        self.library: Any = None
        with contextlib.suppress(OSError, AttributeError, TypeError):
            library, event = ctypes.CDLL(None), self.Event(None, signal.SIGKILL, 0)
            if not library.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self.timer)):
                self.library = library

    def set(self, seconds: float) -> None:
        """Kill this process after so many seconds from now; 0 for never."""
        if self.library is not None:
            wait = (ctypes.c_long * 4)(0, 0, int(seconds), int(seconds % 1 * 1e9))  # struct itimerspec
            self.library.timer_settime(self.timer, 0, wait, None)


def asked_for() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def place() -> tuple[int, int]:
    """The number of this process among those of torchrun, and how many there are; (0, 1) without it. Nobody is met."""
    size = asked_for()
    return (int(os.environ["RANK"]), size) if size > 1 else (0, 1)


def wait_for_all(work: str) -> None:
    """Wait until every process of torchrun has come here, however long its work takes. torchrun ends all of them as
    soon as one leaves with an error: who has one to tell waits here first. Without torchrun there is nobody.
    """
    rank, size = place()
    if size == 1 or "MASTER_ADDR" not in os.environ:
        return
    import torch.distributed as dist

    with contextlib.suppress(RuntimeError):  # nobody is there to be waited for
        shared, _, _ = next(dist.rendezvous("env://", rank, size, timeout=timedelta(seconds=TIMEOUT)))
        store = dist.PrefixStore(f"fullconv/{work}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)
        store.add("there", 1)
        while store.add("there", 0) < size:
            time.sleep(0.1)
        store.add("seen", 1)
        while rank == 0 and store.add("seen", 0) < size:  # it may be the one that keeps the store
            time.sleep(0.02)


def join(timeout: float = TIMEOUT) -> ProcessGroup:
    """Meet the other processes of torchrun; `ALONE` without it.

    Each attempt of ``torchrun --max-restarts`` meets under names of its own: a store that still holds the addresses of
    the dead attempt would make the new one wait for them, or fail.
    """
    size = asked_for()
    if size == 1:
        return ALONE
    try:
        import accelerate
    except ImportError:
        raise UsageError("torchrun: several processes need accelerate; pip install 'fullconv[dist]'") from None
    import torch
    import torch.distributed as dist

    rank, attempt = int(os.environ["RANK"]), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    cuda = torch.cuda.is_available()
    try:
        if not dist.is_initialized():
            shared, _, _ = next(dist.rendezvous("env://", rank, size, timeout=timedelta(seconds=timeout)))
            store = dist.PrefixStore(f"fullconv/{attempt}", shared)
            backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
            )
        accelerator = accelerate.Accelerator(cpu=not cuda)
    except RuntimeError as problem:
        raise RunError(
            f"process {rank} of {size}: it could not meet the others ({str(problem).splitlines()[0]}); check that all "
            "are started, with the same --nnodes and --rdzv-endpoint"
        ) from None
    # A connection of its own: the one that collectives use may be blocked by them.
    pulse = Heartbeat(store.clone() if hasattr(store, "clone") else store, rank, size, timeout)
    return ProcessGroup(rank, size, accelerator, pulse)


def leave(processes: ProcessGroup) -> None:
    """Part from the others, after the work is done."""
    if processes.size == 1:
        return
    import torch.distributed as dist

    if processes.pulse is not None:
        processes.pulse.end()
    dist.destroy_process_group()
