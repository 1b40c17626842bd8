"""The known traps are told, each of them when it is there and none of them when it is not."""

from dataclasses import replace

import pytest
import safetensors.torch
import torch

import fullconv
from fullconv.config import CONVENTIONS, ModelConfig, TrainConfig
from fullconv.datasets.open_dataset import open_dataset
from fullconv.errors import UsageError
from fullconv.labels import LabelSpace
from fullconv.metrics import scores
from fullconv.models.build import build_classifier
from fullconv.training.guards import (
    EMPTY_STEPS,
    Watch,
    doubt_of_input,
    refuse_dead_layers,
    refuse_lost_norms,
)

MODEL = ModelConfig("vgg11", stride=16, num_classes=3, width=1 / 32, native_size=32)
SPACE = LabelSpace.of(["background", "cell", "wall"])


def test_a_trunk_or_an_upsampling_of_zeros_is_refused():
    net = fullconv.build(replace(MODEL, upsample="learn-all"))
    refuse_dead_layers(net, "file")
    with torch.no_grad():
        net.upscore2.weight.zero_()
    with pytest.raises(UsageError, match=r"upscore2.*upsampling of zeros"):
        refuse_dead_layers(net, "file")
    net = fullconv.build(MODEL)
    with torch.no_grad():
        next(p for name, p in net.named_parameters() if "conv3_1.weight" in name).zero_()
    with pytest.raises(UsageError, match=r"conv3_1.*layer of zeros"):
        refuse_dead_layers(net, "file")


def test_folded_norms_are_not_trained_on_batches():
    net = fullconv.build(ModelConfig("mobilenet_v2", stride=32, width=0.1))
    refuse_lost_norms(net, TrainConfig(freeze_bn=True), "file")
    with pytest.raises(UsageError, match="folded"):
        refuse_lost_norms(net, TrainConfig(freeze_bn=False), "file")
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean += 0.1
    refuse_lost_norms(net, TrainConfig(freeze_bn=False), "file")
    refuse_lost_norms(fullconv.build(MODEL), TrainConfig(freeze_bn=False), "file")


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, backbone, right, wrong",
    [
        ("squeezenet1_0_deepcompression", "squeezenet1_0", "caffe", ("torchvision", "rgb128")),
        ("mobilenet_v2_quant_dequantized", "mobilenet_v2", "rgb128", ()),
    ],
)
def test_real_weights_doubt_another_scale_and_never_their_own(shared_data, file, backbone, right, wrong):
    tensors = safetensors.torch.load_file(shared_data / "weights" / f"{file}.safetensors")
    data, model = open_dataset(shared_data / "camvid", "train"), ModelConfig(backbone)
    assert doubt_of_input(tensors, model, CONVENTIONS[right], data) is None
    for name in wrong:
        assert f"--input {right}" in doubt_of_input(tensors, model, CONVENTIONS[name], data)


def test_without_a_whole_classifier_there_is_no_doubt(digits_folder):
    data = open_dataset(digits_folder, "train")
    trunk = {name: t for name, t in build_classifier(MODEL, 20).state_dict().items() if "fc8" not in name}
    assert doubt_of_input(trunk, MODEL, CONVENTIONS["caffe"], data) is None
    assert doubt_of_input(fullconv.build(MODEL).state_dict(), MODEL, CONVENTIONS["caffe"], data) is None


def confusion(*rows):
    return scores(torch.tensor(rows).numpy())


def test_one_class_everywhere_is_told_once():
    everywhere = confusion((90, 0, 0), (7, 0, 0), (3, 0, 0))
    watch = Watch(SPACE, 100, pretrained=False)
    assert watch.evaluated(10, everywhere) is None  # it may yet come
    said = watch.evaluated(40, everywhere)
    assert "'background' everywhere" in said and "random weights" in said
    assert watch.evaluated(50, everywhere) is None
    assert "rate" in Watch(SPACE, 100, pretrained=True).evaluated(40, everywhere)
    assert Watch(SPACE, 100, False).evaluated(40, confusion((90, 0, 0), (6, 1, 0), (3, 0, 0))) is None
    assert Watch(SPACE, 100, False).evaluated(40, confusion((90, 0, 0), (0, 0, 0), (0, 0, 0))) is None


def test_steps_without_a_valid_pixel_are_told_once():
    watch = Watch(SPACE, 100, pretrained=False)
    said = [watch.step(step, 0) for step in range(1, 3 * EMPTY_STEPS)]
    assert [bool(text) for text in said].index(True) == EMPTY_STEPS - 1 and sum(map(bool, said)) == 1
    watch = Watch(SPACE, 100, pretrained=False)
    assert not any(watch.step(step, step % EMPTY_STEPS) for step in range(1, 200))
