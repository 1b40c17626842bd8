"""What a training step costs: ours, beside the plain form of the same step.

One image, FCN-8s, the sum of the losses, gradient descent with momentum. The plain form is how the step is usually
written (pytorch-fcn, 2017): every layer as it is, each upsampling a dense transposed convolution over all pairs of
classes, the loss from log-probabilities of all pixels and a mask, one update of each parameter after the other. Both
begin with the same weights, without dropout, so their first losses are equal; how near, is part of the result.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullconv.bench.medians import medians, seconds
from fullconv.config import ModelConfig, TrainConfig
from fullconv.hardware import precisions
from fullconv.models.build import build
from fullconv.models.fcn import FCN
from fullconv.models.upsample import Upsample, bilinear_weight
from fullconv.training.loop import State
from fullconv.training.loss import segmentation_loss
from fullconv.training.optimizer import parameter_groups, set_rate

CLASSES = 21


class Dense(nn.Module):
    """An upsampling as a dense transposed convolution with fixed weights, and the crop."""

    def __init__(self, of: Upsample, channels: int) -> None:
        super().__init__()
        self.stride = of.window.stride
        self.register_buffer("weight", bilinear_weight(channels, of.window.kernel))

    def forward(self, x: Tensor, offset: int, height: int, width: int) -> Tensor:
        """(N, C, h, w) to (N, C, height, width)."""
        full = F.conv_transpose2d(x, self.weight, stride=self.stride)  # type: ignore[arg-type]
        return full[:, :, offset : offset + height, offset : offset + width]


def measure(
    size: tuple[int, int] = (375, 500),
    backbone: str = "vgg16",
    width: float = 1.0,
    padding: str = "paper",
    rounds: int = 3,
) -> dict[str, Any]:
    """Median seconds of a step in each form, by turns; `loss` is that of the first step."""
    torch.manual_seed(0)
    config = ModelConfig(backbone, stride=8, num_classes=CLASSES, width=width, padding=padding, dropout=0.0)
    net = build(config)
    for name, parameter in net.named_parameters():
        if parameter.ndim == 4:  # so that what is below the scores tells in them, and so in the loss
            nn.init.kaiming_normal_(parameter, nonlinearity="relu" if name.startswith("backbone") else "linear")
    count = sum(p.numel() for p in net.parameters())
    image, label = torch.randn(1, 3, *size), torch.randint(0, CLASSES, (1, *size))
    settings = TrainConfig(loss="sum", lr=1e-12, momentum=0.99, batch_size=1)
    ways: dict[str, Callable[[], float]] = {"plain": plain(copy.deepcopy(net), image, label, settings)}
    for name in precisions():
        kind = torch.bfloat16 if name == "bf16" else None
        ways[f"ours, {name}"] = ours(copy.deepcopy(net), image, label, settings, kind)
    first = {name: step() for name, step in ways.items()}
    taken = medians({name: partial(seconds, step) for name, step in ways.items()}, rounds)
    return {
        "net": f"FCN-8s on {backbone}, width {width:g}, {padding} padding, {count:,} parameters",
        "image": list(size),
        "rounds": rounds,
        "ways": [
            {"way": name, "seconds": taken[name], "speedup": taken["plain"] / taken[name],
             "loss_rel_diff": abs(first[name] / first["plain"] - 1)}
            for name in ways
        ],
    }  # fmt: skip


def ours(
    net: FCN, image: Tensor, label: Tensor, settings: TrainConfig, kind: torch.dtype | None
) -> Callable[[], float]:
    """The step of `fullconv.training.loop.fit`."""
    state = State.of(net, settings)
    set_rate(state.optimizer, settings.lr)
    image = image.contiguous(memory_format=torch.channels_last)
    net.train()

    def step() -> float:
        torch.manual_seed(0)
        with torch.autocast("cpu", kind or torch.bfloat16, enabled=kind is not None):
            logits = net(image)
        assert isinstance(logits, Tensor)
        loss = segmentation_loss(logits, label, "sum")
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.optimizer.step()
        return float(loss.detach())

    return step


def plain(net: FCN, image: Tensor, label: Tensor, settings: TrainConfig) -> Callable[[], float]:
    """The step as it is usually written."""
    for name, layer in list(net.named_modules()):
        if isinstance(layer, Upsample):
            net.set_submodule(name, Dense(layer, CLASSES))
    net.train()
    groups = parameter_groups(net, settings.weight_decay)
    for group in groups:
        group["lr"] = settings.lr * float(str(group.pop("rate")))
    optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, foreach=False)

    def step() -> float:
        torch.manual_seed(0)
        logits = net(image)
        assert isinstance(logits, Tensor)
        scores = F.log_softmax(logits, dim=1).permute(0, 2, 3, 1).contiguous()
        valid = label >= 0
        scores = scores[valid.unsqueeze(-1).expand_as(scores)].view(-1, CLASSES)
        loss = F.nll_loss(scores, label[valid], reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step
