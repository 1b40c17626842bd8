"""Weights from anywhere become one of our files, recognized by their names and shapes."""

import pytest
import safetensors.torch
import torch
from tests.support.caffe_files import blob_bytes, field, write_caffemodel, write_prototxt
from tests.support.caffe_nets import RELEASED
from tests.support.nets import EVERY_BACKBONE

from fullconv.config import CONVENTIONS, InputConvention, ModelConfig
from fullconv.errors import UsageError
from fullconv.inference.tensor_input import to_input
from fullconv.labels import LabelSpace
from fullconv.models.backbones.registry import BACKBONES
from fullconv.models.build import build, build_classifier
from fullconv.weights import checkpoint
from fullconv.weights.convert import convert, with_input
from fullconv.weights.transplant import transplant

ALIKE = {"caffenet", "alexnet"}


@pytest.mark.parametrize("name", EVERY_BACKBONE)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_state_dict_is_recognized_by_its_shapes(name, suffix, tmp_path):
    # MobileNetV2 rounds its channels to multiples of 8, so only its full width is told by its first layer.
    width = {"lenet": 0.2, "mobilenet_v2": 1.0}.get(name, 1 / 16)
    net = build_classifier(ModelConfig(name, width=width), 7).eval()
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, path)
    else:
        safetensors.torch.save_file(net.state_dict(), path)
    if name in ALIKE:
        with pytest.raises(UsageError, match="alike; say which by --backbone"):
            convert(path, convention=CONVENTIONS["caffe"])
    found = convert(path, convention=CONVENTIONS["caffe"], backbone=name if name in ALIKE else None)
    assert found.header.model.backbone == name and found.header.kind == "classifier"
    assert found.header.model.num_classes == 7 == len(found.header.labels)
    size = BACKBONES[name].native_size
    crop = torch.randn(1, 3, size, size)
    with torch.no_grad():
        assert torch.allclose(found.net()(crop), net(crop), rtol=1e-4, atol=1e-5)


def test_what_comes_out_goes_in_again_and_begins_a_training(tmp_path):
    net = build_classifier(ModelConfig("vgg11", width=1 / 32), 5)
    safetensors.torch.save_file(net.state_dict(), tmp_path / "w.safetensors")
    found = convert(tmp_path / "w.safetensors", convention=CONVENTIONS["caffe"])
    checkpoint.save(tmp_path / "ours.safetensors", found.tensors, found.header)
    again = convert(tmp_path / "ours.safetensors")
    assert again.header == found.header
    fcn = build(ModelConfig("vgg11", 8, 3, width=1 / 32))
    done = transplant(fcn, again.tensors, "ours")
    assert set(done.reshaped) == {"backbone.fc6.weight", "backbone.fc7.weight"}
    with pytest.raises(UsageError, match="says itself"):
        convert(tmp_path / "ours.safetensors", convention=CONVENTIONS["torchvision"])


@pytest.mark.parametrize("layer_field, name_field, blobs_field", [(100, 1, 7), (2, 4, 6)])
def test_a_caffemodel_of_names_and_blobs_alone_is_read_with_its_prototxt(
    tmp_path, layer_field, name_field, blobs_field
):
    layers = RELEASED["voc-fcn8s"](double=False, few=4)
    write_prototxt(tmp_path / "deploy.prototxt", layers, [("data", (1, 3, 40, 50))])
    write_caffemodel(tmp_path / "whole.caffemodel", layers)
    bare = tmp_path / "bare.caffemodel"
    contents = [
        field(name_field, one["name"].encode())
        + b"".join(field(blobs_field, blob_bytes(blob)) for blob in one.get("blobs", ()))
        for one in layers
    ]
    bare.write_bytes(b"".join(field(layer_field, content) for content in contents))
    whole = convert(tmp_path / "whole.caffemodel", prototxt=tmp_path / "deploy.prototxt")
    found = convert(bare, prototxt=tmp_path / "deploy.prototxt")
    assert found.header.model == whole.header.model and found.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in whole.tensors.items())
    with pytest.raises(UsageError, match="bare"):  # it does not say what its layers compute
        convert(bare)
    partial = [one for one in contents if b"score_pool3" not in one]
    bare.write_bytes(b"".join(field(layer_field, content) for content in partial))
    with pytest.raises(UsageError, match="no weights for layer 'score_pool3'"):
        convert(bare, prototxt=tmp_path / "deploy.prototxt")


def test_settings_of_the_caffemodel_do_not_matter_beside_its_prototxt(tmp_path):
    layers = RELEASED["voc-fcn32s"](double=False, few=4)
    write_prototxt(tmp_path / "deploy.prototxt", layers, [("data", (1, 3, 40, 50))])
    without = [{**one, "convolution_param": {}} if "convolution_param" in one else one for one in layers]
    write_caffemodel(tmp_path / "n.caffemodel", without)
    with pytest.raises(UsageError, match="num_output is missing"):
        convert(tmp_path / "n.caffemodel")
    assert convert(tmp_path / "n.caffemodel", prototxt=tmp_path / "deploy.prototxt").header.model.stride == 32


