"""Train in one call: a dataset in, a run folder with its report out; a recipe in stages one network after the other."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fullconv.checking.check_dataset import quick_check
from fullconv.config import CONVENTIONS, InputConvention, ModelConfig, TrainConfig, to_mapping
from fullconv.data.dataset import Dataset, adapt
from fullconv.data.loader import worker_faults
from fullconv.datasets.folder.classes_file import MaskOptions
from fullconv.datasets.open_dataset import default_splits, open_dataset
from fullconv.distributed import ALONE, ProcessGroup
from fullconv.errors import UsageError
from fullconv.inference.predictor import Predictor, load_checkpoint
from fullconv.metrics import Scores
from fullconv.profiling import process_memory
from fullconv.reporting.run_page import write_run_report
from fullconv.reporting.tensorboard import Board
from fullconv.training.guards import Watch
from fullconv.training.loop import Record
from fullconv.training.memory_plan import TrainingPlan, advice, plan
from fullconv.training.recipes import merge_settings, read_recipe, stages_of
from fullconv.training.run import Run, is_finished, prepare, records
from fullconv.training.stop import Stop
from fullconv.weights import checkpoint

SHORT = 20
"""Runs of fewer steps begin without the trial that measures how long they take."""


@dataclass(frozen=True)
class StageStarted:
    """The next network of a recipe in stages."""

    number: int
    count: int
    stride: int


@dataclass(frozen=True)
class StageSkipped:
    """A stage that was finished by an earlier call."""

    folder: Path


@dataclass(frozen=True)
class RunStarted:
    """A run is prepared; the first step comes next.

    plan: its time and memory on a CPU; available: the bytes that it may use.
    """

    run: Run
    plan: TrainingPlan | None
    available: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """Something that does not look right, as a sentence."""

    text: str


@dataclass(frozen=True)
class ReportProgress:
    """How many images the report has looked at."""

    done: int
    total: int


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a run.

    steps: those done, of `total`. scores: the best on the validation split in this call. report: the page; None if the
    run is to be continued. stopped: what ended it before its last step.
    """

    folder: Path
    steps: int
    total: int
    scores: Scores | None
    report: Path | None
    stopped: str | None = None

    @property
    def model(self) -> Path:
        """The checkpoint of the best network."""
        return self.folder / "model.safetensors"

    @property
    def predictor(self) -> Predictor:
        """The best network, loaded from its checkpoint."""
        return load_checkpoint(self.model)


Event = StageStarted | StageSkipped | RunStarted | Record | Note | ReportProgress | TrainingResult
"""What `train` reports while it works; the result of each run is the last of its events."""

Progress = Callable[[Event], Any]


