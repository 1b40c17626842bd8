"""A run can be ended at any moment: the step is finished, the state is saved, and going on is never having stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from tests.support.runs import CONFIG, final, start

from fullconv.cli.train import seconds_of
from fullconv.errors import UsageError
from fullconv.evaluation.evaluate import evaluate
from fullconv.training import run as runs
from fullconv.training.log import read_log
from fullconv.training.run import records
from fullconv.training.stop import Stop


class Counted(Stop):
    """Says yes from the n-th time on that it is asked: after every step and every evaluated image."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def asked(self, next_step=0.0):
        self.left -= 1
        if self.left < 0:
            self.reason = "the test"
        return self.reason is not None


def log_of(folder):
    return [{k: v for k, v in line.items() if k not in ("seconds", "memory")} for line in read_log(folder)]


@pytest.fixture(scope="module")
def whole(digits_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    list(records(start(folder, digits_folder)))
    return folder


# 6 steps and 2 evaluations of 2 images: asked 10 times in all.
@pytest.mark.parametrize("number", range(11))
def test_ended_at_any_question_and_resumed_is_the_same(whole, digits_folder, tmp_path, number):
    config = replace(CONFIG, save_every=100)
    job = start(tmp_path, digits_folder, config)
    list(records(job, Counted(number)))
    assert job.over == (number >= 9)  # the tenth time is after the last step
    list(records(start(tmp_path, digits_folder, config, resume=True)))
    assert log_of(tmp_path) == log_of(whole)
    assert final(tmp_path) == final(whole)


def test_an_evaluation_that_is_broken_off_ends_at_once_and_is_done_again(digits_folder, tmp_path, monkeypatch):
    asked = []

    def watched(*args, **kwargs):
        asked.append(1)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(runs, "evaluate", watched)
    job = start(tmp_path, digits_folder)
    seen = list(records(job, Counted(3)))  # yes at the first image of the evaluation after step 3
    assert [record.step for record in seen] == [1, 2]
    assert job.progress.unevaluated["step"] == job.state.step == 3
    seen = list(records(start(tmp_path, digits_folder, resume=True)))
    assert [(record.step, record.scores is not None) for record in seen] == [
        (3, True), (4, False), (5, False), (6, True)
    ]  # fmt: skip
    assert len(asked) == 3


COMMAND = "--backbone vgg11 --stride 8 --width 0.03125 --native-size 32 --batch-size 2 --crop 32x32 --workers 1"


def command(data, out, *more):
    words = [sys.executable, "-m", "fullconv", "train", str(data), "--out", str(out), *COMMAND.split(), *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_steps(folder, number):
    log = folder / "log.jsonl"
    until = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") >= number):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 138)])
def test_a_signal_ends_the_real_command_with_its_state_saved(digits_folder, tmp_path, name, code):
    process = command(digits_folder, tmp_path, "--steps", "100000", "--save-every", "100000")
    wait_for_steps(tmp_path, 3)
    asked = time.monotonic()
    process.send_signal(getattr(signal, name))
    out, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert time.monotonic() - asked < 10
    steps = [line["step"] for line in read_log(tmp_path)]
    assert f"ended by {name} after step {steps[-1]} of 100000, which is saved" in " ".join(out.split())
    assert [path.name for path in (tmp_path / "last").iterdir()] == [f"step-{steps[-1]:09d}.safetensors"]


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(digits_folder, tmp_path):
    process = command(digits_folder, tmp_path, "--steps", "100000")
    wait_for_steps(tmp_path, 1)
    process.send_signal(signal.SIGSTOP)  # so that both are there when it looks
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode in (130, 143)
    assert "Traceback" not in errors


def test_the_longest_time_and_the_stop_file(digits_folder, tmp_path):
    job = start(tmp_path / "time", digits_folder)
    seen = list(records(job, Stop(seconds=0)))
    assert [record.step for record in seen] == [1]
    folder = tmp_path / "file"
    job, stop = start(folder, digits_folder), Stop(folder / "stop")
    for record in records(job, stop):
        if record.step == 2:
            (folder / "stop").touch()
    # The evaluation of step 3 is broken off by it.
    assert job.state.step == 3
    assert stop.exit_code == 0
    assert not (folder / "stop").exists()
    assert len(list(records(start(folder, digits_folder, resume=True)))) == 4


@pytest.mark.parametrize("text", ["x", "1:2", "-3", "inf:0:0", "", "nan"])
def test_a_time_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="--max-time"):
        seconds_of(text)


def test_the_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked()
        assert stop.exit_code == 143
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_patience_ends_a_run_that_gets_no_better(digits_folder, tmp_path):
    config = replace(CONFIG, steps=200, eval_every=1, patience=3, lr=0.0, save_every=1000)
    job = start(tmp_path, digits_folder, config)
    seen = list(records(job))
    assert [record.step for record in seen] == [1, 2, 3, 4]  # the first is the best, then three that are not better
    assert job.over
    assert (tmp_path / "last.safetensors").is_file()
    again = start(tmp_path, digits_folder, config, resume=True)
    assert again.over
    assert list(records(again)) == []


def test_the_last_net_is_kept_beside_the_best(whole):
    import fullconv

    best, last = (fullconv.load(whole / name).header.provenance["step"] for name in
                  ("model.safetensors", "last.safetensors"))  # fmt: skip
    assert last == 6
    assert best == max((line for line in read_log(whole) if "scores" in line),
                       key=lambda line: line["scores"]["mean_iu"])["step"]  # fmt: skip
    assert json.loads(json.dumps(fullconv.load(whole / "last.safetensors").header.provenance["val"]))
