"""Fetch files over HTTP once and keep them: resumed after a break, verified before they get their name.

Bytes go to ``NAME.part``, which becomes ``NAME`` in one step when its length and its checksum are right. The side file
``NAME.origin.json`` records the address, the server's version of the file (a resumed download never joins two
versions) and the SHA-256 of the first complete download.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from fullconv import __version__
from fullconv.errors import FullconvError, RunError, UsageError, shown
from fullconv.io.atomic import write_atomically
from fullconv.io.download.checksum import Checksum

Progress = Callable[[int, int | None], None]
"""Called with the bytes on disk and the bytes of the whole file (None if the server does not announce them)."""

CHUNK = 1 << 20
_FREE = "free the disk, or choose another folder with FULLCONV_HOME"


def fetch_file(
    url: str,
    folder: Path,
    expected: Checksum | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
    *,
    name: str | None = None,
    by_hand: bool = False,
    most: int = 10 * 10**9,
) -> Path:
    """Return the path of the file at `url` in `folder`; download it if it is missing.

    An existing file is verified and needs no network. If several processes fetch one file, one of them downloads it.

    Args:
        expected: Published checksum. Without one, the SHA-256 of the first download is recorded and enforced.
        timeout: Seconds to wait for the connection and for each read.
        name: File name to use instead of the one in the address.
        by_hand: Accept an existing file of unknown origin as the file at `url`.
        most: Limit on the size of the file in bytes.

    Raises:
        UsageError: The address is not usable, or the existing file is not the one at `url`.
        RunError: The network, the server or the disk fails, or the download is not what was published.
    """
    path = folder / file_name(url, name)
    with _disk_errors(UsageError, f"{path}: cannot be reached", "choose another folder"):
        missing = not path.exists()
    if missing and _fetch_missing(url, path, expected, progress, timeout, most):
        return path
    origin = _read_origin(path, url)
    with _disk_errors(UsageError, f"{path}: cannot be read", "check the file"):
        wrong = _mismatch(path, expected, origin)
    if wrong:
        raise UsageError(f"{path}: not the file at {url} ({wrong}); delete it and run again")
    if expected is None and not origin.get("sha256"):
        if not by_hand:
            raise UsageError(f"{path}: exists, but nothing says that it is {url}; move it or choose another folder")
        with suppress(RunError):  # the folder may be read-only
            _write_origin(path, url, origin.get("version"), _sha256(path))
    return path


def cache_folder() -> Path:
    """Return the folder of fetched files: ``FULLCONV_HOME``, or ``fullconv`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if home := os.environ.get("FULLCONV_HOME"):
        return Path(home)
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "fullconv"


def file_name(url: str, name: str | None = None) -> str:
    """Return `name`, or the file name in an address; raise `UsageError` if the address cannot be that of a file.

    >>> file_name("https://example.org/sets/images%2B1.tar?download=1")
    'images+1.tar'
    """
    try:
        parts = urlsplit(url)
        web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        web = False
    if not web or not re.fullmatch(r"[!-~]+", url):
        raise UsageError(f"{shown(url)}: not the address of a file on the web; give http(s)://HOST/FILE")
    name = name or unquote(parts.path).rpartition("/")[2]
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise UsageError(f"{url}: does not end in a file name; give the address of the file itself")
    return name


def page_or_pointer(head: bytes) -> str | None:
    """Recognize, by its first 64 bytes, what servers often send instead of a file; return None for anything else.

    >>> page_or_pointer(b"<!doctype html><title>404</title>")
    'an HTML page'
    """
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer"
    # A "<" alone is not enough: it may be the length at the start of a .safetensors file or of a .caffemodel's name.
    return "an HTML page" if re.match(rb"\s*<(!doctype|html|head|\?xml|!--)", head, re.IGNORECASE) else None


def _fetch_missing(
    url: str, path: Path, expected: Checksum | None, progress: Progress | None, timeout: float, most: int
) -> bool:
    """Download and verify a file; return False if another process did so while this one waited for the lock."""
    part = path.with_name(f"{path.name}.part")
    lock = path.with_name(f"{path.name}.part.lock")
    with _disk_errors(RunError, f"{part}: cannot write it", f"{_FREE} (the part that came is kept)"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            try:
                if path.exists():
                    return False
                _download(url, path, part, progress, timeout, most)
                origin = _read_origin(path, url)
                if wrong := _mismatch(part, expected, origin):
                    part.unlink()
                    changed = f", or delete {_side_file(path)} if the publisher replaced the file"
                    raise RunError(
                        f"{url}: another file came ({wrong}); check the address and run again"
                        + (changed if expected is None and origin.get("sha256") else "")
                    )
                _write_origin(path, url, origin.get("version"), _sha256(part))
                part.replace(path)
            finally:
                with suppress(OSError):
                    lock.unlink()  # filelock makes those that wait open a new one
                    if not part.stat().st_size:
                        part.unlink()
    return True


def _mismatch(file: Path, expected: Checksum | None, origin: dict[str, str | None]) -> str | None:
    """Describe why a file is not the wanted one; return None if nothing contradicts it."""
    with file.open("rb") as opened:
        if instead := page_or_pointer(opened.read(64)):
            return f"it is {instead}"
    first = origin.get("sha256")
    wanted = expected or (Checksum("sha256", first) if first else None)
    if wanted is None or (found := wanted.of(file)) == wanted:
        return None
    source = "the published checksum is" if expected else "no checksum is published and the first download had"
    return f"it has {found}, but {source} {wanted}"


def _sha256(path: Path) -> str:
    return Checksum("sha256", "0" * 64).of(path).value


def _side_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.origin.json")


def _read_origin(path: Path, url: str) -> dict[str, str | None]:
    """Read the side file of `path`; return an empty record if it is missing, damaged or for another address."""
    try:
        origin = json.loads(_side_file(path).read_bytes())
        sound = re.fullmatch(r"[ -~]*", origin["version"] or "") and re.fullmatch(
            r"([0-9a-f]{64})?", origin["sha256"] or ""
        )
        return origin if sound and origin["url"] == url else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _write_origin(path: Path, url: str, version: str | None, sha256: str | None) -> None:
    record = json.dumps({"url": url, "version": version, "sha256": sha256}, indent=1)
    write_atomically(_side_file(path), record.encode())


def _download(url: str, path: Path, part: Path, progress: Progress | None, timeout: float, most: int) -> None:
    """Complete the part, from where it broke off if the file at the address is still the same."""
    origin = _read_origin(path, url)
    have = part.stat().st_size if part.exists() else 0
    with _request(url, have, origin.get("version"), timeout) as response:
        have = have if response.status == 206 else 0
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise RunError(f"{url}: the server sends it compressed without being asked; use another address")
        length = response.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{0,18}", length):
            raise RunError(f"{url}: the server announces '{shown(length)}' bytes; run again later")
        total = have + int(length) if length else None
        if total is not None and total > most:
            raise RunError(f"{url}: {total:,} bytes are announced, but the limit is {most:,}; check the address")
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - have > free:
            raise RunError(f"{part}: {total - have:,} bytes are to come and {free:,} are free; {_FREE}")
        with part.open("ab") as file:
            file.truncate(have)
            _write_origin(path, url, _version(response), origin.get("sha256"))
            end = most if total is None else total
            while have < end:
                with _network_errors(url, timeout):
                    chunk = response.read1(min(CHUNK, end - have))
                    if not chunk and total is not None:
                        raise ConnectionError(f"it broke off after {have:,} of {total:,} bytes")
                if not chunk:
                    break
                file.write(chunk)
                file.flush()
                have += len(chunk)
                if progress is not None:
                    progress(have, total)
            os.fsync(file.fileno())
    if total is None and have >= most:
        raise RunError(f"{url}: more than {most:,} bytes came, which is the limit; check the address")


def _request(url: str, have: int, version: str | None, timeout: float) -> HTTPResponse:
    """Ask for a file from byte `have` on if it is still of that `version`, else from its start (RFC 9110, section 14).

    The response has status 206 if it continues the `have` bytes, and 200 if it is the whole file.
    """
    headers = {"User-Agent": f"fullconv/{__version__}", "Accept-Encoding": "identity"}
    ranged = {"Range": f"bytes={have}-", "If-Range": version} if have and version else {}
    opener = urllib.request.build_opener(_Redirects)
    try:
        with _network_errors(url, timeout):
            response: HTTPResponse = opener.open(urllib.request.Request(url, headers=headers | ranged), timeout=timeout)
    except HTTPError as problem:
        problem.close()
        if ranged and problem.code == 416:
            return _request(url, 0, None, timeout)
        why = shown(str(problem.reason).partition("\n")[0])
        way_out = "run again later" if problem.code >= 500 or problem.code == 429 else "check the address"
        raise RunError(f"{url}: the server answered {problem.code} ({why}); {way_out}") from None
    starts = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    continues = ranged and response.status == 206 and starts and _version(response) in (None, version)
    if response.status == 200 or continues:
        return response
    response.close()
    if ranged:
        return _request(url, 0, None, timeout)
    raise RunError(f"{url}: the server answered {response.status} instead of the file; run again later")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects on the web only, and never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise HTTPError(req.full_url, code, f"it leads to {newurl}, which is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:
            raise HTTPError(req.full_url, code, "it leads to an invalid address", headers, fp) from None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _version(response: HTTPResponse) -> str | None:
    """Return the server's name for this version of the file: a strong ETag, or the date of its last change."""
    tag = response.headers.get("ETag", "")
    found = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    return found if re.fullmatch(r"[ -~]+", found) else None


@contextmanager
def _network_errors(url: str, timeout: float) -> Iterator[None]:
    try:
        yield
    except HTTPError:
        raise
    except (OSError, HTTPException, ValueError) as problem:  # ValueError: a host that cannot be a name
        cause = problem.reason if isinstance(problem, URLError) else problem
        why = f"no answer for {timeout:g} s" if isinstance(cause, TimeoutError) else reason(cause)
        raise RunError(f"{url}: {why}; check the connection and run again (the part that came is kept)") from None


@contextmanager
def _disk_errors(error: type[FullconvError], subject: str, way_out: str) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise error(f"{subject} ({reason(problem)}); {way_out}") from None


def reason(problem: BaseException | str) -> str:
    """Say why something failed, in a few words and on one line."""
    return shown(getattr(problem, "strerror", None) or str(problem) or type(problem).__name__)
