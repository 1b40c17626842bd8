"""What goes wrong while a net is trained ends in one line that says where and what to do, with the weights as they were
and the last state whole.
"""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from tests.support.runs import CONFIG, MODEL, final, start

import fullconv
from fullconv.config import CONVENTIONS
from fullconv.data.loader import BatchStream, batches
from fullconv.data.transforms import augmentation, outside
from fullconv.datasets.open_dataset import open_dataset
from fullconv.errors import RunError, UsageError
from fullconv.training import step
from fullconv.training.loop import State, fit
from fullconv.training.resume import differences
from fullconv.training.run import records
from fullconv.training.saved_state import newest_state

CONVENTION = CONVENTIONS["torchvision"]
FILL = outside(CONVENTION, 255)


def values(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


class Broken:
    """A data set that does something to one of its samples."""

    def __init__(self, dataset, act):
        self.dataset, self.act, self.labels = dataset, act, dataset.labels

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.act(index, self.dataset[index])


@pytest.fixture
def state(digits_folder):
    return State.of(fullconv.build(replace(MODEL, num_classes=11)), CONFIG)


# -- numbers that are none --------------------------------------------------------------------------------------------


def test_a_gradient_that_is_not_finite_stops_before_the_update(digits_folder, state):
    """The loss is finite, its gradient is not: where it goes through the score layer it becomes NaN."""
    steps = fit(state, open_dataset(digits_folder, "train"), CONFIG, CONVENTION)
    next(steps)
    before = values(state.net)
    state.net.score_fr.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(
        RunError, match=r"step 2: the gradient of score_fr.weight is not finite.*\(samples digits-train"
    ):
        next(steps)
    assert same(before, state.net.state_dict())
    assert state.step == 1


def test_the_batch_that_made_it_is_kept(digits_folder, tmp_path):
    job = start(tmp_path, digits_folder)
    steps = records(job)
    next(steps)
    with torch.no_grad():
        job.state.net.score_fr.bias.fill_(float("nan"))
    with pytest.raises(RunError, match=r"step 2: the loss is nan .*; the batch is in .*not-finite-step-000000002.npz"):
        next(steps)
    kept = np.load(tmp_path / "not-finite-step-000000002.npz", allow_pickle=False)
    assert kept["images_0"].shape == (2, 32, 32, 3)
    assert kept["label_0_semantic"].shape == (2, 32, 32)
    assert all(str(name).startswith("digits-train") for name in kept["names_0"])
    assert newest_state(tmp_path / "last")[1]["step"] == 1
    start(tmp_path, digits_folder, resume=True)  # the folder is free again


# -- memory -----------------------------------------------------------------------------------------------------------


def short_of_memory(monkeypatch, most):
    """Forward passes over more than `most` images fail as torch's allocator does."""
    real = step.to_input

    def tight(images, convention):
        if len(images) > most:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:130] DefaultCPUAllocator: can't allocate memory: you tried to allocate "
                "4096000000 bytes. Error code 12 (Cannot allocate memory)"
            )
        return real(images, convention)

    monkeypatch.setattr(step, "to_input", tight)


@pytest.mark.parametrize("most, pieces", [(4, 1), (3, 2), (2, 2), (1, 4)])
def test_where_memory_runs_out_the_batch_is_cut_and_the_gradient_is_the_same(digits_folder, monkeypatch, most, pieces):
    config = replace(CONFIG, batch_size=4, precision="fp32", steps=2, scale=None, flip=False)
    dataset = open_dataset(digits_folder, "train")

    def trained():
        torch.manual_seed(0)
        net = fullconv.build(replace(MODEL, num_classes=11)).double()
        for layer in net.modules():  # dropout draws other masks for other pieces
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        state = State.of(net, config)
        found = list(fit(state, dataset, config, CONVENTION))
        return net, found

    monkeypatch.setattr(step, "to_input", lambda *args, real=step.to_input: real(*args).double())
    whole, plain = trained()
    short_of_memory(monkeypatch, most)
    cut, found = trained()
    assert [record.pieces for record in found] == [pieces, pieces]
    assert [record.loss for record in found] == pytest.approx([record.loss for record in plain], rel=1e-12)
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_an_image_for_which_there_is_no_memory_ends_the_run(digits_folder, state, monkeypatch):
    short_of_memory(monkeypatch, 0)
    before = values(state.net)
    with pytest.raises(
        RunError, match=r"step 1: out of memory \(4.1 GB were asked for, .* available\); give a smaller"
    ):
        next(fit(state, open_dataset(digits_folder, "train"), CONFIG, CONVENTION))
    assert same(before, state.net.state_dict())


