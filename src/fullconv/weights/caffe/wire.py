"""The bytes of a protobuf file, walked in place: where each field lies, and the weights as views.

protobuf itself would copy every weight into lists of its own. Here every length is checked against the file before
anything is read, nothing is nested by the file's own will, and what is found has an offset for messages.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fullconv.errors import UsageError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

MAX_FIELDS = 100_000
"""Fields of the net, its layers and their blobs: a layer has some ten."""

MAX_BLOBS = 20_000
MAX_SETTINGS = 2**20
"""Bytes of everything but weights: a layer has some hundred, and they become Python objects."""

MAX_AXES = 32
MAX_VALUES = 2**31 - 1
"""Caffe's own limit (kMaxBlobAxes is that of the axes)."""


class Found(NamedTuple):
    """A field: its number, its wire type, where its tag begins, and where its content begins and ends.

    `value` is the number itself for the wire type `VARINT`, else 0.
    """

    number: int
    kind: int
    at: int
    start: int
    end: int
    value: int


class Wire:
    """A protobuf file in memory, with the name that stands in messages and the count of what was walked so far."""

    def __init__(self, data: memoryview, name: str) -> None:
        self.data, self.name = data, name
        self.fields_seen = self.blobs_seen = self.settings_seen = 0

    def wrong(self, at: int, what: str) -> UsageError:
        """The error for what was found at an offset."""
        return UsageError(f"{self.name}: offset {at}: {what}; the file is damaged or no .caffemodel, take another copy")

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The number at an offset, as unsigned 64 bits, and the offset behind it."""
        if at < end and (value := self.data[at]) < 128:
            return value, at + 1
        value = 0
        for count in range(10):
            if at + count >= end:
                raise self.wrong(at, "the bytes end within a number")
            byte = self.data[at + count]
            value |= (byte & 127) << (7 * count)
            if byte < 128:
                return value & (2**64 - 1), at + count + 1
        raise self.wrong(at, "a number of more than 10 bytes")

    def field(self, at: int, end: int) -> Found:
        """The field whose tag is at an offset."""
        self.fields_seen += 1
        if self.fields_seen > MAX_FIELDS:
            raise self.wrong(at, f"more than {MAX_FIELDS:,} fields")
        tag, start = self.varint(at, end)
        number, kind = tag >> 3, tag & 7
        value = 0
        if not 1 <= number < 2**29:
            raise self.wrong(at, f"a field of number {number}")
        if kind == VARINT:
            value, stop = self.varint(start, end)
        elif kind == BYTES:
            length, start = self.varint(start, end)
            stop = start + length
        elif kind in (FIXED64, FIXED32):
            stop = start + (8 if kind == FIXED64 else 4)
        else:  # groups (3, 4) went out of use before Caffe was written
            raise self.wrong(at, f"wire type {kind}, which Caffe's files do not have")
        if stop > end:
            raise self.wrong(at, f"field {number} wants {stop - start:,} bytes and {end - start:,} are left")
        return Found(number, kind, at, start, stop, value)

    def setting(self, found: Found) -> slice:
        """Where a field lies that protobuf is to read, which it may up to `MAX_SETTINGS` bytes of a file."""
        self.settings_seen += found.end - found.at
        if self.settings_seen > MAX_SETTINGS:
            raise self.wrong(found.at, f"more than {MAX_SETTINGS:,} bytes of settings")
        return slice(found.at, found.end)

    def fields(self, at: int, end: int) -> Iterator[Found]:
        """The fields of a message that lies between two offsets."""
        while at < end:
            found = self.field(at, end)
            yield found
            at = found.end


def blob(wire: Wire, start: int, end: int) -> np.ndarray:
    """The BlobProto between two offsets, in the shape that it states (a BlobShape, or num, channels, height, width).

    Packed values are a read-only view of the file; unpacked ones are copied once. `double_data` wins over `data`, as
    in Caffe. Raises `UsageError` where shape and values do not fit each other.
    """
    wire.blobs_seen += 1
    if wire.blobs_seen > MAX_BLOBS:
        raise wire.wrong(start, f"more than {MAX_BLOBS:,} blobs")
    pieces: dict[int, list[np.ndarray]] = {5: [], 8: []}
    shape: list[int] = []
    legacy = {1: 0, 2: 0, 3: 0, 4: 0}
    has_legacy, at = False, start
    while at < end:
        found = wire.field(at, end)
        if found.number in (5, 6, 8, 9):  # data, diff, double_data, double_diff
            piece, at = _piece(wire, found, end, 4 if found.number in (5, 6) else 8)
            if found.number in pieces and len(piece):
                pieces[found.number].append(piece)
            continue
        if found.number == 7 and found.kind == BYTES:
            shape += _dims(wire, found)
        elif found.number in legacy and found.kind == VARINT:
            legacy[found.number] = _signed(found.value)
            has_legacy = True
        elif found.number <= 9:
            raise wire.wrong(found.at, f"field {found.number} of a blob with wire type {found.kind}")
        at = found.end
    dims = tuple(legacy.values()) if has_legacy else tuple(shape)
    # Little endian, as protobuf writes numbers: float32 and float64 themselves on all but rare machines.
    values = _joined(pieces[8], "<f8") if pieces[8] else _joined(pieces[5], "<f4")
    return _shaped(wire, start, values, dims)


def _piece(wire: Wire, found: Found, end: int, width: int) -> tuple[np.ndarray, int]:
    """Values as bytes (count, width): a packed field, or the run of equal tags that begins here; and what follows."""
    if found.kind == BYTES:
        length = found.end - found.start
        if length % width:
            raise wire.wrong(found.at, f"{length:,} bytes of values that take {width} bytes each")
        return _raw(wire, found.start, found.end).reshape(-1, width), found.end
    if found.kind != (FIXED32 if width == 4 else FIXED64):
        raise wire.wrong(found.at, f"field {found.number} of a blob with wire type {found.kind}")
    if found.start != found.at + 1:  # a tag that is longer than it need be: no run of it
        return _raw(wire, found.start, found.end).reshape(1, width), found.end
    step = width + 1
    count = _run(wire, found.at, (end - found.at) // step, step)
    stop = found.at + count * step
    return _raw(wire, found.at, stop).reshape(count, step)[:, 1:], stop


def _run(wire: Wire, at: int, most: int, step: int) -> int:
    """How many tags, `step` bytes from each other, are equal to the one at an offset, which counts; `most` fit in."""
    count, ask = 1, 16
    while count < most:
        ask = min(2 * ask, most - count)  # twice as many each time: short runs are cheap, and long ones fast
        equal = _raw(wire, at + count * step, at + (count + ask) * step)[::step] == wire.data[at]
        if not equal.all():
            return count + int(equal.argmin())
        count += ask
    return count


def _raw(wire: Wire, start: int, end: int) -> np.ndarray:
    return np.frombuffer(wire.data, np.uint8, end - start, start)


def _joined(pieces: list[np.ndarray], kind: str) -> np.ndarray:
    """The pieces of a blob's values as one array, without a copy where they lie in one place already."""
    if len(pieces) == 1 and pieces[0].flags.c_contiguous:
        return pieces[0].reshape(-1).view(kind)
    width = np.dtype(kind).itemsize
    joined = np.empty((sum(map(len, pieces)), width), np.uint8)
    at = 0
    for piece in pieces:
        joined[at : at + len(piece)] = piece
        at += len(piece)
    return joined.reshape(-1).view(kind)


def _dims(wire: Wire, shape: Found) -> list[int]:
    """The dims of a BlobShape, packed or not."""
    dims: list[int] = []
    for found in wire.fields(shape.start, shape.end):
        if found.number != 1:
            continue
        if found.kind not in (VARINT, BYTES):
            raise wire.wrong(found.at, f"a dim with wire type {found.kind}")
        at, value = found.start, found.value
        while at < found.end:
            value, at = wire.varint(at, found.end)
            dims.append(_signed(value))
            if len(dims) > MAX_AXES:
                raise wire.wrong(found.at, f"a blob of more than {MAX_AXES} axes")
    return dims


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _shaped(wire: Wire, at: int, values: np.ndarray, dims: tuple[int, ...]) -> np.ndarray:
    if any(dim < 0 for dim in dims):
        raise wire.wrong(at, f"a blob of shape {dims}")
    if math.prod(dim for dim in dims if dim) > MAX_VALUES:
        raise wire.wrong(at, f"a blob of shape {dims}, more than {MAX_VALUES:,} values")
    if math.prod(dims) != len(values):
        raise wire.wrong(at, f"a blob of shape {dims} and {len(values):,} values")
    return values.reshape(dims)
