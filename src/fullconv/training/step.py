"""The gradient of one step: over all its batches, in as many pieces as the memory allows, and finite."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fullconv.config import InputConvention
from fullconv.data.dataset import SEMANTIC
from fullconv.data.loader import Batch
from fullconv.distributed import ProcessGroup
from fullconv.errors import RunError
from fullconv.inference.tensor_input import to_input
from fullconv.training.loss import Objective, step_loss


@dataclass(frozen=True)
class StepBatch:
    """A batch of a step: with its labels as tensors, and the seed of the dropout in it."""

    batch: Batch
    labels: dict[str, Tensor]
    seed: int

    @property
    def pixels(self) -> int:
        """The pixels of its labels."""
        return self.labels[SEMANTIC].numel()

    def pieces(self, number: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """Images and labels of the batch in about so many pieces."""
        images = torch.from_numpy(self.batch.images).tensor_split(min(number, len(self.batch.names)))
        labels = {task: label.tensor_split(len(images)) for task, label in self.labels.items()}
        return [(image, {task: label[i] for task, label in labels.items()}) for i, image in enumerate(images)]


class NotFinite(RunError):
    """A loss or a gradient that is no number. `parts` are those of the step that it came from."""

    def __init__(self, message: str, step: int, parts: Sequence[StepBatch]) -> None:
        super().__init__(message)
        self.step, self.parts = step, parts


@dataclass(frozen=True)
class Work:
    """How the loss of a batch comes about: everything of it that is the same in all steps."""

    objectives: Mapping[str, Objective]
    convention: InputConvention
    precision: torch.dtype
    processes: ProcessGroup

    def arithmetic(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """The arithmetic of the forward pass."""
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(device.type, self.precision)

    def gradient(self, net: nn.Module, forward: Any, parts: Sequence[StepBatch], over: Mapping[str, float],
                 pieces: int, step: int) -> float:  # fmt: skip
        """Add the gradient of the loss over `parts` to the parameters of `net` and return the loss of this process.

        forward: what is called for a forward pass: `net`, or `net` as several processes share it. over: what the loss
        of each task is divided by. Raises `NotFinite` before the gradient of a loss that is no number is made.
        """
        device = next(net.parameters()).device
        value = 0.0
        for part in parts:
            torch.manual_seed(part.seed)
            cut = part.pieces(pieces)
            for number, (images, labels) in enumerate(cut, start=1):
                x = to_input(images.to(device), self.convention).contiguous(memory_format=torch.channels_last)
                last = part is parts[-1] and number == len(cut)
                with self.processes.no_sync(forward, last), self.processes.translate_errors():
                    with self.arithmetic(device):
                        logits = forward(x)
                    loss = step_loss(logits, {task: label.to(device) for task, label in labels.items()},
                                     self.objectives, over)  # fmt: skip
                    value += float(loss.detach())
                    if not math.isfinite(value):
                        raise NotFinite(
                            f"step {step}: the loss is {value} (samples {', '.join(part.batch.names)}); lower --lr, "
                            "or look at these images",
                            step,
                            [part],
                        )
                    # The gradients of all processes are averaged, and their sum is meant.
                    (loss * self.processes.size).backward()
        return value


def refuse_lost_gradient(net: nn.Module, parts: Sequence[StepBatch], step: int) -> None:
    """Raise `NotFinite` for a gradient that is no number, before it reaches the weights."""
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    if math.isfinite(float(nn.utils.get_total_norm(gradients, norm_type=math.inf))):
        return
    lost = [name for name, p in net.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
    names = ", ".join(name for part in parts for name in part.batch.names)
    raise NotFinite(
        f"step {step}: the gradient of {lost[0] if lost else 'the net'} is not finite, though the loss is (samples "
        f"{names}); lower --lr, or look at these images",
        step,
        parts,
    )
