"""The net without the ring is the net: equal features and scores for any size, and less work."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.nets import slow_but
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fullconv
from fullconv.config import ModelConfig
from fullconv.geometry import Window
from fullconv.optimize.constant_padding import CellRange
from fullconv.optimize.size_specialization import specialize_for_size

WIDTHS = {"vgg11": 1 / 16, "vgg16": 1 / 32, "vgg11_bn": 1 / 16}
NETS = ["vgg11", "vgg16", "vgg11_bn", "alexnet", "caffenet", "googlenet", "squeezenet1_0", "mobilenet_v2", "resnet18"]


def alive(net):
    """With scores and biases that are not zero, so that the ring is not empty either; in double precision."""
    torch.manual_seed(0)
    for name, parameter in net.named_parameters():
        if name.startswith("score") or parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.3)
    return net.double().eval()


def difference(net, size):
    image = torch.randn(1, net.config.channels * len(net.streams), *size, dtype=torch.double)
    with torch.inference_mode():
        plain, found = net.coarse(image), specialize_for_size(net, *size).coarse(image)
    return max(float((plain[task] - found[task]).abs().max() / plain[task].abs().max()) for task in plain)


@pytest.mark.parametrize("padding", ["paper", "tight"])
@pytest.mark.parametrize("backbone", slow_but(("vgg11", "vgg16", "vgg11_bn", "squeezenet1_0"), NETS))
def test_scores_are_those_of_the_plain_net(backbone, padding):
    net = alive(fullconv.build(ModelConfig(backbone, stride=8, num_classes=3, padding=padding,
                                           width=WIDTHS.get(backbone, 1.0), upsample="fixed")))  # fmt: skip
    for size in ((61, 90), (1, 1)):
        assert difference(net, size) < 1e-12


VGG = alive(fullconv.build(ModelConfig("vgg11", stride=8, num_classes=3, padding="paper", width=1 / 32)))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 170), st.integers(1, 170))
def test_any_size(height, width):
    assert difference(VGG, (height, width)) < 1e-12


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["vgg11", "vgg16"]), st.integers(40, 400), st.integers(40, 400))
def test_nothing_is_padded_before_a_pool(backbone, height, width):
    """Zeros between a convolution and its pool would be copied, and would end a chain of 8-bit integers."""
    net = fullconv.build(ModelConfig(backbone, stride=8, num_classes=3, padding="paper", width=1 / 64)).eval()
    trunk = specialize_for_size(net, height, width).get_submodule("backbone")
    layers = dict(trunk.named_modules())
    pools = [node for node in trunk.graph.nodes if isinstance(layers.get(str(node.target)), nn.MaxPool2d)]
    assert len(pools) == 5
    assert all(source.target is not nn.functional.pad for pool in pools for source in pool.all_input_nodes)


def test_two_streams_and_two_heads():
    for options in ({"late_fusion": "average"}, {"geometric_classes": 2}):
        config = ModelConfig("vgg11", stride=16, num_classes=3, padding="paper", width=1 / 32, **options)
        assert difference(alive(fullconv.build(config)), (50, 70)) < 1e-12


def test_at_the_size_of_the_paper_a_third_of_the_operations_goes():
    """Counted by torch itself, of a VGG16 whose layers are as wide in proportion as the paper's."""
    net = alive(fullconv.build(ModelConfig("vgg16", stride=8, num_classes=3, padding="paper", width=1 / 16)))
    operations = []
    for form in (net, specialize_for_size(net, 500, 500)):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            form.backbone(torch.zeros(1, 3, 500, 500, dtype=torch.double))
        operations.append(counter.get_total_flops())
    assert 0.65 < operations[1] / operations[0] < 0.72


def test_it_is_for_one_size_alone():
    image = torch.randn(1, 3, 64, 96, dtype=torch.double)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="size of tensor"):
        specialize_for_size(VGG, 64, 64)(image)


def test_nothing_changes_where_nothing_is_to_be_gained():
    net = alive(fullconv.build(ModelConfig("vgg11", stride=8, num_classes=3, width=1 / 32)))
    assert specialize_for_size(net, 64, 64) is net


def test_weights_are_shared_and_the_net_stays_as_it_is():
    before = {name: tensor.clone() for name, tensor in VGG.state_dict().items()}
    found = specialize_for_size(VGG, 64, 64)
    assert found.backbone.get_submodule("conv4_1").weight is VGG.backbone.get_submodule("conv4_1").weight
    found(torch.randn(1, 3, 64, 64, dtype=torch.double))
    after = VGG.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(5, 40), st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(1, 3),
    st.integers(0, 3), st.integers(1, 2), st.booleans(),
)  # fmt: skip
def test_extents_are_what_a_layer_carries(cells, before, length, kernel, stride, padding, dilation, pooling):
    """Marks are carried through the layer itself: what comes out marked is what the extent says, cell by cell."""
    begin = min(before, cells - 1)
    end = min(begin + length, cells)
    padding = min(padding, kernel // 2) if pooling else padding
    dilation = 1 if pooling else dilation
    window = Window(kernel, stride, padding, dilation, ceil=pooling)
    if window.size(cells) < 1:
        return
    extent = CellRange(cells, begin, end).through(window, borderless=pooling)
    marks = torch.zeros(1, 1, 1, cells, dtype=torch.double)
    marks[..., begin:end] = 1
    if pooling:
        out = torch.nn.functional.max_pool2d(marks, (1, kernel), (1, stride), (0, padding), ceil_mode=True)
    else:
        line = marks.new_ones(1, 1, 1, kernel)
        out = torch.nn.functional.conv2d(marks, line, None, (1, stride), (0, padding), (1, dilation))
        ones = torch.nn.functional.conv2d(torch.ones_like(marks), line, None, (1, stride), (0, padding), (1, dilation))
        border = (ones.flatten() < kernel).nonzero().flatten().tolist()
        inside = [c for c in range(extent.cells) if extent.front <= c < extent.cells - extent.back]
        assert not set(border) & set(inside)
    assert out.shape[-1] == extent.cells
    seen = out.flatten().nonzero().flatten().tolist()
    assert all(extent.begin <= cell < extent.end for cell in seen)
    if dilation == 1 and kernel >= stride and seen:
        assert (min(seen), max(seen) + 1) == (extent.begin, extent.end)
