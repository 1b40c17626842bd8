"""State dicts in PyTorch's own files (``.pth``, ``.pt``), read without running anything that is in them.

Such a file is a pickle, and a pickle is a program. Three things stand between it and us. Its instructions are listed
first, without executing them: a state dict needs a handful of names, and a file with any other is refused by that
name. A zip archive must be as ``torch.save`` writes it: nothing compressed, nothing overlapping, every CRC-32 right
(PyTorch does not look at them). Only then ``torch.load`` reads it, with ``weights_only=True``, and never otherwise.

PyTorch's format before 1.6 (five pickles and the bytes of the tensors, no archive) is read too, because published
weights are still in it, the oldest of torchvision among them (pytorch/vision, issue 2068). The same list guards it, and
the same reader; but it has no checksums, so damage to its numbers can be found by that of the whole file only.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from fullconv.errors import UsageError, shown
from fullconv.warnings import without_warnings
from fullconv.weights.pretrained import other_than_weights

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net")
"""The keys under which training programs keep the state dict, beside their epoch and optimizer."""

NAMES = re.compile(
    r"collections OrderedDict|torch Size|torch device|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch \w+Storage|torch\.storage (Untyped|Typed)Storage"
    r"|torch (bool|bfloat16|u?int\d+|(float|complex)\d\w*)"
)
"""All that a state dict names in its pickle: the shell of a dict, of tensors, and their types."""

BEFORE_1_6 = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of a file from before PyTorch 1.6: its magic number."""

MOST_PARTS = 20_000
MOST_INSTRUCTIONS = 1 << 24
MOST_DEPTH = 500
MOST_VALUES = 10**7
"""Bounds that no state dict comes near: parts of an archive (one per tensor), bytes of its pickle, values within
values, and values in all where one that is used twice counts twice.
"""

