"""Archives from the web, unpacked as if each had been made to do harm.

Every member is read as a stream and written here: nothing in an archive chooses a place outside the folder, a mode, an
owner or a time. All of it goes into a temporary folder inside the target, whose entries are moved when the last byte
was verified: an archive is unpacked whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fullconv.errors import RunError, UsageError
from fullconv.io.download.fetch import Progress
from fullconv.io.download.members import Archive, Member, read_members, refused
from fullconv.io.download.web import reason

MARGIN = 256 * 10**6
"""Bytes of a disk that stay free."""

LONGEST_PART = 255
LONGEST_PATH = 4096
DEEPEST = 100


@dataclass(frozen=True)
class Unpacked:
    """What came out of an archive: the number of files, and their bytes."""

    files: int
    bytes: int


def unpack(
    archive: Path,
    folder: Path,
    progress: Progress | None = None,
    most_bytes: int | None = None,
    most_files: int = 1_000_000,
) -> Unpacked:
    """Unpack a tar (plain, or compressed by gzip, bzip2 or xz) or a zip into `folder`, whole or not at all.

    Which of them it is, its content says. `folder` may exist; its entries are never replaced. `most_bytes` is the
    bytes that the files may have (if not given, what is free on the disk but for `MARGIN`), `most_files` the number of
    files and folders. What macOS adds (``__MACOSX``, ``._NAME``) is left out. The files have mode 0644 less the umask.
    `progress` is called with the bytes of the archive that were read and those that it has.

    Raises `UsageError` naming the archive and the member for anything but files and folders, for names that leave the
    folder, come twice or cannot be files everywhere, for what is too much, for damage, and for an entry that exists in
    `folder` already; `RunError` when the disk fails or is full. Nothing is left behind then.
    """
    if os.open not in os.supports_dir_fd:
        raise RunError(f"{archive}: this system cannot keep an archive inside its folder; unpack it by hand")
    try:
        file = Archive(archive)
    except OSError as problem:
        raise UsageError(f"{archive}: it cannot be read ({reason(problem)}); check it") from None
    target = folder.absolute()
    try:
        with file, _made(target), _temporary(target) as inner:
            free = max(0, shutil.disk_usage(target).free - MARGIN) if most_bytes is None else None
            with contextlib.closing(_Tree(archive, inner, target, free, most_bytes, most_files)) as tree:
                for member in read_members(file, most_files):
                    tree.add(member, lambda: progress(file.tell(), file.length) if progress is not None else None)
                if progress is not None:
                    progress(file.length, file.length)
            if not tree.top:
                raise UsageError(f"{archive}: there is nothing in it; check that it is the right file")
            _move(sorted(tree.top), inner, target)
            return Unpacked(tree.files, tree.bytes)
    except OSError as problem:
        raise RunError(
            f"{folder}: {archive} cannot be unpacked there ({reason(problem)}); free the disk or choose another folder"
        ) from None


def _parts(archive: Path, member: Member, target: Path) -> tuple[str, ...]:
    """The folders of a name and the name of the file; empty for the root. Refuses what could leave the folder, and
    what no file can be called.
    """
    name = member.name
    parts = tuple(part for part in (name.removesuffix("/") if member.is_folder else name).split("/") if part != ".")
    bytes_of_parts = [len(os.fsencode(part)) for part in parts]
    for wrong, what in (
        (not name, "it has no name"),
        (name.startswith("/"), "its name begins at the root of the disk"),
        ("\\" in name, "its name has a backslash"),
        (any(unicodedata.category(c) == "Cc" for c in name), "its name has a control character"),
        (".." in parts, "its name leads out of the folder"),
        ("" in parts, "its name has an empty part"),
        (any(re.match("[A-Za-z]:", part) for part in parts), "its name begins with the letter of a drive"),
        (max(bytes_of_parts, default=0) > LONGEST_PART, f"its name has a part of more than {LONGEST_PART} bytes"),
        (sum(bytes_of_parts) + len(parts) + len(os.fsencode(target)) >= LONGEST_PATH,
         f"its path would have {LONGEST_PATH} bytes or more"),
        (len(parts) > DEEPEST, f"it is more than {DEEPEST} folders deep"),
    ):  # fmt: skip
        if wrong:
            raise refused(archive, name, what)
    return parts


def _folded(part: str) -> str:
    """What a disk that tells neither case nor Unicode forms apart takes for the same name.

    >>> _folded("A\u030angstro\u0308m") == _folded("\u00e5NGSTR\u00d6M")
    True
    """
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", part).casefold())


def _is_metadata(parts: tuple[str, ...]) -> bool:
    """Whether it is what macOS adds to archives: a file beside each file, ``._NAME``, or all in ``__MACOSX``."""
    return parts[0] == "__MACOSX" or parts[-1].startswith("._")


@dataclass(frozen=True)
class _Entry:
    number: int
    name: str
    is_folder: bool


class _Tree:
    """The files of an archive as they are written below a folder: each name checked, each made once.

    Folders are opened one in the other and never by a path, and no link is followed: whoever puts one in the way makes
    the work fail and nothing else.
    """

    def __init__(
        self, archive: Path, inner: Path, target: Path, free: int | None, most_bytes: int | None, most_files: int
    ) -> None:
        self.files = self.bytes = 0
        self.top: set[str] = set()
        self._archive, self._inner, self._target = archive, inner, target
        self._free, self._most_bytes, self._most_files = free, most_bytes, most_files
        self._entries: dict[tuple[int, str], _Entry] = {}  # by the number of the folder and the folded name in it
        self._open: list[tuple[str, int]] = [("", os.open(inner, _FOLDER))]  # the folders down to the last file

    def close(self) -> None:
        """Close the folders."""
        while self._open:
            os.close(self._open.pop()[1])

    def add(self, member: Member, progress: Callable[[], None]) -> None:
        """Write a member."""
        parts = _parts(self._archive, member, self._target)
        if not parts and not member.is_folder:
            raise refused(self._archive, member.name, "its name is that of the folder itself")
        if not parts or _is_metadata(parts):
            return
        if parts[0] not in self.top and os.path.lexists(self._target / parts[0]):
            raise _exists(self._target / parts[0])
        number, same = 0, True
        for depth, part in enumerate(parts, 1):
            is_folder = member.is_folder or depth < len(parts)
            entry, new = self._claim(member.name, number, part, is_folder)
            number = entry.number
            if is_folder:
                same = same and depth < len(self._open) and self._open[depth][0] == part
                if not same:
                    self._enter(depth, part, new)
        self.top.add(parts[0])
        if not member.is_folder:
            while len(self._open) > len(parts):
                os.close(self._open.pop()[1])
            self._write(parts[-1], member, progress)

    def _claim(self, member: str, folder: int, part: str, is_folder: bool) -> tuple[_Entry, bool]:
        """The entry of this name in a folder, and whether it is new. Refuses a file that comes twice."""
        key = (folder, _folded(part))
        known = self._entries.get(key)
        if known is None:
            if len(self._entries) >= self._most_files:
                raise refused(
                    self._archive, member, f"it is one more than the {self._most_files:,} that are allowed",
                    "allow more files and folders",
                )  # fmt: skip
            entry = self._entries[key] = _Entry(len(self._entries) + 1, part, is_folder)
            return entry, True
        if known.name != part:
            what = f"'{known.name}' is there, which differs only in case or in the form of its letters"
            raise refused(self._archive, member, what)
        if not is_folder or not known.is_folder:
            what = "it comes twice" if is_folder == known.is_folder else f"'{part}' is a file and a folder"
            raise refused(self._archive, member, what)
        return known, False

    def _enter(self, depth: int, part: str, new: bool) -> None:
        while len(self._open) > depth:
            os.close(self._open.pop()[1])
        above = self._open[-1][1]
        if new:
            os.mkdir(part, dir_fd=above)
        self._open.append((part, os.open(part, _FOLDER, dir_fd=above)))

    def _write(self, name: str, member: Member, progress: Callable[[], None]) -> None:
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=self._open[-1][1])
        with os.fdopen(handle, "wb", buffering=0) as file:
            for chunk in member.chunks:
                self.bytes += len(chunk)
                self._bounds(member.name)
                rest = memoryview(chunk)
                while rest:  # an unbuffered file may take a part only
                    rest = rest[file.write(rest) :]
                progress()
        self.files += 1

    def _bounds(self, name: str) -> None:
        if self._most_bytes is not None and self.bytes > self._most_bytes:
            what = f"with it the files have more than the {self._most_bytes:,} bytes that are allowed"
            raise refused(self._archive, name, what, "allow more of them")
        if self._free is not None and self.bytes > self._free:
            raise RunError(
                f"{self._target}: more than the {self._free:,} bytes that are free come out of {self._archive}; free "
                "the disk or choose another folder"
            )


_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path}: it exists already; delete it or choose another folder")


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder, made if it is not there; and removed again on an error, with the folders above it that were made."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UsageError(f"{folder}: it is no folder; choose another one") from None
        yield
    except BaseException:
        for place in new:
            with contextlib.suppress(OSError):  # not made, or somebody else uses it by now
                place.rmdir()
        raise


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A fresh folder in the target, on the same disk; removed with what is in it, and no link in it is followed."""
    inner = Path(tempfile.mkdtemp(prefix=".fullconv-", dir=target))
    try:
        yield inner
    finally:
        shutil.rmtree(inner, ignore_errors=True)


def _move(names: list[str], inner: Path, target: Path) -> None:
    """Give all entries their place, or none."""
    try:
        for name in names:
            if os.path.lexists(target / name):
                raise _exists(target / name)
            (inner / name).rename(target / name)
    except BaseException:
        for name in names:
            if not os.path.lexists(inner / name):
                with contextlib.suppress(OSError):
                    (target / name).rename(inner / name)
        raise
