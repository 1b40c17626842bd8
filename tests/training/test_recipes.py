"""Every recipe parses, says where its number is from, builds its net and takes two steps; stages go on where they
were killed.
"""

import re
from pathlib import Path

import pytest
import torch
from tests.support.fakes import fake

import fullconv
from fullconv.cli.command import main
from fullconv.config import ModelConfig, TrainConfig, from_mapping
from fullconv.training.optimizer import parameter_groups
from fullconv.training.recipes import (
    MODEL_FLAGS,
    TRAIN_FLAGS,
    read_recipe,
    recipe_names,
    stages_of,
)
from fullconv.weights.checkpoint import fingerprint, unpack

TEXTS = {path.stem: path.read_text() for path in Path(fullconv.__file__).parent.joinpath("recipes").glob("*.yaml")}


def call(capsys, *argv):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in argv])
    out = capsys.readouterr()
    return left.value.code or 0, out.out, out.err


def data_of(name, folder):
    """The fake copy of the data set that the command of a recipe names, or a folder."""
    command = re.search(r"^command: fullconv train (\S+)", TEXTS[name], re.M)[1]
    which = command.partition(":")[0] if ":" in command else "camvid"
    fake(which, folder)
    return f"{which}:{folder}"


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_what_it_is_and_what_to_reach(name):
    text, recipe = TEXTS[name], read_recipe(name)
    assert text.startswith("about: >") and f"--recipe {name}" in text
    assert re.search(r'^expect: ".*(\[[PR][,\]]|ours|README)', text, re.M), "the number and its evidence"
    assert "J?" not in text
    for stage in stages_of(recipe, name):
        from_mapping(ModelConfig, {key: value for key, value in stage.items() if key in MODEL_FLAGS}, name)
        from_mapping(TrainConfig, {key: value for key, value in stage.items() if key in TRAIN_FLAGS}, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_takes_two_steps(name, tmp_path, capsys):
    data = data_of(name, tmp_path / "set")
    small = ["--width", "0.0625", "--steps", "2", "--accumulate", "2", "--batch-size", "1", "--warmup", "0"]
    code, _, err = call(capsys, "train", data, "--out", tmp_path / "run", "--recipe", name, *small)
    assert code == 0, err
    config = fullconv.load(tmp_path / "run" / "model.safetensors").header.model
    last = stages_of(read_recipe(name), name)[-1]
    assert (config.stride, config.backbone) == (last["stride"], last["backbone"])


def test_the_rates_are_those_of_the_fact_sheet():
    rates = {name: [float(stage["lr"]) for stage in stages_of(read_recipe(name), name)] for name in recipe_names()}
    assert rates["conference-alexnet"] + rates["conference-vgg16"] + rates["conference-googlenet"] == [1e-3, 1e-4, 5e-5]
    assert rates["heavy-32s"] + rates["heavy-16s"] + rates["heavy-8s"] == rates["staged"] == [1e-10, 1e-12, 1e-14]
    assert rates["siftflow"] == [1e-10, 1e-12, 1e-12] and rates["pascal-context"] == [1e-10, 1e-12, 1e-14]
    assert rates["at-once"] == [1e-10] and rates["heavy-alexnet"] == [1e-4] and rates["nyudv2-color-hha"] == [1e-12]
    heavy = read_recipe("staged")
    assert (heavy["momentum"], heavy["weight_decay"], heavy["batch_size"], heavy["steps"]) == (0.99, 5e-4, 1, 100_000)
    assert heavy["loss"] == "sum" and heavy["replacement"] and heavy["padding"] == "paper"


def test_the_groups_of_the_heavy_regime_are_as_released():
    """Weights lr x1, decay x1; biases lr x2, decay x0; upsampling is fixed: it has no parameter."""
    stage = stages_of(read_recipe("staged"), "staged")[2]
    model = from_mapping(ModelConfig, {k: v for k, v in stage.items() if k in MODEL_FLAGS}, "staged")
    config = from_mapping(TrainConfig, {k: v for k, v in stage.items() if k in TRAIN_FLAGS}, "staged")
    with torch.device("meta"):
        net = fullconv.build(model)
    weights, biases = parameter_groups(net, config.weight_decay, config.bias_rate)
    assert (weights["rate"], weights["weight_decay"], biases["rate"], biases["weight_decay"]) == (1, 5e-4, 2, 0)
    named = {id(p): name for name, p in net.named_parameters()}
    assert all(named[id(p)].endswith("weight") for p in weights["params"])
    assert all(named[id(p)].endswith("bias") for p in biases["params"])
    assert not any("upscore" in name for name in named.values())


SMALL = """
backbone: vgg11
width: 0.03125
native_size: 32
steps: 3
batch_size: 2
lr: 0.01
precision: fp32
save_every: 1
stages:
  - {stride: 32}
  - {stride: 16, lr: 0.001}
  - {stride: 8, lr: 0.001, skip_scale: 0.5}
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage, step", [(0, 1), (1, 2), (2, 3), (1, 0)])
def test_stages_go_on_where_they_were_killed(digits_folder, tmp_path, capsys, monkeypatch, stage, step):
    recipe = tmp_path / "small.yaml"
    recipe.write_text(SMALL)
    train = ["train", digits_folder, "--recipe", recipe, "--workers", "0"]
    assert call(capsys, *train, "--out", tmp_path / "whole")[0] == 0

    from fullconv.reporting import train_and_report

    done = []
    records = train_and_report.records

    def killed(job, stop):
        if len(done) == stage and step == 0:
            raise KeyboardInterrupt
        for record in records(job, stop):
            yield record
            if len(done) == stage and record.step == step:
                raise KeyboardInterrupt
        done.append(job.folder.name)

    with monkeypatch.context() as patch:
        patch.setattr(train_and_report, "records", killed)
        assert call(capsys, *train, "--out", tmp_path / "run")[0] == 130
    code, _, err = call(capsys, *train, "--out", tmp_path / "run")
    assert code == 2 and "--resume" in err
    assert call(capsys, *train, "--out", tmp_path / "run", "--resume")[0] == 0
    for name in ("32s/model", "16s/model", "8s/model", "model"):
        whole, resumed = (unpack(tmp_path / top / f"{name}.safetensors")[0] for top in ("whole", "run"))
        assert fingerprint(whole) == fingerprint(resumed), name
    assert fullconv.load(tmp_path / "run" / "model.safetensors").header.model.stride == 8
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    "text, flags, words",
    [
        ("stages: 3", [], "no list"),
        ("stages: [{lr: 0.1}]", [], "needs its stride"),
        ("stages: [{stride: 32, lrr: 0.1}]", [], "did you mean 'lr'"),
        (SMALL, ["--stride", "8"], "--stride"),
        ("loss: sum\nlr: 1.0e-10", ["--loss", "mean", "--lr", "1e-5"], "--weight-decay"),
    ],
)
def test_what_cannot_be_meant(digits_folder, tmp_path, capsys, text, flags, words):
    (tmp_path / "r.yaml").write_text(text)
    code, _, err = call(
        capsys, "train", digits_folder, "--out", tmp_path / "o", "--recipe", tmp_path / "r.yaml", *flags
    )
    assert code == 2 and words in err, err