def train(
    data: str | Path | Dataset,
    out: str | Path,
    *,
    model: ModelConfig | Mapping[str, Any] | None = None,
    config: TrainConfig | Mapping[str, Any] | None = None,
    recipe: str | Path | None = None,
    weights: str | Path | None = None,
    input: str | None = None,
    split: str | None = None,
    val: str | Path | Dataset | None = None,
    val_split: str | None = None,
    masks: MaskOptions | None = None,
    resume: bool = False,
    force: bool = False,
    tensorboard: bool = False,
    stop: Stop | None = None,
    processes: ProcessGroup = ALONE,
    command: str | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train an FCN, and write the run folder of ``fullconv train``.

    Settings come from the defaults, the starting weights, the recipe, and `model` and `config`; the later one counts.

    Args:
        data: A folder of images and masks, ``NAME:DIR``, ``digits``, or a dataset.
        out: The run folder: ``model.safetensors`` (the best network), ``last/``, ``log.jsonl``, ``report.html``.
        model: The network: all of its settings, or a mapping of those that differ.
        config: The training: all of its settings, or a mapping of those that differ.
        recipe: The name of a recipe, or a YAML file.
        weights: Begin from these: a classifier, or a coarser FCN.
        input: The input convention of plain weights: ``caffe``, ``torchvision``, ``rgb128`` or ``ORDER:MEANS/STD``.
        split: The split to train on.
        val: Another dataset to validate on; without a name of its own, a dataset given as `data` is not validated.
        val_split: The split to validate on.
        masks: How the masks of a folder are read.
        resume: Continue the run in `out` from its last saved step.
        force: Continue although settings or data have changed.
        tensorboard: Also write ``tensorboard/``.
        stop: Ends the run early, with its state saved.
        processes: The processes that train together (`fullconv.distributed.join`).
        command: What was typed, for the report.
        progress: Called with each event: `RunStarted`, the `Record` of each step, `Note`, the result, and others.

    Returns:
        The folder, the scores, and the network.

    Raises:
        UsageError: Settings, data or weights cannot be used, or the folder holds a run and `resume` is not set.
        RunError: The training failed.

    """
    job = _Job(
        data, Path(out), _given(model) | _given(config) | ({"input": input} if input else {}),
        None if recipe is None else str(recipe), None if weights is None else Path(weights), split, val, val_split,
        masks, resume, force, tensorboard, stop or Stop(), processes, command, progress or _ignore,
    )  # fmt: skip
    stages = stages_of(read_recipe(job.recipe) if job.recipe else {}, str(job.recipe))
    with worker_faults():
        return _train_stages(job, stages) if len(stages) > 1 else _train_one(job, stages[0])


def _ignore(event: Event) -> None:
    pass


@dataclass(frozen=True)
class _Job:
    """The arguments of `train`."""

    data: str | Path | Dataset
    out: Path
    given: Mapping[str, Any]
    recipe: str | None
    weights: Path | None
    split: str | None
    val: str | Path | Dataset | None
    val_split: str | None
    masks: MaskOptions | None
    resume: bool
    force: bool
    tensorboard: bool
    stop: Stop
    processes: ProcessGroup
    command: str | None
    progress: Progress


def _given(settings: ModelConfig | TrainConfig | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return settings as a mapping, without those of a dataclass that are left open."""
    if settings is None or isinstance(settings, Mapping):
        return dict(settings or {})
    return {name: value for name, value in to_mapping(settings).items() if value is not None}


def _train_stages(job: _Job, stages: list[dict[str, Any]]) -> TrainingResult:
    """Train one run for each stage, in a folder of its own (OUT/32s, OUT/16s ...), each from the best network of the
    one before. Those that are finished are passed over; the last network and its report are copied to OUT.
    """
    if "stride" in job.given:
        raise UsageError(f"--stride: the recipe {job.recipe} has a stride for each stage; leave it out")
    folders = [job.out / f"{stage['stride']}s" for stage in stages]
    if any(_begun(folder) for folder in folders) and not job.resume:
        raise UsageError(f"{job.out}: it holds a run already; add --resume to go on with it, or give another --out")
    start = job.weights
    for number, (stage, folder) in enumerate(zip(stages, folders, strict=True), start=1):
        job.progress(StageStarted(number, len(stages), stage["stride"]))
        resume = job.resume and _begun(folder)
        result = _train_one(replace(job, out=folder, weights=start, resume=resume), stage, skip_finished=True)
        if job.stop.reason:
            return replace(result, folder=job.out)
        start = result.model
        job.processes.after_first(f"{folder}/over")  # nobody reads it before it is complete
    if job.processes.first:
        for name in ("model.safetensors", "report.html"):
            shutil.copyfile(folders[-1] / name, job.out / name)
    return replace(result, folder=job.out, report=job.out / "report.html")


def _begun(folder: Path) -> bool:
    """Return whether a folder holds a state of a run."""
    return (folder / "last").is_dir() and any((folder / "last").iterdir())


def _train_one(job: _Job, recipe: Mapping[str, Any], skip_finished: bool = False) -> TrainingResult:
    """Train one run to its end, or until it is stopped."""
    run = _prepare(job, recipe)
    first, best, page = run.processes.first, None, run.folder / "report.html"
    if skip_finished and is_finished(run):
        if run.lock is not None:
            run.lock.release()
        job.progress(StageSkipped(run.folder))
        return TrainingResult(run.folder, run.state.step, run.total, None, page)
    if first and job.progress is not _ignore:
        job.progress(_started(run))
    watch = Watch(run.header.labels, run.total, pretrained=run.transplant is not None)
    board = Board(run.folder / "tensorboard") if job.tensorboard and first else contextlib.nullcontext()
    with board as writer:
        for record in records(run, job.stop):
            job.progress(record)
            note = watch.step(record.step, record.valid)
            if record.scores is not None:
                note = note or watch.evaluated(record.step, record.scores)
                if best is None or (record.scores.mean_iu or 0) >= (best.mean_iu or 0):
                    best = record.scores
            if note:
                job.progress(Note(note))
            if writer is not None:
                writer.write(record, run.header.labels.names)
    if run.over and first:
        write_run_report(
            run.folder, load_checkpoint(run.folder / "model.safetensors"), run.validation, training=run.dataset,
            progress=lambda done, total: job.progress(ReportProgress(done, total)),
        )  # fmt: skip
    stopped = None if run.over else job.stop.reason
    result = TrainingResult(run.folder, run.state.step, run.total, best, page if run.over else None, stopped)
    job.progress(result)
    return result


def _prepare(job: _Job, recipe: Mapping[str, Any]) -> Run:
    """Open the data and settle the settings of one run."""
    header = checkpoint.load(job.weights)[1] if job.weights else None
    model, config, named = merge_settings(to_mapping(header.model) if header else {}, recipe, job.given, job.recipe)
    if named is not None:
        convention = InputConvention.named(named)
        if header is not None and convention != header.input:
            raise UsageError(
                f"--input {named}: {job.weights} says itself what it wants ({header.input.order}); leave --input out"
            )
    elif header is not None:
        convention = header.input
    elif job.weights is not None:
        raise UsageError(
            f"{job.weights}: it does not say what input it wants; add --input caffe (BGR minus mean), "
            "torchvision (RGB standardised) or rgb128"
        )
    else:
        convention = CONVENTIONS["torchvision"]
    dataset = _open(job.data, job.split, 0, job.masks)
    assert dataset is not None
    beside = job.val if job.val is not None else job.data if isinstance(job.data, str | Path) else None
    validation = None if beside is None else _open(beside, job.val_split, 1, job.masks)
    name = str(job.data) if isinstance(job.data, str | Path) else type(job.data).__name__
    return prepare(
        job.out, name, dataset, validation, model, config, convention, job.weights, job.resume, job.command,
        job.force, job.processes,
    )  # fmt: skip


def _open(data: str | Path | Dataset, split: str | None, which: int, masks: MaskOptions | None) -> Dataset | None:
    """Open a split, by default that for training (0) or validation (1); None if the dataset has no such."""
    if not isinstance(data, str | Path):
        return adapt(data)
    split = split or default_splits(data)[which]
    return open_dataset(data, split, masks) if split else None


def _started(run: Run) -> RunStarted:
    """Return what is known before the first step, and what does not look right."""
    notes = [*run.doubts, *([] if run.state.step else quick_check(run.dataset, run.validation))]
    free, found = process_memory.available(), None
    alone = run.processes.size == 1
    again = run.state.step > 0 and not alone  # after the loss of a process every second counts
    if next(run.state.net.parameters()).device.type == "cpu" and not run.over and not again:
        found = plan(
            run.state, run.dataset, _share(run.config, run.processes.size), run.header.input,
            validation=run.validation, timed=alone and run.total - run.state.step >= SHORT, room=free,
        )  # fmt: skip
        notes += filter(None, [advice(found, free)])
    return RunStarted(run, found, free, tuple(notes))


def _share(config: TrainConfig, processes: int) -> TrainConfig:
    """Return the settings with the batches of one of several processes."""
    if config.accumulate % processes == 0:
        return replace(config, accumulate=config.accumulate // processes)
    return replace(config, batch_size=-(-config.batch_size // processes))
