"""Training as a loop that you can see: `fit` is a generator of plain records, and what is done with them stands
outside it.

Everything random in step t is a function of (seed, t): the samples, their augmentation, the dropout. So the state of
a run is the net, the momentum and the number of the step, and going on from a saved state gives the same bits as
never having stopped.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fullconv.config import InputConvention, TrainConfig
from fullconv.data.dataset import SEMANTIC, Dataset, adapt, facts_of
from fullconv.data.loader import Batch, BatchStream, RankShard, batches
from fullconv.data.transforms import Fill, Transform, augmentation, outside
from fullconv.distributed import ALONE, ProcessGroup
from fullconv.errors import RunError, UsageError
from fullconv.evaluation.evaluate import evaluate
from fullconv.hardware import multiplies_bf16
from fullconv.inference.predictor import Predictor
from fullconv.metrics import Scores
from fullconv.models.fcn import FCN
from fullconv.optimize.im2col import use_products
from fullconv.profiling import process_memory
from fullconv.training.adapt import refuse_a_leak, refuse_unsuited
from fullconv.training.guards import (
    doubt_of_input,
    has_learned_norms,
    refuse_dead_layers,
    refuse_lost_norms,
)
from fullconv.training.loss import Objective, check_rate, sizes
from fullconv.training.optimizer import NORMS, build_optimizer, learning_rate, set_rate
from fullconv.training.sampling import (
    balanced,
    class_weights,
    pixel_counts,
    random_shift,
    sampled,
)
from fullconv.training.sampling import together as one_after_another
from fullconv.training.step import StepBatch, Work, refuse_lost_gradient
from fullconv.weights.checkpoint import Header
from fullconv.weights.transplant import transplant


@dataclass(frozen=True)
class Record:
    """What happened in one step. `step` counts from 1; `seconds` is the time of this step: waiting for data
    included, evaluation not. `pieces`: into how many each batch was cut because memory ran out. `memory`: the
    most bytes that the process has had.
    """

    step: int
    loss: float
    lr: float
    images: int
    valid: int
    seconds: float
    scores: Scores | None = None
    pieces: int = 1
    memory: int = 0


@dataclass
class State:
    """All that changes during a run: the net, its optimizer, how many steps are done, and the moving average of the
    weights where one is kept.

    pretrained: whether the net began with weights; batch norm is then frozen unless ``freeze_bn`` says otherwise.
    start: the weights themselves until the first step, when their input is checked.
    """

    net: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    average: dict[str, Tensor] | None = None
    pretrained: bool = False
    start: Mapping[str, Tensor] | None = None

    @classmethod
    def of(cls, net: nn.Module, config: TrainConfig, start: Mapping[str, Tensor] | None = None) -> State:
        """Return the state before the first step.

        The layout in memory is settled here: momentum takes that of its weight. So is what learns: with ``learn``
        "scores" the layers below the scores are fixed.

        Args:
            net: The net; an FCN whose batch norm holds other than initial values counts as pretrained.
            config: How it is trained.
            start: Weights to begin with, of an FCN or of the classifier below it; they are copied into the net.

        Raises:
            UsageError: The weights do not fit, a layer of them is dead, or ``freeze_bn`` is False and their batch norm
                is folded into the convolutions.
        """
        if isinstance(net, FCN):
            if start is not None:
                transplant(net, start, "start")
            refuse_dead_layers(net, "fit")
            if start is not None or has_learned_norms(net):
                refuse_lost_norms(net, config, "fit")
        elif start is not None:
            raise UsageError(f"start: its weights go into an FCN, not into a {type(net).__name__}; load them yourself")
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        use_products(net)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(config.learn == "all" or not name.startswith("backbone"))
        average = {name: tensor.clone() for name, tensor in net.state_dict().items()} if config.ema else None
        pretrained = start is not None or has_learned_norms(net)
        return cls(net, build_optimizer(net, config), average=average, pretrained=pretrained, start=start)

    def freezes_norms(self, config: TrainConfig) -> bool:
        """Whether batch norm keeps its statistics; unless the settings say, exactly if the net is pretrained."""
        return config.learn == "scores" or (self.pretrained if config.freeze_bn is None else config.freeze_bn)


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
def ema_weights(state: State) -> Iterator[nn.Module]:
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
        for task in facts_of(dataset).tasks
    }


def make_stream(
    net: nn.Module, dataset: Dataset, config: TrainConfig, fill: Fill, transform: Transform | None
) -> BatchStream:
    """The batches that the settings ask for."""
    change = transform or augmentation(config, fill)
    if config.shift:
        change = one_after_another([change, random_shift(stride_of(net), fill)])
    drawn = balanced(dataset, config.seed) if config.balance else dataset
    return BatchStream(drawn, change, fill, config.drawn, config.seed, config.replacement or config.balance)


def make_batches(state: State, share: RankShard, batches: list[Batch], config: TrainConfig) -> list[StepBatch]:
    """The batches of a step with their labels, of which cells that do not count are void, and their seeds."""
    parts = []
    for place, batch in enumerate(batches):
        draw = share.draw(state.step * share.mine + place)
        labels = {task: torch.from_numpy(label) for task, label in batch.labels.items()}
        if config.keep < 1:
            cell = stride_of(state.net)
            labels = {task: sampled(label, cell, config.keep, config.seed, draw) for task, label in labels.items()}
        parts.append(StepBatch(batch, labels, config.seed * 1_000_003 + draw))
    return parts


def stride_of(net: nn.Module) -> int:
    """The stride of the finest scores of an FCN."""
    if not isinstance(net, FCN):
        raise UsageError("keep and shift: they belong to the cells of an FCN; leave them out for another net")
    return net.stride


def chosen_precision(precision: str, device: torch.device | str = "cpu") -> torch.dtype:
    """The arithmetic that ``auto``, ``fp32`` or ``bf16`` stands for on this machine."""
    fast = torch.cuda.is_bf16_supported() if torch.device(device).type == "cuda" else multiplies_bf16()
    return torch.bfloat16 if precision == "bf16" or (precision == "auto" and fast) else torch.float32


def chosen_device(device: str, processes: ProcessGroup = ALONE) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``mps`` stands for; of several processes, each has its own.

    Raises `UsageError` where the machine has none of that name.
    """
    if processes.size > 1:
        return torch.device(processes.accelerator.device)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.split(":")[0], False):
        names = ", ".join(name for name, found in there.items() if found)
        raise UsageError(f"device '{device}': this machine, or this PyTorch, has none; there is {names}")
    return torch.device(device)


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
    validation: Dataset | None = None,
    score: Callable[[nn.Module], Scores | None] | None = None,
    processes: ProcessGroup = ALONE,
) -> Iterator[Record]:
    """Train `state.net` on `dataset` from `state.step` to the end, yielding a record after every step.

    Args:
        state: Changed in place; between two records it is whole, and may be saved.
        dataset: A `Dataset`; for other kinds see `fullconv.adapt`.
        config: How the net is trained.
        convention: What the net's weights want of pixels.
        transform: What is done to each sample; the settings' own augmentation if not given.
        validation: A split without the training images; evaluated every ``eval_every`` steps and after the last.
        score: Evaluates the net in place of that; its result stands in the record.
        processes: This process among those that train the net together; each yields the same records.

    Returns:
        An iterator of records. A warning is issued if weights given to `State.of` seem to want another input.

    Raises:
        UsageError: Net, data and input do not fit together, or training images are among those of `validation`.
        RunError: The loss or its gradient is not finite; raised before the weights are touched.
    """
    dataset, net = adapt(dataset), state.net
    validation = None if validation is None else adapt(validation, dataset.labels)
    refuse_a_leak("fit", dataset, validation)
    if isinstance(net, FCN):
        for split in (dataset, *([] if validation is None else [validation])):
            refuse_unsuited(net, split, convention)
        if validation is not None and score is None:
            header = Header(net.config, dataset.labels, convention, geometric=facts_of(dataset).tasks.get("geometric"))
            score = partial(_score, header, validation, processes)
        doubt = state.start and doubt_of_input(state.start, net.config, convention, dataset)
        if doubt:
            warnings.warn(doubt, stacklevel=2)
    elif validation is not None and score is None:
        raise UsageError(f"fit: validation scores an FCN, not a {type(net).__name__}; give score")
    state.start = None
    return _train(state, dataset, config, convention, transform, score, processes)


