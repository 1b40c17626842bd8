"""Files fetched once and kept: resumed after a break, verified before they get their name, then never asked for again.

What comes goes into ``NAME.part`` and becomes ``NAME`` in one step, when its length and its checksum are right. A side
file ``NAME.origin.json`` remembers the address, what the server calls the version of the file (so that a resumed
download cannot join two versions), and the SHA-256 of the first whole one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from io import FileIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fullconv.errors import RunError, UsageError, shown
from fullconv.io.atomic import write_atomically
from fullconv.io.download.checksum import Checksum
from fullconv.io.download.web import ask, reason

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes of the whole file (None where the server does not say)."""

Refuse = Callable[[bytes], str | None]
"""Called with the first 64 bytes of a file; says what it is if it is not to be taken ("an HTML page"), else None."""


def fetch_file(
    url: str,
    folder: Path,
    expected: Checksum | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
    refuse: Refuse | None = None,
    *,
    name: str | None = None,
    by_hand: bool = False,
    most: int = 10 * 10**9,
) -> Path:
    """The file at the address `url`, kept in `folder`; fetched if it is not there.

    It is kept under `name`, or under its own name (`file_name`) if none is given. A file that is there is verified
    and needs no network. `expected` is its published checksum; where there is none, the SHA-256 of the first fetch is
    remembered and holds from then on. `timeout` is in seconds, for the connection and for every wait for bytes.
    `refuse` says what must not be taken for the file (`page_or_pointer`). With `by_hand`, a file of this name of
    which nothing is known is taken for the one at the address. `most` is the bytes that the file may have.

    Two processes may fetch the same file: one does, the other waits. Raises `UsageError` for an address that cannot
    be used and for a kept file that is not what it was; `RunError` when the network, the server or the disk fails, or
    when what came is not what was published.
    """
    path = folder / (file_name(url) if name is None else name)
    if not _exists(path):
        part = path.with_name(f"{path.name}.part")
        with _alone_with(part):
            if not _exists(path):  # another process may have fetched it while this one waited
                _download(url, part, progress, timeout, most)
                _verify_new(url, part, path, expected, refuse)
                part.replace(path)
                return path
    _verify_kept(url, path, expected, refuse, by_hand)
    return path


def cache_folder() -> Path:
    """Where fetched files are kept: ``FULLCONV_HOME``, or ``fullconv`` in the user's cache (``XDG_CACHE_HOME``, or
    ``~/.cache``).
    """
    if home := os.environ.get("FULLCONV_HOME"):
        return Path(home)
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "fullconv"


def page_or_pointer(head: bytes) -> str | None:
    """What often comes instead of a file, by its first 64 bytes; None for anything else.

    >>> page_or_pointer(b"<!doctype html><title>404</title>")
    'an HTML page'
    """
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer"
    # A "<" alone is not enough: it may be the length at the start of a .safetensors file or of a .caffemodel's name.
    return "an HTML page" if re.match(rb"\s*<(!doctype|html|head|\?xml|!--)", head, re.IGNORECASE) else None


def file_name(url: str) -> str:
    """The name of the file at an address. Raises `UsageError` for what is no address of a file.

    >>> file_name("https://example.org/sets/images%2B1.tar?download=1")
    'images+1.tar'
    """
    try:
        parts = urlsplit(url)
        web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        web = False
    if not web or not re.fullmatch(r"[!-~]+", url):
        raise UsageError(f"{shown(url)}: no address of a file on the web; give http://HOST/FILE or https://HOST/FILE")
    name = unquote(parts.path).rpartition("/")[2]
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise UsageError(f"{url}: it does not end in the name of a file; give the address of the file itself")
    return name


# What is remembered of a file beside it, and what must be true of it.


@dataclass(frozen=True)
class _Origin:
    """The side file: the address, the version of the part (ETag or Last-Modified), the SHA-256 of the first fetch."""

    url: str
    version: str | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, path: Path, url: str) -> _Origin:
        """What is remembered of `path`; nothing where the side file is missing, damaged, or of another address."""
        try:
            found = cls(**json.loads(_side_file(path).read_bytes()))
            sound = (found.version or "").isprintable() and (not found.sha256 or Checksum("sha256", found.sha256))
        except (OSError, ValueError, TypeError, AttributeError, UsageError):
            return cls(url)
        return found if found.url == url and sound else cls(url)

    def write(self, path: Path) -> None:
        """Remember it beside `path`."""
        write_atomically(_side_file(path), json.dumps(asdict(self), indent=1).encode())

    def wanted(self, expected: Checksum | None) -> tuple[Checksum | None, str]:
        """The checksum that the file must have, and the words for it."""
        if expected is not None or self.sha256 is None:
            return expected, "it should have"
        return Checksum("sha256", self.sha256), "no checksum is published, and at its first fetch it had"


