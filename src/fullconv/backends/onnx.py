"""ONNX: a net as a graph that every engine reads, and ONNX Runtime to run it. Running needs no torch.

A file from somebody else is data: it is looked at before ONNX Runtime sees it, and one that names other files is
refused, since their names may lead anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fullconv.backends.metadata import COARSE, IMAGE, KEY, ExportMetadata
from fullconv.config import Size
from fullconv.errors import RunError, UsageError, shown
from fullconv.warnings import without_warnings

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from fullconv.models.fcn import FCN

LARGEST = (1 << 31) - 1
"""Bytes of a protobuf message: what an .onnx in one file may have."""

FOLDED = 1 << 26
"""Entries of what is computed once in a graph for one size: the upsampling of an axis has rows x cells."""

DOMAINS = ("", "ai.onnx")
"""Of the operations that are run: the standard's own, none of which opens a file."""


def to_onnx(net: FCN, size: Size | None, coarse: bool = False) -> ModelProto:
    """The net as an ONNX graph: ``image`` to ``logits``, and ``logits_geometric`` of a net with two heads.

    size: the height and width of the images, one at a time; None for any number of images of any size. coarse: give
    the scores at the net's own stride (``coarse``), without the last upsampling; else they are a tensor of this name
    inside the graph, where it can be cut (`cut`).
    """
    import torch

    from fullconv.backends.export_program import EXPORTING, TupleOutputs, example

    present("onnx", "onnxscript")
    outputs = TupleOutputs(net.eval(), logits=not coarse, coarse=coarse or not net.learned_end)
    x, dynamic = example(net, size)
    with EXPORTING, without_warnings("torch.onnx", "onnxscript"), torch.no_grad():
        made = torch.onnx.export(
            outputs, (x,), dynamo=True, dynamic_shapes=dynamic, input_names=[IMAGE], output_names=outputs.names,
            verbose=False,
        )  # fmt: skip
        assert made is not None
        if size is not None:
            from onnxscript import optimizer

            optimizer.optimize_ir(made.model, input_size_limit=FOLDED, output_size_limit=FOLDED)
    model = made.model_proto
    if model.ByteSize() > LARGEST:
        raise RunError(f"onnx: a net of {model.ByteSize():,} bytes does not fit into one file; export to .xml")
    if not coarse:
        kept = [output for output in model.graph.output if output.name not in COARSE.values()]
        del model.graph.output[:]
        model.graph.output.extend(kept)
    for node in model.graph.node:  # where each was in the code of whoever exported it: nobody's business
        del node.metadata_props[:]
        if node.op_type == "MaxPool":
            _round_by_padding(node)
    return model


def _round_by_padding(node: NodeProto) -> None:
    """Rounding up is padding at the end and rounding down: the same cells, but no engine refuses a map of one cell for
    a window of two (OpenVINO does, and then gives the scores of the image before).
    """
    from onnx import helper

    said = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    strides, kernel = said.get("strides", [1, 1]), said["kernel_shape"]
    pads = list(said.get("pads", [0, 0, 0, 0]))
    # Only then does the last window begin inside the map or its first padding, as torch wants it.
    begins_inside = all(s - 1 + p < k for s, p, k in zip(strides, pads[:2], kernel, strict=True))
    if said.get("ceil_mode") and begins_inside and set(said.get("dilations", [1])) == {1}:
        del node.attribute[:]
        pads[2:] = [end + stride - 1 for end, stride in zip(pads[2:], strides, strict=True)]
        found = {**said, "ceil_mode": 0, "pads": pads}
        node.attribute.extend(helper.make_attribute(name, value) for name, value in found.items())


def write_card(model: ModelProto, card: ExportMetadata) -> None:
    """Put into a graph what it is to say of itself."""
    from onnx import helper

    helper.set_model_props(model, {KEY: card.to_json()})
    model.producer_name = KEY


def read_card(model: ModelProto, path: Path) -> ExportMetadata:
    """What a graph says of itself."""
    return ExportMetadata.from_json(next((p.value for p in model.metadata_props if p.key == KEY), None), path)


