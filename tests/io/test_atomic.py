"""A file is the old one or the new one: whatever the disk says, and wherever the process or the power ends."""

import errno
import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.faulty_disk import ERRORS, Disk, FailingDisk, ShortDisk, Tape, after_power_loss, leftovers, using

from fullconv.errors import RunError
from fullconv.io import atomic
from fullconv.io.atomic import remove_leftovers, write_atomically, write_pieces

OLD, NEW = b"old" * 50, b"new" * 70


def operations(tmp_path):
    """How many operations it takes to write a file into a new folder."""
    with using(Disk()) as disk:
        write_atomically(tmp_path / "count" / "file", NEW)
    return disk.count


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("forever", [False, True], ids=["once", "on"])
def test_an_error_at_any_operation_leaves_the_old_file_or_the_new_one(tmp_path, code, forever):
    seen = set()
    for at in range(1, operations(tmp_path) + 1):
        path = tmp_path / str(at) / "file"
        if at % 2:  # every other time the folder is new, and there is no old file
            write_atomically(path, OLD)
        old = OLD if at % 2 else None
        with using(FailingDisk(at, OSError(code, os.strerror(code)), forever)) as disk:
            try:
                write_atomically(path, NEW)
            except RunError as problem:
                seen.add("refused")
                assert str(problem).startswith(f"{path}: cannot write {len(NEW):,} bytes ({os.strerror(code)}); ")
                assert "\n" not in str(problem)
            else:
                assert disk.count < at
        found = path.read_bytes() if path.exists() else None
        seen.add({old: "old", NEW: "new"}[found])
        assert not path.parent.exists() or not leftovers(path.parent)
    assert seen == {"refused", "old", "new"}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError])
def test_a_write_that_is_interrupted_leaves_nothing_of_itself(tmp_path, stop):
    for at in range(1, operations(tmp_path) + 1):
        path = tmp_path / str(at) / "file"
        write_atomically(path, OLD)
        with using(FailingDisk(at, stop())) as disk:
            try:
                write_atomically(path, NEW)
            except stop:
                assert disk.count >= at
            else:
                assert disk.count < at
        assert path.read_bytes() in (OLD, NEW)
        assert not leftovers(path.parent)


@given(st.binary(min_size=1), st.lists(st.integers(0, 1 << 20)), st.integers(0, 99), st.randoms(use_true_random=False))
def test_pieces_in_any_order_through_a_disk_that_takes_little(tmp_path_factory, content, cuts, seed, rng):
    cuts = sorted({0, len(content), *(cut % len(content) for cut in cuts)})
    pieces = [(begin, content[begin:end]) for begin, end in itertools.pairwise(cuts)]
    rng.shuffle(pieces)
    path = tmp_path_factory.mktemp("pieces") / "file"
    with using(ShortDisk(seed)):
        write_pieces(path, len(content), iter(pieces))
    assert path.read_bytes() == content


def test_a_disk_that_takes_nothing_is_an_error_and_no_endless_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.os, "write", lambda *_: 0)
    with pytest.raises(RunError, match=r"cannot write 210 bytes \(the disk takes no more bytes\)"):
        write_atomically(tmp_path / "file", NEW)
    assert not list(tmp_path.iterdir())


def power_losses(tmp_path, tape):
    """How often, of all folders that a power cut may leave, the file was not the old or the new one; and how many."""
    path = tmp_path / "new" / "folder" / "file"
    with using(tape):
        write_atomically(path, OLD)
        first = len(tape.notes)
        write_atomically(path, NEW)
    wrong = number = 0
    for end in range(len(tape.notes) + 1):
        allowed = {None, OLD} if end < first else {OLD, NEW} if end < len(tape.notes) else {NEW}
        for files in after_power_loss(tape.notes[:end]):
            number += 1
            wrong += files.get(path) not in allowed
    return wrong, number


def test_the_power_may_fail_at_any_moment(tmp_path):
    wrong, number = power_losses(tmp_path, Tape())
    assert wrong == 0 and number > 30


@pytest.mark.parametrize("forgotten", ["force file", "force folder", "force folder: new", "force folder: folder"])
def test_the_test_of_power_loss_can_fail(tmp_path, forgotten):
    tape = Tape(lambda what, path: forgotten in (what, f"{what}: {path.name}"))
    assert power_losses(tmp_path, tape)[0] > 0


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_disk_that_cannot_force_folders_is_written_to_all_the_same(tmp_path, code):
    class Simple(Disk):
        def operate(self, name, call, *args):
            if name == "fsync" and os.path.isdir(f"/proc/self/fd/{args[0]}"):  # noqa: PTH112
                raise OSError(code, "no")
            return call(*args)

    with using(Simple()):
        write_atomically(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW


def test_on_windows_no_folder_is_opened(tmp_path):
    class Windows(Disk):
        name = "nt"

        def operate(self, name, call, *args):
            if name == "open" and os.path.isdir(args[0]):  # noqa: PTH112
                raise PermissionError(13, "Permission denied")
            return call(*args)

    with using(Windows()):
        write_atomically(tmp_path / "new" / "file", NEW)
    assert (tmp_path / "new" / "file").read_bytes() == NEW


def test_what_the_pieces_raise_comes_through_and_nothing_is_left(tmp_path):
    def pieces():
        yield 0, b"some"
        raise ValueError("the second piece")

    with pytest.raises(ValueError, match="second piece"):
        write_pieces(tmp_path / "file", 9, pieces())
    assert not list(tmp_path.iterdir())


def test_leftovers_are_removed_by_name(tmp_path):
    for name in (".step-1.7.tmp", ".other.7.tmp", "step-1", "step-1.7.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, "step-*")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.7.tmp", "step-1", "step-1.7.tmp"]
