"""An exported file is kept only if it says what the net says."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx as onnx_package
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.small_nets import graph, image, predictor

import fullconv.exporting.export
from fullconv.backends import onnx, torch_export
from fullconv.config import InputConvention
from fullconv.errors import RunError, UsageError
from fullconv.exporting import gate
from fullconv.exporting import int8 as quantize
from fullconv.exporting.export import export
from fullconv.exporting.gate import Agreement, compare, photographs, to_size
from fullconv.inference.exported import load_exported

SIZE = (40, 56)


@pytest.fixture
def quick(monkeypatch):
    """The graph of the small net without the exporter's seconds."""
    content = graph(SIZE, backbone="lenet", stride=4)
    monkeypatch.setattr(onnx, "to_onnx", lambda net, size: onnx_package.load_model_from_string(content))
    return predictor("lenet", 4)


def spoil(monkeypatch, change):
    """Files whose weights were changed before they were written."""
    write = fullconv.exporting.export.write

    def spoilt(model, *rest):
        for tensor in model.graph.initializer:
            if tensor.name.endswith("weight"):
                values = onnx_package.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx_package.numpy_helper.from_array(change(values), tensor.name))
        write(model, *rest)

    monkeypatch.setattr(fullconv.exporting.export, "write", spoilt)


@pytest.mark.parametrize("name", ["m.onnx", "m.xml"])
def test_a_good_file_is_kept(quick, tmp_path, name):
    asked = []
    checked = export(quick, tmp_path / "deep" / name, SIZE, measure=lambda one: asked.append(one) or 0.5)
    assert checked.failure is None and checked.precision == "fp32" and checked.mean_iu == (0.5, 0.5)
    assert checked.agreement.relative <= 1e-5 and checked.agreement.labels == 1
    assert checked.agreement.sizes == (SIZE,) and checked.agreement.pixels == 2 * SIZE[0] * SIZE[1]
    assert asked[0] is quick and asked[1].header.size == SIZE
    left = sorted(path.name for path in (tmp_path / "deep").iterdir())
    assert left == (["m.onnx"] if name == "m.onnx" else ["m.bin", "m.xml"])
    assert checked.bytes == sum(path.stat().st_size for path in (tmp_path / "deep").iterdir())
    shot = image(*SIZE)
    assert (load_exported(tmp_path / "deep" / name)(shot).prediction == quick(shot).prediction).all()


def test_what_killed_exports_left_is_removed_by_the_next(quick, tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    names = {
        "of a dead process": f".m.onnx.{int(dead.stdout)}-abc.tmp",
        "of a living one": f".m.onnx.{os.getppid()}-abc.tmp",
        "of another file": f".other.onnx.{int(dead.stdout)}-abc.tmp",
        "of nobody": ".m.onnx.notes-abc.tmp",
    }
    for name in names.values():
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.onnx").write_bytes(b"part")
    export(quick, tmp_path / "m.onnx", SIZE)
    del names["of a dead process"]
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", *names.values()}


@pytest.mark.slow
def test_an_export_that_is_killed_leaves_nothing_for_good(tmp_path):
    """The folder bears the number of its process, so the next export knows that nobody needs it."""
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1]); import fullconv.exporting.export as e\n"
        "from small_nets import predictor\n"
        "e.keep = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "e.export(predictor('lenet', 4), sys.argv[2], (40, 56))\n"
    )
    support = str(Path(__file__).parents[1] / "support")
    killed = subprocess.run([sys.executable, "-c", code, support, str(tmp_path / "m.pt2")], capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".m.pt2.") and (left / "m.pt2").stat().st_size
    export(predictor("lenet", 4), tmp_path / "m.pt2", SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"]


def test_a_program_is_kept(tmp_path):
    checked = export(predictor("lenet", 4), tmp_path / "m.pt2", SIZE)
    assert checked.failure is None and [path.name for path in tmp_path.iterdir()] == ["m.pt2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m.onnx", "m.xml", "m.pt2"])
