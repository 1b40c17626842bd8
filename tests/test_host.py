"""A library call leaves the process that makes it as it was; the command changes its own."""

import importlib.util
import subprocess
import sys
import textwrap

import pytest
import torch

from fullconv.config import CONVENTIONS, ModelConfig
from fullconv.labels import LabelSpace
from fullconv.models.build import build
from fullconv.weights import checkpoint
from fullconv.weights.checkpoint import Header

SETUP = """
import logging, resource, signal, sys, warnings
import numpy as np
import torch
from pathlib import Path
import fullconv

torch.set_num_threads(1)
folder = Path(sys.argv[1])
photo = np.zeros((40, 50, 3), np.uint8)
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a checkpoint and an image."""
    from PIL import Image

    model = ModelConfig("lenet", stride=4, num_classes=3)
    net = build(model)
    for name, parameter in net.named_parameters():
        if "score" in name and name.endswith("weight") and parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    header = Header(model, LabelSpace.of(["a", "b", "c"]), CONVENTIONS["torchvision"])
    checkpoint.save(tmp_path / "model.safetensors", net.state_dict(), header)
    Image.new("RGB", (50, 40)).save(tmp_path / "photo.png")
    return tmp_path


def child(folder, code):
    """What a process that is nobody's but its own prints."""
    command = [sys.executable, "-c", SETUP + textwrap.dedent(code), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize("who", ["library", "command"])
def test_the_allocator_is_told_nothing_by_a_library_call(folder, who):
    run = {
        "library": "fullconv.load(folder / 'model.safetensors')(photo)",
        "command": """
from fullconv.cli.command import main
try:
    main(["predict", str(folder / "model.safetensors"), str(folder / "photo.png"), "--out", str(folder / "out")])
except SystemExit as end:
    assert not end.code
""",
    }[who]
    watched = """
import ctypes
class Watched(ctypes.CDLL):
    def __getattr__(self, name):
        names.add(name)
        return super().__getattr__(name)
names, ctypes.CDLL = set(), Watched
"""
    found = child(folder, watched + run + "\nprint('mallopt' in names)")
    assert found[-1] == str(who == "command")


@pytest.mark.slow
def test_nothing_else_of_the_process_is_changed(folder):
    """Warnings, loggers, modules and signals are watched while a net is loaded, run, exported and a label is read."""
    assert child(
        folder,
        """
        def state():
            loggers = {n: logging.getLogger(n).level for n in ("", "torch.onnx", "onnxscript", "tifffile")}
            handlers = [signal.getsignal(number) for number in signal.valid_signals()]
            return list(warnings.filters), loggers, handlers, [n for n, m in sys.modules.items() if m is None]

        import torch.onnx
        import importlib.util
        for name in ("onnxscript", "onnxruntime", "fullconv.backends.openvino", "tifffile"):
            if importlib.util.find_spec(name):
                __import__(name)
        if importlib.util.find_spec("openvino"):
            sys.modules["fullconv.backends.openvino"].core()
        before, during = state(), []
        predictor = fullconv.load(folder / "model.safetensors")
        real = torch.export.export
        def watched(*args, **more):
            during.append(state())
            return real(*args, **more)
        torch.export.export = watched
        predictor(folder / "photo.png")
        if importlib.util.find_spec("openvino"):
            fullconv.compile(predictor.net, (40, 50), engine="openvino")
        from fullconv.exporting.export import export
        export(predictor, folder / "m.pt2", (40, 50))
        from fullconv.io.multispectral import _library
        _library("tifffile", required=False)
        assert during
        for now in (*during, state()):
            assert now == before, [(a, b) for a, b in zip(now, before) if a != b]
        print("same")
        """,
    ) == ["same"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="needs fullconv[zoo]")
def test_no_operators_are_registered_under_the_name_of_torchvision(folder):
    """Where it fits its torch it has its own; where it does not, a library call says so in one line."""
    said = child(
        folder,
        """
        from fullconv.errors import UsageError
        try:
            import torchvision
            print("fits")
        except RuntimeError:
            from fullconv.models.backbones.external import library
            try:
                library("torchvision")
            except UsageError as problem:
                assert "it does not fit the torch that is installed" in str(problem) and "\\n" not in str(problem)
            print(hasattr(torch.ops.torchvision, "nms"))
        """,
    )
    assert said in (["fits"], ["False"])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("openvino_telemetry") is None, reason="needs OpenVINO")
@pytest.mark.parametrize("who", ["net", "int8"])
def test_no_use_of_openvino_is_reported(folder, who):
    """Its package for that is importable, and is asked for nothing, in this process or in that of nncf."""
    if who == "int8" and importlib.util.find_spec("nncf") is None:
        pytest.skip("needs nncf")
    assert child(
        folder,
        f"""
        import os
        os.environ["HOME"] = str(folder / "home")  # where the name of this user would be made up and kept
        (folder / "home").mkdir()
        import openvino_telemetry.main as telemetry
        telemetry.Telemetry.init = None
        predictor = fullconv.load(folder / "model.safetensors", engine="openvino")
        predictor(photo)
        if {who!r} == "int8":
            from fullconv.backends.openvino import of_net
            from fullconv.exporting.int8 import openvino_in_int8
            x = np.random.default_rng(0).normal(size=(1, 3, 40, 50)).astype(np.float32)
            made = openvino_in_int8(of_net(predictor.net, (40, 50)), [x], [])
            assert "FakeQuantize" in {{op.get_type_name() for op in made.get_ops()}}
        fullconv.compile(predictor.net, (40, 50), engine="openvino")
        assert sys.modules["openvino_telemetry"].main is telemetry
        assert not any((folder / "home").rglob("*")), list((folder / "home").rglob("*"))
        print("silent", "nncf" in sys.modules)
        """,
    ) == ["silent", "False"]