def read(path: Path) -> ModelProto:
    """The graph in a file, looked at: whole, in this one file, of standard operations.

    Raises `UsageError` naming the file. No other file is opened, whatever this one says.
    """
    onnx = present("onnx")
    from google.protobuf.message import DecodeError

    if path.stat().st_size > LARGEST:
        raise UsageError(f"{shown(path)}: {path.stat().st_size:,} bytes are no .onnx in one file; take another copy")
    try:
        model: ModelProto = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError, RecursionError):
        raise UsageError(f"{shown(path)}: not a whole .onnx file; take another copy") from None
    if not model.graph.node:
        raise UsageError(f"{shown(path)}: there is no graph in it; take another copy")
    for message in _messages(model):
        kind = message.DESCRIPTOR.name
        if kind == "TensorProto" and (message.data_location == message.EXTERNAL or message.external_data):
            raise UsageError(
                f"{shown(path)}: its weights lie in another file, and none but this one is opened; save it in one file"
            )
        if kind == "NodeProto" and message.domain not in DOMAINS:
            raise UsageError(
                f"{shown(path)}: the operation {shown(message.domain)}.{shown(message.op_type)} is not of the ONNX "
                "standard; export it again without it"
            )
    return model


def _messages(message: Any) -> Iterator[Any]:
    """A message and all inside it, whatever field they stand in."""
    waiting = [message]
    while waiting:
        found = waiting.pop()
        yield found
        for field, value in found.ListFields():
            if field.message_type is not None:
                waiting += [value] if hasattr(value, "ListFields") else list(value)


def cut(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """The same graph with tensors inside it as its outputs, and without what they do not need. Changes `model`.

    Raises `UsageError` where there is no such tensor.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    made_by = {name: number for number, node in enumerate(graph.node) for name in node.output}
    needed: set[int] = set()
    wanted = list(names)
    for name in wanted:
        if name not in made_by:
            raise UsageError(f"onnx: there is no tensor '{shown(name)}' in the graph; take another copy of the file")
    while wanted:
        number = made_by.get(wanted.pop())
        if number is not None and number not in needed:
            needed.add(number)
            wanted += graph.node[number].input
    nodes = [node for number, node in enumerate(graph.node) if number in needed]
    used = {name for node in nodes for name in node.input}
    for field, kept in (("node", nodes), ("initializer", [t for t in graph.initializer if t.name in used])):
        if len(kept) < len(getattr(graph, field)):
            kept = [type(part).FromString(part.SerializeToString()) for part in kept]
            del getattr(graph, field)[:]
            getattr(graph, field).extend(kept)
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return model


class OnnxNet:
    """A graph that ONNX Runtime runs: (N, C, H, W) float32 to a dict of its outputs by name.

    model: a graph, or its bytes. threads: how many it may use; all cores if None.
    """

    def __init__(self, model: ModelProto | bytes, threads: int | None = None, name: object = "onnx") -> None:
        runtime = present("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # what is wrong comes as an exception
        if threads is not None:
            options.intra_op_num_threads = threads
        content = model if isinstance(model, bytes) else model.SerializeToString()
        try:
            self.session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # each kind of its errors is a class of its own, and none has a name
            raise UsageError(
                f"{shown(name)}: ONNX Runtime {runtime.__version__} does not take it ({_first_line(problem)}); "
                "take another copy, or export it again"
            ) from None
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.input = self.session.get_inputs()[0].name

    def __call__(self, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run it once."""
        try:
            found = self.session.run(None, {self.input: x})
        except Exception as problem:
            raise RunError(
                f"onnx: the net cannot be run on {'x'.join(map(str, x.shape))} ({_first_line(problem)}); "
                "give an image of another size"
            ) from None
        return dict(zip(self.outputs, found, strict=True))


def _first_line(problem: Exception) -> str:
    return shown(str(problem).strip().split("\n")[0][:200]) or type(problem).__name__


def present(*names: str) -> Any:
    """The first of these modules, or the way to them."""
    from importlib import import_module

    try:
        with without_warnings():
            return [import_module(name) for name in names][0]  # noqa: RUF015 - all of them
    except ImportError as problem:
        raise UsageError(f"{problem.name or names[0]}: it is not installed; pip install 'fullconv[onnx]'") from None
