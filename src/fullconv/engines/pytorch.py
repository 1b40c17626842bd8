"""The engine that needs nothing but torch: weights in the layout and precision in which they are multiplied, once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fullconv import memory
from fullconv.models.fcn import FCN
from fullconv.models.product import PointConv2d, is_point
from fullconv.models.winograd import WORTH, WinogradConv2d, bytes_at_points, fewer, transformed

SHARE = 0.4
"""Of the memory that is available: what weights that are kept a second time may take."""

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


class Quick:
    """Makes nets that share the weights of one faster in single precision, by other forms of some layers: those of many
    channels multiply less (`fullconv.models.winograd`), and fc7 is a product (`fullconv.models.product`).

    The weights of the first kind are kept a second time, 1.3 to 4 times as large, for all nets that share them; where
    memory is too short for that these layers stay as they are.
    """

    def __init__(self) -> None:
        self.values: dict[Tensor, Tensor] = {}

    def __call__(self, net: FCN) -> FCN:
        """A copy of a net; layers that do not change are shared."""
        layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d) and fewer(layer) >= WORTH]
        new = [layer.weight for layer in layers if layer.weight not in self.values]
        if sum(map(bytes_at_points, new)) <= SHARE * memory.available():
            self.values.update((weight, transformed(weight)) for weight in new)
        found: FCN = self._copied(net)
        return found

    def _copied(self, module: Any) -> Any:
        if isinstance(module, nn.Conv2d) and module.weight in self.values:
            return WinogradConv2d(module, self.values[module.weight])
        found = copy.copy(module)
        if is_point(module):
            found.__class__ = PointConv2d
        found._modules = {name: m if m is None else self._copied(m) for name, m in module._modules.items()}
        return found


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
