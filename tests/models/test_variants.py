"""Every variant of the paper is a net: forward, gradients, saving, geometry; and each does what it is for."""

import operator

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.variants import SMALL, VARIANTS
from torch import nn

from fullconv.config import ModelConfig
from fullconv.errors import UsageError
from fullconv.models.build import build, build_classifier
from fullconv.models.convolutionalize import convolutionalize
from fullconv.models.fcn import FCN
from fullconv.models.variants import double_kernel, more_channels
from fullconv.weights.transplant import transplant

CASES = [(name, padding) for name in VARIANTS for padding in ("paper", "tight")]


def variant(name, padding="tight", **more):
    return build(ModelConfig(**{**SMALL, **VARIANTS[name], "padding": padding, **more}))


def image_for(net, height, width, batch=1):
    streams = len(net.streams)
    return torch.randn(batch, net.config.channels * streams, height, width)


def as_dict(logits):
    return logits if isinstance(logits, dict) else {"semantic": logits}


def with_scores(net):
    """Give the zero score layers numbers, so that every layer below them counts."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("score"):
                parameter.copy_(torch.randn_like(parameter))
    return net


@pytest.mark.parametrize("name, padding", CASES)
def test_forward_backward_and_save(name, padding, tmp_path):
    net = with_scores(variant(name, padding, dropout=0.0))
    image = image_for(net, 45, 38)
    logits = as_dict(net(image))
    assert set(logits) == ({"semantic", "geometric"} if "two-heads" in name else {"semantic"})
    assert all(found.shape[2:] == (45, 38) for found in logits.values())
    assert logits["semantic"].shape[1] == 3
    sum(found.square().sum() for found in logits.values()).backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent, f"no gradient reaches {silent}"
    safetensors.torch.save_file(net.state_dict(), tmp_path / "m.safetensors")
    again = variant(name, padding, dropout=0.0)
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "m.safetensors"))
    for task, found in as_dict(again(image)).items():
        assert torch.equal(found, logits[task])


@settings(max_examples=25)
@given(case=st.sampled_from(CASES), height=st.integers(1, 700), width=st.integers(1, 500))
def test_logits_have_the_size_of_any_image(case, height, width):
    with torch.device("meta"):
        net = variant(*case)
        image = torch.empty(1, net.config.channels * len(net.streams), height, width)
        for logits in as_dict(net(image)).values():
            assert logits.shape[2:] == (height, width)


@pytest.mark.parametrize("name, padding", CASES)
@pytest.mark.parametrize("size", [(1, 1), *(pytest.param(size, marks=pytest.mark.slow) for size in ((1, 97), (64, 3)))])
def test_small_and_odd_images_really_run(name, padding, size):
    net = variant(name, padding).eval()
    with torch.no_grad():
        for logits in as_dict(net(image_for(net, *size))).values():
            assert logits.shape[2:] == size


def test_the_at_once_net_multiplies_the_features_by_the_released_numbers():
    plain, scaled = variant("8s"), with_scores(variant("8s-atonce"))
    transplant(plain, scaled.state_dict(), "at-once")
    with torch.no_grad():
        # A factor on a feature is a factor on the weight that scores it.
        plain.score_pool4.weight.mul_(0.01)
        plain.score_pool3.weight.mul_(0.0001)
        image = torch.randn(1, 3, 50, 60)
        assert torch.allclose(plain.eval()(image), scaled.eval()(image), rtol=1e-4, atol=1e-5)


def test_max_fusion_takes_the_higher_score():
    added, highest = with_scores(variant("16s").double().eval()), variant("16s", fuse="max").double().eval()
    transplant(highest, added.state_dict(), "sum")
    image = torch.randn(1, 3, 70, 70).double()
    with torch.no_grad():
        features = added.backbone(torch.nn.functional.pad(image, (added.margin.before, added.margin.after) * 2))
        coarse, skip = added.score_fr(features[0]), added.score_pool4(features[1])
        join = added.joins[0]
        rows = join.size(coarse.shape[2], skip.shape[2])
        up = added.upscore2(coarse, join.crop_scores, rows, rows)
        cut = skip[:, :, join.crop_skip :, join.crop_skip :][:, :, :rows, :rows]
        for net, fuse in ((added, operator.add), (highest, torch.maximum)):
            expected = net.upscore16(fuse(up, cut), net.joins[1].crop_scores, 70, 70)
            assert torch.allclose(net(image), expected, atol=1e-12)
        assert not torch.allclose(added(image), highest(image), atol=1e-3)


def test_one_skip_alone_has_only_its_own_layers():
    net = variant("pool3-only")
    assert net.score_names == ["score_pool3"] and net.upscore_names == ["upscore8"]
    names = {name.split(".")[1] for name in net.state_dict() if name.startswith("backbone.")}
    assert "conv3_2" in names and not names & {"conv4_1", "fc6"}


def test_pool5_at_stride_1_keeps_the_receptive_field_and_doubles_the_cells():
    plain = variant("32s", native_size=None)
    dilated = variant("pool5-dilated", native_size=None)
    enlarged = variant("pool5-enlarged", native_size=None)
    grids = [net.trace[net.features[0]].axis for net in (plain, dilated, enlarged)]
    assert [int(grid.stride) for grid in grids] == [32, 16, 16]
    assert grids[0].field == grids[1].field
    assert enlarged.backbone.get_submodule("fc6").kernel_size == (14, 14)
    assert grids[2].field >= grids[0].field


@pytest.mark.parametrize("how", ["dilated", "enlarged"])
def test_a_classifier_goes_into_the_nets_with_pool5_at_stride_1(how):
    classifier = build_classifier(ModelConfig(**SMALL), classes=5)
    net = variant(f"pool5-{how}")
    done = transplant(net, classifier.state_dict(), "classifier")
    assert ("backbone.fc6.weight" in done.expanded) == (how == "enlarged")


def test_the_dilated_net_has_the_features_of_the_strided_one_on_every_other_cell():
    classifier = build_classifier(ModelConfig(**SMALL), classes=5).double()
    plain, dense = (variant(name, "tight").double().eval() for name in ("32s", "pool5-dilated"))
    for net in (plain, dense):
        transplant(net, classifier.state_dict(), "classifier")
    image = torch.randn(1, 3, 256, 256).double()
    with torch.no_grad():
        coarse, fine = plain.backbone(image)[0], dense.backbone(image)[0]
    assert fine.shape[2] > 1.5 * coarse.shape[2]
    shift = (plain.trace[plain.features[0]].axis.start - dense.trace[dense.features[0]].axis.start) / 16
    assert shift.denominator == 1
    first = int(shift)
    lined = fine[:, :, first::2, first::2][:, :, : coarse.shape[2], : coarse.shape[3]]
    inner = slice(1, lined.shape[2] - 1)
    assert torch.allclose(coarse[:, :, inner, inner], lined[:, :, inner, inner], atol=1e-12)


@given(side=st.integers(2, 6), kernel=st.integers(1, 3))
def test_a_doubled_kernel_does_the_same_on_a_map_of_doubled_cells(side, kernel):
    if kernel > side:
        return
    x, weight = torch.randn(1, 2, side, side).double(), torch.randn(3, 2, kernel, kernel).double()
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    once = torch.conv2d(x, weight)
    twice = torch.conv2d(doubled, double_kernel(weight), stride=2)
    assert torch.allclose(once, twice, atol=1e-12)


def test_early_fusion_begins_with_the_mean_filter_for_depth():
    classifier = build_classifier(ModelConfig(**SMALL), classes=5)
    net = variant("rgbd-early")
    done = transplant(net, classifier.state_dict(), "classifier")
    assert done.expanded == ("backbone.conv1_1.weight",)
    weight = net.backbone.conv1_1.weight
    assert torch.equal(weight[:, :3], classifier.conv1_1.weight)
    assert torch.equal(weight[:, 3], classifier.conv1_1.weight.mean(1))
    gray = torch.randn(2, 1, 9, 9)
    three, four = gray.expand(-1, 3, -1, -1), gray.expand(-1, 4, -1, -1)
    a = torch.conv2d(three, classifier.conv1_1.weight)
    assert torch.allclose(torch.conv2d(four, more_channels(classifier.conv1_1.weight, 4)), a * 4 / 3, atol=1e-5)


def test_late_fusion_is_the_average_or_the_sum_of_two_nets():
    color, hha = with_scores(variant("32s")).eval(), with_scores(variant("32s")).eval()
    image = torch.randn(1, 6, 40, 50)
    with torch.no_grad():
        total = color(image[:, :3]) + hha(image[:, 3:])
        for how, factor in (("average", 0.5), ("sum", 1.0)):
            net = variant("late-average", late_fusion=how).eval()
            for stream, source in (("color", color), ("hha", hha)):
                done = transplant(net, source.state_dict(), stream, stream=stream)
                assert not done.missing and not done.unused
            assert torch.allclose(net(image), factor * total, atol=1e-4)


def test_a_classifier_begins_both_streams():
    classifier = build_classifier(ModelConfig(**SMALL), classes=5)
    net = variant("late-average")
    transplant(net, classifier.state_dict(), "classifier")
    for stream in (net.backbone_color, net.backbone_hha):
        assert torch.equal(stream.conv1_1.weight, classifier.conv1_1.weight)


def test_two_heads_share_the_trunk_and_nothing_else():
    net = with_scores(variant("two-heads-8s")).eval()
    one = variant("8s").eval()
    shared = {n: t for n, t in net.state_dict().items() if n.startswith("backbone.")}
    semantic = {n.replace("_sem", ""): t for n, t in net.state_dict().items() if "_sem." in n}
    one.load_state_dict({**shared, **semantic})
    image = torch.randn(1, 3, 33, 47)
    with torch.no_grad():
        assert torch.equal(net(image)["semantic"], one(image))
    assert {n.split(".")[0] for n in net.state_dict() if "_geo" in n} == {
        "score_fr_geo", "score_pool4_geo", "score_pool3_geo",
    }  # fmt: skip


def test_scores_are_expanded_into_the_first_rows_when_asked():
    few, many = with_scores(variant("16s")), variant("16s", num_classes=5)
    assert not transplant(many, few.state_dict(), "few").expanded
    done = transplant(many, few.state_dict(), "few", expand_scores=True)
    assert "score_fr.weight" in done.expanded
    assert torch.equal(many.score_pool4.bias[:3], few.score_pool4.bias)
    assert not many.score_fr.weight[3:].any()


def test_dropout_is_of_elements_where_the_source_has_it():
    net = variant("32s")
    drops = [layer for layer in net.modules() if "Drop" in type(layer).__name__]
    assert [type(layer) for layer in drops] == [nn.Dropout, nn.Dropout]
    assert all(layer.p == 0.5 for layer in drops)


def test_somebodys_own_weights_keep_their_place_with_more_channels():
    from fullconv.models.build import from_classifier

    classifier = build_classifier(ModelConfig(**SMALL), classes=5)
    dense, report = convolutionalize(classifier, 64)
    net = from_classifier(dense, report, ModelConfig(**SMALL, stride=32, channels=4), r"pool\d")
    assert isinstance(net, FCN)
    assert torch.equal(net.backbone.conv1_1.weight[:, :3], classifier.conv1_1.weight)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"channels": 2}, "give at least as many"),
        ({"backbone": "mobilenet_v2", "native_size": None, "width": 0.1, "last_pool": "enlarged"}, "choose dilated"),
    ],
)
def test_what_a_net_cannot_have_is_one_line(settings, words):
    with pytest.raises(UsageError, match=words):
        build(ModelConfig(**{**SMALL, **settings}))
