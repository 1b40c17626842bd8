"""What is computed from the graph is what torch counts and keeps when it runs the net."""

import weakref
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import zoo
from tests.support.nets import slow_but
from tests.support.variants import SMALL, VARIANTS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from fullconv.config import ModelConfig
from fullconv.models.backbones.registry import BACKBONES
from fullconv.models.build import build, from_classifier
from fullconv.models.convolutionalize import convolutionalize
from fullconv.profiling.graph_cost import PARTS, cost, depth, feature_sizes, peak_bytes

ON_ANY = {"lenet": {"stride": 4, "width": 0.1}} | {
    name: {"stride": 8 if name.startswith("squeezenet") else 32, "width": 1 / 32 if name.startswith("vgg") else 0.1}
    for name in BACKBONES
    if name != "lenet"
}
NETS = {name: {"backbone": name, "num_classes": 5, **more} for name, more in ON_ANY.items()} | {
    f"variant {name}": {**SMALL, **more} for name, more in VARIANTS.items()
}
NETS |= {
    "at-once, late": {**SMALL, "stride": 8, "skip_scale": 0.1, "late_fusion": "sum"},
    "max, learned, two heads": {**SMALL, "fuse": "max", "upsample": "learn-all", "geometric_classes": 2},
    "googlenet dilated": {"backbone": "googlenet", "stride": 16, "width": 0.1, "last_pool": "dilated"},
}
QUICK = {"lenet", "vgg11", "resnet18", "squeezenet1_1", "variant 8s", "variant late-average", "at-once, late"}
EVERY_NET = slow_but(QUICK | {"max, learned, two heads"}, NETS)
PADDINGS = st.sampled_from(["paper", "tight"])
SIDES = st.integers(64, 144)


def net_of(name, padding, **more):
    return build(ModelConfig(**{**NETS[name], "padding": padding, **more}))


def image_for(net, height, width):
    return torch.zeros(1, net.config.channels * len(net.streams), height, width)


class Live(TorchDispatchMode):
    """The most bytes that tensors made while it is on, and those it was told of, take at one time."""

    def __init__(self, weights, given):
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in weights}
        self.live, self.most = {}, 0
        self.note(given)

    def note(self, tensor):
        memory = tensor.untyped_storage()
        key = memory._cdata
        if key not in self.known and key not in self.live:
            self.live[key] = memory.nbytes(), weakref.ref(memory, lambda _: self.live.pop(key))
            self.most = max(self.most, sum(size for size, _ in self.live.values()))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.note(tensor)
        return made


def most_live(net, image):
    with torch.no_grad(), Live(net.state_dict().values(), image) as live:
        net.eval()(image)
    return live.most


def kept_for_backward(net, image):
    weights = {tensor.untyped_storage()._cdata for tensor in net.state_dict().values()}
    kept = {}

    def keep(tensor):
        memory = tensor.untyped_storage()
        if memory._cdata not in weights:
            kept[memory._cdata] = memory
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net.train()(image)
    return sum(memory.nbytes() for memory in kept.values())


