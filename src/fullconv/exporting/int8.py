"""8-bit integers: weights by channel, activations by the range they have on real images. The scores and all behind
them stay in fp32: they are a thousandth of the work, and what is compared at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fullconv.backends.metadata import IMAGE
from fullconv.backends.onnx import present
from fullconv.errors import RunError, UsageError, shown
from fullconv.warnings import without_warnings

if TYPE_CHECKING:
    from onnx import ModelProto

SCORE = "score_"
"""What the names of all scoring layers begin with (`fullconv.models.fcn`)."""


def in_fp32(model: ModelProto, first: int) -> list[str]:
    """The names of the nodes that keep fp32: the first convolutions, those that make scores, and all behind those."""
    weights = {tensor.name for tensor in model.graph.initializer if f".{SCORE}" in f".{tensor.name}"}
    found = [node.name for node in model.graph.node if node.op_type == "Conv"][:first]
    reached = weights
    for node in model.graph.node:  # in their order of running
        if reached.intersection(node.input):
            found.append(node.name)
            reached = reached.union(node.output)
    return found


def onnx_in_int8(model: ModelProto, inputs: Iterable[NDArray[np.float32]], exact: int, folder: Path) -> ModelProto:
    """A graph with its trunk in 8-bit integers, as pairs of QuantizeLinear and DequantizeLinear.

    inputs: what the net takes, for images like those that it will see. exact: how many of the first convolutions keep
    fp32. folder: for what is written on the way.
    """
    quantization = present("onnxruntime.quantization", "onnx")
    from fullconv.backends.onnx import read

    class Inputs(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self.left: Iterator[NDArray[np.float32]] = iter(inputs)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            found = next(self.left, None)
            return None if found is None else {IMAGE: found}

    made = folder / "int8.onnx"
    with without_warnings(""):
        quantization.quantize_static(
            type(model).FromString(model.SerializeToString()),  # a copy: it empties what it is given
            made,
            Inputs(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=in_fp32(model, exact),
        )
    return read(made)


def openvino_in_int8(model: Any, inputs: Iterable[NDArray[np.float32]], exact: list[str]) -> Any:
    """Quantize the trunk of an OpenVINO model to 8-bit integers with nncf.

    nncf runs in a process of its own (`fullconv.exporting.nncf_child`): it prints, and it reports its use to its makers
    as soon as it is imported, which only a process of ours can keep it from.

    exact: names of the nodes that keep fp32. Raises `UsageError` if nncf is not installed, `RunError` if it fails.
    """
    from fullconv.backends import openvino

    require_nncf()
    # A convolution with its bias is two nodes here: NAME, and NAME/WithoutBiases.
    left = [name for node in model.get_ops() if (name := node.get_friendly_name()).partition("/")[0] in set(exact)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        openvino.save(model, folder / "fp32.xml")
        np.savez(folder / "inputs.npz", *inputs)
        (folder / "exact.json").write_text(json.dumps(left))
        child = [sys.executable, "-P", "-W", "ignore", str(Path(__file__).with_name("nncf_child.py")), name]
        paths = os.pathsep.join(str(Path(part).absolute()) for part in sys.path if part)
        done = subprocess.run(child, capture_output=True, text=True, check=False,
                              env={**os.environ, "PYTHONPATH": paths})  # fmt: skip
        if done.returncode:
            reason = shown((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200])
            raise RunError(f"nncf: it does not quantize this net ({reason}); export it without --int8, or to .onnx")
        xml, weights = ((folder / f"int8.{end}").read_bytes() for end in ("xml", "bin"))
    return openvino.core().read_model(xml, weights)


def require_nncf() -> None:
    """Raise `UsageError` if nncf is not installed."""
    if find_spec("nncf") is None:
        raise UsageError("nncf: it is not installed; pip install 'fullconv[openvino]'")
