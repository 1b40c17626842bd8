"""The engine that needs nothing but torch: weights in the layout and precision in which they are multiplied, once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fullconv import host
from fullconv.models.fcn import FCN
from fullconv.optimize.cache_blocking import in_bands
from fullconv.optimize.im2col import RowsConv2d
from fullconv.optimize.packed_gemm import Workspace
from fullconv.optimize.trunks import with_trunks
from fullconv.optimize.winograd import WinogradConv2d
from fullconv.profiling import process_memory

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


class LayerAccelerator:
    """Makes nets that share the weights of one faster on a CPU, by other forms of some layers: those of many channels
    multiply less (`fullconv.optimize.winograd`), those of many weights, such as fc6 and fc7, are products
    (`fullconv.optimize.im2col`), and those near the image are run in bands (`fullconv.optimize.cache_blocking`).

    What such a form needs beside the weights, up to 4 times as much, is kept for all nets that share them; layers for
    which there is not the memory stay as they are.
    """

    def __init__(self) -> None:
        self.kept: dict[Tensor, Callable[[nn.Conv2d], nn.Module]] = {}
        self.space = Workspace()
        if host.owns_process():
            process_memory.set_malloc_thresholds()

    def __call__(self, net: FCN) -> FCN:
        """A copy of a net; layers that do not change are shared."""
        room = SHARE * process_memory.available()
        for layer in net.modules():
            for form in (WinogradConv2d, RowsConv2d):
                if not isinstance(layer, nn.Conv2d) or layer.weight in self.kept or not form.suits(layer):
                    continue
                if (needed := form.more_bytes(layer.weight)) <= room:
                    room -= needed
                    values: Any = form.prepared(layer.weight)
                    self.kept[layer.weight] = partial(form, values=values, space=self.space)
        found: FCN = self._copied(in_bands(net))
        return found

    def _copied(self, module: Any) -> Any:
        if isinstance(module, nn.Conv2d) and module.weight in self.kept:
            return self.kept[module.weight](module)
        found = copy.copy(module)
        found._modules = {name: m if m is None else self._copied(m) for name, m in module._modules.items()}
        return found


def variant(net: FCN, precision: str) -> Callable[[Tensor], dict[str, Tensor]]:
    """The net itself, fed in its precision and layout."""
    kind = TYPES[precision]

    def run(x: Tensor) -> dict[str, Tensor]:
        return net.coarse(x.to(kind).contiguous(memory_format=torch.channels_last))

    return run


def compiled(net: FCN, precision: str) -> Callable[[Tensor], dict[str, Tensor]]:
    """The trunks by torch's compiler, with frozen weights; the scores as they are."""

    def by_compiler(trunk: nn.Module) -> nn.Module:
        return torch.compile(trunk, dynamic=False, options={"freezing": True})  # type: ignore[return-value]

    return variant(with_trunks(net, by_compiler), precision)
