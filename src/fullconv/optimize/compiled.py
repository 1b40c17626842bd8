"""Nets prepared for speed: one FCN, several engines that give the same scores.

An engine takes an FCN and a size and gives a function from the net's own input to the scores at its stride. The ring of
wide paddings is not computed in any of them (`fullconv.optimize.size_specialization`); what is made for a size is
kept for the last few sizes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fullconv.backends import torch_cpu
from fullconv.backends.metadata import COARSE
from fullconv.config import Size
from fullconv.errors import UsageError, suggestion
from fullconv.models.fcn import FCN
from fullconv.optimize.fold_batchnorm import folded
from fullconv.optimize.size_specialization import specialize_for_size

if TYPE_CHECKING:
    from fullconv.backends.onnx import OnnxNet
    from fullconv.backends.openvino import OpenvinoNet

Scores = dict[str, Tensor]
"""Scores at the stride of the net by task, (N, K, h, w) float32."""

ENGINES = ("torch", "compile", "onnx", "openvino")
"""``torch``: eager, layers prepared; ``compile``: by torch's compiler, which needs a C++ compiler and half a minute;
``onnx`` and ``openvino``: by those runtimes, where they are installed."""

PRECISIONS = {"torch": ("fp32", "bf16"), "compile": ("fp32", "bf16"), "onnx": ("fp32",), "openvino": ("fp32", "bf16")}
"""The precisions of each engine."""

WARMUP = {"torch": 1, "compile": 16, "onnx": 8, "openvino": 4}
"""How many images of a size are taken by the net as it is before a form for that size is made, which takes the time of
about so many."""

EXTRAS = {"onnx": "onnxruntime", "openvino": "openvino"}
"""The package that an engine needs beside torch."""

KEPT = 3 << 30
"""Bytes of weights that may be kept in the forms that an engine has made of them; one form is kept always."""


def installed() -> list[str]:
    """The engines that can be used here."""
    return [name for name in ENGINES if name not in EXTRAS or find_spec(EXTRAS[name]) is not None]


def check(engine: str, precision: str) -> None:
    """Refuse an engine or precision that there is not, with the way out."""
    if engine not in ENGINES:
        raise UsageError(f"engine '{engine}': there is no such engine; {suggestion(engine, ENGINES)}")
    if precision == "int8":
        raise UsageError(
            "precision int8: it needs images to calibrate with; export once with fullconv export MODEL --int8 DATA "
            "--out m.xml, and predict with m.xml"
        )
    if precision not in PRECISIONS[engine]:
        raise UsageError(
            f"precision '{precision}': the engine {engine} has no such precision; One of: "
            f"{', '.join(PRECISIONS[engine])}"
        )
    if engine in EXTRAS and find_spec(EXTRAS[engine]) is None:
        raise UsageError(f"engine {engine}: it is not installed; pip install 'fullconv[{engine}]'")


class CompiledModel:
    """An FCN prepared by one engine: call it with the net's own input (N, C, H, W) of any size.

    warmup: how many images of a size are seen before a form for that size is made; those before take the net as it is,
    in torch from the second image on with fewer multiplications. With 0 the form is made at once.

    >>> from fullconv.config import ModelConfig
    >>> from fullconv.models.build import build
    >>> net = build(ModelConfig("vgg11", stride=16, num_classes=3, width=1 / 64)).eval()
    >>> CompiledModel(net)(torch.rand(1, 3, 40, 50)).shape
    torch.Size([1, 3, 40, 50])
    """

    def __init__(self, net: FCN, engine: str = "torch", precision: str = "fp32", warmup: int = 0) -> None:
        check(engine, precision)
        self.engine, self.precision, self.warmup = engine, precision, warmup
        own = precision if engine in ("torch", "compile") else "fp32"  # other engines convert by themselves
        with torch.no_grad():
            self.net = torch_cpu.converted(folded(net.eval()), own)
        self.plain = torch_cpu.variant(self.net, own)
        on_cpu = next(self.net.parameters()).device.type == "cpu"  # a GPU's library has such forms of its own
        self.accelerate = torch_cpu.LayerAccelerator() if engine == "torch" and on_cpu else None
        self.variants: OrderedDict[Size, Callable[[Tensor], Scores]] = OrderedDict()
        self.seen: dict[Size, int] = {}
        self.lock = threading.RLock()  # of both: a size that is new to several threads is prepared once
        weights = sum(parameter.nbytes for parameter in self.net.parameters())
        # A form of torch's shares the weights, and is small; those of other engines have them in their own layout.
        self.kept = 8 if engine == "torch" else max(1, min(8, KEPT // max(weights, 1)))

    def coarse(self, x: Tensor) -> Scores:
        """The scores at the stride of the net, by task."""
        with torch.inference_mode():
            return {task: scores.float() for task, scores in self._variant((x.shape[2], x.shape[3]))(x).items()}

    def __call__(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """The logits at the size of the image; for two heads, a dict of them by task."""
        with torch.inference_mode():
            logits = {
                task: self.net.to_image(task, scores, x.shape[2], x.shape[3]).float()
                for task, scores in self.coarse(x).items()
            }
        return logits if len(logits) > 1 else logits["semantic"]

    def _variant(self, shape: Size) -> Callable[[Tensor], Scores]:
        """The function for inputs of one height and width."""
        with self.lock:
            if shape in self.variants:
                self.variants.move_to_end(shape)
                return self.variants[shape]
            if self.seen.get(shape, 0) < self.warmup:
                variant = self.again if self.seen else self.plain
                self.seen[shape] = self.seen.get(shape, 0) + 1
                if len(self.seen) > 10_000:
                    self.seen.clear()
                return variant
            while len(self.variants) >= self.kept:
                self.variants.popitem(last=False)
            self.variants[shape] = self._make(shape)
            return self.variants[shape]

    @cached_property
    def again(self) -> Callable[[Tensor], Scores]:
        """The net as it is for sizes that are new, from the second image on: made once, for all of them."""
        return self.plain if self.accelerate is None else torch_cpu.variant(self.accelerate(self.net), self.precision)

    def _make(self, size: Size) -> Callable[[Tensor], Scores]:
        net = specialize_for_size(self.net, *size)
        if self.accelerate is not None:
            net = self.accelerate(net)
        if self.engine == "torch":
            return torch_cpu.variant(net, self.precision)
        if self.engine == "compile":
            return torch_cpu.compiled(net, self.precision)
        if self.engine == "onnx":
            from fullconv.backends.onnx import OnnxNet, to_onnx

            run: OnnxNet | OpenvinoNet = OnnxNet(to_onnx(net, size, coarse=True), torch.get_num_threads())
        else:
            from fullconv.backends.openvino import OpenvinoNet, of_net

            run = OpenvinoNet(of_net(net, size), self.precision, torch.get_num_threads())
        named = {COARSE[task]: task for task in net.tasks}

        def each(x: Tensor) -> Scores:
            """One image after the other."""
            found = [run(image.numpy()) for image in x.split(1)]
            return {task: torch.cat([torch.from_numpy(one[name]) for one in found]) for name, task in named.items()}

        return each