def test_a_file_for_any_size_is_run_on_several(tmp_path, name):
    checked = export(predictor(stride=16), tmp_path / name)
    assert checked.size is None and len(checked.agreement.sizes) == 5 and checked.failure is None
    assert checked.least == 1 or name == "m.pt2"
    if checked.least > 1:
        said = {"fullconv": ""}
        found = torch.export.load(tmp_path / name, extra_files=said).module()
        assert json.loads(said["fullconv"])["least"] == checked.least
        found(torch.zeros(1, 3, checked.least, 2 * checked.least))
        with pytest.raises((RuntimeError, AssertionError)):
            found(torch.zeros(1, 3, 1, 2 * checked.least))


def test_a_spoilt_program_is_not_kept(tmp_path, monkeypatch):
    def spoilt(net, size, real=torch_export.program):
        net = copy.deepcopy(net)
        for parameter in net.parameters():
            parameter.data.neg_()
        return real(net, size)

    monkeypatch.setattr(torch_export, "program", spoilt)
    with pytest.raises(RunError, match="not written, since"):
        export(predictor("lenet", 4), tmp_path / "m.pt2", SIZE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["m.onnx", "m.xml"])
@pytest.mark.parametrize("change", [lambda w: w * np.float32(1.001), lambda w: -w, lambda w: w * np.float32(np.nan)])
def test_a_spoilt_file_is_not_kept(quick, tmp_path, monkeypatch, name, change):
    (tmp_path / name).write_text("the old one")
    spoil(monkeypatch, change)
    with pytest.raises(RunError, match=r"not written, since|are no numbers") as refused:
        export(quick, tmp_path / name, SIZE)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "the old one"


def test_the_mean_iu_counts(quick, tmp_path):
    with pytest.raises(RunError, match=r"its mean IU is 49\.00 and that of the net 50\.00; 0\.5 less is allowed"):
        export(quick, tmp_path / "m.onnx", SIZE, measure=lambda one: 0.5 if one is quick else 0.49)
    assert not list(tmp_path.iterdir())


def test_labels_of_one_pixel_in_a_thousand_are_too_many():
    good = {"difference": 0.0, "spread": 1.0, "sizes": (SIZE,), "images": 1, "pixels": 1000}
    checked = fullconv.exporting.export.Checked(Path("m"), "fp32", 0, SIZE, 1, 1, Agreement(labels=0.999, **good))
    assert "99.90 % of its labels" in checked.failure
    nothing = Agreement(labels=1.0, **{**good, "spread": 0.0})
    assert nothing.relative == 0 and Agreement(labels=1.0, **{**good, "spread": 0.0, "difference": 1.0}).relative == 1


@pytest.mark.parametrize(
    "name, int8, said",
    [("m", False, "its suffix says no format; give one of: .onnx, .xml, .pt2"), ("m.pt2", True, "in fp32 alone"),
     ("folder.onnx", False, "it is a folder")],
)  # fmt: skip
def test_what_is_refused_before_any_work(tmp_path, name, int8, said):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UsageError, match=said):
        export(predictor("lenet", 4), tmp_path / name, SIZE, calibration=[image(*SIZE)] if int8 else ())


@pytest.mark.parametrize(
    "missing, name, extra",
    [("onnxscript", "m.onnx", "onnx"), ("onnxruntime", "m.onnx", "onnx"), ("openvino", "m.xml", "openvino")],
)  # fmt: skip
def test_a_missing_library_says_its_extra(tmp_path, monkeypatch, missing, name, extra):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError, match=rf"{missing}: it is not installed; pip install 'fullconv\[{extra}\]'"):
        export(predictor("lenet", 4), tmp_path / name, SIZE)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40))
def test_any_image_takes_any_size(rows, columns, height, width):
    shot = image(rows, columns)
    found = to_size(shot, (height, width))
    assert found.shape == (height, width, 3) and to_size(shot, None) is shot
    assert {tuple(p) for p in found.reshape(-1, 3)} <= {tuple(p) for p in shot.reshape(-1, 3)}
    assert (to_size(shot, (rows, columns)) == shot).all()


