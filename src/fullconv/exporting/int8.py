"""8-bit integers: weights by channel, activations by the range they have on real images. The scores and all behind
them stay in fp32: they are a thousandth of the work, and what is compared at the end.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fullconv.backends.metadata import IMAGE
from fullconv.backends.onnx import present
from fullconv.errors import UsageError
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

    said = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    made = folder / "int8.onnx"
    try:
        with without_warnings():
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
    finally:
        logging.getLogger().setLevel(said)
    return read(made)


def openvino_in_int8(model: Any, inputs: Iterable[NDArray[np.float32]], exact: list[str]) -> Any:
    """A model of OpenVINO with its trunk in 8-bit integers, by nncf. exact: the names of what keeps fp32."""
    nncf = present_nncf()
    images = list(inputs)
    # A convolution with its bias is two nodes here: NAME, and NAME/WithoutBiases.
    left = [name for node in model.get_ops() if (name := node.get_friendly_name()).partition("/")[0] in set(exact)]
    with without_warnings(), contextlib.redirect_stdout(StringIO()):  # its progress
        return nncf.quantize(
            model,
            nncf.Dataset(images),
            subset_size=len(images),
            target_device=nncf.TargetDevice.CPU,
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=left),
        )


def present_nncf() -> Any:
    """Nncf, or the way to it; it tells its makers nothing either (see `fullconv.backends.openvino.present`)."""
    from fullconv.backends.openvino import core

    core()  # before nncf makes one of its own
    try:
        with without_warnings():
            import nncf
    except ImportError:
        raise UsageError("nncf: it is not installed; pip install 'fullconv[openvino]'") from None
    assert "openvino_telemetry" in sys.modules
    nncf.set_log_level(logging.ERROR)
    return nncf
