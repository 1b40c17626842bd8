"""What a person sees of a training run: what it will be before the first step, how it goes, and what came of it."""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import replace
from typing import Any

import torch

from fullconv.checking.check_dataset import quick_check
from fullconv.cli.show import Bar, four_numbers, key_values
from fullconv.config import TrainConfig
from fullconv.data.dataset import facts_of
from fullconv.inference.predictor import load_checkpoint
from fullconv.profiling import process_memory
from fullconv.profiling.process_memory import format_bytes
from fullconv.reporting.formatting import duration
from fullconv.reporting.page import percent
from fullconv.reporting.run_page import write_run_report
from fullconv.reporting.tensorboard import Board
from fullconv.training.guards import Watch
from fullconv.training.log import as_json
from fullconv.training.loop import Record
from fullconv.training.memory_plan import advice, plan
from fullconv.training.run import Run, records
from fullconv.training.stop import Stop

SHORT = 20
"""Runs of fewer steps begin without the trial that tells how long they take."""


def describe(console: Any, job: Run, args: argparse.Namespace) -> None:
    """Say before the first step what will happen."""
    if not job.processes.first:
        return
    model, config = job.header.model, job.config
    parameters = sum(p.numel() for p in job.state.net.parameters())
    begin = "random weights" if job.transplant is None else f"{args.weights} ({len(job.transplant.taken)} tensors)"
    val = "none" if job.validation is None else f"{len(job.validation)} images"
    rows = [
        ("net", f"FCN-{model.stride}s on {model.backbone}, {parameters:,} parameters, {model.padding} padding, "
                f"{model.num_classes} classes"),
        ("data", f"{len(job.dataset)} images to train, {val} to validate"),
        ("begins with", begin if not job.state.step else f"step {job.state.step} of the run in {job.folder}"),
        ("training", f"{job.total} steps of {config.batch_size}, loss {config.loss}, "
                     f"lr {config.lr:g} ({config.schedule}), "
                     f"{config.precision}, {torch.get_num_threads()} threads, seed {config.seed}"),
    ]  # fmt: skip
    facts = facts_of(job.dataset)
    made = facts.split_made
    if made:
        rows.append(("split", made))
    rows += [("note", note) for note in facts.notes]
    expected, warning = planned(job)
    console.print(key_values(rows + expected))
    looked = [] if job.state.step else quick_check(job.dataset, job.validation)
    for doubt in (*job.doubts, *looked, *warning):
        console.print(f"note: {doubt}", highlight=False)
    if job.transplant is None and not job.state.step and model.backbone.startswith("vgg"):
        console.print(
            "note: a VGG from random weights rarely leaves the background; give --weights of a classifier (section 4.1)"
        )


def share_of(config: TrainConfig, processes: int) -> TrainConfig:
    """The settings with the batches that one of so many processes has."""
    if config.accumulate % processes == 0:
        return replace(config, accumulate=config.accumulate // processes)
    return replace(config, batch_size=-(-config.batch_size // processes))


def planned(job: Run) -> tuple[list[tuple[str, str]], list[str]]:
    """What the run will take, as rows, and a sentence where it will not fit. Told for the CPU; a GPU's memory is its
    own.
    """
    alone = job.processes.size == 1
    again = job.state.step > 0 and not alone  # after the loss of a process every second counts
    if next(job.state.net.parameters()).device.type != "cpu" or job.over or again:
        return [], []
    share, free = share_of(job.config, job.processes.size), process_memory.available()
    found = plan(
        job.state, job.dataset, share, job.header.input, validation=job.validation,
        timed=alone and job.total - job.state.step >= SHORT, room=free,
    )  # fmt: skip
    each = "" if alone else " in each process"
    rows = [
        (
            "memory",
            f"{format_bytes(found.peak)} at most{each}, of {format_bytes(free + found.held)}",
        )
    ]
    if found.seconds is not None and found.seconds_per_step is not None:
        rows.append(
            ("time", f"{duration(found.seconds)}, {found.seconds_per_step:.2g} s a step; evaluations not counted")
        )
    said = advice(found, free)
    return rows, [said] if said else []


def follow(console: Any, job: Run, args: argparse.Namespace, stop: Stop) -> None:
    """Show the records as they come, and write the report at the end."""
    best, first, names = None, job.processes.first, job.header.labels.names
    watch = Watch(job.header.labels, job.total, pretrained=job.transplant is not None)
    with board_of(job, args) as board, Bar(console, "training", job.total, job.state.step) as bar:
        for record in records(job, stop):
            step(bar, record)
            said = watch.step(record.step, record.valid)
            if said is None and record.scores is not None:
                said = watch.evaluated(record.step, record.scores)
            if said:
                bar.line(f"note: {said}")
            if record.scores is not None:
                best = record.scores if best is None or (record.scores.mean_iu or 0) >= (best.mean_iu or 0) else best
                bar.line(f"step {record.step}: {four_numbers(record.scores)}")
            if board is not None:
                board.write(record, names)
            if args.json and first:
                print(json.dumps(as_json(record, names)), flush=True)
    if not job.over:
        console.print(
            f"ended by {stop.reason} after step {job.state.step} of {job.total}, which is saved; "
            "the same command with --resume goes on",
            highlight=False,
        )
        return
    if job.state.step < job.total:
        console.print(
            f"ended after step {job.state.step} of {job.total}: no better mean IU in {job.config.patience} evaluations",
            highlight=False,
        )
    if first:
        write_report(console, job)
    if best is not None:
        console.print(four_numbers(best), highlight=False)


def board_of(job: Run, args: argparse.Namespace) -> contextlib.AbstractContextManager[Board | None]:
    """Where TensorBoard reads the run, if that is asked for."""
    if not (args.tensorboard and job.processes.first):
        return contextlib.nullcontext()
    return Board(job.folder / "tensorboard")


def write_report(console: Any, job: Run) -> None:
    """The report of a run that is over."""
    predictor = load_checkpoint(job.folder / "model.safetensors")
    with Bar(console, "writing the report", len(job.validation or ())) as bar:
        page = write_run_report(job.folder, predictor, job.validation, training=job.dataset, progress=bar.follow)
    console.print(f"\nthe best net: {job.folder / 'model.safetensors'}\nthe report:   {page}", highlight=False)


def step(bar: Bar, record: Record) -> None:
    """Progress of one record."""
    reached = f"  mean IU {percent(record.scores.mean_iu)}" if record.scores else ""
    bar.update(
        record.step,
        f"loss {record.loss:.3f}  {record.images / max(record.seconds, 1e-9):.1f} images/s"
        f"  {format_bytes(record.memory)}{reached}",
    )
