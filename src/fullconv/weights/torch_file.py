"""State dicts in PyTorch's own files (``.pth``, ``.pt``), read without running anything that is in them.

``torch.load(weights_only=True)`` reads them. It does not check everything: a ZIP archive must be as ``torch.save``
writes it (nothing compressed, no part twice, every CRC-32 right), and its pickle may name only what a state dict needs,
whatever the process allows PyTorch, and may not nest values so deeply that hashing them ends the process. Files from
before PyTorch 1.6 (five pickles and the bytes of the tensors) are read too, because published weights are still in that
format (pytorch/vision, issue 2068); it has no checksums.
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
from typing import Any, BinaryIO

import torch
from torch import Tensor

from fullconv.errors import UsageError, shown
from fullconv.io.download.fetch import page_or_pointer
from fullconv.warnings import without_warnings

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net")
"""The keys under which training programs keep the state dict, beside their epoch and optimizer."""

NAMES = re.compile(
    r"collections OrderedDict|torch Size|torch device|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch \w+Storage|torch\.storage (Untyped|Typed)Storage|torch (bool|bfloat16|u?int\d+|(float|complex)\d\w*)"
)
"""All that the pickle of a state dict names."""

BEFORE_1_6 = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of a file from before PyTorch 1.6: its magic number."""

MOST_PARTS, MOST_INSTRUCTIONS, MOST_DEPTH, MOST_VALUES = 20_000, 1 << 24, 500, 10**7
"""Bounds that no state dict comes near: parts of an archive (one per tensor), bytes of its pickle, depth of nested
values, and values in all, one that is used twice counting twice.
"""

SAVE_AGAIN = "if you trust it, load it and save its state dict alone: torch.save(model.state_dict(), FILE)"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a PyTorch file by name: on the CPU, contiguous, each with memory of its own.

    The file holds a state dict, or a dict with one under a key of `WRAPPERS`; the ``module.`` that DataParallel
    prepends to every name is removed.

    Raises:
        UsageError: The file holds anything else (other objects, which would run code; TorchScript; an HTML page), or
            its archive is damaged, compressed or cut off.

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
    return _own_tensors(path, content, size)


def _damaged(path: Path, what: str) -> UsageError:
    return UsageError(f"{path}: {what}; the file was damaged or cut off, take another copy")


def _short(words: object) -> str:
    line = shown(words)
    return line if len(line) <= 100 else line[:99] + "…"


def _check(path: Path, file: BinaryIO, size: int) -> None:
    """Refuse what would harm the process if PyTorch read it, and damage that it does not find."""
    file.seek(0)
    head = file.read(64)
    if instead := page_or_pointer(head):
        way_out = "run git lfs pull" if "git-lfs" in instead else "fetch it again (a failed download?)"
        raise UsageError(f"{path}: {instead}, not weights; {way_out}")
    try:
        if head.startswith(b"PK\x03\x04"):
            _check_pickle(path, io.BytesIO(_check_archive(path, file, size)))
        elif head.startswith(BEFORE_1_6):
            file.seek(0)
            start = io.BytesIO(file.read(MOST_INSTRUCTIONS))
            for _ in range(5):  # magic number, version, the writer's machine, the state dict, the order of its storages
                _check_pickle(path, start)
        else:
            what = "a pickle of another program, or a tar archive of PyTorch 0.1, would run code when it is read"
            raise UsageError(f"{path}: not a file of torch.save ({what}); {SAVE_AGAIN}")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, struct.error) as problem:
        raise _damaged(path, f"its archive is not sound ({_short(problem)})") from None
    except (ValueError, LookupError) as problem:
        raise _damaged(path, f"its pickle ends too early or makes no sense ({_short(problem)})") from None


