"""Predict on a cluster: Ray Data assigns the images to workers, which read, predict and write by themselves.

Only numbers and facts travel. Model, images and outputs lie on a disk that all machines share, under one path. A worker
leaves a note of each image after its files are written; when it dies, the worker that gets the same images leaves out
those with a note, so that none is lost and none is reported twice.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fullconv import host
from fullconv.errors import RunError, UsageError, shown
from fullconv.inference.batch import Prediction, PredictionResults, Progress, predict_batch
from fullconv.inference.inputs import Input
from fullconv.inference.outputs import OutputWriter, Written
from fullconv.inference.pipeline import Clock, Throughput
from fullconv.inference.request import PredictRequest, load_with_passes

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
    """What every worker must know: the working directory, the request, all inputs, and the outputs."""

    place: Path
    request: PredictRequest
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
        self.loaded = load_with_passes(task.request, task.outputs)

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
        given = self.task.inputs[number]
        return _as_note([Prediction(given.name, given.source, error=failed)], [], number)

    def _predict(self, numbers: list[int]) -> Iterator[str]:
        """What came of images that go through the net one behind the other, or of one video."""
        task, results, clock = self.task, PredictionResults(), self.loaded.clock
        if clock is not None:
            clock.seconds = {}
        for number in numbers:
            with self._note(number).with_suffix(".tries").open("ab") as file:
                file.write(b".")
        coming, notes = iter(numbers), []

        def write_note(*_: int) -> None:
            """Note the results since the last note: those of the next input."""
            number = next(coming)
            notes.append(_as_note(results.records, results.videos, number))
            results.records.clear()
            results.videos.clear()
            temporary = self._note(number).with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(notes[-1])
            temporary.replace(self._note(number))

        inputs = [task.inputs[number] for number in numbers]
        video = inputs[0].video is not None
        more = {} if video else {"progress": write_note}
        predict_batch(self.loaded, inputs, task.outputs, results, task.every, task.skip, **more)
        if video:
            write_note()
        yield from notes
        yield json.dumps({"pace": asdict(results.throughput), "seconds": results.seconds})


def _as_note(records: list[Prediction], videos: list[Written], number: int) -> str:
    """Return the results of one input as JSON."""
    found = [asdict(record) for record in records]
    return json.dumps({"records": found, "videos": videos, "number": number, "process": os.getpid()})


def predict_on_cluster(
    address: str, workers: int | None, request: PredictRequest, inputs: list[Input], outputs: OutputWriter,
    results: PredictionResults, every: int = 1, skip: bool = False, progress: Progress = lambda done, expected: None,
) -> None:  # fmt: skip
    """Predict on the workers of a Ray cluster, into `outputs`, and add to `results`.

    address: ``auto``, ``HOST:PORT``, or ``local`` for processes on this machine. workers: how many (default: one for
    each CPU). The other arguments are those of `predict_batch`.
    """
    notes = outputs.folder / f".fullconv-notes-{secrets.token_hex(4)}"
    notes.mkdir()
    task = Task(Path.cwd(), request, inputs, outputs, every, skip, notes)
    found: dict[int, dict[str, Any]] = {}
    clock, began, done = Clock(), time.perf_counter(), 0
    try:
        with connected(address, workers) as ray:
            for text in said_by_workers(ray, task, workers):
                said = json.loads(text)
                if "ended" in said:
                    raise RunError(said["ended"])
                if "pace" in said:
                    clock.add(said["seconds"])
                    results.throughput.add(Throughput(**said["pace"]))
                elif said["number"] not in found:
                    found[said["number"]] = said
                    done += len(said["records"])
                    progress(done, max(len(inputs), done))
    finally:
        shutil.rmtree(notes, ignore_errors=True)
    missing = len(inputs) - len(found)
    if missing:
        raise RunError(f"--ray: {missing} of {len(inputs)} inputs came to no end; go on with --skip-existing")
    for _, said in sorted(found.items()):
        results.records += [Prediction(**record) for record in said["records"]]
        results.videos += said["videos"]
    results.seconds, results.throughput.seconds = clock.seconds, time.perf_counter() - began
    results.throughput.images = len(results.written)  # a worker that died did not report how fast it was


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
    """Close standard error while Ray starts, whose parts in C++ report their settings there; in a process of ours."""
    if not host.owns_process():
        yield
        return
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
        if host.owns_process():
            logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            yield ray
        finally:
            ray.shutdown()
