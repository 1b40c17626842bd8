"""Prediction on a cluster: Ray Data gives the images to workers, which read, predict and write by themselves.

Nothing but numbers and facts travels. Model, images and the folder of the outputs lie on a disk that all machines
share, under one path. A worker notes each image behind its pictures; when it dies, the one that gets the same images
leaves out what is noted, so that none is lost and none is told of twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fullconv import host
from fullconv.cli.loading import PredictRequest, ready
from fullconv.cli.segmenting import Told, segment
from fullconv.errors import RunError, UsageError, shown
from fullconv.inference.inputs import Input
from fullconv.inference.outputs import OutputWriter
from fullconv.inference.pipeline import Clock, Throughput

IMAGES = 16
"""Images that a worker takes at a time, at most."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""What keeps Ray from sending numbers to its makers, and from remarks."""

LIVES = 3
"""How many workers may die of one image."""


@dataclass(frozen=True)
class Task:
    """What every worker must know: the place, the model, all inputs, and what is to be made of them."""

    place: Path
    asked: PredictRequest
    inputs: list[Input]
    outputs: OutputWriter
    every: int
    skip: bool
    notes: Path


class Worker:
    """Loads the model once, then predicts the images whose numbers it is given."""

    def __init__(self, task: Task) -> None:
        host.own_process()
        os.chdir(task.place)  # paths are those that were given on the command line
        self.task = task
        self.ready = ready(task.asked, task.outputs)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What came of each image, and how long they took, each as JSON."""
        try:
            return {"said": list(self.said([int(number) for number in batch["number"]]))}
        except RunError as problem:
            return {"said": [json.dumps({"ended": str(problem)})]}

    def said(self, numbers: list[int]) -> Iterator[str]:
        """What came of images and videos: from their notes, where another worker did them."""
        todo = []
        for number in numbers:
            try:
                yield self._note(number).read_text()
            except FileNotFoundError:
                todo.append(number)
        together = [n for n in todo if self.task.inputs[n].video is None and not self._tries(n)]
        if together:
            yield from self._predict(together)
        for number in todo:
            if number not in together:  # a video, or one of those that a worker was at when it died
                yield from self._predict([number]) if self._tries(number) < LIVES else [self._given_up(number)]

    def _note(self, number: int) -> Path:
        return self.task.notes / f"{number}.json"

    def _tries(self, number: int) -> int:
        """How many workers began with it."""
        file = self._note(number).with_suffix(".tries")
        return file.stat().st_size if file.exists() else 0

    def _given_up(self, number: int) -> str:
        source = shown(self.task.inputs[number].source)
        failed = f"{source}: {LIVES} workers died of it; predict it alone, on a machine with more memory"
        return json.dumps(asdict(Told(failed=[failed])) | {"number": number, "process": os.getpid()})

    def _predict(self, numbers: list[int]) -> Iterator[str]:
        """What came of images that go through the net one behind the other, or of one video."""
        task, told, clock = self.task, Told(), self.ready.clock
        if clock is not None:
            clock.seconds = {}
        for number in numbers:
            with self._note(number).with_suffix(".tries").open("ab") as file:
                file.write(b".")
        coming, notes = iter(numbers), []

        def noted(told: Told, _: int = 0) -> None:
            """The next one is done: note what has come to be told since the last."""
            number = next(coming)
            facts = asdict(told) | {"number": number, "process": os.getpid()}
            told.clear()
            notes.append(json.dumps(facts))
            temporary = self._note(number).with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(notes[-1])
            temporary.replace(self._note(number))

        inputs = [task.inputs[number] for number in numbers]
        video = inputs[0].video is not None
        more = {} if video else {"seen": noted}
        pace = segment(self.ready, inputs, task.outputs, told, task.every, task.skip, **more)
        if video:
            noted(told)
        yield from notes
        yield json.dumps({"pace": asdict(pace), "seconds": told.seconds})


def segment_on_cluster(
    args: argparse.Namespace, asked: PredictRequest, inputs: list[Input], outputs: OutputWriter, told: Told,
    seen: Callable[[Told, int], Any],
) -> Throughput:  # fmt: skip
    """Predict on the workers of a Ray cluster, into `outputs` and `told`."""
    notes = args.out / f".fullconv-notes-{secrets.token_hex(4)}"
    notes.mkdir()
    task = Task(Path.cwd(), asked, inputs, outputs, args.every, args.skip_existing, notes)
    found: dict[int, Told] = {}
    pace, clock, began = Throughput(), Clock(), time.perf_counter()
    try:
        with connected(args.ray, args.ray_workers) as ray:
            for text in said_by_workers(ray, task, args.ray_workers):
                said = json.loads(text)
                if "ended" in said:
                    raise RunError(said["ended"])
                if "pace" in said:
                    clock.add(said["seconds"])
                    pace.add(Throughput(**said["pace"]))
                elif said["number"] not in found:
                    facts = {kind: said[kind] for kind in ("written", "videos", "failed", "skipped")}
                    found[said["number"]] = Told(**facts)
                    told.add(found[said["number"]])
                    seen(told, max(len(inputs), told.done))
    finally:
        shutil.rmtree(notes, ignore_errors=True)
    missing = len(inputs) - len(found)
    if missing:
        raise RunError(f"--ray: {missing} of {len(inputs)} inputs came to no end; go on with --skip-existing")
    told.clear()
    for _, one in sorted(found.items()):
        told.add(one)
    told.seconds, pace.seconds = clock.seconds, time.perf_counter() - began
    pace.images = len(told.written)  # a worker that died did not tell how fast it was
    return pace


def said_by_workers(ray: ModuleType, task: Task, workers: int | None) -> Iterator[str]:
    """What the workers say, as they say it. Raises `RunError` when they die again and again."""
    workers = min(workers or int(ray.cluster_resources().get("CPU", 1)), len(task.inputs))
    at_once = min(IMAGES, -(-len(task.inputs) // (4 * workers)))
    numbers = [{"number": number} for number in range(len(task.inputs))]
    try:
        data = ray.data.from_items(numbers, override_num_blocks=-(-len(numbers) // at_once))
        # Ray starts a worker that died again, and gives it what it was at (max_restarts and max_task_retries are -1).
        data = data.map_batches(
            Worker, fn_constructor_args=(task,), batch_size=at_once, concurrency=workers, num_cpus=1
        )
        for row in data.iter_rows():
            yield str(row["said"])
    except ray.exceptions.RayError as problem:
        reason = shown(str(problem).strip().splitlines()[-1])
        raise RunError(
            f"--ray: the workers failed ({reason}); look at the machines, go on with --skip-existing"
        ) from None


def knock(address: str) -> None:
    """Raise `OSError` where nobody listens at ``HOST:PORT``: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextlib.contextmanager
def without_remarks() -> Iterator[None]:
    """While Ray starts: its parts in C++ write to standard error what they are set to."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def connected(address: str, workers: int | None) -> Iterator[ModuleType]:
    """Ray, connected to a cluster or to processes started here, without pages, bars or anything sent anywhere."""
    os.environ.update(QUIET)
    try:
        import ray
        import ray.data
    except ImportError:
        raise UsageError("--ray: it needs Ray; pip install 'fullconv[dist]'") from None
    silent: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    with tempfile.TemporaryDirectory(prefix="fullconv-", ignore_cleanup_errors=True) as folder:
        if address == "local":
            cores = workers or os.cpu_count()
            with without_remarks():
                ray.init("local", num_cpus=cores, object_store_memory=100 << 20, _temp_dir=folder, **silent)
        else:
            del silent["include_dashboard"]
            try:
                knock(address)
                with without_remarks():
                    ray.init(address=address, **silent)
            except (OSError, RuntimeError, ValueError) as problem:
                reason = shown(str(problem).strip().splitlines()[0])
                raise UsageError(f"--ray {address}: no cluster answers ({reason}); start one with ray start --head, "
                                 "or give local") from None  # fmt: skip
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            yield ray
        finally:
            ray.shutdown()
