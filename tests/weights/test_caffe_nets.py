"""A Caffe net becomes one of ours with the same scores: against a NumPy forward of the file, and OpenCV's importer."""

import numpy as np
import pytest
import torch
from tests.support.caffe_files import write_caffemodel, write_prototxt
from tests.support.caffe_forward import forward
from tests.support.caffe_nets import RELEASED, fcn_vgg, late_fusion

from fullconv.errors import UsageError
from fullconv.models.fcn import FCN
from fullconv.weights.caffe.caffemodel import read_blobs, read_caffemodel
from fullconv.weights.caffe.prototxt import read_prototxt
from fullconv.weights.caffe.recognize import recognize
from fullconv.weights.caffe.to_fcn import converted_net, difference, state_dict, with_weights

BACKBONE = {"voc-fcn-alexnet": "caffenet", "vgg16": "vgg16", "vgg19": "vgg19", "caffenet": "caffenet",
            "alexnet": "alexnet", "googlenet": "googlenet"}  # fmt: skip
INPUTS = {"nyud-fcn32s-color-hha": {"color": 3, "hha": 3}, "nyud-fcn32s-color-d": {"data": 4}}


def inputs_of(name):
    size = 227 if name in ("caffenet", "alexnet") else 224
    size = (size, size) if name in BACKBONE and "fcn" not in name else (41, 38)
    return {blob: (1, channels, *size) for blob, channels in INPUTS.get(name, {"data": 3}).items()}


def written(tmp_path, name, layers, version="V2", inputs=None, **options):
    """The net read back from its two files."""
    inputs = inputs or inputs_of(name)
    write_prototxt(tmp_path / "deploy.prototxt", layers, inputs.items(), version)
    write_caffemodel(tmp_path / "net.caffemodel", layers, version, **options)
    graph, weights = read_prototxt(tmp_path / "deploy.prototxt"), read_caffemodel(tmp_path / "net.caffemodel")
    return with_weights(graph, read_blobs(tmp_path / "net.caffemodel"), "net.caffemodel"), weights


def scores_of(net, blobs, task=""):
    """The scores among the blobs of a forward pass: class scores, or those at the size of the image."""
    for name in (f"score{task}", "fc8", "loss3/classifier"):
        if name in blobs:
            return blobs[name]
    raise AssertionError(net.name)


@pytest.mark.parametrize("name", RELEASED)
def test_the_scores_are_those_of_the_file(name, tmp_path):
    layers = RELEASED[name](double=True, few=4)
    net, _ = written(tmp_path, name, layers, double=True)
    found = recognize(net, name)
    assert found.config.backbone == BACKBONE.get(name, "vgg16")
    tensors, did = state_dict(found, name)
    assert not did["unused"] or all(part.startswith(("upscore", "scale")) for part in did["unused"])
    assert difference(net, found, tensors) < 1e-9

    data = {blob: 50 * np.random.default_rng(7).standard_normal(shape) for blob, shape in inputs_of(name).items()}
    theirs = forward(net, {layer.name: layer.blobs for layer in net.layers}, data)
    model = converted_net(found, "meta")
    model.load_state_dict(tensors, assign=True)
    with torch.no_grad():
        logits = model.eval()(torch.tensor(np.concatenate(list(data.values()), 1)))
    for task, mine in (logits if isinstance(logits, dict) else {"": logits}).items():
        expected = scores_of(net, theirs, {"semantic": "_sem", "geometric": "_geo"}.get(task, ""))
        assert mine.numel() == expected.size
        worst = np.abs(mine.numpy().reshape(-1) - expected.reshape(-1)).max()
        assert worst <= 1e-9 * np.abs(expected).max(), (task, worst)


