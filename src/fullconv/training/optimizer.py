"""Stochastic gradient descent as the paper uses it (section 4.3): momentum, weight decay, doubled rate for biases."""

from __future__ import annotations

import torch
from torch import nn

from fullconv.config import TrainConfig

NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(net: nn.Module, weight_decay: float, bias_rate: float = 2.0) -> list[dict[str, object]]:
    """Three groups: weights; biases, at twice the rate (`bias_rate`) and without decay, as in the released solvers;
    scales of norms, without decay.

    Each group carries its factor on the learning rate as ``rate``.
    """
    weights: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    scales: list[nn.Parameter] = []
    for layer in net.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            (biases if name == "bias" else scales if isinstance(layer, NORMS) else weights).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": weights, "rate": 1.0, "weight_decay": weight_decay},
        {"params": biases, "rate": bias_rate, "weight_decay": 0.0},
        {"params": scales, "rate": 1.0, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, over the net's parameter groups; the rate of each step is set by `set_rate`."""
    groups = parameter_groups(net, config.weight_decay, config.bias_rate)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """The learning rate of a step, 0 <= step < total.

    >>> [round(learning_rate(TrainConfig(lr=1.0, schedule="poly", warmup=2), t, 10), 2) for t in (0, 1, 2, 9)]
    [0.33, 0.61, 0.82, 0.13]
    """
    rate = config.lr * min(1.0, (step + 1) / (config.warmup + 1)) if config.warmup else config.lr
    return rate * (1 - step / total) ** 0.9 if config.schedule == "poly" else rate


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its rate: `lr` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]
