"""The engine of a prediction: what was asked for, what was found before, or the fastest of a trial, and said."""

import numpy as np
import pytest
import torch

import fullconv
from fullconv.config import CONVENTIONS, ModelConfig
from fullconv.errors import UsageError
from fullconv.hardware import multiplies_bf16
from fullconv.inference import engine_choice
from fullconv.labels import LabelSpace
from fullconv.optimize import autotune
from fullconv.weights import checkpoint

IMAGE = np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)


@pytest.fixture
def model(tmp_path):
    """A checkpoint of a small net that says different things in different places."""
    torch.manual_seed(0)
    config = ModelConfig("vgg11", 8, 3, width=1 / 16, padding="paper")
    net = fullconv.build(config)
    for name, parameter in net.named_parameters():
        if name.startswith("score"):
            torch.nn.init.normal_(parameter)
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, net.state_dict(), checkpoint.Header(config, LabelSpace.of("abc"), CONVENTIONS["torchvision"]))
    return path


@pytest.fixture(autouse=True)
def _torch_alone(monkeypatch):
    """As where no other engine is installed: the others take seconds to be made (see tests/backends); and where the
    work takes so long that there is a trial.
    """
    monkeypatch.setattr(autotune, "installed", lambda: ["torch"])
    monkeypatch.setattr(engine_choice, "LONG", 1e-6)


def opened(path, engine="auto", precision="fp32", images=100, first=lambda predictor: IMAGE):
    said = []
    return engine_choice.open_predictor(path, engine, precision, images, first, said.append), said


def test_what_is_asked_for_is_taken(model):
    found, said = opened(model, "torch", "bf16")
    assert (found.engine, found.precision) == ("torch", "bf16") and bool(said) != multiplies_bf16()


def test_for_few_images_or_little_work_nothing_is_tried(model, monkeypatch):
    found, said = opened(model, images=engine_choice.FEW - 1)
    assert (found.engine, found.precision) == ("torch", "fp32") and not said
    monkeypatch.setattr(engine_choice, "LONG", 1e6)
    found, said = opened(model, images=10_000)
    assert (found.engine, found.precision) == ("torch", "fp32") and not said
    assert not autotune.place_of(model).exists()


def test_what_was_found_is_taken_where_there_is_work_for_it(model, monkeypatch):
    opened(model)
    monkeypatch.setattr(autotune, "cached_choice", lambda *_: autotune.Trial("eager", "fp32", 1.0, 0.0, 1.0, plain=2.0))
    monkeypatch.setattr(engine_choice, "LONG", 120.0)
    assert opened(model, images=59)[0].engine == "torch" and opened(model, images=60)[0].engine == "eager"


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_for_many_the_fastest_is_found_said_and_kept(model, precision):
    found, said = opened(model, precision=precision)
    assert autotune.place_of(model).exists() and autotune.place_of(model).name in said[-1]
    again, told = opened(model, precision=precision, images=1)
    assert (again.engine, again.precision) == (found.engine, found.precision) and "tried before" in told[-1]
    plain = fullconv.load(model, engine="eager")
    assert (found(IMAGE).prediction == plain(IMAGE).prediction).mean() >= 0.99
    assert precision == "auto" or found.precision == "fp32"


def test_another_net_in_the_same_place_is_tried_anew(model):
    opened(model)
    tensors, header = checkpoint.load(model)
    tensors["score_fr.weight"] += 1
    checkpoint.save(model, tensors, header)
    _, said = opened(model)
    assert "trying" in said[0]


def test_a_first_image_that_cannot_be_read_is_not_the_end(model):
    def broken(predictor):
        raise UsageError("x.jpg: empty file; replace it")

    found, _ = opened(model, first=broken)
    assert found.engine == "torch"


def test_what_there_is_not_is_refused(model):
    for engine, precision in (("torsch", "fp32"), ("auto", "int8"), ("auto", "fp99"), ("onnx", "bf16")):
        with pytest.raises(UsageError):
            opened(model, engine, precision)