@pytest.mark.parametrize(
    "name", ["voc-fcn32s", "voc-fcn16s", "voc-fcn8s", "voc-fcn8s-atonce", "voc-fcn-alexnet", "caffenet", "googlenet"]
)
def test_the_scores_are_those_of_opencv(name, tmp_path):
    cv2 = pytest.importorskip("cv2")
    layers = RELEASED[name](double=False)
    net, _ = written(tmp_path, name, layers)
    found = recognize(net, name)
    model = converted_net(found, "meta")
    model.load_state_dict(state_dict(found, name)[0], assign=True)
    image = 50 * torch.randn(inputs_of(name)["data"])
    theirs = cv2.dnn.readNetFromCaffe(str(tmp_path / "deploy.prototxt"), str(tmp_path / "net.caffemodel"))
    theirs.setInput(image.numpy())
    expected = theirs.forward("score" if "fcn" in name else found.layers[list(found.layers)[-1]].tops[0])
    with torch.no_grad():
        mine = model.eval()(image).numpy()
    assert np.abs(mine.reshape(-1) - expected.reshape(-1)).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    "name, settings",
    [
        ("voc-fcn32s", {"stride": 32, "padding": "paper", "num_classes": 21, "upsample": "fixed"}),
        ("voc-fcn16s", {"stride": 16}),
        ("voc-fcn8s", {"stride": 8, "skip_scale": 1.0}),
        ("voc-fcn8s-atonce", {"stride": 8, "skip_scale": 0.01}),
        ("nyud-fcn32s-color-d", {"channels": 4, "num_classes": 40}),
        ("nyud-fcn32s-color-hha", {"late_fusion": "average", "channels": 3}),
        ("siftflow-fcn16s", {"num_classes": 33, "geometric_classes": 3, "stride": 16}),
        ("pascalcontext-fcn8s", {"num_classes": 60}),
        ("googlenet", {"num_classes": 10, "padding": "tight"}),
    ],
)
def test_the_settings_are_read_from_the_layers(name, settings, tmp_path):
    net, _ = written(tmp_path, name, RELEASED[name](double=False))
    config = recognize(net, name).config
    assert {key: getattr(config, key) for key in settings} == settings


@pytest.mark.parametrize("version, options", [("V1", {}), ("V2", {"packed": False}), ("V1", {"legacy_shape": True})])
def test_every_form_of_the_file_gives_the_same_net(version, options, tmp_path):
    layers = RELEASED["vgg16"](double=False)
    net, weights = written(tmp_path, "vgg16", layers, version, **options)
    found = recognize(net, "file")
    tensors, _ = state_dict(found, "file")
    plain, _ = written(tmp_path, "vgg16", layers)
    expected, _ = state_dict(recognize(plain, "file"), "file")
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)
    # The caffemodel holds its layers itself: a prototxt is not needed.
    alone = recognize(weights, "file")
    assert alone.config == found.config


def test_crops_without_an_offset_are_computed(tmp_path):
    """As in the first release, made on a branch of Caffe that worked the offsets out by itself."""
    net, _ = written(tmp_path, "voc-fcn8s", fcn_vgg((4, 3), 4, offsets=False, double=True), double=True)
    found = recognize(net, "file")
    assert difference(net, found, state_dict(found, "file")[0]) < 1e-9


@pytest.mark.parametrize(
    "learned, upsample",
    [((), "fixed"), (("upscore2",), "learn-intermediate"), (("upscore2", "upscore8"), "learn-all")],
)
def test_learned_upsampling_is_noticed_and_kept(learned, upsample, tmp_path):
    net, _ = written(tmp_path, "voc-fcn8s", fcn_vgg((4, 3), 4, learned=learned, double=True), double=True)
    found = recognize(net, "file")
    assert found.config.upsample == upsample
    assert difference(net, found, state_dict(found, "file")[0]) < 1e-9


def test_max_fusion_and_the_sum_of_streams_are_noticed(tmp_path):
    net, _ = written(tmp_path, "voc-fcn8s", fcn_vgg((4, 3), 4, fuse="MAX", double=True), double=True)
    found = recognize(net, "file")
    assert found.config.fuse == "max" and difference(net, found, state_dict(found, "file")[0]) < 1e-9
    net, _ = written(tmp_path, "nyud-fcn32s-color-hha", late_fusion(coeff=(), classes=4), double=True)
    found = recognize(net, "file")
    assert found.config.late_fusion == "sum" and difference(net, found, state_dict(found, "file")[0]) < 1e-9


