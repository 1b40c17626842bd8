"""What a training will take, before its first step: memory, time, and what would fit where it does not.

The memory is not a formula: the step is rehearsed on tensors without memory (`fullconv.profiling.memory_model`). On top
come what only experience knows: the constants here. The time is that of a real step on pixels of chance.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from torch import Tensor

from fullconv.config import InputConvention, TrainConfig
from fullconv.data.dataset import Dataset
from fullconv.data.loader import AHEAD, loading_processes
from fullconv.data.transforms import outside
from fullconv.profiling import process_memory
from fullconv.profiling.process_memory import format_bytes
from fullconv.training.batch_sizes import Shapes, shapes, sizes_of
from fullconv.training.dry_run import (
    Shape,
    seconds_of_batch,
    seconds_of_update,
    tally,
    tally_of_evaluation,
)
from fullconv.training.loop import State, make_stream

LIBRARIES = 50_000_000
"""Bytes that torch's libraries take for themselves in the first steps: code, tables, threads."""

HOLES = 0.08
"""The share of the heap that lies between what is held."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a run takes, on the CPU; all sizes in bytes.

    batch: the largest one that is to be expected (images, rows, columns); certain: whether all are so, else some images
    were looked at. middle: the one in the middle, which the time is of.
    weights, gradients, optimizer, average: of the net, all of them. activations: what the forward pass of a batch
    leaves for the backward pass. workspace: what comes and goes within a step, what the libraries take, and what the
    heap does not give back. loader: batches that are read. process: Python, its modules, the data set, all that is
    there anyway. Gradients and activations are not both whole at one moment: the parts may be more than the peak.
    step, evaluation: the whole process at the fullest moment of a step, and of scoring the largest image of those
    looked at (0 where nothing is scored). held: what of it is there already.
    seconds_per_step, seconds: of one step and of all that are to come, waiting for images included; evaluations, saving
    and the report are not. None where no step was tried.
    """

    batch: Shape
    middle: Shape
    certain: bool
    config: TrainConfig
    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    workspace: int
    loader: int
    process: int
    step: int
    evaluation: int
    held: int
    seconds_per_step: float | None = None
    seconds: float | None = None
    again: Callable[[TrainConfig, Shape], TrainingPlan] | None = field(default=None, repr=False, compare=False)

    @property
    def peak(self) -> int:
        """The whole process at its fullest moment."""
        return max(self.step, self.evaluation)

    @property
    def needed(self) -> int:
        """What the process has still to take: compare it with `fullconv.profiling.process_memory.available`."""
        return max(0, self.peak - self.held)


def plan(
    state: State,
    dataset: Dataset,
    config: TrainConfig,
    convention: InputConvention,
    *,
    validation: Dataset | None = None,
    timed: bool = True,
    room: int | None = None,
) -> TrainingPlan:
    """What a run of `fullconv.training.loop.fit` on the CPU will take; `state` stays as it is, to the bit.

    validation: what is scored during the run. timed: try a step on random pixels, unless it would not fit into `room`
    bytes more (what is available, if not given); a second one where the first did not take long.
    """
    expected = shapes(dataset, config)
    scored = max(sizes_of(validation, _spread(len(validation))), key=lambda s: s[0] * s[1]) if validation else None
    held = process_memory.resident()
    there = _there(state)

    def of(config: TrainConfig, shape: Shape) -> TrainingPlan:
        return _memory_of(state, config, convention, replace(expected, largest=shape), scored, held, there)

    found = replace(of(config, expected.largest), again=of)
    if not timed or found.needed > (process_memory.available() if room is None else room):
        return found
    passes = seconds_of_batch(state.net, config, convention, expected.middle)
    if passes is None:
        return found
    processes = loading_processes(config.workers)
    loading, parts = seconds_of_loading(state, dataset, config, convention), config.accumulate
    working = passes * parts + seconds_of_update(state.net, config)
    step = max(working, loading * parts / processes) if processes else working + loading * parts
    left = config.total_steps(len(dataset)) - state.step
    return replace(found, seconds_per_step=step, seconds=step * max(0, left))


