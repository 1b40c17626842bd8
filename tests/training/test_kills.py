"""Processes killed for real: in a save, at each of its operations, on a full disk, and the whole command.

The counts are small here; ``make faults`` does the same with large ones.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.interrupted import Job, first_run, interrupted, whole

resource = pytest.importorskip("resource", reason="no SIGKILL, no fork and no limits here")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def counts():
    """What `crashing.py` counts, in a process of its own, as it forks."""
    command = [sys.executable, "-m", "tests.support.crashing", "kills=8", "operations", "full_disk"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_random_times_while_it_saves(counts):
    found = counts["kills"]
    assert found["kills"] == 8 and found["saves"] > 0
    assert found["torn"] == found["lost"] == found["leftovers"] == 0


def test_killed_at_every_operation_of_a_save(counts):
    found = counts["operations"]
    assert found["wrong"] == found["leftovers"] == 0
    assert found["old"] > 0 and found["new"] > 0 and found["halfway"] > 0
    assert found["old"] + found["new"] == found["deaths"] > found["operations"]


def test_a_disk_that_is_really_full(counts):
    assert counts["full_disk"] == {"runs": 5, "clear": 5, "old": 5, "leftovers": 0}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return Job(tmp_path_factory.mktemp("job"), steps=9, save_every=4)


@pytest.fixture(scope="module")
def expected(job):
    return whole(job)


def test_the_command_killed_and_resumed_is_the_command_left_alone(job, expected):
    # With this seed the first one comes after step 5, between two saves.
    counts = interrupted(job, expected, kills=2, workers=0, seed=14, places=("noted", "after"))
    assert counts["kills"] == 2 and counts["noted"] == counts["after"] == 1
    assert counts["again"] > 0 and counts["different"] == []


def test_the_command_stopped_by_a_full_disk_and_a_kill_and_resumed(job, expected):
    """The first net fits under the limit and the first state, twice as large, does not. Two workers load."""
    out, net = first_run(job, workers=2), (job.folder / "whole" / "32s" / "model.safetensors").stat().st_size

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (net + 1000, net + 1000))

    process = job.begin(out, 2, prepare=limit)
    process.communicate()
    said = job.errors(out).read_text().splitlines()[-1]
    assert process.returncode == 1
    assert said.startswith(f"fullconv: error: {out / '32s' / 'last' / 'step-00000000'}"), said
    assert "cannot write" in said and "bytes (File too large)" in said
    assert not list(out.rglob(".*.tmp"))
    counts = interrupted(job, expected, kills=1, workers=2)
    assert counts["kills"] == counts["runs"] == 1 and counts["different"] == []
