"""An exported graph is the net, at every size; a graph from somebody else opens no file."""

import os
import sys

import numpy as np
import onnx as onnx_package
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tests.support.nets import slow_but
from tests.support.small_nets import agree, graph, outputs_of, predictor

from fullconv.backends import onnx
from fullconv.errors import UsageError
from fullconv.inference.exported import load_exported


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def one_size():
    return graph((40, 56), backbone="lenet", stride=4)


DYNAMIC = [
    pytest.param({"stride": 16}, marks=pytest.mark.slow),
    pytest.param({"stride": 8, "padding": "paper"}, marks=pytest.mark.slow),
    pytest.param({"stride": 32, "upsample": "learn-all"}, marks=pytest.mark.slow),
]  # fmt: skip


@pytest.fixture(scope="module", params=DYNAMIC, ids=str)
def of_any_size(request):
    """A net, and its graph as everybody runs it and cut at its coarse scores, where it has such."""
    content = graph(None, **request.param)
    whole = onnx.OnnxNet(content, 1)
    one = predictor(**request.param)
    if one.net.learned_end:
        return one, whole, None
    return one, whole, onnx.OnnxNet(onnx.cut(onnx_package.load_model_from_string(content), ["coarse"]), 1)


@settings(max_examples=15)
@given(st.integers(1, 2), st.integers(1, 100), st.integers(1, 100), st.integers(0, 9))
def test_a_graph_of_any_size_is_the_net(of_any_size, images, height, width, seed):
    x = noise(images, 3, height, width, seed=seed)
    one, whole, cut = of_any_size
    expected = outputs_of(one, x)
    assert set(whole(x)) == {"logits"} and agree(whole(x), expected)
    assert cut is None or (set(cut(x)) == {"coarse"} and agree(cut(x), expected))


@pytest.mark.slow
def test_a_graph_of_one_size_has_plain_layers_alone_and_opencv_reads_it():
    """What depends on sizes alone is computed before it is written, so that readers with few operations take it."""
    cv2 = pytest.importorskip("cv2")
    content, x = graph((470, 690), stride=8, padding="paper"), noise(1, 3, 470, 690)
    used = {node.op_type for node in onnx_package.load_model_from_string(content).graph.node}
    assert used <= {"Conv", "Relu", "MaxPool", "MatMul", "Slice", "Add"}
    read = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
    read.setInput(x)
    assert agree({"logits": read.forward("logits")}, outputs_of(predictor(stride=8, padding="paper"), x))


def test_no_size_in_the_period_is_another(of_any_size):
    for height in range(64, 97):
        x = noise(1, 3, height, 160 - height)
        assert agree(of_any_size[1](x), outputs_of(of_any_size[0], x)), height


def test_that_they_agree_can_fail(of_any_size):
    x = noise(1, 3, 40, 50)
    assert not agree(of_any_size[1](x + 0.01), outputs_of(of_any_size[0], x))


FIXED = [
    {"backbone": "lenet", "stride": 4},
    {"stride": 16, "padding": "paper"},
    {"stride": 32, "upsample": "learn-all"},
    {"stride": 16, "geometric_classes": 3},
    {"stride": 32, "late_fusion": "average"},
    {"stride": 8, "fuse": "max", "skip_scale": 0.01},
]
BACKBONES = [
    {"backbone": name, "native_size": None}
    for name in ("mobilenet_v2", "squeezenet1_1", "resnet18", "googlenet", "alexnet")
]
CASES = [(more, coarse) for coarse in (False, True) for more in FIXED] + [(more, False) for more in BACKBONES]


@pytest.mark.parametrize("more, coarse", slow_but([(FIXED[0], False), (FIXED[0], True)], CASES), ids=str)
def test_a_graph_of_one_size_is_the_net(more, coarse):
    one = predictor(**more)
    x = noise(1, one.net.config.channels * len(one.net.streams), 45, 70)
    model = onnx.to_onnx(one.net, (45, 70), coarse)
    assert not any(node.domain for node in model.graph.node)
    found = onnx.OnnxNet(model, 1)(x)
    expected = outputs_of(one, x)
    assert set(found) == {name for name in expected if name.startswith("coarse") == coarse}
    assert agree(found, expected)


