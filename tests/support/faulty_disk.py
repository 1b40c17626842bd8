"""Disks that fail, stop, or lose their power: each stands in the place of `os` in `fullconv.io.atomic`.

`saved(..., on=disk)` saves through one of them. What the tests ask afterwards is always the same: is the newest state
in the folder whole, and is it the old one or the new one?
"""

import contextlib
import errno
import functools
import itertools
import os
import random
from pathlib import Path

import torch
from torch import nn

from fullconv.errors import UsageError
from fullconv.io import atomic
from fullconv.training.loop import State
from fullconv.training.saved_state import newest_state, save_state
from fullconv.weights.checkpoint import unpack

OPERATIONS = ("open", "write", "lseek", "fsync", "close", "replace", "unlink", "mkdir")
ERRORS = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EACCES]


class Disk:
    """A sound disk that counts its operations. The others change what `operate` does.

    No power is cut for real, so nothing is forced to the real disk: that is what takes the time.
    """

    def __init__(self):
        self.names = []

    @property
    def count(self):
        return len(self.names)

    def __getattr__(self, name):
        call = getattr(os, name)
        return functools.partial(self._count, name, call) if name in OPERATIONS else call

    def _count(self, name, call, *args):
        self.names.append(name)
        return self.operate(name, call if name != "fsync" else lambda file: None, *args)

    def operate(self, name, call, *args):
        return call(*args)


class FailingDisk(Disk):
    """Operation number `at` raises `problem`, and with `forever` all the writing ones after it."""

    def __init__(self, at, problem, forever=False):
        super().__init__()
        self.at, self.problem, self.forever = at, problem, forever

    def operate(self, name, call, *args):
        goes_on = self.forever and name in ("write", "fsync", "mkdir") and self.count > self.at
        if self.count != self.at and not goes_on:
            return call(*args)
        if name == "close":  # the handle is gone, whatever close says
            call(*args)
        raise self.problem


class ShortDisk(Disk):
    """Takes a random part of what it is given, from one byte on."""

    def __init__(self, seed=0):
        super().__init__()
        self.rng = random.Random(seed)

    def operate(self, name, call, *args):
        if name == "write":
            file, content = args
            return call(file, content[: self.rng.randint(1, len(content))])
        return call(*args)


