"""The step of a training, rehearsed: without memory, to see what it takes; and for its time, on pixels of chance.

Both run the step that `fullconv.training.loop.fit` runs, forward, loss and backward, and leave everything as it was.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullconv.config import InputConvention, TrainConfig
from fullconv.data.dataset import SEMANTIC
from fullconv.data.loader import Batch
from fullconv.distributed import ALONE
from fullconv.models.fcn import FCN
from fullconv.profiling.memory_model import dry_run, modes_kept
from fullconv.training.loop import chosen_precision, train_mode
from fullconv.training.loss import Objective
from fullconv.training.optimizer import build_optimizer
from fullconv.training.step import NotFinite, StepBatch, Work, refuse_lost_gradient

Shape = tuple[int, int, int]
"""A batch: images, rows, columns."""

SLOW = 20.0
"""Seconds: a step that takes longer is tried once; the start of a process is little beside it."""

TRIAL, TRIALS = 5.0, 5
"""Seconds from which on a quick step is not tried again, and how often it is at most."""

PROBE = 1 << 22
"""The numbers on which the update of the weights is timed, at most."""


@dataclass(frozen=True)
class DryRun:
    """The bytes of the tensors of one step, of its batch, its weights and its gradients too.

    weights: of the net, with its buffers. learning: those of them that learn. gradients: all of them. kept: what is
    there after the forward pass and was not before it: what the backward pass needs, the batch and the logits. most,
    small, large: see `fullconv.profiling.memory_model.Ledger`.
    """

    weights: int
    learning: int
    gradients: int
    kept: int
    most: int
    small: int
    large: int


class _AllCount(Objective):
    """An objective that does not look at a label: as if no pixel were void, which takes the most."""

    def total(self, logits: Tensor, label: Tensor) -> Tensor:
        if self.hard >= 1:
            return super().total(logits, label)
        weights = None if self.weights is None else self.weights.to(logits)
        losses = F.cross_entropy(logits.float(), label, weights, ignore_index=self.ignore_index, reduction="none")
        found = losses.flatten().clone()  # the pixels that count are copied out
        return found.topk(max(1, int(self.hard * found.numel())), sorted=False).values.sum()


def _classes(net: nn.Module) -> dict[str, int]:
    """The number of classes of each head."""
    return net.classes if isinstance(net, FCN) else {SEMANTIC: 1}


def _work(net: nn.Module, config: TrainConfig, convention: InputConvention) -> Work:
    """The work of a step, with objectives that take the memory and the time of those of the run."""
    objectives = {}
    for task, classes in _classes(net).items():
        weights = torch.ones(classes) if config.class_weights != "none" and task == SEMANTIC else None
        objectives[task] = _AllCount(config.loss, 255, weights, config.hard)
    return Work(objectives, convention, chosen_precision(config.precision), ALONE)


def _batch(shape: Shape, convention: InputConvention, images: Any = None) -> Batch:
    count = shape[0]
    pixels = np.zeros((*shape, len(convention.mean)), np.uint8) if images is None else images
    return Batch(pixels, {}, tuple(str(number) for number in range(count)))


@contextlib.contextmanager
def untouched(net: nn.Module, config: TrainConfig) -> Iterator[None]:
    """The net in the mode in which `fullconv.training.loop.fit` has it, without gradients; at the end modes, gradients,
    buffers (the averages of batch norm) and torch's random numbers are as they were, to the bit.
    """
    gradients = [(parameter, parameter.grad) for parameter in net.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    with modes_kept(net), torch.random.fork_rng(devices=[]):
        train_mode(net, bool(config.freeze_bn) or config.learn == "scores")
        for parameter, _ in gradients:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def tally(net: nn.Module, config: TrainConfig, convention: InputConvention, shape: Shape) -> DryRun:
    """What the tensors of one step take on batches of a shape, without making them: some tenths of a second, whatever
    the shape. With ``accumulate`` it is the second batch of a step, when the gradients of the first are there.

    What the optimizer and the average of the weights take is not in it.
    """
    batch, parts = _batch(shape, convention), min(2, config.accumulate)
    kept: dict[int, int] = {}
    with untouched(net, config), dry_run(net) as run:
        ledger, weights, before = run.ledger, set(run.ledger.holds()), set[int]()

        def forward(pixels: Tensor) -> Any:
            logits = run(pixels)
            kept.clear()
            kept.update(ledger.holds())
            return logits

        work = _work(net, config, convention)
        for _ in range(parts):
            before = set(ledger.holds())
            labels = {task: torch.zeros(shape, dtype=torch.int64) for task in work.objectives}
            work.gradient(net, forward, [StepBatch(batch, labels, 0)], dict.fromkeys(labels, 1.0), 1, 0)
        grown = [fake.grad for fake in run.weights.values() if fake.grad is not None]
    mine = kept.keys() - before - weights
    return DryRun(
        weights=run.start,
        learning=sum(parameter.nbytes for parameter in net.parameters() if parameter.requires_grad),
        gradients=sum(gradient.nbytes for gradient in grown),
        kept=sum(kept[number] for number in mine),
        most=ledger.most,
        small=ledger.small,
        large=ledger.large,
    )


def tally_of_evaluation(
    net: nn.Module, config: TrainConfig, convention: InputConvention, height: int, width: int
) -> int:
    """What weights, buffers and all else take at the fullest moment of scoring one image, without making them."""
    work = Work({}, convention, chosen_precision(config.precision), ALONE)
    with untouched(net, config), dry_run(net) as run, torch.no_grad(), work.arithmetic(torch.device("cpu")):
        net.eval()
        run(torch.zeros(1, len(convention.mean), height, width).contiguous(memory_format=torch.channels_last))
    return run.ledger.small + run.ledger.large


def seconds_of_batch(net: nn.Module, config: TrainConfig, convention: InputConvention, shape: Shape) -> float | None:
    """Seconds that the forward and backward pass of a batch take: the median of some, without the first one of the
    process, which also starts the libraries; the smaller of two that take long; of one that takes more than `SLOW` the
    only one. None when the loss is not finite.

    The pixels and the classes are random. Net, gradients, buffers and random numbers are left to the bit as they were.
    """
    rng = np.random.default_rng(0)
    batch = _batch(shape, convention, rng.integers(0, 256, (*shape, len(convention.mean)), dtype=np.uint8))
    labels = {task: torch.from_numpy(rng.integers(0, n, shape)) for task, n in _classes(net).items()}
    work = _work(net, config, convention)
    found: list[float] = []
    over = dict.fromkeys(labels, float(np.prod(shape)))
    while len(found) < TRIALS and (len(found) < 2 or sum(found) < TRIAL):
        with untouched(net, config):
            began = time.perf_counter()
            try:
                work.gradient(net, net, [StepBatch(batch, labels, 0)], over, 1, 0)
            except NotFinite:
                return None
            found.append(time.perf_counter() - began)
        if found[0] > SLOW:
            break
    return statistics.median(found[1:]) if len(found) > 2 else min(found)


def seconds_of_update(net: nn.Module, config: TrainConfig) -> float:
    """Seconds that checking the gradients, the update of the weights and their average take: those of at most `PROBE`
    numbers that are nobody's, times how many more the net has.
    """
    learning = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    probe = nn.Module()
    probe.weight = nn.Parameter(torch.ones(max(1, min(learning, PROBE))))
    probe.weight.grad = torch.ones_like(probe.weight)
    optimizer, average, found = build_optimizer(probe, config), torch.ones_like(probe.weight), []
    for _ in range(4):
        began = time.perf_counter()
        refuse_lost_gradient(probe, [], 0)
        optimizer.step()
        if config.ema:
            average.lerp_(probe.weight.detach(), 0.5)
        found.append(time.perf_counter() - began)
    return min(found) * learning / probe.weight.numel()
