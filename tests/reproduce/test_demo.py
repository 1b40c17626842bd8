"""The demo's story, told in a few steps: the order of its events, and that its numbers are those of its files."""

import numpy as np
import pytest
import torch

import fullconv
from fullconv.datasets.synthetic.digits import Digits
from fullconv.evaluation.evaluate import evaluate
from fullconv.reporting.page import percent
from fullconv.reproduce.demo import QUICK, Ending, Settings, folder, story
from fullconv.training.log import read_log


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return out, list(story(out, QUICK))


def test_the_chapters_come_in_order_and_end(told):
    chapters = list(dict.fromkeys(event.chapter for event in told[1][:-1]))
    assert chapters == ["classifier", "heat map", "FCN-32s", "FCN-16s", "FCN-8s"]
    assert isinstance(told[1][-1], Ending)
    for name, _, config in QUICK.stages:
        steps = [e.step for e in told[1][:-1] if e.chapter == name and e.loss is not None]
        assert steps == list(range(1, config.steps + 1))


def test_the_files_are_there(told):
    out, ending = told[0], told[1][-1]
    assert ending.page == out / "report.html"
    assert ending.picture.read_bytes().startswith(b"\x89PNG")
    for name, _, _ in QUICK.stages:
        assert (folder(out, name) / "model.safetensors").exists()


def test_the_numbers_of_the_table_are_those_of_the_saved_nets(told):
    page = told[1][-1].page.read_text()
    for row in told[1][-1].rows:
        net = fullconv.load(folder(told[0], row.name) / "model.safetensors")
        assert evaluate(net, Digits("val", QUICK.size, QUICK.unseen)) == row.scores
        assert percent(row.scores.mean_iu) in page


def test_each_stage_starts_from_the_one_before(told):
    """A net that starts afresh scores 0 everywhere, so its first loss is log 11; these start lower."""
    for coarse, fine in (("FCN-32s", "FCN-16s"), ("FCN-16s", "FCN-8s")):
        before, after = (folder(told[0], name) for name in (coarse, fine))
        provenance = fullconv.load(after / "model.safetensors").header.provenance
        assert provenance["weights"] == str(before / "model.safetensors")
        assert read_log(after)[0]["loss"] < np.log(11) - 1e-3
        assert read_log(folder(told[0], "FCN-32s"))[0]["loss"] == pytest.approx(np.log(11), abs=1e-5)


@pytest.mark.slow
def test_a_demo_can_be_told_again_in_the_same_folder(told):
    again = list(story(told[0], QUICK))[-1]
    assert [row.scores for row in again.rows] == [row.scores for row in told[1][-1].rows]


def test_handwriting_of_the_scores_was_never_trained_on():
    assert not set(Digits("train").sources) & set(Digits("val").sources)


def test_the_settings_of_the_readme_are_the_defaults():
    assert [stride for _, stride, _ in Settings().stages] == [32, 16, 8]
    assert Settings().unseen >= 100
    assert torch.tensor(Settings().size).min() >= 96