def _check_archive(path: Path, file: BinaryIO, size: int) -> bytes:
    """Return the pickle of a ZIP archive that is as `torch.save` writes it."""
    # The list of parts ends the file, so that every reader finds the same one (APPNOTE.TXT of PKWARE, 4.3.14 to 16).
    file.seek(max(0, size - 98))
    tail = file.read(98)
    if tail[-22:-18] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
        raise _damaged(path, "its archive has no end")
    stop, (count, length, start) = size - 22, struct.unpack("<HII", tail[-12:-2])
    if tail[-42:-38] == b"PK\x06\x07":  # 64-bit records, which torch.save writes
        stop, (count, length, start) = size - 98, struct.unpack("<QQQ", tail[32:56])
        if tail[:4] != b"PK\x06\x06" or struct.unpack("<Q", tail[-34:-26]) != (stop,):
            raise _damaged(path, "its archive has no end")
    if start + length != stop:
        raise _damaged(path, "its archive has a gap")
    if count > MOST_PARTS or length > MOST_INSTRUCTIONS:
        raise _damaged(path, f"its archive has {count:,} parts, more than a state dict")
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if not parts or not len(parts) == count == len({part.filename.casefold() for part in parts}):
            raise _damaged(path, "its archive lists a part twice, or not at all")
        root = parts[0].filename.partition("/")[0]
        if f"{root}/constants.pkl" in archive.NameToInfo:
            raise UsageError(f"{path}: a TorchScript program, not a state dict; {SAVE_AGAIN}")
        if (pickled := f"{root}/data.pkl") not in archive.NameToInfo:
            raise UsageError(f"{path}: a ZIP archive, but not one of torch.save; give the .pth file itself")
        parts.sort(key=lambda part: part.header_offset)
        for part, stop in zip(parts, [*(part.header_offset for part in parts[1:]), start], strict=True):
            if part.compress_type != zipfile.ZIP_STORED or part.compress_size != part.file_size:
                raise _damaged(path, f"its part '{_short(part.filename)}' is compressed, which torch.save never does")
            if part.header_offset + 30 + part.file_size > stop:
                raise _damaged(path, f"its part '{_short(part.filename)}' overlaps another")
        if archive.getinfo(pickled).file_size > MOST_INSTRUCTIONS:
            raise _damaged(path, "its pickle is larger than a state dict needs")
        if (bad := archive.testzip()) is not None:
            raise _damaged(path, f"its part '{_short(bad)}' does not have its name or its CRC-32")
        return archive.read(pickled)


def _check_pickle(path: Path, stream: BinaryIO) -> None:
    """Go through one pickle without executing it; refuse other names, and values nested without bounds."""
    stack: list[tuple[int, int]] = []  # of each value, its depth and the number of values in it
    marks: list[int] = []
    memo: dict[Any, tuple[int, int]] = {}
    for instruction, argument, _ in pickletools.genops(stream):
        if ("GLOBAL" in instruction.name or instruction.name == "INST") and not NAMES.fullmatch(str(argument)):
            name = _short(str(argument or instruction.name).replace(" ", "."))
            what = f"a pickled module or other objects, not a state dict (it names '{name}'), reading it would run code"
            raise UsageError(f"{path}: {what}; {SAVE_AGAIN}")
        before = instruction.stack_before
        mark = pickletools.markobject in before
        first = marks.pop() - before.index(pickletools.markobject) if mark else len(stack) - len(before)
        if first < 0:
            raise ValueError(f"{instruction.name} without its values")
        used = stack[first:]
        del stack[first:]
        if instruction.name == "MARK":
            marks.append(len(stack))
            continue
        made = 1 + max((depth for depth, _ in used), default=0), 1 + sum(values for _, values in used)
        if "GET" in instruction.name:
            made = memo[argument]
        stack.extend([made] * len(instruction.stack_after))
        if "PUT" in instruction.name:
            memo[argument] = stack[-1]
        if made[0] > MOST_DEPTH or made[1] > MOST_VALUES:
            raise UsageError(f"{path}: its pickle is nested deeper than a state dict; do not use this file")


def _load(path: Path, file: BinaryIO) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as problem:  # what a forged pickle makes the reader raise has no bounds
        why = "unknown instructions" if isinstance(problem, pickle.UnpicklingError) else str(problem).partition("\n")[0]
        raise _damaged(path, f"PyTorch cannot read it ({_short(why) or type(problem).__name__})") from None


def _own_tensors(path: Path, content: Any, size: int) -> dict[str, Tensor]:
    """Return the tensors of a state dict, each with memory of its own."""
    if not isinstance(content, dict):
        raise UsageError(f"{path}: it holds a {type(content).__name__}, not a state dict; {SAVE_AGAIN}")
    # The methods are those of dict: a pickle may put others into an OrderedDict.
    wrapped = [dict.get(content, key) for key in WRAPPERS]
    state = next((inner for inner in wrapped if isinstance(inner, dict)), content)
    tensors: dict[str, Tensor] = {}
    for name, value in dict.items(state):
        if not isinstance(name, str) or not isinstance(value, Tensor):
            what = f"its entry '{_short(name)}' is not a tensor (it is of type {type(value).__name__})"
            raise UsageError(f"{path}: {what}; {SAVE_AGAIN}")
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
