"""Layers that are run band by band give what they give as a whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from fullconv.config import ModelConfig
from fullconv.geometry import Window
from fullconv.models.build import build
from fullconv.optimize import cache_blocking
from fullconv.optimize.cache_blocking import BandedLayers, banded, in_bands
from fullconv.optimize.fold_batchnorm import folded
from fullconv.optimize.size_specialization import specialize_for_size


class Chain(nn.Module):
    """Layers one behind the other, as a backbone has them, with what a net without its ring has between them."""

    def __init__(self, layers, floor=None, pads=(0, 0, 0, 0)):
        super().__init__()
        self.layers, self.floor, self.pads = nn.Sequential(*layers), floor, pads

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            if self.floor is not None and isinstance(layer, nn.Conv2d):
                x = torch.maximum(x, self.floor)
            if any(self.pads) and isinstance(layer, nn.Conv2d):
                x = nn.functional.pad(x, self.pads)
        return x


@st.composite
def chains(draw):
    """Convolutions and pools of any kind, at least one with a stride behind a convolution."""
    layers, channels = [], 2
    for _ in range(draw(st.integers(1, 3))):
        for _ in range(draw(st.integers(1, 3))):
            kernel = draw(st.integers(1, 4))
            layers.append(nn.Conv2d(
                channels, 3, kernel, padding=draw(st.integers(0, kernel)), dilation=draw(st.integers(1, 2)),
                bias=draw(st.booleans()),
            ))  # fmt: skip
            channels = 3
            layers += [nn.ReLU(inplace=True)] if draw(st.booleans()) else []
        kernel = draw(st.integers(1, 3))
        layers.append(
            nn.MaxPool2d(
                kernel, draw(st.integers(2, 3)), draw(st.integers(0, kernel // 2)), ceil_mode=draw(st.booleans())
            )
            if draw(st.booleans())
            else nn.Conv2d(channels, 3, kernel, 2, draw(st.integers(0, 2)))
        )
        channels = 3
    floor = torch.tensor([-0.1, 0.2, -0.3]).view(1, 3, 1, 1).double() if draw(st.booleans()) else None
    pads = tuple(draw(st.integers(-1, 2)) for _ in range(4)) if draw(st.booleans()) else (0, 0, 0, 0)
    return fx.symbolic_trace(Chain(layers, floor, pads).double().eval().requires_grad_(False))


@settings(max_examples=100, deadline=None)
@given(chains(), st.integers(1, 2), st.integers(1, 60), st.integers(12, 20), st.integers(1, 3000), st.booleans())
def test_bands_are_the_whole(trunk, n, height, width, band, last):
    torch.manual_seed(0)
    x = torch.randn(n, 2, height, width, dtype=torch.double)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    made = banded(trunk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_blocking, "BAND", band)
        patch.setattr(cache_blocking, "LARGE", 0)
        try:
            wanted = trunk(x)
        except RuntimeError:  # too small for the layers
            with pytest.raises(RuntimeError):
                made(x)
            return
        torch.testing.assert_close(made(x), wanted, rtol=1e-11, atol=1e-12)


@settings(max_examples=100)
@given(
    st.integers(1, 5), st.integers(1, 3), st.integers(0, 3), st.integers(0, 3), st.booleans(), st.integers(1, 30)
)  # fmt: skip
def test_a_step_has_the_rows_of_its_layer(span, stride, above, below, ceil, rows):
    step = Window(span, stride, above, after=below, ceil=ceil)
    if rows + above + below < span:
        return
    if above == below <= span // 2:
        assert step.size(rows) == nn.MaxPool2d((span, 1), (stride, 1), (above, 0), ceil_mode=ceil)(
            torch.zeros(1, 1, rows, 1)
        ).shape[2]  # fmt: skip
    first, end = step.seen(0, step.size(rows))
    assert first == -above and (ceil or end <= rows + below)


def find(net):
    return [module for module in net.modules() if isinstance(module, BandedLayers)]


def test_of_vgg16_every_block_is_a_band_and_the_rest_is_not():
    net = build(ModelConfig("vgg16", stride=8, width=1 / 16, padding="paper")).eval()
    for form in (folded(net), specialize_for_size(folded(net), 96, 130)):
        found = find(in_bands(form))
        assert [band.stride for band in found] == [2] * 5
        assert [band.channels for band in found] == [4, 8, 16, 32, 32]
    assert not find(net)


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18", "mobilenet_v2", "googlenet", "squeezenet1_1", "caffenet"])
def test_any_backbone_keeps_its_scores(name, monkeypatch):
    monkeypatch.setattr(cache_blocking, "LARGE", 0)
    monkeypatch.setattr(cache_blocking, "BAND", 4000)
    torch.manual_seed(0)
    net = build(ModelConfig(name, stride=8, width=0.125)).double().eval()
    x = torch.randn(2, 3, 131, 100, dtype=torch.double)
    with torch.no_grad():
        made = in_bands(folded(net))
        torch.testing.assert_close(made(x), net(x), rtol=1e-9, atol=1e-10)
    assert find(made) or name in ("resnet18", "caffenet", "squeezenet1_1", "googlenet")


def test_small_features_are_run_as_a_whole():
    net = banded(fx.symbolic_trace(Chain([nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3), nn.MaxPool2d(2)]).eval()))
    (band,) = find(net)
    seen = []
    band.layers.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[2]))
    net(torch.zeros(1, 2, 64, 64))
    assert seen == [64]


def test_what_others_read_or_what_is_not_known_ends_a_run():
    class Read(nn.Module):
        def __init__(self, unknown):
            super().__init__()
            self.first, self.second, self.pool = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3), nn.MaxPool2d(2)
            self.unknown = unknown

        def forward(self, x):
            first = self.first(x)
            if self.unknown:
                return self.pool(first.flip(2))
            return self.pool(self.second(first)), first.mean()

    for unknown in (False, True):
        found = find(banded(fx.symbolic_trace(Read(unknown).eval())))
        assert [len(band.steps) for band in found] == ([] if unknown else [2])


def test_nothing_in_bands_is_computed_beside_them():
    net = build(ModelConfig("vgg11", stride=8, num_classes=3, width=1 / 16, padding="paper")).eval()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.ones_(parameter)  # so that the padding's constants are not zero
    trunk = specialize_for_size(net, 40, 50).get_submodule("backbone")
    inside = {node.name for run in cache_blocking._runs(trunk) for node in run}
    assert inside and not inside & {node.name for node in cache_blocking.banded(trunk).graph.nodes}
