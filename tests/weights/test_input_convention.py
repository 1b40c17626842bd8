"""A net whose first layer was changed for another input gives the same scores on the same picture."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fullconv.config import CONVENTIONS, InputConvention
from fullconv.errors import UsageError
from fullconv.inference.tensor_input import to_input
from fullconv.weights.input_convention import change_convention

names = st.sampled_from([name for name, found in CONVENTIONS.items() if len(found.mean) == 3])


@given(was=names, to=names, padding=st.sampled_from([0, 1]), seed=st.integers(0, 99))
def test_the_scores_stay_where_no_padding_is_seen(was, to, padding, seed):
    torch.manual_seed(seed)
    was, to = CONVENTIONS[was], CONVENTIONS[to]
    pixels = torch.randint(0, 256, (1, 9, 11, 3), dtype=torch.uint8)
    old = nn.Conv2d(3, 4, 3, padding=padding).double()
    new = nn.Conv2d(3, 4, 3, padding=padding).double()
    tensors = {f"conv.{name}": tensor for name, tensor in old.state_dict().items()}
    changed = change_convention(tensors, "conv", was, to, "file")
    new.load_state_dict({name.removeprefix("conv."): tensor for name, tensor in changed.items()})
    with torch.no_grad():
        a, b = old(to_input(pixels, was).double()), new(to_input(pixels, to).double())
    inside = (..., slice(padding, a.shape[2] - padding), slice(padding, a.shape[3] - padding))
    assert torch.allclose(a[inside], b[inside], atol=1e-3)  # pixels become input in single precision
    if not padding or was.mean == to.mean:
        assert torch.allclose(a, b, atol=1e-3)


def test_another_mean_is_another_border():
    caffe, plain = CONVENTIONS["caffe"], InputConvention("bgr", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    conv = {"c.weight": torch.ones(1, 3, 3, 3), "c.bias": torch.zeros(1)}
    changed = change_convention(conv, "c", caffe, plain, "file")
    pixels = torch.full((1, 5, 5, 3), 200, dtype=torch.uint8)
    a = torch.conv2d(to_input(pixels, caffe), conv["c.weight"], conv["c.bias"], padding=1)
    b = torch.conv2d(to_input(pixels, plain), changed["c.weight"], changed["c.bias"], padding=1)
    assert torch.allclose(a[..., 1:-1, 1:-1], b[..., 1:-1, 1:-1], atol=1e-2)
    assert not torch.allclose(a[..., 0, 0], b[..., 0, 0], atol=1)


def test_the_wrong_order_is_another_net():
    weight = {"c.weight": torch.randn(2, 3, 1, 1), "c.bias": torch.randn(2)}
    bgr = CONVENTIONS["caffe"]
    rgb = InputConvention("rgb", bgr.mean[::-1], bgr.std)
    changed = change_convention(weight, "c", bgr, rgb, "file")
    assert torch.allclose(changed["c.weight"], weight["c.weight"].flip(1))
    assert torch.allclose(changed["c.bias"], weight["c.bias"])


def test_channels_beyond_the_third_stay_in_their_place():
    bgrd = CONVENTIONS["nyud-color-d"]
    rgbd = InputConvention("rgb", (*bgrd.mean[2::-1], bgrd.mean[3]), bgrd.std)
    weight = {"c.weight": torch.randn(2, 4, 1, 1), "c.bias": torch.zeros(2)}
    changed = change_convention(weight, "c", bgrd, rgbd, "file")["c.weight"]
    assert torch.allclose(changed, weight["c.weight"][:, [2, 1, 0, 3]])


def test_another_mean_without_a_bias_is_refused():
    with pytest.raises(UsageError, match="'c' has no bias"):
        change_convention({"c.weight": torch.ones(1, 3, 1, 1)}, "c", CONVENTIONS["caffe"], InputConvention(), "file")
    flipped = InputConvention("rgb", CONVENTIONS["caffe"].mean[::-1], (1.0, 1.0, 1.0))
    change_convention({"c.weight": torch.ones(1, 3, 1, 1)}, "c", CONVENTIONS["caffe"], flipped, "file")
    with pytest.raises(UsageError, match="3 channels, not 4"):
        change_convention(
            {"c.weight": torch.ones(1, 3, 1, 1)}, "c", CONVENTIONS["caffe"], CONVENTIONS["nyud-color-d"], "file"
        )
