"""Real processes under torchrun, and what becomes of a training when one of them is killed."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil

from fullconv.training.log import read_log
from fullconv.weights import checkpoint

NET = (
    "--backbone vgg11 --stride 8 --width 0.03125 --native-size 32 --dropout 0 --precision fp32 --crop 32x32 --workers 0"
)
STEPS = 60


def torchrun(number, *words, **flags):
    """Start a command in so many processes, each of one thread."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number)]
    more = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    return subprocess.Popen(
        [*command, *more, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def train(number, data, out, *more, **flags):
    """A training in so many processes."""
    return torchrun(number, "-m", "fullconv", "train", data, "--out", out, *NET.split(), *more, **flags)


def done(process, code=0, seconds=180):
    """What it printed, after it ended with a code."""
    out, _ = process.communicate(timeout=seconds)
    assert process.returncode == code, out
    return out


def rank(process, number, seconds=60):
    """The process among torchrun's children that has a rank."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if child.environ().get("RANK") == str(number):
                    return child
            except psutil.Error:
                continue
        time.sleep(0.05)
    raise AssertionError("it did not start")


def wait_for_steps(folder, number):
    """Until so many steps are noted."""
    log, until = folder / "log.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") >= number):
        assert time.monotonic() < until
        time.sleep(0.01)


def fingerprint(folder):
    """The net after the last step."""
    return checkpoint.fingerprint(checkpoint.load(folder / "last.safetensors")[0])


def long(number, data, out, **flags):
    """A training that is long enough to be killed in."""
    words = ["--batch-size", "4", "--steps", str(STEPS), "--save-every", "5", "--eval-every", str(STEPS // 2)]
    return train(number, data, out, *words, **flags)


def kills(data, folder, number, seed=0):
    """Kill one process of two at a random time, so many times, each in a run of its own: how many ended with the net of
    an undisturbed run and a log without a gap, and the longest time from the kill to the next saved state.
    """
    done(long(2, data, folder / "undisturbed"))
    expected, rng, equal, slowest = fingerprint(folder / "undisturbed"), random.Random(seed), 0, 0.0
    for turn in range(number):
        out = folder / str(turn)
        process = long(2, data, out, max_restarts=2)
        wait_for_steps(out, rng.randrange(6, STEPS - 10))
        rank(process, rng.randrange(2)).kill()
        killed = time.time()
        slowest = max(slowest, recovery(out / "last", process, killed))
        done(process)
        equal += fingerprint(out) == expected and [line["step"] for line in read_log(out)] == list(range(1, STEPS + 1))
    return {"kills": number, "equal": equal, "slowest recovery, s": round(slowest, 1)}


def recovery(states, process, killed):
    """Seconds from a kill to the first state that is saved after it."""
    while process.poll() is None:
        saved = [path.stat().st_mtime for path in states.glob("step-*")]
        if any(when > killed + 0.5 for when in saved):  # not one that was just being written
            break
        time.sleep(0.02)
    return time.time() - killed


def layouts(sizes):
    """Evaluations of 1 to 20 images on so many processes: how many count what one process counts."""
    script = Path(__file__).with_name("shards.py")
    equal = sum(int(done(torchrun(size, script)).split("equal ")[1].split()[0]) for size in sizes)
    return {"layouts": 20 * len(sizes), "equal": equal}