def test_an_fcn_of_caffe_becomes_a_file_that_segments(tmp_path):
    import fullconv

    layers = RELEASED["voc-fcn8s"](double=False)
    write_prototxt(tmp_path / "deploy.prototxt", layers, [("data", (1, 3, 50, 60))])
    write_caffemodel(tmp_path / "fcn8s.caffemodel", layers)
    found = convert(tmp_path / "fcn8s.caffemodel", prototxt=tmp_path / "deploy.prototxt")
    assert found.header.labels.names[15] == "person" and found.header.input == CONVENTIONS["caffe"]
    assert any("same scores" in title for title, _ in found.notes)
    checkpoint.save(tmp_path / "m.safetensors", found.tensors, found.header)
    image = torch.randint(0, 256, (45, 53, 3), dtype=torch.uint8)
    segmentation = fullconv.load(tmp_path / "m.safetensors")(image.numpy())
    with torch.no_grad():
        mine = found.net()(to_input(image[None], CONVENTIONS["caffe"]))
    assert torch.allclose(torch.tensor(segmentation.logits), mine[0], atol=1e-4 * float(mine.abs().max()))
    assert segmentation.prediction.shape == (45, 53)


def test_names_for_the_classes_can_be_given(tmp_path):
    layers = RELEASED["nyud-fcn32s-color"](double=False)
    write_caffemodel(tmp_path / "n.caffemodel", layers)
    write_prototxt(tmp_path / "n.prototxt", layers, [("data", (1, 3, 50, 60))])
    names = LabelSpace.of([f"thing {i}" for i in range(40)])
    found = convert(tmp_path / "n.caffemodel", prototxt=tmp_path / "n.prototxt", labels=names)
    assert found.header.labels == names
    with pytest.raises(UsageError, match="40 classes, and 2 names"):
        convert(tmp_path / "n.caffemodel", prototxt=tmp_path / "n.prototxt", labels=LabelSpace.of(["a", "b"]))


def test_another_input_gives_the_same_scores_inside(tmp_path):
    net = build_classifier(ModelConfig("squeezenet1_1", width=1 / 8), 6)  # its first layer has no padding
    safetensors.torch.save_file(net.state_dict(), tmp_path / "w.safetensors")
    bgr = convert(tmp_path / "w.safetensors", convention=CONVENTIONS["caffe"])
    rgb = with_input(bgr, CONVENTIONS["torchvision"], "w")
    assert rgb.header.input == CONVENTIONS["torchvision"]
    pixels = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    with torch.no_grad():
        a = bgr.net()(to_input(pixels, bgr.header.input))
        b = rgb.net()(to_input(pixels, rgb.header.input))
        wrong = bgr.net()(to_input(pixels, rgb.header.input))
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()))
    assert not torch.allclose(a, wrong, rtol=1e-2)


def test_a_pad_100_net_keeps_its_mean_and_may_change_its_order(tmp_path):
    layers = RELEASED["voc-fcn32s"](double=False)
    write_caffemodel(tmp_path / "n.caffemodel", layers)
    write_prototxt(tmp_path / "n.prototxt", layers, [("data", (1, 3, 50, 60))])
    found = convert(tmp_path / "n.caffemodel", prototxt=tmp_path / "n.prototxt")
    with pytest.raises(UsageError, match="would be another colour"):
        with_input(found, CONVENTIONS["torchvision"], "n")
    caffe = CONVENTIONS["caffe"]
    rgb = with_input(found, InputConvention("rgb", caffe.mean[::-1], caffe.std), "n")
    pixels = torch.randint(0, 256, (1, 30, 40, 3), dtype=torch.uint8)
    with torch.no_grad():
        a, b = (one.net()(to_input(pixels, one.header.input)) for one in (found, rgb))
    assert torch.allclose(a, b, atol=1e-4 * float(a.abs().max()))


def plain(path):
    safetensors.torch.save_file({"a.weight": torch.ones(2)}, path)


def lenet(path):
    safetensors.torch.save_file(build_classifier(ModelConfig("lenet"), 3).state_dict(), path)


@pytest.mark.parametrize(
    "make, options, words",
    [
        (plain, {}, "fit no backbone"),
        (plain, {"backbone": "vgg16"}, "not the weights of vgg16"),
        (lenet, {"convention": None}, "add --input caffe"),
        (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), {}, "Keras"),
        (lambda p: None, {}, "no such file"),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_one_line(make, options, words, tmp_path):
    path = tmp_path / "w.safetensors"
    make(path)
    with pytest.raises(UsageError, match=words):
        convert(path, **{"convention": CONVENTIONS["caffe"], **options})


def test_a_prototxt_belongs_to_a_caffemodel(tmp_path):
    with pytest.raises(UsageError, match="leave it out"):
        convert(tmp_path / "w.safetensors", prototxt=tmp_path / "p.prototxt")