@pytest.mark.parametrize(
    "convention, kind",
    [(InputConvention(), np.uint8), (InputConvention("rgb", (9.0,) * 5, (2.0,) * 5), np.float32)],
)
def test_images_that_look_like_photographs(convention, kind):
    channels = len(convention.mean)
    found = photographs(channels, convention, gate.SIZES)
    assert [shot.shape for shot in found] == [(*size, channels) for size in gate.SIZES for _ in range(2)]
    assert {shot.dtype.type for shot in found} == {kind}
    large = found[-1].astype(float)
    beside, apart = (np.abs(large[:, step:] - large[:, :-step]).mean() for step in (1, 50))
    assert beside < apart / 2  # neighbours are alike


def test_the_comparison_sees_what_is_wrong(quick, tmp_path):
    path = tmp_path / "m.onnx"
    export(quick, path, SIZE)
    other = predictor("lenet", 4, padding="paper")
    shots = [image(*SIZE)]
    assert compare(quick, load_exported(path), load_exported(path, whole=True), shots).labels == 1
    found = compare(other, load_exported(path), load_exported(path, whole=True), shots)
    assert found.labels < 0.9999 or found.relative > 1e-4


# -- 8-bit integers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """A net that has learnt to tell bright from dark from red, as far as a few steps go, and such images."""
    from fullconv.inference.tensor_input import to_input

    one = predictor("lenet", 4, width=0.2)
    rng = np.random.default_rng(0)

    def scene():
        truth = rng.integers(0, 3, (5, 7)).repeat(8, 0).repeat(8, 1)
        colours = np.array([[40, 40, 40], [200, 200, 200], [200, 30, 30]])
        return (colours[truth] + rng.normal(0, 20, (*truth.shape, 3))).clip(0, 255).astype(np.uint8), truth

    net = one.net.train()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(150):
        shot, truth = scene()
        x = to_input(torch.from_numpy(shot[None]), one.header.input)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), torch.from_numpy(truth[None])).backward()
        optimizer.step()
    net.eval()
    return one, [scene()[0] for _ in range(8)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m.onnx", pytest.param("m.xml", marks=pytest.mark.slow)])
def test_integers_keep_the_labels(trained, tmp_path, name):
    one, shots = trained
    exact = export(one, tmp_path / "fp32.onnx", SIZE)
    checked = export(one, tmp_path / name, SIZE, images=shots[:4], calibration=shots[4:], measure=lambda one: 0.9)
    assert checked.precision == "int8" and checked.agreement.labels >= 0.99 and checked.mean_iu == (0.9, 0.9)
    assert checked.agreement.relative > 10 * exact.agreement.relative  # they are integers
    assert load_exported(tmp_path / name).header.precision == "int8"


@pytest.mark.slow
def test_integers_that_lose_the_labels_are_not_kept(trained, tmp_path, monkeypatch):
    one, shots = trained
    tried, agreements = [], iter([0.98, 0.985, 0.989, 0.9899])

    def worse(*given):
        tried.append(given[1].header.exact)
        return replace(compare(*given), labels=next(agreements))

    monkeypatch.setattr(fullconv.exporting.export, "compare", worse)
    with pytest.raises(RunError, match=r"98\.99 % of its labels are those of the net, and 99 % are needed; give more"):
        export(one, tmp_path / "m.onnx", SIZE, images=shots[:4], calibration=shots[4:])
    assert not list(tmp_path.iterdir()) and tried == list(fullconv.exporting.export.EXACT)


def test_what_keeps_fp32():
    model = onnx_package.load_model_from_string(graph(SIZE, backbone="lenet", stride=4))
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    kept = quantize.in_fp32(model, 0)
    assert [name for name in convolutions if name in kept] == convolutions[-1:]  # the scores
    assert model.graph.node[-1].name in kept
    assert set(quantize.in_fp32(model, 1)) == {*kept, convolutions[0]}
