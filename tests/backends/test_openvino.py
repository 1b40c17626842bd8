"""OpenVINO runs the net, in the arithmetic that is asked for, and tells nobody."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx as onnx_package
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.small_nets import agree, graph, outputs_of, predictor

from fullconv.backends import openvino
from fullconv.backends.metadata import ExportMetadata
from fullconv.errors import RunError, UsageError
from fullconv.exporting.export import card_of
from fullconv.inference.exported import load_exported


@pytest.fixture(scope="module")
def model():
    return openvino.of_onnx(onnx_package.load_model_from_string(graph(None, stride=16)))


@pytest.fixture(scope="module")
def nets(model):
    return openvino.OpenvinoNet(model, "fp32", 1), openvino.OpenvinoNet(openvino.cut(model, ["coarse"]), "fp32", 1)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.integers(1, 2), st.integers(1, 80), st.integers(1, 80), st.integers(0, 9))
def test_a_model_of_any_size_is_the_net(nets, images, height, width, seed):
    x = np.random.default_rng(seed).normal(size=(images, 3, height, width)).astype(np.float32)
    expected = outputs_of(predictor(stride=16), x)
    whole, cut = (run(x) for run in nets)
    assert set(whole) == {"logits"} and set(cut) == {"coarse"}
    assert agree(whole, expected) and agree(cut, expected)
    assert not agree(whole, outputs_of(predictor(stride=16), x + 0.01))


def test_a_net_of_one_size():
    one = predictor("lenet", 4)
    x = np.random.default_rng(0).normal(size=(1, 3, 40, 31)).astype(np.float32)
    found = openvino.OpenvinoNet(openvino.to_openvino(one.net, (40, 31), coarse=True), threads=1)(x)
    assert set(found) == {"coarse"} and agree(found, outputs_of(one, x))


@pytest.mark.slow
@pytest.mark.parametrize("precision, hint", [("fp32", "f32"), ("bf16", "bf16")])
def test_the_arithmetic_is_asked_for(model, precision, hint):
    net = openvino.OpenvinoNet(model, precision, 1)
    try:
        chosen = net.compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    except AttributeError:
        chosen = str(net.compiled.get_property("INFERENCE_PRECISION_HINT"))
    assert hint in chosen or (precision == "bf16" and "f32" in chosen)  # a processor without bf16 stays at f32
    assert net.compiled.get_property("INFERENCE_NUM_THREADS") == 1
    x = np.random.default_rng(0).normal(size=(1, 3, 60, 70)).astype(np.float32)
    assert agree(net(x), outputs_of(predictor(stride=16), x), 1e-5 if precision == "fp32" else 0.1)
    with pytest.raises(UsageError, match="precision 'fp16'"):
        openvino.OpenvinoNet(model, "fp16")


@pytest.mark.slow
def test_an_input_that_it_cannot_take(nets):
    with pytest.raises(RunError, match="cannot be run on 1x5x8x8"):
        nets[0](np.zeros((1, 5, 8, 8), np.float32))


@pytest.mark.slow
def test_a_file_there_and_back(model, tmp_path):
    card = card_of(predictor(stride=16), None)
    openvino.write_card(model, card)
    openvino.save(model, tmp_path / "m.xml")
    assert openvino.read_card(openvino.read(tmp_path / "m.xml"), tmp_path / "m.xml") == card
    whole = (tmp_path / "m.xml").read_bytes()
    for damaged, said in ((whole[: len(whole) // 2], "OpenVINO does not read it"), (b"", "OpenVINO does not read it")):
        (tmp_path / "m.xml").write_bytes(damaged)
        with pytest.raises(UsageError, match=said) as refused:
            load_exported(tmp_path / "m.xml")
        assert "\n" not in str(refused.value)
    (tmp_path / "m.bin").unlink()
    with pytest.raises(UsageError, match=r"m\.bin with its weights is not beside it"):
        load_exported(tmp_path / "m.xml")


@pytest.mark.slow
def test_a_model_from_somebody_else(model, tmp_path):
    other = openvino.of_onnx(onnx_package.load_model_from_string(graph(None, stride=16)))
    openvino.save(other, tmp_path / "m.xml")
    with pytest.raises(UsageError, match="it was not exported by fullconv"):
        load_exported(tmp_path / "m.xml")
    with pytest.raises(UsageError, match="no tensor 'fine'"):
        openvino.cut(other, ["fine"])


def test_what_a_file_says_of_itself_there_and_back():
    for more in ({}, {"geometric_classes": 3}, {"upsample": "learn-all"}):
        for size, precision in ((None, "fp32"), ((30, 40), "int8")):
            card = card_of(predictor(**more), size, precision)
            assert ExportMetadata.from_json(card.to_json(), Path("m.onnx")) == card
            assert (card.window is None) == (more == {"upsample": "learn-all"})


@pytest.mark.parametrize(
    "change, said",
    [
        (("{", "["), "is damaged"),
        (('"format": 1', '"format": 7'), "version 7, this fullconv reads 1"),
        (('"labels"', '"lables"'), "is damaged"),
        (('"factor": 8', '"factor": 0'), "is damaged"),
        (('"kernel": 16', '"kernel": 99'), "is damaged"),
        (('"mean": [', '"mean": ["x", '), "give finite numbers.*take another copy"),
    ],
)
def test_a_damaged_text_is_one_line(change, said):
    text = card_of(predictor(), None).to_json()
    assert change[0] in text
    with pytest.raises(UsageError, match=said) as refused:
        ExportMetadata.from_json(text.replace(*change, 1), Path("m.onnx"))
    assert "\n" not in str(refused.value)


SIGNALLED = """
import faulthandler, gc, os, signal
import torch
from fullconv.config import ModelConfig
from fullconv.optimize.compiled import CompiledModel as Prepared
from fullconv.models.build import build

faulthandler.enable()  # gives signals a stack of their own, as pytest and Ray do
signal.signal(signal.SIGUSR1, lambda *_: print("alive"))
net = build(ModelConfig("lenet", 4, 3)).eval()
nets = [Prepared(net, "openvino", precision) for precision in ("fp32", "bf16", "fp32")]
for prepared in nets:
    prepared.coarse(torch.rand(1, 3, 32, 32))
del prepared
while nets:
    del nets[0]
    gc.collect()
    os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_signals_are_survived_when_a_net_has_gone():
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.split() == ["alive"] * 3, done.stderr
