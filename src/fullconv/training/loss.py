"""The per-pixel loss (sections 3.4 and 4.3): softmax cross entropy, void left out, its sum or its mean said out loud;
and what others do with it: weights for classes, the hardest pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fullconv.errors import UsageError


@dataclass(frozen=True)
class Objective:
    """What is minimized over the pixels that are not void.

    reduction: ``sum``, so that the gradient is the sum of those of all patches (the released nets, one image a step),
    or ``mean`` over the valid pixels of the step. weights: of each class (K,), for the semantic task; the mean is then
    over the weights. hard: the share of the valid pixels with the largest loss that counts.
    """

    reduction: str = "mean"
    ignore_index: int = 255
    weights: Tensor | None = None
    hard: float = 1.0

    def size(self, label: Tensor) -> float:
        """What the mean of a label (N, H, W) is taken over: its valid pixels, their weights, or the hardest of them."""
        valid = label[label != self.ignore_index]
        if self.hard < 1:
            return float(math.ceil(self.hard * valid.numel()))
        return float(valid.numel()) if self.weights is None else float(self.weights[valid].double().sum())

    def total(self, logits: Tensor, label: Tensor) -> Tensor:
        """The sum of the losses of logits (N, K, H, W) on a label (N, H, W), as a scalar."""
        scores = logits if logits.dtype == torch.float64 else logits.float()
        weights = None if self.weights is None else self.weights.to(scores)
        if self.hard >= 1:
            return F.cross_entropy(scores, label, weights, ignore_index=self.ignore_index, reduction="sum")
        losses = F.cross_entropy(scores, label, weights, ignore_index=self.ignore_index, reduction="none")
        found = losses[label != self.ignore_index]
        return found.topk(math.ceil(self.hard * found.numel()), sorted=False).values.sum()


def segmentation_loss(logits: Tensor, label: Tensor, reduction: str, ignore_index: int = 255) -> Tensor:
    """Cross entropy of logits (N, K, H, W) with labels (N, H, W) over the pixels that are not void, as a scalar:
    ``sum``, or ``mean`` over the valid pixels. A batch that is wholly void gives 0, and a gradient of 0.

    >>> float(segmentation_loss(torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 1, 255]]]), "mean"))
    0.6931471824645996
    >>> float(segmentation_loss(torch.zeros(1, 2, 1, 3), torch.full((1, 1, 3), 255), "mean"))
    0.0
    """
    objective = Objective(reduction, ignore_index)
    return step_loss(logits, {"semantic": label}, {"semantic": objective}, sizes(objective, [label]))


def sizes(
    objectives: Objective | Mapping[str, Objective],
    labels: Sequence[Tensor | Mapping[str, Tensor]],
    add: Callable[[list[float]], list[float]] = list,
) -> dict[str, float]:
    """What the loss of each task is divided by in a step of several batches, so that accumulating their gradients gives
    that of one batch: 1 for a sum, for a mean what it is taken over, in all of them.

    add: sums over the processes that share the step.
    """
    tasks = objectives if isinstance(objectives, Mapping) else {"semantic": objectives}
    found = []
    for task, objective in tasks.items():
        parts = [label[task] if isinstance(label, Mapping) else label for label in labels]
        found.append(0.0 if objective.reduction == "sum" else sum(objective.size(part) for part in parts))
    return {task: size or 1.0 for task, size in zip(tasks, add(found), strict=True)}


def step_loss(
    logits: Tensor | Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    objectives: Mapping[str, Objective],
    over: Mapping[str, float],
) -> Tensor:
    """The loss of one batch: over all heads of the net, each on the label of its task (SIFT Flow's two with weight 1,
    as released), divided by `over` (`sizes`).
    """
    heads = logits if isinstance(logits, Mapping) else {"semantic": logits}
    losses = [objectives[task].total(scores, labels[task]) / over[task] for task, scores in heads.items()]
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def check_rate(loss: str, lr: float, pixels: int) -> None:
    """Refuse a learning rate that cannot belong to its loss: they differ by the number of pixels, some 100,000.

    `pixels` is the number of output pixels a step. Raises `UsageError` with the rate that would fit.
    """
    per_mean = lr * pixels if loss == "sum" else lr
    # The smallest published rate is 1e-14 on the sum (FCN-8s, staged), some 2e-9 on the mean.
    least = 1e-11 if loss == "sum" else 1e-7
    fitting = f"give about {0.01 / pixels:.0e}" if loss == "sum" else "give about 0.004"
    if per_mean > 1:
        other = ", or --loss mean" if loss == "sum" else ""
        raise UsageError(f"lr {lr:g} with loss '{loss}': the first steps would diverge; {fitting}{other}")
    if 0 < per_mean < least:
        other = " (rates such as 1e-10 belong to --loss sum)" if loss == "mean" else ""
        raise UsageError(f"lr {lr:g} with loss '{loss}': the net would not move; {fitting}{other}")
