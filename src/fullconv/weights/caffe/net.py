"""A Caffe net as plain records, whichever of Caffe's forms it was written in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.unknown_fields import UnknownFieldSet

from fullconv.errors import UsageError, shown
from fullconv.weights.caffe.schema import ENUMS, FIELDS, MESSAGES, V1_TYPES, Field

MAX_LAYERS = 10_000
"""The largest nets that were released have some hundred."""

SOURCES = ("Data", "DummyData", "HDF5Data", "ImageData", "Input", "MemoryData", "Python", "WindowData")
"""The types that need no bottom: they bring images and labels in."""

LOSSES = (
    "ContrastiveLoss", "EuclideanLoss", "HingeLoss", "InfogainLoss", "MultinomialLogisticLoss",
    "SigmoidCrossEntropyLoss",
)  # fmt: skip

SETTINGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(SOURCES, ("transform_param",)),
    **dict.fromkeys(LOSSES, ("loss_param",)),
    "Accuracy": ("accuracy_param",),
    "BatchNorm": ("batch_norm_param",),
    "Bias": ("bias_param",),
    "Concat": ("concat_param",),
    "Convolution": ("convolution_param",),
    "Crop": ("crop_param",),
    "Deconvolution": ("convolution_param",),
    "Dropout": ("dropout_param",),
    "Eltwise": ("eltwise_param",),
    "Flatten": ("flatten_param",),
    "HDF5Output": (),
    "InnerProduct": ("inner_product_param",),
    "Input": ("input_param",),
    "LRN": ("lrn_param",),
    "Pooling": ("pooling_param",),
    "Power": ("power_param",),
    "Python": ("python_param",),
    "ReLU": ("relu_param",),
    "Scale": ("scale_param",),
    "Silence": (),
    "Slice": ("slice_param",),
    "Softmax": ("softmax_param",),
    "SoftmaxWithLoss": ("softmax_param", "loss_param"),
    "Split": (),
}
"""The layer types that are read, and where each keeps its settings."""


@dataclass(frozen=True)
class Layer:
    """One layer of a net.

    type: today's name (``Convolution``), also where the file has the old numbers; any other text stays as it is.
    params: the settings of its type by the prototxt's names, with Caffe's defaults filled in, None where Caffe has
        none. `kernel_size`, `stride`, `pad` and `dilation` are (height, width) however they were written; the kernel
        is (0, 0) where the pooling is global. Repeated settings are tuples, empty where the file has none (the
        `offset` of a Crop: Caffe takes 0 there, the branch on which the FCNs were made computed it).
    blobs: its weights in the order and shape of the file, float32 (float64 for double_data): read-only views of the
        file that may lie at odd addresses, so copy what is to be kept. () in a prototxt.
    train_only: no net of the test phase has this layer.
    unknown: settings in its own parameters that Caffe's format does not have (`pooling_param.14`, a fork's); they
        may change what it computes. Empty in a prototxt, where they are refused.
    place: where it begins, for messages: ``line 7, column 1`` or ``offset 4711``.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: Mapping[str, Any]
    blobs: tuple[np.ndarray, ...] = field(default=(), compare=False)
    train_only: bool = False
    unknown: tuple[str, ...] = ()
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class Net:
    """The layers of a net in their order, and the blobs that are given to it with their shapes (() where unsaid)."""

    name: str
    layers: tuple[Layer, ...]
    inputs: tuple[tuple[str, tuple[int, ...]], ...]


def text_of(data: bytes) -> str:
    r"""A string of the file; bytes that are no UTF-8 as escapes.

    >>> print(text_of(b"conv1 \xff"))
    conv1 \xff
    """
    return data.decode("utf-8", "backslashreplace")


def brief(name: object) -> str:
    """A name of the file as it stands in messages: in one line, and not a long one."""
    return shown(str(name)[:60])


def layer_of(message: Any, where: str, place: str, blobs: tuple[np.ndarray, ...] = ()) -> Layer:
    """The record of a layer from its protobuf message, of today's form or the old one.

    `where` begins the message of the `UsageError` for settings that Caffe refuses too (no kernel, a stride of 0).
    """
    fields = FIELDS[message.DESCRIPTOR.name]
    old = fields["type"].kind == "LayerType"
    if old:
        kind = V1_TYPES[message.type][1] if message.type in V1_TYPES else f"V1 type {message.type}"
        kind = kind if message.HasField("type") else ""
    else:
        kind = text_of(message.type)
    name = text_of(message.name)
    params: dict[str, Any] = {}
    unknown: list[str] = []
    try:
        for part in SETTINGS.get(kind, ()):
            # The old form has no place for some settings (of Crop): their defaults then.
            given = getattr(message, part) if part in fields else MESSAGES[FIELDS["Layer"][part].kind]()
            params |= _settings(given)
            unknown += [f"{part}.{number}" for number in _unknown(given)]
    except ValueError as problem:
        raise UsageError(f"{where}: layer '{brief(name)}': {problem}; correct it or take another copy") from None
    bottoms, tops = (tuple(map(text_of, names)) for names in (message.bottom, message.top))
    return Layer(name, kind, bottoms, tops, params, blobs, _train_only(message), tuple(unknown), place)