def _memory_of(
    state: State, config: TrainConfig, convention: InputConvention, expected: Shapes, scored: tuple[int, int] | None,
    held: int, there: int,
) -> TrainingPlan:  # fmt: skip
    found = tally(state.net, config, convention, expected.largest)
    count, height, width = expected.largest
    batch = count * height * width * (len(convention.mean) + 8)  # a label is int64
    copies = 2 if config.optimizer == "adamw" else 1 if config.momentum else 0
    optimizer, average = copies * found.learning, found.weights if config.ema else 0
    # Of the step before, the batches are held until those of this one are there.
    loader = batch * (2 * config.accumulate - 1 + AHEAD * loading_processes(config.workers))
    process = max(0, held - there) + LIBRARIES
    tensors = round((1 + HOLES) * found.small) + found.large
    lasting = process + optimizer + average
    step = lasting + loader + tensors
    evaluation = 0
    if scored is not None:
        # Gradients stay until the next step; the weights of the moment stand aside for their average.
        aside = found.gradients + (found.weights if config.ema else 0)
        evaluation = lasting + aside + tally_of_evaluation(state.net, config, convention, *scored)
    known = found.weights + found.gradients + found.kept
    return TrainingPlan(
        batch=expected.largest, middle=expected.middle, certain=expected.certain, config=config,
        weights=found.weights, gradients=found.gradients, optimizer=optimizer, average=average, activations=found.kept,
        workspace=max(0, tensors - known), loader=loader, process=process,
        step=step, evaluation=evaluation, held=held,
    )  # fmt: skip


def _there(state: State) -> int:
    """The bytes of a state that are in memory now."""
    tensors = [*state.net.parameters(), *state.net.buffers(), *(state.average or {}).values()]
    tensors += [p.grad for p in state.net.parameters() if p.grad is not None]
    tensors += [kept for kinds in state.optimizer.state.values() for kept in kinds.values() if isinstance(kept, Tensor)]
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def _spread(length: int, count: int = 32) -> list[int]:
    """Up to so many of the numbers below `length`, spread evenly."""
    return sorted({index * length // min(count, length) for index in range(min(count, length))})


def seconds_of_loading(state: State, dataset: Dataset, config: TrainConfig, convention: InputConvention) -> float:
    """Seconds in which one process reads and changes the images of a batch: those of the second batch of a run, after
    the first one started the libraries.
    """
    fill = outside(convention, dataset.labels.ignore_index)
    # Which images are drawn decides little of the time, and for balance all labels would have to be read.
    stream = make_stream(state.net, dataset, replace(config, balance=False), fill, None)
    times = [time.perf_counter()]
    for number in range(2):
        stream[number]
        times.append(time.perf_counter())
    return min(end - begin for begin, end in pairwise(times))


def advice(plan: TrainingPlan, available: int) -> str | None:
    """What to do where a run does not fit into `available` bytes more: one sentence with what it needs, what there is,
    and settings that were planned anew and fit. None where it fits, or the sentence without a cure where there is none.
    """
    if plan.needed <= available:
        return None
    said = f"this training needs {format_bytes(plan.needed)} more memory, and {format_bytes(available)} are available"
    cures = [cure for cure in (_smaller_batch(plan, available), _bf16(plan, available)) if cure]
    if not cures:
        cures = [cure for cure in (_crop(plan, available),) if cure]
    return f"{said}; {' or '.join(cures)} fits" if cures else f"{said}; take a smaller net"


def _fits(plan: TrainingPlan, available: int, config: TrainConfig, shape: Shape) -> bool:
    return plan.again is not None and plan.again(config, shape).needed <= available


def _smaller_batch(plan: TrainingPlan, available: int) -> str | None:
    """Fewer images at a time and more times: the largest number that fits and keeps the images of a step."""
    config = plan.config
    images = config.batch_size * config.accumulate
    smaller = [size for size in range(config.batch_size - 1, 0, -1) if images % size == 0]
    low, high = 0, len(smaller)  # what takes less than one that fits, fits
    while low < high:
        middle = (low + high) // 2
        less = replace(config, batch_size=smaller[middle], accumulate=images // smaller[middle])
        if _fits(plan, available, less, (less.drawn, *plan.batch[1:])):
            high = middle
        else:
            low = middle + 1
    return f"--batch-size {smaller[low]} --accumulate {images // smaller[low]}" if low < len(smaller) else None


def _bf16(plan: TrainingPlan, available: int) -> str | None:
    if plan.config.precision == "bf16":
        return None
    return "--precision bf16" if _fits(plan, available, replace(plan.config, precision="bf16"), plan.batch) else None


def _crop(plan: TrainingPlan, available: int) -> str | None:
    """The largest crop of the shape of the images, in steps of 32 pixels, with one image at a time."""
    images = plan.config.batch_size * plan.config.accumulate
    config = replace(plan.config, batch_size=1, accumulate=images)
    _, height, width = plan.batch
    low, high = 1, min(height, width) // 32  # in units of 32 pixels of the shorter side
    best = None
    while low <= high:
        middle = (low + high) // 2
        size = tuple(max(32, round(side * middle / min(height, width)) * 32) for side in (height, width))
        crop = size[0], size[1]
        if _fits(plan, available, replace(config, crop=crop), (config.drawn, *crop)):
            best, low = crop, middle + 1
        else:
            high = middle - 1
    if best is None:
        return None
    fewer = "" if plan.config.batch_size == 1 else f" --batch-size 1 --accumulate {images}"
    return f"--crop {best[0]}x{best[1]}{fewer}"
