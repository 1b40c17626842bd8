"""The confusion matrix and what it is compared with count the same, and the comparison says what that was."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmarks import confusion

from fullconv.errors import RunError
from fullconv.metrics import confusion_matrix


def test_the_ways_are_measured():
    found = confusion.measure(rounds=2, cases=((40, 60, 5), (300, 300, 3)))
    assert [row["classes"] for row in found["ways"]] == [5, 5, 5, 3, 3, 3]
    assert all(row["ms"] > 0 for row in found["ways"])
    assert found["ways"][2]["way"] == found["other"] and found["ways"][2]["ratio_to_other"] == 1


def test_the_restatement_counts_what_the_matrix_counts():
    prediction, label = confusion.scene(70, 90, 6)
    assert (label == confusion.VOID).any() and (prediction != label).any()
    found = confusion.restated(torch.from_numpy(prediction), torch.from_numpy(label.astype(np.int64)), 6)
    assert (found.numpy() == confusion_matrix(prediction, label, 6)).all()


def test_torchmetrics_runs_where_it_is_installed(monkeypatch):
    def multiclass_confusion_matrix(preds, target, num_classes, *, ignore_index, validate_args):
        assert ignore_index == 255 and validate_args is False
        return confusion.restated(preds, target, num_classes)

    module = SimpleNamespace(multiclass_confusion_matrix=multiclass_confusion_matrix)
    monkeypatch.setattr(confusion.importlib.util, "find_spec", lambda name: module)
    monkeypatch.setitem(sys.modules, "torchmetrics", SimpleNamespace(__version__="1.8"))
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.classification", module)
    found = confusion.measure(rounds=1, cases=((30, 30, 4),))
    assert found["other"] == "torchmetrics 1.8"


def test_a_difference_is_no_measurement(monkeypatch):
    monkeypatch.setattr(confusion, "theirs", lambda: ("other", lambda p, t, k: torch.zeros(k, k)))
    with pytest.raises(RunError, match="count differently"):
        confusion.measure(rounds=1, cases=((30, 30, 4),))


def test_the_script(capsys, monkeypatch):
    monkeypatch.setattr(confusion.measure, "__defaults__", (5, ((30, 40, 4),)))
    monkeypatch.setattr("sys.argv", ["confusion.py", "--rounds", "1"])
    confusion.main()
    found = json.loads(capsys.readouterr().out)
    assert found["rounds"] == 1 and found["ways"][0]["size"] == [30, 40] and found["machine"]["cores"]
