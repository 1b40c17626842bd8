"""The classifiers are the published ones, and every one of them keeps the laws that the rest of the house builds on."""

import copy
import functools
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import zoo
from tests.support.nets import EVERY_BACKBONE
from torch import nn

from fullconv.config import CONVENTIONS, ModelConfig
from fullconv.errors import UsageError
from fullconv.geometry import IMAGE, AxisMap
from fullconv.labels import LabelSpace
from fullconv.models.backbones.alexnet import local_response_norm
from fullconv.models.backbones.googlenet import INCEPTIONS, Inception
from fullconv.models.backbones.registry import BACKBONES
from fullconv.models.build import build
from fullconv.models.convolutionalize import convolutionalize, decapitate
from fullconv.models.trace import walk
from fullconv.weights import checkpoint

NAMES = sorted(BACKBONES)
SCALED = ["alexnet", "caffenet", "googlenet", "resnet18", "resnet34", "resnet50"]


def make(name, **options):
    return BACKBONES[name].make(**options).eval()


@functools.cache
def dense_of(name):
    """The dense classifier, of no numbers, and its report."""
    with torch.device("meta"):
        return convolutionalize(make(name), BACKBONES[name].native_size)


def layers_with_weights(net):
    return {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


# ---- the published numbers


PARAMETERS = {
    "caffenet": 60_965_224, "alexnet": 60_965_224, "vgg16": 138_357_544, "vgg19": 143_667_240, "googlenet": 6_998_552,
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "squeezenet1_0": 1_248_424,
    "squeezenet1_1": 1_235_496, "mobilenet_v2": 3_504_872,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_parameters_of_the_imagenet_classifiers(name):
    with torch.device("meta"):
        assert sum(p.numel() for p in make(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(
    "name, parameters, field, taps, crop",
    [
        ("caffenet", 56_954_261, 355, 63, 18),
        ("alexnet", 56_954_261, 355, 63, 18),
        ("vgg16", 134_346_581, 404, 64, 19),
        ("googlenet", 5_995_077, 715, 63, 98),
    ],
)
def test_table_1_of_the_paper(name, parameters, field, taps, crop):
    with torch.device("meta"):
        net = build(ModelConfig(name, stride=32, num_classes=21, padding="paper"))
    (join,), axis = net.joins, net.trace[net.features[0]].axis
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert (axis.field, axis.stride) == (field, 32)
    assert (join.window.kernel, join.crop_scores, join.crop_skip) == (taps, crop, 0)
    assert net.margin.of(1) == (0, 0)


SKIPS = {
    "caffenet": [(4096, 355), (256, 67), (96, 19)],
    "vgg16": [(4096, 404), (512, 100), (256, 44)],
    "googlenet": [(1024, 715), (832, 427), (480, 91)],
    "resnet18": [(512, 435), (256, 211), (128, 99)],
    "resnet50": [(2048, 427), (1024, 267), (512, 91)],
}
"""Channels and receptive field of what is scored at strides 32, 16 and 8: the end of each block."""


@pytest.mark.parametrize("name", SKIPS)
def test_a_skip_comes_from_the_end_of_its_block(name):
    with torch.device("meta"):
        net = build(ModelConfig(name, stride=8))
    features = [net.trace[feature] for feature in net.features]
    assert [(feature.channels, feature.axis.field) for feature in features] == SKIPS[name]


def test_googlenet_needs_no_extra_padding_from_31_pixels_on():
    with torch.device("meta"):
        net = build(ModelConfig("googlenet", stride=32, num_classes=21, padding="tight"))
    (join,) = net.joins
    assert (join.window.kernel, join.crop_scores, join.crop_skip) == (63, 1, 0)
    assert all(net.margin.of(pixels) == (0, 0) for pixels in range(31, 600))
    assert net.margin.of(30) == (0, 1)


def test_googlenet_sees_907_pixels_only_with_the_pool_that_the_paper_drops():
    _, report = dense_of("googlenet")
    assert report.trace.last.axis.field == 907
    assert report.pools == ("pool5.7x7_s1",)


@pytest.mark.parametrize("pixels, cells", [(227, 1), (451, 8), (500, 10)])
@pytest.mark.parametrize("name", ["caffenet", "alexnet"])
def test_the_map_of_class_scores(name, pixels, cells):
    dense, report = dense_of(name)
    assert dense(torch.empty(1, 3, pixels, pixels, device="meta")).shape == (1, 1000, cells, cells)
    assert report.trace.sizes(pixels)[report.trace.last.name] == cells


DEPTHS = {"lenet": 4, "caffenet": 8, "alexnet": 8, "googlenet": 22} | {
    name: int(found[2]) for name in NAMES if (found := re.match(r"(vgg|resnet)(\d+)", name))
}


@pytest.mark.parametrize("name", DEPTHS)
def test_the_depth_is_the_longest_path_through_layers_with_weights(name):
    dense, report = dense_of(name)
    weighted = layers_with_weights(dense)
    depth = {}
    for feature in report.trace:
        below = max((depth[source] for source in report.trace.sources[feature.name]), default=0)
        depth[feature.name] = below + (feature.name in weighted)
    assert depth[report.trace.last.name] == DEPTHS[name]


SHAPES = {
    "caffenet": "conv1 96 55, pool1 96 27, conv2 256 27, pool2 256 13, conv3 384 13, conv4 384 13, conv5 256 13, "
    "pool5 256 6",
    "vgg16": "pool1 64 112, pool2 128 56, pool3 256 28, pool4 512 14, pool5 512 7",
    "googlenet": "conv1 64 112, pool1 64 56, conv2 192 56, pool2 192 28, inception_3a 256 28, inception_3b 480 28, "
    "pool3 480 14, inception_4a 512 14, inception_4b 512 14, inception_4c 512 14, inception_4d 528 14, "
    "inception_4e 832 14, pool4 832 7, inception_5a 832 7, inception_5b 1024 7, pool5 1024 1",
    "resnet18": "conv1 64 112, maxpool 64 56, layer1 64 56, layer2 128 28, layer3 256 14, layer4 512 7",
    "resnet50": "conv1 64 112, maxpool 64 56, layer1 256 56, layer2 512 28, layer3 1024 14, layer4 2048 7",
}
SHAPES["alexnet"] = SHAPES["caffenet"]


@pytest.mark.parametrize("name", SHAPES)
def test_the_maps_on_the_native_crop(name):
    found = {}
    with torch.device("meta"):
        x = torch.empty(1, 3, BACKBONES[name].native_size, BACKBONES[name].native_size)
        for layer, module in make(name).named_children():
            x = module(x)
            found[layer] = tuple(x.shape)
    for layer, channels, side in (entry.split() for entry in SHAPES[name].split(", ")):
        assert found[layer] == (1, int(channels), int(side), int(side)), layer


# ---- AlexNet in both orders


def test_the_two_orders_have_the_same_weights_and_differ():
    caffenet, alexnet = make("caffenet", width=1 / 8), make("alexnet", width=1 / 8)
    assert list(caffenet.state_dict()) == list(alexnet.state_dict())
    alexnet.load_state_dict(caffenet.state_dict())
    crop = torch.randn(1, 3, 227, 227) * 100
    with torch.no_grad():
        assert float((caffenet(crop) - alexnet(crop)).abs().max()) > 0
    for net, first, second in ((caffenet, "pool", "norm"), (alexnet, "norm", "pool")):
        order = (
            f"conv1 relu1 {first}1 {second}1 conv2 relu2 {first}2 {second}2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 "
            "flatten fc6 relu6 drop6 fc7 relu7 drop7 fc8"
        )
        assert [layer for layer, _ in net.named_children()] == order.split()


def test_the_normalization_is_caffes():
    x = torch.randn(2, 7, 3, 2, dtype=torch.float64) * 100
    near = [x[:, max(0, c - 2) : c + 3].square().sum(1) for c in range(7)]
    expected = x / (1 + 1e-4 / 5 * torch.stack(near, 1)) ** 0.75
    assert float((local_response_norm()(x) - expected).abs().max()) < 1e-12


@settings(max_examples=25)
@given(st.integers(1, 400), st.sampled_from(["caffenet", "alexnet"]))
def test_alexnet_fits_any_crop_of_which_something_is_left(native_size, name):
    with torch.device("meta"):
        if native_size < 39:
            with pytest.raises(UsageError, match=f"native_size {native_size}: .* give 39 or more"):
                make(name, width=1 / 16, native_size=native_size)
            return
        net = make(name, num_classes=5, width=1 / 16, native_size=native_size)
        assert net(torch.empty(1, 3, native_size, native_size)).shape == (1, 5)


# ---- GoogLeNet under Caffe's names


def test_the_keys_of_googlenet_are_caffes_blobs():
    ways = ["1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj"]
    inceptions = [f"inception_{name}/{way}" for name in INCEPTIONS for way in ways]
    blobs = ["conv1/7x7_s2", "conv2/3x3_reduce", "conv2/3x3", *inceptions, "loss3/classifier"]
    with torch.device("meta"):
        net = make("googlenet")
    assert list(net.state_dict()) == [f"{b.replace('/', '.')}.{kind}" for b in blobs for kind in ("weight", "bias")]
    kinds = {nn.ReLU: "relu_", nn.LocalResponseNorm: "norm", nn.MaxPool2d: "3x3_s2|pool$", nn.Dropout: "drop_"}
    others = {name.replace(".", "/"): m for name, m in net.named_modules() if not list(m.children())}
    others = {name: m for name, m in others.items() if name not in (*blobs, "flatten", "pool5/7x7_s1")}
    assert all(re.search(kinds[type(m)], name) for name, m in others.items())
    pools = ["pool1/3x3_s2", "pool2/3x3_s2", "pool3/3x3_s2", "pool4/3x3_s2", "pool5/drop_7x7_s1"]
    relus = ["conv1/relu_7x7", *(blob.replace("/", "/relu_") for blob in blobs[1:-1])]
    inner = [f"inception_{name}/pool" for name in INCEPTIONS]
    assert set(others) == {*pools, *relus, *inner, "pool1/norm1", "conv2/norm2"}


def test_an_inception_module_is_its_four_ways_in_caffes_order():
    module = Inception(4, (1, 2, 3, 4, 5, 6))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    blobs, x = dict(module.named_parameters()), torch.randn(2, 4, 6, 5)

    def conv(x, name):
        weight = blobs[f"{name}.weight"]
        return F.relu(F.conv2d(x, weight, blobs[f"{name}.bias"], padding=weight.shape[2] // 2))

    ways = [
        conv(x, "1x1"),
        conv(conv(x, "3x3_reduce"), "3x3"),
        conv(conv(x, "5x5_reduce"), "5x5"),
        conv(F.max_pool2d(x, 3, 1, 1), "pool_proj"),
    ]
    assert torch.equal(module(x), torch.cat(ways, 1))
    assert module.out_channels == 1 + 3 + 5 + 6


@pytest.mark.parametrize("name, ratios", [("caffenet", [0.5, 0.5]), ("alexnet", [0.5, 0.5]), ("googlenet", [0.4])])
def test_dropout_is_as_the_source_has_it(name, ratios):
    assert [m.p for m in make(name, width=1 / 32).modules() if isinstance(m, nn.Dropout)] == ratios


# ---- laws of every backbone


@settings(max_examples=15)
@given(st.sampled_from(SCALED), st.floats(0.001, 2))
def test_width_scales_every_channel_count(name, width):
    with torch.device("meta"):
        *below, scores = layers_with_weights(make(name, num_classes=3, width=width)).items()
    full = channels_of_full_width(name)
    assert scores[1].out_features == 3
    for layer, module in below:
        # Half a channel of rounding, and even counts (AlexNet's groups) or four times the rounded (Bottleneck).
        assert abs(module.weight.shape[0] - width * full[layer]) <= 2, layer


@functools.cache
def channels_of_full_width(name):
    with torch.device("meta"):
        return {layer: module.weight.shape[0] for layer, module in layers_with_weights(make(name)).items()}


def averaging(net):
    """A net in which nothing cancels, saturates or hides: each layer takes a half of a positive mean of its inputs,
    pools take means.
    """
    for parameter in net.parameters():
        if parameter.dim() > 1:
            nn.init.uniform_(parameter, 0.5, 1.0)
            with torch.no_grad():
                parameter /= 2 * parameter.flatten(1).sum(1).view(-1, *[1] * (parameter.dim() - 1))
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.MaxPool2d):
            net.set_submodule(name, nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode))
    return net


@pytest.mark.parametrize("name", NAMES)
def test_a_crop_goes_in_scores_come_out_and_the_gradient_reaches_every_parameter(name):
    size = BACKBONES[name].native_size
    net = averaging(make(name, num_classes=5, width=1 / 32))
    scores = net(torch.rand(2, 3, size, size))
    assert scores.shape == (2, 5)
    scores.sum().backward()
    for parameter, value in net.named_parameters():
        assert value.grad is not None, parameter
        assert bool(value.grad.isfinite().all()), parameter
        assert bool(value.grad.any()), parameter


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_the_net(name, tmp_path):
    first, second = (make(name, num_classes=2, width=1 / 32) for _ in range(2))
    config = ModelConfig(name, num_classes=2, width=1 / 32)
    header = checkpoint.Header(config, LabelSpace.of(["a", "b"]), CONVENTIONS["caffe"], "classifier")
    checkpoint.save(tmp_path / "net.safetensors", first.state_dict(), header)
    tensors, found = checkpoint.load(tmp_path / "net.safetensors")
    second.load_state_dict(tensors, strict=True)
    assert found == header
    assert all(torch.equal(tensor, first.state_dict()[key]) for key, tensor in second.state_dict().items())


@functools.cache
def strides(name):
    """The strides of 32, 16, 8 that its trunk has a feature at, or the one stride of its trunk; coarsest first."""
    dense, report = dense_of(name)
    trace = walk(decapitate(dense, report))
    return sorted({int(f.axis.stride) for f in trace} & {32, 16, 8} | {int(trace.last.axis.stride)}, reverse=True)


@functools.cache
def fcn(name, padding="tight"):
    """A narrow FCN with a skip at each of the paper's strides."""
    return build(ModelConfig(name, strides(name)[-1], num_classes=2, padding=padding, width=1 / 32)).eval()


@pytest.mark.parametrize("name", EVERY_BACKBONE)
def test_the_fcn_keeps_the_names_of_the_classifier(name):
    classifier = make(name, width=1 / 32)
    *_, scores = layers_with_weights(classifier)
    mine = {key.removeprefix("backbone.") for key in fcn(name).state_dict() if key.startswith("backbone.")}
    assert mine == {key for key in classifier.state_dict() if not key.startswith(f"{scores}.")}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padding", ["paper", "tight"])
def test_there_is_a_skip_at_every_stride_and_all_meet_on_the_image(name, padding):
    net = fcn(name, padding)
    grids = [net.trace[feature].axis for feature in net.features]
    assert [grid.stride for grid in grids] == strides(name)
    moved = [AxisMap(grid.stride, grid.start - net.margin.before, grid.field) for grid in grids]
    scores = moved[0]
    for join, finer in zip(net.joins, [*moved[1:], IMAGE], strict=True):
        scores = scores.then(join.window).cropped(join.crop_scores)
        assert scores.offset_to(finer.cropped(join.crop_skip)) == 0
    assert (scores.stride, scores.start) == (1, 0)


@pytest.mark.parametrize("name", NAMES)
def test_where_every_feature_looks_is_where_its_gradient_goes(name):
    net = fcn(name)
    trunk = averaging(copy.deepcopy(net.backbone).double())
    rows = BACKBONES[name].native_size + 70
    columns = next(n for n in range(1, rows) if min(net.trace.sizes(n, axis=1).values()) > 0)  # the narrowest image
    image = torch.ones(1, 3, rows, columns, dtype=torch.float64, requires_grad=True)
    sizes = net.trace.sizes(rows)
    for name_of_feature, feature in zip(net.features, trunk(image), strict=True):
        assert feature.shape[2] == sizes[name_of_feature]
        for cell in {0, sizes[name_of_feature] // 2, sizes[name_of_feature] - 1}:
            (gradient,) = torch.autograd.grad(feature[0, :, cell].sum(), image, retain_graph=True)
            support = set(gradient[0].abs().sum((0, 2)).nonzero().flatten().tolist())
            assert support == net.trace.support(name_of_feature, [cell], rows)


@pytest.mark.parametrize("name", ["caffenet", "alexnet", "googlenet"])
def test_random_weights_keep_the_signal(name):
    net = make(name, width=1 / 4)
    with torch.no_grad():
        scores = net(torch.randn(2, 3, BACKBONES[name].native_size, BACKBONES[name].native_size))
    assert 0.1 < float(scores.std()) < 10
    biases = [m.bias for m in layers_with_weights(net).values() if isinstance(m, nn.Conv2d) and m.bias is not None]
    assert not any(bool(bias.any()) for bias in biases)


# ---- torchvision's nets


@pytest.fixture(scope="module")
def torchvision():
    return zoo.torchvision()


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("resnet", "squeezenet", "mobilenet"))])
def test_torchvisions_weights_give_torchvisions_logits(name, torchvision):
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):  # as after training, not the identity
            for tensor, low, high in ((layer.weight, 0.5, 1.5), (layer.bias, -0.5, 0.5)):
                nn.init.uniform_(tensor, low, high)
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 1.5)
    with torch.device("meta"):
        ours = make(name)
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    crop = torch.randn(1, 3, 65, 98)
    with torch.no_grad():
        expected = theirs(crop)
        assert float((ours(crop) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
