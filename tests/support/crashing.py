"""Processes that are killed while they save, and disks that are really full.

    python -m tests.support.crashing kills=200 operations full_disk

It prints what was found as one line of JSON. It is a program of its own because it forks: every process that dies
here has imported torch already, so that it saves at once and two hundred deaths take a minute or two.
"""

import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from tests.support.faulty_disk import LethalDisk, a_state, found_in, leftovers, saved, torn

from fullconv.errors import FullconvError, RunError
from fullconv.training.saved_state import save_state

ROWS = 60_000
"""Of the state of `kills`: 10 MB, so that a save takes as long as the writing and forcing of some megabytes."""


def forked(work):
    """A child that does `work` and ends; its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)
    return None


def kills(folder, count=200, longest=0.4, seed=0):
    """Kill a process that saves one state after the other, at random times; look at what it left, and go on from it.

    torn: files under the name of a state that are not one, or not of one step. lost: a state that was reported as
    saved, and a newer one is not there either. halfway: kills that came in the middle of a save.
    """
    rng = random.Random(seed)
    counts = {"kills": 0, "saves": 0, "halfway": 0, "torn": 0, "lost": 0, "leftovers": 0}
    step = 0
    for _ in range(count):
        reader, writer = os.pipe()

        def save_on(writer=writer, first=step + 1):
            for step in itertools.count(first):
                save_state(folder, a_state(step, ROWS), {"lr": 0.1})
                os.write(writer, f"{step}\n".encode())

        child = forked(save_on)
        os.close(writer)
        time.sleep(rng.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the child ended by itself"
        with os.fdopen(reader) as said:
            reported = [int(line) for line in said]
        counts["kills"] += 1
        counts["saves"] += len(reported)
        counts["halfway"] += bool(folder.exists() and leftovers(folder))
        try:
            found = found_in(folder) or 0
        except (FullconvError, AssertionError):
            counts["torn"] += 1
            continue
        counts["torn"] += len(torn(folder))
        counts["leftovers"] += len(leftovers(folder)) if folder.exists() else 0
        counts["lost"] += found < (reported[-1] if reported else step)
        step = found
    return counts


def operations(folder):
    """End a process at every operation of one save, and in the middle of every write: the old state or the new one."""
    two = folder / "two"
    saved(two, 1, 2)
    shutil.copytree(two, folder / "count")
    names = saved(folder / "count", 3).names
    counts = {"operations": len(names), "deaths": 0, "old": 0, "new": 0, "wrong": 0, "halfway": 0, "leftovers": 0}
    for at, name in enumerate(names, start=1):
        for halfway in (False, True) if name == "write" else (False,):
            here = folder / f"{at}-{halfway}"
            shutil.copytree(two, here)
            _, status = os.waitpid(forked(partial(saved, here, 3, on=LethalDisk(at, halfway))), 0)
            assert os.waitstatus_to_exitcode(status) == 9, "the child did not die where it should"
            counts["deaths"] += 1
            counts["halfway"] += bool(leftovers(here))
            found = found_in(here)
            counts["old"] += found == 2
            counts["new"] += found == 3
            counts["leftovers"] += len(leftovers(here))
            counts["wrong"] += found not in (2, 3) or bool(torn(here))
            saved(here, 3)
            counts["wrong"] += found_in(here) != 3
    return counts


def full_disk(folder, runs=5):
    """Save under a limit on the size of files that the kernel keeps, as a full disk does: at several sizes."""
    saved(folder / "two", 1, 2)
    size = (folder / "two" / "step-000000002.safetensors").stat().st_size
    counts = {"runs": 0, "clear": 0, "old": 0, "leftovers": 0}
    for part in range(runs):
        here = folder / str(part)
        shutil.copytree(folder / "two", here)

        def save_under_a_limit(here=here, limit=size * part // runs):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                saved(here, 3)
            except RunError as problem:
                wanted = f"{here / 'step-000000003.safetensors'}: cannot write {size:,} bytes (File too large); free"
                os._exit(7 if str(problem).startswith(wanted) else 8)

        _, status = os.waitpid(forked(save_under_a_limit), 0)
        counts["runs"] += 1
        counts["clear"] += os.waitstatus_to_exitcode(status) == 7
        counts["leftovers"] += len(leftovers(here))
        counts["old"] += found_in(here) == 2
    return counts


def main():
    """Do what is named, and print the counts by name."""
    torch.set_num_threads(1)  # threads do not live on in a forked child
    a_state(0)  # what torch imports at the first use
    counts = {}
    for word in sys.argv[1:]:
        name, _, number = word.partition("=")
        with tempfile.TemporaryDirectory() as folder:
            work = {"kills": kills, "operations": operations, "full_disk": full_disk}[name]
            counts[name] = work(Path(folder), *([int(number)] if number else []))
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
