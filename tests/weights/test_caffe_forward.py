"""The NumPy forward against PyTorch, layer by layer; the written files and the reader against OpenCV's Caffe reader."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tests.support.caffe_files import caffemodel_bytes, prototxt, write_caffemodel, write_prototxt
from tests.support.caffe_forward import forward

from fullconv.weights.caffe.caffemodel import read_caffemodel
from fullconv.weights.caffe.prototxt import read_prototxt


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in shapes]


def run(tmp_path, kind, params, inputs, blobs=()):
    """One layer, through a prototxt, on arrays."""
    names = [f"in{i}" for i in range(len(inputs))]
    layer = {"name": "it", "type": kind, "bottom": names, "top": "out", **params}
    write_prototxt(tmp_path / "net.prototxt", [layer], list(zip(names, (x.shape for x in inputs), strict=True)))
    net = read_prototxt(tmp_path / "net.prototxt")
    return forward(net, {"it": blobs}, dict(zip(names, inputs, strict=True)))["out"]


def same(ours, theirs):
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-12, atol=1e-12)


windows = st.fixed_dictionaries(
    {"kernel_size": st.integers(1, 4), "stride": st.integers(1, 3), "pad": st.integers(0, 2),
     "dilation": st.integers(1, 2), "group": st.sampled_from([1, 2])}
)  # fmt: skip


@given(windows, st.booleans())
def test_convolution_is_that_of_torch(tmp_path_factory, window, bias):
    k, g = window["kernel_size"], window["group"]
    x, w, b = arrays((2, 4, 11, 9), (6, 4 // g, k, k), (6,))
    ours = run(
        tmp_path_factory.mktemp("conv"),
        "Convolution",
        {"convolution_param": {"num_output": 6, "bias_term": bias, **window}},
        [x],
        [w, b][: 1 + bias],
    )
    x, w, b = map(torch.tensor, (x, w, b))
    same(ours, F.conv2d(x, w, b if bias else None, window["stride"], window["pad"], window["dilation"], g))


@given(windows)
def test_deconvolution_is_that_of_torch(tmp_path_factory, window):
    k, g = window["kernel_size"], window["group"]
    x, w, b = arrays((1, 4, 7, 6), (4, 6 // g, k, k), (6,))
    param = {"convolution_param": {"num_output": 6, **window}}
    ours = run(tmp_path_factory.mktemp("deconv"), "Deconvolution", param, [x], [w, b])
    x, w, b = map(torch.tensor, (x, w, b))
    same(ours, F.conv_transpose2d(x, w, b, window["stride"], window["pad"], 0, g, window["dilation"]))


@given(st.sampled_from(["MAX", "AVE"]), st.integers(2, 4), st.integers(1, 4), st.integers(0, 2), st.integers(6, 13))
def test_pooling_is_that_of_torch_with_ceil(tmp_path_factory, pool, kernel, stride, pad, size):
    pad, stride = min(pad, kernel // 2), min(stride, kernel)
    (x,) = arrays((1, 2, size, size + 1))
    param = {"pooling_param": {"pool": pool, "kernel_size": kernel, "stride": stride, "pad": pad}}
    ours = run(tmp_path_factory.mktemp("pool"), "Pooling", param, [x])
    theirs = F.max_pool2d if pool == "MAX" else F.avg_pool2d
    same(ours, theirs(torch.tensor(x), kernel, stride, pad, ceil_mode=True))


@pytest.mark.parametrize("rounding", ["CEIL", "FLOOR"])
def test_pooling_of_all_kinds(tmp_path, rounding):
    (x,) = arrays((2, 3, 8, 7))
    param = {"pool": "MAX", "kernel_h": 3, "kernel_w": 2, "stride_h": 2, "stride_w": 3, "round_mode": rounding}
    ours = run(tmp_path, "Pooling", {"pooling_param": param}, [x])
    same(ours, F.max_pool2d(torch.tensor(x), (3, 2), (2, 3), ceil_mode=rounding == "CEIL"))
    ours = run(tmp_path, "Pooling", {"pooling_param": {"pool": "AVE", "global_pooling": True}}, [x])
    same(ours, F.adaptive_avg_pool2d(torch.tensor(x), 1))


@pytest.mark.parametrize("size, k", [(3, 1.0), (5, 2.0), (7, 1.0)])
def test_lrn_is_that_of_torch(tmp_path, size, k):
    (x,) = arrays((1, 9, 4, 5))
    ours = run(tmp_path, "LRN", {"lrn_param": {"local_size": size, "alpha": 0.5, "beta": 0.75, "k": k}}, [x])
    same(ours, F.local_response_norm(torch.tensor(x), size, 0.5, 0.75, k))


def test_the_layers_without_a_window(tmp_path):
    x, y, w, b, v = arrays((2, 3, 4, 5), (2, 3, 4, 5), (6, 60), (6,), (3,))
    tx, ty = torch.tensor(x), torch.tensor(y)
    same(run(tmp_path, "InnerProduct", {"inner_product_param": {"num_output": 6}}, [x], [w, b]),
         F.linear(tx.flatten(1), torch.tensor(w), torch.tensor(b)))  # fmt: skip
    same(run(tmp_path, "ReLU", {"relu_param": {"negative_slope": 0.25}}, [x]), F.leaky_relu(tx, 0.25))
    same(run(tmp_path, "Softmax", {}, [x]), tx.softmax(1))
    same(run(tmp_path, "Dropout", {}, [x]), tx)
    same(run(tmp_path, "Split", {}, [x]), tx)
    same(run(tmp_path, "Concat", {}, [x, y]), torch.cat([tx, ty], 1))
    same(run(tmp_path, "Concat", {"concat_param": {"concat_dim": 2}}, [x, y]), torch.cat([tx, ty], 2))
    same(run(tmp_path, "Eltwise", {}, [x, y]), tx + ty)
    same(run(tmp_path, "Eltwise", {"eltwise_param": {"coeff": [0.5, -2.0]}}, [x, y]), 0.5 * tx - 2 * ty)
    same(run(tmp_path, "Eltwise", {"eltwise_param": {"operation": "PROD"}}, [x, y]), tx * ty)
    same(run(tmp_path, "Eltwise", {"eltwise_param": {"operation": "MAX"}}, [x, y]), torch.maximum(tx, ty))
    same(run(tmp_path, "Crop", {"crop_param": {"offset": [1, 2]}}, [x, y[:, :, :2, :3]]), tx[:, :, 1:3, 2:5])
    same(run(tmp_path, "Crop", {"crop_param": {"offset": 1}}, [x, y[:, :, :2, :3]]), tx[:, :, 1:3, 1:4])
    same(run(tmp_path, "Scale", {}, [x], [v]), tx * torch.tensor(v).reshape(3, 1, 1))
    same(run(tmp_path, "Scale", {"scale_param": {"bias_term": True}}, [x], [v, v]),
         (tx + 1) * torch.tensor(v).reshape(3, 1, 1))  # fmt: skip
    statistics = [v * 4, v**2 * 4, np.array([4.0])]
    same(run(tmp_path, "BatchNorm", {"batch_norm_param": {"eps": 0.5}}, [x], statistics),
         F.batch_norm(tx, torch.tensor(v), torch.tensor(v**2), eps=0.5))  # fmt: skip


def small_net():
    """A net with every layer of the FCNs and of the ILSVRC nets below them, in miniature, with random weights."""
    a, g, s, u, f, b = [
        0.3 * x for x in arrays((6, 3, 3, 3), (8, 3, 3, 3), (4, 8, 1, 1), (4, 4, 4, 4), (5, 4 * 19 * 17), (8,))
    ]
    return [
        {"name": "conv1", "type": "Convolution", "bottom": "data", "top": "conv1", "blobs": [a, b[:6]],
         "convolution_param": {"num_output": 6, "kernel_size": 3, "pad": 2, "stride": 2}},
        {"name": "relu1", "type": "ReLU", "bottom": "conv1", "top": "conv1"},
        {"name": "pool1", "type": "Pooling", "bottom": "conv1", "top": "pool1",
         "pooling_param": {"pool": "MAX", "kernel_size": 3, "stride": 2}},
        {"name": "norm1", "type": "LRN", "bottom": "pool1", "top": "norm1",
         "lrn_param": {"local_size": 5, "alpha": 0.5, "beta": 0.75}},
        {"name": "conv2", "type": "Convolution", "bottom": "norm1", "top": "conv2", "blobs": [g, b],
         "convolution_param": {"num_output": 8, "kernel_size": 3, "pad": 1, "group": 2}},
        {"name": "pool2", "type": "Pooling", "bottom": "conv2", "top": "pool2",
         "pooling_param": {"pool": "AVE", "kernel_size": 3, "stride": 1, "pad": 1}},
        {"name": "score_fr", "type": "Convolution", "bottom": "pool2", "top": "score_fr", "blobs": [s, b[:4]],
         "convolution_param": {"num_output": 4, "kernel_size": 1}},
        {"name": "drop", "type": "Dropout", "bottom": "score_fr", "top": "score_fr",
         "dropout_param": {"dropout_ratio": 0.5}},
        {"name": "upscore2", "type": "Deconvolution", "bottom": "score_fr", "top": "upscore2", "blobs": [u],
         "convolution_param": {"num_output": 4, "bias_term": False, "kernel_size": 4, "stride": 2}},
        {"name": "score_conv1", "type": "Convolution", "bottom": "conv1", "top": "score_conv1",
         "blobs": [s[:, :6], b[4:]], "convolution_param": {"num_output": 4, "kernel_size": 1}},
        {"name": "score_conv1c", "type": "Crop", "bottom": ["score_conv1", "pool2"], "top": "score_conv1c",
         "crop_param": {"axis": 2, "offset": 1}},
        {"name": "fuse", "type": "Eltwise", "bottom": ["score_conv1c", "score_fr"], "top": "fuse",
         "eltwise_param": {"operation": "SUM", "coeff": [0.5, 2.0]}},
        {"name": "both", "type": "Concat", "bottom": ["fuse", "score_fr"], "top": "both"},
        {"name": "fc", "type": "InnerProduct", "bottom": "upscore2", "top": "fc",
         "blobs": [f[:, : 4 * 16 * 14], b[:5]], "inner_product_param": {"num_output": 5}},
        {"name": "prob", "type": "Softmax", "bottom": "fc", "top": "prob"},
    ]  # fmt: skip


INPUTS = [("data", (1, 3, 25, 21))]


@pytest.mark.parametrize(
    "version, options",
    [("V2", {}), ("V2", {"packed": False}), ("V1", {}), ("V1", {"packed": False}), ("V2", {"legacy_shape": True}),
     ("V1", {"legacy_shape": True}), ("V2", {"double": True})],
)  # fmt: skip
def test_opencv_reads_the_same_net_from_the_same_files(tmp_path, version, options):
    cv2 = pytest.importorskip("cv2")
    # OpenCV knows no CROP in the old form, and no double_data.
    layers = [
        layer for layer in small_net() if version == "V2" or layer["name"] not in ("score_conv1c", "fuse", "both")
    ]
    text, model = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    write_prototxt(text, layers, INPUTS, version)
    write_caffemodel(model, layers, version, **options)
    (x,) = arrays(INPUTS[0][1])
    settings, weights = read_prototxt(text), read_caffemodel(model)
    assert settings.layers == weights.layers
    ours = forward(settings, {layer.name: layer.blobs for layer in weights.layers}, {"data": x.astype(np.float32)})
    if not options.get("double"):
        net = cv2.dnn.readNetFromCaffe(str(text), str(model))
        net.setInput(x.astype(np.float32), "data")
        outputs = [name for name in ("pool1", "norm1", "pool2", "upscore2", "both", "prob") if name in ours]
        for name, theirs in zip(outputs, net.forward(outputs), strict=True):
            np.testing.assert_allclose(ours[name], theirs, atol=1e-4, rtol=1e-4, err_msg=name)
    exact = forward(settings, {layer["name"]: layer.get("blobs", ()) for layer in layers}, {"data": x})
    for name, array in exact.items():
        np.testing.assert_allclose(ours[name], array, atol=1e-5, rtol=1e-5, err_msg=name)
    assert ours["upscore2"].shape == (1, 4, 16, 14)


def test_the_comparison_sees_a_wrong_weight(tmp_path):
    layers = small_net()
    right = forward_of(tmp_path, layers)
    layers[4]["blobs"][0] = layers[4]["blobs"][0] + 0.01
    assert np.abs(forward_of(tmp_path, layers) - right).max() > 1e-4


def forward_of(tmp_path, layers):
    (tmp_path / "n.prototxt").write_text(prototxt(layers, INPUTS))
    (tmp_path / "n.caffemodel").write_bytes(caffemodel_bytes(layers))
    weights = {layer.name: layer.blobs for layer in read_caffemodel(tmp_path / "n.caffemodel").layers}
    return forward(read_prototxt(tmp_path / "n.prototxt"), weights, {"data": arrays(INPUTS[0][1])[0]})["prob"]
