"""Reads .caffemodel files: a net with its weights, in protobuf's binary form.

The outer levels are walked here (`wire`), so that weights stay where they are in the file; protobuf reads what is
left of each layer, its settings.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from fullconv.errors import UsageError
from fullconv.weights.caffe.file_kind import head_of, is_text, unreadable
from fullconv.weights.caffe.net import MAX_LAYERS, Layer, Net, inputs_of, layer_of, text_of
from fullconv.weights.caffe.schema import FIELDS, MESSAGES
from fullconv.weights.caffe.wire import BYTES, Found, Wire, blob

MAX_BYTES = 2**31 - 1
"""Protobuf writes no larger file."""

LAYERS = {FIELDS["Net"]["layer"].number: "Layer", FIELDS["Net"]["layers"].number: "V1Layer"}


def read_caffemodel(path: Path) -> Net:
    """The net in a .caffemodel, with its weights.

    The file is mapped into memory, and the blobs are views of it: nothing may write into it while they are in use. Of
    the three forms that Caffe had, today's (`layer`) and the one before it (`layers`) are read. A type that is not in
    `SETTINGS` comes with its name and without params.

    Raises `UsageError` with the byte offset for a damaged file, and naming what it is for anything else.
    """
    head = head_of(path, ".caffemodel", MAX_BYTES)
    if is_text(head):
        raise UsageError(f"{path}: a text file (a prototxt?), not a .caffemodel; give the file with the weights")
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as problem:
        raise unreadable(path, problem) from None
    return _net(Wire(memoryview(data), str(path)))


def _net(wire: Wire) -> Net:
    layers: list[Layer] = []
    forms: set[str] = set()
    rest: list[slice] = []
    for found in wire.fields(0, len(wire.data)):
        form = LAYERS.get(found.number)
        if form is None:
            rest.append(wire.setting(found))
            continue
        if found.kind != BYTES:
            raise wire.wrong(found.at, f"a layer with wire type {found.kind}")
        layers.append(_layer(wire, found, form))
        forms.add(form)
        if len(layers) > MAX_LAYERS:
            raise wire.wrong(found.at, f"more than {MAX_LAYERS:,} layers")
        if len(forms) > 1:
            raise wire.wrong(found.at, "both `layer` and `layers`, and Caffe takes one of them")
    if not layers:
        raise wire.wrong(0, "no layers")
    head = _message(wire, "Net", rest)
    place = f"offset {rest[0].start if rest else 0}"
    return Net(text_of(head.name), tuple(layers), inputs_of(head, layers, wire.name, place))


def _layer(wire: Wire, layer: Found, form: str) -> Layer:
    """The layer in a field, its weights as views."""
    blobs: list[np.ndarray] = []
    rest: list[slice] = []
    for found in wire.fields(layer.start, layer.end):
        if form == "V1Layer" and found.number == FIELDS[form]["layer"].number:
            raise UsageError(
                f"{wire.name}: offset {found.at}: a layer in Caffe's oldest form (V0); "
                "bring the file up to date with Caffe's upgrade_net_proto_binary"
            )
        if found.number != FIELDS[form]["blobs"].number:
            rest.append(wire.setting(found))
        elif found.kind == BYTES:
            blobs.append(blob(wire, found.start, found.end))
        else:
            raise wire.wrong(found.at, f"a blob with wire type {found.kind}")
    place = f"offset {layer.at}"
    return layer_of(_message(wire, form, rest), f"{wire.name}: {place}", place, tuple(blobs))


def _message(wire: Wire, kind: str, parts: list[slice]) -> Any:
    """The protobuf message that these fields are."""
    try:
        return MESSAGES[kind].FromString(b"".join(wire.data[part] for part in parts))
    except DecodeError:
        raise wire.wrong(parts[0].start, f"no {kind} that protobuf can read") from None
