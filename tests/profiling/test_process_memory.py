"""What a process has and may take, against what it really takes; limits of every kind, and what is said beyond them."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fullconv.profiling import process_memory

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and counters of Linux")


def child(code, *words):
    """What a process of its own prints."""
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_peak_and_resident_follow_what_is_taken():
    said = child(
        """
        import numpy as np
        from fullconv.profiling import process_memory as memory
        print(memory.resident(), memory.peak())
        taken = np.ones(300_000_000, np.uint8)
        print(memory.resident(), memory.peak())
        del taken
        print(memory.resident(), memory.peak())
        """
    )
    (now, most), (now_with, most_with), (now_after, most_after) = np.array(said, np.int64).reshape(3, 2).tolist()
    assert now <= 1.02 * most < 250e6  # Linux counts them apart, and not to the page
    assert now_with - now == pytest.approx(300e6, rel=0.05)
    assert most_with - now == pytest.approx(300e6, rel=0.05)
    assert now_after - now < 20e6
    assert most_after == pytest.approx(most_with, rel=0.02)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_what_is_given_up_is_kept_for_the_next():
    """Tensors that come and go take new pages from the system for some times alone."""
    code = """
import resource, torch
from fullconv.profiling import process_memory as memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(6 << 20) for _ in range(7)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

