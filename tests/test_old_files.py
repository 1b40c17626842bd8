"""Files of format 1, written when it was introduced, still load and give the results that they gave."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import fullconv
from fullconv.cli.command import main

FILES = Path(__file__).parent / "fixtures" / "format_1"
IMAGE = FILES / "scenes" / "images" / "3.png"
TOLERANCE = 1e-4
"""Of the range of the values: processors round differently."""


def close(values, stored):
    return values.shape == stored.shape and np.abs(values - stored).max() <= TOLERANCE * np.ptp(stored)


def call(*argv):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in argv])
    return left.value.code or 0


@pytest.mark.parametrize("engine", ["eager", "torch"])
def test_checkpoint(engine):
    predictor = fullconv.load(FILES / "fcn8s.safetensors", engine=engine)
    assert predictor.labels.names == ("ground", "odd", "even")
    assert close(predictor(IMAGE).logits, np.load(FILES / "fcn8s.npy"))


@pytest.mark.parametrize("engine", ["eager", "torch"])
def test_checkpoint_of_two_heads(engine):
    predictor, stored = fullconv.load(FILES / "two_heads.safetensors", engine=engine), np.load(FILES / "two_heads.npz")
    segmentation = predictor(np.array(Image.open(IMAGE))[:16, :20])
    assert len(segmentation.labels.names) == 33 and len(segmentation.geometric.labels.names) == 3
    assert close(segmentation.logits, stored["semantic"])
    assert close(segmentation.geometric.logits, stored["geometric"])


def test_run_resumes(tmp_path):
    run = shutil.copytree(FILES / "run", tmp_path / "run")
    given = "--backbone lenet --stride 4 --width 0.125 --steps 5 --save-every 4 --eval-every 1 --batch-size 2"
    flags = [*given.split(), "--precision", "fp32", "--workers", "0"]
    assert call("train", FILES / "scenes", "--out", run, "--resume", *flags) == 0
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (FILES / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5] and log[:4] == before
    assert log[4]["loss"] == pytest.approx(1.0990301370620728, rel=TOLERANCE)
    assert (run / "split.json").read_bytes() == (FILES / "run" / "split.json").read_bytes()
    tensors, stored = load_file(run / "last.safetensors"), load_file(FILES / "resumed.safetensors")
    assert tensors.keys() == stored.keys()
    for name, tensor in stored.items():
        assert np.abs(tensors[name] - tensor).max() <= 1e-6 * max(1, np.abs(tensor).max()), name


@pytest.mark.parametrize(
    "file, runs_it",
    [("fcn8s.onnx", "onnxruntime"), ("fcn8s.xml", "openvino"), ("fcn8s.int8.onnx", "onnxruntime")],
)
def test_exported(tmp_path, file, runs_it):
    pytest.importorskip(runs_it)
    with zipfile.ZipFile(FILES / "exported.zip") as archive:
        archive.extractall(tmp_path)
    assert call("predict", tmp_path / file, IMAGE, "--out", tmp_path / "masks") == 0
    mask = np.array(Image.open(tmp_path / "masks" / "3.png"))
    if "int8" in file:  # products of 8-bit integers are rounded differently by different processors
        assert (mask == np.array(Image.open(FILES / "int8_labels.png"))).mean() >= 0.99
        return
    logits = np.load(FILES / "fcn8s.npy")
    best, second = np.sort(logits, axis=0)[:-3:-1]
    clear = best - second > 2 * TOLERANCE * np.ptp(logits)
    assert clear.mean() > 0.99 and (mask == logits.argmax(0))[clear].all()


def test_a_torch_program_is_refused(tmp_path, capsys):
    """Reading a .pt2 unpickles, which can run code: it is written, and no longer read."""
    with zipfile.ZipFile(FILES / "exported.zip") as archive:
        archive.extract("fcn8s.pt2", tmp_path)
    assert call("predict", tmp_path / "fcn8s.pt2", IMAGE, "--out", tmp_path / "masks") == 2
    assert "fcn8s.pt2: a .pt2 is not read here" in capsys.readouterr().err
