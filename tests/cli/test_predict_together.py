"""Several processes predict together: under torchrun, and on a cluster of Ray; and one that is interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image
from tests.support.predicting import checkpoint, image, names, predict, refused
from tests.support.ranks import done, torchrun

NUMBER = 40
TORCH = ["--engine", "torch"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, many images large enough to take some time, and their masks."""
    root = tmp_path_factory.mktemp("together")
    checkpoint(root / "model.safetensors")
    for k in range(NUMBER):
        image(root / "photos" / f"{k:02d}.png", (240, 320), seed=k)
    with pytest.raises(SystemExit):
        from fullconv.cli.command import main

        words = [str(root / "model.safetensors"), str(root / "photos"), "--out", str(root / "masks")]
        main(["predict", *words, *TORCH])  # which all of these tests take: a trial takes seconds
    return root


def start(*words):
    """The command in a process of its own, with one thread. It heeds an interrupt also where the tests themselves run
    in the background of a script, which ignores them and hands that on.
    """
    command = [sys.executable, "-m", "fullconv", "predict", *map(str, words), *TORCH]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_for(there, process, seconds=120):
    """What a function finds, as soon as it finds something."""
    until = time.monotonic() + seconds
    while not (found := there()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    return found


def same(one, other):
    """Whether two folders hold the same files."""
    return {name: (one / name).read_bytes() for name in names(one)} == {
        name: (other / name).read_bytes() for name in names(other)
    }


@pytest.mark.slow
def test_an_interrupted_run_leaves_whole_files_and_goes_on(place, tmp_path, capsys):
    slow = ("--flip", "--scales", "1,2,3")  # so that the signal comes before the end
    process = start(place / "model.safetensors", place / "photos", "--out", tmp_path, *slow)
    wait_for(lambda: len(names(tmp_path)) > 2, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "predict with --skip-existing" in err and "Traceback" not in err
    there = names(tmp_path)
    assert there and all(name.endswith(".png") for name in there), there
    for name in there:
        with Image.open(tmp_path / name) as mask:
            mask.load()
    said = predict(
        capsys, place / "model.safetensors", place / "photos", "--out", tmp_path, *slow, "--skip-existing", *TORCH
    )
    assert said["skipped"] == len(there) and len(said["written"]) == NUMBER - len(there)


@pytest.mark.slow
def test_torchrun_divides_the_images_and_a_bad_one_ends_no_other(place, tmp_path):
    """The process with the bad file is done long before the other, which must come to its end all the same."""
    for k in range(0, NUMBER, 2):
        image(tmp_path / "in" / f"{k + 1:02d}.png", (3, 3), seed=k)
        (tmp_path / "in" / f"{k:02d}.png").symlink_to(place / "photos" / f"{k:02d}.png")
    (tmp_path / "in" / "01.png").write_bytes(b"<!doctype html>")
    words = ["-m", "fullconv", "predict", place / "model.safetensors", tmp_path / "in", "--out", tmp_path / "o"]
    out = done(torchrun(2, *words, *TORCH, "--flip", "--scales", "1,1.5,2"), code=1)
    assert "01.png: an HTML page" in out and "(part 1 of 2)" in out and "(part 2 of 2)" in out
    assert names(tmp_path / "o") == [f"{k:02d}.png" for k in range(NUMBER) if k != 1]


def test_torchrun_and_a_shard_are_too_much(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = refused(capsys, place / "model.safetensors", place / "photos", "--out", tmp_path, "--shard", "1/2", *TORCH)
    assert line == "torchrun: it divides the images by itself; leave --shard and --ray out"


def test_without_ray_it_says_how_to_get_it(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = [place / "model.safetensors", place / "photos", "--out", tmp_path / "o", "--ray", "local", *TORCH]
    assert refused(capsys, *words) == "--ray: it needs Ray; pip install 'fullconv[dist]'"
    assert not names(tmp_path / "o")


RAY = ["--ray", "local", "--ray-workers", "2", "--json"]


def workers(process):
    """Ray's processes that predict."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "MapWorker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_two_workers_of_ray_write_what_one_run_writes(place, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"<!doctype html>")
    process = start(place / "model.safetensors", tmp_path / "bad.png", place / "photos", "--out", tmp_path / "o", *RAY)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 2 and "Traceback" not in err
    assert all(line.startswith(("predicting", "fullconv: error")) for line in err.splitlines()), (
        "Ray is not quiet:\n" + err
    )
    said = json.loads(out)
    assert [row["name"] for row in said["written"]] == [f"{k:02d}" for k in range(NUMBER)]
    assert len(said["failed"]) == 1 and "bad.png: an HTML page" in said["failed"][0]
    assert same(tmp_path / "o", place / "masks")
    assert 0 < said["net_busy"] <= 1 and said["seconds"]["network"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(2))
def test_a_killed_worker_loses_nothing_and_repeats_nothing(place, tmp_path, turn):
    """Each output is whole, each input is told of once, and what was noted when the worker died is not made again."""
    out = tmp_path / "o"
    process = start(place / "model.safetensors", place / "photos", "--out", out, "--flip", "--scales", "1,1.5", *RAY)

    def noted():
        return {path: path.stat().st_mtime_ns for path in out.glob(".fullconv-notes-*/*.json")}

    wait_for(lambda: len(noted()) >= 3 + 4 * turn, process)
    victims = workers(process)
    assert len(victims) == 2
    victims[turn].send_signal(signal.SIGKILL)
    whole = {path.stem: (out / f"{path.stem}.png") for path in noted()}
    numbers = [int(stem) for stem in whole]
    before = {k: (out / f"{k:02d}.png").stat().st_mtime_ns for k in numbers}
    text, err = process.communicate(timeout=240)
    assert process.returncode == 0 and all(line.startswith("predicting") for line in err.splitlines()), err
    said = json.loads(text)
    assert [row["name"] for row in said["written"]] == [f"{k:02d}" for k in range(NUMBER)]
    assert not said["failed"] and not said["skipped"]
    assert {k: (out / f"{k:02d}.png").stat().st_mtime_ns for k in numbers} == before
    masks = [name for name in names(out) if not name.startswith(".")]
    assert masks == [f"{k:02d}.png" for k in range(NUMBER)]
    assert not list(out.glob(".fullconv-notes-*"))


def test_an_image_of_which_workers_die_is_given_up_and_the_others_are_done(place, tmp_path):
    """As a worker finds it that is started for the fourth time: it is alone with the image that the others died of."""
    from fullconv.inference.inputs import gather
    from fullconv.inference.outputs import OutputWriter
    from fullconv.inference.ray_cluster import LIVES, Task, Worker
    from fullconv.inference.request import PredictRequest

    inputs = gather([str(place / "photos" / f"{k:02d}.png") for k in range(4)], tmp_path)
    (tmp_path / "notes").mkdir()
    asked = PredictRequest(place / "model.safetensors")
    task = Task(Path.cwd(), asked, inputs, OutputWriter(tmp_path), 1, False,
                tmp_path / "notes")  # fmt: skip
    for number, tries in ((1, LIVES), (2, LIVES - 1)):
        (tmp_path / "notes" / f"{number}.tries").write_bytes(b"." * tries)
    said = [json.loads(text) for text in Worker(task)({"number": [0, 1, 2, 3]})["said"]]
    found = {one["number"]: one for one in said if "number" in one}
    assert sorted(found) == [0, 1, 2, 3]
    assert "01.png: 3 workers died of it" in found[1]["records"][0]["error"]
    assert names(tmp_path)[:3] == ["00.png", "02.png", "03.png"]
    again = [json.loads(text) for text in Worker(task)({"number": [0, 2, 3]})["said"]]
    assert again == [found[0], found[2], found[3]], "it was made again"


def test_no_cluster_is_one_line(place, tmp_path, capsys, monkeypatch):
    ray = pytest.importorskip("ray")

    def init(**_):
        raise ConnectionError("Could not find any running Ray instance.\nMore.")

    monkeypatch.setattr(ray, "init", init)
    line = refused(capsys, place / "model.safetensors", place / "photos", "--out", tmp_path, "--ray", "auto", *TORCH)
    assert line.startswith("--ray auto: no cluster answers (Could not find any running Ray instance.)")
    line = refused(
        capsys, place / "model.safetensors", place / "photos", "--out", tmp_path, "--ray", "127.0.0.1:1", *TORCH
    )
    assert line.startswith("--ray 127.0.0.1:1: no cluster answers (")
    assert not list(tmp_path.iterdir()), "notes were left"
