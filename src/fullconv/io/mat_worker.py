"""The process that reads .mat files for `fullconv.io.mat`.

Each line of its input is a request in JSON. The answer is an array in the .npy format: the one that is asked for or,
for a refusal, three strings: what is wrong, what to do, and "stop" if a decoder failed half way and may have spoiled
this process. It ends when its input does.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil  # type: ignore[import-untyped]
from numpy.lib import format as npy
from numpy.typing import NDArray

from fullconv.errors import suggestion

try:
    import resource
except ImportError:  # Windows: only the sizes that files declare are checked
    resource = None  # type: ignore[assignment]

_AGAIN = "copy or download it again"
_LIBRARIES = (("scipy.io", "which needs SciPy"), ("h5py", "of version 7.3, which needs h5py"))
_NUMERIC = (
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "single", "double", "logical",
)  # fmt: skip
_MOST_DEFLATE = 1032  # bytes that one byte of compressed data can become
_SPARE_BYTES = 64 * 2**20  # memory beside the copies of the array


class Refused(Exception):
    """(what is wrong, what to do); the process is sound."""


def serve() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the parent, which may continue
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is not an answer
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if hasattr(signal, "alarm"):  # the parent ends a slow child; this ends one whose parent is gone
            signal.alarm(math.ceil(request["time_limit"]) + 5)
        array = _answer(request)
        npy.write_array_header_1_0(replies, npy.header_data_from_array_1_0(array))
        replies.write(array.reshape(-1).view(np.uint8).data)
        replies.flush()
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def _answer(request: dict[str, Any]) -> NDArray[Any]:
    try:
        module, what = _LIBRARIES[request["hdf5"]]
        try:
            __import__(module)
        except ImportError:
            raise Refused(f"a MATLAB file {what}", "pip install 'fullconv[mat]'") from None
        with _limited_memory(3 * request["most_bytes"]):  # as stored, in the order of the rows, and one to spare
            return (_from_hdf5 if request["hdf5"] else _from_mat)(request)
    except Refused as refusal:
        return np.array([*refusal.args, ""])
    except Exception as error:  # damaged files make the decoders raise nearly everything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        if isinstance(error, MemoryError) or "memory" in reason.lower():
            return np.array([*_too_large("what it holds", request).args, "stop"])
        short = ("truncated", "not enough bytes", "could not read bytes", "incomplete")
        state = "cut short" if any(word in reason.lower() for word in short) else "damaged"
        return np.array([f"the file is {state} ({reason})", _AGAIN, "stop"])


@contextmanager
def _limited_memory(more: int) -> Iterator[None]:
    """Bound the address space where the system can: a small file may unpack to anything."""
    if resource is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bounds = (soft, hard, psutil.Process().memory_info().vms + more + _SPARE_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (min(n for n in bounds if n != resource.RLIM_INFINITY), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# -- versions 4 to 7.2 -------------------------------------------------------------------------------------------------


def _from_mat(request: dict[str, Any]) -> NDArray[Any]:
    from scipy.io import loadmat

    variable, field = request["variable"], request["field"]
    with Path(request["path"]).open("rb") as file:
        if 0 not in file.read(4):  # not version 4
            _check_length(file)
        if file.seek(0, os.SEEK_END) * _MOST_DEFLATE > request["most_bytes"]:
            _check_declared(file, request)
        file.seek(0)
        value = loadmat(file, variable_names=[variable], chars_as_strings=False).get(variable)
        if value is None or variable.startswith("__"):  # loadmat adds such names
            _check_declared(file, request)
    if isinstance(value, str):  # how loadmat reports a variable that it could not read
        raise ValueError(value)
    if field is None:
        return _numbers(variable, value, request)
    names = getattr(value, "dtype", np.dtype("O")).names
    if not names:
        raise Refused(f"'{variable}' is not a struct", "ask for it without a field")
    if field not in names:
        raise _missing("field", field, names)
    if value.size != 1:
        raise Refused(f"'{variable}' is a struct array of {_by(value.shape)}", "give a file with a 1x1 struct")
    return _numbers(f"{variable}.{field}", value[field].item(), request)


def _check_declared(file: BinaryIO, request: dict[str, Any]) -> None:
    """Refuse a variable that the headers in the file do not declare, or that they declare to be too large."""
    from scipy.io import whosmat

    file.seek(0)
    shapes = {name: shape for name, shape, _ in whosmat(file)}
    if (variable := request["variable"]) not in shapes:
        raise _missing("variable", variable, shapes)
    if math.prod(shapes[variable]) > request["most_bytes"]:  # even a double can be stored in one byte
        raise _too_large(f"'{variable}' of {_by(shapes[variable])}", request)


def _check_length(file: BinaryIO) -> None:
    """Refuse a file that ends before its last element does; each element begins with its length."""
    end = file.seek(0, os.SEEK_END)
    file.seek(126)
    order = "<u4" if file.read(2) == b"IM" else ">u4"
    start = 128
    while start < end:
        file.seek(start)
        tag = file.read(8)
        count = int(np.frombuffer(tag, order)[1]) if len(tag) == 8 else end
        if not count:
            raise Refused(f"the file is damaged (nothing at byte {start:,}, where a variable should be)", _AGAIN)
        start += 8 + count
        if start > end:
            raise Refused(f"the file is cut short ({end:,} bytes, and its last variable is longer)", _AGAIN)
    if start == 128:
        raise Refused("the file is cut short or empty: a header and no variable", _AGAIN)


# -- version 7.3 -------------------------------------------------------------------------------------------------------


def _from_hdf5(request: dict[str, Any]) -> NDArray[Any]:
    import h5py

    variable, field = request["variable"], request["field"]
    with h5py.File(request["path"], "r", locking=False) as file:
        value, kind = _member(file, variable, "variable")
        if field is not None:
            if not isinstance(value, h5py.Group) or kind != "struct":
                what = f"'{variable}' is of the type {kind[:80]}, not a 1x1 struct"
                raise Refused(what, "ask for it without a field")
            value, kind = _member(value, field, "field")
            variable = f"{variable}.{field}"
        if kind == "struct":
            raise Refused(f"'{variable}' is a struct", "say which of its fields is wanted")
        if kind not in ("", *_NUMERIC) or not isinstance(value, h5py.Dataset) or value.shape is None:
            raise _not_numbers(variable, kind or "empty")
        if value.is_virtual or value.external:
            raise Refused(f"the values of '{variable}' are in other files", "save it in MATLAB with -v7.3")
        if value.attrs.get("MATLAB_empty"):  # HDF5 has no empty arrays: the values of this one are its size
            size = [int(n) for n in value[()].reshape(-1)] if 0 < value.size <= 32 and value.dtype.kind in "iu" else []
            if not size or math.prod(size) != 0:
                raise ValueError("an empty array without its size")
            return np.zeros(size, {"logical": "uint8", "": "float64"}.get(kind, kind))
        if value.size * value.dtype.itemsize > request["most_bytes"]:
            raise _too_large(f"'{variable}' of {_by(value.shape[::-1])}", request)
        return _numbers(variable, np.asarray(value[()]).T, request)


def _member(group: Any, name: str, what: str) -> tuple[Any, str]:
    """Return a variable of the file or a field of a struct and MATLAB's name of its type, "" if the file has none."""
    import h5py

    names = [key for key in group if not key.startswith("#")]
    if name not in names:
        raise _missing(what, name, names)
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):  # it may lead to another file
        raise Refused(f"the {what} '{name}' is a link", "save it in MATLAB with -v7.3")
    value = group[name]
    if "MATLAB_sparse" in value.attrs:
        return value, "sparse"
    kind = value.attrs.get("MATLAB_class", "struct" if isinstance(value, h5py.Group) else "")
    return value, kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind)