def inputs_of(head: Any, layers: Iterable[Layer], where: str, place: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The blobs that are given to a net: those that its head names, at a `place`, and the tops of its Input layers.

    Raises `UsageError`, which begins with `where`, when names and shapes do not fit each other.
    """
    names = [text_of(name) for name in head.input]
    shapes = [tuple(shape.dim) for shape in head.input_shape]
    shapes = shapes or [tuple(head.input_dim[i : i + 4]) for i in range(0, len(head.input_dim), 4)]
    shapes = shapes or [()] * len(names)
    if len(shapes) != len(names) or any(len(shape) != 4 for shape in shapes if head.input_dim):
        raise UsageError(
            f"{where}: {place}: {len(names)} inputs do not fit their shapes; give one shape or four input_dim each"
        )
    found = list(zip(names, shapes, strict=True))
    for layer in layers:
        if layer.type == "Input" and not layer.train_only:
            given = layer.params["shape"] or ((),)
            if len(given) not in (1, len(layer.tops)):
                what = f"layer '{brief(layer.name)}': {len(given)} shapes for {len(layer.tops)} tops"
                raise UsageError(f"{where}: {layer.place}: {what}; give one shape, or one for each")
            found += zip(layer.tops, given if len(given) > 1 else given * len(layer.tops), strict=True)
    return tuple(found)


def _value(field: Field, value: Any) -> Any:
    """A value of a message as a plain one."""
    if field.kind == "BlobShape":
        return tuple(value.dim)
    if field.kind in FIELDS:
        return {inner.name: _setting(value, inner) for inner in FIELDS[field.kind].values() if inner.kind != "-"}
    if field.kind == "string":
        return text_of(value)
    if field.kind == "float":
        return float(str(np.float32(value)))  # the number as it was written, 0.0001, and not its binary neighbour
    if field.kind in ENUMS:
        names = {number: name for name, number in ENUMS[field.kind].items()}
        if value not in names:
            raise ValueError(f"{field.name} is {value}, and Caffe knows {', '.join(ENUMS[field.kind])}")
        return names[value]
    return value


def _default(field: Field) -> Any:
    if field.default is None or field.kind in ENUMS or field.kind == "string":
        return field.default
    if field.kind == "bool":
        return field.default == "true"
    return float(field.default) if field.kind == "float" else int(field.default)


def _setting(message: Any, field: Field) -> Any:
    value = getattr(message, field.name)
    if field.repeated:
        return tuple(_value(field, item) for item in value)
    # Settings within settings are never missing: those of a filler all have defaults.
    return _value(field, value) if field.kind in FIELDS or message.HasField(field.name) else _default(field)


def _settings(message: Any) -> dict[str, Any]:
    """All settings of one ``*_param``, in the forms that `Layer` promises; ValueError for what Caffe refuses."""
    kind = message.DESCRIPTOR.name
    values = {f.name: _setting(message, f) for f in FIELDS[kind].values() if f.kind != "-"}
    for alias in ("concat_dim", "slice_dim"):
        if (axis := values.pop(alias, None)) is not None:
            values["axis"] = axis
    if kind == "Scale" and not message.HasField("filler"):
        values["filler"] = {"type": "constant", "value": 1.0}
    if kind in ("Convolution", "Pooling"):
        values["kernel_size"] = _pair(values, "kernel_size", "kernel", 0)
        values["stride"] = _pair(values, "stride", "stride", 1)
        values["pad"] = _pair(values, "pad", "pad", 0)
    if kind == "Convolution":
        values["dilation"] = _pair(values, "dilation", "dilation", 1)
    for name in ("num_output", "kernel_size", "stride", "dilation", "group", "local_size"):
        numbers = values.get(name, 1)
        whole_map = name == "kernel_size" and values.get("global_pooling")
        if not all(numbers if isinstance(numbers, tuple) else (numbers,)) and not whole_map:
            raise ValueError(f"{name} is missing or 0")
    return values


def _pair(values: dict[str, Any], name: str, stem: str, default: int) -> tuple[int, ...]:
    """The (height, width) of a window's setting, from one number, one per axis, or the _h and _w of 2-D layers."""
    given, high, wide = values[name], values.pop(f"{stem}_h", None), values.pop(f"{stem}_w", None)
    sizes = given if isinstance(given, tuple) else () if given is None else (given,)
    if (high, wide) != (None, None):
        if sizes:
            raise ValueError(f"{name} is given together with {stem}_h or {stem}_w")
        return high or 0, wide or 0
    return sizes * 2 if len(sizes) == 1 else sizes or (default, default)


def _unknown(message: Any) -> list[int]:
    """The numbers of the settings in a message that caffe.proto does not have."""
    known = {field.number for field in FIELDS[message.DESCRIPTOR.name].values()}
    return sorted({found.field_number for found in UnknownFieldSet(message)} - known)


def _train_only(message: Any) -> bool:
    """Whether the rules of a layer keep it out of every net of the test phase, whatever its stages and levels.

    Its own `phase` says nothing: Caffe sets it in every layer of a trained net.
    """
    test = ENUMS["Phase"]["TEST"]
    if message.include:
        return all(rule.HasField("phase") and rule.phase != test for rule in message.include)
    return any(
        (rule.phase == test if rule.HasField("phase") else True)
        and not (rule.stage or rule.not_stage or rule.HasField("min_level") or rule.HasField("max_level"))
        for rule in message.exclude
    )
