"""Memory of this process: what it has, what it had at most, what it may still take; and how a lack of it shows.

All sizes are in bytes, asked from the system at every call.
"""

from __future__ import annotations

import contextlib
import errno
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")

UNLIMITED = 1 << 60
"""Limits of control groups from here on are none: version 1 writes the largest number that it has."""


def resident() -> int:
    """What this process has in memory now (its resident set)."""
    return int(psutil.Process().memory_info().rss)


def peak() -> int:
    """The most that this process has ever had in memory. Of the process alone, since it was started: not what its
    parent had, which ``ru_maxrss`` begins with on Linux.
    """
    status = PROC / "self" / "status"
    if status.exists():
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.M)
        if found:
            return int(found[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, the others units of 1024


def available() -> int:
    """What this process may still take: the least of what the machine has free (or can free at once), of what is left
    below the limits of its control groups (containers, batch systems), and of what is left of its address space
    (``ulimit -v``). Never below 0. Swap is not counted: a training that swaps does not end.
    """
    rooms = [int(psutil.virtual_memory().available), *_groups(PROC, CGROUPS)]
    if sys.platform != "win32":
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            rooms.append(soft - int(psutil.Process().memory_info().vms))
    return max(0, min(rooms))


def trim() -> None:
    """Give memory that is free in this process back to the system, where its C library keeps such (glibc); that of
    large tensors otherwise stays, in pieces.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


KEPT = 192 * 10**6
"""What the C library may hold at most of memory that was given up, in pieces below 32 MB; larger ones go back at once.
"""


def set_malloc_thresholds() -> None:
    """Have the C library (glibc) hold what is given up, up to `KEPT`, for the next that ask. By itself it gives back
    what lies last in memory from some point on, and then every tensor begins with pages that the system has to fill
    with zeros.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, which would not grow by itself any more
        library.mallopt(-1, KEPT)  # M_TRIM_THRESHOLD


def format_bytes(size: float) -> str:
    """A number of bytes in words, in units of 1000.

    >>> [format_bytes(n) for n in (12, 4_200, 812_000_000, 999_800_000, 1_340_000_000, 64 * 10**9)]
    ['12 bytes', '4 kB', '812 MB', '1.0 GB', '1.3 GB', '64.0 GB']
    """
    for unit, factor in (("bytes", 1), ("kB", 10**3), ("MB", 10**6)):
        if round(size / factor) < 1000:
            return f"{size / factor:.0f} {unit}"
    return f"{size / 10**9:,.1f} GB"


def _groups(proc: Path, mount: Path) -> Iterator[int]:
    """What is left below each limit of the control groups that the process is in, from its own up to the root's.

    Pages of files that were not used of late are not counted as used: they are given up first.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            tops, limit, used, idle = (mount / "unified", mount), "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            tops, limit, used, idle = (
                (mount / "memory", mount / controllers),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        else:
            continue
        top = next((folder for folder in tops if folder.is_dir()), None)
        if top is None:
            continue
        # Inside of a container the path may be that of the host, which is not seen from here; its own group is the top.
        folder = top if ".." in path else top / path.lstrip("/")
        while True:
            room = _room(folder, limit, used, idle)
            if room is not None:
                yield room
            if folder == top:
                break
            folder = folder.parent


def _room(folder: Path, limit: str, used: str, idle: str) -> int | None:
    """What is left of one group's memory; None where it has no limit or is not there."""
    try:
        most = (folder / limit).read_text().strip()
        if most == "max" or int(most) >= UNLIMITED:
            return None
        taken = int((folder / used).read_text())
        found = re.search(rf"^{idle} (\d+)$", (folder / "memory.stat").read_text(), re.M)
    except (OSError, ValueError):
        return None
    return int(most) - taken + (int(found[1]) if found else 0)


# -- a lack of it ------------------------------------------------------------------------------------------------------

_SAID = (
    "can't allocate memory",  # torch, Linux
    "not enough memory",  # torch, Windows and macOS
    "out of memory",  # torch on a GPU
    "cannot allocate memory",
    "unable to allocate",  # NumPy
    "bad_alloc",
    "could not create a memory object",  # oneDNN
    "could not initialize a memory object",
    "could not create a primitive\n",  # oneDNN, for its code; "a primitive descriptor" would be another matter
    "alloc_failed",  # cuBLAS
)

_UNITS = {"bytes": 1, "byte": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether an error says that memory was not there: Python's and NumPy's `MemoryError`, torch's on a GPU, and what
    torch and oneDNN say on a CPU, as a plain `RuntimeError`. The errors that it was raised from count too.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."))
    True
    >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    return any(_lacks(one) for one in _chain(problem))


def requested_bytes(problem: BaseException) -> int | None:
    """The bytes that were asked for in vain, where the error says so.

    >>> requested_bytes(RuntimeError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has ..."))
    1610612736
    """
    for one in _chain(problem):
        found = re.search(r"allocate (\d+\.?\d*) ?(bytes?|[KMGT]iB)", str(one), re.I)  # NumPy: 420. MiB
        if found and _lacks(one):
            return round(float(found[1]) * _UNITS[found[2].lower()])
    return None


def describe(problem: BaseException) -> str:
    """What is said of it: "out of memory", with what was asked for and what there is, where that is known.

    >>> describe(MemoryError())
    'out of memory'
    """
    wanted = requested_bytes(problem)
    there = (
        "" if wanted is None else f" ({format_bytes(wanted)} were asked for, {format_bytes(available())} are available)"
    )
    return f"out of memory{there}"


def _lacks(problem: BaseException) -> bool:
    if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError":
        return True
    if isinstance(problem, OSError) and problem.errno == errno.ENOMEM:
        return True
    if isinstance(problem, ImportError) and "failed to map segment" in str(problem):  # of a library that is loaded
        return True
    return isinstance(problem, RuntimeError) and any(words in f"{problem}\n".lower() for words in _SAID)


def _chain(problem: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from, each once."""
    seen: set[int] = set()
    one: BaseException | None = problem
    while one is not None and id(one) not in seen:
        yield one
        seen.add(id(one))
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