# -- the loader -------------------------------------------------------------------------------------------------------


def kill_me(index, sample):
    if multiprocessing.parent_process() is not None and index == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return sample


def fail(index, sample):
    if index == 3:
        raise ZeroDivisionError("no such thing")
    return sample


def hang(index, sample):
    if multiprocessing.parent_process() is not None and index == 3:
        time.sleep(3600)
    return sample


@pytest.mark.slow
@pytest.mark.parametrize(
    "act, words, seconds",
    [
        (kill_me, "loader: a loader process died", 5),
        (hang, "no images came for 2.* seconds: a loader process hangs; .*--worker-timeout", 7),
        (fail, r"sample 3: the data set failed on it \(ZeroDivisionError: no such thing\)", 5),
    ],
)
def test_a_loader_process_that_fails_ends_the_run_soon(digits_folder, tmp_path, act, words, seconds):
    job = start(tmp_path, digits_folder, replace(CONFIG, workers=2, worker_timeout=2.0, steps=100))
    job = replace(job, dataset=Broken(job.dataset, act))
    began = time.monotonic()
    with pytest.raises(RunError, match=words):
        list(records(job))
    assert time.monotonic() - began < seconds
    until = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.1)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("act", [kill_me, hang])
def test_a_loader_that_fails_ends_its_own_processes_alone(digits_folder, act):
    """The host's children live on, another loader's too, and the host's handler of signals is what torch made it."""
    dataset = open_dataset(digits_folder, "train")
    transform = augmentation(CONFIG, FILL)
    other = batches(BatchStream(dataset, transform, FILL, 1, seed=0), 0, 10**6, workers=1)
    next(other)
    mine = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    mine.start()
    before, handler = set(multiprocessing.active_children()), signal.getsignal(signal.SIGCHLD)
    try:
        with pytest.raises(RunError, match="loader: "):
            for _ in batches(BatchStream(Broken(dataset, act), transform, FILL, 1, seed=0), 0, 100, 2, timeout=2):
                pass
        assert set(multiprocessing.active_children()) == before
        assert signal.getsignal(signal.SIGCHLD) is handler
        for _ in range(20):
            next(other)
    finally:
        other.close()
        mine.kill()
        mine.join()


