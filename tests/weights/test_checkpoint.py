"""Checkpoints say what they are, arrive whole or not at all, and go into the nets they fit."""

import random

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fullconv.config import CONVENTIONS, ModelConfig
from fullconv.errors import UsageError
from fullconv.labels import LabelSpace
from fullconv.models.backbones.registry import BACKBONES
from fullconv.models.build import build, build_classifier
from fullconv.weights import checkpoint
from fullconv.weights.checkpoint import Header
from fullconv.weights.transplant import Transplant, transplant

SMALL = ModelConfig("vgg11", stride=16, num_classes=3, width=1 / 32, native_size=64)


def header(model=SMALL):
    return Header(model, LabelSpace.of(["a", "b", "c"]), CONVENTIONS["caffe"], provenance={"note": "é\n"})


def test_what_is_saved_is_loaded(tmp_path):
    net = build(SMALL)
    checkpoint.save(tmp_path / "m.safetensors", net.state_dict(), header())
    tensors, found = checkpoint.load(tmp_path / "m.safetensors")
    assert found == header()
    assert tensors.keys() == net.state_dict().keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in net.state_dict().items())


@given(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, unique=True), st.randoms())
def test_the_fingerprint_does_not_depend_on_the_order(names, rng):
    tensors = {name: torch.full((2, 3), float(i)) for i, name in enumerate(names)}
    shuffled = list(tensors.items())
    rng.shuffle(shuffled)
    assert checkpoint.fingerprint(tensors) == checkpoint.fingerprint(dict(shuffled))
    changed = {**tensors, names[0]: tensors[names[0]] + 1}
    assert checkpoint.fingerprint(changed) != checkpoint.fingerprint(tensors)


@pytest.mark.parametrize("start", [b"\x80\x02", b"PK", b" <"])
def test_a_header_of_any_length_is_read(tmp_path, start):
    """The first bytes of a safetensors file are the length of its header, and may look like another kind of file."""
    path, length = tmp_path / "m.safetensors", int.from_bytes(start, "little")
    checkpoint.save(path, build(SMALL).state_dict(), header())
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    while length < size:
        length += 1 << 16
    path.write_bytes(length.to_bytes(8, "little") + content[8 : 8 + size].ljust(length) + content[8 + size :])
    assert path.read_bytes()[:2] == start
    assert set(checkpoint.load(path)[0]) == set(build(SMALL).state_dict())


