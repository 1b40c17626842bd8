"""torchvision's and timm's classifiers become dense and are proved, or are refused by the layer's name."""

import pytest
import torch
from tests.support import zoo
from tests.support.nets import slow_but
from torch import nn

from fullconv.config import ModelConfig
from fullconv.errors import UsageError
from fullconv.models.backbones.external import zoo_classifier
from fullconv.models.build import build
from fullconv.models.convolutionalize import convolutionalize
from fullconv.models.verify import prove

CONVERTED = {
    "torchvision": ["alexnet", "googlenet", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"],
    "timm": ["repvgg_a0", "mobilenetv2_035", "darknet17"],
}
QUICK = ["torchvision:squeezenet1_1", "torchvision:shufflenet_v2_x0_5"]
LARGER = {
    "torchvision": ["convnext_tiny", "inception_v3", "mnasnet0_5", "mobilenet_v2", "regnet_x_400mf", "resnext50_32x4d"],
    "timm": ["resnet18"],
}
REFUSED = {
    "torchvision:efficientnet_b0": "sees the whole map inside",
    "torchvision:mobilenet_v3_small": "sees the whole map inside",
    "torchvision:vit_b_16": "Linear",
    "torchvision:swin_t": "no dense form",
    "timm:tf_efficientnet_lite0": "layer|follow",
    "timm:vit_tiny_patch16_224": "layer|follow",
    "timm:vgg11": "cannot follow",
    "timm:resnet10t": "branches that do not meet",
    "timm:dla34": "branches that do not meet",
    "timm:convnext_atto": "layer 'reshape'",
}


def libraries():
    return {"torchvision": zoo.torchvision(), "timm": zoo.timm()}


def check(name):
    libraries()
    net, native = zoo_classifier(name, num_classes=7)
    dense, report = convolutionalize(net, native)
    assert report.changes
    assert prove(net, dense, native).holds


@pytest.mark.parametrize("name", slow_but(QUICK, [f"{lib}:{net}" for lib, nets in CONVERTED.items() for net in nets]))
def test_it_becomes_dense_and_is_proved(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{lib}:{net}" for lib, nets in LARGER.items() for net in nets])
def test_a_larger_one_becomes_dense_and_is_proved(name):
    check(name)


@pytest.mark.parametrize("name", slow_but(REFUSED.keys() - {"torchvision:vit_b_16", "timm:vgg11"}, REFUSED))
def test_what_has_no_dense_form_is_refused_by_its_layer(name):
    libraries()
    net, native = zoo_classifier(name, num_classes=7)
    with pytest.raises(UsageError, match=REFUSED[name]) as caught:
        convolutionalize(net, native)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
@pytest.mark.parametrize("stride", [32, 8])
def test_an_fcn_stands_on_a_librarys_net(name, stride):
    libraries()
    net = build(ModelConfig(name, stride, num_classes=3)).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, 45, 70)).shape == (1, 3, 45, 70)
    channels = [net.trace[feature].channels for feature in net.features]
    assert channels == [512, 256, 128][: len(channels)]


def test_ours_and_torchvisions_resnet_are_one_fcn():
    libraries()
    ours, theirs = (build(ModelConfig(name, 8, num_classes=3)).eval() for name in ("resnet18", "torchvision:resnet18"))
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not missing and not unexpected
    image = torch.randn(1, 3, 64, 50)
    with torch.no_grad():
        for name in ours.score_names:
            nn.init.normal_(ours.get_submodule(name).weight)
            theirs.get_submodule(name).load_state_dict(ours.get_submodule(name).state_dict())
        assert torch.allclose(ours(image), theirs(image), atol=1e-4)


@pytest.mark.parametrize(
    "name, words", [("timm:resnet1", "there is no net .resnet1."), ("torchvision:resnet19", "did you mean")]
)
def test_an_unknown_name_is_one_line(name, words):
    libraries()
    with pytest.raises(UsageError, match=words):
        zoo_classifier(name)


def test_a_width_is_refused():
    libraries()
    with pytest.raises(UsageError, match="leave --width out"):
        build(ModelConfig("torchvision:resnet18", 32, width=0.5))


def test_a_library_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UsageError, match=r"pip install 'fullconv\[zoo\]'"):
        zoo_classifier("timm:resnet18")