@pytest.mark.slow
def test_no_path_of_this_machine_is_in_the_file():
    assert b".py" not in graph(None, stride=16) and b"/src" not in graph(None, stride=16)


def test_what_is_cut_away_is_gone():
    model = onnx_package.load_model_from_string(one_size())
    nodes, size = len(model.graph.node), model.ByteSize()
    onnx.cut(model, ["coarse"])
    assert len(model.graph.node) < nodes and model.ByteSize() < size
    with pytest.raises(UsageError, match="no tensor 'fine' in the graph"):
        onnx.cut(model, ["fine"])


# -- files from somebody else -----------------------------------------------------------------------------------------


def small_graph(**more):
    """A graph that runs: image plus a weight."""
    weight = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "w")
    made = helper.make_graph(
        [helper.make_node("Add", ["image", "w"], ["logits"])], "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, 4, 4])], [weight],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", more.get("opset", 17))], ir_version=8)


def outside(location):
    """The weight of that graph in another file."""

    def write(folder):
        model = small_graph()
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location.format(folder=folder)), ("offset", "0"), ("length", "12")):
            weight.external_data.add(key=key, value=value)
        return model.SerializeToString()

    return write


def hidden_in_an_attribute(folder):
    model = small_graph()
    tensor = TensorProto(name="t", dims=[3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["w"], ["x"], then_branch=inner, else_branch=inner))
    return model.SerializeToString()


def cycle(folder):
    model = small_graph()
    model.graph.node.extend([helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])])
    model.graph.node[0].input[1] = "a"
    return model.SerializeToString()


def foreign_operation(folder):
    model = small_graph()
    model.graph.node[0].domain = "com.microsoft"
    return model.SerializeToString()


HOSTILE = {
    "parent": (outside("../secret"), "weights lie in another file"),
    "absolute": (outside("{folder}/secret"), "weights lie in another file"),
    "symlink": (outside("symlink"), "weights lie in another file"),
    "hardlink": (outside("hardlink"), "weights lie in another file"),
    "attribute": (hidden_in_an_attribute, "weights lie in another file"),
    "truncated": (lambda folder: one_size()[:-1000], "not a whole .onnx file"),
    "empty": (lambda folder: b"", "there is no graph"),
    "text": (lambda folder: b"<html>not found</html>", "not a whole .onnx file"),
    "operation": (foreign_operation, "com.microsoft.Add is not of the ONNX standard"),
    "opset": (lambda folder: small_graph(opset=999).SerializeToString(), "ONNX Runtime .* does not take it"),
    "cycle": (cycle, "ONNX Runtime .* does not take it"),
    "stranger": (lambda folder: small_graph().SerializeToString(), "it was not exported by fullconv"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_from_somebody_else_is_one_line_and_opens_no_other(name, tmp_path, monkeypatch):
    make, said = HOSTILE[name]
    (tmp_path / "model").mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(np.ones(3, np.float32).tobytes())
    (tmp_path / "model" / "symlink").symlink_to(secret)
    os.link(secret, tmp_path / "model" / "hardlink")
    path = tmp_path / "model" / "m.onnx"
    path.write_bytes(make(tmp_path))
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    monkeypatch.chdir(tmp_path / "model")
    runtime = pytest.importorskip("onnxruntime")
    # What ONNX Runtime opens no hook sees: it must not be asked about a file that names others.
    if "another file" in said:
        monkeypatch.setattr(runtime, "InferenceSession", None)
    if name in ("opset", "cycle"):  # and would be run, if it were ours
        with pytest.raises(UsageError, match=said) as refused:
            onnx.OnnxNet(onnx.read(path), 1, path)
    else:
        with pytest.raises(UsageError, match=said) as refused:
            load_exported(path)
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)
    here = [file for file in opened if file.startswith(str(tmp_path)) or not file.startswith("/")]
    assert [file for file in here if not file.isdecimal()] == [str(path)]


def test_the_small_graph_runs_when_nothing_is_wrong():
    found = onnx.OnnxNet(small_graph(), 1)(np.zeros((1, 3, 4, 4), np.float32))
    assert (found["logits"] == 1).all()
