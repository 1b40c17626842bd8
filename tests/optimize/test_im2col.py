"""A convolution as a product is the convolution: forward, backward, in any layout, at any size."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import heap
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fullconv
from fullconv.config import ModelConfig, TrainConfig
from fullconv.optimize import im2col
from fullconv.optimize.im2col import PointConv2d, ProductConv2d, RowsConv2d, use_products
from fullconv.optimize.packed_gemm import packs
from fullconv.training.loop import State


@settings(max_examples=40)
def check_equal_with_gradients(found, wanted, mine, theirs):
    """Two results are equal, and so are their gradients by the leaves that they were computed from."""
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    weight = torch.randn_like(wanted)
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-12)


@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2),
    st.integers(5, 12), st.integers(5, 12), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_it_is_the_convolution(n, c, o, k, padding, dilation, height, width, bias, last, few):
    torch.manual_seed(0)
    conv = nn.Conv2d(c, o, k, padding=padding, dilation=dilation, bias=bias).double()
    made = ProductConv2d(c, o, k, padding=padding, dilation=dilation, bias=bias).double()
    made.load_state_dict(conv.state_dict())
    x = torch.randn(n, c, height, width, dtype=torch.double)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    most, im2col.MOST_CELLS = im2col.MOST_CELLS, 10 if few else im2col.MOST_CELLS
    try:
        found, wanted = made(one), conv(other)
    finally:
        im2col.MOST_CELLS = most
    check_equal_with_gradients(found, wanted, (one, *made.parameters()), (other, *conv.parameters()))


@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 30), st.integers(1, 9), st.booleans(), st.booleans())
def test_one_of_one_tap_is_the_convolution(n, c, o, side, bias, last):
    torch.manual_seed(0)
    conv, made = (kind(c, o, 1, bias=bias).double() for kind in (nn.Conv2d, PointConv2d))
    made.load_state_dict(conv.state_dict())
    x = torch.randn(n, c, side, side + 2, dtype=torch.double)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = made(one), conv(other)
    check_equal_with_gradients(found, wanted, (one, *made.parameters()), (other, *conv.parameters()))


class Gradients(TorchDispatchMode):
    """The shapes of the weights whose gradients a convolution library computes, and the strides."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "convolution_backward" in str(func):
            self.weights.append((*args[2].shape, *args[4]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backbone", ["vgg11", "squeezenet1_1", "mobilenet_v2", "resnet18"])
@pytest.mark.parametrize("classes", [2, 11, 21, 40])
def test_no_convolution_library_computes_the_gradient_of_scores(backbone, classes):
    """oneDNN corrupts the heap at it: of 4,096 inputs and 2 or 11 outputs in bf16 with AMX."""
    net = fullconv.build(ModelConfig(backbone, stride=8, num_classes=classes, width=1 / 16))
    state = State.of(net, TrainConfig())
    with torch.autocast("cpu", torch.bfloat16):
        logits = state.net(torch.randn(1, 3, 64, 64).contiguous(memory_format=torch.channels_last))
    with Gradients() as seen:
        logits.float().sum().backward()
    assert len(seen.weights) > 3
    few = [w for w in seen.weights if w[2:] == (1, 1, 1, 1) and (w[0] < 16 or w[0] == classes) and w[1] > 1]
    assert not few, few


WALK = """
import sys, torch
from torch import nn
from fullconv.optimize.im2col import use_products

torch.set_num_threads(2)
for inputs in (1280, 3071, 3072, 4096):
    for outputs in (1, 2, 11, 15, 21):
        net = nn.Sequential()
        net.add_module("score_fr", nn.Conv2d(inputs, outputs, 1))
        assert use_products(net.to(memory_format=torch.channels_last)) == ["score_fr"]
        for kind in (torch.float32, torch.bfloat16):
            for side in (1, 16):
                x = torch.randn(2, inputs, side, side).contiguous(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16, enabled=kind is torch.bfloat16):
                    found = net(x)
                net.zero_grad()
                found.float().square().sum().backward()
                near = 1e-4 if kind is torch.float32 else 3e-2
                cells = x.double().permute(0, 2, 3, 1).flatten(0, 2)
                wanted = (2 * found.detach().double().permute(0, 2, 3, 1).flatten(0, 2)).t() @ cells
                off = float((net.score_fr.weight.grad.flatten(1).double() - wanted).abs().max() / wanted.abs().max())
                assert off < near, (inputs, outputs, kind, side, off)
print("sound")
"""


@pytest.mark.slow
def test_gradients_of_scores_leave_the_heap_sound():
    """At and around the shapes that crash: the C library checks every block of memory that is freed."""
    if not heap.is_effective():
        print("the C library's heap checker does not work here: only crashes are noticed", file=sys.__stderr__)
    command = [sys.executable, "-c", WALK]
    walked = subprocess.run(command, capture_output=True, text=True, check=False, env=heap.checked_environment())
    assert (walked.returncode, walked.stdout.split()) == (0, ["sound"]), walked.stderr


def test_only_the_large_layers_change_and_their_names_stay(monkeypatch):
    monkeypatch.setattr(im2col, "LEAST_WEIGHTS", 10_000)
    net = fullconv.build(ModelConfig("vgg11", stride=8, num_classes=3, width=1 / 16, native_size=64)).eval()
    before, keys = net(torch.ones(1, 3, 50, 61)), list(net.state_dict())
    net.to(memory_format=torch.channels_last)
    changed = use_products(net)
    assert changed and use_products(net) == changed and list(net.state_dict()) == keys
    assert any("fc6" in name for name in changed)
    assert {name for name in changed if "fc6" not in name} == {"score_fr", "score_pool4", "score_pool3"}
    assert all(net.get_submodule(name).weight.is_contiguous() for name in changed)
    torch.testing.assert_close(net(torch.ones(1, 3, 50, 61)), before, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.bfloat16])
def test_in_half_precision_it_is_as_near_as_the_convolution(kind):
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 8, 5)
    made = ProductConv2d(16, 8, 5)
    made.load_state_dict(conv.state_dict())
    x = torch.randn(1, 16, 9, 9)
    exact = conv(x)
    with torch.autocast("cpu", kind):
        found, usual = made(x), conv(x)
    assert found.dtype == usual.dtype
    assert (found.float() - exact).abs().max() <= 2 * (usual.float() - exact).abs().max() + 1e-3


