"""Every study runs on tiny digits, writes what it found, and says the same again for the same seed."""

import json
import struct
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.support.nets import slow_but

from fullconv.cli.command import main
from fullconv.config import CONVENTIONS, ModelConfig, TrainConfig
from fullconv.datasets.synthetic.digits import Digits
from fullconv.errors import RunError, UsageError
from fullconv.models.build import build_classifier
from fullconv.models.convolutionalize import convolutionalize
from fullconv.reproduce.learning import learn, plan
from fullconv.reproduce.result import Result
from fullconv.reproduce.setting import Setting, affordable, open_setting, part
from fullconv.reproduce.studies import STUDIES, study
from fullconv.weights.checkpoint import Header, save

MODEL = ModelConfig("vgg11_bn", num_classes=11, width=1 / 32, native_size=32, dropout=0.0)
TRAINING = TrainConfig(batch_size=2, lr=0.01, workers=0, freeze_bn=False)
SIZE = (48, 64)


def classifier():
    torch.manual_seed(0)
    return convolutionalize(build_classifier(MODEL, classes=11), 32)[0].state_dict()


def tiny(**changes):
    given = {
        "name": "digits", "train": Digits("train", SIZE, 6), "validation": Digits("val", SIZE, 5), "model": MODEL,
        "training": TRAINING, "input": CONVENTIONS["rgb128"], "start": classifier(), "budget": 0.05, "steps": 2,
        "scored": 3, "rounds": 1, "width": 1 / 32,
    }  # fmt: skip
    return Setting(**{**given, **changes})


@pytest.fixture(scope="module")
def results():
    said = []
    torch.manual_seed(7)
    return {name: one.run(tiny(), said.append) for name, one in STUDIES.items()}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_whole_and_written(results, name, tmp_path):
    result = results[name]
    assert result.study == name and result.verdict and result.rows and result.machine["threads"] > 0
    text, picture = result.write(tmp_path)
    assert Result.from_dict(json.loads(text.read_text())) == result
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG" and min(drawn.size) > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.json", f"{name}.png"]


@pytest.mark.parametrize("name", slow_but(["table2"], [name for name, one in STUDIES.items() if one.trains]))
def test_the_same_seed_gives_the_same_numbers(results, name):
    again = study(name).run(tiny(), lambda _: None)
    timed = {"images/s", "s/step", "time"}
    for row, other in zip(results[name].rows, again.rows, strict=True):
        assert {c: v for c, v in row.measured.items() if c not in timed} == {
            c: v for c, v in other.measured.items() if c not in timed
        }
    assert {n: c.get("loss") for n, c in results[name].curves.items()} == {
        n: c.get("loss") for n, c in again.curves.items()
    }


def test_another_seed_gives_another_way():
    ways = {seed: learn(tiny(), 32, TrainConfig(batch_size=2, lr=0.01, workers=0, seed=seed), 2, None).losses
            for seed in (0, 1)}  # fmt: skip
    assert ways[0] != ways[1]


def test_the_numbers_of_the_paper_stand_beside_with_their_tags(results):
    rows = {row["name"]: row["paper"] for row in results["table2"].to_dict()["rows"]}
    assert rows["FCN-8s"]["paper"]["mean_iu"] == {
        "value": 62.7, "unit": "percent", "source": "section 4.2, table 2", "tag": "P", "unverified": False,
    }  # fmt: skip
    assert rows["FCN-8s"]["released"]["f_w_iu"]["unverified"] is True
    vgg = next(row for row in results["table1"].rows if row.name == "VGG16")
    assert (vgg["rf size"], vgg["conv. layers"], vgg["max stride"]) == (404, 16, 32)
    assert results["timing"].settings["outputs"] == [10, 10]
    assert len(results["upper-bounds"].rows) == 6 and results["upper-bounds"].settings["scored_images"] == 3


def test_what_a_study_trains_is_what_it_says(results):
    assert results["table2"].settings["steps"] == 2 and results["table2"].settings["scored_images"] == 3
    assert results["sampling"].settings["images_per_step"] == {
        "whole images": 2, "50 % of cells": 4, "25 % of cells": 8,
    }  # fmt: skip
    assert [row.name for row in results["table2"].rows] == ["FCN-32s-fixed", "FCN-32s", "FCN-16s", "FCN-8s"]
    assert results["augmentation"].settings["jitter"] == 4


def test_of_the_fixed_net_only_the_scores_learn():
    start = classifier()
    fixed = learn(tiny(), 32, TrainConfig(batch_size=2, lr=0.01, workers=0, learn="scores"), 2, start).tensors
    assert all(torch.equal(value, start[name.removeprefix("backbone.")]) for name, value in fixed.items()
               if name.startswith("backbone") and name.removeprefix("backbone.") in start)  # fmt: skip
    assert any(value.any() for name, value in fixed.items() if name.startswith("score"))


@pytest.mark.parametrize("seconds", [0.5, 3.0, 60.0, 599.9])
def test_the_budget_bounds_the_steps(seconds):
    costs = {"a": 0.02, "b": 0.05, "c": 0.007}
    steps = affordable(seconds, costs)
    assert steps * sum(costs.values()) <= seconds < (steps + 1) * sum(costs.values())


def test_a_spent_budget_still_gives_the_least_number_of_steps():
    assert affordable(0.0, {"a": 1.0}) == 2 and affordable(10.0, {"a": 100.0}, least=4) == 4


