"""The dense classifier is the classifier: on its native crop, and slid over a larger image."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.nets import EVERY_BACKBONE
from torch import nn

from fullconv.errors import UsageError
from fullconv.models.backbones.registry import BACKBONES
from fullconv.models.convolutionalize import convolutionalize, decapitate
from fullconv.models.surgery import fully_connected_as_convolution

NARROW = {"lenet": 0.2}


@pytest.fixture(scope="module", params=EVERY_BACKBONE)
def classifier(request):
    torch.manual_seed(1)
    chosen = BACKBONES[request.param]
    net = chosen.make(num_classes=7, width=NARROW.get(request.param, 1 / 16)).eval()
    return net, chosen.native_size


def test_equal_on_the_native_crop(classifier):
    net, native = classifier
    dense, report = convolutionalize(net, native)
    crops = torch.randn(2, 3, native, native)
    with torch.no_grad():
        scores, maps = net(crops), dense(crops)
    assert maps.shape == (2, 7, 1, 1)
    assert float((maps.flatten(1) - scores).abs().max()) <= 1e-5 * max(1.0, float(scores.abs().max()))
    assert report.changes


def test_the_classifier_itself_is_not_changed(classifier):
    net, native = classifier
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    convolutionalize(net, native)
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 2),
    pool=st.integers(1, 3),
    hidden=st.integers(1, 6),
    more=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    head=st.sampled_from(["linear", "global", "one by one"]),
)
def test_without_padding_it_is_the_slid_classifier(kernel, stride, pool, hidden, more, head):
    torch.manual_seed(kernel * 100 + stride * 10 + pool)
    body = [nn.Conv2d(3, 4, kernel, stride), nn.ReLU(), nn.MaxPool2d(pool), nn.Conv2d(4, 4, 2)]
    native = 16
    native -= native_rest(kernel, stride, pool, native)  # whole windows only: a partial one is not slid
    side = nn.Sequential(*body)(torch.zeros(1, 3, native, native)).shape[2]
    heads = {
        "linear": [nn.Flatten(), nn.Linear(4 * side * side, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, 3)],
        "global": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)],
        "one by one": [nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()],
    }
    net = nn.Sequential(*body, *heads[head]).double().eval()
    dense, report = convolutionalize(net, native)
    step = int(report.trace.last.axis.stride)
    assert step == stride * pool
    image = torch.randn(1, 3, native + more[0] * step, native + more[1] * step, dtype=torch.float64)
    with torch.no_grad():
        maps = dense(image)
        assert maps.shape[2:] == (more[0] + 1, more[1] + 1)
        for i in range(more[0] + 1):
            for j in range(more[1] + 1):
                crop = image[:, :, i * step : i * step + native, j * step : j * step + native]
                assert float((maps[:, :, i, j] - net(crop)).abs().max()) <= 1e-12


def native_rest(kernel, stride, pool, native):
    cells = (native - kernel) // stride + 1
    return (native - kernel) % stride + (cells % pool) * stride


def test_lenet_reads_a_strip_of_digits_cell_by_cell():
    """Matan et al. 1992: the net for one digit, slid over a line of them, is one convolutional net."""
    net = BACKBONES["lenet"].make(num_classes=10, width=0.5).eval()
    dense, _ = convolutionalize(net, 28)
    strip = torch.randn(1, 3, 28, 28 + 4 * 6)
    with torch.no_grad():
        slid = torch.stack([net(strip[..., 4 * i : 4 * i + 28])[0] for i in range(7)], dim=1)
        assert float((dense(strip)[0, :, 0] - slid).abs().max()) < 1e-5


def test_vgg_fc6_is_a_flat_copy():
    layer = nn.Linear(512 * 7 * 7, 8)
    conv = fully_connected_as_convolution(layer, 512, 7, 7)
    assert conv.weight.shape == (8, 512, 7, 7)
    assert torch.equal(conv.weight.flatten(), layer.weight.flatten())


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 3), nn.Linear(2 * 6 * 6, 4)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.fc(x.view(x.size(0), -1))


def test_somebodys_own_view_and_size():
    net = Views().eval()
    dense, _ = convolutionalize(net, 8)
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(dense(x).flatten(1), net(x), atol=1e-6)
    assert dense(torch.randn(1, 3, 11, 9)).shape == (1, 4, 4, 2)


@pytest.mark.parametrize(
    "net, native, words",
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2)), 9, "does not take an image of 9x9"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)),
            9,
            "layer '1' .AdaptiveAvgPool2d",
        ),
        (nn.Sequential(nn.Linear(8, 8), nn.Conv2d(3, 2, 8), nn.Flatten()), 8, "layer '0' .Linear"),
    ],
)
def test_what_has_no_dense_form_is_refused_by_name(net, native, words):
    with pytest.raises(UsageError, match=words):
        convolutionalize(net, native)


def test_decapitated_trunk_ends_below_the_class_scores():
    dense, report = convolutionalize(BACKBONES["mobilenet_v2"].make(num_classes=5, width=0.25), 224)
    trunk = decapitate(dense, report)
    names = [str(node.target) for node in trunk.graph.nodes if node.op == "call_module"]
    assert names[-1] == "classifier.0"
    assert not set(report.pools) & set(names)
