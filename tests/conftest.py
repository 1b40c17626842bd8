import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run in several processes; read when torch is imported

import pytest
import torch
from hypothesis import settings

from fullconv import host

pytest_plugins = ["tests.support.faulty_folders"]  # the fixtures of folders with faults

settings.register_profile("fullconv", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("fullconv")

host.own_process()  # the tests are alone in theirs; those of a library call (test_host.py) start others


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images and weights for measuring, where there is one."""
    folder = Path(os.environ.get("FULLCONV_SHARED_DATA", "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder} (set FULLCONV_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory) -> Path:
    """A folder of small scenes as a user would have it: images, masks, class names; 6 to train, 2 to validate."""
    from PIL import Image

    from fullconv.datasets.synthetic.digits import Digits
    from fullconv.io.label_image import write_label

    root = tmp_path_factory.mktemp("digits")
    for split, length in (("train", 6), ("val", 2)):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for sample in Digits(split, size=(40, 52), length=length):
            Image.fromarray(sample.image).save(root / split / "images" / f"{sample.name}.png")
            write_label(root / split / "labels" / f"{sample.name}.png", sample.label, Digits(split).labels)
    (root / "classes.yaml").write_text("names: [background, '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']\n")
    return root
