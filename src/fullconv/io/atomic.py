"""Files that are either the old one or the new one, whatever happens while they are written.

Every touch of the disk in a save is one of the few `os` calls of this file, so that the tests can put a disk that
fails, stops or forgets in the place of `os` and try each of them.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from fullconv.errors import RunError

Piece = tuple[int, bytes | memoryview]
"""A part of a file: the place of its first byte, and the bytes."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` under `path` so that a crash or a power cut leaves the old file or the new one, never a part.

    The bytes go to a temporary name beside it, are forced to the disk, and take the name in one step; then the
    folder is forced too. Raises `RunError` naming the file when the disk is full or not writable; the old file is
    untouched then.
    """
    write_pieces(path, len(data), [(0, data)])


def write_pieces(path: Path, size: int, pieces: Iterable[Piece]) -> None:
    """`write_atomically` for a file that is made while it is written: its pieces in any order, `size` bytes in all.

    Only one piece needs to be in memory. What `pieces` raises comes through, and nothing is left of the file then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _make_folder(path.parent)
        _write(temporary, pieces)
        os.replace(temporary, path)  # noqa: PTH105 - the calls that count stand here, not in pathlib
        _force_folder(path.parent)
    except OSError as problem:
        remove(temporary)
        reason = problem.strerror or str(problem)
        raise RunError(
            f"{path}: cannot write {size:,} bytes ({reason}); free the disk or choose another folder"
        ) from None
    except BaseException:
        remove(temporary)
        raise


def move_into_place(made: Path, path: Path) -> None:
    """Give a finished file, in a folder of the same disk, its name: it is forced to the disk first, and the name then.

    Raises `RunError` naming the file when the disk does not take it.
    """
    try:
        file = os.open(made, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(made, path)  # noqa: PTH105
        _force_folder(path.parent)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise RunError(f"{path}: cannot be written ({reason}); free the disk or choose another folder") from None


def remove(path: Path) -> None:
    """Delete a file that is not needed any more; that it cannot be deleted is no error."""
    with contextlib.suppress(OSError):
        os.unlink(path)  # noqa: PTH108


def remove_leftovers(folder: Path, of: str) -> None:
    """Delete the temporary files that killed processes left in a folder; `of` is a pattern of the files' names.

    Only for files that nobody else is writing now.
    """
    for temporary in folder.glob(f".{of}.*.tmp"):
        remove(temporary)


@contextlib.contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; the folders that killed processes left there are removed first."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*-*.tmp"):
        owner = left.name[len(path.name) + 2 :].partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{path.name}.{os.getpid()}-", suffix=".tmp", dir=path.parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _write(path: Path, pieces: Iterable[Piece]) -> None:
    """The pieces in a file that the disk has when this returns."""
    file = os.open(path, _NEW, 0o666)
    try:
        end = 0
        for place, content in pieces:
            if place != end:
                os.lseek(file, place, os.SEEK_SET)
            end = place + len(content)
            rest = memoryview(content)
            while rest:  # a disk may take less than it was given: it is full soon, or the piece is very large
                taken = os.write(file, rest)
                if not taken:
                    raise OSError(errno.EIO, "the disk takes no more bytes")
                rest = rest[taken:]
        os.fsync(file)
    finally:
        os.close(file)


def _make_folder(folder: Path) -> None:
    """The folder and those above it, each known to the disk by name before something is put into it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):  # somebody else was faster
        os.mkdir(folder)  # noqa: PTH102
    _force_folder(folder.parent)


def _force_folder(folder: Path) -> None:
    """Make the names in a folder durable. Windows opens no folders, and some network disks force none: they keep
    names in their own way.
    """
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
