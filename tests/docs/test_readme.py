"""What the README says works: its commands and its Python, as they stand there."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from tests.support.caffe_files import write_caffemodel, write_prototxt
from tests.support.caffe_nets import RELEASED
from torch import nn

from fullconv.cli.command import main
from fullconv.config import ModelConfig
from fullconv.models.build import build_classifier

TEXT = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(kind):
    return [text for of, text in re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.M | re.S) if of == kind]


@pytest.fixture(scope="module")
def place(digits_folder, tmp_path_factory):
    """A folder with photos/, new/ and photo.jpg, as the README supposes."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(digits_folder, folder / "photos")
    shutil.copytree(digits_folder / "val" / "images", folder / "new")
    Image.open(next((folder / "new").iterdir())).convert("RGB").save(folder / "photo.jpg")
    torch.save(build_classifier(ModelConfig("squeezenet1_1"), 1000).state_dict(), folder / "squeezenet.pth")
    layers = RELEASED["voc-fcn8s"](double=False)
    write_caffemodel(folder / "fcn8s.caffemodel", layers)
    write_prototxt(folder / "deploy.prototxt", layers, [("data", (1, 3, 500, 500))])
    return folder


@pytest.mark.slow
def test_the_commands_and_the_python(place, monkeypatch):
    monkeypatch.chdir(place)
    commands = [
        line.split("#")[0] for block in blocks("") for line in block.splitlines() if line.startswith("fullconv ")
    ]
    assert [line.split()[1] for line in commands] == [
        "check", "train", "evaluate", "predict", "data", "data", "inspect", "convert", "convert", "train", "reproduce",
    ]  # fmt: skip
    for line in commands:
        short = line.replace("--epochs 30", "--epochs 1 --crop 32x32").replace("run2 ", "run2 --steps 1 --crop 32x32 ")
        words = shlex.split(short)[1:]
        with pytest.raises(SystemExit) as left:
            main(words)
        assert not left.value.code, line
    assert len(list((place / "masks").glob("*.overlay.jpg"))) == 2
    names = {"my_classifier": nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(4 * 24 * 24, 10))}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["found"].prediction.shape == names["found"].image.shape[:2]


def test_the_classes_file():
    from fullconv.datasets.folder.classes_file import parse_rules

    (block,) = blocks("yaml")
    assert parse_rules(block.encode()).names == ("background", "cell", "nucleus")


def test_every_number_of_the_table_stands_in_a_result_file():
    import json

    results = (Path(__file__).parents[2] / "benchmarks" / "results").glob("camvid-*.json")
    measured = {f"{100 * json.loads(path.read_text())['scores']['mean_iu']:.1f}" for path in results}
    rows = re.findall(r"^\| FCN-8s .*$", TEXT, re.M)
    assert rows
    for row in rows:
        assert row.split("|")[5].strip(" *") in measured, row


def test_the_classes_file_of_the_data_page():
    from fullconv.datasets.folder.classes_file import parse_rules

    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    rules = parse_rules(block.encode())
    assert rules.names == ("background", "cell", "wall")
    assert rules.mapping == {100: 1}