SAVE_AGAIN = "where you trust it, load it and save its state dict alone: torch.save(model.state_dict(), FILE)"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file by name: on the CPU, contiguous, each with memory of its own.

    The file holds a state dict, or a dict with one under a key of `WRAPPERS`; the ``module.`` that DataParallel
    puts before every name is taken off. Raises `UsageError`, naming the file first, for anything else: other objects
    (they would run code), TorchScript, an archive that is damaged, compressed or cut off, an HTML page.
    """
    try:
        if not path.exists():
            raise UsageError(f"{path}: there is no such file; check the path")
        if not path.is_file():
            raise UsageError(f"{path}: it is not a file; give the .pth file itself")
        with path.open("rb") as file, without_warnings():
            size = file.seek(0, io.SEEK_END)
            _check(path, file, size)
            file.seek(0)
            content = _load(path, file)
    except OSError as problem:
        raise UsageError(f"{path}: it cannot be read ({problem.strerror or problem}); check it") from None
    return _own_tensors(path, _state_dict(path, content), size)


def _check(path: Path, file: BinaryIO, size: int) -> None:
    """Refuse what PyTorch must not be given: everything but a sound file of tensors and plain values."""
    file.seek(0)
    head = file.read(512)
    if instead := other_than_weights(head[:64]):
        way_out = "run git lfs pull" if "git-lfs" in instead else "fetch it again (a failed download?)"
        raise UsageError(f"{path}: {instead}, not weights; {way_out}")
    if head.startswith(b"PK\x03\x04"):
        _list_instructions(path, io.BytesIO(_check_archive(path, file, size)))
    elif head.startswith(BEFORE_1_6):
        file.seek(0)
        start = io.BytesIO(file.read(MOST_INSTRUCTIONS))
        for _ in range(5):  # magic number, version, the writer's machine, the state dict, the order of its storages
            _list_instructions(path, start)
    elif head[257:262] == b"ustar":
        raise UsageError(f"{path}: a tar archive of PyTorch 0.1, reading it would run code; {SAVE_AGAIN}")
    elif head.startswith(b"\x80"):
        raise UsageError(f"{path}: a pickle that torch.save did not write, reading it would run code; {SAVE_AGAIN}")
    else:
        raise UsageError(f"{path}: not a file of torch.save; give a .pth or .pt file of a state dict")


def _damaged(path: Path, what: str) -> UsageError:
    return UsageError(f"{path}: {what}; the file was damaged or cut off, take another copy")


def _short(words: object) -> str:
    """Words out of the file, as they fit in a line."""
    line = shown(words)
    return line if len(line) <= 100 else line[:99] + "…"


# The pickle: its instructions, listed and not executed.


def _list_instructions(path: Path, stream: BinaryIO) -> None:
    """Go to the end of one pickle; refuse it at the first name that no state dict needs, or where its values grow out
    of all bounds (a key that is 10^6 tuples deep ends the process that hashes it).
    """
    stack: list[_Extent] = []
    marks: list[int] = []
    memo: dict[Any, _Extent] = {}
    try:
        for instruction, argument, _ in pickletools.genops(stream):
            _refuse_programs(path, instruction.name, argument)
            extent = _consume(instruction, stack, marks)
            if "GET" in instruction.name:
                extent = memo[argument]
            if instruction.name == "MARK":
                marks.append(len(stack))
            else:
                stack.extend([extent] * len(instruction.stack_after))
            if "PUT" in instruction.name:
                memo[argument] = stack[-1]
            if extent.depth > MOST_DEPTH or extent.values > MOST_VALUES:
                raise UsageError(f"{path}: its pickle is nested deeper than a state dict; do not use this file")
    except (ValueError, IndexError, KeyError) as problem:
        raise _damaged(path, f"its pickle ends too early or has no sense ({_short(problem)})") from None


class _Extent(NamedTuple):
    """How deep a value is nested, and how many values are in it."""

    depth: int
    values: int


def _consume(instruction: pickletools.OpcodeInfo, stack: list[_Extent], marks: list[int]) -> _Extent:
    """Take from the stack what the instruction takes; the extent of what it makes of that."""
    before = instruction.stack_before
    if pickletools.markobject in before:
        first = marks.pop() - before.index(pickletools.markobject)
    else:
        first = len(stack) - len(before)
    if first < 0:
        raise ValueError(f"{instruction.name} without its values")
    used = stack[first:]
    del stack[first:]
    return _Extent(1 + max((part.depth for part in used), default=0), 1 + sum(part.values for part in used))


def _refuse_programs(path: Path, instruction: str, argument: object) -> None:
    if instruction == "GLOBAL" and not NAMES.fullmatch(str(argument)):
        name = _short(str(argument).replace(" ", "."))
        raise UsageError(
            f"{path}: a whole pickled module or other objects, not a state dict (it names '{name}'), reading it would "
            f"run code; {SAVE_AGAIN}"
        )
    if instruction in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
        raise UsageError(
            f"{path}: a pickle of another protocol than torch.save's (it has {instruction}), reading it could run "
            f"code; {SAVE_AGAIN}"
        )


# The archive: as torch.save writes it, or not at all.


def _check_archive(path: Path, file: BinaryIO, size: int) -> bytes:
    """The pickle of a zip archive that is sound: bounded, nothing compressed or overlapping, every CRC-32 right."""
    count, start = _directory(path, file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            root = parts[0].filename.partition("/")[0] if parts else ""
            names = {part.filename for part in parts}
            if f"{root}/constants.pkl" in names:
                raise UsageError(f"{path}: a TorchScript program, not a state dict; {SAVE_AGAIN}")
            if f"{root}/data.pkl" not in names:
                raise UsageError(f"{path}: a zip archive, but not one of torch.save; give the .pth file itself")
            if len(parts) != count or len({name.casefold() for name in names}) != count:
                raise _damaged(path, "its archive lists a part twice, or not at all")
            _check_layout(path, file, parts, start)
            for part in parts:
                with archive.open(part) as content:
                    while content.read(1 << 20):  # at its end the CRC-32 is compared
                        pass
            pickled = archive.getinfo(f"{root}/data.pkl")
            if pickled.file_size > MOST_INSTRUCTIONS:
                raise UsageError(f"{path}: its pickle has {pickled.file_size:,} bytes, more than a state dict needs")
            return archive.read(pickled)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, struct.error) as problem:
        raise _damaged(path, f"its archive is not sound ({_short(problem)})") from None


def _directory(path: Path, file: BinaryIO, size: int) -> tuple[int, int]:
    """How many parts the archive has, and where the list of them starts.

    It must end the file without a gap, so that every reader of zip files finds the same list. (The records are in
    APPNOTE.TXT of PKWARE, sections 4.3.14 to 4.3.16; torch.save writes the 64-bit ones.)
    """
    file.seek(max(0, size - 98))
    tail = file.read(98)
    if tail[-22:-18] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
        raise _damaged(path, "its archive has no end")
    count, length, start = struct.unpack("<HII", tail[-12:-2])
    stop = size - 22
    if tail[-42:-38] == b"PK\x06\x07":
        stop = size - 98
        if tail[:4] != b"PK\x06\x06" or struct.unpack("<Q", tail[-34:-26]) != (stop,):
            raise _damaged(path, "its archive has no end")
        count, length, start = struct.unpack("<QQQ", tail[32:56])
    if start + length != stop:
        raise _damaged(path, "its archive has a gap")
    if count > MOST_PARTS or length > MOST_INSTRUCTIONS:
        raise UsageError(
            f"{path}: its archive has {count:,} parts, more than a state dict; give a .pth file of weights"
        )
    return count, start


def _check_layout(path: Path, file: BinaryIO, parts: list[zipfile.ZipInfo], stop: int) -> None:
    """Every part lies in the file as it is, after the one before: so together they are no larger than the file."""
    free = 0
    for part in sorted(parts, key=lambda part: part.header_offset):
        name = _short(part.filename)
        if part.compress_type != zipfile.ZIP_STORED or part.compress_size != part.file_size:
            raise UsageError(
                f"{path}: its part '{name}' is compressed ({part.compress_size:,} bytes for {part.file_size:,}), "
                "which torch.save never does; take another copy"
            )
        if not free <= part.header_offset <= stop - 30:
            raise _damaged(path, f"its part '{name}' overlaps another")
        file.seek(part.header_offset + 26)
        free = part.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))) + part.file_size
        if free > stop:
            raise _damaged(path, f"its part '{name}' overlaps another")


# The tensors.


def _load(path: Path, file: BinaryIO) -> Any:
    """What PyTorch's safe reader makes of the file."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as problem:  # what a made-up pickle makes the reader raise has no bounds
        why = "unknown instructions" if isinstance(problem, pickle.UnpicklingError) else str(problem).partition("\n")[0]
        raise _damaged(path, f"PyTorch cannot read it ({_short(why) or type(problem).__name__})") from None