class LethalDisk(Disk):
    """The process ends at operation number `at`: before it, or in the middle of it where it is a write."""

    def __init__(self, at, halfway=False):
        super().__init__()
        self.at, self.halfway = at, halfway

    def operate(self, name, call, *args):
        if self.count == self.at:
            if name == "write" and self.halfway:
                file, content = args
                call(file, content[: len(content) // 2])
            os._exit(9)
        return call(*args)


@contextlib.contextmanager
def using(disk):
    """`fullconv.io.atomic` works on this disk."""
    atomic.os = disk
    try:
        yield disk
    finally:
        atomic.os = os


class Tape(Disk):
    """A sound disk that notes what was done to it, for `after_power_loss`. What `forgets(what, path)` says is not
    noted: a save that did not do it would look so.
    """

    def __init__(self, forgets=lambda what, path: False):
        super().__init__()
        self.forgets = forgets
        self.notes = []  # (what, file or path, ...)
        self.open_files = {}  # handle: [path, is a folder, place]

    def note(self, what, path, *more):
        if not self.forgets(what, path):
            self.notes.append((what, path, *more))

    def operate(self, name, call, *args):
        result = call(*args)
        if name == "open":
            path, folder = Path(args[0]), not args[1] & os.O_CREAT
            self.open_files[result] = [path, folder, 0]
            if not folder:
                self.note("create", path)
        elif name == "close":
            del self.open_files[args[0]]
        elif name == "lseek":
            self.open_files[args[0]][2] = args[1]
        elif name == "write":
            file = self.open_files[args[0]]
            self.note("write", file[0], file[2], bytes(args[1][:result]))
            file[2] += result
        elif name == "fsync":
            path, folder, _ = self.open_files[args[0]]
            self.note("force folder" if folder else "force file", path)
        else:
            self.note(name, *map(Path, args))
        return result


class Content:
    """One file's bytes: those that the disk has, and the writes that it may still forget."""

    def __init__(self):
        self.sure, self.loose = b"", []

    def force(self):
        self.sure, self.loose = with_writes(self.sure, self.loose), []

    def possible(self, rng, tears):
        """What the disk may hold after the power is back: all, nothing, or any mixture of whole and torn writes."""
        found = {with_writes(self.sure, self.loose), self.sure}
        for _ in range(tears if self.loose else 0):
            kept = [write for write in self.loose if rng.random() < 0.5]
            rng.shuffle(kept)
            if kept:
                place, content = kept.pop()
                kept.append((place, content[: rng.randrange(len(content) + 1)]))
            found.add(with_writes(self.sure, kept))
        if self.loose:  # the length was known already, the bytes were not
            found.add(bytes(len(with_writes(self.sure, self.loose))))
        return sorted(found)


def with_writes(content, writes):
    """The bytes of a file after some writes; what was skipped is zero."""
    content = bytearray(content)
    for place, new in writes:
        content.extend(bytes(max(0, place + len(new) - len(content))))
        content[place : place + len(new)] = new
    return bytes(content)


def after_power_loss(notes, tears=4, seed=0):
    """Every folder that may be found when the power fails after these notes: {path: bytes}, one after the other.

    Writes that were not forced are kept, dropped or torn; names that were not forced are kept or dropped, each for
    itself, in any combination.
    """
    files, names, loose = {}, {}, []  # files by number; names that are sure; changes of names that are not, in order
    current, made = {}, set()  # the names as the process sees them; the folders that were made
    for what, path, *more in notes:
        if what == "create":
            number = current.get(path, len(files))  # O_TRUNC of a file that is there would change it in place
            files[number] = Content()
            current[path] = number
            loose.append((path.parent, {path: number}))
        elif what == "write":
            files[current[path]].loose.append(tuple(more))
        elif what == "force file":
            files[current[path]].force()
        elif what == "replace":
            number = current.pop(path)
            current[more[0]] = number
            loose.append((path.parent, {path: None, more[0]: number}))
        elif what == "unlink":
            current.pop(path)
            loose.append((path.parent, {path: None}))
        elif what == "mkdir":
            made.add(path)
            loose.append((path.parent, {path: "a folder"}))
        elif what == "force folder":
            for _, change in [entry for entry in loose if entry[0] == path]:
                names.update(change)
            loose = [entry for entry in loose if entry[0] != path]
    rng = random.Random(seed)
    for kept in itertools.product((True, False), repeat=len(loose)):
        found = dict(names)
        for (_, change), stays in zip(loose, kept, strict=True):
            found.update(change if stays else {})
        there = {
            path: number
            for path, number in found.items()
            if isinstance(number, int) and made.intersection(path.parents) <= found.keys()
        }
        for contents in itertools.product(*(files[number].possible(rng, tears) for number in there.values())):
            yield dict(zip(there, contents, strict=True))


def a_state(step, rows=3):
    """A small state with momentum and two layouts, whose every number says which step it is of."""
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Conv2d(2, rows, 3), nn.BatchNorm2d(rows)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.fill_(step)
        for parameter in net.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, step)
    return State(net, optimizer, step)


def saved(folder, *steps, on=None):
    """States of these steps in a folder, one after the other; on the sound disk if on no other."""
    with using(on or Disk()) as disk:
        for step in steps:
            save_state(folder, a_state(step), {"lr": 0.1})
    return disk


def found_in(folder):
    """The step of the newest state, after a look at every number in it; None when there is none."""
    found = newest_state(folder)
    if found is None:
        return None
    tensors, header = found
    assert tensors and all((tensor == header["step"]).all() for tensor in tensors.values()), "a mixture of states"
    return header["step"]


def torn(folder):
    """The files under the name of a state that are none."""
    found = []
    for path in folder.glob("step-*.safetensors"):
        try:
            unpack(path)
        except UsageError:
            found.append(path.name)
    return found


def leftovers(folder):
    """The names that a save must not leave behind."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]
