"""The process that reads .mat files for `fullconv.io.mat`: ``python -m fullconv.io.mat_worker``.

Each line of its input is a request (JSON: path, kind, variable, field, most_bytes, time_limit). The answer is a line
of JSON, either {"dtype", "shape"} and then the bytes of the array, or {"what", "advice", "sound"}. Not sound means that
a decoder failed half way, after which its memory is not to be trusted. It ends when its input does.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import suggestion

try:
    import resource
except ImportError:  # Windows; sizes are checked all the same
    resource = None  # type: ignore[assignment]

_AGAIN = "copy or download it again"
_NUMERIC = (
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "single", "double", "logical",
)  # fmt: skip
_MOST_NAMES = 20  # that a message lists
_MOST_DEFLATE = 1032  # bytes that one byte of compressed data can become
_ROOM = 64 * 2**20  # bytes of memory beside the copies of the array


class Refused(Exception):
    """(what is wrong, what to do); the reader itself is well."""


def serve() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the user interrupts the other process, which may go on
    warnings.simplefilter("ignore")
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _end_after(request["time_limit"] + 5)
        _reply(replies, *_answer(request))
        _end_after(0)


def _reply(replies: BinaryIO, answer: dict[str, Any], array: NDArray[Any] | None) -> None:
    replies.write(json.dumps(answer).encode() + b"\n")
    if array is not None:
        replies.write(array.reshape(-1).view(np.uint8).data)
    replies.flush()


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], NDArray[Any] | None]:
    most, sound = request["most_bytes"], False
    try:
        hdf5 = request["kind"] == "7.3"
        _import("h5py" if hdf5 else "scipy.io")
        with _limited_memory(3 * most + _ROOM):  # as stored, in the order of the rows, and one to spare
            array = (_from_hdf5 if hdf5 else _from_mat)(request)
        return {"dtype": array.dtype.str, "shape": array.shape}, array
    except Refused as refusal:
        sound = True
        what, advice = refusal.args
    except Exception as error:  # damaged files make the decoders raise nearly everything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        short = ("truncated", "not enough bytes", "could not read bytes", "incomplete")
        state = "cut short" if any(word in reason.lower() for word in short) else "damaged"
        what, advice = f"the file is {state} ({reason})", _AGAIN
        if isinstance(error, MemoryError) or "memory" in reason.lower():
            what, advice = _too_large("what it holds", most)
    return {"what": what, "advice": advice, "sound": sound}, None


def _too_large(thing: str, most: int) -> tuple[str, str]:
    return f"{thing} is larger than {most:,} bytes", "raise most_bytes if you trust the file"


def _import(module: str) -> None:
    try:
        __import__(module)
    except ImportError:
        what = "of version 7.3, which needs h5py" if module == "h5py" else "which needs SciPy"
        raise Refused(f"a MATLAB file {what}", "pip install 'fullconv[mat]'") from None


# -- versions 4 to 7.2 -------------------------------------------------------------------------------------------------


def _from_mat(request: dict[str, Any]) -> NDArray[Any]:
    from scipy.io import loadmat

    variable, field, most = request["variable"], request["field"], request["most_bytes"]
    with Path(request["path"]).open("rb") as file:
        if request["kind"] == "5":
            _check_length(file)
        if file.seek(0, os.SEEK_END) * _MOST_DEFLATE > most:
            _check_declared(file, variable, field, most)
        file.seek(0)
        value = loadmat(file, variable_names=[variable], chars_as_strings=False).get(variable)
        if value is None or variable.startswith("__"):  # loadmat adds names like this
            _check_declared(file, variable, field, most)
    if isinstance(value, str):  # loadmat's way of telling what it could not read
        raise ValueError(value)
    if field is None:
        return _numbers(variable, value, most)
    names = getattr(value, "dtype", np.dtype("O")).names
    if not names:
        raise Refused(f"'{variable}' is not a struct", "ask for it without a field")
    if field not in names:
        _refuse_name("field", field, names)
    if value.size != 1:
        raise Refused(f"'{variable}' is a struct array of {_by(value.shape)}", "give a file with a 1x1 struct")
    return _numbers(f"{variable}.{field}", value[field].item(), most)


def _check_declared(file: BinaryIO, variable: str, field: str | None, most: int) -> None:
    """Refuse a variable that is not there, no array of numbers or too large, by the headers in the file."""
    from scipy.io import whosmat

    file.seek(0)
    contents = {name: (shape, kind) for name, shape, kind in whosmat(file)}
    if variable not in contents:
        _refuse_name("variable", variable, contents)
    shape, kind = contents[variable]
    if field is None:
        _check_class(variable, kind)
    if math.prod(shape) > most:  # in bytes it may be no more: a double can be stored in one
        raise Refused(*_too_large(f"'{variable}' of {_by(shape)}", most))


def _check_length(file: BinaryIO) -> None:
    """Refuse a file that ends before its last element does; the length of each stands in front of it."""
    file.seek(0, os.SEEK_END)
    end = file.tell()
    file.seek(126)
    order = "<u4" if file.read(2) == b"IM" else ">u4"
    start = 128
    while start < end:
        file.seek(start)
        tag = file.read(8)
        if len(tag) == 8:
            count = int(np.frombuffer(tag, order)[1])
            if not count:
                raise Refused(f"the file is damaged (nothing at byte {start:,}, where a variable should be)", _AGAIN)
            start += 8 + count
        if len(tag) < 8 or start > end:
            raise Refused(f"the file is cut short ({end:,} bytes, and its last variable goes on)", _AGAIN)
    if start == 128:
        raise Refused("the file is cut short or empty: a header and no variable", _AGAIN)


# -- version 7.3 -------------------------------------------------------------------------------------------------------


def _from_hdf5(request: dict[str, Any]) -> NDArray[Any]:
    import h5py

    variable, field, most = request["variable"], request["field"], request["most_bytes"]
    with h5py.File(request["path"], "r", locking=False) as file:
        value = _member(file, variable, "variable")
        kind = _class_of(value)
        if field is not None:
            if not isinstance(value, h5py.Group) or kind not in ("struct", ""):
                raise Refused(
                    f"'{variable}' is of the type {kind[:80]}, not a 1x1 struct", "ask for it without a field"
                )
            value = _member(value, field, "field")
            kind = _class_of(value)
            variable = f"{variable}.{field}"
        if isinstance(value, h5py.Group) or kind:
            _check_class(variable, kind or "struct")
        if not isinstance(value, h5py.Dataset) or value.shape is None:
            _refuse_class(variable, kind or "empty")
        if value.is_virtual or value.external:
            raise Refused(f"the values of '{variable}' lie in other files", "save it in MATLAB with -v7.3")
        if value.attrs.get("MATLAB_empty"):
            return _empty(value, kind)
        _check_numbers(variable, value.dtype)
        if value.size * value.dtype.itemsize > most:
            raise Refused(*_too_large(f"'{variable}' of {_by(value.shape[::-1])}", most))
        return _numbers(variable, np.asarray(value[()]).T, most)


def _member(group: Any, name: str, what: str) -> Any:
    """A variable of the file or a field of a struct; nothing that a link fetches from elsewhere."""
    import h5py

    names = [key for key in group if not key.startswith("#")]
    if name not in names:
        _refuse_name(what, name, names)
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise Refused(f"the {what} '{name}' is a link to elsewhere", "save it in MATLAB with -v7.3")
    return group[name]


def _empty(value: Any, kind: str) -> NDArray[Any]:
    """An array without numbers; HDF5 has none, so the values of this one are its size."""
    size = [int(n) for n in value[()].reshape(-1)] if 0 < value.size <= 32 and value.dtype.kind in "iu" else []
    if not size or math.prod(size) != 0:
        raise ValueError("an empty array without its size")
    return np.zeros(size, {"logical": "uint8", "": "float64"}.get(kind, kind))


def _class_of(value: Any) -> str:
    """MATLAB's name of the type, "" where the file does not say."""
    if "MATLAB_sparse" in value.attrs:
        return "sparse"
    name = value.attrs.get("MATLAB_class", "")
    return name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)


