"""A Caffe net as plain records, whichever of Caffe's formats it was written in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.unknown_fields import UnknownFieldSet

from fullconv.errors import UsageError, shown
from fullconv.io.download.fetch import page_or_pointer
from fullconv.weights.caffe.schema import ENUMS, MESSAGES, USED, V1_TYPES

MAX_LAYERS = 10_000
"""The largest released nets have some hundred."""

SOURCES = ("Data", "DummyData", "HDF5Data", "ImageData", "Input", "MemoryData", "Python", "WindowData")
"""The layer types that need no bottom: they bring in images and labels."""

LOSSES = (
    "ContrastiveLoss", "EuclideanLoss", "HingeLoss", "InfogainLoss", "MultinomialLogisticLoss",
    "SigmoidCrossEntropyLoss",
)  # fmt: skip

SETTINGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(SOURCES, ("transform_param",)),
    **dict.fromkeys(LOSSES, ("loss_param",)),
    **dict.fromkeys(("HDF5Output", "Silence", "Split"), ()),
    **{f.message_type.name: (f.name,) for f in MESSAGES["Layer"].DESCRIPTOR.fields if f.message_type},
    "Deconvolution": ("convolution_param",),
    "SoftmaxWithLoss": ("softmax_param", "loss_param"),
}
for _other in ("Skipped", "Rule", "Transform", "Loss"):
    del SETTINGS[_other]
"""The layer types that are read, and the fields with the settings of each."""


@dataclass(frozen=True)
class Layer:
    """A layer of a net.

    Attributes:
        type: Today's name (``Convolution``), even if the file has the old numbers; any other text is kept unchanged.
        params: The settings of its type by their names in a prototxt, with Caffe's defaults filled in, None if Caffe
            has none. `kernel_size`, `stride`, `pad` and `dilation` are (height, width) however they were written; the
            kernel of a global pooling is (0, 0). Repeated settings are tuples, empty if the file has none (the
            `offset` of a Crop: Caffe uses 0, the branch on which the FCNs were made computed it).
        blobs: Its weights in the order and shape of the file, float32 (float64 for double_data): read-only views of
            the file, possibly unaligned, so copy what is to be kept. Empty in a prototxt.
        train_only: Whether no net of the test phase contains this layer.
        unknown: Settings in its own parameters that Caffe's format does not have (`pooling_param.14`, a fork's); they
            may change what it computes. Empty in a prototxt, where they are refused.
        place: Where it begins, for messages: ``line 7, column 1`` or ``offset 4711``.

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
    """The layers of a net in order, and its input blobs with their shapes, () if the file states none."""

    name: str
    layers: tuple[Layer, ...]
    inputs: tuple[tuple[str, tuple[int, ...]], ...]


def text_of(data: bytes) -> str:
    r"""Decode a string of the file; bytes that are not UTF-8 become escapes.

    >>> print(text_of(b"conv1 \xff"))
    conv1 \xff
    """
    return data.decode("utf-8", "backslashreplace")


def brief(name: object) -> str:
    """Shorten a name of the file to what fits in a one-line message."""
    return shown(str(name)[:60])


def check_file(path: Path, wanted: str, limit: int) -> None:
    """Refuse what is clearly not the `wanted` kind of file, ".prototxt" or ".caffemodel", of at most `limit` bytes."""
    try:
        if path.is_dir():
            raise UsageError(f"{path}: it is a folder; give the {wanted} file in it")
        if not path.is_file():
            raise UsageError(f"{path}: there is no such file; check the path")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4096)
    except (OSError, ValueError) as problem:
        raise unreadable(path, problem) from None
    if size > limit:
        raise UsageError(f"{path}: {size:,} bytes, and a {wanted} file has at most {limit:,}; is it the file you mean?")
    if other := page_or_pointer(head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64]):
        cure = "run git lfs pull" if "git-lfs" in other else "fetch it again (a failed download?)"
        raise UsageError(f"{path}: {other}, not a {wanted} file; {cure}")
    if head.startswith(b"\x89HDF"):
        raise UsageError(f"{path}: an HDF5 snapshot; save the net with snapshot_format: BINARYPROTO")
    # Every layer of a .caffemodel begins with a control byte that is not a tab or a line end.
    is_text = all(byte >= 32 or byte in b"\t\n\r" for byte in head)
    if is_text and wanted == ".caffemodel":
        raise UsageError(f"{path}: a text file (a prototxt?), not a .caffemodel; give the file with the weights")
    if not is_text and wanted == ".prototxt":
        raise UsageError(f"{path}: a binary file (a .caffemodel?), not a .prototxt; give the net as text")


def unreadable(path: Path, problem: Exception) -> UsageError:
    """Return the error for a file that the system does not let us read."""
    reason = getattr(problem, "strerror", None) or problem
    return UsageError(f"{path}: it cannot be read ({reason}); check the path and its permissions")