memory.set_malloc_thresholds()
print(*[pages() for _ in range(8)])
memory.trim()
print(pages())
"""
    first, *_, last, after = map(int, child(code))
    assert first > 0 and last <= first / 20
    assert after > first / 2  # and what is kept can be given back


def test_available_is_no_more_than_the_machine_has():
    import psutil

    assert 0 < process_memory.available() <= psutil.virtual_memory().total


@linux
def test_available_heeds_the_address_space_and_is_no_fable():
    """Of what is said to be there nine tenths can be had, and a tenth more cannot."""
    room, less, more = child(
        """
        import resource
        import numpy as np
        from fullconv.profiling import process_memory as memory
        import psutil
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)
        room = memory.available()
        less = np.empty(int(0.9 * room), np.uint8)
        del less
        try:
            np.empty(int(1.1 * room), np.uint8)
            more = "had"
        except MemoryError as problem:
            more = memory.requested_bytes(problem) or "not said"
        print(room, "had", more)
        """
    )
    assert int(room) == pytest.approx(400e6, rel=0.02)
    assert less == "had"
    assert more != "had"
    assert int(more) == pytest.approx(1.1 * int(room), rel=0.01)


def groups(tmp_path, lines, files):
    """The rooms that a made-up system of control groups leaves."""
    proc, mount = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    mount.mkdir()
    (proc / "self" / "cgroup").write_text("".join(f"{line}\n" for line in lines))
    for name, content in files.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(f"{content}\n")
    return list(process_memory._groups(proc, mount))


def test_groups_of_version_2_up_to_the_root(tmp_path):
    found = groups(
        tmp_path,
        ["0::/job/step"],
        {
            "job/step/memory.max": "max", "job/step/memory.current": 5, "job/step/memory.stat": "anon 5",
            "job/memory.max": 1000, "job/memory.current": 700, "job/memory.stat": "anon 1\ninactive_file 50\nx 2",
            "memory.max": 5000, "memory.current": 800, "memory.stat": "anon 800",
        },
    )  # fmt: skip
    assert found == [350, 4200]


def test_groups_of_version_1(tmp_path):
    found = groups(
        tmp_path,
        ["3:cpu,cpuacct:/docker/abc", "2:memory:/docker/abc", "1:name=systemd:/x"],
        {
            # Inside of a container the path of the host is not there, and its own group is the top.
            "memory/memory.limit_in_bytes": 2000, "memory/memory.usage_in_bytes": 1900,
            "memory/memory.stat": "total_inactive_file 300",
        },
    )  # fmt: skip
    assert found == [400]


@pytest.mark.parametrize(
    "lines, files",
    [
        ([], {}),
        (["0::/"], {}),
        (["0::/a"], {"memory.max": "max"}),
        (["0::/a"], {"memory.max": "nonsense", "memory.current": 1, "memory.stat": ""}),
        (["0::/../../other"], {"memory.max": "max"}),
        (["2:memory:/"], {"memory/memory.limit_in_bytes": 9223372036854771712, "memory/memory.usage_in_bytes": 1}),
        (["nonsense", ""], {}),
    ],
)
def test_groups_without_a_limit_leave_no_room_to_say(tmp_path, lines, files):
    assert groups(tmp_path, lines, files) == []


def test_a_group_that_is_over_its_limit_leaves_nothing(monkeypatch):
    monkeypatch.setattr(process_memory, "_groups", lambda *_: [-5])
    assert process_memory.available() == 0


@given(st.integers(0, 10**15))
def test_readable_is_within_its_last_digit(size):
    text = process_memory.format_bytes(size)
    number, unit = text.replace(",", "").split()
    factor = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    assert abs(float(number) * factor - size) <= factor * (0.05001 if unit == "GB" else 0.50001)
    assert float(number) < 1000 or unit == "GB"


# -- a lack of memory --------------------------------------------------------------------------------------------------

LACKS = {
    "torch": "torch.empty(10**10, dtype=torch.uint8)",
    "convolution": "F.conv2d(torch.zeros(1, 64, 1500, 1500), torch.zeros(256, 64, 3, 3))",
    "training": "fit()",
    "numpy": "np.zeros(10**10, np.uint8)",
    "python": "bytearray(10**10)",
    "torch in bf16": "F.conv2d(*(torch.zeros(s).bfloat16() for s in ((1, 64, 1200, 1200), (256, 64, 3, 3))))",
}


@pytest.mark.slow
@linux
@pytest.mark.parametrize("what", LACKS)
def test_what_is_raised_without_memory_is_recognized(what):
    """Under a limit of the address space of 700 MB more than the libraries have."""
    found = child(
        f"""
        import resource, psutil
        import numpy as np, torch
        import torch.nn.functional as F
        from fullconv.profiling import process_memory as memory

        def fit():
            net = torch.nn.Sequential(*(torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(40)))
            net(torch.zeros(1, 16, 1000, 1000)).sum().backward()

        torch.set_num_threads(1)
        F.conv2d(torch.zeros(1, 16, 64, 64), torch.zeros(16, 16, 3, 3))
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used + 700_000_000,) * 2)
        try:
            {LACKS[what]}
            print("had")
        except BaseException as problem:
            print(memory.is_out_of_memory(problem), memory.requested_bytes(problem), type(problem).__name__, problem)
        """
    )
    assert found[0] == "True", found
    if what in ("torch", "numpy"):
        assert int(found[1]) == pytest.approx(10**10, rel=0.01)


@pytest.mark.parametrize(
    "problem, lacks, size",
    [
        (MemoryError(), True, None),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has"), True, 20 << 20),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried to "
                      "allocate 4000 bytes."), True, 4000),
        (RuntimeError("could not create a memory object"), True, None),
        (RuntimeError("std::bad_alloc"), True, None),
        (OSError(12, "Cannot allocate memory"), True, None),
        (OSError(28, "No space left on device"), False, None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, None),
        (RuntimeError("this part was asked to allocate 12 bytes, and did"), False, None),
        (ValueError("out of memory"), False, None),
    ],
)  # fmt: skip
def test_what_an_error_says_is_read(problem, lacks, size):
    assert process_memory.is_out_of_memory(problem) == lacks
    assert process_memory.requested_bytes(problem) == size


def test_the_error_below_an_error_counts():
    try:
        try:
            raise MemoryError("Unable to allocate 2.00 GiB for an array")
        except MemoryError as below:
            raise RuntimeError("the loader failed") from below
    except RuntimeError as problem:
        assert process_memory.is_out_of_memory(problem)
        assert process_memory.requested_bytes(problem) == 2 << 30
