"""Whatever bytes a .mat file holds, the outcome is its array or one `UsageError` in one line; never a signal."""

import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from fullconv.errors import UsageError
from fullconv.io import mat as matlab
from fullconv.io.mat import read_mat

scipy_io = pytest.importorskip("scipy.io")
h5py = pytest.importorskip("h5py")

DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
LABEL = np.arange(15 * 20).reshape(15, 20).astype(np.uint8) // 16

few = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])


def mat(compressed=False, **variables):
    """The bytes of a .mat file."""
    buffer = io.BytesIO()
    scipy_io.savemat(buffer, variables, do_compression=compressed)
    return buffer.getvalue()


def element(mdtype, data, count=None):
    """A data element of the format, padded to 8 bytes; `count` is a length that need not be true."""
    return struct.pack("<II", mdtype, len(data) if count is None else count) + data + b"\0" * (-len(data) % 8)


def matrix(dims=(2, 3), data=bytes(6), mdtype=2, mclass=9, count=None, name=b"x"):
    """An uint8 matrix, its parts as given."""
    parts = element(6, struct.pack("<II", mclass, 0)) + element(5, struct.pack(f"<{len(dims)}i", *dims))
    return element(14, parts + element(1, name) + element(mdtype, data, count))


def level5(*elements):
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(elements)


