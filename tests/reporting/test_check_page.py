"""The page of `fullconv check` holds every finding, shows samples, and asks the network for nothing."""

from __future__ import annotations

import re
import shutil
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fullconv.checking.check_dataset import check_dataset, check_samples
from fullconv.datasets.synthetic.digits import Digits
from fullconv.labels import LabelSpace
from fullconv.reporting.check_page import class_shares, write_check_page


def bars(png):
    """The columns of a figure that are painted, from black and opaque: (H, W) alpha."""
    return np.asarray(Image.open(BytesIO(png), formats=("PNG",)).convert("RGBA"))[:, :, 3]


@pytest.fixture
def faulty(digits_folder, tmp_path):
    """A broken image, a stray value, a copied image and a name that is markup."""
    data = shutil.copytree(digits_folder, tmp_path / "<b>data")
    train, val = sorted((data / "train/images").iterdir()), sorted((data / "val/images").iterdir())
    train[0].write_bytes(b"")
    shutil.copy(train[1], val[0])
    Image.new("RGB", (52, 40), (9, 9, 9)).save(train[2])
    return data


def test_everything_found_stands_on_the_page(faulty, tmp_path):
    found = check_dataset(faulty)
    page = write_check_page(tmp_path / "page.html", found).read_text()
    kinds = [problem.kind for problem in found.problems]
    assert {"unreadable-image", "leak", "constant-image"} <= set(kinds)
    assert "<b>data" not in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    for heading in ("What was found", "Splits", "Classes", "Samples with findings", "Samples of train"):
        assert f">{heading}</h2>" in page
    assert page.index("images that cannot be read") < page.index("images of one colour")
    assert "cannot be used as it is" in page
    assert page.count("<img") == 1 + 2 + 4 + 2  # shares, the samples marked that can be drawn, some of each split


def test_the_page_is_the_same_each_time(faulty, tmp_path):
    pages = [write_check_page(tmp_path / f"{n}.html", check_dataset(faulty, workers=n)).read_bytes() for n in (1, 3)]
    assert pages[0] == pages[1]


def test_a_set_without_usable_classes_has_a_page(faulty, tmp_path):
    (faulty / "classes.yaml").write_text("nmes: []")
    page = write_check_page(tmp_path / "page.html", check_dataset(faulty)).read_text()
    assert "nmes" in page
    assert "Samples" not in page


def test_scenes_that_are_no_files_have_a_page(tmp_path):
    found = check_samples("digits", {"train": Digits("train", length=12)})
    page = write_check_page(tmp_path / "page.html", found).read_text()
    assert "nothing is wrong" in page
    assert page.count("<img") == 1 + 4


@pytest.mark.parametrize("count", [2, 40])
def test_longer_bars_for_larger_shares(count):
    labels = LabelSpace.of([f"class {i}" for i in range(count)])
    shares = [0.5, *[0.5 / (count - 1)] * (count - 1)]
    one, other = (bars(class_shares({"train": s}, labels)) for s in (shares, [0.0] * count))
    assert one.shape == other.shape
    assert (one > 200).sum() > (other > 200).sum()
    assert class_shares({"train": shares, "val": [0.0] * count, "test": shares}, labels)
