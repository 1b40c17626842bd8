"""What a file obviously is, where it is not what was asked for."""

from __future__ import annotations

from pathlib import Path

from fullconv.errors import UsageError

HEAD = 4096


def head_of(path: Path, wanted: str, limit: int) -> bytes:
    """The first bytes of a file; `UsageError` where it is missing, a folder, empty, larger than `limit` bytes, or
    something that is often mistaken for the `wanted` kind of file.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{path}: it is a folder; give the {wanted} file in it")
        if not path.is_file():
            raise UsageError(f"{path}: there is no such file; check the path")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEAD)
    except (OSError, ValueError) as problem:
        raise unreadable(path, problem) from None
    if not head:
        raise UsageError(f"{path}: empty file; take another copy")
    if size > limit:
        raise UsageError(f"{path}: {size:,} bytes, and a {wanted} file has at most {limit:,}; is it the file you mean?")
    if head.startswith(b"version https://git-lfs"):
        raise UsageError(f"{path}: a git-lfs pointer, not the {wanted} file; run git lfs pull")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        raise UsageError(f"{path}: an HTML page, not a {wanted} file (a failed download?); fetch it again")
    if head.startswith(b"\x89HDF"):
        raise UsageError(f"{path}: an HDF5 snapshot; save the net with snapshot_format: BINARYPROTO")
    return head


def unreadable(path: Path, problem: Exception) -> UsageError:
    """The error for a file that the system does not give."""
    reason = getattr(problem, "strerror", None) or problem
    return UsageError(f"{path}: it cannot be read ({reason}); check the path and its rights")


def is_text(head: bytes) -> bool:
    """Whether there is no control byte but tabs and line ends.

    Every layer of a .caffemodel begins with one, so a model is never taken for text.
    """
    return not any(byte < 32 and byte not in b"\t\n\r" for byte in head)
