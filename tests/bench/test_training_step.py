"""The forms of the training step that are timed compute the same step."""

import copy

import pytest
import torch

from fullconv.bench.training_step import measure, ours, plain
from fullconv.config import ModelConfig, TrainConfig
from fullconv.hardware import multiplies_bf16
from fullconv.models.build import build


def test_both_forms_are_one_step():
    torch.manual_seed(0)
    net = build(ModelConfig("vgg11", stride=8, num_classes=21, width=1 / 16, padding="paper", dropout=0.0))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    image, label = torch.randn(1, 3, 40, 56), torch.randint(0, 21, (1, 40, 56))
    settings = TrainConfig(loss="sum", lr=1e-5, momentum=0.99, batch_size=1)
    one, other = copy.deepcopy(net), copy.deepcopy(net)
    steps = plain(one, image, label, settings), ours(other, image, label, settings, None)
    for _ in range(2):
        first, second = (step() for step in steps)
        assert first == pytest.approx(second, rel=1e-4)
    theirs = {name: value for name, value in one.state_dict().items() if "upscore" not in name}
    for name, value in other.state_dict().items():
        moved = (value - net.state_dict()[name]).abs().max()
        assert (value - theirs[name]).abs().max() <= 2e-2 * moved + 1e-6, name


def test_the_result_says_how_much_faster_and_how_near():
    found = measure(size=(24, 32), backbone="vgg11", width=1 / 16, rounds=1)
    half = ["ours, bf16"] if multiplies_bf16() else []
    assert [row["way"] for row in found["ways"]] == ["plain", "ours, fp32", *half]
    assert found["ways"][0]["speedup"] == 1 and found["ways"][1]["loss_rel_diff"] < 1e-4