def test_any_flipped_bit_or_cut_is_found(tmp_path):
    path = tmp_path / "m.safetensors"
    checkpoint.save(path, build(SMALL).state_dict(), header())
    good, rng = path.read_bytes(), random.Random(1)
    size = 8 + int.from_bytes(
        good[:8], "little"
    )  # length and JSON; a flip in the free text of the header is seen as text
    for _ in range(60):
        bad = bytearray(good)
        bad[rng.randrange(size, len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(bad))
        with pytest.raises(UsageError, match="SHA-256"):
            checkpoint.load(path)
    for cut in (1, 8, 100, size, len(good) - 1):
        path.write_bytes(good[:cut])
        with pytest.raises(UsageError, match="take another copy"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    "content, words",
    [(b"", "empty file"), (b"<html>", "HTML page"), (b"version https://git-lfs.github.com", "git lfs pull"),
     (b"PK\x03\x04", "archive has no end"), (b"\x80\x02}", "would run code"),
     (b"\xff" * 40, "not a whole safetensors file")],
)  # fmt: skip
def test_what_is_no_checkpoint_is_named(tmp_path, content, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        checkpoint.load(path)


@pytest.mark.parametrize("name", ["lenet", "vgg11", "squeezenet1_1", "mobilenet_v2"])
def test_a_classifier_goes_into_the_fcn_on_it(name):
    model = ModelConfig(name, stride=4 if name == "lenet" else 8, num_classes=3, width=1 / 16)
    classifier = build_classifier(model, classes=9)
    net = build(model)
    done = transplant(net, classifier.state_dict(), "classifier")
    assert all(part.startswith(("score", "upscore")) for part in done.missing)
    flat = {key: tensor.flatten() for key, tensor in classifier.state_dict().items()}
    for key, tensor in net.state_dict().items():
        if key.startswith("backbone.") and not key.endswith("num_batches_tracked"):
            assert torch.equal(tensor.flatten(), flat[key.removeprefix("backbone.")])


class TorchvisionVGG(nn.Module):
    """The layout of torchvision's VGG: numbered layers in features and classifier."""

    def __init__(self, plan, norm):
        super().__init__()
        layers, incoming = [], 3
        for step in plan:
            if step == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(incoming, step, 3, padding=1), *([nn.BatchNorm2d(step)] if norm else []), nn.ReLU()]
            incoming = step
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        head = [nn.Linear(incoming * 49, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout()]
        self.classifier = nn.Sequential(*head, nn.Linear(64, 5))

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


@pytest.mark.parametrize("norm", [False, True])
def test_a_vgg_of_torchvision_goes_in_by_its_own_names(norm):
    plan = [1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"]
    theirs = TorchvisionVGG(plan, norm).eval()
    model = ModelConfig("vgg11_bn" if norm else "vgg11", stride=32, num_classes=5, width=1 / 64)
    ours = build_classifier(model, classes=5).eval()
    net = build(model)
    transplant(net, theirs.state_dict(), "torchvision")
    ours.load_state_dict(
        {
            k: net.state_dict()[f"backbone.{k}"].reshape(v.shape) if not k.startswith("fc8") else v
            for k, v in ours.state_dict().items()
        }
    )
    with torch.no_grad():
        ours.fc8.weight.copy_(theirs.classifier[6].weight)
        ours.fc8.bias.copy_(theirs.classifier[6].bias)
        crop = torch.randn(2, 3, 224, 224)
        assert torch.allclose(ours(crop), theirs(crop), atol=1e-5)


def test_another_backbone_and_another_width_are_refused():
    net = build(SMALL)
    with pytest.raises(UsageError, match="another backbone"):
        transplant(net, build_classifier(ModelConfig("lenet"), classes=3).state_dict(), "file")
    wider = build_classifier(ModelConfig("vgg11", width=1 / 16, native_size=64), classes=3)
    with pytest.raises(UsageError, match="--width"):
        transplant(net, wider.state_dict(), "file")
    poisoned = dict(build(SMALL).state_dict())
    poisoned["backbone.conv1_1.weight"] = torch.full_like(poisoned["backbone.conv1_1.weight"], torch.nan)
    with pytest.raises(UsageError, match="not finite"):
        transplant(net, poisoned, "file")


def test_scores_for_other_classes_stay_at_zero():
    net = build(SMALL)
    other = build(ModelConfig("vgg11", stride=16, num_classes=7, width=1 / 32, native_size=64))
    torch.nn.init.ones_(other.score_fr.weight)
    done = transplant(net, other.state_dict(), "file")
    assert isinstance(done, Transplant)
    assert "score_fr.weight" in done.missing
    assert not net.score_fr.weight.any()


@pytest.mark.parametrize(
    "name, file",
    [
        ("squeezenet1_0", "squeezenet1_0_deepcompression.safetensors"),
        ("mobilenet_v2", "mobilenet_v2_quant_dequantized.safetensors"),
    ],
)
def test_real_weights_load_by_torchvisions_names(shared_data, name, file):
    path = shared_data / "weights" / file
    if not path.exists():
        pytest.skip(f"no {path}")
    tensors, found = checkpoint.load(path)
    assert found is None
    classifier = BACKBONES[name].make(num_classes=1000)
    classifier.load_state_dict(tensors, strict=True)
    done = transplant(build(ModelConfig(name, stride=8, num_classes=11)), safetensors.torch.load_file(path), file)
    taken = {key.removeprefix("backbone.") for key in done.taken}
    assert taken == set(tensors) - {"classifier.1.weight", "classifier.1.bias"}  # all but the class scores