def _state_dict(path: Path, content: Any) -> dict[Any, Any]:
    """The state dict itself. The methods are those of dict: a pickle may put others into an OrderedDict."""
    if isinstance(content, dict):
        wrapped = [dict.get(content, key) for key in WRAPPERS]
        return next((inner for inner in wrapped if isinstance(inner, dict)), content)
    raise UsageError(f"{path}: it holds a {type(content).__name__}, not a state dict; {SAVE_AGAIN}")


def _own_tensors(path: Path, state: dict[Any, Any], size: int) -> dict[str, Tensor]:
    """The tensors, each with memory of its own."""
    tensors: dict[str, Tensor] = {}
    for name, value in dict.items(state):
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UsageError(
                f"{path}: its entry '{_short(name)}' is no tensor (it is of type {type(value).__name__}); {SAVE_AGAIN}"
            )
        tensors[name] = value.detach()
    if not tensors:
        raise UsageError(f"{path}: it holds no tensors; give a file of weights")
    total = sum(math.prod(tensor.shape) * tensor.element_size() for tensor in tensors.values())
    if total > 2 * size:
        raise _damaged(path, f"its tensors have {total:,} bytes, the file {size:,}")
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    taken: set[int] = set()
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage()
        own = tensor.is_contiguous() and memory.nbytes() == tensor.nbytes and memory.data_ptr() not in taken
        taken.add(memory.data_ptr())
        tensors[name] = tensor if own else tensor.clone(memory_format=torch.contiguous_format)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
