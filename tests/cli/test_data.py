"""``fullconv data``: every action says what it did, as a table and as JSON, or what was wrong with what it got."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.support.fakes import fake

from fullconv.cli.command import main
from fullconv.datasets.published.catalog import abouts


def call(capsys, *argv):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in argv])
    out = capsys.readouterr()
    return left.value.code or 0, out.out, out.err


def test_list_shows_every_set(capsys):
    code, out, _ = call(capsys, "data", "list")
    assert code == 0 and all(name in out for name in abouts())
    said = json.loads(call(capsys, "data", "list", "--json")[1])
    assert [one["name"] for one in said] == list(abouts())


@pytest.mark.parametrize("name", abouts())
def test_list_says_everything_about_one(capsys, name):
    code, out, _ = call(capsys, "data", "list", name)
    about, words = abouts()[name], " ".join(out.split())
    assert code == 0 and about.home in words
    for text in (about.title, about.terms, about.by_hand):
        assert " ".join(text.split()) in words or len(text) > 60


def test_verify_counts_and_fingerprints(capsys, tmp_path):
    fake("camvid", tmp_path / "set")
    code, out, _ = call(capsys, "data", "verify", f"camvid:{tmp_path / 'set'}", "--json")
    found = {split["split"]: split for split in json.loads(out)}
    assert code == 2 and found["train"]["samples"] == 3 and found["train"]["published"] == 367
    assert not found["train"]["complete"] and len(found["train"]["fingerprint"]) == 64
    code, out, _ = call(capsys, "data", "verify", f"camvid:{tmp_path / 'set'}")
    assert code == 2 and "other files" in out


def test_convert_writes_the_pngs_that_are_then_read(capsys, tmp_path):
    splits = fake("sbd", tmp_path / "set")
    from fullconv.datasets.open_dataset import open_dataset

    before = [open_dataset(f"sbd:{tmp_path / 'set'}", "train")[i].label for i in range(3)]
    broken = tmp_path / "set" / "benchmark_RELEASE" / "dataset" / "inst" / f"{splits['val'][0]}.mat"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    code, _, err = call(capsys, "data", "convert", f"sbd:{tmp_path / 'set'}")
    assert code == 2 and "1 labels could not be read" in err and broken.name in err
    broken.write_bytes(whole)
    code, out, _ = call(capsys, "data", "convert", f"sbd:{tmp_path / 'set'}", "--json")
    assert code == 0 and json.loads(out)["written"] == 1
    data = open_dataset(f"sbd:{tmp_path / 'set'}", "train")
    assert data.files.labels[0][0].suffix == ".png"
    for i, label in enumerate(before):
        np.testing.assert_array_equal(data[i].label, label)
    with Image.open(data.files.labels[0][0]) as png:
        assert png.mode == "P" and png.getpalette()[3:6] == [128, 0, 0]


def test_hha_is_written_beside_the_depth(capsys, tmp_path):
    (tmp_path / "depth").mkdir()
    depth = np.full((48, 64), 2000, np.uint16)
    Image.fromarray(depth).save(tmp_path / "depth" / "img_5001.png")
    code, _, err = call(capsys, "data", "hha", tmp_path)
    assert code == 2 and "--camera" in err
    code, _, err = call(capsys, "data", "hha", tmp_path, "--camera", "50,50,32")
    assert code == 2 and "FX,FY,CX,CY" in err
    code, out, _ = call(capsys, "data", "hha", tmp_path, "--camera", "50,50,32,24", "--json")
    assert code == 0 and json.loads(out) == {"written": ["img_5001.png"]}
    picture = np.asarray(Image.open(tmp_path / "hha" / "img_5001.png"))
    assert picture.shape == (48, 64, 3) and (picture[:, :, 0] == round(31000 / 200)).all()
    code, _, err = call(capsys, "data", "hha", tmp_path / "depth")
    assert code == 2 and "no folder depth" in err


def test_bounds_rise_as_the_grid_gets_finer(capsys, tmp_path):
    fake("camvid", tmp_path / "set")
    code, out, _ = call(capsys, "data", "bounds", f"camvid:{tmp_path / 'set'}", "--factors", "16,4,1", "--json")
    found = json.loads(out)
    assert code == 0 and found["4"]["mean_iu"] == found["1"]["mean_iu"] == 1.0 > found["16"]["mean_iu"]
    code, out, _ = call(capsys, "data", "bounds", f"camvid:{tmp_path / 'set'}", "--factors", "4")
    assert code == 0 and "100.0" in out


@pytest.mark.parametrize(
    "argv, words",
    [
        (["lst"], "did you mean 'list'"),
        (["get"], "give the NAME"),
        (["get", "camvd"], "camvid"),
        (["get", "cityscapes"], "sign up"),
        (["verify", "somewhere"], "give NAME:DIR"),
        (["convert", "voc2012:x"], "sbd:DIR"),
        (["seg11valid", "sbd:x", "sbd:y"], "voc2011"),
        (["bounds", "digits", "--factors", "4,x"], "whole numbers"),
        (["bounds", "digits", "--factors", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(capsys, argv, words):
    code, _, err = call(capsys, "data", *argv)
    line = err.strip().splitlines()[-1]
    assert code == 2 and words in line and line.startswith("fullconv: error: ")
