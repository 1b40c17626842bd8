"""Errors, power losses and flipped bits while a state is saved, counted."""

import itertools
import os
import random
import shutil

from tests.support.faulty_disk import (
    ERRORS,
    FailingDisk,
    after_power_loss,
    found_in,
    leftovers,
    saved,
)

from fullconv.errors import RunError, UsageError
from fullconv.weights.checkpoint import unpack


def operations(folder):
    """How many operations the third save of a run takes."""
    saved(folder, 1, 2)
    return saved(folder, 3).count


def errors_at_every_operation(folder):
    """Fail each operation of a save in each way: what was found afterwards, and how often."""
    counts = {"operations": operations(folder / "count"), "faults": 0, "old": 0, "new": 0, "wrong": 0, "leftovers": 0}
    places = range(1, counts["operations"] + 1)
    saved(folder / "two", 1, 2)
    for code, forever, at in itertools.product(ERRORS, (False, True), places):
        here = folder / f"{code}-{forever}-{at}"
        shutil.copytree(folder / "two", here)
        complained = None
        try:
            saved(here, 3, on=FailingDisk(at, OSError(code, os.strerror(code)), forever))
        except RunError as problem:
            complained = str(problem)
        clear = complained is None or (
            complained.startswith(f"{here / 'step-000000003.safetensors'}: cannot write ")
            and os.strerror(code) in complained
            and "\n" not in complained
        )
        counts["leftovers"] += len(leftovers(here))
        found = found_in(here)
        counts["faults"] += 1
        counts["old"] += found == 2
        counts["new"] += found == 3
        counts["wrong"] += not clear or found not in (2, 3) or (complained is None and found != 3)
        saved(here, 3)  # and the disk that works again takes the state
        counts["wrong"] += found_in(here) != 3
        shutil.rmtree(here)
    return counts


def power_losses(folder, tape, saves=4, tears=1, enough=float("inf")):
    """Save states, cut the power at every moment, and look what is found; until `enough` of it was wrong."""
    begun, done = [0], [0]
    for step in range(1, saves + 1):
        begun.append(len(tape.notes))
        saved(folder / "last", step, on=tape)
        done.append(len(tape.notes))
    counts = {"saves": saves, "operations": tape.count, "states": 0, "old": 0, "new": 0, "wrong": 0}
    found_here, again = {}, folder / "again"
    for end in range(len(tape.notes) + 1):
        old = max(step for step, at in enumerate(done) if at <= end)
        new = max(step for step, at in enumerate(begun) if at <= end)
        for files in after_power_loss(tape.notes[:end], tears, seed=end):
            counts["states"] += 1
            key = tuple(sorted(files.items()))
            if key not in found_here:
                found_here[key] = restarted(again, files)
            found = found_here[key]
            counts["old"] += found == old
            counts["new"] += found == new != old
            counts["wrong"] += found not in (old, new)
            if counts["wrong"] >= enough:
                return counts
    return counts


def restarted(folder, files):
    """The step that is found in these files after the power is back; 0 for none, and -1 where it cannot go on."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path, content in files.items():
        (folder / path.name).write_bytes(content)
    try:
        return found_in(folder) or 0
    except (UsageError, AssertionError):
        return -1


def flipped_bits(folder, count, seed=0):
    """Flip one random bit of the newest of two states, `count` times; half of the places before the tensors."""
    saved(folder, 1, 2)
    path = folder / "step-000000002.safetensors"
    good, rng = path.read_bytes(), random.Random(seed)
    begin = 8 + int.from_bytes(good[:8], "little")
    counts = {"bytes": len(good), "flips": count, "found": 0}
    for number in range(count):
        place = rng.randrange(begin) if number % 2 else rng.randrange(len(good))
        counts["found"] += passed_over(path, good, place, rng.randrange(8))
    return counts


def every_bit(folder):
    """Flip each bit of a state, one after the other."""
    saved(folder, 1, 2)
    path = folder / "step-000000002.safetensors"
    good = path.read_bytes()
    found = sum(passed_over(path, good, place, bit) for place in range(len(good)) for bit in range(8))
    return {"bytes": len(good), "flips": 8 * len(good), "found": found}


def passed_over(path, good, place, bit):
    """Whether a state with this bit flipped is refused, and the one before it is found."""
    bad = bytearray(good)
    bad[place] ^= 1 << bit
    path.write_bytes(bad)
    try:
        unpack(path)
    except UsageError as problem:
        return found_in(path.parent) == 1 and "\n" not in str(problem)
    return False
