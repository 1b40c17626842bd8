"""Several processes under torchrun train the net that one trains, count what one counts, and survive each other."""

import platform
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.ranks import done, kills, layouts, rank, train, wait_for_steps

from fullconv.data.loader import BatchStream, RankShard
from fullconv.distributed import ALONE, Heartbeat, ProcessGroup, join
from fullconv.errors import RunError, UsageError
from fullconv.training.log import read_log
from fullconv.weights import checkpoint

# -- who takes what ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 9))
def test_the_shares_of_all_processes_are_the_batches_of_one(size, parts, batch, step):
    stream = BatchStream(range(100), None, None, batch, seed=3)
    try:
        shares = [RankShard(stream, parts, rank, size) for rank in range(size)]
    except UsageError:
        assert parts % size
        assert batch < size
        return
    taken, drawn = [], []
    for share in shares:
        for index in range(step * share.mine, (step + 1) * share.mine):
            number = share.number(index)
            slots = range(batch) if share.whole else range(share.rank, batch, size)
            assert slots
            taken += [number * batch + slot for slot in slots]
            drawn.append(share.draw(index))
    assert sorted(taken) == list(range(step * parts * batch, (step + 1) * parts * batch))
    assert len(set(drawn)) == len(drawn)


def test_one_process_is_all(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert join() is ALONE
    assert ALONE.sum([1.5, 2]) == [1.5, 2]
    assert ALONE.any(True)
    assert not ALONE.any(False)


def test_a_process_id_from_the_store_is_never_signalled():
    """Whatever the store says: the process of that number was not started by this one, or is somebody else's by now."""
    kept = {}
    store = SimpleNamespace(set=kept.__setitem__, get=lambda key: kept[key].encode())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        kept["pulse/1"] = f"3 7 {other.pid} {platform.node()}"
        pulse = Heartbeat(store, 0, 2, timeout=0.2)
        with (
            pytest.raises(RunError, match="process 0 of 2: process 1 does not answer"),
            ProcessGroup(0, 2, pulse=pulse).translate_errors(),
        ):
            raise RuntimeError("Timed out waiting for gloo")
        pulse.end()
        time.sleep(0.2)
        assert other.poll() is None
        other.communicate(b"\n")
    assert other.returncode == 0


STOPPED = """
import os, signal, types
from fullconv.distributed import Heartbeat as Pulse
pulse = Pulse(types.SimpleNamespace(set=lambda key, value: None), 0, 2, timeout=0.5)
for end in (False, True):
    os.kill(os.getpid(), signal.SIGSTOP)
    print("went on", flush=True)
    if not end:
        pulse.end()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="timers of Linux")
def test_a_process_that_is_stopped_ends_itself():
    """Nobody else may end it, and torchrun would wait; one that has left the others may be stopped for as long as it
    likes.
    """

    def run():
        process = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        return process

    with run() as process:
        assert process.wait(timeout=20) == -signal.SIGKILL
    with run() as process:
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "went on\n"
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        time.sleep(2)
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=20) == 0


# -- real processes ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_an_evaluation_on_uneven_shards_counts_every_pixel_once(size):
    assert layouts([size]) == {"layouts": 20, "equal": 20}


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["--batch-size 4", "--batch-size 2 --accumulate 2"])
def test_two_processes_train_the_net_that_one_trains(digits_folder, tmp_path, batch):
    words = [*batch.split(), "--steps", "5", "--eval-every", "5", "--lr", "0.02"]
    done(train(2, digits_folder, tmp_path / "two", *words))
    done(train(1, digits_folder, tmp_path / "one", *words))
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    assert [(r["images"], r["valid"]) for r in one] == [(r["images"], r["valid"]) for r in two]
    assert [r["loss"] for r in one] == pytest.approx([r["loss"] for r in two], rel=1e-5)
    nets = [checkpoint.load(tmp_path / name / "last.safetensors")[0] for name in ("one", "two")]
    for name, tensor in nets[0].items():
        assert torch.allclose(tensor, nets[1][name], rtol=1e-3, atol=1e-6), name
    assert (tmp_path / "two" / "report.html").is_file()


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_the_net_is_the_same(digits_folder, tmp_path):
    found = kills(digits_folder, tmp_path, 1)
    assert found["equal"] == 1
    assert found["slowest recovery, s"] < 60  # on a busy machine; `make faults` holds it to 15


@pytest.mark.slow
def test_a_process_that_hangs_is_named(digits_folder, tmp_path):
    words = ["--batch-size", "4", "--steps", "100000", "--dist-timeout", "5"]
    process = train(2, digits_folder, tmp_path, *words)
    wait_for_steps(tmp_path, 3)
    rank(process, 1).send_signal(signal.SIGSTOP)
    began = time.monotonic()
    out = done(process, code=1)
    assert "process 0 of 2: process 1 does not answer" in out
    assert time.monotonic() - began < 40


@pytest.mark.slow
def test_the_end_of_a_job_is_heard_by_all_and_the_state_is_saved(digits_folder, tmp_path):
    words = ["--batch-size", "4", "--steps", "100000", "--save-every", "100000"]
    process = train(2, digits_folder, tmp_path, *words)
    wait_for_steps(tmp_path, 3)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "which is saved" in out, out
    (state,) = (tmp_path / "last").iterdir()
    assert state.name == f"step-{read_log(tmp_path)[-1]['step']:09d}.safetensors"
    out = done(train(2, digits_folder, tmp_path, *words, "--resume", "--max-time", "0"))
    assert "ended by --max-time" in out
    assert "not to the bit" not in out


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared(digits_folder, tmp_path):
    out = done(train(2, digits_folder, tmp_path, "--batch-size", "1"), code=1)
    assert "2 processes: they cannot share 1 batches of 1 images; give --batch-size 2 or more" in out
