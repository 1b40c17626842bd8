"""Disks fill up, processes are killed, and several want the same file: it is fetched once, and no part is lost."""

import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.support.file_server import BODY, SHA, failed, only_this_machine, part, running_site

from fullconv.errors import RunError, UsageError
from fullconv.io.download import fetch
from fullconv.io.download.fetch import fetch_file

at_home = pytest.fixture(autouse=True)(only_this_machine)


@pytest.fixture
def site():
    with running_site() as running:
        yield running


def test_two_threads_fetch_it_once(site, tmp_path):
    site.misbehave = lambda handler: (time.sleep(0.2), handler.serve(site))
    found, threads = [], []
    for _ in range(4):
        threads.append(threading.Thread(target=lambda: found.append(fetch_file(site.url, tmp_path).read_bytes())))
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
            outcomes.append(fetch_file(site.url, tmp_path, expected=SHA).read_bytes() == BODY)
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
    code = f"from pathlib import Path; from fullconv.io.download.fetch import *; fetch_file({site.url!r}, Path('.'))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (part(tmp_path).exists() and part(tmp_path).stat().st_size == 4000) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    release.set()
    left = ["net-1.pth.origin.json", "net-1.pth.part", "net-1.pth.part.lock"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == left
    site.misbehave = None
    assert fetch_file(site.url, tmp_path).read_bytes() == BODY
    assert site.requests[-1]["Range"] == "bytes=4000-"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net-1.pth", "net-1.pth.origin.json"]


def test_a_disk_that_is_full_from_the_start(site, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    failed(RunError, "10,240 bytes are to come and 100 are free", url=site.url, folder=tmp_path)
    assert not (tmp_path / "net-1.pth").exists()


def test_a_disk_that_fills_up_keeps_the_part(site, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        failed(RunError, "cannot write it", "FULLCONV_HOME", url=site.url, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert part(tmp_path).read_bytes() == BODY[:5000]
    assert fetch_file(site.url, tmp_path).read_bytes() == BODY
    assert site.requests[-1]["Range"] == "bytes=5000-"


def test_a_folder_that_cannot_be_made_or_written(site, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    failed(RunError, "cannot write it", "FULLCONV_HOME", url=site.url, folder=tmp_path / "file" / "folder")
    failed(RunError, "cannot write it", url=site.url, folder=Path("/proc/fullconv"))
    failed(UsageError, "cannot be reached", url=site.url, folder=tmp_path / ("x" * 300))
    assert not site.requests


def test_a_folder_that_cannot_be_written_serves_what_it_has(site, tmp_path, monkeypatch):
    (tmp_path / "net-1.pth").write_bytes(BODY)

    def unwritable(path, data):
        raise RunError(f"{path}: cannot write; it is read-only")

    monkeypatch.setattr(fetch, "write_atomically", unwritable)
    assert fetch_file(site.url, tmp_path, by_hand=True).read_bytes() == BODY


WITHOUT_FCNTL = """
import sys
from pathlib import Path
sys.modules["fcntl"] = None
from fullconv.io.download.fetch import fetch_file
fetch_file({url!r}, Path("."))
"""


def test_without_fcntl_it_is_fetched_once_too(site, tmp_path):
    site.misbehave = lambda handler: (time.sleep(0.2), handler.serve(site))
    command = [sys.executable, "-c", WITHOUT_FCNTL.format(url=site.url)]
    processes = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0] and len(site.requests) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net-1.pth", "net-1.pth.origin.json"]
    assert (tmp_path / "net-1.pth").read_bytes() == BODY
