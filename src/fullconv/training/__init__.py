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
from torch import Tensor, nn

from fullconv.config import InputConvention, TrainConfig
from fullconv.data import SEMANTIC, Dataset, tasks_of
from fullconv.data.stream import Batch, Stream, batches
from fullconv.data.transforms import Fill, Transform, augmentation, outside
from fullconv.errors import RunError, UsageError
from fullconv.metrics import Scores
from fullconv.models.fcn import FCN
from fullconv.models.input import to_input
from fullconv.models.product import use_products
from fullconv.training.loss import Objective, check_rate, sizes, step_loss
from fullconv.training.optimizer import NORMS, build_optimizer, learning_rate, set_rate
from fullconv.training.sampling import (
    Balanced,
    class_weights,
    pixel_counts,
    random_shift,
    sampled,
    together,
)


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
    """All that changes during a run: the net, its optimizer, how many steps are done, and the moving average of the
    weights where one is kept.
    """

    net: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    average: dict[str, Tensor] | None = None

    @classmethod
    def of(cls, net: nn.Module, config: TrainConfig) -> State:
        """The state before the first step. The layout in memory is settled here: momentum takes that of its weight.
        So is what learns: with ``learn`` "scores" the layers below the scores are fixed.
        """
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        use_products(net)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(config.learn == "all" or not name.startswith("backbone"))
        average = {name: tensor.clone() for name, tensor in net.state_dict().items()} if config.ema else None
        return cls(net, build_optimizer(net, config), average=average)


def move_average(state: State, decay: float) -> None:
    """Bring the moving average nearer to the weights; in the first steps by more, so that it does not begin with the
    weights of the start.
    """
    assert state.average is not None
    share = 1 - min(decay, (1 + state.step) / (10 + state.step))
    for name, now in state.net.state_dict().items():
        if now.is_floating_point():
            state.average[name].lerp_(now, share)
        else:
            state.average[name].copy_(now)


@contextlib.contextmanager
def kept(state: State) -> Iterator[nn.Module]:
    """The net with the weights that are evaluated and kept: the moving average, where there is one."""
    if state.average is None:
        yield state.net
        return
    now = {name: tensor.clone() for name, tensor in state.net.state_dict().items()}
    state.net.load_state_dict(state.average)
    try:
        yield state.net
    finally:
        state.net.load_state_dict(now)


def objectives_of(config: TrainConfig, dataset: Dataset) -> dict[str, Objective]:
    """What is minimized for each task; the weights of classes are for the semantic one."""
    ignore, weights = dataset.labels.ignore_index, None
    if config.class_weights != "none":
        counts = pixel_counts(dataset) if config.class_weights in ("inverse", "median") else None
        weights = class_weights(config.class_weights, counts, dataset.labels)
    return {
        task: Objective(config.loss, ignore, weights if task == SEMANTIC else None, config.hard)
        for task in tasks_of(dataset)
    }


def stream_of(net: nn.Module, dataset: Dataset, config: TrainConfig, fill: Fill, transform: Transform | None) -> Stream:
    """The batches that the settings ask for."""
    change = transform or augmentation(config, fill)
    if config.shift:
        change = together([change, random_shift(stride_of(net), fill)])
    drawn = Balanced(dataset, config.seed) if config.balance else dataset
    return Stream(drawn, change, fill, config.drawn, config.seed, config.replacement or config.balance)


def labels_of(state: State, batch: Batch, config: TrainConfig, number: int) -> dict[str, Tensor]:
    """The labels of a batch by task, with the cells that do not count as void."""
    labels = {task: torch.from_numpy(label) for task, label in batch.labels.items()}
    if config.keep >= 1:
        return labels
    drawn, cell = state.step * config.accumulate + number, stride_of(state.net)
    return {task: sampled(label, cell, config.keep, config.seed, drawn) for task, label in labels.items()}


def stride_of(net: nn.Module) -> int:
    """The stride of the finest scores of an FCN."""
    if not isinstance(net, FCN):
        raise UsageError("keep and shift: they belong to the cells of an FCN; leave them out for another net")
    return net.stride


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
    total, parts = config.total_steps(len(dataset)), config.accumulate
    fill = outside(convention, dataset.labels.ignore_index)
    objectives = objectives_of(config, dataset)
    stream = stream_of(state.net, dataset, config, fill, transform)
    every = config.eval_every or max(1, total // 10)
    half = chosen_precision(config.precision)
    precision = torch.autocast("cpu", half) if half != torch.float32 else contextlib.nullcontext()
    freeze_bn = bool(config.freeze_bn) or config.learn == "scores"
    train_mode(state.net, freeze_bn)

    clock = time.perf_counter()
    source = batches(stream, state.step * parts, total * parts, config.workers)
    while state.step < total:
        step = [next(source) for _ in range(parts)]
        labels = [labels_of(state, batch, config, number) for number, batch in enumerate(step)]
        over = sizes(objectives, labels)
        names = [name for batch in step for name in batch.names]
        pixels = sum(label[SEMANTIC].numel() for label in labels)
        if state.step == 0 and config.optimizer == "sgd":
            check_rate(config.loss, config.lr, pixels // parts if config.loss == "mean" else pixels)
        lr = learning_rate(config, state.step, total)
        set_rate(state.optimizer, lr)
        state.optimizer.zero_grad(set_to_none=True)
        value = 0.0
        for number, (batch, label) in enumerate(zip(step, labels, strict=True)):
            torch.manual_seed(config.seed * 1_000_003 + state.step * parts + number)  # the dropout of this batch
            images = to_input(torch.from_numpy(batch.images), convention).contiguous(memory_format=torch.channels_last)
            with precision:
                logits = state.net(images)
            loss = step_loss(logits, label, objectives, over)
            value += float(loss.detach())
            if not math.isfinite(value):
                raise RunError(
                    f"step {state.step + 1}: the loss is {value} (samples {', '.join(batch.names)}); lower --lr, or "
                    "look at these images"
                )
            loss.backward()
        state.optimizer.step()
        state.step += 1
        if state.average is not None:
            move_average(state, config.ema)
        seconds = time.perf_counter() - clock

        found = None
        if score is not None and (state.step % every == 0 or state.step == total):
            with kept(state):
                found = score(state.net)
            train_mode(state.net, freeze_bn)
        valid = sum(int((label[SEMANTIC] != dataset.labels.ignore_index).sum()) for label in labels)
        yield Record(state.step, value, lr, len(names), valid, seconds, found)
        clock = time.perf_counter()
