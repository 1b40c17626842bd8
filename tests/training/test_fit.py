"""What `fit` refuses and decides by itself, without the command around it."""

from dataclasses import replace

import pytest
import torch

import fullconv
from fullconv.config import CONVENTIONS, ModelConfig, TrainConfig
from fullconv.data.dataset import Subset, adapt
from fullconv.datasets.open_dataset import open_dataset
from fullconv.datasets.synthetic.digits import Digits
from fullconv.errors import UsageError
from fullconv.evaluation.evaluate import evaluate
from fullconv.inference.predictor import Predictor
from fullconv.labels import LabelSpace
from fullconv.models.build import build_classifier
from fullconv.training import loop
from fullconv.training.loop import State, fit
from fullconv.weights.checkpoint import Header

MODEL = ModelConfig("mobilenet_v2", stride=32, width=0.1, num_classes=11)
CONFIG = TrainConfig(steps=1, batch_size=2, lr=0.001, workers=0, precision="fp32")
INPUT = CONVENTIONS["rgb128"]
SCENES = Digits("train", (40, 52), 6)


def folded(model=MODEL, classes=20):
    """The tensors of a classifier whose batch norm is folded: means 0, variances 1, offsets that count."""
    tensors = build_classifier(model, classes).state_dict()
    return {name: torch.full_like(t, 0.1) if name.endswith("bias") else t for name, t in tensors.items()}


def norms(net):
    return [layer for layer in net.modules() if isinstance(layer, torch.nn.BatchNorm2d)]


def moved(state, config=CONFIG):
    """Whether a step of training moves the statistics."""
    before = [layer.running_mean.clone() for layer in norms(state.net)]
    list(fit(state, SCENES, config, INPUT))
    return any(not torch.equal(b, layer.running_mean) for b, layer in zip(before, norms(state.net), strict=True))


@pytest.mark.slow
def test_batch_norm_is_frozen_exactly_if_weights_were_given():
    assert moved(State.of(fullconv.build(MODEL), CONFIG))
    assert not moved(State.of(fullconv.build(MODEL), CONFIG, start=folded()))
    loaded = fullconv.build(MODEL)
    loaded.load_state_dict(State.of(fullconv.build(MODEL), CONFIG, start=folded()).net.state_dict())
    assert not moved(State.of(loaded, CONFIG))
    frozen = replace(CONFIG, freeze_bn=True)
    assert not moved(State.of(fullconv.build(MODEL), frozen), frozen)
    free, measured = replace(CONFIG, freeze_bn=False), folded()
    measured |= {name: tensor + 0.1 for name, tensor in measured.items() if name.endswith("running_mean")}
    assert moved(State.of(fullconv.build(MODEL), free, start=measured), free)


def test_a_run_from_random_weights_goes_on_as_it_began():
    """Statistics that training has moved are no reason to freeze them when the same run is resumed."""
    whole = State.of(fullconv.build(MODEL), replace(CONFIG, steps=2))
    torch.manual_seed(0)
    halves = State.of(fullconv.build(MODEL), replace(CONFIG, steps=2))
    halves.net.load_state_dict(whole.net.state_dict())
    list(fit(whole, SCENES, replace(CONFIG, steps=2), INPUT))
    next(iter(fit(halves, SCENES, replace(CONFIG, steps=2), INPUT)))
    list(fit(halves, SCENES, replace(CONFIG, steps=2), INPUT))
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, halves.net.state_dict()[name]), name


def test_folded_norms_are_not_trained_on_batches():
    free = replace(CONFIG, freeze_bn=False)
    with pytest.raises(UsageError, match="batch norm is folded"):
        State.of(fullconv.build(MODEL), free, start=folded())
    assert State.of(fullconv.build(MODEL), free).step == 0  # those of a new net have nothing to lose


def test_a_dead_layer_is_refused():
    net = fullconv.build(ModelConfig("lenet", stride=4, num_classes=11))
    with torch.no_grad():
        next(p for name, p in net.named_parameters() if name.startswith("backbone")).zero_()
    with pytest.raises(UsageError, match="is a layer of zeros"):
        State.of(net, CONFIG)


def test_weights_go_into_an_fcn():
    with pytest.raises(UsageError, match=r"start: its weights go into an FCN, not into a Conv2d"):
        State.of(torch.nn.Conv2d(3, 2, 1), CONFIG, start={})


@pytest.mark.parametrize(
    ("change", "convention", "words"),
    [
        ({"num_classes": 5}, "rgb128", "the net has 5 classes and the dataset 11"),
        ({"channels": 4}, "rgb128", "images of 3 channels, an input convention for 3 and a net for 4"),
        ({}, "nyud-color-d", "images of 3 channels, an input convention for 4 and a net for 3"),
        ({"geometric_classes": 3}, "rgb128", "the net has heads for semantic and geometric"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_the_first_step(change, convention, words):
    state = State.of(fullconv.build(replace(MODEL, **change)), CONFIG)
    with pytest.raises(UsageError, match=words):
        fit(state, SCENES, CONFIG, CONVENTIONS[convention])


def test_a_leak_is_refused():
    class Named(Subset):
        def __init__(self, dataset, indices):
            super().__init__(dataset, indices)
            self.photographs = "PASCAL VOC"
            self.pairs = [(f"photo-{index}",) for index in indices]

    state = State.of(fullconv.build(MODEL), CONFIG)
    with pytest.raises(UsageError, match="2 of the 3 validation images are among those to train on"):
        fit(state, Named(SCENES, [0, 1, 2, 3]), CONFIG, INPUT, validation=Named(SCENES, [2, 3, 4]))
    assert len(list(fit(state, Named(SCENES, [0, 1]), CONFIG, INPUT, validation=Named(SCENES, [2, 3])))) == 1


def test_validation_is_scored_as_evaluate_does(digits_folder):
    data, val = open_dataset(digits_folder, "train"), open_dataset(digits_folder, "val")
    state = State.of(fullconv.build(MODEL), CONFIG)
    (record,) = fit(state, data, CONFIG, INPUT, validation=val)
    assert record.scores == evaluate(Predictor(state.net, Header(MODEL, data.labels, INPUT)), val)
    other = adapt([val[0]], LabelSpace.of(["background", "cell"]))
    with pytest.raises(UsageError, match="the net has 11 classes and the dataset 2"):
        fit(state, data, CONFIG, INPUT, validation=other)


def test_an_input_that_the_weights_doubt_is_a_warning(monkeypatch):
    asked = []
    monkeypatch.setattr(loop, "doubt_of_input", lambda *given: asked.append(given) or "the weights are surer")
    tensors = folded()
    state = State.of(fullconv.build(MODEL), CONFIG, start=tensors)
    with pytest.warns(UserWarning, match="the weights are surer"):
        list(fit(state, SCENES, CONFIG, INPUT))
    assert asked == [(tensors, MODEL, INPUT, SCENES)] and state.start is None


@pytest.mark.slow
def test_real_weights_in_another_scale_are_a_warning(shared_data):
    import safetensors.torch

    tensors = safetensors.torch.load_file(shared_data / "weights" / "squeezenet1_0_deepcompression.safetensors")
    data = open_dataset(shared_data / "camvid", "train")
    net = fullconv.build(ModelConfig("squeezenet1_0", stride=16, num_classes=len(data.labels)))
    with pytest.warns(UserWarning, match="surer of these images as --input caffe"):
        fit(State.of(net, CONFIG, start=tensors), data, CONFIG, CONVENTIONS["torchvision"])
