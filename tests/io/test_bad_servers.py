"""Whatever a server does, it ends in the file that was published or in one line of an error."""

import hashlib
import socket
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.file_server import BODY, SHA, failed, only_this_machine, part, running_site

from fullconv.errors import RunError, UsageError
from fullconv.io.download import fetch
from fullconv.io.download.checksum import DIGITS, Checksum
from fullconv.io.download.fetch import fetch_file

at_home = pytest.fixture(autouse=True)(only_this_machine)


@pytest.fixture
def site():
    with running_site() as running:
        yield running


def test_what_is_not_what_was_published_is_removed(site, tmp_path):
    site.body = BODY[:-1] + b"!"
    message = failed(RunError, SHA.value, url=site.url, folder=tmp_path, expected=SHA)
    assert hashlib.sha256(site.body).hexdigest() in message
    assert not part(tmp_path).exists() and not (tmp_path / "net-1.pth").exists()


@given(st.sampled_from(sorted(DIGITS)), st.booleans())
@settings(max_examples=8)
def test_every_kind_of_checksum_is_compared(kind, right):
    value = hashlib.new(kind.removesuffix("-prefix"), BODY).hexdigest()[: DIGITS[kind]]
    expected = Checksum(kind, value if right else value[::-1])
    with running_site() as site, tempfile.TemporaryDirectory() as folder:
        if right:
            assert fetch_file(site.url, Path(folder), expected=expected).read_bytes() == BODY
        else:
            failed(RunError, value, value[::-1], url=site.url, folder=Path(folder), expected=expected)


def test_without_a_published_checksum_the_first_fetch_holds(site, tmp_path):
    path = fetch_file(site.url, tmp_path)
    path.unlink()
    site.body, site.tag = BODY[::-1], '"v2"'
    failed(RunError, "no checksum is published", SHA.value, "origin.json", url=site.url, folder=tmp_path)
    (tmp_path / "net-1.pth.origin.json").unlink()
    assert fetch_file(site.url, tmp_path).read_bytes() == BODY[::-1]


@pytest.mark.parametrize(
    "status, words",
    [(404, "check the address"), (403, "check the address"), (500, "run again later"), (503, "run again later"),
     (429, "run again later"), (204, "run again later")],
)  # fmt: skip
def test_an_error_of_the_server_is_named(site, tmp_path, status, words):
    site.misbehave = lambda handler: handler.answer(status, b"", {} if status == 204 else {"Content-Length": 0})
    failed(RunError, site.url, str(status), words, url=site.url, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "body, words",
    [(b"<!DOCTYPE html><title>Sign in</title>", "it is an HTML page"), (b"", "it is an empty file"),
     (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "it is a git-lfs pointer")],
)  # fmt: skip
def test_what_comes_instead_of_the_file_is_refused(site, tmp_path, body, words):
    site.misbehave = lambda handler: handler.answer(200, body, {"Content-Length": len(body), "ETag": '"x"'})
    failed(RunError, words, "check the address", url=site.url, folder=tmp_path)
    assert not part(tmp_path).exists() and not (tmp_path / "net-1.pth").exists()


