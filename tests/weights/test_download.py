"""Files are fetched once, whole and verified, resumed after breaks, and never mistaken for others."""

import hashlib
import json
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from file_server import BODY, SHA, failed, only_this_machine, part, running_site
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.errors import RunError, UsageError
from fullconv.weights import download
from fullconv.weights.download import cache_folder, fetch
from fullconv.weights.known import KNOWN

at_home = pytest.fixture(autouse=True)(only_this_machine)


@pytest.fixture
def site():
    with running_site() as running:
        yield running


# The good way.


def test_a_file_is_fetched_once(site, tmp_path):
    seen = []
    path = fetch(site.url, tmp_path, progress=lambda have, total: seen.append((have, total)))
    assert path == tmp_path / "net-1.pth" and path.read_bytes() == BODY
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net-1.pth", "net-1.pth.origin.json"]
    assert seen == sorted(seen) and seen[-1] == (len(BODY), len(BODY))
    assert site.requests[0]["User-Agent"].startswith("fullconv/")
    assert fetch(site.url, tmp_path) == fetch(site.url, tmp_path, expected=SHA) == path
    assert len(site.requests) == 1


@pytest.mark.parametrize("length", ["none", "chunked"])
def test_a_server_that_does_not_say_how_long_it_is(site, tmp_path, length):
    def misbehave(handler):
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
        headers = {"Transfer-Encoding": "chunked"} if length == "chunked" else {"Connection": "close"}
        handler.answer(200, chunks if length == "chunked" else BODY, headers)

    site.misbehave = misbehave
    seen = []
    assert fetch(site.url, tmp_path, lambda *now: seen.append(now)).read_bytes() == BODY
    assert seen[-1] == (len(BODY), None)


@pytest.mark.parametrize(
    "environment, folder",
    [
        ({"FULLCONV_HOME": "/a/b"}, Path("/a/b")),
        ({"FULLCONV_HOME": "/a/b", "XDG_CACHE_HOME": "/c"}, Path("/a/b")),
        ({"XDG_CACHE_HOME": "/c"}, Path("/c/fullconv")),
        ({"XDG_CACHE_HOME": "relative"}, Path.home() / ".cache" / "fullconv"),
        ({}, Path.home() / ".cache" / "fullconv"),
    ],
)
def test_where_files_are_kept(monkeypatch, environment, folder):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == folder


def test_the_cache_is_where_files_go(site, tmp_path, monkeypatch):
    monkeypatch.setenv("FULLCONV_HOME", str(tmp_path / "new" / "home"))
    assert fetch(site.url) == tmp_path / "new" / "home" / "net-1.pth"


# Breaks.


@given(st.lists(st.integers(1, len(BODY)), max_size=5))
@settings(max_examples=25)
def test_a_download_goes_on_where_it_broke_off(cuts):
    with running_site() as site, tempfile.TemporaryDirectory() as name:
        folder, have = Path(name), 0
        for cut in cuts:
            if have + cut >= len(BODY):
                break
            site.cut = cut
            message = failed(RunError, "the part that came is kept", source=site.url, folder=folder)
            have += cut
            assert f"it broke off after {have:,} of {len(BODY):,} bytes" in message
            assert part(folder).read_bytes() == BODY[:have]
            assert not (folder / "net-1.pth").exists()
            assert site.requests[-1].get("Range") == (f"bytes={have - cut}-" if have > cut else None)
        site.cut = None
        assert fetch(site.url, folder).read_bytes() == BODY
        assert site.requests[-1].get("Range") == (f"bytes={have}-" if have else None)
        assert site.requests[-1].get("If-Range") == ('"v1"' if have else None)


def broken_off(site, folder, at=1000):
    site.cut = at
    failed(RunError, "broke off", source=site.url, folder=folder)
    site.cut = None
    assert part(folder).stat().st_size == at


def test_a_server_without_ranges_starts_over(site, tmp_path):
    broken_off(site, tmp_path)
    site.ranges = False
    assert fetch(site.url, tmp_path).read_bytes() == BODY


def test_two_versions_of_a_file_are_never_joined(site, tmp_path):
    broken_off(site, tmp_path)
    site.body, site.tag = BODY[::-1], '"v2"'
    assert fetch(site.url, tmp_path).read_bytes() == BODY[::-1]


