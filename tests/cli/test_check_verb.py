"""`fullconv check`: what it prints, the page, the clean copy, and the picture of the augmentation."""

from __future__ import annotations

import io
import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.cli.command import main


def call(capsys, *argv):
    """Exit code, standard output and standard error of the command."""
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in argv])
    out = capsys.readouterr()
    return left.value.code or 0, out.out, out.err


@pytest.fixture
def faulty(digits_folder, tmp_path):
    """The scenes with a broken image, and an image of the training split to validate on."""
    data = shutil.copytree(digits_folder, tmp_path / "data")
    train, val = sorted((data / "train/images").iterdir()), sorted((data / "val/images").iterdir())
    train[0].write_bytes(b"")
    shutil.copy(train[1], val[0])
    return data


def test_findings_are_printed_with_weights_and_as_json(faulty, capsys):
    code, out, _ = call(capsys, "check", faulty, "--threads", "2")
    assert code == 2
    assert "weight" in out
    assert "1 errors" in out
    assert "cannot be used as it is" in out
    code, out, _ = call(capsys, "check", faulty, "--json")
    said = json.loads(out)
    assert code == 2
    assert {problem["kind"] for problem in said["problems"]} >= {"unreadable-image", "leak"}
    assert len(said["weights"]) == 11


def test_the_clean_copy_has_no_errors(faulty, tmp_path, capsys):
    out_folder = tmp_path / "clean"
    code, out, _ = call(capsys, "check", faulty, "--fix", out_folder)
    assert code == 0
    assert f"written: {out_folder}: 5 train, 1 val" in out
    assert "2 entries left out" in out
    assert len((out_folder / "left-out.txt").read_text().splitlines()) == 2
    code, out, _ = call(capsys, "check", out_folder)
    assert code == 0
    code, _, err = call(capsys, "check", faulty, "--fix", out_folder)
    assert code == 2
    assert "not empty" in err


def test_the_page_is_written(faulty, tmp_path, capsys):
    page = tmp_path / "check.html"
    code, out, _ = call(capsys, "check", faulty, "--html", page)
    assert code == 2
    assert f"written: {page}" in out
    assert "images that cannot be read" in page.read_text()


def test_the_augmentation_is_drawn_with_the_settings_given(digits_folder, tmp_path, capsys, monkeypatch):
    asked = []

    def draw(dataset, config, convention, rows, columns):
        asked.append((len(dataset), config, convention, rows, columns))
        buffer = io.BytesIO()
        Image.new("RGB", (3, 2)).save(buffer, "PNG")
        return buffer.getvalue()

    module = types.ModuleType("fullconv.reporting.augmentation_preview")
    module.draw_augmented = draw
    monkeypatch.setitem(sys.modules, "fullconv.reporting.augmentation_preview", module)
    picture = tmp_path / "a.png"
    code, out, _ = call(
        capsys, "check", digits_folder, "--augment", picture, "--crop", "32x32", "--flip", "--scale", "1.5"
    )
    ((length, config, convention, rows, columns),) = asked
    assert (code, length, rows, columns) == (0, 6, 4, 6)
    assert (config.crop, config.flip, config.scale, convention.order) == ((32, 32), True, 1.5, "rgb")
    with Image.open(picture, formats=("PNG",)) as drawn:
        assert drawn.size == (3, 2)
    assert "checking" not in out
    call(capsys, "check", digits_folder, "--augment", picture, "--split", "val", "--input", "caffe")
    assert asked[1][0] == 2
    assert asked[1][2].order == "bgr"


def test_the_augmentation_is_a_picture(digits_folder, tmp_path, capsys):
    pytest.importorskip("fullconv.reporting.augmentation_preview")
    code, _, _ = call(
        capsys, "check", digits_folder, "--augment", tmp_path / "a.png", "--crop", "32x32", "--jitter", "4"
    )
    assert code == 0
    drawn = np.asarray(Image.open(tmp_path / "a.png", formats=("PNG",)).convert("RGB"))
    assert drawn.std() > 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("{data} --flip", "--augment"),
        ("{data} --recipe nothing", "--augment"),
        ("{data} --augment {tmp}/a.png --recipe nothing", "no such recipe"),
        ("{data} --augment {tmp}/a.png --crop 3", "HEIGHTxWIDTH"),
        ("{data} --threads 0", "--threads"),
        ("{data} --fix {tmp}/x --split val", "--split"),
        ("digits --fix {tmp}/x", "no folder"),
        ("{data} --fix {data}/inside", "apart"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(words, said, digits_folder, tmp_path, capsys):
    code, _, err = call(capsys, "check", *words.format(data=digits_folder, tmp=tmp_path).split())
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not Path(tmp_path / "x").exists()


def test_masks_of_0_and_255_are_checked_as_they_will_be_read(digits_folder, tmp_path, capsys):
    data = shutil.copytree(digits_folder, tmp_path / "data")
    (data / "classes.yaml").unlink()
    for path in data.glob("*/labels/*.png"):
        with Image.open(path, formats=("PNG",)) as mask:
            binary = np.where(np.asarray(mask) == 0, 0, 255).astype(np.uint8)
        Image.fromarray(binary).save(path)
    assert call(capsys, "check", data)[0] == 2
    code, out, _ = call(capsys, "check", data, "--map", "255=1", "--fix", tmp_path / "clean")
    assert code == 0
    assert "8 masks in other numbers than before" in out
    assert call(capsys, "check", tmp_path / "clean")[0] == 0


@pytest.mark.parametrize("other", ["--html", "--fix"])
def test_drawing_is_all_that_augment_does(digits_folder, tmp_path, capsys, other):
    code, _, err = call(capsys, "check", digits_folder, "--augment", tmp_path / "a.png", other, tmp_path / "x")
    assert code == 2 and "leave out --html and --fix" in err and not (tmp_path / "a.png").exists()