def layer_of(message: Any, where: str, place: str, blobs: tuple[np.ndarray, ...] = ()) -> Layer:
    """Build the record of a layer from its protobuf message, of today's format or the old one.

    Args:
        message: A ``Layer`` or ``V1Layer`` of `MESSAGES`.
        where: How the message of an error begins.
        place: Where the layer begins in the file.
        blobs: Its weights.

    Raises:
        UsageError: Caffe refuses the settings too (no kernel, a stride of 0).

    """
    kind, name = _type(message), text_of(message.name)
    params: dict[str, Any] = {}
    unknown: list[str] = []
    try:
        for part in SETTINGS.get(kind, ()):
            # The old format lacks some settings (those of Crop); they have their defaults then.
            given = getattr(message if hasattr(message, part) else MESSAGES["Layer"](), part)
            params |= _settings(given)
            unknown += [f"{part}.{number}" for number in _unknown(given)]
    except ValueError as problem:
        raise UsageError(f"{where}: layer '{brief(name)}': {problem}; correct it or take another copy") from None
    bottoms, tops = (tuple(map(text_of, names)) for names in (message.bottom, message.top))
    return Layer(name, kind, bottoms, tops, params, blobs, _train_only(message), tuple(unknown), place)


def inputs_of(head: Any, layers: Iterable[Layer], where: str, place: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the inputs of a net, with their shapes: those that its head names, and the tops of its Input layers.

    Raises:
        UsageError: Names and shapes do not match. `where` begins the message, `place` locates the head.

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


def _type(message: Any) -> str:
    """Return the type of a layer by today's name; empty if it has none."""
    kind = message.DESCRIPTOR.fields_by_name["type"]
    if not kind.enum_type:
        return text_of(message.type)
    if message.HasField("type"):
        return V1_TYPES[message.type][1]
    # protobuf keeps the unknown values of an enumeration as unknown fields.
    return "".join(f"V1 type {f.data}" for f in list(UnknownFieldSet(message))[-1:] if f.field_number == kind.number)


def _values(message: Any) -> dict[str, Any]:
    """Return the used fields of a message as plain values, with Caffe's defaults."""

    def plain(value: Any) -> Any:
        if described.message_type:
            return tuple(value.dim) if described.message_type.name == "BlobShape" else _values(value)
        if described.enum_type:
            return described.enum_type.values_by_number[value].name
        if isinstance(value, float):
            return float(str(np.float32(value)))  # the number as it was written, 0.0001, not its binary neighbour
        return text_of(value) if isinstance(value, bytes) else value

    values: dict[str, Any] = {}
    for name in USED[message.DESCRIPTOR.name]:
        described, value = message.DESCRIPTOR.fields_by_name[name], getattr(message, name)
        if hasattr(value, "append"):
            values[name] = tuple(map(plain, value))
        else:
            given = described.message_type or described.has_default_value or message.HasField(name)
            values[name] = plain(value) if given else None
    return values


def _settings(message: Any) -> dict[str, Any]:
    """Return the settings of one ``*_param`` as `Layer` describes them; ValueError for what Caffe refuses."""
    values = _values(message)
    for alias in ("concat_dim", "slice_dim"):
        if (axis := values.pop(alias, None)) is not None:
            values["axis"] = axis
    if message.DESCRIPTOR.name == "Scale" and not message.HasField("filler"):
        values["filler"] = {"type": "constant", "value": 1.0}
    windows = (("kernel_size", "kernel", 0), ("stride", "stride", 1), ("pad", "pad", 0), ("dilation", "dilation", 1))
    values |= {name: _pair(values, name, stem, default) for name, stem, default in windows if name in values}
    for name in ("num_output", "kernel_size", "stride", "dilation", "group", "local_size"):
        numbers = values.get(name, 1)
        global_kernel = name == "kernel_size" and values.get("global_pooling")
        if not all(numbers if isinstance(numbers, tuple) else (numbers,)) and not global_kernel:
            raise ValueError(f"{name} is missing or 0")
    return values


def _pair(values: dict[str, Any], name: str, stem: str, default: int) -> tuple[int, ...]:
    """Return a setting of a window as (height, width), from one number, one per axis, or its _h and _w."""
    given, high, wide = values[name], values.pop(f"{stem}_h", None), values.pop(f"{stem}_w", None)
    sizes = given if isinstance(given, tuple) else () if given is None else (given,)
    if (high, wide) != (None, None):
        if sizes:
            raise ValueError(f"{name} is given together with {stem}_h or {stem}_w")
        return high or 0, wide or 0
    return sizes * 2 if len(sizes) == 1 else sizes or (default, default)


def _unknown(message: Any) -> list[int]:
    """Return the numbers of the fields of a message that Caffe does not have; ValueError for a value it does not."""
    described = message.DESCRIPTOR
    found = {other.field_number: other.data for other in UnknownFieldSet(message)}
    for number in found.keys() & described.fields_by_number.keys():
        known = described.fields_by_number[number]
        if known.name in USED[described.name] and not known.enum_type:
            raise ValueError(f"{known.name} has a value of another type")
        if known.name in USED[described.name]:
            values = ", ".join(known.enum_type.values_by_name)
            raise ValueError(f"{known.name} is {brief(found[number])}, and Caffe knows {values}")
    return sorted(found.keys() - described.fields_by_number.keys())


def _train_only(message: Any) -> bool:
    """Return whether the rules of a layer keep it out of every net of the test phase, whatever its stages and levels.

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
