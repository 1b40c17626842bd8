"""A program of torch.export is the net, and holds no pickle; none is read, since torch may run code that is in it."""

import io
import json
import pickle
import sys
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.small_nets import agree, image, outputs_of, predictor

import fullconv
from fullconv.backends import torch_export
from fullconv.errors import UsageError
from fullconv.exporting.export import card_of
from fullconv.inference.exported import ExportedPredictor, load_exported


@cache
def content(size, backbone="lenet", stride=4):
    return written(size, backbone, stride)[0]


@cache
def written(size, backbone="lenet", stride=4):
    one = predictor(backbone, stride)
    return torch_export.to_pt2(one.net, size, card_of(one, size))


CASES = [
    ("lenet", 4, (33, 40)),
    pytest.param("lenet", 4, None, marks=pytest.mark.slow),
    pytest.param("vgg11", 8, None, marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize("backbone, stride, size", CASES)
def test_the_program_is_the_net(backbone, stride, size, tmp_path):
    said, run, card = written(size, backbone, stride)
    (tmp_path / "m.pt2").write_bytes(said)
    assert b".py" not in said
    one = predictor(backbone, stride)
    assert replace(card, least=1) == card_of(one, size)
    for each in (run, torch_export.ProgramNet(torch.export.load(tmp_path / "m.pt2"))):
        for height, width in [size] if size else [(45, 60), (64, 33), (97, 131)]:
            x = np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32)
            assert agree(each(x), outputs_of(one, x))
    shot = image(*(size or (50, 70)))
    assert (ExportedPredictor(run, card, "m.pt2")(shot).prediction == one(shot).prediction).all()


@pytest.mark.parametrize("size", [(33, 40), pytest.param(None, marks=pytest.mark.slow)])
def test_it_holds_no_pickle(size):
    with zipfile.ZipFile(io.BytesIO(content(size))) as archive:
        for info in archive.infolist():
            name, data = info.filename.partition("/")[2], archive.read(info)
            assert name != "data/sample_inputs/model.pt" or not data
            assert not name.endswith((".pkl", ".so")) and "custom_obj" not in name
            assert b'"use_pickle": true' not in data


def test_torch_reads_it_by_itself(tmp_path):
    (tmp_path / "m.pt2").write_bytes(content((33, 40)))
    extra = {"fullconv": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    assert json.loads(extra["fullconv"])["labels"]["names"] == ["sky", "road", "tree"]
    assert program.module()(torch.zeros(1, 3, 33, 40))[0].shape == (1, 3, 33, 40)


class Bomb:
    def __reduce__(self):
        return (open, (sys.executable + ".bomb", "w"))


def changed(replace):
    """The archive with other members: a function of name and bytes to bytes, or None."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content((33, 40)))) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            found = replace(info.filename.partition("/")[2], old.read(info))
            if found is not None:
                new.writestr(info.filename, found)
    return out.getvalue()


def in_json(name, old, new):
    def replace(member, data):
        assert member != name or old in data
        return data.replace(old, new, 1) if member == name else data

    return lambda: changed(replace)


def with_member(name, data):
    def make():
        out = io.BytesIO(content((33, 40)))
        with zipfile.ZipFile(out, "a") as archive:
            folder = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{folder}/{name}", data)
        return out.getvalue()

    return make


def two_faced():
    """One whose directory names another member than the header beside its bytes does."""
    data, name = content((33, 40)), b"data/sample_inputs/model.pt"
    first = data.index(name)
    return data[:first] + b"data/sample_inputs/model.px" + data[first + len(name) :]


HOSTILE = {
    "inputs": lambda: changed(lambda m, d: pickle.dumps(Bomb()) if m == "data/sample_inputs/model.pt" else d),
    "pickled weight": in_json("data/weights/model_weights_config.json", b'"use_pickle": false', b'"use_pickle": true'),
    "script object": with_member("data/constants/custom_obj_0", pickle.dumps(Bomb())),
    "library": with_member("data/aotinductor/model/x.so", b"\x7fELF"),
    "call": in_json("models/model.json", b"torch.ops.aten.conv2d.default", b"torch.hub.load"),
    "file": in_json("models/model.json", b"torch.ops.aten.conv2d.default", b"torch.ops.aten.from_file.default"),
    "size": in_json("models/model.json", b'"as_int": 33', b'"as_expr": {"expr_str": "__import__(\'os\').getcwd()"}'),
    "cut short": lambda: content((33, 40))[:-500],
    "old form": with_member("serialized_exported_program.json", b"{}"),
    "nothing": lambda: b"",
    "two directories": lambda: two_faced(),
    "our own": lambda: content((33, 40)),
}


@pytest.mark.parametrize("read", [load_exported, fullconv.load], ids=["load_exported", "load"])
@pytest.mark.parametrize("name", HOSTILE)
def test_none_is_read(name, read, tmp_path, monkeypatch):
    path = tmp_path / ("m.PT2" if name == "our own" else "m.pt2")
    path.write_bytes(HOSTILE[name]())
    monkeypatch.setattr(torch.export, "load", None)  # it is never asked
    with pytest.raises(UsageError, match=r"torch may run code that is in it; give the \.onnx or \.xml") as refused:
        read(path)
    assert "\n" not in str(refused.value) and not Path(sys.executable + ".bomb").exists()
