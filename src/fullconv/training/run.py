"""A run in a folder: `model.safetensors` (the best net), `last.safetensors`, `last/` (training state),
`log.jsonl` (the records), and `split.json` where the split was made here.

What is here only consumes the records of `fit`: it writes them down, saves the state, keeps the best net, and ends
early where that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from fullconv import __version__
from fullconv.config import InputConvention, ModelConfig, TrainConfig, to_mapping
from fullconv.data.dataset import Dataset, facts_of
from fullconv.data.loader import worker_faults
from fullconv.distributed import ALONE, ProcessGroup
from fullconv.errors import RunError, UsageError
from fullconv.evaluation.evaluate import Interrupted, evaluate
from fullconv.inference.predictor import Predictor
from fullconv.io.atomic import remove_leftovers
from fullconv.metrics import Scores
from fullconv.models.build import build
from fullconv.training.adapt import data_fingerprint, input_of, refuse_a_leak, suited
from fullconv.training.environment import environment
from fullconv.training.guards import doubt_of_input, refuse_dead_layers, refuse_lost_norms
from fullconv.training.log import Log, as_json, write_split
from fullconv.training.loop import (
    Record,
    State,
    chosen_device,
    chosen_precision,
    ema_weights,
    fit,
    is_scored,
)
from fullconv.training.resume import settle, surroundings
from fullconv.training.saved_state import newest_state, refuse_without_room, restore, save_state
from fullconv.training.step import NotFinite
from fullconv.training.stop import Stop
from fullconv.weights import checkpoint
from fullconv.weights.checkpoint import Header
from fullconv.weights.transplant import Transplant, transplant

FREE = ("workers", "worker_timeout", "save_every", "device")
"""Settings that decide nothing of the result, and may be others when a run goes on."""


@dataclass
class Progress:
    """How far a run is, beside its state: the best mean IU, how many evaluations have passed since without a better,
    and the record of a step whose evaluation was broken off.
    """

    best: float | None = None
    stale: int = 0
    unevaluated: dict[str, Any] | None = None


@dataclass(frozen=True)
class Run:
    """A run that is ready to start or to go on.

    facts: what must be the same when the run is resumed: settings, data, starting weights.
    transplant: what was taken from the starting weights; None when they are random. doubts: what does not look right, a
    sentence each. processes: this process among those that train. lock: held until the records end.
    """

    folder: Path
    state: State
    header: Header
    config: TrainConfig
    dataset: Dataset
    validation: Dataset | None
    facts: dict[str, Any]
    progress: Progress
    transplant: Transplant | None
    doubts: tuple[str, ...] = ()
    processes: ProcessGroup = ALONE
    lock: FileLock | None = field(default=None, repr=False)

    @property
    def total(self) -> int:
        """The number of steps of the whole run."""
        return self.config.total_steps(len(self.dataset))

    @property
    def over(self) -> bool:
        """Whether there is no step left to do: all are done, or the patience is at its end."""
        config, progress = self.config, self.progress
        stale = config.patience is not None and progress.stale >= config.patience
        return (self.state.step >= self.total or stale) and progress.unevaluated is None


def prepare(
    folder: Path,
    data: str,
    dataset: Dataset,
    validation: Dataset | None,
    model: ModelConfig,
    config: TrainConfig,
    convention: InputConvention,
    start: Path | None = None,
    resume: bool = False,
    command: str | None = None,
    force: bool = False,
    processes: ProcessGroup = ALONE,
) -> Run:
    """Make the net and its optimizer, or take up the newest state in the folder, which no other training may use.

    start: weights to begin from. command: what was typed, for the report. force: go on in spite of changed settings.
    Raises `UsageError` when the folder holds a run already and `resume` is not asked for, when it is and the settings
    differ from those it was begun with, or when another training is at work in it; `RunError` where it cannot be
    written, or the disk has no room.
    """
    if not len(dataset):
        raise UsageError(f"{data}: the training split is empty; add images")
    if validation is not None and len(validation.labels) != len(dataset.labels):
        raise UsageError(
            f"{data}: {len(dataset.labels)} classes in train, {len(validation.labels)} in val; give a classes.yaml"
        )
    refuse_a_leak(data, dataset, validation)
    model = suited(data, dataset, model)
    convention = input_of(dataset, convention)
    torch.manual_seed(config.seed)
    if not resume and (folder / "last").is_dir() and any((folder / "last").iterdir()):
        raise UsageError(f"{folder}: it holds a run already; add --resume to go on with it, or give another --out")
    lock = _locked(folder) if processes.first else None
    if resume and processes.first:
        remove_leftovers(folder, "*")  # of a killed process: the lock says that nobody else writes here
    found = newest_state(folder / "last") if resume else None

    net = build(model)
    taken, begun_with, doubt = None, None, None
    if start is not None:
        tensors, _ = checkpoint.load(start)
        taken = transplant(net, tensors, str(start))
        begun_with = checkpoint.fingerprint(tensors)
        refuse_dead_layers(net, str(start))
        refuse_lost_norms(net, config, str(start))
        doubt = None if found else doubt_of_input(tensors, model, convention, dataset)
    # What was left to be decided is decided here, so that it is written down and compared on resume.
    device = chosen_device(config.device, processes)
    config = replace(
        config,
        precision="bf16" if chosen_precision(config.precision, device) == torch.bfloat16 else "fp32",
        freeze_bn=start is not None if config.freeze_bn is None else config.freeze_bn,
    )
    facts = {
        "data": data_fingerprint(dataset),
        "weights": begun_with,
        "model": to_mapping(model),
        "input": convention.to_dict(),
        "train": {k: v for k, v in to_mapping(config).items() if k not in FREE},
    }
    state = State.of(net.to(device), config)
    progress, doubts = Progress(), [doubt]
    if found is not None:
        doubts = [settle(folder, found[1], facts, force), surroundings(found[1].get("where", {}), _where(processes))]
        restore(state, *found)
        progress = Progress(**found[1].get("progress", {"best": found[1].get("best")}))
    if processes.first:
        refuse_without_room(folder, state)
    provenance = {
        "fullconv": __version__,
        "torch": torch.__version__,
        "data": data,
        "data_fingerprint": {
            "train": facts["data"],
            "val": data_fingerprint(validation) if validation is not None else None,
        },
        "images": len(dataset),
        "weights": str(start) if start else None,
        "train": facts["train"],
        "environment": environment(),
        "command": command,
    }
    geometric = facts_of(dataset).tasks.get("geometric")
    header = Header(model, dataset.labels, convention, provenance=provenance, geometric=geometric)
    said = tuple(filter(None, doubts))
    return Run(folder, state, header, config, dataset, validation, facts, progress, taken, said, processes, lock)


def _locked(folder: Path) -> FileLock:
    """The folder of the run, made where it is not there yet, for this training alone."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: it is a file; give a folder for the run")
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UsageError(f"{folder}: another training is at work in it; wait for it, or give another --out") from None
    except OSError as problem:
        raise RunError(
            f"{folder}: cannot write into it ({problem.strerror or problem}); choose another --out"
        ) from None
    return lock


