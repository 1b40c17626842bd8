"""The per-pixel loss (section 3.4 and 4.3): softmax cross entropy, void left out, its sum or its mean said out loud."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fullconv.errors import UsageError


def segmentation_loss(logits: Tensor, label: Tensor, reduction: str, ignore_index: int = 255) -> Tensor:
    """Cross entropy of logits (N, K, H, W) with labels (N, H, W) over the pixels that are not void, as a scalar.

    ``sum``: over all pixels, so that the gradient is the sum of those of all patches (the released nets, one image a
    step).
    ``mean``: over the valid pixels of the batch. A batch that is wholly void gives 0, and a gradient of 0.

    >>> float(segmentation_loss(torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 1, 255]]]), "mean"))
    0.6931471824645996
    >>> float(segmentation_loss(torch.zeros(1, 2, 1, 3), torch.full((1, 1, 3), 255), "mean"))
    0.0
    """
    total = F.cross_entropy(
        logits.float() if logits.dtype != torch.float64 else logits, label, ignore_index=ignore_index, reduction="sum"
    )
    if reduction == "sum":
        return total
    return total / (label != ignore_index).sum().clamp(min=1)


def loss_of_tasks(
    logits: Tensor | Mapping[str, Tensor], labels: Mapping[str, Tensor], reduction: str, ignore_index: int = 255
) -> Tensor:
    """The sum of the losses of all heads of a net, each on the label of its task; of one head its own. As the released
    net for SIFT Flow learns, both of its losses with weight 1.

    logits: (N, K, H, W), for the task ``semantic``, or a dict of them by task. labels: (N, H, W) by task.
    """
    heads = logits if isinstance(logits, Mapping) else {"semantic": logits}
    losses = [segmentation_loss(scores, labels[task], reduction, ignore_index) for task, scores in heads.items()]
    return torch.stack(losses).sum() if len(losses) > 1 else losses[0]


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
