"""The engine that needs nothing but torch: weights in the layout and precision in which they are multiplied, once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fullconv.models.fcn import FCN

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class SingleNorm(nn.LocalResponseNorm):
    """In single precision, as torch has it in no other on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """The input in its own precision, normalized."""
        return super().forward(input.float()).to(input.dtype)


def converted(net: FCN, precision: str) -> FCN:
    """A copy of a net for prediction, in this precision and with the channels last. Weights that need no change are
    shared. Upsampling and sums of scores stay in single precision.
    """
    kind = TYPES[precision]

    def converted_tensor(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().to(kind) if tensor.is_floating_point() else tensor.detach()
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    def copied(module: Any) -> Any:
        found = copy.copy(module)
        if isinstance(found, nn.LocalResponseNorm):
            found.__class__ = SingleNorm
        found._parameters = {
            name: p if p is None else nn.Parameter(converted_tensor(p), requires_grad=False)
            for name, p in module._parameters.items()
        }
        found._buffers = {name: b if b is None else converted_tensor(b) for name, b in module._buffers.items()}
        found._modules = {name: m if m is None else copied(m) for name, m in module._modules.items()}
        return found

    found: FCN = copied(net)
    for name in found.upscore_names:
        for end in found.tasks.values():
            found.get_submodule(f"{name}{end}").float()
    return found.eval()


def form(net: FCN, precision: str) -> Callable[[Tensor], dict[str, Tensor]]:
    """The net itself, fed in its precision and layout."""
    kind = TYPES[precision]

    def run(x: Tensor) -> dict[str, Tensor]:
        return net.coarse(x.to(kind).contiguous(memory_format=torch.channels_last))

    return run


def compiled(net: FCN, precision: str) -> Callable[[Tensor], dict[str, Tensor]]:
    """The trunks by torch's compiler, with frozen weights; the scores as they are."""
    found = copy.copy(net)
    found._modules = dict(net._modules)
    for stream in net.streams:
        trunk = net.get_submodule(f"backbone{stream}")
        found._modules[f"backbone{stream}"] = torch.compile(  # type: ignore[assignment]
            trunk, dynamic=False, options={"freezing": True}
        )
    return form(found, precision)
