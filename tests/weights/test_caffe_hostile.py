"""Files that are no nets, or were made to do harm: one line with the place, within bounds of time and memory."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.caffe_files import caffemodel_bytes, field, layer_bytes, prototxt, varint

from fullconv.errors import UsageError
from fullconv.weights.caffe.caffemodel import read_caffemodel
from fullconv.weights.caffe.net import Net
from fullconv.weights.caffe.prototxt import read_prototxt

SMALL = [
    {"name": "conv1", "type": "Convolution", "bottom": "data", "top": "conv1",
     "blobs": [np.ones((2, 3, 1, 1)), np.ones(2)],
     "convolution_param": {"num_output": 2, "kernel_size": 1, "weight_filler": {"type": "msra"}}},
    {"name": "pool1", "type": "Pooling", "bottom": "conv1", "top": "pool1", "include": {"phase": "TEST", "stage": "x"},
     "pooling_param": {"pool": "AVE", "kernel_size": 2}},
    {"name": "fuse", "type": "Eltwise", "bottom": ["pool1", "pool1"], "top": "fuse",
     "eltwise_param": {"coeff": [0.5, 2.0]}},
]  # fmt: skip
INPUTS = [("data", (1, 3, 8, 8))]


def read_model(folder, data):
    path = folder / "n.caffemodel"
    path.write_bytes(data)
    try:
        return read_caffemodel(path)
    finally:
        path.unlink()


def read_text(folder, text):
    path = folder / "n.prototxt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_prototxt(path)


def refused(read, *args):
    """The message of the refusal, which is one line and comes within a second."""
    start = time.process_time()
    with pytest.raises(UsageError) as caught:
        read(*args)
    assert time.process_time() - start < 3, "seconds of the processor"
    message = str(caught.value)
    assert "\n" not in message and message.count(";") >= 1 and len(message) < 400
    return message


def layer(content):
    return field(100, content)


M = 10**6
MODELS = {
    "half": (caffemodel_bytes([{**SMALL[0], "blobs": [np.ones((500, 500))]}])[: M // 2], "offset 5: field 100 wants"),
    "groups 100,000 deep": (b"\x0b" * 100_000, "offset 0: wire type 3"),
    "groups 100,000 deep in a setting": (layer(field(106, b"\x0b" * 100_000)), "offset 5: no Layer that protobuf"),
    "a varint of 11 bytes": (field(1, b"n") + b"\xff" * 10 + b"\1", "offset 3: a number of more than 10 bytes"),
    "a varint of 1 MB": (b"\x08" + b"\xff" * M, "offset 1: a number of more than 10 bytes"),
    "a varint without its end": (b"\x08\xff", "offset 1: the bytes end within a number"),
    "a length past the end": (b"\x0a\xe8\x07" + b"\1", "offset 0: field 1 wants 1,000 bytes and 1 are left"),
    "a length of 2^63": (b"\x0a" + varint(2**63), "offset 0: field 1 wants 9,223,372,036,854,775,808 bytes"),
    "a length past its layer": (layer(b"\x3a\x7f") + field(1, bytes(200)), "offset 3: field 7 wants 127 bytes and 0 "),
    "a field of number 0": (b"\0\1", "offset 0: a field of number 0"),
    "a wire type of 7": (b"\x0f\1", "offset 0: wire type 7"),
    "a negative dim": (layer(field(7, field(7, field(1, -5)))), "a blob of shape (-5,)"),
    "dims whose product overflows": (layer(field(7, field(7, field(1, 2**33) * 4))), "more than 2,147,483,647 values"),
    "many empty layers": (layer(b"") * (M // 3), "offset 30000: more than 10,000 layers"),
    "a layer that is a number": (field(100, 1), "offset 0: field 100 of a Net with wire type 0"),
    "a blob that is a number": (layer(field(7, 1)), "offset 3: field 7 of a Layer with wire type 0"),
    "many fields": (field(9, b"") * (M // 2), "offset 200000: more than 100,000 fields"),
    "many bottoms": (layer(field(3, b"") * (M // 2)), "offset 200003: more than 100,000 fields"),
    "many blobs": (layer(field(7, field(5, bytes(4))) * (M // 8)), "more than 20,000 blobs"),
    "many pieces of a blob": (layer(field(7, field(5, bytes(4)) * (M // 6))), "more than 100,000 fields"),
    "many short runs": (layer(field(7, (b"\x2d\0\0\0\0" + field(1, 1)) * (M // 7))), "more than 100,000 fields"),
    "a name of 2 MB": (layer(field(1, bytes(2 * M))), "offset 5: more than 1,048,576 bytes of settings"),
    "packed floats of a byte": (layer(field(7, field(5, b"1"))), "1 bytes of values that take 4 bytes each"),
    "packed floats of 3 bytes": (layer(field(7, field(5, b"123"))), "3 bytes of values that take 4 bytes each"),
    "the oldest form": (field(2, field(1, field(1, b"c") + field(2, b"conv"))), "offset 2: a layer in Caffe's oldest"),
    "no layers": (field(1, b"net") + b"\x08\0", "offset 0: no layers"),
    "random bytes": (np.random.default_rng(5).bytes(M), "offset "),
    "zeros": (bytes(M), "offset 0: a field of number 0"),
    "nothing": (b"", "empty file"),
    "HTML": (b" <!DOCTYPE html>", "an HTML page, not a .caffemodel file"),
    "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1", "run git lfs pull"),
    "a prototxt": (prototxt(SMALL).encode(), "a text file (a prototxt?), not a .caffemodel"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "snapshot_format: BINARYPROTO"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_hostile_models(tmp_path, name):
    data, words = MODELS[name]
    assert words in refused(read_model, tmp_path, data)


@pytest.mark.parametrize("read", [read_caffemodel, read_prototxt])
def test_what_is_no_file(tmp_path, read):
    assert "there is no such file" in refused(read, tmp_path / "gone")
    assert "it is a folder" in refused(read, tmp_path)
    assert "cannot be opened" in refused(read, tmp_path / "\0") or "no such file" in refused(read, tmp_path / "\0")
    assert "no such file" in refused(read, Path("/dev/null"))


def test_a_model_that_protobuf_could_not_have_written(tmp_path):
    path = tmp_path / "n.caffemodel"
    with path.open("wb") as file:
        file.truncate(2**31)
    assert "2,147,483,648 bytes" in refused(read_caffemodel, path)


TEXTS = {
    "braces 100,000 deep": ("{" * 100_000, "line 1, column 1: '{' in place of the name"),
    "layers 100,000 deep": ("layer{\n" * 100_000, "line 21, column 6: brackets in more than 20 others"),
    "params 100,000 deep": ("layer{param" + "{a" * 100_000, "column 50: brackets in more than 20 others"),
    "lists 100,000 deep": ("layer{param" + "[" * 100_000, "column 31: brackets in more than 20 others"),
    "a string of 50 MB": ('name: "' + "a" * 50 * M, "50,000,007 bytes, and a .prototxt file has at most 10,000,000"),
    "a string of 9 MB": ('name: "' + "a" * 9 * M + '"', "line 1, column 7: a text of more than 100,000 characters"),
    "a string of escapes": ('name: "' + "\\n" * M + '"', "line 1, column 7: a text of more than 100,000 characters"),
    "a string without its end": ('\nname: "' + "a" * 9 * M, "line 2, column 7: a string without its end"),
    "a word of 9 MB": ("a" * 9 * M, "line 1, column 1: unknown setting 'aaaaa"),
    "a number of 9 MB": ("input_dim: " + "1" * 9 * M, "line 1, column 12: Couldn't parse integer: "),
    "many layers": ("layer{}" * 12_000, "line 1, column 70001: more than 10,000 layers"),
    "many values": ("input_dim: 1\n" * 300_000, "more than 500,000 words and marks"),
    "a comment of 9 MB": ("#" * 9 * M, "line 1, column 1: no layers"),
    "nothing": ("", "empty file"),
    "HTML": ("\ufeff\n<html>", "an HTML page, not a .prototxt file"),
    "a git-lfs pointer": ("version https://git-lfs.github.com/spec/v1", "run git lfs pull"),
    "a model": (caffemodel_bytes(SMALL), "a binary file (a .caffemodel?), not a .prototxt"),
    "a merge that failed": ("name: 'x'\n<<<<<<< HEAD\n", "line 2, column 1: '<' in place of the name"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_texts(tmp_path, name):
    text, words = TEXTS[name]
    assert words in refused(read_text, tmp_path, text)


def test_a_long_chain_and_a_long_cycle(tmp_path):
    """Each bottom is looked up once: a net of the largest size is no work."""
    links = [f"layer{{name:'l{i}' type:'ReLU' bottom:'b{i}' top:'b{i + 1}'}}\n" for i in range(9_999)]
    start = time.process_time()
    assert len(read_text(tmp_path, "input: 'b0'\n" + "".join(links)).layers) == 9_999
    assert time.process_time() - start < 10
    links = links[:1_000]
    message = refused(read_text, tmp_path, "".join(links))
    assert "line 1, column 36: layer 'l0' reads 'b0', which no layer makes" in message
    message = refused(read_text, tmp_path, "".join(links) + "layer{name:'last' type:'ReLU' bottom:'b1000' top:'b0'}")
    assert "which layer 'last' makes only at line 1001, column 1" in message


@pytest.mark.parametrize("version, packed", [("V2", True), ("V2", False), ("V1", True)])
def test_a_model_that_was_cut_anywhere_is_a_net_or_refused(tmp_path, version, packed):
    data = caffemodel_bytes(SMALL, version, packed, inputs=INPUTS)
    whole, read = read_model(tmp_path, data), 0
    for length in range(1, len(data)):
        try:
            net = read_model(tmp_path, data[:length])
        except UsageError as problem:
            assert "\n" not in str(problem)
        else:  # cut between two layers
            assert net.layers == whole.layers[: len(net.layers)]
            read += 1
    assert read == len(SMALL) - 1


@given(st.integers(0), st.sampled_from(["V1", "V2"]), st.booleans())
def test_a_model_with_changed_bytes_is_a_net_or_refused(tmp_path_factory, seed, version, packed):
    folder, random = tmp_path_factory.mktemp("m"), Random(seed)
    whole = caffemodel_bytes(SMALL, version, packed, inputs=INPUTS)
    for _ in range(20):
        changed = bytearray(whole)
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            changed[random.randrange(len(whole))] = random.randrange(256)
        try:
            assert isinstance(read_model(folder, bytes(changed)), Net)
        except UsageError as problem:
            assert "\n" not in str(problem)


@given(st.binary(max_size=60), st.sampled_from([b"", layer(b"")[:2], field(7, b"")[:1]]))
def test_any_bytes_in_a_layer_are_a_net_or_refused(tmp_path_factory, content, before):
    folder = tmp_path_factory.mktemp("m")
    for data in (content, layer(content), layer(field(7, content)), layer(field(106, content)), before + content):
        try:
            assert isinstance(read_model(folder, data), Net)
        except UsageError as problem:
            assert "\n" not in str(problem)


def test_a_text_that_was_cut_anywhere_is_a_net_or_refused(tmp_path):
    text = prototxt(SMALL[1:], [("conv1", (1, 2))])
    for length in range(len(text)):
        try:
            assert isinstance(read_text(tmp_path, text[:length]), Net)
        except UsageError as problem:
            assert "\n" not in str(problem)


@given(st.integers(0), st.sampled_from(["V1", "V2"]))
def test_a_text_with_a_changed_character_is_a_net_or_refused(tmp_path_factory, seed, version):
    folder, random, text = tmp_path_factory.mktemp("t"), Random(seed), prototxt(SMALL, INPUTS, version)
    for _ in range(10):
        at = random.randrange(len(text))
        some = random.choice([*"{}<>[]:;,-#\"'\\\n\r0.9eEx_a\0\x85é", "", text[at] * 2])
        try:
            assert isinstance(read_text(folder, text[:at] + some + text[at + 1 :]), Net)
        except UsageError as problem:
            assert "\n" not in str(problem)


def test_every_layer_has_its_place(tmp_path):
    relu = "layer{type:'ReLU' bottom:'%s' top:'%s'}"
    text = f"input:'x' {relu % ('x', 'a')}#{{\n\r\n\t{relu % ('a', 'b')} {relu % ('b', 'c')}\n \n#\n{relu % ('c', 'd')}"
    assert [layer.place for layer in read_text(tmp_path, text).layers] == [
        "line 1, column 11", "line 3, column 2", "line 3, column 40", "line 6, column 1"
    ]  # fmt: skip


BIG = {
    "packed": lambda: caffemodel_bytes([{**SMALL[0], "blobs": [np.zeros((4500, 4500), np.float32)]}]),
    "unpacked": lambda: caffemodel_bytes([{**SMALL[0], "blobs": [np.zeros((4500, 4500), np.float32)]}], packed=False),
    "pieces": lambda: layer(field(7, field(7, field(1, 20 * M)) + field(5, bytes(40 * M)) * 2)),
    "empty layers": lambda: layer(b"") * 10 * M,
    "shapes": lambda: layer(field(2, b"Input") + field(143, field(1, b"") * (M // 2))),
    "rules": lambda: layer(field(8, b"") * 90_000),
    "unknown settings": lambda: layer(field(2, b"Crop") + field(144, field(3, 0) * (M // 2))),
    "offsets": lambda: layer(field(2, b"Crop") + field(144, field(2, b"\1" * M))),
    "pieces of four bytes": lambda: layer(field(7, field(5, bytes(4)) * 90_000)),
    "layers": lambda: layer(layer_bytes(SMALL[1])) * 9_000,
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of memory is read from /proc")
def test_memory_stays_within_twice_the_file_and_64_megabytes(tmp_path):
    for name, make in BIG.items():
        (tmp_path / f"{name}.caffemodel").write_bytes(make())
    code = """
        import gc, sys
        from pathlib import Path
        from fullconv.errors import UsageError
        from fullconv.weights.caffe.caffemodel import read_caffemodel

        def kilobytes(name):
            return int(Path("/proc/self/status").read_text().split(name)[1].split()[0])

        for path in sorted(Path(sys.argv[1]).iterdir()):
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")
            before = kilobytes("VmRSS:")
            try:
                total = sum(float(blob.sum()) for layer in read_caffemodel(path).layers for blob in layer.blobs)
            except UsageError:
                pass
            print(path.stem, (kilobytes("VmHWM:") - before) * 1024, path.stat().st_size, sep=",")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split(",") for line in done.stdout.splitlines()]
    assert len(rows) == len(BIG)
    for name, peak, size in rows:
        assert int(peak) <= 2 * int(size) + 64 * 2**20, name
