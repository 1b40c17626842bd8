"""What the tests of predict share: a small net with scores, images, and the command."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import fullconv
from fullconv.cli.command import main
from fullconv.config import CONVENTIONS, ModelConfig
from fullconv.labels import LabelSpace
from fullconv.weights import checkpoint as weights
from fullconv.weights.checkpoint import Header

LABELS = LabelSpace.of(["background", "a", "b", "c"])


def checkpoint(path):
    """A net of random weights that names every class somewhere."""
    torch.manual_seed(0)
    net = fullconv.build(ModelConfig("vgg11", stride=8, num_classes=4, width=1 / 32, native_size=32)).eval()
    for name, parameter in net.named_parameters():
        if name.startswith("score"):
            torch.nn.init.normal_(parameter)
    weights.save(path, net.state_dict(), Header(net.config, LABELS, CONVENTIONS["torchvision"]))
    return path


def image(path, size=(24, 31), seed=0):
    """A picture of noise, smooth enough to be a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(small).resize(size[::-1]).save(path)
    return path


def call(capsys, *argv):
    """Exit code, standard output and standard error of the command."""
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in argv])
    out = capsys.readouterr()
    return left.value.code or 0, out.out, out.err


def predict(capsys, *argv, code=0):
    """What the verb says as JSON."""
    found, out, err = call(capsys, "predict", *argv, "--json")
    assert found == code, err
    return json.loads(out)


def refused(capsys, *argv, code=2):
    """The one line of an error."""
    found, _, err = call(capsys, "predict", *argv)
    lines = [line for line in err.splitlines() if line.startswith("fullconv: error: ")]
    assert found == code and len(lines) == 1 and "Traceback" not in err, err
    return lines[0].removeprefix("fullconv: error: ")


def names(folder):
    """The files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