# -- what is an array of numbers ---------------------------------------------------------------------------------------


def _check_class(variable: str, kind: str) -> None:
    if kind == "struct":
        raise Refused(f"'{variable}' is a struct", "say which of its fields is wanted")
    if kind not in _NUMERIC:
        _refuse_class(variable, kind)


def _check_numbers(variable: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind == "c" or (dtype.names and set(dtype.names) == {"real", "imag"}):
        _refuse_class(variable, "complex")
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        _refuse_class(variable, {"O": "cell", "U": "char"}.get(dtype.kind, str(dtype)))


def _numbers(variable: str, value: Any, most: int) -> NDArray[Any]:
    """The array with rows one after the other and numbers in the byte order of this machine."""
    if type(value) is not np.ndarray:
        _refuse_class(variable, "sparse" if hasattr(value, "nnz") else type(value).__name__)
    if value.dtype.names:
        _check_class(variable, "struct")
    _check_numbers(variable, value.dtype)
    if value.nbytes > most:
        raise Refused(*_too_large(f"'{variable}' of {_by(value.shape)} {value.dtype}", most))
    return np.ascontiguousarray(value, value.dtype.newbyteorder("="))


def _refuse_class(variable: str, kind: str) -> NoReturn:
    raise Refused(f"'{variable}' is of the type {kind[:80]}, not an array of numbers", "give a numeric array")


def _refuse_name(what: str, name: str, names: Any) -> NoReturn:
    known = [str(n)[:80] for n in names][:_MOST_NAMES]
    advice = suggestion(name, known) if known else f"it holds no {what}s"
    raise Refused(f"there is no {what} '{name}'", advice)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)


@contextmanager
def _limited_memory(more: int) -> Iterator[None]:
    """At most `more` bytes above what is taken now, where the system can do so: a small file may unpack to anything."""
    if resource is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bounds = [n for n in (soft, hard, _taken() + more) if n != resource.RLIM_INFINITY]
    with suppress(OSError, ValueError):  # a system without this limit
        resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _taken() -> int:
    """Bytes of address space in use; 4 GiB where it cannot be told."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    except OSError:
        return 4 * 2**30


def _end_after(seconds: float) -> None:
    """Let the system end this process when a request takes longer, even if nobody waits for it any more; 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    serve()
