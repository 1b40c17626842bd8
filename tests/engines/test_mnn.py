"""MNN gives the scores of the net, and what it prints does not stand among what a verb prints."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fullconv.engines.onnx import to_onnx

pytest.importorskip("MNN")

from fullconv.engines.mnn import MnnNet, spoken_aside

sys.path.insert(0, str(Path(__file__).parent))
from small_nets import agree, outputs_of, predictor


@pytest.mark.parametrize(
    ("size", "more"), [((61, 83), {}), ((40, 33), {"padding": "paper"}), ((50, 50), {"geometric_classes": 3})]
)
def test_a_graph_is_the_net_and_prints_nothing_of_its_own(size, more, capfd):
    one, x = predictor(**more), np.random.default_rng(0).normal(size=(1, 3, *size)).astype(np.float32)
    run = MnnNet(to_onnx(one.net, size), 2)
    found = run(x)
    assert set(found) == {"logits", *(["logits_geometric"] if more.get("geometric_classes") else [])}
    assert agree(found, outputs_of(one, x)) and agree(run(x), found, 0)
    assert not capfd.readouterr().out
    assert "MNN.tools.utils.log" not in sys.modules  # which reports to its makers


def test_what_is_not_contiguous_is_read_as_it_is():
    one = predictor()
    x = np.random.default_rng(1).normal(size=(1, 64, 48, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    assert agree(MnnNet(to_onnx(one.net, (64, 48)), 1)(x), outputs_of(one, np.ascontiguousarray(x)))


def test_what_is_printed_past_python_goes_to_the_errors_and_comes_back(capfd):
    import os

    print("before")
    with spoken_aside():
        os.write(1, b"aside\n")
    print("after")
    said = capfd.readouterr()
    assert said.out == "before\nafter\n" and said.err == "aside\n"
