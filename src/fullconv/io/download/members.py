"""The members of a tar or a zip, one after the other, as they come out of the file. Nothing here writes.

A member is a regular file or a folder; links, devices and all other kinds are refused by name. The headers of a tar are
read here and not by `tarfile.TarFile`, which takes a damaged header for the end of the archive, reads a header of any
length into memory, and seeks where a header tells it to. Nothing is believed that was not read: lengths and checksums
are those of the bytes that came.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import BinaryIO, cast

from fullconv.errors import RunError, UsageError, shown
from fullconv.io.download.web import reason

CHUNK = 1 << 18
"""Bytes that are read at a time."""

HARMLESS = 100 * 10**6
"""Bytes that may come out of any archive, however small."""

RATIO = 1000
"""Times its own size that may come out of a larger one. (Deflate reaches 1032, with nothing but equal bytes.)"""

BLOCK = 512
LONGEST_EXTENSION = 1 << 20
LARGEST_DIRECTORY = 1 << 29
CENTRAL = b"PK\1\2"


@dataclass(frozen=True)
class Member:
    """A file or a folder of an archive.

    name: as it is written there, not checked.
    is_folder: whether it is a folder.
    chunks: the bytes of the file, to be taken before the next member; `UsageError` when they are damaged.
    """

    name: str
    is_folder: bool
    chunks: Iterator[bytes]


def refused(archive: Path, member: str, what: str, way_out: str = "get the archive from its publisher") -> UsageError:
    """The error that refuses a member.

    >>> print(refused(Path("a.tar"), "b", "it is a FIFO"))
    a.tar: member 'b': it is a FIFO; get the archive from its publisher
    """
    return UsageError(f"{archive}: member '{shown(member)}': {what}; {way_out}")


_AGAIN = "delete the archive and fetch it again"


def read_members(file: Archive, most: int) -> Iterator[Member]:
    """The members of an archive, which is told by its content; a zip may have `most`.

    Raises `UsageError` for what is no tar (plain, gzip, bzip2, xz) and no zip, and for damage.
    """
    with file.reading():
        head = file.read(6)
        file.seek(0)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _zip_members(file, most)
    if head.startswith(b"\x1f\x8b"):
        return _tar_members(_Stream(file, cast(BinaryIO, gzip.GzipFile(fileobj=file))))
    if head.startswith(b"BZh"):
        return _tar_members(_Stream(file, cast(BinaryIO, bz2.BZ2File(file))))
    if head == b"\xfd7zXZ\0":
        return _tar_members(_Stream(file, cast(BinaryIO, lzma.LZMAFile(file))))
    return _tar_members(_Stream(file, file))


_DAMAGE = (
    EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.HeaderError, struct.error, ValueError,
    OverflowError, MemoryError, RuntimeError,
)  # fmt: skip
"""What the readers of the standard library raise for damage, by measure and by reading them."""


class Archive(BufferedReader):
    """An archive, open: what is read of it, what came out of it, and the words for what is wrong with it."""

    def __init__(self, path: Path) -> None:
        super().__init__(FileIO(path, "rb"))
        self.path = path
        self.length = path.stat().st_size
        self.came = 0
        self.most_entries: int | None = None  # of a zip

    def read(self, size: int | None = -1, /) -> bytes:
        """As `BufferedReader`; the directory of a zip, which comes in one piece, has bounds."""
        if self.most_entries is not None and size is not None and size > LARGEST_DIRECTORY:
            raise UsageError(f"{self.path}: its directory has {size:,} bytes; unpack it with another program")
        data = super().read(size)
        if self.most_entries is not None and len(data) > CHUNK and data.count(CENTRAL) > self.most_entries:
            raise UsageError(f"{self.path}: it has more than {self.most_entries:,} members; allow more of them")
        return data

    def came_out(self, length: int) -> None:
        """Count bytes that came out. Raises `UsageError` where they are too many for its size."""
        self.came += length
        if self.came > max(HARMLESS, RATIO * self.length):
            raise UsageError(
                f"{self.path}: it has {self.length:,} bytes, and more than {max(HARMLESS, RATIO * self.length):,} come "
                "out of it, as of a decompression bomb; get the archive from its publisher"
            )

    def reading(self, member: str | None = None) -> _Reading:
        """A context in which errors of reading become one line that names the archive and the member."""
        return _Reading(self.path, member)


@dataclass(frozen=True)
class _Reading:
    archive: Path
    member: str | None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: object) -> None:
        if not isinstance(problem, _DAMAGE):
            return
        if isinstance(problem, OSError) and problem.errno is not None:
            raise RunError(f"{self.archive}: it cannot be read ({reason(problem)}); check the disk") from None
        what = f"it is damaged or cut short ({reason(problem).rstrip('.')})"
        if self.member is not None:
            raise refused(self.archive, self.member, what, _AGAIN) from None
        raise UsageError(f"{self.archive}: {what}; {_AGAIN}") from None


class _Stream:
    """What comes out of an archive that is read from its begin to its end."""

    def __init__(self, archive: Archive, source: BinaryIO) -> None:
        self.archive = archive
        self._source = source

    def exactly(self, size: int, member: str | None = None) -> bytes:
        """The next bytes; damage if there are fewer."""
        with self.archive.reading(member):
            data = self._source.read(size)
            self.archive.came_out(len(data))
            if len(data) < size:
                raise EOFError("it ends too early")
        return data

    def drain(self) -> None:
        """Read to the end, where the checksum is."""
        with self.archive.reading():
            while data := self._source.read(CHUNK):
                self.archive.came_out(len(data))


# Tar.

_KINDS = {
    tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link", tarfile.FIFOTYPE: "a FIFO",
    tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device", tarfile.GNUTYPE_SPARSE: "a sparse file",
}  # fmt: skip
_REFUSED = "only files and folders are unpacked; unpack it by hand if you trust it"


def _tar_members(stream: _Stream) -> Iterator[Member]:
    archive = stream.archive.path
    said: dict[str, str] = {}  # what the headers before the one of the member say of it
    first = True
    while (block := stream.exactly(BLOCK)).strip(b"\0"):
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as problem:
            if first:
                raise UsageError(
                    f"{archive}: it holds no tar and is no zip; only these are unpacked (a tar plain, or compressed by "
                    "gzip, bzip2 or xz): check that it is the right file"
                ) from None
            with stream.archive.reading():
                raise problem
        first = False
        name = said.get("path", header.name)
        if header.size < 0:
            raise refused(archive, name, f"it has {header.size} bytes")
        if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, b"L", b"K"):
            said |= _extension(stream, header)
            continue
        if any(key.startswith("GNU.sparse.") for key in said):
            raise refused(archive, name, "it is a sparse file", _REFUSED)
        if header.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE) or header.type in _KINDS:
            kind = _KINDS.get(header.type, f"of the unknown kind '{header.type.decode('latin-1')}'")
            raise refused(archive, name, f"it is {kind}", _REFUSED)
        is_folder = header.isdir()
        size = 0 if is_folder else header.size
        if "size" in said and not is_folder:
            if not re.fullmatch(r"[0-9]{1,18}", said["size"]):
                raise refused(archive, name, f"it has '{shown(said['size'])}' bytes")
            size = int(said["size"])
        said = {}
        chunks = _tar_chunks(stream, name, size)
        yield Member(name, is_folder, chunks)
        for _ in chunks:  # what was not taken
            pass
    if said:
        raise UsageError(f"{archive}: it ends before a member that it announces; {_AGAIN}")
    stream.drain()


def _tar_chunks(stream: _Stream, name: str, size: int) -> Iterator[bytes]:
    for begin in range(0, size, CHUNK):
        yield stream.exactly(min(CHUNK, size - begin), name)
    stream.exactly(-size % BLOCK, name)


def _extension(stream: _Stream, header: tarfile.TarInfo) -> dict[str, str]:
    """What a header says of the member that follows: a long name (GNU), or keys and values (pax)."""
    archive = stream.archive.path
    if header.size > LONGEST_EXTENSION:
        raise refused(archive, header.name, f"it is a header of {header.size:,} bytes")
    data = stream.exactly(header.size, header.name)
    stream.exactly(-header.size % BLOCK, header.name)
    if header.type in (b"L", b"K"):
        return {"path": _text(data.partition(b"\0")[0])} if header.type == b"L" else {}
    found = {}
    while data.strip(b"\0"):
        length = re.match(rb"([1-9][0-9]{0,7}) ", data)
        record = data[length.end() : int(length[1])] if length else b""
        key, equals, value = record.partition(b"=")
        if not length or int(length[1]) > len(data) or not equals or not value.endswith(b"\n"):
            raise refused(archive, header.name, "it is a damaged header", _AGAIN)
        found[_text(key)] = _text(value[:-1])
        data = data[int(length[1]) :]
    if header.type == tarfile.XGLTYPE:  # of all members that follow: a comment, in what is published
        for name in found:
            if name in ("path", "size") or name.startswith("GNU.sparse."):
                raise refused(archive, header.name, f"it gives one {name} to all members")
        return {}
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# Zip.


def _zip_members(file: Archive, most: int) -> Iterator[Member]:
    file.most_entries = most
    with file.reading():
        source = zipfile.ZipFile(file)
    with source:
        for info in source.infolist():
            name = str(info.orig_filename)  # `filename` ends at the first NUL
            is_folder = name.endswith("/")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFDIR if is_folder else stat.S_IFREG):
                what = "a symbolic link" if kind == stat.S_IFLNK else "neither a regular file nor a folder"
                raise refused(file.path, name, f"it is {what}", _REFUSED)
            if info.flag_bits & 0x2041:
                raise refused(file.path, name, "it is encrypted", "decrypt the archive first")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise refused(
                    file.path, name, f"it is compressed by method {info.compress_type}, and only deflate is read here",
                    "unpack it with another program",
                )  # fmt: skip
            if is_folder and info.file_size:
                raise refused(file.path, name, "it is a folder with bytes of its own")
            yield Member(name, is_folder, _zip_chunks(file, source, info))


def _zip_chunks(file: Archive, source: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    have = 0
    with file.reading(info.orig_filename):
        with source.open(info) as stream:
            while data := stream.read(CHUNK):
                have += len(data)
                file.came_out(len(data))
                yield data
        if have != info.file_size:
            raise EOFError(f"{have:,} of {info.file_size:,} bytes came")
