"""Memory that is not there for an image: one line that says what helps, and what it says does help."""

import subprocess
import sys

import pytest
import torch
from PIL import Image
from tests.support.predicting import image

import fullconv
from fullconv.config import CONVENTIONS, ModelConfig
from fullconv.labels import LabelSpace
from fullconv.weights import checkpoint

LIMITED = """
import resource, sys
import psutil, torch
from fullconv.inference import predictor as inference
from fullconv.cli.command import main
torch.set_num_threads(1)
most = psutil.Process().memory_info().vms + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a limit of the address space")
def test_too_little_memory_is_one_line_and_parts_are_the_way_out(tmp_path):
    torch.manual_seed(0)
    net = fullconv.build(ModelConfig("vgg11", stride=8, num_classes=3, width=1 / 8))
    model = tmp_path / "model.safetensors"
    checkpoint.save(
        model, net.state_dict(), checkpoint.Header(net.config, LabelSpace.of("abc"), CONVENTIONS["torchvision"])
    )
    image(tmp_path / "photo.png", (2400, 2800))

    def predict(*flags):
        words = ["predict", model, tmp_path / "photo.png", "--out", tmp_path / "o", "--engine", "torch", *flags]
        command = [sys.executable, "-c", LIMITED, str(420 << 20), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    whole = predict("--tile", "none")
    lines = [line for line in whole.stderr.splitlines() if line.startswith("fullconv: error: ")]
    assert whole.returncode == 1 and len(lines) == 1 and "Traceback" not in whole.stderr, whole.stderr
    assert "image of 2400x2800: out of memory" in lines[0] and "--tile" in lines[0]
    assert not list((tmp_path / "o").iterdir())
    parts = predict()
    assert parts.returncode == 0, parts.stderr
    with Image.open(tmp_path / "o" / "photo.png") as mask:
        assert mask.size == (2800, 2400)