def counted(net, image):
    """Torch's own count of the operations, by part."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(image)
    parts = dict.fromkeys(PARTS, 0)
    for name, _ in net.named_children():
        part = "trunk" if name.startswith("backbone") else "upsampling" if name.startswith("up") else "scores"
        parts[part] += sum(counter.flop_counts[f"{type(net).__name__}.{name}"].values())
    assert sum(parts.values()) == counter.get_total_flops()
    return parts


@pytest.mark.parametrize("name", EVERY_NET)
@settings(max_examples=1)
@given(padding=PADDINGS, height=st.integers(1, 4000), width=st.integers(1, 4000))
def test_the_operations_are_those_that_torch_counts(name, padding, height, width):
    with torch.device("meta"):
        net = net_of(name, padding)
        image = image_for(net, height, width)
    found, parts = cost(net, height, width), counted(net, image)
    assert {part: 2 * getattr(found, part) for part in PARTS} == parts
    assert found.flops == sum(parts.values())


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["caffenet", "vgg16", "googlenet", "resnet50"])
def test_at_full_width_too(backbone):
    with torch.device("meta"):
        net = build(ModelConfig(backbone, stride=8))
        image = image_for(net, 500, 4000)
    assert {part: 2 * getattr(cost(net, 500, 4000), part) for part in PARTS} == counted(net, image)


@pytest.mark.parametrize("name", EVERY_NET)
@settings(max_examples=1)
@given(padding=PADDINGS, height=SIDES, width=SIDES)
def test_activations_are_those_that_live_and_are_kept(name, padding, height, width):
    net = net_of(name, padding)
    image, found = image_for(net, height, width), cost(net, height, width)
    assert found.peak_bytes == most_live(net, image)
    assert found.kept_bytes == kept_for_backward(net, image)


@pytest.mark.slow
@settings(max_examples=8)
@given(name=st.sampled_from(list(NETS)), padding=PADDINGS, height=st.integers(1, 9), width=st.integers(1, 200))
def test_the_peak_of_a_sliver_is_exact_too(name, padding, height, width):
    net = net_of(name, padding)
    assert cost(net, height, width).peak_bytes == most_live(net, image_for(net, height, width))


def test_one_pixel_keeps_what_two_images_of_it_keep_less_what_each_adds():
    """Torch trains no batch norm on one number."""
    net = net_of("vgg11_bn", "tight")
    two, three = (kept_for_backward(net, torch.zeros(n, 3, 1, 1)) for n in (2, 3))
    assert cost(net, 1, 1).kept_bytes == 2 * two - three


class Mixed(nn.Module):
    """Activations in place and not, as modules, functions and methods; sums, products, a transposed convolution."""

    def __init__(self, activation, in_place):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.act = activation(inplace=True) if in_place else activation()
        self.down, self.up = nn.Conv2d(6, 4, 2, stride=2), nn.ConvTranspose2d(4, 6, 2, stride=2)
        self.drop, self.pool = nn.Dropout2d(0.3), nn.AvgPool2d(2)
        self.flat, self.last = nn.Flatten(), nn.Linear(12 * 8 * 8, 2)

    def forward(self, x):
        x = self.act(self.norm(self.first(x)))
        y = self.up(F.relu(self.down(x), inplace=True))
        y = torch.sigmoid(y) * x + self.drop(y)
        y += x
        z = torch.cat([-y, (y * 2).relu()], 1)
        return self.last(self.flat(self.pool(z)))


@pytest.mark.parametrize(
    "activation, in_place",
    [(kind, False) for kind in (nn.ReLU, nn.ReLU6, nn.GELU, nn.Sigmoid, nn.Hardswish, nn.Identity)]
    + [(kind, True) for kind in (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Dropout)],
)
def test_somebodys_own_layers(activation, in_place):
    dense, conversion = convolutionalize(Mixed(activation, in_place), 16)
    net = from_classifier(dense, conversion, ModelConfig(stride=2, num_classes=3), stages="none")
    image, found = image_for(net, 70, 90), cost(net, 70, 90)
    assert {part: 2 * getattr(found, part) for part in PARTS} == counted(net, image)
    assert found.peak_bytes == most_live(net, image)
    assert found.kept_bytes == kept_for_backward(net, image)
    assert depth(net) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layers",
    [
        ("torchvision:shufflenet_v2_x0_5", 51),
        ("timm:regnetx_002", 41),
        pytest.param("torchvision:convnext_tiny", 59, marks=pytest.mark.slow),
        pytest.param("torchvision:densenet121", 121, marks=pytest.mark.slow),
        pytest.param("timm:xception41", 81, marks=pytest.mark.slow),
    ],
)
def test_the_nets_of_libraries(name, layers):
    zoo.timm()
    net = build(ModelConfig(name, stride=32))
    image, found = image_for(net, 96, 130), cost(net, 96, 130)
    assert {part: 2 * getattr(found, part) for part in PARTS} == counted(net, image)
    assert found.peak_bytes == most_live(net, image)
    assert found.kept_bytes == pytest.approx(kept_for_backward(net, image), rel=0.005)
    assert depth(net) == layers


@pytest.mark.parametrize("backbone, layers, millions", [("caffenet", 8, 57), ("vgg16", 16, 134), ("googlenet", 22, 6)])
def test_table_1(backbone, layers, millions):
    with torch.device("meta"):
        net = build(ModelConfig(backbone, stride=32, num_classes=21, padding="paper"))
    assert depth(net) == layers
    assert round(cost(net, 500, 500).parameters / 1e6) == millions


@pytest.mark.parametrize("name", [name for name in BACKBONES if name.startswith(("vgg", "resnet"))])
def test_a_net_is_as_deep_as_its_name_says(name):
    with torch.device("meta"):
        net = build(ModelConfig(name, stride=8))
    assert name.removesuffix("_bn").endswith(f"t{depth(net)}" if name.startswith("resnet") else f"g{depth(net)}")


def test_one_skip_alone_is_less_deep():
    assert depth(net_of("variant pool3-only", "tight")) == 1 + 4 < depth(net_of("variant 8s", "tight"))


@pytest.mark.parametrize("backbone", ["vgg11", "resnet18"])
def test_the_weights_weigh_what_their_file_holds(backbone):
    net = net_of(backbone, "tight")
    file = safetensors.torch.save(net.state_dict())
    header = 8 + int.from_bytes(file[:8], "little")
    assert cost(net, 50, 50).weight_bytes == len(file) - header


def test_two_streams_cost_two_trunks_and_two_heads_two_scores():
    plain, late = (cost(net_of(f"variant {name}", "tight"), 80, 90) for name in ("32s", "late-average"))
    assert (late.trunk, late.scores, late.upsampling) == (2 * plain.trunk, 2 * plain.scores, plain.upsampling)
    one, two = (cost(net_of("variant 8s", "tight", geometric_classes=n), 80, 90) for n in (None, 3))
    assert (two.trunk, two.scores, two.upsampling) == (one.trunk, 2 * one.scores, 2 * one.upsampling)


def test_the_sizes_of_the_features_are_those_of_the_tensors():
    net = net_of("variant 8s", "tight").eval()
    sizes = feature_sizes(net, 75, 33)
    padded = F.pad(image_for(net, 75, 33), (*net.margin.of(33), *net.margin.of(75)))
    assert next(iter(sizes.values())) == padded.shape[2:]
    for name, feature in zip(net.features, net.backbone(padded), strict=True):
        assert sizes[name] == feature.shape[2:]


def test_what_lives_and_what_is_kept_is_really_seen():
    """The measurements of this file, on a net that one can count by hand."""
    net = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 1), relu=nn.ReLU(), pool=nn.MaxPool2d(2)))
    image, cells = torch.randn(1, 1, 8, 8), 8 * 8
    # The image and two maps while the ReLU runs; then a map, a quarter of it and its indices of 8 bytes, which is less.
    assert most_live(net, image) == 4 * cells * (1 + 2 + 2)
    # The input of the convolution, the result of the ReLU, which the pool needs too, and the indices.
    assert kept_for_backward(net, image) == 4 * cells * (1 + 2) + 8 * cells * 2 // 4


@pytest.mark.slow
def test_a_net_is_planned_for_while_other_threads_run_it():
    net = build(ModelConfig("mobilenet_v2", stride=8, num_classes=3, width=0.1)).eval()
    x = torch.rand(1, 3, 33, 40)
    with ThreadPoolExecutor(4) as pool, torch.inference_mode():
        expected = net(x)
        planned = [pool.submit(peak_bytes, net, 32 + n % 3, 40) for n in range(24)]
        ran = [pool.submit(torch.inference_mode()(net), x) for _ in range(24)]
        assert len({future.result() for future in planned}) <= 3
        assert all(torch.equal(future.result(), expected) for future in ran)
    assert not net.training
