"""One file of the web, from a byte on: over http and https, as much as was announced, or an error in one line."""

from __future__ import annotations

import contextlib
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import OK, PARTIAL_CONTENT, REQUESTED_RANGE_NOT_SATISFIABLE, HTTPException, HTTPMessage, HTTPResponse
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from fullconv import __version__
from fullconv.errors import RunError, shown

CHUNK = 1 << 20
"""Bytes that are asked of the connection at a time."""


@dataclass(frozen=True)
class Answer:
    """What a server sends.

    begin: the byte of the file at which it begins.
    total: the bytes of the whole file; None where the server does not say.
    version: what the server calls this version of the file (a strong ETag, or the date of its last change).
    chunks: the bytes, as they come; never more than `total`, and `RunError` when they break off before.
    """

    begin: int
    total: int | None
    version: str | None
    chunks: Iterator[bytes]


@contextlib.contextmanager
def ask(url: str, there: int, version: str | None, timeout: float, most: int) -> Iterator[Answer]:
    """Ask for the file at `url`, of which `there` bytes of that `version` are there already.

    The answer begins at 0 where the server knows no ranges or has another version by now (RFC 9110, sections 13.1.5
    and 14). `timeout` is in seconds, for the connection and for every wait for bytes; `most` is the bytes that the
    whole file may have. Raises `RunError`.
    """
    response, begin = _answer(url, there, version, timeout)
    with response:
        total = _announced(url, response, begin, most)
        yield Answer(begin, total, _version(response), _chunks(url, response, begin, total, timeout, most))


def reason(problem: BaseException | str, timeout: float = 0) -> str:
    """Why something failed, in few words and on one line.

    >>> reason(FileNotFoundError(2, "No such file or directory"))
    'No such file or directory'
    """
    if isinstance(problem, URLError):
        problem = problem.reason
    if isinstance(problem, TimeoutError):
        return f"no answer for {timeout:g} s"
    return shown(getattr(problem, "strerror", None) or str(problem) or type(problem).__name__)


def _answer(url: str, there: int, version: str | None, timeout: float) -> tuple[HTTPResponse, int]:
    if there and version is not None:
        response = _request(url, {"Range": f"bytes={there}-", "If-Range": version}, timeout)
        if response.status == OK:
            return response, 0
        begins = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        same = _version(response) in (None, version)
        if response.status == PARTIAL_CONTENT and same and begins and int(begins[1]) == there:
            return response, there
        response.close()
    return _request(url, {}, timeout), 0


def _request(url: str, headers: dict[str, str], timeout: float) -> HTTPResponse:
    fixed = {"User-Agent": f"fullconv/{__version__}", "Accept-Encoding": "identity"}
    try:
        return _opener().open(urllib.request.Request(url, headers=fixed | headers), timeout=timeout)
    except HTTPError as problem:
        problem.close()
        why, later = str(problem.reason).partition("\n")[0], problem.code >= 500 or problem.code == 429
        raise RunError(
            f"{url}: the server answered {problem.code} ({shown(why)}); "
            f"{'run again later' if later else 'check the address'}"
        ) from None
    except (OSError, HTTPException, ValueError) as problem:  # ValueError: a host that cannot be a name
        raise _broken(url, reason(problem, timeout)) from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the web only, and never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """The request to follow with; `HTTPError` for one that must not be."""
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise HTTPError(req.full_url, code, f"it leads to {newurl}, which is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> HTTPResponse | None:
        """What the redirect leads to; `HTTPError` also for one that is no address."""
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:
            raise HTTPError(req.full_url, code, "it leads to no address", headers, fp) from None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Errors(urllib.request.HTTPErrorProcessor):
    """Makes errors of the server exceptions, but for a range that the file does not have."""

    def http_response(self, request: urllib.request.Request, response: HTTPResponse) -> HTTPResponse:
        """The response as it is, or the exception for it."""
        if response.status == REQUESTED_RANGE_NOT_SATISFIABLE:
            return response
        return super().http_response(request, response)

    https_response = http_response


def _opener() -> urllib.request.OpenerDirector:
    """What speaks http and https, through the proxies of the environment, and nothing else: no file:, no ftp:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(),
        urllib.request.UnknownHandler(), urllib.request.HTTPDefaultErrorHandler(), _Redirects(), _Errors(),
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener


def _version(response: HTTPResponse) -> str | None:
    """What names this version of the file: a strong ETag or the date of its last change."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _announced(url: str, response: HTTPResponse, have: int, most: int) -> int | None:
    """The bytes of the whole file as the server announces them; None where it does not. Refuses what is no file."""
    if response.status != (PARTIAL_CONTENT if have else OK):
        raise RunError(f"{url}: the server answered {response.status} instead of the file; run again later")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise RunError(f"{url}: the server sends it compressed, which was not asked for; take another address")
    length = response.headers.get("Content-Length")
    if length is None:
        return None
    if not re.fullmatch(r"\d{1,18}", length):
        raise RunError(f"{url}: the server announces '{shown(length)}' bytes; run again later")
    total = have + int(length)
    if total > most:
        raise RunError(f"{url}: {total:,} bytes are announced, and at most {most:,} are taken; check the address")
    return total


def _chunks(
    url: str, response: HTTPResponse, have: int, total: int | None, timeout: float, most: int
) -> Iterator[bytes]:
    """What comes, never more than was announced; `RunError` when it breaks off."""
    end = most if total is None else total
    while have < end:
        try:
            chunk = response.read1(min(CHUNK, end - have))
        except (OSError, HTTPException) as problem:
            raise _broken(url, reason(problem, timeout)) from None
        if not chunk:
            break
        have += len(chunk)
        yield chunk
    if total is None and have >= most:
        raise RunError(f"{url}: more than {most:,} bytes came, and no more are taken; check the address")
    if total is not None and have < total:
        raise _broken(url, f"it broke off after {have:,} of {total:,} bytes")


def _broken(url: str, why: str) -> RunError:
    return RunError(f"{url}: {why}; check the connection and run again (the part that came is kept)")