@pytest.mark.parametrize(
    "length, words",
    [*((length, f"the server announces '{length}' bytes") for length in ("abc", "-3", "1e9", "9" * 30)),
     (str(10**11), "100,000,000,000 bytes are announced, but the limit is 10,000,000,000")],
)  # fmt: skip
def test_a_length_that_cannot_be_is_refused(site, tmp_path, length, words):
    site.length = length
    failed(RunError, words, url=site.url, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_more_is_taken_than_was_announced(site, tmp_path):
    site.length = 500
    assert fetch_file(site.url, tmp_path).read_bytes() == BODY[:500]


def test_a_file_without_end_is_refused(site, tmp_path):
    site.misbehave = lambda handler: handler.answer(200, BODY, {"Connection": "close"})
    failed(RunError, "more than 5,000 bytes came", url=site.url, folder=tmp_path, most=5000)
    assert part(tmp_path).stat().st_size == 5000


def test_a_compressed_answer_is_refused(site, tmp_path):
    site.misbehave = lambda handler: handler.answer(200, b"x", {"Content-Encoding": "gzip", "Content-Length": 1})
    failed(RunError, "compressed", url=site.url, folder=tmp_path)
    assert site.requests[0]["Accept-Encoding"] == "identity"


def test_a_broken_chunk_is_a_break(site, tmp_path):
    site.misbehave = lambda handler: handler.answer(200, b"zz\r\nxx", {"Transfer-Encoding": "chunked"})
    failed(RunError, "the part that came is kept", url=site.url, folder=tmp_path)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x.pth", "data:,x", "gopher://127.0.0.1/"])
def test_redirects_do_not_leave_the_web(site, tmp_path, target):
    site.misbehave = lambda handler: handler.answer(302, b"", {"Location": target, "Content-Length": 0})
    failed(RunError, "302", url=site.url, folder=tmp_path)
    assert len(site.requests) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_that_makes_no_sense_is_named(site, tmp_path, code):
    site.misbehave = lambda handler: handler.answer(code, b"", {"Location": "http://[::1/", "Content-Length": 0})
    failed(RunError, "it leads to an invalid address", url=site.url, folder=tmp_path)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_on_the_web_are_followed_but_not_for_ever(site, tmp_path, code):
    def misbehave(handler):
        if handler.path == "/storage":
            return handler.serve(site)
        return handler.answer(code, b"", {"Location": "/storage", "Content-Length": 0})

    site.misbehave = misbehave
    assert fetch_file(site.url, tmp_path).read_bytes() == BODY
    site.misbehave = lambda handler: handler.answer(code, b"", {"Location": handler.path, "Content-Length": 0})
    failed(RunError, str(code), url=site.url.replace("1.pth", "2.pth"), folder=tmp_path)


@pytest.mark.parametrize("start, target, followed", [
    ("https", "http", False), ("https", "https", True), ("http", "https", True), ("http", "http", True),
])  # fmt: skip
def test_a_redirect_never_leaves_https(start, target, followed):
    request = urllib.request.Request(f"{start}://a.example/x")
    redirect = fetch._Redirects()
    if followed:
        new = redirect.redirect_request(request, None, 302, "Found", {}, f"{target}://b.example/y")
        assert new.full_url == f"{target}://b.example/y"
    else:
        with pytest.raises(urllib.request.HTTPError, match="not followed"):
            redirect.redirect_request(request, None, 302, "Found", {}, f"{target}://b.example/y")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_nothing_but_the_web_can_be_opened(tmp_path, url):
    failed(UsageError, "not the address of a file on the web", url=url, folder=tmp_path, name="x")
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_given_up(site, tmp_path):
    release = threading.Event()
    site.misbehave = lambda handler: release.wait(5)
    started = time.monotonic()
    failed(RunError, "no answer for 0.2 s", url=site.url, folder=tmp_path, timeout=0.2)
    release.set()
    assert time.monotonic() - started < 2


def test_a_server_that_falls_silent_is_given_up_and_continued(site, tmp_path):
    release = threading.Event()

    def misbehave(handler):
        handler.answer(200, BODY[:700], {"Content-Length": len(BODY), "ETag": '"v1"'})
        release.wait(5)

    site.misbehave = misbehave
    failed(RunError, "no answer for 0.2 s", url=site.url, folder=tmp_path, timeout=0.2)
    release.set()
    assert part(tmp_path).read_bytes() == BODY[:700]
    site.misbehave = None
    assert fetch_file(site.url, tmp_path).read_bytes() == BODY
    assert site.requests[-1]["Range"] == "bytes=700-"


def test_no_server_at_all(tmp_path):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/net-1.pth"
        failed(RunError, url, "refused", "check the connection", url=url, folder=tmp_path)
    assert not list(tmp_path.iterdir())