TRAPS = {
    "a pool rounded down": ("pool5", "pooling_param", {"round_mode": "FLOOR"}),
    "another crop": ("score", "crop_param", {"offset": 17}),
    "no groups in a layer that has them": ("conv2", "convolution_param", {"group": 1}),
    "another normalization": ("norm1", "lrn_param", {"alpha": 1e-2}),
    "another padding": ("conv1", "convolution_param", {"pad": 99}),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_graph_that_computes_something_else_is_found_out(trap, tmp_path):
    """The comparison of the scores must see every setting that the names do not show."""
    layer, part, change = TRAPS[trap]
    layers = RELEASED["voc-fcn-alexnet"](double=True, few=4)
    for one in layers:
        if one["name"] == layer:
            one[part] = {**one[part], **change}
            if "group" in change:
                one["blobs"] = [np.concatenate([one["blobs"][0]] * 2, 1), one["blobs"][1]]
    net, _ = written(tmp_path, "voc-fcn-alexnet", layers, double=True)
    try:
        found = recognize(net, "file")
        assert difference(net, found, state_dict(found, "file")[0]) > 1e-5
    except UsageError as problem:
        assert ("group" in change and "conv2" in str(problem)) or "does not cover" in str(problem)


def test_a_layer_left_out_of_the_graph_is_found_out(tmp_path):
    layers = [one for one in RELEASED["voc-fcn32s"](double=True, few=4) if one["name"] != "relu_conv3_2"]
    net, _ = written(tmp_path, "voc-fcn32s", layers, double=True)
    found = recognize(net, "file")
    assert difference(net, found, state_dict(found, "file")[0]) > 1e-3


def zero_upsampling(layers):
    for one in layers:
        if one["type"] == "Deconvolution":
            one["blobs"] = [np.zeros_like(one["blobs"][0])]


def not_finite(layers):
    layers[0]["blobs"][0][0] = np.nan


def narrower(layers):
    one = next(one for one in layers if one["name"] == "conv4_2")
    one["blobs"] = [one["blobs"][0][:-1], one["blobs"][1][:-1]]


def without_fc7(layers):
    layers[:] = [one for one in layers if one["name"] != "fc7"]
    for one in layers:
        one["bottom"] = "fc6" if one.get("bottom") == "fc7" else one.get("bottom", [])
        one["top"] = "fc6" if one.get("top") == "fc7" else one["top"]


@pytest.mark.parametrize(
    "spoil, words",
    [
        (zero_upsampling, "'upscore2' is all zeros"),
        (not_finite, "not finite"),
        (narrower, "layer 'conv4_2' is"),
        (without_fc7, "no weights for 'backbone.fc7"),
    ],
)
def test_what_is_no_whole_net_is_refused_by_its_layer(spoil, words, tmp_path):
    layers = RELEASED["voc-fcn8s"](double=False)
    spoil(layers)
    net, _ = written(tmp_path, "voc-fcn8s", layers)
    with pytest.raises(UsageError, match=words):
        state_dict(recognize(net, "file"), "file")


def test_a_prototxt_that_belongs_to_another_file_is_refused(tmp_path):
    small, large = RELEASED["voc-fcn32s"](double=False), RELEASED["voc-fcn8s"](double=False)
    write_prototxt(tmp_path / "a.prototxt", large, inputs_of("voc-fcn8s").items())
    write_caffemodel(tmp_path / "a.caffemodel", small)
    with pytest.raises(UsageError, match="no weights for layer 'upscore2' of the prototxt"):
        with_weights(read_prototxt(tmp_path / "a.prototxt"), read_blobs(tmp_path / "a.caffemodel"), "a.caffemodel")


def test_the_late_fusion_net_has_two_streams(tmp_path):
    net, _ = written(tmp_path, "nyud-fcn32s-color-hha", late_fusion(double=False))
    found = recognize(net, "file")
    model = converted_net(found, "meta")
    assert isinstance(model, FCN) and model.streams == ("_color", "_hha")
    assert found.convention.mean[3:] == (132.431, 94.076, 118.477)
