"""A file server on this machine that does what it is told, and what the tests of downloads say about it."""

import contextlib
import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from fullconv.io.download.checksum import Checksum
from fullconv.io.download.fetch import fetch_file

BODY = bytes(range(256)) * 40
SHA = Checksum("sha256", hashlib.sha256(BODY).hexdigest())


class Site(BaseHTTPRequestHandler):
    """A file server that does what it is told: its settings are those of `site`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        site = self.server.site
        site.requests.append(dict(self.headers))
        site.misbehave(self) if site.misbehave else self.serve(site)
        self.close_connection = True

    def serve(self, site):
        begin, asked = 0, self.headers.get("Range")
        if asked and site.ranges and self.headers.get("If-Range") in (site.tag, None):
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        length = len(site.body) - begin if site.length is None else site.length
        headers = {"Content-Length": length, "ETag": site.tag, "Last-Modified": site.date}
        if begin >= len(site.body):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(site.body)}", "Content-Length": 0})
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(site.body) - 1}/{len(site.body)}"
        return self.answer(206 if begin else 200, site.body[begin:][: site.cut], headers)

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):  # clients that hang up
        pass


@contextlib.contextmanager
def running_site():
    server = Quiet(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    server.site = SimpleNamespace(
        body=BODY, tag='"v1"', date=None, ranges=True, cut=None, length=None, misbehave=None, requests=[],
        url=f"http://127.0.0.1:{server.server_port}/models/net-1.pth",
    )  # fmt: skip
    try:
        yield server.site
    finally:
        server.shutdown()
        server.server_close()


def only_this_machine(monkeypatch):
    """No test reaches another machine, whatever it asks for; no setting of the user's counts."""
    connect = socket.create_connection

    def here(address, *given, **options):
        assert address[0] == "127.0.0.1", address
        return connect(address, *given, **options)

    monkeypatch.setattr(socket, "create_connection", here)
    for name in ("FULLCONV_HOME", "XDG_CACHE_HOME", *(f"{scheme}_proxy" for scheme in ("http", "https", "all"))):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def part(folder):
    return folder / "net-1.pth.part"


def failed(error, *words, fetch=fetch_file, **given):
    """The message of a failed fetch: one line."""
    with pytest.raises(error) as caught:
        fetch(**given)
    message = str(caught.value)
    assert "\n" not in message and ";" in message
    for word in words:
        assert word in message, message
    return message
