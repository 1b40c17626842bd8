"""``fullconv export``, and prediction with its files where there is no torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.small_nets import graph, image, predictor

from fullconv.cli.command import main
from fullconv.cli.export import size_of
from fullconv.errors import UsageError
from fullconv.exporting.export import spread
from fullconv.weights import checkpoint

SOURCE = Path(__file__).parents[2] / "src"

WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "nncf"):
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Absent())
from fullconv.cli.command import main
main(sys.argv[1:])
"""


def call(capsys, *argv):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in argv])
    out = capsys.readouterr()
    return left.value.code or 0, out.out, out.err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint, and a photograph of 40x56."""
    folder = tmp_path_factory.mktemp("cli_export")
    one = predictor("lenet", 4)
    checkpoint.save(folder / "model.safetensors", one.net.state_dict(), one.header)
    Image.fromarray(image(40, 56)).save(folder / "photo.png")
    return folder


def without_torch(*argv):
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", WITHOUT_TORCH, *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m.onnx", "m.xml"])
def test_an_exported_file_predicts_without_torch(place, capsys, name):
    code, out, err = call(
        capsys, "export", place / "model.safetensors", "--out", place / name, "--size", "40x56", "--json"
    )
    assert code == 0, err
    said = json.loads(out)
    assert said["file"] == str(place / name) and said["size"] == [40, 56] and said["equal_labels"] == 1
    assert said["of_the_range"] <= 1e-4 and said["precision"] == "fp32"
    assert call(capsys, "predict", place / "model.safetensors", place / "photo.png", "--out", place / "torch")[0] == 0
    alone = without_torch("predict", place / name, place / "photo.png", "--out", place / name[2:], "--overlay")
    assert alone.returncode == 0, alone.stderr
    expected, found = (Image.open(place / kind / "photo.png") for kind in ("torch", name[2:]))
    assert found.mode == "P" and found.getpalette() == expected.getpalette()
    assert (np.asarray(found) == np.asarray(expected)).all() and len(np.unique(np.asarray(found))) > 1
    assert (place / name[2:] / "photo.overlay.jpg").is_file()


def test_that_torch_is_absent_is_so(place):
    alone = without_torch("predict", place / "model.safetensors", place / "photo.png", "--out", place / "none")
    assert alone.returncode == 2 and "a checkpoint needs torch, which is not installed" in alone.stderr
    assert alone.stderr.count("\n") == 1


def test_what_is_printed_is_plain(place, digits_folder, capsys):
    code, out, err = call(capsys, "export", place / "model.safetensors", "--out", place / "m.pt2", "--size", "40x56")
    assert code == 0, err
    assert "the file was run beside the net on 2 images of 40x56" in out and "100 % of 4,480 pixels" in out
    for words in (("predict", place / "m.pt2", place / "photo.png", "--out", place / "pt2"),
                  ("evaluate", place / "m.pt2", digits_folder)):  # fmt: skip
        code, out, err = call(capsys, *words)
        assert code == 2 and err.count("\n") == 1 and "torch may run code that is in it; give the .onnx or .xml" in err


def test_a_photograph_of_another_size(place, capsys):
    path = place / "fixed.onnx"
    path.write_bytes(graph((40, 56), backbone="lenet", stride=4))
    Image.fromarray(image(41, 56)).save(place / "other.png")
    code, _, err = call(capsys, "predict", path, place / "other.png", "--out", place / "other")
    assert code == 2 and "41x56" in err and "40x56" in err and "--size dynamic" in err and "Traceback" not in err


@pytest.mark.slow
def test_an_exported_file_takes_tiles_too(place, capsys):
    path = place / "any.onnx"
    path.write_bytes(graph(None, backbone="lenet", stride=4))
    Image.fromarray(image(150, 170)).save(place / "wide.png")
    for folder, flags in (("whole", []), ("tiles", ["--tile", "64"])):
        code, _, err = call(capsys, "predict", path, place / "wide.png", "--out", place / folder, *flags)
        assert code == 0, err
    assert "exactly the whole" in err
    whole, tiles = (np.asarray(Image.open(place / folder / "wide.png")) for folder in ("whole", "tiles"))
    assert (whole == tiles).mean() > 0.999


def test_hostile_files_are_one_line_and_exit_2(place, capsys):
    path = place / "bad.onnx"
    path.write_bytes(graph((40, 56), backbone="lenet", stride=4)[:-100])
    code, _, err = call(capsys, "predict", path, place / "photo.png", "--out", place / "bad")
    assert code == 2 and err.strip().count("\n") == 0 and "not a whole .onnx file" in err


@pytest.mark.slow
def test_mean_iu_and_integers(digits_folder, tmp_path, capsys):
    from fullconv.labels import LabelSpace
    from fullconv.weights.checkpoint import Header

    one = predictor("lenet", 4, num_classes=11)
    labels = LabelSpace.of(["background", *map(str, range(10))])
    checkpoint.save(
        tmp_path / "m.safetensors", one.net.state_dict(), Header(one.header.model, labels, one.header.input)
    )
    code, out, err = call(
        capsys, "export", tmp_path / "m.safetensors", "--out", tmp_path / "m.onnx", "--size", "40x52",
        "--data", digits_folder, "--limit", 1,
    )  # fmt: skip
    assert code == 0, err
    assert "mean IU" in out and "on 1 images of 40x52" in out
    said = {}
    for name in ("m.safetensors", "m.onnx"):
        code, out, err = call(capsys, "evaluate", tmp_path / name, digits_folder, "--json")
        assert code == 0, err
        said[name] = json.loads(out)["mean_iu"]
    assert said["m.safetensors"] == pytest.approx(said["m.onnx"], abs=1e-3)
    code, _, err = call(
        capsys, "export", tmp_path / "m.safetensors", "--out", tmp_path / "n.onnx", "--size", "40x50",
        "--data", digits_folder,
    )  # fmt: skip
    assert code == 2 and "--size 40x50: an image of" in err and "is 40x52; export with --size dynamic" in err
    # A net that was not trained does not keep its labels in 8 bits; that it is refused shows that the gate is there.
    code, out, err = call(
        capsys, "export", tmp_path / "m.safetensors", "--out", tmp_path / "q.onnx", "--size", "40x52",
        "--int8", digits_folder, "--calibration", 2,
    )  # fmt: skip
    assert (code == 0 and "int8" in out) or (code == 1 and "not written, since" in err and "%" in err)
    assert (tmp_path / "q.onnx").exists() == (code == 0)


@pytest.mark.parametrize(
    "flags, said",
    [(["--size", "40"], "--size is '40'"), (["--calibration", "0"], "--calibration is 0"),
     (["--limit", "0"], "--limit"), (["--out", "m.tflite"], "its suffix says no format"),
     (["--int8", "nowhere"], "nowhere")],
)  # fmt: skip
def test_flags_that_are_wrong(place, capsys, flags, said):
    code, _, err = call(capsys, "export", place / "model.safetensors", "--out", place / "x.onnx", *flags)
    assert code == 2 and said in err and err.count("\n") == 1


def test_sizes_and_spread():
    assert size_of("dynamic") is None and size_of("36x48") == (36, 48)
    with pytest.raises(UsageError):
        size_of("0x4")
    assert spread(100, 3) == [0, 33, 66] and spread(2, 9) == [0, 1]
