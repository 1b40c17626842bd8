"""Arrays from MATLAB's .mat files, read in a child process that may die.

SciPy's reader is made for files that MATLAB wrote; some damaged ones crash the process that reads them. So the reader
(`fullconv.io.mat_worker`) is a process of its own, started with the first file and kept for the next ones, and
whatever bytes a file holds, the outcome is its array or one `UsageError` that names it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import threading
import time
from io import FileIO
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

import fullconv
from fullconv.errors import RunError, UsageError, shown
from fullconv.io.formats import HEAD_BYTES, sniff

MOST_BYTES = 256 * 2**20
"""The largest array that is read unless told otherwise, in bytes."""

TIME_LIMIT = 60.0
"""Seconds in which the child must have read a file."""

_AGAIN = "copy or download it again"
_LONGEST_LINE = 1 << 16


def read_mat(path: Path, variable: str, field: str | None = None, most_bytes: int = MOST_BYTES) -> NDArray[Any]:
    """The numeric array `variable` of a .mat file, or the array `field` of the 1x1 struct `variable`.

    The shape is MATLAB's, (rows, columns) for a matrix; the type is the one that the file stores, which for MATLAB's
    doubles may be a small integer type with the same values; logical arrays come as uint8. Versions 4, 5 to 7.2 (needs
    SciPy) and 7.3 (needs h5py). Safe to call from several threads and in forked processes.

    Raises `UsageError` naming the file: missing, not a .mat file, cut short, damaged, without this variable or field,
    not an array of real numbers (text, cell, sparse, struct array, object, complex), more than `most_bytes` bytes,
    not read within `TIME_LIMIT` seconds, or SciPy or h5py not installed. Raises `RunError` when the child cannot be
    started.
    """
    path, name = Path(path), shown(path)
    request = {
        "kind": _kind(path, name),
        "path": str(path.absolute()),
        "variable": variable,
        "field": field,
        "most_bytes": most_bytes,
        "time_limit": TIME_LIMIT,
    }
    try:
        return _reader.ask(request)
    except _Refused as refusal:
        what, advice = refusal.args
        raise UsageError(f"{name}: {shown(what)}; {shown(advice)}") from None


# -- the file ----------------------------------------------------------------------------------------------------------


def _kind(path: Path, name: str) -> str:
    """The version of the format, "4", "5" or "7.3", told from the first bytes; raises `UsageError` for other files."""
    try:
        if path.is_dir():
            raise UsageError(f"{name}: a folder, not a file; give the .mat file itself")
        if path.exists() and not path.is_file():  # a pipe or a device would block for ever
            raise UsageError(f"{name}: not a regular file; give a .mat file")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        raise UsageError(f"{name}: no such file; check the name") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{name}: cannot be opened ({reason}); check the file and its permissions") from None
    version = head[124:128]
    if 0 not in head[:4] and version in (b"\x00\x01IM", b"\x01\x00MI"):
        return "5"
    if 0 not in head[:4] and version in (b"\x00\x02IM", b"\x02\x00MI"):
        return "7.3"
    if _is_version_4(head):
        return "4"
    raise UsageError(f"{name}: {_not_matlab(head)}")


def _is_version_4(head: bytes) -> bool:
    """Version 4 has no signature: five numbers (type MOPT, rows, columns, imaginary part or not, length of a name)."""
    for order in ("<", ">"):
        if len(head) >= 20:
            kind, rows, columns, imaginary, length = np.frombuffer(head, f"{order}i4", 5).tolist()
            thousands, rest = divmod(kind, 1000)
            known = thousands == (order == ">") and rest // 10 <= 5 and rest % 10 <= 2  # no hundreds: they are 0
            if known and rows >= 0 and columns >= 0 and imaginary in (0, 1) and 1 < length <= 256:
                return True
    return False


def _not_matlab(head: bytes) -> str:
    """What the file is and what to do, from the first bytes of one that is not read."""
    if head.startswith(b"MATLAB "):
        state = "cut short" if len(head) < 128 else "damaged (its header has no known version)"
        return f"the file is {state}; {_AGAIN}"
    if head.startswith(b"\x89HDF"):
        return "an HDF5 file without MATLAB's header; save it in MATLAB with -v7.3"
    if head and not any(head):
        return f"not a MATLAB file, it begins with zeros (a copy that was broken off?); {_AGAIN}"
    _, what, advice = sniff(head)
    what = "" if what.startswith("not an image") else what.partition(", not ")[0]
    advice = advice if advice.startswith(("run ", "download ", "unpack ")) else "give the .mat file itself"
    return f"{what + ', ' if what else ''}not a MATLAB file; {advice}"


# -- the child ---------------------------------------------------------------------------------------------------------


_Child: TypeAlias = "subprocess.Popen[bytes]"


class _Refused(Exception):
    """(what is wrong, what to do)."""


class _Died(_Refused):
    """The child went away while it read."""


class _Reader:
    """The one child of this process; it is started when it is needed and there is none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: _Child | None = None
        self._fresh = True  # the child has read nothing yet
        self._at_exit: Finalize | None = None

    def ask(self, request: dict[str, Any]) -> NDArray[Any]:
        """The array that the child sends; raises `_Refused`."""
        with self._lock:
            if not self._fresh:
                with contextlib.suppress(_Died):  # somebody else may have ended it; a fresh child knows better
                    return self._exchange(request)
            return self._exchange(request)

    def _exchange(self, request: dict[str, Any]) -> NDArray[Any]:
        process = self._running()
        until = time.monotonic() + TIME_LIMIT
        keep = False
        try:
            answer, rest = _send(process, request, until)
            if "what" in answer:
                keep = bool(answer.get("sound"))
                raise _Refused(answer["what"], answer["advice"])
            array = _receive(process, answer, rest, request["most_bytes"], until)
            keep = True
            return array
        except TimeoutError:
            what = f"the reader gave no answer in {TIME_LIMIT:g} seconds (damaged, or on a slow disk)"
            raise _Refused(what, _AGAIN) from None
        except (OSError, EOFError, ValueError, TypeError, KeyError):  # it died, or spoke nonsense
            self.stop()
            raise _Died(f"the file is damaged: the reader died on it ({_end(process)})", _AGAIN) from None
        finally:  # also when the user interrupts: half an answer would be taken for the next one
            self._fresh = False
            if not keep:
                self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.stop()
        try:
            self._process = subprocess.Popen(
                _command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,  # buffers have locks, and a lock may be held by another thread while this process forks
                env=_environment(),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise RunError(f"the reader of .mat files: cannot be started ({error}); free memory or processes") from None
        if self._at_exit is None:
            self._at_exit = Finalize(None, self.stop, exitpriority=0)  # unlike atexit, in worker processes too
        return self._process

    def stop(self) -> None:
        """End the child, if there is one; the next file starts another."""
        process, self._process, self._fresh = self._process, None, True
        if process is not None:
            _end_child(process)

    def leave(self) -> None:
        """Close what a forked process inherited; the child belongs to the other one."""
        process, self._process = self._process, None
        if process is not None:
            process.returncode = 0  # not ours to wait for
            _end_child(process)


def _wait(process: _Child, until: float) -> FileIO:
    """The pipe from the child, when it has something to read; raises `TimeoutError`. Windows waits without a limit."""
    pipe = cast(FileIO, process.stdout)
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(pipe, select.POLLIN | select.POLLHUP)
        if not poll.poll(max(0, until - time.monotonic()) * 1000):
            raise TimeoutError
    return pipe


def _send(process: _Child, request: dict[str, Any], until: float) -> tuple[dict[str, Any], bytes]:
    """The line that the child answers with, and what came after it."""
    line = memoryview(json.dumps(request).encode() + b"\n")
    while line:
        line = line[cast(FileIO, process.stdin).write(line) :]
    got = b""
    while b"\n" not in got:
        part = _wait(process, until).read(_LONGEST_LINE)
        if not part or len(got) > _LONGEST_LINE:
            raise EOFError
        got += part
    first, _, rest = got.partition(b"\n")
    return dict(json.loads(first)), rest


def _receive(process: _Child, answer: dict[str, Any], rest: bytes, most_bytes: int, until: float) -> NDArray[Any]:
    """The array itself; a child whose memory a file has spoilt is not believed."""
    dtype, shape = np.dtype(answer["dtype"]), tuple(int(n) for n in answer["shape"])
    if dtype.kind not in "biuf" or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > most_bytes:
        raise ValueError
    array = np.empty(shape, dtype)
    view = array.reshape(-1).view(np.uint8).data
    if len(rest) > len(view):
        raise ValueError
    view[: len(rest)] = rest
    view = view[len(rest) :]
    while view:
        count = _wait(process, until).readinto(view)
        if not count:
            raise EOFError
        view = view[count:]
    return array


def _end_child(process: _Child) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    if process.returncode is None:
        process.kill()  # it holds nothing that could be lost
        process.wait()


def _end(process: _Child) -> str:
    return f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"


def _command() -> list[str]:
    """-P: a json.py in the working folder must not be taken for Python's own."""
    return [sys.executable, "-P", "-W", "ignore", "-m", "fullconv.io.mat_worker"]


def _environment() -> dict[str, str]:
    """Where this process finds its modules the child finds them too."""
    folders = [str(Path(folder).absolute()) for folder in sys.path if folder]
    folders.append(str(Path(fullconv.__file__).parents[1]))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(folders),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "HDF5_PLUGIN_PRELOAD": "::",  # no filter is loaded from elsewhere because a file names it
    }


_reader = _Reader()


def _after_fork() -> None:
    global _reader
    inherited, _reader = _reader, _Reader()  # its lock may be held by a thread that is not here
    inherited.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