def _score(header: Header, validation: Dataset, processes: ProcessGroup, net: nn.Module) -> Scores:
    return evaluate(Predictor(net, header), validation, processes=processes)


def _train(
    state: State, dataset: Dataset, config: TrainConfig, convention: InputConvention, transform: Transform | None,
    score: Callable[[nn.Module], Scores | None] | None, processes: ProcessGroup,
) -> Iterator[Record]:  # fmt: skip
    """Yield the records of `fit`."""
    total = config.total_steps(len(dataset))
    share = RankShard(
        make_stream(state.net, dataset, config, outside(convention, dataset.labels.ignore_index), transform),
        config.accumulate, processes.rank, processes.size,
    )  # fmt: skip
    device = next(state.net.parameters()).device
    work = Work(objectives_of(config, dataset), convention, chosen_precision(config.precision, device), processes)
    freeze_bn = state.freezes_norms(config)
    train_mode(state.net, freeze_bn)
    forward = processes.wrap(state.net)

    clock = time.perf_counter()
    source = batches(share, state.step * share.mine, total * share.mine, config.workers, config.worker_timeout)
    pieces = 1
    while state.step < total:
        parts = make_batches(state, share, [next(source) for _ in range(share.mine)], config)
        images, valid, pixels = step_counts(parts, dataset.labels.ignore_index, processes)
        if state.step == 0 and config.optimizer == "sgd":
            check_rate(config.loss, config.lr, pixels // config.accumulate if config.loss == "mean" else pixels)
        lr = learning_rate(config, state.step, total)
        set_rate(state.optimizer, lr)
        over = sizes(work.objectives, [part.labels for part in parts], processes.sum)
        loss, pieces = gradient(state, forward, work, parts, over, pieces)
        state.optimizer.step()
        state.step += 1
        processes.at(state.step)
        if state.average is not None:
            move_average(state, config.ema)
        seconds = time.perf_counter() - clock

        found = None
        if score is not None and is_scored(config, state.step, total):
            with ema_weights(state):
                found = score(state.net)
            train_mode(state.net, freeze_bn)
        yield Record(state.step, loss, lr, images, valid, seconds, found, pieces, process_memory.peak())
        clock = time.perf_counter()


def is_scored(config: TrainConfig, step: int, total: int) -> bool:
    """Whether the net is evaluated after a step."""
    return step % (config.eval_every or max(1, total // 10)) == 0 or step == total


def step_counts(parts: list[StepBatch], ignore_index: int, processes: ProcessGroup) -> tuple[int, int, int]:
    """Images, valid pixels and pixels of a step, in all processes."""
    images = sum(len(part.batch.names) for part in parts)
    valid = sum(int((part.labels[SEMANTIC] != ignore_index).sum()) for part in parts)
    images, valid, pixels = (int(n) for n in processes.sum([images, valid, sum(part.pixels for part in parts)]))
    return images, valid, pixels


def gradient(
    state: State, forward: Any, work: Work, parts: list[StepBatch], over: dict[str, float], pieces: int
) -> tuple[float, int]:
    """Put the gradient of a step into the parameters; the loss of it, and in how many pieces a batch went through.

    Where the memory does not suffice the batches are cut in two, and again: the same gradient, in more time.
    """
    most = max(len(part.batch.names) for part in parts)
    while True:
        state.optimizer.zero_grad(set_to_none=True)
        try:
            loss = work.gradient(state.net, forward, parts, over, pieces, state.step + 1)
            break
        except (MemoryError, RuntimeError) as problem:
            if not process_memory.is_out_of_memory(problem):
                raise
            if pieces >= most or work.processes.size > 1:
                raise RunError(
                    f"step {state.step + 1}: {process_memory.describe(problem)}; give a smaller --crop"
                    + ("" if most == 1 else " or --batch-size")
                ) from None
            pieces = min(2 * pieces, most)
    refuse_lost_gradient(state.net, parts, state.step + 1)
    return work.processes.sum([loss])[0], pieces