@settings(max_examples=60)
@given(
    st.integers(1, 2), st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2),
    st.integers(0, 2), st.integers(4, 9), st.integers(4, 9), st.booleans(), st.integers(1, 40), st.booleans(),
)  # fmt: skip
def test_rows_times_weights_are_the_convolution(n, c, o, high, wide, top, left, height, width, bias, windows, last):
    layer = nn.Conv2d(c, o, (high, wide), padding=(top, left), bias=bias).double().requires_grad_(False)
    x = torch.randn(n, c, height, width, dtype=torch.double)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    made = RowsConv2d(layer, RowsConv2d.prepared(layer.weight))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(im2col, "MOST_WINDOWS", windows)
        found = made(x)
    torch.testing.assert_close(found, layer(x), rtol=1e-12, atol=1e-13)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("layer", "worth"),
    [
        (nn.Conv2d(2048, 2048, 1), True),
        (nn.Conv2d(2048, 2048, 1, padding=1), True),
        (nn.Conv2d(2048, 2048, 1, stride=2), False),
        (nn.Conv2d(4096, 2048, 1, groups=2), False),
        (nn.Conv2d(512, 512, 1), False),
        (nn.Conv2d(512, 1024, 3), False),
        (nn.Conv2d(512, 1024, 5), True),
        (nn.Conv2d(512, 1024, 5, dilation=2), False),
        (nn.Conv2d(512, 1024, 5, padding="same"), False),
        (nn.Conv2d(512, 1024, 5, padding=2, padding_mode="reflect"), False),
    ],
)
def test_which_are_worth_it(layer, worth):
    assert RowsConv2d.suits(layer) == worth


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_kept_beside_the_weights_is_told(kind):
    """Weights that are multiplied where they lie need nothing more."""
    weight = torch.randn(8, 4, 3, 3).to(kind)
    assert RowsConv2d.more_bytes(weight) == weight.nbytes
    lying = weight.contiguous(memory_format=torch.channels_last)
    matrix = RowsConv2d.prepared(lying)
    shared = not matrix.packed and matrix.weight.data_ptr() == lying.data_ptr()
    assert shared == (kind is not torch.float32 or not packs(lying))
    assert RowsConv2d.more_bytes(lying) == (0 if shared else weight.nbytes)
