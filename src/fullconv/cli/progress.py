"""What a person sees of a training: what it will be before the first step, how it goes, and the result."""

from __future__ import annotations

import json

import torch
from rich.console import Console

from fullconv.cli.show import Bar, four_numbers, key_values
from fullconv.data.dataset import facts_of
from fullconv.profiling.process_memory import format_bytes
from fullconv.reporting.formatting import duration
from fullconv.reporting.page import percent
from fullconv.reporting.train_and_report import (
    Event,
    Note,
    ReportProgress,
    RunStarted,
    StageSkipped,
    StageStarted,
    TrainingResult,
)
from fullconv.training.log import as_json
from fullconv.training.loop import Record
from fullconv.training.run import Run


class TrainingView:
    """Prints the events of a training; as a context manager it closes the bar.

    json: print records on standard output too.
    """

    def __init__(self, console: Console, json: bool) -> None:
        self.console, self.json = console, json
        self.bar: Bar | None = None
        self.run: Run | None = None
        self.staged = False

    def __enter__(self) -> TrainingView:
        return self

    def __exit__(self, *_: object) -> None:
        self._show(None)

    def _show(self, bar: Bar | None) -> None:
        if self.bar is not None:
            self.bar.__exit__()
        self.bar = bar

    def _line(self, text: str) -> None:
        (self.console.print if self.bar is None else self.bar.line)(text)

    def __call__(self, event: Event) -> None:
        """Print an event; only the first of several processes has a run to show."""
        match event:
            case StageStarted():
                self.staged = True
                title = f"stage {event.number} of {event.count}: FCN-{event.stride}s"
                self.console.print(title, style="bold")
            case StageSkipped():
                self.console.print(f"finished before: {event.folder}")
            case RunStarted():
                self.run = event.run
                self._describe(event)
                self._show(Bar(self.console, "training", event.run.state.step))
            case Record() if self.run is not None:
                self._step(event, self.run)
            case Note() if self.run is not None:
                self._line(f"note: {event.text}")
            case ReportProgress():
                if self.bar is None or self.bar.title != "writing the report":
                    self._show(Bar(self.console, "writing the report"))
                assert self.bar is not None
                self.bar(event.done, event.total)
            case TrainingResult() if self.run is not None:
                self._show(None)
                self._finish(event, self.run)

    def _describe(self, start: RunStarted) -> None:
        run, model, config = start.run, start.run.header.model, start.run.config
        parameters = sum(p.numel() for p in run.state.net.parameters())
        taken = None if run.transplant is None else len(run.transplant.taken)
        begin = "random weights" if taken is None else f"{run.header.provenance['weights']} ({taken} tensors)"
        val = "none" if run.validation is None else f"{len(run.validation)} images"
        rows = [
            ("net", f"FCN-{model.stride}s on {model.backbone}, {parameters:,} parameters, {model.padding} padding, "
                    f"{model.num_classes} classes"),
            ("data", f"{len(run.dataset)} images to train, {val} to validate"),
            ("begins with", begin if not run.state.step else f"step {run.state.step} of the run in {run.folder}"),
            ("training", f"{run.total} steps of {config.batch_size}, loss {config.loss}, "
                         f"lr {config.lr:g} ({config.schedule}), "
                         f"{config.precision}, {torch.get_num_threads()} threads, seed {config.seed}"),
        ]  # fmt: skip
        facts = facts_of(run.dataset)
        rows += [("split", facts.split_made)] if facts.split_made else []
        rows += [("note", note) for note in facts.notes]
        if (plan := start.plan) is not None:
            each = "" if run.processes.size == 1 else " in each process"
            room = format_bytes(start.available + plan.held)
            rows.append(("memory", f"{format_bytes(plan.peak)} at most{each}, of {room}"))
            if plan.seconds is not None and plan.seconds_per_step is not None:
                each_step = f"{plan.seconds_per_step:.2g} s a step; evaluations not counted"
                rows.append(("time", f"{duration(plan.seconds)}, {each_step}"))
        self.console.print(key_values(rows))
        for note in start.notes:
            self.console.print(f"note: {note}")
        if run.transplant is None and not run.state.step and model.backbone.startswith("vgg"):
            self.console.print("note: a VGG from random weights rarely leaves the background; give --weights of a "
                               "classifier (section 4.1)")  # fmt: skip

    def _step(self, record: Record, run: Run) -> None:
        reached = f"  mean IU {percent(record.scores.mean_iu)}" if record.scores else ""
        if self.bar is not None:
            rate = f"{record.images / max(record.seconds, 1e-9):.1f} images/s  {format_bytes(record.memory)}"
            self.bar(record.step, run.total, f"loss {record.loss:.3f}  {rate}{reached}")
        if record.scores is not None:
            self._line(f"step {record.step}: {four_numbers(record.scores)}")
        if self.json:
            print(json.dumps(as_json(record, run.header.labels.names)), flush=True)

    def _finish(self, result: TrainingResult, run: Run) -> None:
        done = f"after step {result.steps} of {result.total}"
        if result.report is None:
            self.console.print(f"ended by {result.stopped} {done}, which is saved; the same command with --resume "
                               "goes on")  # fmt: skip
            return
        if result.steps < result.total:
            self.console.print(f"ended {done}: no better mean IU in {run.config.patience} evaluations")
        self.console.print(f"\nthe best net: {result.model}\nthe report:   {result.report}")
        if result.scores is not None:
            self.console.print(four_numbers(result.scores))