# -- arrays of numbers -------------------------------------------------------------------------------------------------


def _numbers(variable: str, value: Any, request: dict[str, Any]) -> NDArray[Any]:
    """Return the array in C order and in the byte order of this machine."""
    if type(value) is not np.ndarray:
        raise _not_numbers(variable, "sparse" if hasattr(value, "nnz") else type(value).__name__)
    dtype = value.dtype
    if dtype.kind == "c" or (dtype.names and set(dtype.names) == {"real", "imag"}):
        raise _not_numbers(variable, "complex")
    if dtype.names:
        raise Refused(f"'{variable}' is a struct", "say which of its fields is wanted")
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise _not_numbers(variable, {"O": "cell", "U": "char"}.get(dtype.kind, str(dtype)))
    if value.nbytes > request["most_bytes"]:
        raise _too_large(f"'{variable}' of {_by(value.shape)} {dtype}", request)
    return np.ascontiguousarray(value, dtype.newbyteorder("="))


def _too_large(thing: str, request: dict[str, Any]) -> Refused:
    return Refused(f"{thing} is larger than {request['most_bytes']:,} bytes", "raise most_bytes if you trust the file")


def _not_numbers(variable: str, kind: str) -> Refused:
    return Refused(f"'{variable}' is of the type {kind[:80]}, not an array of numbers", "give a numeric array")


def _missing(what: str, name: str, names: Any) -> Refused:
    known = [str(n)[:80] for n in names][:20]
    return Refused(f"there is no {what} '{name}'", suggestion(name, known) if known else f"it holds no {what}s")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)