def test_a_plan_keeps_to_what_is_left(monkeypatch):
    monkeypatch.setattr(Setting, "left", lambda self: 60 * self.budget)
    runs = {"FCN-32s": (32, TRAINING)}
    short, long = (plan(tiny(steps=None, budget=b), runs, lambda _: None) for b in (0.02, 0.2))
    for planned, budget in ((short, 0.02), (long, 0.2)):
        assert planned.steps * sum(planned.speeds.values()) <= 60 * budget
    assert short.steps < long.steps and len(long.scored) == 3


def test_less_is_a_part_of_more_and_says_the_same():
    whole = Digits("val", SIZE, 40)
    few, more = part(whole, 5, 0), part(whole, 20, 0)
    assert (
        set(few.indices) < set(more.indices)
        and len(few) == 5
        and few[0].name in {s.name for s in map(few.__getitem__, range(5))}
    )
    assert list(part(whole, 5, 0).indices) == list(few.indices) != list(part(whole, 5, 1).indices)
    assert list(part(whole, 100, 3).indices) == list(range(40))


def test_a_study_that_is_broken_off_writes_nothing(tmp_path, monkeypatch):
    def broken(setting, say):
        raise KeyboardInterrupt

    monkeypatch.setattr("fullconv.reproduce.table2.run", broken)
    with pytest.raises(SystemExit) as left:
        main(["reproduce", "table2", "digits", "--budget", "0.01", "--backbone", "vgg11_bn", "--out", str(tmp_path)])
    assert left.value.code == 130 and not list(tmp_path.iterdir())


def test_weights_decide_net_and_input(tmp_path, digits_folder):
    from fullconv.datasets.published.label_spaces import DIGITS

    file = tmp_path / "classifier.safetensors"
    save(file, classifier(), Header(MODEL, DIGITS, CONVENTIONS["caffe"], kind="classifier"))
    setting = open_setting(str(digits_folder), file, budget=0.05)
    assert setting.model == MODEL and setting.input == CONVENTIONS["caffe"] and setting.start is not None
    assert open_setting(str(digits_folder), budget=0.05).notes[0].startswith("mobilenet_v2 begins from random weights")
    save(file, classifier(), Header(MODEL, DIGITS, CONVENTIONS["caffe"]))
    with pytest.raises(UsageError, match="a trained FCN"):
        open_setting(str(digits_folder), file)


def run(capsys, *words):
    with pytest.raises(SystemExit) as left:
        main(["reproduce", *words])
    out = capsys.readouterr()
    return left.value.code or 0, out.out, out.err


def test_the_verb_prints_the_paper_beside_and_writes(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("fullconv.reproduce.setting.open_setting", lambda *a, **k: tiny())
    code, out, _ = run(capsys, "table2", "--out", str(tmp_path / "new"))
    assert code == 0 and "62.7" in out and "unverified" in out and "table2.json" in out
    assert out.count("released") == 4 and "No verdict" in out
    code, out, _ = run(capsys, "sampling", "--json", "--out", str(tmp_path))
    assert code == 0 and json.loads(out)["rows"][0]["name"] == "whole images"
    with (tmp_path / "sampling.png").open("rb") as file:
        assert struct.unpack(">I", file.read(20)[16:])[0] > 500


def test_the_list(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == list(STUDIES)
    assert json.loads(run(capsys, "list", "--json")[1]).keys() == STUDIES.keys()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tabel2"], "did you mean 'table2'"),
        (["table2", "nowhere"], "nowhere"),
        (["table2", "--budget", "0"], "--budget is 0"),
        (["table2", "--seed", "-1"], "--seed is -1"),
        (["table2", "--input", "caffe"], "add --weights"),
        (["table2", "--weights", "no.safetensors"], "there is no such file"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(capsys, words, says):
    code, _, err = run(capsys, *words)
    assert code == 2 and says in err and err.count("\n") == 1


def test_the_page_has_a_section_and_a_row_for_each_study():
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    sections = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    assert sections == [*STUDIES, "Verdicts"]
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    assert list(dict.fromkeys(rows)) == ["study", *STUDIES]  # one or more data sets each, in their order
    assert all(f"`fullconv reproduce {name}`" in page for name in STUDIES)


def test_a_folder_is_studied_with_random_weights(capsys, digits_folder, tmp_path):
    code, out, _ = run(
        capsys,
        "balancing",
        str(digits_folder),
        "--backbone",
        "squeezenet1_1",
        "--budget",
        "0.02",
        "--out",
        str(tmp_path),
    )
    assert code == 0 and "squeezenet1_1 begins from random weights" in out
    found = Result.from_dict(json.loads((tmp_path / "balancing.json").read_text()))
    assert found.settings["begins_from"] == "random weights" and found.settings["steps"] >= 2


def test_with_time_the_nets_of_table_1_are_trained(monkeypatch):
    monkeypatch.setattr("fullconv.reproduce.table1.TRAINED_FROM", 0.01)
    result = study("table1").run(tiny(image=96), lambda _: None)
    assert all(row.measured["mean IU"] is not None for row in result.rows)
    assert {name: facts["steps"] for name, facts in result.settings["trained"].items()} == {
        "AlexNet": 2, "VGG16": 2, "GoogLeNet": 2,
    }  # fmt: skip
    assert "from worst to best" in result.verdict


def test_a_net_of_table_1_that_diverges_has_no_mean_iu(monkeypatch):
    monkeypatch.setattr("fullconv.reproduce.table1.TRAINED_FROM", 0.01)

    def diverged(*_):
        raise RunError("step 1: the loss is nan")

    monkeypatch.setattr("fullconv.reproduce.table1.learn", diverged)
    result = study("table1").run(tiny(image=96), lambda _: None)
    assert all(row.measured["mean IU"] is None for row in result.rows) and "from worst" not in result.verdict
