"""How many of our functions lie between a caller and the decoder or the network; docs/architecture.md states it."""

import re
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
from tests.support.predicting import checkpoint

import fullconv
from fullconv.cli import main
from fullconv.models.fcn import FCN

SOURCE = str(Path(fullconv.__file__).parent)
PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def frames():
    """Return the functions of fullconv on the stack, outermost first."""
    frame, names = sys._getframe(2), []
    while frame:
        if frame.f_code.co_filename.startswith(SOURCE) and frame.f_code.co_name != "<dictcomp>":
            names.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return names[::-1]


@pytest.fixture
def stacks(monkeypatch):
    """The stacks at the last decoding of an image and at the last run of a network."""
    seen = {}

    def noting(what, real):
        def call(*args, **kwargs):
            seen[what] = frames()  # the last one counts: before it, headers are read and memory is planned
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(FCN, "coarse", noting("network", FCN.coarse))
    monkeypatch.setattr(PIL.ImageFile.ImageFile, "load", noting("decoder", PIL.ImageFile.ImageFile.load))
    return seen


def stated(way):
    """Read the numbers of a row of the table of frames: to the decoder, to the network."""
    row = re.search(rf"^\| {re.escape(way)} \| (\d+) \| (\d+) \|$", PAGE.read_text(), re.M)
    return int(row[1]), int(row[2])


def test_the_frames_are_those_of_the_page(tmp_path, stacks):
    model, image = checkpoint(tmp_path / "m.safetensors"), tmp_path / "photo.png"
    PIL.Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(image)
    fullconv.load(model)(image)
    assert (len(stacks["decoder"]), len(stacks["network"])) == stated("`predictor(path)`"), stacks
    stacks.clear()
    with pytest.raises(SystemExit) as end:
        main(["predict", str(model), str(image), "--out", str(tmp_path / "masks")])
    assert end.value.code == 0
    assert (len(stacks["decoder"]), len(stacks["network"])) == stated("`fullconv predict`"), stacks