def _side_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.origin.json")


def _sha256(path: Path) -> str:
    return Checksum("sha256", "0" * 64).of(path).value


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as problem:
        raise UsageError(f"{path}: it cannot be reached ({reason(problem)}); choose another folder") from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _verify_new(url: str, part: Path, path: Path, expected: Checksum | None, refuse: Refuse | None) -> None:
    """Refuse and remove what came if it is not the file; remember the SHA-256 of what is."""
    if refuse is not None and (instead := refuse(_head(part))):
        part.unlink()
        raise RunError(f"{url}: {instead} came instead of the file; check the address")
    origin = _Origin.of(path, url)
    wanted, words = origin.wanted(expected)
    if wanted is not None and (found := wanted.of(part)) != wanted:
        part.unlink()
        way_out = "" if expected is not None else f", or delete {_side_file(path)} if the change is right"
        raise RunError(f"{url}: what came has {found}, {words} {wanted}; fetch it again{way_out}")
    replace(origin, sha256=_sha256(part)).write(path)


def _verify_kept(url: str, path: Path, expected: Checksum | None, refuse: Refuse | None, by_hand: bool) -> None:
    """Refuse a file that is there and is not the one asked for."""
    origin = _Origin.of(path, url)
    wanted, words = origin.wanted(expected)
    try:
        head = _head(path)
        instead = refuse(head) if refuse is not None else None
        found = wanted.of(path) if wanted is not None else None
    except OSError as problem:
        raise UsageError(f"{path}: it cannot be read ({reason(problem)}); check it") from None
    if instead is not None:
        raise UsageError(f"{path}: it is {instead}; delete it and run again")
    if found != wanted:
        raise UsageError(
            f"{path}: it has {found}, {words} {wanted}; it was damaged or changed, delete it and run again"
        )
    if wanted is None and not by_hand:
        raise UsageError(f"{path}: it is there, and nothing says that it is {url}; move it away or give another folder")
    if wanted is None:
        with contextlib.suppress(RunError):  # a folder that cannot be written serves as well
            replace(origin, sha256=_sha256(path)).write(path)


# The disk.


@contextlib.contextmanager
def _alone_with(part: Path) -> Iterator[None]:
    """The part, locked: nobody else writes to it meanwhile. An empty one is not left behind.

    Whatever the disk refuses meanwhile becomes a `RunError`.
    """
    lock = _lock_file(part)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with FileIO(lock, "ab+") as file:
                _lock(file)
                if not _is_named(file, lock):  # whoever had it before finished it or removed it
                    continue
                try:
                    yield
                finally:
                    ours = lock != part or _is_named(file, part)
                    if ours and part.exists() and part.stat().st_size == 0:
                        part.unlink()
                return
    except OSError as problem:
        raise RunError(
            f"{part}: cannot write it ({reason(problem)}); free the disk, or choose another folder with FULLCONV_HOME "
            "(the part that came is kept)"
        ) from None


if sys.platform == "win32":

    def _lock_file(part: Path) -> Path:
        return part.with_name(
            f"{part.name}.lock"
        )  # what is open there cannot be renamed: a file of its own, that stays

    def _lock(file: FileIO) -> None:
        while True:
            try:
                return msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            except OSError as problem:
                if problem.errno != errno.EDEADLOCK:  # it waited 10 s: wait on
                    raise
else:

    def _lock_file(part: Path) -> Path:
        return part

    def _lock(file: FileIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)


def _is_named(file: FileIO, path: Path) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _download(url: str, part: Path, progress: Progress | None, timeout: float, most: int) -> None:
    """Bring the part to its full length, from where it broke off if the file at the address is still the same."""
    path = part.with_name(part.name.removesuffix(".part"))
    origin = _Origin.of(path, url)
    with FileIO(part, "ab") as file:
        there = os.fstat(file.fileno()).st_size
        with ask(url, there, origin.version, timeout, most) as answer:
            free = shutil.disk_usage(part.parent).free
            if answer.total is not None and answer.total - answer.begin > free:
                raise RunError(
                    f"{part}: {answer.total - answer.begin:,} bytes are to come and {free:,} are free; "
                    "free the disk, or choose another folder with FULLCONV_HOME"
                )
            file.truncate(answer.begin)
            replace(origin, version=answer.version).write(path)
            have = answer.begin
            for chunk in answer.chunks:
                rest = memoryview(chunk)
                while rest:  # an unbuffered file may take a part only
                    rest = rest[file.write(rest) :]
                have += len(chunk)
                if progress is not None:
                    progress(have, answer.total)
        os.fsync(file.fileno())