@pytest.mark.slow
def test_no_loader_process_outlives_a_training_that_was_killed(digits_folder, tmp_path):
    words = "--backbone vgg11 --stride 8 --width 0.03125 --native-size 32 --batch-size 2 --workers 2 --steps 100000"
    process = subprocess.Popen(
        [sys.executable, "-m", "fullconv", "train", str(digits_folder), "--out", str(tmp_path), *words.split()],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not (tmp_path / "log.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(1)  # the loaders are far ahead, and wait to hand over
    loaders = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    said, _ = process.communicate(timeout=10)  # the pipe ends when the last of them does
    assert process.returncode == -signal.SIGKILL and len(loaders) >= 2, said.decode()
    _, alive = psutil.wait_procs(loaders, timeout=10)
    assert not [loader for loader in alive if loader.status() != psutil.STATUS_ZOMBIE]


# -- the folder -------------------------------------------------------------------------------------------------------


def test_two_trainings_in_one_folder(digits_folder, tmp_path):
    job = start(tmp_path, digits_folder)
    with pytest.raises(UsageError, match="another training is at work in it"):
        start(tmp_path, digits_folder)
    list(records(job))
    start(tmp_path, digits_folder, resume=True)


def test_a_folder_that_is_removed_while_it_is_written(digits_folder, tmp_path):
    job = start(tmp_path / "run", digits_folder)
    steps = records(job)
    next(steps)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(RunError, match="run: the folder of the run was removed"):
        next(steps)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made(digits_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write into it"):
        start(tmp_path / "file" / "run", digits_folder)
    with pytest.raises(UsageError, match="it is a file"):
        start(tmp_path / "file", digits_folder)


# -- what changed -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half(digits_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    for record in records(start(folder, digits_folder)):
        if record.step == 2:
            break
    return folder


def forced(folder, data, config, **more):
    from fullconv.training.run import prepare

    train, val = open_dataset(data, "train"), open_dataset(data, "val")
    return prepare(folder, str(data), train, val, more.pop("model", MODEL), config, CONVENTION, resume=True, force=True)


def test_all_that_changed_is_shown_and_force_goes_on(half, digits_folder):
    changed = replace(CONFIG, lr=0.02, flip=False)
    with pytest.raises(UsageError, match=r"flip was True when this run began and is False now; lr was 0.01 .*--force"):
        start(half, digits_folder, changed, resume=True)
    job = forced(half, digits_folder, changed)
    assert job.state.step == 2
    assert "lr was 0.01 when this run began and is 0.02 now (--force)" in job.doubts[0]


@pytest.mark.parametrize("change", [{"optimizer": "adamw"}, {"ema": 0.9}])
def test_a_state_of_something_else_is_refused_also_by_force(half, digits_folder, change):
    with pytest.raises(UsageError, match=r"give the same settings, or another --out$"):
        forced(half, digits_folder, replace(CONFIG, **change))


def test_another_net_is_refused_also_by_force(half, digits_folder):
    with pytest.raises(UsageError, match="stride was 8 when this run began and is 16 now; give the same settings"):
        forced(half, digits_folder, CONFIG, model=replace(MODEL, stride=16))


def test_changed_data_is_seen(half, digits_folder, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(digits_folder, copy)
    start(half, copy, resume=True)  # the same data elsewhere
    image = next((copy / "train" / "images").iterdir())
    image.write_bytes(image.read_bytes() + b"more")
    with pytest.raises(UsageError, match=r"the images, masks or classes changed since this run began; .*--force"):
        start(half, copy, resume=True)


def test_other_surroundings_are_told_and_the_run_goes_on(digits_folder, tmp_path):
    threads = torch.get_num_threads()
    list(zip(range(2), records(start(tmp_path, digits_folder)), strict=False))
    torch.set_num_threads(threads + 1)
    try:
        job = start(tmp_path, digits_folder, resume=True)
    finally:
        torch.set_num_threads(threads)
    assert job.doubts == (
        f"the run goes on, but not to the bit as without the stop: threads {threads} then and {threads + 1} now",
    )


def test_the_number_of_loaders_may_change(half, digits_folder):
    assert start(half, digits_folder, replace(CONFIG, workers=3, save_every=7), resume=True).doubts == ()


def test_a_younger_setting_was_at_its_default():
    assert differences({"train": {"lr": 1.0}}, {"train": {"lr": 1.0, "ema": 0.0}}) == {}
    assert differences({"train": {"lr": 1.0}}, {"train": {"lr": 1.0, "ema": 0.5}}) == {"ema": (0.0, 0.5)}


def test_resume_where_nothing_was_saved_begins(digits_folder, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    list(records(start(one, digits_folder, resume=True)))
    list(records(start(other, digits_folder)))
    assert final(one) == final(other)
