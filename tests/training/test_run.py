"""A run that is stopped anywhere and resumed is the run that was never stopped, to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from tests.support.runs import CONFIG, MODEL, final, start

import fullconv
from fullconv.config import CONVENTIONS
from fullconv.datasets.open_dataset import open_dataset
from fullconv.errors import RunError, UsageError
from fullconv.evaluation.evaluate import evaluate
from fullconv.hardware import multiplies_bf16
from fullconv.training.log import read_log
from fullconv.training.loop import State, fit
from fullconv.training.run import records
from fullconv.training.saved_state import newest_state, save_state
from fullconv.weights import checkpoint


@pytest.fixture(scope="module")
def whole(digits_folder, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, list(records(start(folder, digits_folder)))


STOPS = [(stop, save_every, 0) for stop in range(1, 6) for save_every in (1, 2)] + [(3, 2, 2)]


@pytest.mark.parametrize("stop, save_every, workers", STOPS)
def test_stopped_and_resumed_is_the_same_to_the_bit(whole, digits_folder, tmp_path, stop, save_every, workers):
    config = replace(CONFIG, save_every=save_every, workers=workers)
    for record in records(start(tmp_path, digits_folder, config)):
        if record.step == stop:
            break
    for _ in records(start(tmp_path, digits_folder, config, resume=True)):
        pass
    assert final(tmp_path) == final(whole[0])
    plain = [[(r["step"], r["loss"], r["lr"], r.get("scores")) for r in read_log(f)] for f in (tmp_path, whole[0])]
    assert plain[0] == plain[1]
    best = [checkpoint.fingerprint(checkpoint.load(f / "model.safetensors")[0]) for f in (tmp_path, whole[0])]
    assert best[0] == best[1]


def test_the_records_are_written_down(whole):
    folder, seen = whole
    assert [r.step for r in seen] == [r["step"] for r in read_log(folder)] == [1, 2, 3, 4, 5, 6]
    assert [r.step for r in seen if r.scores] == [3, 6]
    assert len(list((folder / "last").glob("step-*"))) == 2


def test_the_best_net_is_kept_with_the_score_it_really_has(whole, digits_folder):
    folder, seen = whole
    predictor = fullconv.load(folder / "model.safetensors", CONFIG_PRECISION)
    found = evaluate(predictor, open_dataset(digits_folder, "val"))
    best = max(r.scores.mean_iu for r in seen if r.scores)
    assert found.mean_iu == best
    assert predictor.header.provenance["val"]["mean_iu"] == best


CONFIG_PRECISION = "bf16" if multiplies_bf16() else "fp32"


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norm_keeps_its_statistics(digits_folder, frozen):
    net = fullconv.build(replace(MODEL, backbone="vgg11_bn", num_classes=11))
    before = net.backbone.bn1_1.running_mean.clone()
    config = replace(CONFIG, freeze_bn=frozen)
    next(fit(State.of(net, config), open_dataset(digits_folder, "train"), config, CONVENTIONS["torchvision"]))
    assert torch.equal(net.backbone.bn1_1.running_mean, before) == frozen


@pytest.mark.parametrize("backbone", ["vgg11", "vgg11_bn"])
def test_fcn_32s_fixed_learns_its_scores_and_nothing_else(digits_folder, tmp_path, backbone):
    model = replace(MODEL, backbone=backbone, stride=32, upsample="learn-all")
    job = start(tmp_path, digits_folder, replace(CONFIG, learn="scores", lr=0.1), model=model)
    before = {name: tensor.clone() for name, tensor in job.state.net.state_dict().items()}
    for _ in records(job):
        pass
    changed = {name for name, tensor in job.state.net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"score_fr.weight", "score_fr.bias", "upscore.weight"}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"geometric_classes": 3}, "no geometric classes"),
        ({"channels": 4}, "3 channels"),
        ({"late_fusion": "sum"}, "3 channels"),
    ],
)
def test_a_net_for_what_the_data_has_not_is_refused(digits_folder, tmp_path, change, words):
    with pytest.raises(UsageError, match=words):
        start(tmp_path, digits_folder, model=replace(MODEL, **change))


def test_a_split_that_was_made_is_written_down(digits_folder, tmp_path):
    data = tmp_path / "data"
    for kind in ("images", "labels"):
        (data / kind).mkdir(parents=True)
        for split in ("train", "val"):
            for path in (digits_folder / split / kind).iterdir():
                (data / kind / path.name).write_bytes(path.read_bytes())
    (data / "classes.yaml").write_bytes((digits_folder / "classes.yaml").read_bytes())
    list(records(start(tmp_path / "run", data, replace(CONFIG, steps=1))))
    said = json.loads((tmp_path / "run" / "split.json").read_text())
    assert "split" in said["how"]
    assert sorted(said["train"] + said["val"]) == sorted(path.stem for path in (data / "images").iterdir())
    assert said["val"]
    assert not set(said["train"]) & set(said["val"])


def test_a_damaged_state_is_passed_over_for_the_one_before(whole, tmp_path):
    source = sorted((whole[0] / "last").glob("step-*"))
    for path in source:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    newest = tmp_path / source[-1].name
    assert newest_state(tmp_path)[1]["step"] == 6
    good = newest.read_bytes()
    rng = random.Random(0)
    for _ in range(20):  # any one bit
        broken = bytearray(good)
        broken[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        newest.write_bytes(bytes(broken))
        assert newest_state(tmp_path)[1]["step"] == 5
    newest.write_bytes(good[: len(good) // 2])
    assert newest_state(tmp_path)[1]["step"] == 5


def test_a_folder_with_a_run_is_not_overwritten(whole, digits_folder):
    with pytest.raises(UsageError, match="holds a run already; add --resume"):
        start(whole[0], digits_folder)


@pytest.mark.parametrize("change, words", [({"lr": 0.02}, "lr was 0.01 .* is 0.02 now"), ({"seed": 3}, "seed was 0")])
def test_resume_with_other_settings_is_refused(whole, digits_folder, change, words):
    with pytest.raises(UsageError, match=words):
        start(whole[0], digits_folder, replace(CONFIG, **change), resume=True)


def test_learned_upsampling_learns_and_fixed_has_nothing_to_learn(digits_folder, tmp_path):
    run = start(tmp_path, digits_folder, model=replace(MODEL, upsample="learn-all"))
    before = {n: p.detach().clone() for n, p in run.state.net.named_parameters() if n.startswith("upscore")}
    list(records(run))
    after = dict(run.state.net.named_parameters())
    assert len(before) == 3
    assert not torch.equal(before["upscore8.weight"], after["upscore8.weight"])


def test_a_loss_that_is_not_finite_stops_before_the_update(digits_folder):
    net = fullconv.build(replace(MODEL, num_classes=11))
    state = State.of(net, CONFIG)
    steps = fit(state, open_dataset(digits_folder, "train"), CONFIG, CONVENTIONS["torchvision"])
    next(steps)
    with torch.no_grad():
        net.score_fr.bias.fill_(float("inf"))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(RunError, match=r"step 2: the loss is nan \(samples digits-train"):
        next(steps)
    assert all(torch.equal(before[n], t) or n == "score_fr.bias" for n, t in net.state_dict().items())


def test_a_kill_after_the_last_state_loses_no_net(whole, digits_folder, tmp_path, monkeypatch):
    def saved_and_killed(folder, state, facts):
        save_state(folder, state, facts)
        if state.step == CONFIG.steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("fullconv.training.run.save_state", saved_and_killed)
        list(records(start(tmp_path, digits_folder)))
    (tmp_path / ".model.safetensors.1.tmp").touch()  # of another kill
    list(records(start(tmp_path, digits_folder, resume=True)))
    for name in ("model.safetensors", "last.safetensors"):
        left, expected = (checkpoint.fingerprint(checkpoint.load(f / name)[0]) for f in (tmp_path, whole[0]))
        assert left == expected, name
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_full_disk_leaves_the_old_state(whole, tmp_path, monkeypatch):
    state = State.of(fullconv.build(replace(MODEL, num_classes=11)), CONFIG)
    save_state(tmp_path, state, {})
    state.step = 1

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .* bytes \(No space left on device\)"):
        save_state(tmp_path, state, {})
    assert newest_state(tmp_path)[1]["step"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000000.safetensors"]


ARGS = "--backbone vgg11 --stride 8 --width 0.03125 --native-size 32 --steps 8 --batch-size 2 --crop 32x32 --flip"


@pytest.mark.slow
def test_killed_for_real_and_resumed(digits_folder, tmp_path):
    """SIGKILL of the real command at random moments, then --resume: the same weights, bit for bit."""
    args = [*ARGS.split(), "--save-every", "2", "--eval-every", "4", "--workers", "1"]
    command = [sys.executable, "-m", "fullconv", "train", str(digits_folder), *args]

    errors = tmp_path / "errors"

    def train(out, *more):
        with errors.open("wb") as file:
            return subprocess.Popen([*command, "--out", str(out), *more], stdout=subprocess.DEVNULL, stderr=file)

    assert train(tmp_path / "one").wait() == 0, errors.read_text()
    log = tmp_path / "two" / "log.jsonl"
    rng = random.Random(0)
    for goal in (2, 6):
        process = train(tmp_path / "two", "--resume")
        while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= goal):
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert train(tmp_path / "two", "--resume").wait() == 0, errors.read_text()
    assert final(tmp_path / "two") == final(tmp_path / "one")
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(1, 9))
