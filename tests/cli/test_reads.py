"""How often a file is opened: once to predict it; a mask once for the survey and once for each use of its sample."""

import os
import shutil
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.predicting import call, checkpoint, image

from fullconv.config import CONVENTIONS, ModelConfig, TrainConfig
from fullconv.datasets.open_dataset import open_dataset
from fullconv.training.run import prepare, records

_watched: list[tuple[Path, Counter[str]]] = []


def _count(event, arguments):
    if event == "open" and _watched and isinstance(arguments[0], str | bytes | os.PathLike):
        path, flags = Path(os.fsdecode(arguments[0])), arguments[2]
        for root, counts in _watched:
            if path.is_relative_to(root) and not flags & (os.O_WRONLY | os.O_RDWR):
                counts[path.relative_to(root).as_posix()] += 1


sys.addaudithook(_count)  # every way in which Python opens a file; a hook cannot be removed


@contextmanager
def opened(root):
    """How often each file below a folder is opened for reading."""
    _watched.append((root, Counter()))
    try:
        yield _watched[-1][1]
    finally:
        _watched.pop()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model") / "model.safetensors")


def test_the_count_can_fail(tmp_path):
    (tmp_path / "a").write_text("a")
    with opened(tmp_path) as counts:
        (tmp_path / "a").read_text()
        (tmp_path / "a").read_bytes()
        (tmp_path / "b").write_text("b")
    assert counts == {"a": 2}


@pytest.mark.parametrize("name", ["one.png", "one.jpg", "one.bmp", "one.webp"])
@pytest.mark.parametrize("flags", [[], ["--flip", "--overlay"]])
def test_an_image_is_opened_once_to_predict_it(model, tmp_path, capsys, name, flags):
    photos = tmp_path / "photos"
    image(photos / name)
    with opened(photos) as counts:
        assert call(capsys, "predict", model, photos / name, "--out", tmp_path / "out", *flags)[0] == 0
    assert counts == {name: 1}


def test_each_image_of_a_folder_is_opened_once(model, tmp_path, capsys):
    photos = tmp_path / "photos"
    for number in range(3):
        image(photos / f"{number}.png", seed=number)
    (photos / "3.png").write_bytes(b"not an image")
    with opened(photos) as counts:
        assert call(capsys, "predict", model, photos, "--out", tmp_path / "out")[0] == 2
    assert counts == {f"{number}.png": 1 for number in range(4)}
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


@pytest.fixture
def folder(digits_folder, tmp_path):
    """A folder that no test has opened before."""
    return Path(shutil.copytree(digits_folder, tmp_path / "folder"))


def masks(counts, split):
    """How often the masks of a split were opened."""
    return {name.rpartition("/")[2]: n for name, n in counts.items() if name.startswith(f"{split}/labels/")}


CONFIG = TrainConfig(steps=3, batch_size=2, lr=0.01, crop=None, save_every=3, eval_every=3, workers=0)


@pytest.mark.parametrize(
    "config",
    [CONFIG, replace(CONFIG, crop=(32, 32)), replace(CONFIG, class_weights="median"), replace(CONFIG, balance=True)],
    ids=["whole images", "crops", "class weights", "balanced"],
)
def test_a_mask_is_opened_once_for_the_survey_and_once_each_time_it_is_drawn(folder, tmp_path, config):
    model = ModelConfig("vgg11", stride=8, width=1 / 32, native_size=32)
    with opened(folder) as counts:
        train, val = open_dataset(folder, "train"), open_dataset(folder, "val")
        assert set(masks(counts, "train").values()) == {1} and set(masks(counts, "val").values()) == {1}
        run = prepare(tmp_path / "run", str(folder), train, val, model, config, CONVENTIONS["torchvision"])
        assert len(list(records(run))) == 3
    drawn = {name: n - 1 for name, n in masks(counts, "train").items()}
    assert len(drawn) == 6 and sum(drawn.values()) == 6
    assert config.balance or set(drawn.values()) == {1}  # an epoch
    assert list(masks(counts, "val").values()) == [2, 2]  # the survey, and one evaluation


def test_the_verb_opens_a_mask_once_more_for_its_report(folder, tmp_path, capsys):
    """The label audit looks at each image once, and each picture that the report shows is drawn from its sample."""
    model = ["--backbone", "vgg11", "--width", "0.03125", "--native-size", "32", "--stride", "8"]
    steps = ["--steps", "3", "--eval-every", "3", "--batch-size", "2"]
    with opened(folder) as counts:
        code, _, err = call(capsys, "train", folder, "--out", tmp_path / "run", *model, *steps)
    assert code == 0, err
    assert set(masks(counts, "train").values()) == {1 + 1 + 1} and len(masks(counts, "train")) == 6
    assert list(masks(counts, "val").values()) == [1 + 1 + 1 + 1] * 2  # survey, evaluation, audit, picture


def test_a_mask_in_numpy_format_is_opened_once_to_survey_it(tmp_path):
    for split in ("train", "val"):
        for number in range(2):
            image(tmp_path / split / "images" / f"{split}{number}.png")
            (tmp_path / split / "masks").mkdir(exist_ok=True)
            label = np.asarray(Image.open(tmp_path / split / "images" / f"{split}{number}.png", formats=["PNG"]))
            np.save(tmp_path / split / "masks" / f"{split}{number}.npy", label[:, :, 0] // 86)
    with opened(tmp_path) as counts:
        dataset = open_dataset(tmp_path, "train")
        survey = {name: n for name, n in counts.items() if name.endswith(".npy")}
        assert len(dataset) == 2 and len(survey) == 2
        dataset[0]
    assert survey == dict.fromkeys(survey, 1)
    assert counts["train/masks/train0.npy"] == 2
