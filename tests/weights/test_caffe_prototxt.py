"""Nets as text: what is written is read, in whatever way it is written, and what is wrong has a line and a column."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.caffe_files import OLD_TYPES, caffemodel_bytes, old_name, prototxt

from fullconv.errors import UsageError
from fullconv.weights.caffe.caffemodel import read_caffemodel
from fullconv.weights.caffe.net import SETTINGS, SOURCES
from fullconv.weights.caffe.prototxt import read_prototxt
from fullconv.weights.caffe.schema import MESSAGES, V1_TYPES

DATA = 'input: "data"\n'


def read(folder, text):
    path = folder / "net.prototxt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_prototxt(path)


def one(folder, body, kind="Convolution"):
    """The single layer of a net, of which `body` is the rest."""
    return read(folder, f'{DATA}layer {{ name: "it" type: "{kind}" bottom: "data" top: "out" {body} }}').layers[0]


def test_a_train_net_as_caffe_ships_it(tmp_path):
    net = read(
        tmp_path,
        r"""
        name: "CaffeNet"    # the net of the examples
        layer {
          name: "data" type: "Python" top: "data" top: "label"
          include { phase: TRAIN }
          python_param { module: "voc_layers" layer: "Data" param_str: "{\'mean\': (104.00699, 116.66877)}" }
        }
        layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
          # transform_param { crop_size: 1 }
          transform_param { mirror: false crop_size: 227 mean_value: 104 mean_value: 117 mean_value: 123 }
          data_param { source: "lmdb" batch_size: 50 backend: LMDB }
        }
        layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
          param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
          convolution_param { num_output: 96 kernel_size: 11 stride: 4
            weight_filler { type: "gaussian" std: 0.01 } bias_filler { type: "constant" value: 0 } }
        }
        layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "conv1" bottom: "label" top: "loss"
          loss_param { ignore_label: 255 normalize: false } }
        """,
    )
    assert net.name == "CaffeNet" and net.inputs == ()
    train, test, conv, relu, loss = net.layers
    assert train.params == {"module": "voc_layers", "layer": "Data", "param_str": "{'mean': (104.00699, 116.66877)}"}
    assert (train.train_only, test.train_only) == (True, False)
    assert test.params["mean_value"] == (104, 117, 123) and test.params["crop_size"] == 227
    assert conv.params["kernel_size"] == (11, 11) and conv.params["stride"] == (4, 4) and conv.params["pad"] == (0, 0)
    assert conv.params["weight_filler"] == {"type": "gaussian", "value": 0.0} and conv.params["bias_term"]
    assert relu.bottoms == relu.tops == ("conv1",) and relu.params == {"negative_slope": 0.0}
    assert (loss.params["ignore_label"], loss.params["normalize"]) == (255, False)
    assert [layer.place for layer in net.layers][:3] == [f"line {n}, column 9" for n in (3, 8, 13)]


def test_the_form_of_the_first_fcns(tmp_path):
    net = read(
        tmp_path,
        """name: 'FCN' input: 'data' input_dim: 1 input_dim: 3 input_dim: 500 input_dim: 400
        layers { bottom: 'data' top: 'conv1_1' name: 'conv1_1' type: CONVOLUTION blobs_lr: 1 weight_decay: 0
          convolution_param { engine: CAFFE num_output: 64 pad: 100 kernel_size: 3 } }
        layers { type: DECONVOLUTION name: 'up' bottom: 'conv1_1' top: 'up'
          convolution_param { num_output: 21 kernel_size: 64 stride: 32 } }
        layers { type: CROP name: 'crop' bottom: 'up' bottom: 'data' top: 'score' }""",
    )
    assert net.inputs == (("data", (1, 3, 500, 400)),)
    assert [layer.type for layer in net.layers] == ["Convolution", "Deconvolution", "Crop"]
    assert net.layers[0].params["pad"] == (100, 100)
    assert net.layers[2].params == {"axis": 2, "offset": ()}


@pytest.mark.parametrize(
    "kind, params",
    [("Pooling", {"pool": "MAX", "kernel_size": (2, 2), "stride": (1, 1), "pad": (0, 0), "global_pooling": False,
                  "round_mode": "CEIL"}),
     ("LRN", {"local_size": 5, "alpha": 1.0, "beta": 0.75, "norm_region": "ACROSS_CHANNELS", "k": 1.0}),
     ("Eltwise", {"operation": "SUM", "coeff": ()}), ("Crop", {"axis": 2, "offset": ()}), ("Concat", {"axis": 1}),
     ("Scale", {"axis": 1, "num_axes": 1, "filler": {"type": "constant", "value": 1.0}, "bias_term": False,
                "bias_filler": {"type": "constant", "value": 0.0}}),
     ("Softmax", {"axis": 1}), ("Slice", {"axis": 1, "slice_point": ()}), ("Flatten", {"axis": 1, "end_axis": -1}),
     ("Power", {"power": 1.0, "scale": 1.0, "shift": 0.0}), ("Dropout", {"dropout_ratio": 0.5}),
     ("BatchNorm", {"use_global_stats": None, "moving_average_fraction": 0.999, "eps": 1e-5}),
     ("Split", {}), ("Silence", {}), ("Accuracy", {"top_k": 1, "axis": 1, "ignore_label": None}),
     ("Python", {"module": None, "layer": None, "param_str": ""})],
)  # fmt: skip
def test_the_defaults_are_those_of_caffe(tmp_path, kind, params):
    body = "pooling_param { kernel_size: 2 }" if kind == "Pooling" else ""
    assert one(tmp_path, body, kind).params == params


def test_every_type_that_is_read_has_its_settings_in_both_forms(tmp_path):
    today, old = (MESSAGES[kind].DESCRIPTOR.fields_by_name for kind in ("Layer", "V1Layer"))
    for kind, parts in SETTINGS.items():
        for part in parts:
            assert today[part].message_type.name in MESSAGES
            if kind in dict(V1_TYPES.values()).values() and part in old:
                assert old[part].message_type is today[part].message_type
    for kind, number in OLD_TYPES.items():
        assert V1_TYPES[number] == (old_name(kind), kind)


@pytest.mark.parametrize(
    "text, kernel, stride, pad",
    [("kernel_size: 3", (3, 3), (1, 1), (0, 0)), ("kernel_size: [3, 5] pad: 2", (3, 5), (1, 1), (2, 2)),
     ("kernel_h: 3 kernel_w: 5 pad_h: 1 stride_h: 2 stride_w: 4", (3, 5), (2, 4), (1, 0)),
     ("kernel_size: 3 kernel_size: 5 stride: 2 stride: 3 pad: 0 pad: 1", (3, 5), (2, 3), (0, 1)),
     ("kernel_size: [1, 2, 3]", (1, 2, 3), (1, 1), (0, 0))],
)  # fmt: skip
def test_windows_come_as_height_and_width(tmp_path, text, kernel, stride, pad):
    params = one(tmp_path, f"convolution_param {{ num_output: 1 {text} }}").params
    assert (params["kernel_size"], params["stride"], params["pad"]) == (kernel, stride, pad)


def test_a_global_pooling_has_no_kernel(tmp_path):
    params = one(tmp_path, "pooling_param { pool: AVE global_pooling: true }", "Pooling").params
    assert params["kernel_size"] == (0, 0) and params["global_pooling"]


@pytest.mark.parametrize(
    "text",
    ["crop_param { offset: 1 offset: 2 axis: -2 }", "crop_param: < offset: [1, 2]; axis: -2, >",
     "crop_param{offset:0x1,offset:02;axis:- 2}", "crop_param { #:\n offset: [1] offset: [] offset: 2 axis:-2}"],
)  # fmt: skip
def test_the_ways_to_write_settings(tmp_path, text):
    assert one(tmp_path, text, "Crop").params == {"axis": -2, "offset": (1, 2)}


@pytest.mark.parametrize(
    "text, value",
    [('"a" \'b\'\n"c"', "abc"), (r'"\'\"\\\n\t"', "'\"\\\n\t"), (r'"\x41\101\x5a"', "AAZ"), ('"é#"', "é#"),
     ("\"'\" '\"'", "'\""), (r'"\377"', r"\xff")],
)  # fmt: skip
def test_the_ways_to_write_a_text(tmp_path, text, value):
    assert one(tmp_path, f"python_param {{ param_str: {text} }}", "Python").params["param_str"] == value


@pytest.mark.parametrize(
    "text, value",
    [("1", 1.0), ("-.5", -0.5), ("1e-4", 1e-4), ("1.f", 1.0), ("2E+2F", 200.0), ("-inf", float("-inf")), ("0.1", 0.1)],
)
def test_the_ways_to_write_a_number(tmp_path, text, value):
    assert one(tmp_path, f"power_param {{ shift: {text} }}", "Power").params["shift"] == value


@pytest.mark.parametrize(
    "rules, train_only",
    [("", False), ("include { phase: TRAIN }", True), ("include { phase: TEST }", False), ("include { }", False),
     ("include { phase: TRAIN } include { stage: 'deploy' }", False), ("exclude { phase: TEST }", True),
     ("exclude { phase: TRAIN }", False), ("exclude { }", True), ("exclude { phase: TEST stage: 'deploy' }", False),
     ("exclude { min_level: 1 }", False), ("phase: TRAIN", False)],
)  # fmt: skip
def test_a_layer_is_of_training_only_when_no_test_net_has_it(tmp_path, rules, train_only):
    assert one(tmp_path, rules, "ReLU").train_only == train_only
    old = f"{DATA}layers {{ name: 'r' type: RELU bottom: 'data' top: 'r' {rules} }}"
    if rules != "phase: TRAIN":  # what Caffe writes into the layers of a trained net, since the form with `layer`
        assert read(tmp_path, old).layers[0].train_only == train_only


def test_inputs_are_those_of_the_head_and_of_input_layers(tmp_path):
    layer = 'layer { name: "i" type: "Input" top: "a" top: "b" input_param { shape { dim: 1 dim: 2 } %s } }'
    assert read(tmp_path, layer % "").inputs == (("a", (1, 2)), ("b", (1, 2)))
    assert read(tmp_path, layer % "shape { dim: 3 }").inputs == (("a", (1, 2)), ("b", (3,)))
    assert read(tmp_path, layer.replace("shape { dim: 1 dim: 2 }", "") % "").inputs == (("a", ()), ("b", ()))
    with pytest.raises(UsageError, match="line 1, column 1: layer 'i': 3 shapes for 2 tops"):
        read(tmp_path, layer % "shape { } shape { }")
    relu = 'layer { type: "ReLU" bottom: "a" top: "a" }'
    assert read(tmp_path, f'input: "a" input: "b" {relu}').inputs == (("a", ()), ("b", ()))
    assert read(tmp_path, f'input: "a" input_shape {{ dim: [7, 8] }} {relu}').inputs == (("a", (7, 8)),)
    for wrong in ("input_dim: 1", "input_shape { } input_shape { }", "input_dim: [1, 2, 3, 4, 5, 6, 7, 8]"):
        with pytest.raises(UsageError, match="line 1, column 1: 1 inputs do not fit"):
            read(tmp_path, f'input: "a" {wrong} {relu}')


@pytest.mark.parametrize("encoded", [b"\xef\xbb\xbfNAME", b"NAME# \xb5 in another encoding", b"NAME\r\n\t"])
def test_bytes_around_the_text_do_not_matter(tmp_path, encoded):
    text = b'name: "n" layer { name: "d" type: "Data" top: "a" }'
    assert read(tmp_path, encoded.replace(b"NAME", text)).name == "n"


names = st.text("abcxyz019_/-é'\"\\\n", min_size=1, max_size=8)
numbers = st.integers(1, 2**31 - 1)


@st.composite
def nets(draw):
    """Chains of layers with random names and settings, in either form."""
    layers, made = [], ["data"]
    for _ in range(draw(st.integers(1, 5))):
        top = draw(names)
        layer = {"name": draw(names), "bottom": [draw(st.sampled_from(made))], "top": [top]}
        kind = layer["type"] = draw(st.sampled_from(["Convolution", "Pooling", "LRN", "Eltwise", "Power"]))
        if kind == "Convolution":
            sizes = [draw(st.lists(numbers, min_size=n, max_size=2)) for n in (1, 0, 0)]
            param = {"num_output": draw(numbers), "bias_term": draw(st.booleans()), "group": draw(numbers),
                     **dict(zip(("kernel_size", "stride", "pad"), sizes, strict=True))}  # fmt: skip
        elif kind == "Pooling":
            param = {
                "kernel_h": draw(numbers),
                "kernel_w": draw(numbers),
                "pool": draw(st.sampled_from(["MAX", "AVE"])),
            }
        elif kind == "LRN":
            param = {"alpha": draw(st.floats(width=32, allow_nan=False)), "local_size": draw(numbers)}
        elif kind == "Eltwise":
            param = {"coeff": draw(st.lists(st.floats(width=32, allow_nan=False), max_size=3)),
                     "operation": draw(st.sampled_from(["SUM", "PROD", "MAX"]))}  # fmt: skip
        else:
            param = {"shift": draw(st.floats(width=32, allow_nan=False))}
        layer[SETTINGS[kind][0]] = param
        layers.append(layer)
        made.append(top)
    return layers


@given(nets(), st.sampled_from(["V1", "V2"]))
def test_text_and_bytes_of_a_net_are_read_as_the_same_net(tmp_path_factory, layers, version):
    folder = tmp_path_factory.mktemp("net")
    inputs = [("data", (1, 3, 8, 9))]
    (folder / "m").write_bytes(caffemodel_bytes(layers, version, inputs=inputs))
    net = read(folder, prototxt(layers, inputs, version))
    assert net == read_caffemodel(folder / "m")
    assert net.inputs == tuple(inputs)
    for layer, wrote in zip(net.layers, layers, strict=True):
        assert (layer.name, layer.type) == (wrote["name"], wrote["type"])
        assert (layer.bottoms, layer.tops) == (tuple(wrote["bottom"]), tuple(wrote["top"]))
        (param,) = [value for key, value in wrote.items() if key.endswith("_param")]
        for name in set(param) & set(layer.params) - {"kernel_size", "stride", "pad"}:
            kind = np.float32 if name in ("alpha", "shift", "coeff") else None
            np.testing.assert_array_equal(np.array(layer.params[name], kind), np.array(param[name], kind), name)


RELU = 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" }\n'
WRONG = [
    # what is written below the line that names the input, the line (counted from there) and column, what is said
    ('layer {\n  name: "x" type: "Fancy" bottom: "data" top: "x"\n}', (2, 19), "layer 'x' is of the type 'Fancy'"),
    ('layer {\n  name: "x" type: "ReLu" bottom: "data" top: "x"\n}', (2, 19), "did you mean 'ReLU'"),
    ('layers {\n  name: "x" type: FANCY }', (2, 19), "unknown LayerType 'FANCY'"),
    ('layers {\n  name: "x" type: "Convolution" }', (2, 19), "unknown LayerType '\"Convolution\"'"),
    ("layer {\n type: RELU }", (2, 8), "Expected string but found: 'RELU' at 'type: RELU'"),
    ('layer { name: "x" bottom: "data" }', (1, 1), "layer 'x' has no type"),
    ('layer {\n name: "x" type: "ReLU" bottom: "dato" top: "x" }', (2, 33), "did you mean 'data'"),
    ('layer {\n name: "x" type: "ReLU" bottom: "q" top: "x" }', (2, 33), "reads 'q', which no layer makes"),
    ('layer {\n name: "x" type: "Concat" bottom: ["data",\n"q"] }', (3, 1), "reads 'q', which no layer makes"),
    ('\nlayer { name: "x" type: "ReLU" top: "x" }', (2, 1), "layer 'x' has no bottom"),
    ('layer { name: "a" type: "ReLU" bottom: "b" top: "a" }\n layer { name: "b" type: "ReLU" bottom: "a" top: "b" }',
     (1, 40), "which layer 'b' makes only at line 3, column 2; put the layers in order, without a cycle"),
    ('layer { name: "a" type: "ReLU" bottom: "a" top: "a" }', (1, 40), "which layer 'a' makes only at line 2"),
    ('layer { botom: "data" }', (1, 9), "unknown setting 'botom'; did you mean 'bottom'"),
    ('layer { type: "Crop"\n crop_param { offfset: 3 } }', (2, 15), "did you mean 'offset'"),
    ("layer { corp_param { offset: 3 } }", (1, 9), "did you mean 'crop_param'"),
    ('layer { type: "Pooling" pooling_param { ceil_mode: false } }', (1, 41), "unknown setting 'ceil_mode'"),
    ('net: "train.prototxt"\nbase_lr: 1e-10', (1, 1), "unknown setting 'net'"),
    ("layer { name: 3 }", (1, 15), "Expected string but found: '3' at 'name: 3'"),
    ('layer { name "x" }', (1, 14), "Expected \":\" at 'name \"x\"'"),
    ('layer { name: "x', (1, 15), "a string without its end"),
    ('layer { name: "x\n"', (1, 15), "a string without its end"),
    (r'layer { name: "\q" }', (1, 15), r"the escape '\q'"),
    ('layer { name: "a" name: "b" }', (1, 25), "should not have multiple \"name\" fields"),
    ("layer { lrn_param { } lrn_param { } }", (1, 33), "should not have multiple \"lrn_param\" fields"),
    ("layer { crop_param { offset: -1 } }", (1, 30), "Value out of range: -1 at 'offset: -1'"),
    ("layer { crop_param { offset: 4294967296 } }", (1, 30), "Value out of range: 4294967296 at 'offset: 4294967296'"),
    ("layer { crop_param { offset: 1.5 } }", (1, 30), "Couldn't parse integer: 1.5 at 'offset: 1.5'"),
    (f"layer {{ crop_param {{ offset: {'9' * 5000} }} }}", (1, 30), "Couldn't parse integer: 9999"),
    ("layer { crop_param { offset: [1 2] } }", (1, 33), "Expected \",\" at '1 2]'"),
    ("layer { scale_param { bias_term: yes } }", (1, 34), "Expected \"true\" or \"false\" at 'bias_term: yes'"),
    ("layer { lrn_param { alpha: big } }", (1, 28), "Couldn't parse float: big at 'alpha: big'"),
    ("layer { pooling_param { pool: MEAN } }", (1, 31), "unknown PoolMethod 'MEAN'; use one of MAX, AVE, STOCHASTIC"),
    ("layer: [{ }]", (1, 8), "'[' in place of '{'"),
    ("layer { crop_param { offset: 1_0 } }", (1, 30), "unexpected '1'"),
    ("[extension] { }", (1, 1), "'[' in place of the name of a setting"),
    ("layer { lrn_param: 3 }", (1, 20), "Expected \"{\" at 'lrn_param: 3'"),
    ('layer { name: "x" >', (1, 19), "'>' in place of '}'"),
    ("\n\n layer { lrn_param { alpha: 1 }", (3, 8), "'{' without its '}'"),
    ("layer { param { lr_mult: 1", (1, 15), "'{' without its '}'"),
    ("layer { param { lr_mult: 1 ] }", (1, 28), "']' in place of '}'"),
    ("layer { phase: }", (1, 16), "unknown Phase '}'; use one of TRAIN, TEST"),
    ("name: 'x'\n<<<<<<< HEAD\n" + RELU, (2, 1), "'<' in place of the name of a setting"),
    ("name: 'x' @", (1, 11), "unexpected '@'"),
    ('layers { layer { name: "c" type: "conv" } }', (1, 10), "Caffe's oldest format (V0)"),
    ("layers { name: 'x' }", (1, 1), "layer 'x' has no type"),
    ("layers { type: NONE }", (1, 16), "unknown LayerType 'NONE'"),
    (f"{RELU}layers {{ }}", (2, 1), "both `layer` and `layers`"),
    ('layer { type: "Convolution" convolution_param { num_output: 1 } }', (1, 1), "kernel_size is missing or 0"),
    ('layer { type: "Convolution" convolution_param { kernel_size: 1 } }', (1, 1), "num_output is missing or 0"),
    ('layer { type: "Pooling" pooling_param { kernel_size: 2 stride_h: 2 } }', (1, 1), "stride is missing or 0"),
    ('layer { type: "Pooling" pooling_param { kernel_size: 2 kernel_h: 2 } }', (1, 1), "given together with kernel_h"),
    ('layer { type: "Convolution" convolution_param { num_output: 4 kernel_size: 1 group: 0 } }', (1, 1), "group is"),
    ('layer { type: "LRN" lrn_param { norm_region: 5 } }', (1, 46), "unknown NormRegion '5'; use one of ACROSS"),
]  # fmt: skip


@pytest.mark.parametrize("text, place, words", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_has_a_line_and_a_column(tmp_path, text, place, words):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, DATA + text)
    where, _, message = str(caught.value).partition(f": line {place[0] + 1}, column {place[1]}: ")
    assert where == str(tmp_path / "net.prototxt") and "\n" not in message
    assert words in message and "; " in message


def test_a_text_without_layers_is_no_net(tmp_path):
    with pytest.raises(UsageError, match="line 1, column 1: no layers"):
        read(tmp_path, DATA + "# layer { }")


def test_layers_of_training_may_be_of_any_type(tmp_path):
    kind = 'layer { name: "x" type: "Fancy" top: "data" include { phase: TRAIN } }'
    assert [layer.type for layer in read(tmp_path, kind + RELU).layers] == ["Fancy", "ReLU"]
    with pytest.raises(UsageError, match="Fancy"):
        read(tmp_path, kind.replace("TRAIN", "TEST") + RELU)
    assert "Fancy" not in SETTINGS and all(kind in SETTINGS for kind in SOURCES)
