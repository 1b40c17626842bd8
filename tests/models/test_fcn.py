"""The published numbers come out of the walk, and the laws of the net hold on every backbone."""

import io
import multiprocessing
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.nets import EVERY_BACKBONE, FAMILIES, small, strides

from fullconv.config import ModelConfig
from fullconv.errors import UsageError
from fullconv.models.backbones.registry import BACKBONES
from fullconv.models.build import build
from fullconv.weights.transplant import transplant

CASES = [(b, s, p) for b in sorted(BACKBONES) for s in strides(b) for p in ("paper", "tight")]
FINEST = [(b, strides(b)[-1], p) for b in FAMILIES for p in ("paper", "tight")]


@pytest.mark.parametrize(
    "stride, crops, taps, parameters",
    [
        (32, [19], [64], 134_346_581),
        (16, [5, 27], [4, 32], 134_346_581 + 10_773),
        (8, [5, 9, 31], [4, 4, 16], 134_346_581 + 10_773 + 5_397),
    ],
)
def test_the_released_vgg16_nets(stride, crops, taps, parameters):
    with torch.device("meta"):
        net = build(ModelConfig("vgg16", stride, num_classes=21, padding="paper"))
    assert [j.crop_scores or j.crop_skip for j in net.joins] == crops
    assert [j.window.kernel for j in net.joins] == taps
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net.trace[net.features[0]].axis.field == 404
    assert net.margin.of(1) == (0, 0)
    released = {32: ["upscore"], 16: ["upscore2", "upscore16"], 8: ["upscore2", "upscore_pool4", "upscore8"]}
    assert net.upscore_names == released[stride]
    assert net.score_names == ["score_fr", "score_pool4", "score_pool3"][: len(crops)]


def test_the_sizes_of_the_released_net_at_500():
    with torch.device("meta"):
        net = build(ModelConfig("vgg16", 8, padding="paper"))
        sizes = net.trace.sizes(500)
    assert [sizes[name] for name in ("conv1_1", "pool1", "pool2", "pool3", "pool4", "pool5", "fc6")] == [
        698,
        349,
        175,
        88,
        44,
        22,
        16,
    ]


@pytest.mark.parametrize(
    "backbone, stride, padding", [pytest.param(*c, marks=() if c in FINEST else pytest.mark.slow) for c in CASES]
)
def test_logits_have_the_size_of_any_image(backbone, stride, padding):
    net = small(backbone, stride, padding=padding)
    with torch.no_grad():
        for height, width in [(1, 1), (1, 40), (33, 2), (31, 32), (65, 17)]:
            assert net(torch.randn(1, 3, height, width)).shape == (1, 3, height, width)


@settings(max_examples=20)
@given(height=st.integers(1, 70), width=st.integers(1, 70), case=st.sampled_from(CASES))
def test_the_margin_brings_every_crop_into_bounds(height, width, case):
    with torch.device("meta"):
        backbone, stride, padding = case
        net = small(backbone, stride, padding=padding)
        assert net(torch.empty(1, 3, height, width)).shape[2:] == (height, width)


def test_a_new_net_scores_zero_everywhere():
    net = small("vgg11", 8)
    assert not net(torch.randn(1, 3, 40, 40)).any()