def deflated_zeros(part, count):
    """A compressed element: `part`, in which the length of the element is set, and then `count` zeros."""
    squeeze = zlib.compressobj(9)
    part = part[:4] + struct.pack("<I", len(part) - 8 + count) + part[8:]
    packed = squeeze.compress(part) + squeeze.flush(zlib.Z_FULL_FLUSH)
    block = squeeze.compress(bytes(2**20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    check = zlib.adler32(part)
    for _ in range(count >> 20):
        check = zlib.adler32(bytes(2**20), check)
    packed += block * (count >> 20) + b"\x03\x00" + struct.pack(">I", check)
    return struct.pack("<II", 15, len(packed)) + packed


def level73(path, fill):
    """A file of version 7.3: HDF5 behind MATLAB's 512 bytes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        fill(file)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, HDF5 schema 1.00 .".ljust(124) + b"\x00\x02IM")
    return path


def put(group, name, array, kind):
    group.create_dataset(name, data=np.asarray(array).T).attrs["MATLAB_class"] = np.bytes_(kind)


@pytest.fixture
def file(tmp_path):
    """Write bytes, get the path."""

    def write(data):
        path = tmp_path / "label.mat"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def good(tmp_path):
    """A file that is read after each bad one."""
    path = tmp_path / "good.mat"
    path.write_bytes(mat(compressed=True, GTcls={"Segmentation": LABEL}))
    return path


def reads(path):
    assert np.array_equal(read_mat(path, "GTcls", "Segmentation"), LABEL)


def refusal(path, variable="x", field=None, **more):
    """The message; the test fails when there is none or it is not one line about this file."""
    with pytest.raises(UsageError) as caught:
        read_mat(path, variable, field, **more)
    line = str(caught.value)
    assert "\n" not in line and line.isprintable() and line.count("; ") >= 1 and Path(path).name in line
    return line


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compressed", [False, True])
def test_every_type_comes_as_it_was(file, dtype, compressed):
    array = (np.arange(35).reshape(5, 7) * 3).astype(dtype)
    back = read_mat(file(mat(compressed, other=np.ones(3), x=array)), "x")
    assert back.dtype == array.dtype and back.dtype.isnative and np.array_equal(back, array)
    assert back.flags.c_contiguous and back.flags.writeable


def test_empty_arrays_three_axes_and_logical(file):
    assert read_mat(file(mat(x=np.zeros((0, 3)))), "x").shape == (0, 3)
    cube = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    assert np.array_equal(read_mat(file(mat(x=cube)), "x"), cube)
    back = read_mat(file(mat(x=np.eye(3) > 0)), "x")
    assert back.dtype == np.uint8 and np.array_equal(back, np.eye(3))


def test_a_struct_as_sbd_has_it(file):
    boundaries = np.empty((20, 1), object)
    boundaries[:, 0] = [np.eye(3)] * 20
    parts = {"Segmentation": LABEL, "Boundaries": boundaries, "CategoriesPresent": np.array([1, 15], np.uint8)}
    path = file(mat(compressed=True, GTcls=parts, GTinst={**parts, "Segmentation": LABEL % 3}))
    assert np.array_equal(read_mat(path, "GTcls", "Segmentation"), LABEL)
    assert np.array_equal(read_mat(path, "GTinst", "Segmentation"), LABEL % 3)
    assert "CategoriesPresent" in refusal(path, "GTcls", "Segmentations")
    assert "of the type cell" in refusal(path, "GTcls", "Boundaries")
    assert "is a struct; say which of its fields" in refusal(path, "GTcls")
    assert "no variable 'GTcl'; did you mean 'GTcls'? One of: GTcls, GTinst" in refusal(path, "GTcl")


def test_other_byte_order_and_version_4(file):
    parts = [(6, ">II", (9, 0)), (5, ">ii", (1, 2))]
    inner = b"".join(struct.pack(">II", t, 8) + struct.pack(f, *v) for t, f, v in parts)
    inner += struct.pack(">II", 1, 1) + b"x".ljust(8, b"\0") + struct.pack(">II", 4, 4) + struct.pack(">HHI", 1, 258, 0)
    swapped = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI" + struct.pack(">II", 14, len(inner)) + inner
    back = read_mat(file(swapped), "x")
    assert back.dtype.isnative and back.tolist() == [[1, 258]]
    buffer = io.BytesIO()
    scipy_io.savemat(buffer, {"x": LABEL}, format="4")
    assert np.array_equal(read_mat(file(buffer.getvalue()), "x"), LABEL)
    for cut in (15, 40, len(buffer.getvalue()) - 1):
        refusal(file(buffer.getvalue()[:cut]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_version_73(tmp_path, dtype):
    array = np.arange(35).reshape(5, 7).astype(dtype)
    kind = {"float32": "single", "float64": "double"}.get(dtype, dtype)

    def fill(file):
        put(file, "x", array, kind)
        put(file.create_group("s"), "f", array * 2, kind)
        file["s"].attrs["MATLAB_class"] = np.bytes_("struct")
        file.create_group("#refs#")

    path = level73(tmp_path / "new.mat", fill)
    for back, true in ((read_mat(path, "x"), array), (read_mat(path, "s", "f"), array * 2)):
        assert back.dtype == true.dtype and back.flags.c_contiguous and np.array_equal(back, true)


def test_version_73_has_what_is_no_array_of_numbers(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(range(100)))

    def fill(file):
        put(file, "text", np.array([[72, 105]], np.uint16), "char")
        put(file, "cells", np.zeros((1, 2), np.uint64), "cell")
        put(file, "huge", np.zeros((40, 50)), "double")
        put(file, "none", np.array([[0, 3]], np.uint64), "single")
        file["none"].attrs["MATLAB_empty"] = np.uint8(1)
        file.create_group("sparse").attrs["MATLAB_sparse"] = np.uint64(3)
        file.create_group("s").attrs["MATLAB_class"] = np.bytes_("struct")
        file["complex"] = np.zeros((2, 2), [("real", "f8"), ("imag", "f8")])
        file["nothing"] = h5py.Empty("f8")
        file["out"] = h5py.ExternalLink("good.mat", "x")
        file["soft"] = h5py.SoftLink("/out")
        file.create_dataset("secret", (1, 100), "u1", external=[(str(tmp_path / "secret"), 0, 100)])
        file.create_dataset("bomb", (1 << 20, 1 << 12), "u1", chunks=(1 << 10, 1 << 10), compression="gzip")

    path = level73(tmp_path / "new.mat", fill)
    assert read_mat(path, "none").shape == (0, 3) and read_mat(path, "none").dtype == np.float32
    for variable, words in {
        "text": "of the type char", "cells": "of the type cell", "sparse": "of the type sparse", "s": "is a struct",
        "complex": "complex", "nothing": "empty", "out": "link", "soft": "link", "secret": "are in other files",
        "bomb": "larger than", "missing": "no variable 'missing'", "s/f": "no variable",
    }.items():  # fmt: skip
        assert words in refusal(path, variable)
    assert "larger than 1,000 bytes" in refusal(path, "huge", most_bytes=1000)
    assert "no field 'f'; it holds no fields" in refusal(path, "s", "f")
    assert "not a 1x1 struct" in refusal(path, "text", "f")


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_is_no_file(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.mat")
    assert "a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.mat")
    assert "not a regular file" in refusal(tmp_path / "pipe.mat")
    assert "cannot be opened" in refusal(tmp_path / "a\0b" / "c.mat")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file, not a MATLAB file"),
        (bytes(1000), "begins with zeros"),
        (b"hello, these are no labels\n", "a text file, not a MATLAB file"),
        (b"<!DOCTYPE html><html>404</html>", "an HTML page (a failed download?), not a MATLAB file; download"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer, not a MATLAB file; run `git lfs pull`"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a PNG image, not a MATLAB file"),
        (b"PK\x03\x04" + bytes(99), "a ZIP archive, not a MATLAB file; unpack it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(999), "an HDF5 file without MATLAB's header"),
        (bytes(range(200, 256)) * 9, "label.mat: not a MATLAB file; give"),
        (b"MATLAB 5.0 MAT-file, Platform", "cut short"),
        (b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x07IM" + bytes(99), "no known version"),
        (level5(), "a header and no variable"),
        (level5() + bytes(64), "nothing at byte 128"),
        (level5(matrix())[:-1], "cut short"),
        (level5(matrix())[:131], "cut short"),
        (
            b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n" + b"\7" * 900,
            "damaged",
        ),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM", "damaged"),
    ],
)
def test_what_is_no_mat_file(file, good, data, words):
    assert words in refusal(file(data))
    reads(good)


def test_what_is_no_array_of_numbers(file):
    from scipy.sparse import csc_array

    cell = np.empty((1, 2), object)
    cell[0] = [np.ones(2), "a"]
    two = np.array([[(1.0,), (2.0,)]], dtype=[("f", "O")])
    path = file(mat(text="void", cell=cell, sparse=csc_array(np.eye(3)), z=np.array([[1j]]), two=two, one=np.ones(1)))
    for variable, words in {
        "text": "char",
        "cell": "cell",
        "sparse": "sparse",
        "z": "complex",
        "two": "struct",
    }.items():
        assert words in refusal(path, variable)
    assert "is a struct array of 1x2" in refusal(path, "two", "f")
    assert "'one' is not a struct" in refusal(path, "one", "f")
    assert "no variable '__version__'" in refusal(path, "__version__")
    assert "no variable 'a\\nb'" in refusal(path, "a\nb")


def test_a_type_that_is_none(file, good):
    for mdtype in (0, 8, 19, 20, 60000):
        assert "damaged" in refusal(file(level5(matrix(mdtype=mdtype))))
    reads(good)


def test_sizes_that_cannot_be(file, good):
    for dims in ((2**31 - 1, 2**31 - 1), (-2, -3), (-1, 7), (2**31 - 1,) * 32, (3, 3)):
        refusal(file(level5(matrix(dims))))
    assert "larger than" in refusal(file(level5(matrix((20000, 20000), mclass=1))))  # a cell of 400 million elements
    refusal(file(level5(matrix(count=2**31))))
    assert "larger than 299 bytes" in refusal(good, "GTcls", "Segmentation", most_bytes=299)
    reads(good)


@pytest.mark.slow
def test_a_small_file_that_unpacks_to_a_gigabyte(file, good):
    for dims in ((2**15, 2**15), (2, 3)):  # the second one lies
        data = level5(deflated_zeros(matrix(dims, b"", count=2**30), 2**30))
        assert len(data) < 2**21
        assert "is larger than 268,435,456 bytes; raise most_bytes" in refusal(file(data))
    reads(good)


def test_a_large_array_is_read_when_it_may_be(file):
    data = level5(deflated_zeros(matrix((2**12, 2**12), b"", count=2**24), 2**24))
    assert "larger than" in refusal(file(data), most_bytes=2**24 - 1)
    array = read_mat(file(data), "x", most_bytes=2**24)
    assert array.shape == (2**12, 2**12) and not array.any()


def test_cells_in_cells_in_cells(file, good):
    part = matrix()
    for _ in range(4000):
        header = element(6, struct.pack("<II", 1, 0)) + element(5, struct.pack("<ii", 1, 1)) + element(1, b"x")
        part = element(14, header + part)
    refusal(file(level5(part)))
    reads(good)


FILES = [mat(x=LABEL), mat(compressed=True, x=LABEL), mat(x={"f": LABEL, "g": "text"})]


def outcome(path, field=None):
    """The law."""
    try:
        assert isinstance(read_mat(path, "x", field), np.ndarray)
    except UsageError as error:
        assert "\n" not in str(error)


@few
@given(st.sampled_from(FILES), st.data())
def test_cut_anywhere(file, whole, data):
    path = file(whole[: data.draw(st.integers(0, len(whole) - 1))])
    refusal(path, "x", "f" if whole is FILES[2] else None)


@few
@given(st.sampled_from(FILES), st.data())
def test_a_byte_changed_anywhere(file, whole, data):
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255))
    outcome(file(bytes(changed)), "f" if whole is FILES[2] else None)


@few
@given(st.data())
def test_version_73_cut_or_changed_anywhere(tmp_path, data):
    path = level73(tmp_path / "new.mat", lambda file: put(file, "x", LABEL, "uint8"))
    whole = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:place])
        refusal(path)
    else:
        whole[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(whole)
        outcome(path)


# -- the child ---------------------------------------------------------------------------------------------------------


def children(pid="self"):
    """The processes whose parent is `pid`, zombies too."""
    pid = os.getpid() if pid == "self" else pid
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                found.add(int(status.parent.name))
        except OSError:  # it ended meanwhile
            pass
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")


@needs_proc
def test_one_child_for_all_files_and_a_new_one_after_its_death(file, good):
    reads(good)
    before = children()
    reads(good)
    refusal(good, "missing")
    assert children() == before
    refusal(file(level5(matrix(mdtype=60000))))
    assert len(children()) < len(before)
    reads(good)
    matlab._reader()._process.kill()  # by somebody else: no fault of the file
    reads(good)
    assert len(children()) == len(before)


class Labels(TorchDataset):
    """For the worker processes of a loader."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return read_mat(self.path, "GTcls", "Segmentation"), os.getpid(), matlab._reader()._process.pid


@needs_proc
def test_forked_workers_have_their_own_child_and_leave_none(good):
    reads(good)
    mine = matlab._reader()._process.pid
    seen, readers = set(), set()
    for labels, worker, reader in DataLoader(Labels(good), num_workers=2, multiprocessing_context="fork"):
        assert np.array_equal(labels[0], LABEL)
        seen.add(int(worker))
        readers.add(int(reader))
    assert len(seen) == len(readers) == 2 and mine not in readers
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in readers | seen) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{pid}").exists() for pid in readers | seen)
    reads(good)
    assert matlab._reader()._process.pid == mine


def test_threads_take_turns(file, good):
    bad, wrong = file(level5(matrix(mdtype=60000))), []

    def work(path):
        try:
            for _ in range(8 if path == good else 1):
                reads(path) if path == good else refusal(path)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(path,)) for path in (good, good, bad)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_proc