@pytest.mark.parametrize("tag, date", [(None, None), ('W/"v1"', None)])
def test_without_a_name_for_the_version_it_starts_over(site, tmp_path, tag, date):
    site.tag, site.date = tag, date
    broken_off(site, tmp_path)
    assert fetch(site.url, tmp_path).read_bytes() == BODY
    assert "Range" not in site.requests[-1]


def test_the_date_of_the_last_change_names_the_version_too(site, tmp_path):
    site.tag, site.date = None, "Wed, 21 Oct 2015 07:28:00 GMT"
    broken_off(site, tmp_path)
    site.tag = site.date  # what the server compares If-Range with
    assert fetch(site.url, tmp_path).read_bytes() == BODY
    assert site.requests[-1]["If-Range"] == site.date and site.requests[-1]["Range"] == "bytes=1000-"


@pytest.mark.parametrize(
    "status, headers",
    [
        (206, {"ETag": '"v2"', "Content-Range": "bytes 1000-10239/10240"}),
        (206, {"ETag": '"v1"', "Content-Range": "bytes 0-10239/10240"}),
        (206, {"ETag": '"v1"'}),
        (416, {"Content-Range": "bytes */900"}),
        (204, {}),
    ],
)
def test_an_answer_that_does_not_fit_the_part_is_not_appended(site, tmp_path, status, headers):
    broken_off(site, tmp_path)

    def misbehave(handler):
        if "Range" in handler.headers:
            return handler.answer(status, b"", headers | ({"Content-Length": 0} if status != 204 else {}))
        return handler.serve(site)

    site.misbehave = misbehave
    assert fetch(site.url, tmp_path).read_bytes() == BODY
    assert "Range" in site.requests[-2] and "Range" not in site.requests[-1]


def test_a_part_of_another_address_is_not_continued(site, tmp_path):
    broken_off(site, tmp_path)
    assert fetch(site.url.replace("/models/", "/others/"), tmp_path).read_bytes() == BODY
    assert "Range" not in site.requests[-1]


@pytest.mark.parametrize(
    "junk",
    ["", "[]", "{", '{"url": 3}', '{"url": "U", "version": 3}', '{"url": "U", "sha256": "x"}', '{"url": "U", "a": 1}',
     '{"url": "U", "version": "a\\nb"}'],
)  # fmt: skip
def test_a_damaged_side_file_is_as_none(site, tmp_path, junk):
    broken_off(site, tmp_path)
    (tmp_path / "net-1.pth.origin.json").write_text(junk.replace("U", site.url))
    assert fetch(site.url, tmp_path).read_bytes() == BODY
    assert "Range" not in site.requests[-1]


# What is there already.


def test_a_kept_file_that_was_damaged_is_refused(site, tmp_path):
    path = fetch(site.url, tmp_path)
    path.write_bytes(BODY[:-1])
    damaged = hashlib.sha256(BODY[:-1]).hexdigest()
    failed(UsageError, str(path), SHA.value, damaged, "delete it", source=site.url, folder=tmp_path)
    failed(UsageError, str(path), SHA.value, damaged, source=site.url, folder=tmp_path, expected=SHA)
    path.write_bytes(b"<html>")
    failed(UsageError, "an HTML page", source=site.url, folder=tmp_path)
    assert len(site.requests) == 1


def test_a_file_of_unknown_origin_is_not_taken_for_another(site, tmp_path):
    (tmp_path / "net-1.pth").write_bytes(BODY)
    failed(UsageError, "nothing says that it is", site.url, source=site.url, folder=tmp_path)
    assert fetch(site.url, tmp_path, expected=SHA).read_bytes() == BODY
    fetch(site.url.replace("1.pth", "2.pth"), tmp_path)
    failed(UsageError, "nothing says", source=site.url.replace("/models/net-1", "/o/net-2"), folder=tmp_path)
    assert len(site.requests) == 1


UNPUBLISHED = next(entry for entry in KNOWN.values() if entry.checksum is None)
PUBLISHED = next(entry for entry in KNOWN.values() if entry.checksum is not None)


def test_known_weights_put_there_by_hand_are_taken_and_remembered(tmp_path):
    path = tmp_path / UNPUBLISHED.file
    path.write_bytes(BODY)
    assert fetch(UNPUBLISHED.name, tmp_path) == path
    assert json.loads((tmp_path / f"{path.name}.origin.json").read_text())["sha256"] == SHA.value
    path.write_bytes(BODY[1:])
    failed(UsageError, SHA.value, source=UNPUBLISHED.name, folder=tmp_path)


