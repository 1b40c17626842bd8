"""Training as a loop that you can see: `fit` is a generator of plain records, and what is done with them stands
outside it.

Everything random in step t is a function of (seed, t): the samples, their augmentation, the dropout. So the state of
a run is the net, the momentum and the number of the step, and going on from a saved state gives the same bits as
never having stopped.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from fullconv.config import InputConvention, TrainConfig
from fullconv.data import SEMANTIC, Dataset
from fullconv.data.stream import Stream, batches
from fullconv.data.transforms import Transform, augmentation, outside
from fullconv.errors import RunError
from fullconv.metrics import Scores
from fullconv.models.input import to_input
from fullconv.training.loss import check_rate, loss_of_tasks
from fullconv.training.optimizer import NORMS, build_optimizer, learning_rate, set_rate


@dataclass(frozen=True)
class Record:
    """What happened in one step. `step` counts from 1; `seconds` is the time of this step: waiting for data
    included, evaluation not.
    """

    step: int
    loss: float
    lr: float
    images: int
    valid: int
    seconds: float
    scores: Scores | None = None


@dataclass
class State:
    """All that changes during a run: the net, its optimizer, and how many steps are done."""

    net: nn.Module
    optimizer: torch.optim.SGD
    step: int = 0

    @classmethod
    def of(cls, net: nn.Module, config: TrainConfig) -> State:
        """The state before the first step. The layout in memory is settled here: momentum takes that of its weight.
        So is what learns: with ``learn`` "scores" the layers below the scores are fixed.
        """
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(config.learn == "all" or not name.startswith("backbone"))
        return cls(net, build_optimizer(net, config))


def bf16_is_fast() -> bool:
    """Whether this CPU multiplies bf16 itself (AVX-512 BF16 or AMX); elsewhere bf16 is emulated, and slow."""
    return bool(torch.cpu._is_avx512_bf16_supported()) or bool(torch.cpu._is_amx_tile_supported())


def chosen_precision(precision: str) -> torch.dtype:
    """The arithmetic that ``auto``, ``fp32`` or ``bf16`` stands for on this machine."""
    return torch.bfloat16 if precision == "bf16" or (precision == "auto" and bf16_is_fast()) else torch.float32


def train_mode(net: nn.Module, freeze_bn: bool) -> None:
    """Training mode (dropout on), with batch norm kept as loaded where asked: folded or well-measured statistics
    must not move.
    """
    net.train()
    if freeze_bn:
        for layer in net.modules():
            if isinstance(layer, NORMS):
                layer.eval()


def fit(
    state: State,
    dataset: Dataset,
    config: TrainConfig,
    convention: InputConvention,
    *,
    transform: Transform | None = None,
    score: Callable[[nn.Module], Scores] | None = None,
) -> Iterator[Record]:
    """Train `state.net` on `dataset` from `state.step` to the end, yielding a record after every step.

    state: changed in place; between two records it is whole, and may be saved.
    transform: what is done to each sample; the settings' own augmentation if not given.
    score: evaluates the net; called every ``eval_every`` steps and after the last, its result stands in the record.
    Raises `RunError` when the loss is not finite, before the weights are touched.
    """
    total = config.total_steps(len(dataset))
    ignore = dataset.labels.ignore_index
    fill = outside(convention, ignore)
    stream = Stream(
        dataset, transform or augmentation(config, fill), fill, config.batch_size, config.seed, config.replacement
    )
    every = config.eval_every or max(1, total // 10)
    half = chosen_precision(config.precision)
    precision = torch.autocast("cpu", half) if half != torch.float32 else contextlib.nullcontext()
    freeze_bn = bool(config.freeze_bn) or config.learn == "scores"
    train_mode(state.net, freeze_bn)

    clock = time.perf_counter()
    for batch in batches(stream, state.step, total, config.workers):
        torch.manual_seed(config.seed * 1_000_003 + state.step)  # the dropout of this step
        images = to_input(torch.from_numpy(batch.images), convention).contiguous(memory_format=torch.channels_last)
        labels = {task: torch.from_numpy(label) for task, label in batch.labels.items()}
        semantic = labels[SEMANTIC]
        if state.step == 0:
            check_rate(config.loss, config.lr, semantic.numel())
        lr = learning_rate(config, state.step, total)
        set_rate(state.optimizer, lr)
        with precision:
            logits = state.net(images)
        loss = loss_of_tasks(logits, labels, config.loss, ignore)
        value = float(loss.detach())
        if not math.isfinite(value):
            names = ", ".join(batch.names)
            raise RunError(
                f"step {state.step + 1}: the loss is {value} (samples {names}); lower --lr, or look at these images"
            )
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.optimizer.step()
        state.step += 1
        seconds = time.perf_counter() - clock

        found = None
        if score is not None and (state.step % every == 0 or state.step == total):
            found = score(state.net)
            train_mode(state.net, freeze_bn)
        valid = int((semantic != ignore).sum())
        yield Record(state.step, value, lr, len(batch.names), valid, seconds, found)
        clock = time.perf_counter()
