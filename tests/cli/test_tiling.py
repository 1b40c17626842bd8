"""``fullconv predict`` on large images: the flags, what is said, what is written."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.support.large_images import photo, predictor_of

from fullconv.cli.command import main
from fullconv.inference.large_image.file_predictor import PercentLog
from fullconv.io.label_image import read_label_values
from fullconv.weights import checkpoint


def fullconv(*argv):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in argv])
    return ended.value.code


@pytest.fixture
def folder(tmp_path):
    predictor = predictor_of()
    checkpoint.save(tmp_path / "net.safetensors", predictor.net.state_dict(), predictor.header)
    Image.fromarray(photo(700, 300)).save(tmp_path / "a.png")
    return tmp_path


def test_tiles_and_strips_write_what_the_whole_writes(folder, capsys):
    model, image = folder / "net.safetensors", folder / "a.png"
    assert fullconv("predict", model, image, "--out", folder / "whole", "--tile", "none") == 0
    assert "exactly" not in capsys.readouterr().err
    assert fullconv("predict", model, image, "--out", folder / "tiles", "--tile", 64, "--json") == 0
    told = capsys.readouterr()
    assert "a.png, 700x300: 4 tiles of" in " ".join(told.err.split())
    assert "exactly the whole" in told.err and "more pixels than the image" in told.err
    (said,) = json.loads(told.out)["written"]
    assert said["way"] == "tiles" and said["output"] == str(folder / "tiles" / "a.png")
    whole, tiles = (read_label_values(folder / name / "a.png") for name in ("whole", "tiles"))
    assert (whole != tiles).mean() < 1e-3
    assert Image.MAX_IMAGE_PIXELS  # nobody's limit was changed


def test_a_small_halo_is_told(folder, capsys):
    argv = ("predict", folder / "net.safetensors", folder / "a.png", "--out", folder / "out", "--tile", 160)
    assert fullconv(*argv, "--halo", 32) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "32 of them around each, where its scores look as far as 214: up to" in told
    assert "labels where seams cross" in told and "leave --halo out for none" in told


@pytest.mark.parametrize("flags, said", [
    (("--tile", "some"), "--tile some: give auto, none, or the side of a tile in pixels"),
    (("--tile", 0), "--tile 0: give auto, none, or the side of a tile in pixels"),
    (("--tile", 7), "tile 7x7: smaller than the stride of the net; give 32 or more"),
    (("--halo", -1), "--halo -1: give 0 or more"),
    (("--tile", "none", "--halo", 9), "--halo: the whole has no tiles; leave it out, or --tile none"),
    (("--memory", 0), "--memory 0: give 1 or more"),
    (("--format", "jpg"), "--format jpg: there is no such format; One of: png, tif"),
    (("--max-pixels", 1000), "above the limit of 1,000; raise --max-pixels"),
])  # fmt: skip
def test_wrong_flags_are_one_line(folder, capsys, flags, said):
    code = fullconv("predict", folder / "net.safetensors", folder / "a.png", "--out", folder / "out", *flags)
    told = capsys.readouterr().err
    assert code == 2 and said in told and "Traceback" not in told
    assert not list(folder.glob("out/*"))


def test_too_little_memory_is_one_line(folder, capsys):
    code = fullconv("predict", folder / "net.safetensors", folder / "a.png", "--out", folder / "out", "--memory", 1)
    told = capsys.readouterr().err
    assert code == 1 and "--memory: 1 MB are less than the" in told and "before any image; give more" in told
    assert told.count("\n") <= 2  # what was to do, and what was wrong
    assert not list(folder.glob("out/*"))


def test_format_tif_is_written_for_any_image(folder, capsys):
    rasterio = pytest.importorskip("rasterio")
    argv = ("predict", folder / "net.safetensors", folder / "a.png", "--out", folder / "out", "--format", "tif")
    assert fullconv(*argv) == 0
    assert fullconv(*argv[:-2]) == 0
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(folder / "out" / "a.tif") as file:
        assert np.array_equal(file.read(1), read_label_values(folder / "out" / "a.png"))


def test_a_long_way_is_told_in_steps():
    said = []
    steps = PercentLog("a", said.append, every=0)
    steps(1, 4)
    steps(4, 4)
    assert said == ["a: 25%", "a: 100%"]
    often = PercentLog("a", said.append, every=60)
    often(1, 4)
    assert len(said) == 2