def test_known_weights_must_be_what_was_published(tmp_path):
    (tmp_path / PUBLISHED.file).write_bytes(BODY)
    failed(UsageError, str(PUBLISHED.checksum), "it should have", source=PUBLISHED.name, folder=tmp_path)


def test_a_folder_in_place_of_the_file_is_named(tmp_path):
    (tmp_path / UNPUBLISHED.file).mkdir()
    failed(UsageError, "cannot be read", source=UNPUBLISHED.name, folder=tmp_path)


def test_an_encoded_slash_does_not_leave_the_folder(site, tmp_path):
    path = fetch(site.url.replace("net-1.pth", "..%2f..%2fnet-1.pth?download=1"), tmp_path / "in")
    assert path == tmp_path / "in" / "net-1.pth"


# Disk, processes.


def test_two_threads_fetch_it_once(site, tmp_path):
    site.misbehave = lambda handler: (time.sleep(0.2), handler.serve(site))
    found, threads = [], []
    for _ in range(4):
        threads.append(threading.Thread(target=lambda: found.append(fetch(site.url, tmp_path).read_bytes())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == [BODY] * 4 and len(site.requests) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net-1.pth", "net-1.pth.origin.json"]


@pytest.mark.parametrize("cut, body, asked", [(3000, BODY, "bytes=3000-"), (None, BODY[::-1], None)])
def test_those_that_wait_go_on_after_one_failed(site, tmp_path, cut, body, asked):
    def misbehave(handler):
        first = len(site.requests) == 1
        time.sleep(0.2)
        site.cut, site.body = (cut, body) if first else (None, BODY)
        handler.serve(site)

    site.misbehave = misbehave
    outcomes = []

    def run():
        try:
            outcomes.append(fetch(site.url, tmp_path, expected=SHA).read_bytes() == BODY)
        except RunError:
            outcomes.append(None)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(outcomes, key=str) == [None, True, True, True] and len(site.requests) == 2
    assert site.requests[-1].get("Range") == asked


def test_a_process_that_is_killed_leaves_a_part_that_is_continued(site, tmp_path):
    release = threading.Event()

    def misbehave(handler):
        handler.answer(200, BODY[:4000], {"Content-Length": len(BODY), "ETag": '"v1"'})
        release.wait(30)

    site.misbehave = misbehave
    code = f"from pathlib import Path; from fullconv.weights.download import fetch; fetch({site.url!r}, Path('.'))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (part(tmp_path).exists() and part(tmp_path).stat().st_size == 4000) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    release.set()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net-1.pth.origin.json", "net-1.pth.part"]
    site.misbehave = None
    assert fetch(site.url, tmp_path).read_bytes() == BODY
    assert site.requests[-1]["Range"] == "bytes=4000-"


def test_a_disk_that_is_full_from_the_start(site, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    failed(RunError, "10,240 bytes are to come and 100 are free", source=site.url, folder=tmp_path)
    assert not (tmp_path / "net-1.pth").exists()


def test_a_disk_that_fills_up_keeps_the_part(site, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        failed(RunError, "cannot write it", "FULLCONV_HOME", source=site.url, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert part(tmp_path).read_bytes() == BODY[:5000]
    assert fetch(site.url, tmp_path).read_bytes() == BODY
    assert site.requests[-1]["Range"] == "bytes=5000-"


def test_a_folder_that_cannot_be_made_or_written(site, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    failed(RunError, "cannot write it", "FULLCONV_HOME", source=site.url, folder=tmp_path / "file" / "folder")
    failed(RunError, "cannot write it", source=site.url, folder=Path("/proc/fullconv"))
    failed(UsageError, "cannot be reached", source=site.url, folder=tmp_path / ("x" * 300))
    assert not site.requests


def test_a_folder_that_cannot_be_written_serves_what_it_has(tmp_path, monkeypatch):
    (tmp_path / UNPUBLISHED.file).write_bytes(BODY)

    def unwritable(path, data):
        raise RunError(f"{path}: cannot write; it is read-only")

    monkeypatch.setattr(download, "write_atomically", unwritable)
    assert fetch(UNPUBLISHED.name, tmp_path).read_bytes() == BODY


def test_the_guard_against_the_internet_holds(tmp_path):
    with pytest.raises(AssertionError, match=r"example\.org"):
        fetch("http://example.org/net.pth", tmp_path)
