"""Reading, net and writing overlap; nothing is lost, mixed up or left running, whatever fails where."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.errors import RunError, UsageError
from fullconv.inference.pipeline import Clock, Throughput, run_pipeline


def nothing(*_):
    return None


def size(thing):
    return thing.nbytes if isinstance(thing, np.ndarray) else 1


def stage(seconds, give=lambda *words: words[-1]):
    def run(*words):
        time.sleep(seconds)
        return give(*words)

    return run


def alive():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fullconv-")]


@pytest.mark.parametrize(
    "read, work, write, slowest",
    [(0.004, 0.02, 0.004, 0.02), (0.04, 0.002, 0.002, 0.02), (0.002, 0.002, 0.04, 0.02), (0.02, 0.02, 0.02, 0.02)],
    ids=["net", "reading", "writing", "all"],
)
def test_it_takes_the_time_of_the_slowest_stage_not_the_sum(read, work, write, slowest):
    """Two threads read and two write, so those take half their time an image. The best of three: others compute too."""
    number = 30
    stages = stage(read), stage(work), stage(write)
    paces = [run_pipeline(range(number), *stages, nothing, size, threads=2) for _ in range(3)]
    pace = min(paces, key=lambda pace: pace.seconds)
    assert number * slowest <= pace.seconds * 1.05
    assert pace.seconds < number * slowest * 1.35 + read + work + write
    assert pace.images == number and pace.rate == pytest.approx(number / pace.seconds)
    if work >= slowest:
        assert max(pace.busy for pace in paces) > 0.95, "the net waited"
    else:
        assert max(pace.busy for pace in paces) < 0.5


@given(
    st.lists(st.sampled_from(["good", "none", "read", "work", "write"]), max_size=30),
    st.integers(1, 4),
    st.sampled_from([1, 100, 10_000]),
)
@settings(max_examples=40)
def test_every_job_is_told_of_once_and_in_order(kinds, threads, room):
    rng = np.random.default_rng(len(kinds))
    delays = rng.uniform(0, 0.002, (len(kinds), 2))

    def at(place, job):
        if kinds[job] == place:
            raise UsageError(f"{job}: {place}")

    def read(job):
        time.sleep(delays[job][0])
        at("read", job)
        return None if kinds[job] == "none" else np.full(50, job, np.uint8)

    def work(image):
        at("work", image[0])
        return image

    def write(job, found):
        time.sleep(delays[job][1])
        at("write", job)
        assert found[0] == job
        return job

    told = []
    pace = run_pipeline(range(len(kinds)), read, work, write, lambda *words: told.append(words), size, room, threads)
    assert [job for job, _ in told] == list(range(len(kinds)))
    for job, outcome in told:
        expected = {"good": job, "none": None}.get(kinds[job], f"{job}: {kinds[job]}")
        assert (str(outcome) if isinstance(outcome, UsageError) else outcome) == expected
    assert pace.images == sum(kind in ("good", "work", "write") for kind in kinds)
    assert not alive()


@pytest.mark.parametrize("place", ["jobs", "read", "work", "write", "done"])
@pytest.mark.parametrize("kind", [RunError, ValueError, MemoryError, KeyboardInterrupt])
def test_any_other_error_ends_it_and_comes_out(place, kind):
    began, written = [], []

    def broken(here, job):
        if place == here and job == 5:
            raise kind("here")
        return job

    def jobs():
        for job in range(1000):
            began.append(broken("jobs", job))
            yield job

    def write(job, _):
        written.append(broken("write", job))

    with pytest.raises(kind, match="here"):
        run_pipeline(jobs(), lambda job: broken("read", job), lambda image: broken("work", image), write,
                   lambda job, _: broken("done", job), size)  # fmt: skip
    assert not alive()
    assert written == sorted(set(written)) and len(began) < 200


@pytest.mark.parametrize(
    "sizes", [[1000] * 40, [10] * 20 + [1000] * 20, [1000, 10] * 20], ids=["large", "late", "mixed"]
)
def test_what_waits_is_bounded_in_bytes(sizes):
    """Two threads and slow writing: what is in memory is the room twice, one in each thread, one at the net."""
    held, most, lock = 0, 0, threading.Lock()

    def change(by):
        nonlocal held, most
        with lock:
            held += by
            most = max(most, held)

    def read(job):
        change(sizes[job])
        time.sleep(0.001)
        return np.zeros(sizes[job], np.uint8)

    def write(job, _):
        time.sleep(0.003)
        change(-sizes[job])

    run_pipeline(range(len(sizes)), read, lambda image: image[:0], write, nothing, size, room=3000, threads=2)
    assert held == 0 and most <= 2 * 3000 + 2 * 1000 + 1000
    most = 0
    run_pipeline(range(len(sizes)), read, lambda image: image[:0], write, nothing, size, room=1 << 30, threads=8)
    assert most > 9000, "this test cannot fail"


def test_one_that_is_larger_than_the_room_goes_through():
    told = []
    run_pipeline(range(5), lambda job: np.zeros(10**6, np.uint8), lambda image: image, lambda job, found: found.nbytes,
               lambda job, outcome: told.append(outcome), size, room=10)  # fmt: skip
    assert told == [10**6] * 5


def test_a_clock_adds_what_threads_spend():
    clock = Clock()

    def spend():
        with clock("reading"):
            time.sleep(0.01)

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.add({"reading": 1.0, "writing": 2.0})
    assert 1.04 <= clock.seconds["reading"] < 1.5 and clock.seconds["writing"] == 2.0
    assert Throughput().busy == 1 and Throughput().rate == 0
