"""Files that are either the old one or the new one, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from fullconv.errors import RunError


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` under `path` so that a crash or a power cut leaves the old file or the new one, never a part.

    The bytes go to a temporary name beside it, are forced to the disk, and take the name in one step; then the
    folder is forced too. Raises `RunError` naming the file when the disk is full or not writable; the old file is
    untouched then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as problem:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = problem.strerror or str(problem)
        raise RunError(
            f"{path}: cannot write {len(data):,} bytes ({reason}); free the disk or choose another folder"
        ) from None