def _where(processes: ProcessGroup) -> dict[str, Any]:
    """What the bits of a run depend on beside its settings."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "processes": processes.size}


def is_finished(run: Run) -> bool:
    """Whether the run is over, and its net and report are there."""
    return run.over and all((run.folder / name).is_file() for name in ("model.safetensors", "report.html"))


def records(run: Run, stop: Stop | None = None) -> Iterator[Record]:
    """Train to the end, yielding each record after it is written to the log and what it asks for is saved.

    stop: asked after each step and each evaluated image; when it says so the state is saved and the records end.
    """
    stop, processes = stop or Stop(), run.processes
    predictor = Predictor(run.state.net, run.header, run.config.precision)

    def score(net: torch.nn.Module) -> Scores | None:
        assert run.validation is not None
        try:
            return evaluate(predictor, run.validation, processes=processes, ended=stop.asked)
        except Interrupted:
            return None

    def noted(record: Record) -> bool:
        """Write a record down and save what it asks for; whether to go on."""
        ended = processes.any(stop.asked(record.seconds))
        due = run.validation is not None and is_scored(run.config, record.step, run.total)
        broken_off = due and record.scores is None
        run.progress.unevaluated = as_json(record, ()) if broken_off else None
        if processes.first and not broken_off:
            log.write(as_json(record, run.header.labels.names))
        if not broken_off:
            keep_best(run, record)
        if run.over:  # before the state that says so: a kill between the two does the last steps again
            save_net(run, record, "last.safetensors")
        if ended or run.over or record.step % run.config.save_every == 0:
            if processes.first:
                log.secure()
                facts = {**run.facts, "progress": asdict(run.progress), "where": _where(processes)}
                save_state(run.folder / "last", run.state, facts)
            processes.after_first(f"{run.folder}/{record.step}", lambda: stop.signal is not None)
        if ended and not run.over:
            stop.reason = stop.reason or "another process"
        return not (ended or run.over)

    try:
        with worker_faults(), Log(run.folder, run.state.step, writes=processes.first) as log:
            if processes.first:
                write_split(run.folder, run.dataset, run.validation)
            if run.progress.unevaluated is not None:
                with ema_weights(run.state) as net:
                    record = replace(Record(**run.progress.unevaluated), scores=score(net))
                going = noted(record)
                if record.scores is not None:
                    yield record
                if not going:
                    return
            if run.over:
                return
            scorer = score if run.validation is not None else None
            for record in fit(run.state, run.dataset, run.config, run.header.input, score=scorer, processes=processes):
                going = noted(record)
                if run.progress.unevaluated is None:
                    yield record
                if not going:
                    return
    except NotFinite as problem:
        raise RunError(f"{problem}; the batch is in {save_batch(run.folder, problem)}") from None
    finally:
        if run.lock is not None:
            run.lock.release()


def keep_best(run: Run, record: Record) -> None:
    """Save the net where it is the best so far (without validation: the last), and count those that are not."""
    progress, reached = run.progress, record.scores.mean_iu if record.scores is not None else None
    best = progress.best
    if (reached is not None and (best is None or reached > best)) or (record.step == run.total and best is None):
        progress.best, progress.stale = reached, 0
        save_net(run, record, "model.safetensors")
    elif record.scores is not None:
        progress.stale += 1


def save_net(run: Run, record: Record, name: str) -> None:
    """Write the net as it is now (its moving average, where one is kept), with its scores in its provenance."""
    if not run.processes.first:
        return
    reached = record.scores.to_dict(run.header.labels.names) if record.scores is not None else None
    provenance = {**run.header.provenance, "step": record.step, "val": reached}
    with ema_weights(run.state) as net:
        checkpoint.save(run.folder / name, net.state_dict(), replace(run.header, provenance=provenance))


def save_batch(folder: Path, problem: NotFinite) -> Path:
    """Write the images and labels that a net could not digest, to look at; returns the file."""
    path = folder / f"not-finite-step-{problem.step:09d}.npz"
    arrays: dict[str, Any] = {}
    for number, part in enumerate(problem.parts):
        arrays |= {f"images_{number}": part.batch.images, f"names_{number}": np.array(part.batch.names)}
        arrays |= {f"label_{number}_{task}": label.numpy() for task, label in part.labels.items()}
    np.savez_compressed(path, **arrays)
    return path
