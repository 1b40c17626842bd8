"""Unpack tar and zip archives from the web: completely or not at all, and only into their folder.

`tarfile` and `zipfile` parse; the checks around them accept only files and folders with safe names, bounded sizes and
an archive that is intact to its last byte. Modes, owners and times in an archive are ignored.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fullconv.errors import FullconvError, RunError, UsageError, shown
from fullconv.io.download.fetch import Progress, reason

MARGIN = 256 * 10**6
"""Bytes of the disk that stay free."""

HARMLESS, RATIO = 100 * 10**6, 1000
"""Bytes that may come out of any archive, and how many times its size may come out of a larger one (deflate: 1032)."""

LONGEST_HEADER, LARGEST_DIRECTORY = 1 << 20, 1 << 29
"""Limits in bytes on the headers of one member of a tar, and on the directory of a zip."""

CHUNK = 1 << 18
_REPLACE, _BY_HAND = "get the archive from its publisher", "unpack it by hand if you trust it"
TYPES = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a FIFO"}


class Unpacked(NamedTuple):
    """The number of files that were unpacked, and their bytes."""

    files: int
    bytes: int


def unpack(
    archive: Path,
    folder: Path,
    progress: Progress | None = None,
    most_bytes: int | None = None,
    most_files: int = 1_000_000,
) -> Unpacked:
    """Unpack a tar (plain, gzip, bzip2 or xz) or a zip archive into `folder`, completely or not at all.

    Existing entries of `folder` are never replaced. What macOS adds (``__MACOSX``, ``._NAME``) is left out.

    Args:
        progress: Called with the bytes of the archive that were read and its size.
        most_bytes: Limit on the bytes of all files; by default, the free space of the disk less `MARGIN`.
        most_files: Limit on the number of files and folders.

    Raises:
        UsageError: The archive is damaged or too large, a member is not a file or folder with a safe, unique name, or
            an entry exists in `folder` already.
        RunError: The disk fails or is full.
    """
    if not hasattr(tarfile, "data_filter"):
        raise RunError(f"{archive}: this Python cannot unpack it safely; update to Python 3.11.4 or newer")
    target = folder.absolute()
    base = next(place for place in (target, *target.parents) if place.exists())
    if base == target and not target.is_dir():
        raise UsageError(f"{folder}: not a folder; choose another one")
    try:
        file = _Archive(archive, progress)
    except OSError as problem:
        raise UsageError(f"{archive}: cannot be read ({reason(problem)}); check the path") from None
    try:
        with file, tempfile.TemporaryDirectory(prefix=".fullconv-", dir=base) as inner, ExitStack() as undo:
            tree = _Tree(file, Path(inner), target, most_bytes, most_files)
            for member in _members(file, most_files):
                tree.add(member)
            if not tree.top:
                raise UsageError(f"{archive}: there is nothing in it; check that it is the right file")
            file.seek(0, os.SEEK_END)
            file.report()
            target.mkdir(parents=True, exist_ok=True)
            for name in tree.top:
                tree.check_free(name)
                (tree.inner / name).rename(target / name)
                undo.callback((target / name).rename, tree.inner / name)
            undo.pop_all()
            return Unpacked(tree.files, tree.bytes)
    except (OSError, tarfile.FilterError) as problem:
        raise RunError(
            f"{folder}: {archive} cannot be unpacked there ({reason(problem)}); free the disk or choose another folder"
        ) from None


class _Member(NamedTuple):
    name: str
    is_folder: bool
    size: int
    open: Callable[[], Any]
    wrong: tuple[str, str] | None  # why it is refused, and the way out


class _Archive(io.BufferedReader):
    """An open archive that limits the directory of a zip and counts what comes out."""

    def __init__(self, path: Path, progress: Progress | None) -> None:
        super().__init__(io.FileIO(path))
        self.path, self.size, self.progress, self.came = path, os.fstat(self.fileno()).st_size, progress, 0
        self.most_members: int | None = None  # set while zipfile reads the directory, which it does in one piece

    def read(self, size: int | None = -1, /) -> bytes:
        if self.most_members is not None and size is not None and size > LARGEST_DIRECTORY:
            raise UsageError(f"{self.path}: its directory has {size:,} bytes; unpack it with another program")
        data = super().read(size)
        if self.most_members is not None and len(data) > CHUNK and data.count(b"PK\1\2") > self.most_members:
            raise UsageError(f"{self.path}: it has more than {self.most_members:,} members; allow more of them")
        return data

    def count(self, size: int) -> None:
        self.came, limit = self.came + size, max(HARMLESS, RATIO * self.size)
        if self.came > limit:
            what = f"it has {self.size:,} bytes, and more than {limit:,} come out of it, as of a decompression bomb"
            raise UsageError(f"{self.path}: {what}; {_REPLACE}")

    def report(self) -> None:
        if self.progress is not None:
            self.progress(self.tell(), self.size)

    @contextmanager
    def parsing(self, member: str = "") -> Iterator[None]:
        """Report whatever a parser raises for damage in one line; errors of the disk, which have an errno, pass."""
        try:
            yield
        except Exception as problem:
            if isinstance(problem, FullconvError) or (isinstance(problem, OSError) and problem.errno is not None):
                raise
            subject = f"{self.path}: member '{shown(member)}'" if member else f"{self.path}"
            why = f"damaged or cut short ({reason(problem).rstrip('.')})"
            raise UsageError(f"{subject}: {why}; delete the archive and fetch it again") from None


def _members(file: _Archive, most_files: int) -> Iterator[_Member]:
    with file.parsing():
        head = file.read(6)
        file.seek(0)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _zip_members(file, most_files)
    openers: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
    stream = next((openers[magic](file) for magic in openers if head.startswith(magic)), file)
    return _tar_members(_TarSource(file, stream))


def _zip_members(file: _Archive, most_files: int) -> Iterator[_Member]:
    file.most_members = most_files
    with file.parsing():
        source = zipfile.ZipFile(file)
    file.most_members = None
    for info in source.infolist():
        name: str = info.orig_filename  # `filename` ends at the first NUL
        wrong = None
        is_folder, kind = name.endswith("/"), stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFDIR if is_folder else stat.S_IFREG):
            what = "a symbolic link" if kind == stat.S_IFLNK else "neither a regular file nor a folder"
            wrong = what, _BY_HAND
        elif info.flag_bits & 0x2041:
            wrong = "encrypted", "decrypt the archive first"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            wrong = f"compressed by method {info.compress_type}, not deflate", "unpack it with another program"
        elif is_folder and info.file_size:
            wrong = "a folder with bytes of its own", _REPLACE
        file.count(info.file_size)  # zipfile returns no more
        yield _Member(name, is_folder, info.file_size, partial(source.open, info), wrong)


def _tar_members(source: _TarSource) -> Iterator[_Member]:
    with source.file.parsing():
        try:
            tar = tarfile.TarFile(fileobj=source, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
        except tarfile.ReadError:
            if source.position > tarfile.BLOCKSIZE:
                raise
            what = "neither a tar (plain, gzip, bzip2, xz) nor a zip archive"
            raise UsageError(f"{source.file.path}: {what}; check that it is the right file") from None
        info = tar.next()
    while info is not None:
        size = info.pax_headers.get("size", str(info.size))  # tarfile takes what is not a number for 0
        wrong = None
        if shared := tar.pax_headers.keys() & {"path", "size"}:
            wrong = f"a header gives one {shared.pop()} to all members", _REPLACE
        elif not re.fullmatch("[0-9]{1,18}", size):
            wrong = f"invalid size '{shown(size)}'", _REPLACE
        elif info.issparse() or any(key.startswith("GNU.sparse.") for key in info.pax_headers):
            wrong = "a sparse file", _BY_HAND
        elif not (info.isreg() or info.isdir()):
            kind = TYPES.get(info.type, f"of the unknown type '{shown(info.type.decode('latin-1'))}'")
            wrong = f"{kind}, not a file or folder", _BY_HAND
        name = info.pax_headers.get("path", info.name)  # with the slashes that tarfile strips
        source.expect_header(False)
        yield _Member(name, info.isdir(), 0 if info.isdir() else info.size, partial(tar.extractfile, info), wrong)
        with source.file.parsing():
            source.seek(tar.offset)
            source.expect_header(True)
            tar.members.clear()  # type: ignore[attr-defined]
            info = tar.next()
    with source.file.parsing():
        if source.last.strip(b"\0"):
            raise tarfile.ReadError("a damaged header")
        while data := source.stream.read(CHUNK):  # to the end, where the checksum is
            source.file.count(len(data))


class _TarSource:
    """The bytes of a tar as `tarfile` reads them: forward only, never fewer than asked for, headers checked.

    By itself, `tarfile` takes a damaged or missing header for the end of the archive, reads headers of any length,
    seeks backwards for negative sizes, reads names beyond their size and, in older versions, skips damaged pax records.
    """

    def __init__(self, file: _Archive, stream: Any) -> None:
        self.file, self.stream, self.position, self.last = file, stream, 0, b""
        self.expect_header(True)

    def expect_header(self, expected: bool) -> None:
        """Tell what is read next: the headers of the next member, or the content of this one."""
        self.in_header, self.header_bytes, self.seen = expected, 0, b""
        self.extension: tarfile.TarInfo | None = None  # the header whose content is read next

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> None:
        while self.position < position:
            self.read(min(CHUNK, position - self.position))
        if self.position > position:
            raise tarfile.ReadError("a size leads backwards")

    def read(self, size: int) -> bytes:
        self.header_bytes += size
        if self.in_header and not 0 <= size <= self.header_bytes <= LONGEST_HEADER:
            raise UsageError(f"{self.file.path}: a header of {size:,} bytes; {_REPLACE}")
        self.last = self.stream.read(size)
        self.position += len(self.last)
        self.file.count(len(self.last))
        if len(self.last) < size:
            raise EOFError("it ends too early")
        kind = self.last[156:157]
        if self.extension is not None:
            _check_extension(self.last, self.extension)
            self.extension = None
        elif self.in_header and kind in (b"L", b"K", b"x", b"X", b"g"):
            self.extension = tarfile.TarInfo.frombuf(self.last, "utf-8", "surrogateescape")
            if kind.lower() in self.seen:
                raise tarfile.ReadError("two headers of one kind for one member")
            self.seen += kind.lower() if kind != b"g" else b""
        return self.last


def _check_extension(data: bytes, header: tarfile.TarInfo) -> None:
    """Refuse content beyond the size of a header, and pax records that are damaged or have very long numbers."""
    position, end = 0, len(data[: header.size].rstrip(b"\0")) if header.type in b"xXg" else 0
    while position < end:
        record = re.compile(rb"([1-9][0-9]{0,6}) [^=\n]+=").match(data, position)
        position += int(record[1]) if record else 0
        if not record or record.end() > position or position > end or data[position - 1] != 10:
            raise tarfile.ReadError("a damaged pax header")
    if data[header.size : header.size + 1].strip(b"\0"):
        raise tarfile.ReadError("a header with more than its size")
    if end and re.search(rb"[0-9]{256}", data):  # tarfile may spend quadratic time on it (CVE-2024-6232)
        raise tarfile.ReadError("a pax header with a number of 256 digits")


class _Tree:
    """The files and folders of an archive as they are created below `inner`, each name once."""

    def __init__(self, file: _Archive, inner: Path, target: Path, most_bytes: int | None, most_files: int) -> None:
        self.file, self.inner, self.target = file, inner, target
        self.most_bytes, self.most_files = most_bytes, most_files
        self.free = max(0, shutil.disk_usage(inner).free - MARGIN)
        self.files = self.bytes = 0
        self.top: dict[str, None] = {}  # the names in the folder itself, in order
        self.entries: dict[tuple[int, str], tuple[int, str, bool]] = {}  # by the number of the folder and folded name

    def add(self, member: _Member) -> None:
        """Create a member; raise `UsageError` if it is refused."""
        parts = self._parts(member)
        if not parts or parts[0] == "__MACOSX" or parts[-1].startswith("._"):
            return
        if parts[0] not in self.top:
            self.check_free(parts[0])
            self.top[parts[0]] = None
        tarfile.data_filter(tarfile.TarInfo("/".join(parts)), str(self.inner))  # refuses links that were put in the way
        folder = 0
        for depth, part in enumerate(parts, 1):
            is_folder, before = member.is_folder or depth < len(parts), len(self.entries)
            entry = (before + 1, part, is_folder)
            folder, known, was_folder = self.entries.setdefault((folder, _folded(part)), entry)
            if len(self.entries) > self.most_files:
                what = f"one more than the {self.most_files:,} that are allowed"
                raise self._refused(member, what, "allow more files and folders")
            is_new = len(self.entries) > before
            for wrong, what in (
                (known != part, f"'{shown(known)}' exists, which differs only in case or Unicode form"),
                (is_folder != was_folder, f"'{shown(part)}' is a file and a folder"),
                (not is_folder and not is_new, "it comes twice"),
            ):
                if wrong:
                    raise self._refused(member, what)
            if is_folder and is_new:
                self.inner.joinpath(*parts[:depth]).mkdir()
        if not member.is_folder:
            self._write(member, self.inner.joinpath(*parts))

    def check_free(self, name: str) -> None:
        """Raise `UsageError` if the target has an entry of this name already."""
        if os.path.lexists(self.target / name):
            raise UsageError(f"{self.target / name}: it exists already; delete it or choose another folder")

    def _refused(self, member: _Member, what: str, way_out: str = _REPLACE) -> UsageError:
        return UsageError(f"{self.file.path}: member '{shown(member.name)}': {what}; {way_out}")

    def _parts(self, member: _Member) -> list[str]:
        """Split a name into its folders and the file; empty for the root."""
        if member.wrong is not None:
            raise self._refused(member, *member.wrong)
        name = member.name
        parts = [part for part in (name.removesuffix("/") if member.is_folder else name).split("/") if part != "."]
        lengths = [len(os.fsencode(part)) for part in parts]
        for wrong, what in (
            (not name, "it has no name"),
            (name.startswith("/"), "its name is an absolute path"),
            ("\\" in name, "its name has a backslash"),
            (any(unicodedata.category(c) == "Cc" for c in name), "its name has a control character"),
            (".." in parts, "its name leads out of the folder"),
            ("" in parts, "its name has an empty part"),
            (any(re.match("[A-Za-z]:", part) for part in parts), "its name has a drive letter"),
            (max(lengths, default=0) > 255, "its name has a part of more than 255 bytes"),
            (sum(lengths, len(parts)) + len(os.fsencode(self.inner)) >= 4096, "its path has 4096 bytes or more"),
            (len(parts) > 100, "it is more than 100 folders deep"),
            (not parts and not member.is_folder, "its name is that of the folder itself"),
        ):
            if wrong:
                raise self._refused(member, what)
        return parts

    def _write(self, member: _Member, path: Path) -> None:
        self.files, self.bytes = self.files + 1, self.bytes + member.size
        if self.most_bytes is not None and self.bytes > self.most_bytes:
            what = f"with it the files have more than the {self.most_bytes:,} bytes that are allowed"
            raise self._refused(member, what, "allow more of them")
        if self.most_bytes is None and self.bytes > self.free:
            raise OSError(errno.ENOSPC, f"more than the {self.free:,} bytes that are free come out of it")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags, 0o644), "wb") as out:
            for chunk in self._content(member):
                out.write(chunk)
                self.file.report()

    def _content(self, member: _Member) -> Iterator[bytes]:
        with self.file.parsing(member.name), member.open() as content:
            left = member.size
            while chunk := content.read(CHUNK):
                left -= len(chunk)
                yield chunk
            if left:
                raise EOFError(f"{member.size - left:,} of {member.size:,} bytes came")


def _folded(part: str) -> str:
    """Return what a disk that ignores case and Unicode forms takes for the same name.

    >>> _folded("A\u030angstro\u0308m") == _folded("\u00e5NGSTR\u00d6M")
    True
    """
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", part).casefold())