def trained_like(net):
    """Give the score layers weights, as training would."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("score"):
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    return net


@pytest.mark.parametrize("backbone", ["vgg13", "mobilenet_v2"])
@pytest.mark.parametrize("padding", ["paper", "tight"])
def test_a_finer_net_starts_with_the_prediction_of_the_coarser(backbone, padding):
    coarse = trained_like(small(backbone, 32, padding=padding))
    image = torch.randn(1, 3, 96, 120)
    for stride in (16, 8):
        fine = small(backbone, stride, padding=padding)
        done = transplant(fine, coarse.state_dict(), "coarser net")
        assert sorted(done.missing) == sorted(f"score_pool{4 if stride == 16 else 3}.{p}" for p in ("weight", "bias"))
        with torch.no_grad():
            a, b = coarse(image), fine(image)
        inside = (slice(None), slice(None), slice(40, -40), slice(40, -40))
        # Two bilinear kernels in a row are the single one up to the rounding of the coarse grid's corners.
        assert float((a - b)[inside].abs().max()) < 0.25 * float(a.abs().max())
        assert float((a.argmax(1) == b.argmax(1)).float().mean()) > 0.9
        coarse = trained_like(fine)


def test_composed_upsampling_is_exact_on_a_linear_map():
    """Bilinear interpolation keeps a plane a plane, so there 2 x 16 and 32 agree to rounding."""
    from fullconv.geometry import Window
    from fullconv.models.upsample import Upsample

    def upsampled(x, factor):
        window = Window(2 * factor, factor, transposed=True)
        return Upsample(1, window, learned=False)(x, 0, *(window.size(n) for n in x.shape[2:]))

    plane = (torch.arange(8.0)[:, None] + 2 * torch.arange(9.0)).double()[None, None]
    once = upsampled(plane, 32)
    twice = upsampled(upsampled(plane, 2), 16)
    # Coarse cell i is centred on 32 i + 31.5 in `once`; in `twice` on 16 (2 i + 1.5) + 15.5 = 32 i + 39.5.
    shifted = twice[:, :, 8:-8, 8:-8]
    inside = (slice(None), slice(None), slice(64, -64), slice(64, -64))
    assert float((once - shifted[:, :, : once.shape[2], : once.shape[3]])[inside].abs().max()) < 1e-9


@pytest.mark.parametrize("upsample, learned", [("fixed", 0), ("learn-intermediate", 2), ("learn-all", 3)])
def test_which_transposed_convolutions_are_learned(upsample, learned):
    net = small("vgg11", 8, upsample=upsample)
    assert sum(name.startswith("upscore") for name, _ in net.named_parameters()) == learned
    image = torch.randn(1, 3, 50, 41)
    plain = trained_like(small("vgg11", 8))
    transplant(net, plain.state_dict(), "fixed net")
    with torch.no_grad():
        assert torch.allclose(net(image), plain(image), atol=1e-4)


def test_translation_by_the_stride_moves_the_logits_by_it():
    net = trained_like(small("vgg11", 8, padding="tight"))
    wide = torch.randn(1, 3, 64, 512)
    with torch.no_grad():
        left, right = net(wide[..., :480]), net(wide[..., 32:])
    a, b = left[..., 32:][..., 210:238], right[..., 210:238]
    assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    "settings, words",
    [
        (ModelConfig("vgg116"), "did you mean .vgg1[16]."),
        (ModelConfig("squeezenet1_0", stride=32), "no feature at that stride; One of: 16, 8"),
        (ModelConfig("mobilenet_v2", native_size=96), "leave native_size out"),
    ],
)
def test_bad_settings_are_one_line(settings, words):
    with pytest.raises(UsageError, match=words):
        build(settings)


def with_scores(net):
    """A net whose scores are not all zero, as they begin."""
    for name, parameter in net.named_parameters():
        if name.startswith("score"):
            torch.nn.init.normal_(parameter)
    return net


@pytest.mark.parametrize("backbone", EVERY_BACKBONE)
def test_a_pickled_net_gives_the_same_logits(backbone):
    net, x = with_scores(small(backbone, strides(backbone)[-1])), torch.randn(1, 3, 61, 70)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    for other in (pickle.loads(pickle.dumps(net)), torch.load(file, weights_only=False)):
        with torch.no_grad():
            assert torch.equal(other(x), net(x)) and net(x).std() > 0
        assert {name: p.shape for name, p in other.state_dict().items()} == {
            name: p.shape for name, p in net.state_dict().items()
        }


def logits_of(net, x, answer):
    torch.set_num_threads(1)
    with torch.no_grad():
        answer.put(net(x).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "squeezenet1_0"])
def test_a_net_goes_to_a_process_that_is_spawned(backbone):
    net, x = with_scores(small(backbone, 8)), torch.randn(1, 3, 61, 70)
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    child = context.Process(target=logits_of, args=(net, x, answer))
    child.start()
    found = answer.get(timeout=120)
    child.join()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), net(x), rtol=1e-4, atol=1e-5)