@pytest.mark.parametrize("end", ["pass", "import os; os._exit(0)"])
def test_nothing_is_left_when_the_process_ends(good, end):
    program = (
        "import sys; from fullconv.io import mat as matlab; from pathlib import Path\n"
        "matlab.read_mat(Path(sys.argv[1]), 'GTcls', 'Segmentation')\n"
        f"print(matlab._reader()._process.pid, 'torch' in sys.modules, flush=True); {end}"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(good)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pid, torch = done.stdout.split()
    assert torch == "False" and not done.stderr
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline  # a zombie, which has no command line, is for the system to collect
        time.sleep(0.02)


@needs_proc
def test_the_child_never_imports_torch(good):
    reads(good)
    mapped = Path(f"/proc/{matlab._reader()._process.pid}/maps").read_text()
    assert "numpy" in mapped and "libtorch" not in mapped


@pytest.fixture
def other_child(monkeypatch):
    """Another program in place of the reader."""

    def set_program(program, limit=60.0):
        matlab._reader().stop()
        monkeypatch.setattr(matlab, "_command", lambda: [sys.executable, "-c", program])
        monkeypatch.setattr(matlab, "TIME_LIMIT", limit)

    yield set_program
    matlab._reader().stop()


def npy(array, shape=None, data=None, fortran_order=False):
    """An array in the .npy format, with a shape and data that need not be true, as text for a program."""
    stream = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": fortran_order, "shape": shape or array.shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return repr(stream.getvalue() + (array.tobytes() if data is None else data))


ONE = np.ones(4, np.uint8)


def saying(said):
    """A program that answers with these bytes."""
    return f"import sys; sys.stdout.buffer.write({said}); sys.stdout.flush()"


@pytest.mark.parametrize("said", ["b''", repr(npy(ONE)[2:6].encode()), npy(ONE, shape=(9, 9))])
def test_a_child_that_hangs(other_child, good, said):
    other_child(saying(said) + "; import time; time.sleep(60)", limit=0.3)
    began = time.monotonic()
    assert "the reader gave no answer in 0.3 seconds" in refusal(good, "GTcls", "Segmentation")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("end", [signal.SIGSEGV, signal.SIGBUS, signal.SIGKILL])
def test_a_child_that_dies(other_child, good, end):
    other_child(f"import os; input(); os.kill(os.getpid(), {int(end)})")
    said = refusal(good, "GTcls", "Segmentation")
    assert said.endswith(f"the file is damaged: the reader died on it (signal {int(end)}); copy or download it again")


def test_what_a_child_may_say(other_child, good):
    other_child(saying(npy(ONE)))
    assert read_mat(good, "GTcls").tolist() == [1, 1, 1, 1]
    other_child(saying(npy(np.array(["so", "do", ""]))))
    assert refusal(good).endswith(": so; do")


@pytest.mark.parametrize(
    "said",
    [
        "b'nonsense'", "b'[1, 2]'", "b'7'", "b'{}'", npy(ONE, shape=(-1, 4)), npy(np.array([None]), (1, 4), b"1234"),
        npy(ONE, shape=(999999999, 4)), npy(ONE, (5,), b"abc"), "b'a' * 80_000", npy(ONE, (1, 4), fortran_order=True),
        npy(np.array(["so", "do"]), (10_000, 2)), npy(np.array(["so", "do"]), data=b"\xff" * 16), npy(ONE.view("S4")),
        npy(np.array(["so"])), npy(ONE, shape="4"),
    ],
)  # fmt: skip
def test_a_child_that_talks_nonsense(other_child, good, said):
    other_child(saying(said))
    assert "the reader died on it" in refusal(good, "GTcls", "Segmentation")


def test_without_scipy_or_h5py(monkeypatch, tmp_path, good):
    matlab._reader().stop()
    for name in ("scipy", "h5py"):
        (tmp_path / "missing" / name).mkdir(parents=True)
        (tmp_path / "missing" / name / "__init__.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path / "missing")
    new = level73(tmp_path / "new.mat", lambda file: put(file, "x", LABEL, "uint8"))
    assert refusal(good).endswith("a MATLAB file which needs SciPy; pip install 'fullconv[mat]'")
    assert "version 7.3, which needs h5py; pip install 'fullconv[mat]'" in refusal(new)
    matlab._reader().stop()


def test_names_that_are_no_text(tmp_path, monkeypatch):
    path = tmp_path / os.fsdecode(b"\xff \n.mat")
    path.write_bytes(mat(x=LABEL))
    assert np.array_equal(read_mat(path, "x"), LABEL)
    monkeypatch.chdir(tmp_path)  # the child stays where it was started
    (tmp_path / "json.py").write_text("raise SystemExit")
    matlab._reader().stop()
    assert np.array_equal(read_mat(Path(path.name), "x"), LABEL)
