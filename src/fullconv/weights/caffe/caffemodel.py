"""Reads .caffemodel files: a net with its weights, in protobuf's binary format.

protobuf parses everything but the weights. Parsed by protobuf, weights take memory three times: the file, the message
and the array. So the fields of the net, its layers and their blobs are walked here, weights become views of the
mapped file, and protobuf receives the rest, of which `LIMITS` bounds the size: a message takes many times the memory
of its bytes.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from fullconv.errors import UsageError
from fullconv.weights.caffe.net import (
    MAX_LAYERS,
    Net,
    check_file,
    inputs_of,
    layer_of,
    text_of,
    unreadable,
)
from fullconv.weights.caffe.schema import MESSAGES

MAX_BYTES = 2**31 - 1
"""protobuf writes no larger file."""

LIMITS = {"fields": 100_000, "layers": MAX_LAYERS, "blobs": 20_000, "bytes of settings": 2**20}
"""Bounds of what becomes Python objects; a layer has some ten fields, two blobs and a hundred bytes of settings."""

MAX_AXES, MAX_VALUES = 32, 2**31 - 1
"""Caffe's own bounds of a blob."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""protobuf's wire types; groups (3, 4) went out of use before Caffe was written."""

FORMATS = {100: "Layer", 2: "V1Layer"}
WALKED = {
    "Net": {100: "layers", 2: "layers"},
    "Layer": {7: "blobs"},
    "V1Layer": {6: "blobs", 1: "a V0 layer"},
    "Blob": {5: "<f4", 6: "<f4", 8: "<f8", 9: "<f8"},  # data, diff, double_data, double_diff
}
"""The fields of each message that protobuf does not parse: what they are, for numbers their type."""


def read_caffemodel(path: Path) -> Net:
    """Read the net in a .caffemodel, with its weights.

    The file is mapped into memory, and the blobs are views of it: nothing may write into it while they are in use.
    Two of Caffe's three formats are read, today's (`layer`) and the one before it (`layers`). A layer whose type is
    not in `SETTINGS` has no params.

    Raises:
        UsageError: The file is damaged (the message states the byte offset) or is not a .caffemodel.

    """
    file = _File(path)
    layers = [layer_of(message, f"{path}: offset {at}", f"offset {at}", blobs) for message, blobs, at in file.layers()]
    return Net(text_of(file.head.name), tuple(layers), inputs_of(file.head, layers, str(path), "offset 0"))


def read_blobs(path: Path) -> dict[str, tuple[np.ndarray, ...]]:
    """Read the weights alone, by the names of their layers, which need no type and no settings.

    Raises:
        UsageError: As `read_caffemodel`.

    """
    return {text_of(message.name): blobs for message, blobs, _ in _File(path).layers() if blobs}


class _Field(NamedTuple):
    """A field in the file, or a run of equal ones: where its tag and its content begin, and where it ends."""

    number: int
    wire_type: int
    at: int
    start: int
    end: int


class _File:
    def __init__(self, path: Path) -> None:
        check_file(path, ".caffemodel", MAX_BYTES)
        try:
            with path.open("rb") as file:
                self.data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as problem:
            raise unreadable(path, problem) from None
        self.path, self.bytes = path, np.frombuffer(self.data, np.uint8)
        self.head: Any = None
        self.counts, self.window = dict.fromkeys(LIMITS, 0), 16

    def wrong(self, at: int, what: str) -> UsageError:
        return UsageError(f"{self.path}: offset {at}: {what}; the file is damaged or no .caffemodel, take another copy")

    def count(self, at: int, what: str, more: int = 1) -> None:
        self.counts[what] += more
        if self.counts[what] > LIMITS[what]:
            raise self.wrong(at, f"more than {LIMITS[what]:,} {what}")

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the number at an offset, and the offset behind it."""
        value = 0
        for place, byte in enumerate(self.data[at : min(at + 10, end)]):
            value |= (byte & 127) << 7 * place
            if byte < 128:
                return value & (2**64 - 1), at + place + 1
        raise self.wrong(at, "a number of more than 10 bytes" if at + 10 <= end else "the bytes end within a number")

    def field(self, at: int, end: int) -> _Field:
        self.count(at, "fields")
        tag, start = self.varint(at, end)
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number < 2**29:
            raise self.wrong(at, f"a field of number {number}")
        size = {FIXED64: 8, FIXED32: 4}.get(wire_type, 0)
        if wire_type == VARINT:
            size = self.varint(start, end)[1] - start
        elif wire_type == BYTES:
            size, start = self.varint(start, end)
        elif not size:
            raise self.wrong(at, f"wire type {wire_type}, which Caffe's files do not have")
        if start + size > end:
            raise self.wrong(at, f"field {number} wants {size:,} bytes and {end - start:,} are left")
        return _Field(number, wire_type, at, start, start + size)

    def parse(self, kind: str, start: int, end: int) -> tuple[Any, list[_Field]]:
        """Parse the message between two offsets, but for the fields in `WALKED`, which are returned."""
        fields: list[_Field] = []
        rest: list[memoryview] = []
        at = start
        while at < end:
            field = self.field(at, end)
            walked = WALKED[kind].get(field.number)
            if walked is None:
                self.count(at, "bytes of settings", field.end - at)
                rest.append(self.data[at : field.end])
            elif field.wire_type == BYTES or (walked, field.wire_type) in (("<f4", FIXED32), ("<f8", FIXED64)):
                if walked in LIMITS:
                    self.count(at, walked)
                fields.append(field := self.run(field, end))
            else:
                raise self.wrong(at, f"field {field.number} of a {kind} with wire type {field.wire_type}")
            at = field.end
        try:
            return MESSAGES[kind].FromString(b"".join(rest)), fields
        except DecodeError:
            raise self.wrong(start, f"no {kind} that protobuf can read") from None

    def run(self, field: _Field, end: int) -> _Field:
        """Extend an unpacked number by those behind it, looking ahead twice as far while there is no other field."""
        if field.wire_type == BYTES or field.start != field.at + 1:
            return field
        step = field.end - field.at
        tags = self.bytes[field.at : field.at + step * min((end - field.at) // step, self.window) : step]
        count = int(np.argmin(np.append(tags == tags[0], False)))
        self.window = 2 * self.window if count == self.window else 16
        return field._replace(end=field.at + step * count)

    def layers(self) -> Iterator[tuple[Any, tuple[np.ndarray, ...], int]]:
        """Yield the message, the blobs and the offset of every layer; set `head` to the message of the net."""
        self.head, fields = self.parse("Net", 0, len(self.data))
        if not fields:
            raise self.wrong(0, "no layers")
        for field in fields:
            if field.number != fields[0].number:
                raise self.wrong(field.at, "both `layer` and `layers`, and Caffe takes one of them")
            message, blobs = self.parse(FORMATS[field.number], field.start, field.end)
            for blob in blobs:
                if blob.number == 1:
                    raise UsageError(
                        f"{self.path}: offset {blob.at}: a layer in Caffe's oldest format (V0); "
                        "bring the file up to date with Caffe's upgrade_net_proto_binary"
                    )
            yield message, tuple(self.blob(blob.start, blob.end) for blob in blobs), field.at

    def blob(self, start: int, end: int) -> np.ndarray:
        """Return a blob in the shape that it states.

        Packed values are a read-only view of the file; others are copied once. `double_data` wins over `data`, and a
        shape of num, channels, height and width over a BlobShape, as in Caffe.
        """
        message, fields = self.parse("Blob", start, end)
        for part in (message, message.shape):
            for other in UnknownFieldSet(part):  # where protobuf puts known fields of a wrong wire type
                if known := part.DESCRIPTOR.fields_by_number.get(other.field_number):
                    raise self.wrong(start, f"{known.full_name[6:]} with wire type {other.wire_type}")
        pieces = {number: [self.values(f) for f in fields if f.number == number] for number in WALKED["Blob"]}
        number = 8 if any(map(len, pieces[8])) else 5
        parts = [piece for piece in pieces[number] if len(piece)] or [np.empty((0, 8), np.uint8)]
        values = (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(-1).view(WALKED["Blob"][number])
        legacy = {name: getattr(message, name) for name in ("num", "channels", "height", "width")}
        dims = tuple(legacy.values() if any(map(message.HasField, legacy)) else message.shape.dim)
        if len(dims) > MAX_AXES:
            raise self.wrong(start, f"a blob of more than {MAX_AXES} axes")
        if math.prod(dim for dim in dims if dim) > MAX_VALUES:
            raise self.wrong(start, f"a blob of shape {dims}, more than {MAX_VALUES:,} values")
        if min(dims, default=0) < 0 or math.prod(dims) != len(values):
            raise self.wrong(start, f"a blob of shape {dims} and {len(values):,} values")
        return values.reshape(dims)

    def values(self, field: _Field) -> np.ndarray:
        """Return the bytes of values, one row each."""
        width = int(WALKED["Blob"][field.number][2:])
        if field.wire_type != BYTES:
            tag = field.start - field.at
            return self.bytes[field.at : field.end].reshape(-1, tag + width)[:, tag:]
        if (length := field.end - field.start) % width:
            raise self.wrong(field.at, f"{length:,} bytes of values that take {width} bytes each")
        return self.bytes[field.start : field.end].reshape(-1, width)
