"""OpenVINO: the fastest of the engines on a CPU. Making its form of a net goes by ONNX; running it needs no torch."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fullconv.backends.metadata import KEY, ExportMetadata
from fullconv.config import Size
from fullconv.errors import RunError, UsageError, shown
from fullconv.warnings import without_warnings

if TYPE_CHECKING:
    from onnx import ModelProto
    from openvino import Model

    from fullconv.models.fcn import FCN

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
"""What is multiplied, by our names. It is always asked for: by itself OpenVINO takes bf16 where the processor has it.
Layers of 8-bit integers stay such in both.
"""


def to_openvino(net: FCN, size: Size | None, coarse: bool = False) -> Model:
    """The net as OpenVINO has it; the arguments and the names of the outputs are those of `to_onnx`."""
    from fullconv.backends.onnx import to_onnx

    return of_onnx(to_onnx(net, size, coarse))


def of_net(net: FCN, size: Size) -> Model:
    """The net as OpenVINO has it, for images of one size, one at a time, with its coarse scores as outputs.

    For use at once: no file is made on the way, so it takes a third of the time of `to_openvino`. Weights are copied;
    the model needs nothing of torch's afterwards.
    """
    import torch

    from fullconv.backends.export_program import EXPORTING, TupleOutputs, example

    present()
    from openvino._offline_transformations import apply_moc_transformations
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    outputs = TupleOutputs(net.eval(), logits=False)
    x, _ = example(net, size)
    frontend = FrontEndManager().load_by_framework("pytorch")
    with EXPORTING, without_warnings(""), torch.no_grad():
        # These are the steps of `openvino.convert_model`, which also reports its use to its makers.
        program = TorchFXPythonDecoder.from_exported_program(torch.export.export(outputs, (x,)))
        model = frontend.convert(frontend.load(program, False))  # False: weights are not shared
        apply_moc_transformations(model, cf=False, smart_reshape=True)
    for output, name in zip(model.outputs, outputs.names, strict=True):
        output.get_tensor().set_names({name})
    return model


def of_onnx(graph: ModelProto) -> Model:
    """An ONNX graph as OpenVINO has it."""
    return core().read_model(graph.SerializeToString())


def write_card(model: Model, card: ExportMetadata) -> None:
    """Put into a model what it is to say of itself."""
    model.set_rt_info(card.to_json(), [KEY])


def read_card(model: Model, path: Path) -> ExportMetadata:
    """What a model says of itself."""
    text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
    return ExportMetadata.from_json(text, path)


def save(model: Model, path: Path) -> None:
    """Write PATH.xml and PATH.bin beside it, the weights as they are."""
    present().save_model(model, path, compress_to_fp16=False)


def read(path: Path) -> Model:
    """The model in a file, with its weights in the .bin beside it.

    Raises `UsageError` naming the file.
    """
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise UsageError(f"{shown(path)}: {shown(weights.name)} with its weights is not beside it; copy both files")
    try:
        return core().read_model(path, weights)
    except RuntimeError as problem:
        raise UsageError(
            f"{shown(path)}: OpenVINO does not read it ({_last_line(problem)}); take another copy"
        ) from None


def cut(model: Model, names: Sequence[str]) -> Model:
    """The same model with tensors inside it as its outputs. Raises `UsageError` where there is no such tensor."""
    openvino = present()
    inside = {name: output for node in model.get_ops() for output in node.outputs() for name in output.get_names()}
    for name in names:
        if name not in inside:
            raise UsageError(
                f"openvino: there is no tensor '{shown(name)}' in the model; take another copy of the file"
            )
    return openvino.Model([inside[name] for name in names], model.get_parameters(), "cut")


class OpenvinoNet:
    """A model that OpenVINO runs: (N, C, H, W) float32 to a dict of its outputs by name.

    model: or the path of one. precision: ``fp32`` or ``bf16``. threads: how many it may use; all cores if None.
    """

    def __init__(self, model: Model | Path, precision: str = "fp32", threads: int | None = None) -> None:
        if precision not in PRECISIONS:
            raise UsageError(f"precision '{precision}': there is no such precision; One of: {', '.join(PRECISIONS)}")
        settings = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision], "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        try:
            self.compiled = core().compile_model(read(model) if isinstance(model, Path) else model, "CPU", settings)
        except RuntimeError as problem:
            raise UsageError(
                f"openvino: it does not take this model ({_last_line(problem)}); export it again"
            ) from None
        self.own = threading.local()  # the request of each thread, and the shape that it was made for
        self.outputs = [output.get_any_name() for output in self.compiled.outputs]

    def __call__(self, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run it once. The input is read where it lies."""
        reason = "its outputs are empty"
        try:
            # Of a size that a layer does not take, an old request would give the outputs of the size before.
            if x.shape != getattr(self.own, "shape", None):
                self.own.request, self.own.shape = self.compiled.create_infer_request(), x.shape
            found = self.own.request.infer([np.ascontiguousarray(x)], share_inputs=True).to_tuple()
            if all(output.size for output in found):
                return dict(zip(self.outputs, found, strict=True))
        except RuntimeError as problem:
            reason = _last_line(problem)
        size = "x".join(map(str, x.shape))
        raise RunError(f"openvino: the net cannot be run on {size} ({reason}); give an image of another size")


def _last_line(problem: Exception) -> str:
    """Its messages begin with the places in its source, and end with what is wrong."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return shown(lines[-1][:200]) if lines else type(problem).__name__


@cache
def core() -> Any:
    """What compiles models: one for the life of the process. With its part for the CPU comes a stack for signals
    (sigaltstack), which it takes away when it goes, and then the next signal ends the process.
    """
    found = present().Core()
    found.get_property("CPU", "FULL_DEVICE_NAME")  # brings that part in, before anybody else makes a core
    return found


def present() -> Any:
    """Import OpenVINO."""
    try:
        with without_warnings(), _unreported():
            import openvino
    except ImportError:
        raise UsageError("openvino: it is not installed; pip install 'fullconv[openvino]'") from None
    return openvino


_importing = threading.Lock()


@contextmanager
def _unreported() -> Iterator[None]:
    """Hide the package by which OpenVINO reports to its makers that it was imported, until it is; it works without."""
    name = "openvino_telemetry"
    with _importing:
        if "openvino" in sys.modules:
            yield
            return
        before = {name: sys.modules[name]} if name in sys.modules else {}
        sys.modules[name] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            del sys.modules[name]
            sys.modules.update(before)
