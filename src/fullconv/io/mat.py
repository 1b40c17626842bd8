"""Read arrays from MATLAB's .mat files, in a child process because a damaged file can crash its reader.

The child (`fullconv.io.mat_worker`) starts with the first file and is kept for the next ones. It is a plain
subprocess: `multiprocessing` and `concurrent.futures` refuse to start one in a daemonic process, and the workers of a
`DataLoader` are daemonic.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
from multiprocessing.util import Finalize
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fullconv.errors import RunError, UsageError, shown
from fullconv.io import mat_worker
from fullconv.io.decoding import one_line, open_file
from fullconv.io.formats import HEAD_BYTES, sniff

MOST_BYTES = 256 * 2**20
"""Size in bytes of the largest array that is read by default."""

TIME_LIMIT = 60.0
"""Seconds that the child has to read one file."""

_AGAIN = "copy or download it again"
_LONGEST_MESSAGE = 1 << 16


def read_mat(path: Path, variable: str, field: str | None = None, most_bytes: int = MOST_BYTES) -> NDArray[Any]:
    """Read the numeric array `variable` of a .mat file, or the array `field` of its 1x1 struct `variable`.

    Reads versions 4, 5 to 7.2 (needs SciPy) and 7.3 (needs h5py). May be called from several threads and from forked
    processes.

    Returns:
        The array in MATLAB's shape, (rows, columns) for a matrix, in the type that the file stores: MATLAB may store
        doubles in a small integer type. Logical arrays become uint8.

    Raises:
        UsageError: the file is missing, not a .mat file, cut short or damaged; it lacks the variable or field; the
            value is not an array of real numbers (text, cell, sparse, struct array, object, complex) or is larger than
            `most_bytes`; reading it takes longer than `TIME_LIMIT`; SciPy or h5py is not installed.
        RunError: the child cannot be started.
    """
    path, name = Path(path), shown(path)
    with open_file(path) as stream, one_line(name, "MATLAB file"):
        hdf5 = _is_hdf5(stream.read(HEAD_BYTES), name)
    request = {"hdf5": hdf5, "path": str(path.absolute()), "variable": variable, "field": field}
    try:
        return _reader().ask({**request, "most_bytes": most_bytes, "time_limit": TIME_LIMIT})
    except _Refused as refusal:
        what, advice = refusal.args
        raise UsageError(f"{name}: {shown(what)}; {shown(advice)}") from None


def _is_hdf5(head: bytes, name: str) -> bool:
    """Whether a .mat file is of version 7.3, from its first bytes; `UsageError` for a file that is not MATLAB's."""
    if 0 not in head[:4] and head[124:128] in (b"\x00\x01IM", b"\x01\x00MI", b"\x00\x02IM", b"\x02\x00MI"):
        return b"\x02" in head[124:126]
    if head.startswith(b"MATLAB "):
        state = "cut short" if len(head) < 128 else "damaged (its header has no known version)"
        raise UsageError(f"{name}: the file is {state}; {_AGAIN}")
    if head.startswith(b"\x89HDF"):
        raise UsageError(f"{name}: an HDF5 file without MATLAB's header; save it in MATLAB with -v7.3")
    if head and not any(head):
        raise UsageError(f"{name}: not a MATLAB file, it begins with zeros (an interrupted copy?); {_AGAIN}")
    _, what, advice = sniff(head)
    what = "" if what.startswith("not an image") else what.partition(", not ")[0] + ", "
    if 0 in head[:4] and not what:  # version 4 has no signature, only five numbers that are checked when it is read
        return False
    advice = advice if advice.startswith(("run ", "download ", "unpack ")) else "give the .mat file itself"
    raise UsageError(f"{name}: {what}not a MATLAB file; {advice}")


class _Refused(Exception):
    """(what is wrong, what to do)."""


class _Died(_Refused):
    """The child ended, or answered nonsense, while it read the file."""


class _Reader:
    """The child of this process, started when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._used = False  # whether the child has been given a file
        self._at_exit: Finalize | None = None

    def ask(self, request: dict[str, Any]) -> NDArray[Any]:
        """Return the array that the child answers with; raise `_Refused` for its refusal or its end."""
        with self._lock:
            if self._used:
                with contextlib.suppress(_Died):  # an earlier file or another program may have ended it: ask a new one
                    return self._exchange(request)
            return self._exchange(request)

    def _exchange(self, request: dict[str, Any]) -> NDArray[Any]:
        process, keep, expired = self._start(), False, threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(request["time_limit"], expire)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            array = _receive(process.stdout, request["most_bytes"])
            what, advice, end = array.tolist() if array.dtype.kind == "U" else ("", "", "")
            keep = not end
        except Exception:
            self.stop()
            if expired.is_set():
                what = f"the reader gave no answer in {request['time_limit']:g} seconds (damaged, or on a slow disk)"
                raise _Refused(what, _AGAIN) from None
            end = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
            raise _Died(f"the file is damaged: the reader died on it ({end})", _AGAIN) from None
        finally:  # also on an interrupt: what is left of this answer must not be read as the next one
            timer.cancel()
            self._used = True
            if not keep:
                self.stop()
        if what:
            raise _Refused(what, advice)
        return array

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.stop()
        # No file can make HDF5 load a filter from elsewhere; there is nothing to compute in parallel.
        environment = {"HDF5_PLUGIN_PRELOAD": "::", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipe, environment = subprocess.PIPE, {**os.environ, **environment}
        try:
            self._process = subprocess.Popen(
                _command(), stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise RunError(f"the reader of .mat files: cannot be started ({error}); free memory or processes") from None
        self._at_exit = self._at_exit or Finalize(None, self.stop, exitpriority=0)  # unlike atexit, in workers too
        return self._process

    def stop(self) -> None:
        """End the child, if there is one; the next file starts another."""
        process, self._process, self._used = self._process, None, False
        if process is not None:
            with contextlib.suppress(OSError), process:  # which closes the pipes and waits
                process.kill()  # it holds nothing that could be lost


_readers: dict[int, _Reader] = {}


def _reader() -> _Reader:
    """Return the reader of this process: one that was forked leaves its parent's alone, with its lock and its child."""
    return _readers.setdefault(os.getpid(), _Reader())


def _receive(pipe: IO[bytes], most_bytes: int) -> NDArray[Any]:
    """Read an array in the .npy format; trust nothing, because a damaged file may have spoiled the child's memory."""
    npy.read_magic(pipe)
    shape, fortran_order, dtype = npy.read_array_header_1_0(pipe)
    most = most_bytes if dtype.kind in "biuf" else _LONGEST_MESSAGE
    if dtype.kind not in "biufU" or fortran_order or not 0 <= math.prod(shape) * dtype.itemsize <= most:
        raise ValueError
    array = np.empty(shape, dtype)
    if pipe.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:  # type: ignore[attr-defined]
        raise EOFError
    return array


def _command() -> list[str]:
    """Return the child's command line. It imports from where this process does, except the working folder."""
    code = f"import sys; sys.path[:] = {[folder for folder in sys.path if folder]!r}; "
    return [sys.executable, "-P", "-W", "ignore", "-c", f"{code}from {mat_worker.__name__} import serve; serve()"]
