"""PyTorch's files are read as tensors or refused in one line; nothing in them runs, and no bomb goes off."""

import io
import os
import pickle
import struct
import tarfile
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.pytorch_files import OLD, SMALL, craft, instructions, plain, refused, saved
from torch import nn

from fullconv.errors import UsageError
from fullconv.weights.torch_file import WRAPPERS, read_state_dict

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


# What can be read.


@st.composite
def state_dicts(draw):
    shapes = st.lists(st.integers(0, 4), max_size=4)
    names = draw(st.lists(st.text("abc.é", min_size=1, max_size=6), min_size=1, max_size=5, unique=True))
    tensors = {}
    for name in names:
        tensor = (torch.randn(draw(shapes)) * 9).to(draw(st.sampled_from(DTYPES)))
        tensor = tensor.transpose(0, -1) if tensor.ndim > 1 and draw(st.booleans()) else tensor
        tensors[name] = nn.Parameter(tensor) if tensor.is_floating_point() and draw(st.booleans()) else tensor
    return tensors


@given(state_dicts(), st.sampled_from([None, *WRAPPERS]), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_what_was_saved_is_read(tensors, wrapper, parallel, ordered, old):
    content = {("module." if parallel else "") + name: tensor for name, tensor in tensors.items()}
    content = OrderedDict(content) if ordered else content
    if wrapper is not None:
        optimizer = {"state": {0: {"step": 3, "betas": (0.9, 0.999)}}, "param_groups": [{"lr": 0.1}]}
        content = {"epoch": 3, "best": 0.5, "arch": "vgg16", wrapper: content, "optimizer": optimizer}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        path.write_bytes(saved(content, **(OLD if old else {})))
        found = read_state_dict(path)
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert type(found[name]) is torch.Tensor and found[name].is_contiguous() and not found[name].requires_grad
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


def test_every_tensor_has_memory_of_its_own(tmp_path):
    whole = torch.arange(100.0)
    tied = {"a": whole, "b": whole, "part": whole[10:20], "turned": whole.reshape(4, 25).t()}
    (tmp_path / "tied.pth").write_bytes(saved(tied, **OLD) + b"\0" * 1000)
    torch.save({**tied, "room": torch.zeros(100)}, tmp_path / "zip.pth")
    for name in ("tied.pth", "zip.pth"):
        found = read_state_dict(tmp_path / name)
        memory = {tensor.untyped_storage().data_ptr() for tensor in found.values()}
        assert len(memory) == len(found)
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in found.values())
        assert all(torch.equal(found[key], tied[key]) for key in tied)


def test_modules_own_state_dicts_with_their_versions(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    for name, options in (("new.pth", {}), ("old.pth", OLD)):
        torch.save(net.state_dict(), tmp_path / name, **options)
        found = read_state_dict(tmp_path / name)
        net.load_state_dict(found, strict=True)
        assert all(torch.equal(found[key], tensor) for key, tensor in net.state_dict().items())


@pytest.mark.parametrize("method", ["items", "get", "keys", "__iter__"])
def test_attributes_in_a_file_do_not_take_the_place_of_methods(tmp_path, method):
    attribute = b"}X" + len(method).to_bytes(4, "little") + method.encode() + b"K\3sb."
    ordered = instructions().replace(b"}", b"ccollections\nOrderedDict\n)R", 1).replace(b"s.", b"s" + attribute)
    (tmp_path / "a.pth").write_bytes(craft(plain(ordered)))
    assert method in vars(torch.load(tmp_path / "a.pth", weights_only=True))
    assert torch.equal(read_state_dict(tmp_path / "a.pth")["a"], torch.zeros(4))


def test_pytorch_reads_it_with_weights_only(tmp_path, monkeypatch):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    seen, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *given, **options: seen.append(options) or load(*given, **options))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    read_state_dict(tmp_path / "a.pth")
    assert [options["weights_only"] for options in seen] == [True]


# What is not a state dict.


@pytest.mark.parametrize(
    "content, words",
    [
        ({"a": torch.ones(1), "epoch": 3}, "its entry 'epoch' is not a tensor (it is of type int)"),
        ({"state_dict": {"a": torch.ones(1), "b": [1]}}, "its entry 'b' is not a tensor"),
        ({"a": None}, "of type NoneType"),
        ({0: torch.ones(1)}, "its entry '0'"),
        ({"two\nlines": 1}, r"'two\nlines'"),
        ({}, "it holds no tensors"),
        ({"model": {}}, "it holds no tensors"),
        ([torch.ones(1)], "it holds a list"),
        (torch.ones(1), "it holds a Tensor"),
        ({"a": torch.zeros(1).expand(10**6)}, "its tensors have 4,000,000 bytes"),
        ({"a": torch.eye(2).to_sparse()}, "_rebuild_sparse_tensor"),
    ],
)
@pytest.mark.parametrize("options", [{}, OLD], ids=["new", "old"])
def test_content_that_is_no_state_dict_is_named(tmp_path, content, words, options):
    path = tmp_path / "x.pth"
    path.write_bytes(saved(content, **options))
    refused(path, words)


@pytest.mark.parametrize(
    "content, words",
    [(b"", "an empty file"), (b"<!DOCTYPE html>", "an HTML page"), (b"\n <html><body>", "an HTML page"),
     (b"version https://git-lfs.github.com/spec/v1", "run git lfs pull"), (b"epoch: 3\n", "not a file of torch.save"),
     (b"PK\x03\x04", "cut off"), (b"PK\x05\x06" + bytes(18), "not a file of torch.save"), (b"\x80", "a pickle")],
)  # fmt: skip
def test_what_came_instead_is_named(tmp_path, content, words):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    refused(path, words)


def test_what_is_no_file_is_named(tmp_path):
    refused(tmp_path / "none.pth", "no such file")
    refused(tmp_path, "not a file")
    os.mkfifo(tmp_path / "fifo.pth")
    refused(tmp_path / "fifo.pth", "not a file")
    refused(tmp_path / ("x" * 300), "cannot be read")


# Programs.


class Evil:
    """What an attacker pickles: reading it makes the marker."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def legacy_tar(evil):
    """The layout of PyTorch 0.1: a tar of pickles."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            data = pickle.dumps(evil, 2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def torchscript(_):
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def mixed_with_tensors(evil):
    return {"state_dict": {"a": torch.ones(2)}, "args": evil}


PROGRAMS = {
    **{f"pickle-{p}": (lambda evil, p=p: pickle.dumps(evil, p), "pickle") for p in (2, 3, 4, 5)},
    "pickle-0": (lambda evil: pickle.dumps(evil, 0), "not a file of torch.save"),
    "zip": (saved, "it names 'posix.mkdir'"),
    "zip-in-wrapper": (lambda evil: saved(mixed_with_tensors(evil)), "it names 'posix.mkdir'"),
    "zip-protocol-4": (lambda evil: saved(evil, pickle_protocol=4), "STACK_GLOBAL"),
    "old": (lambda evil: saved(evil, **OLD), "it names 'posix.mkdir'"),
    "old-in-wrapper": (lambda evil: saved(mixed_with_tensors(evil), **OLD), "it names 'posix.mkdir'"),
    "tar": (legacy_tar, "a tar archive of PyTorch 0.1"),
    "torchscript": (torchscript, "a TorchScript program"),
    "module": (lambda _: saved(nn.Conv2d(3, 4, 3)), "it names 'torch.nn.modules.conv.Conv2d'"),
    "module-old": (lambda _: saved({"model": nn.Linear(1, 1)}, **OLD), "it names 'torch.nn.modules.linear.Linear'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_no_program_runs(tmp_path, kind, monkeypatch):
    make, words = PROGRAMS[kind]
    path, marker = tmp_path / "evil.pth", tmp_path / "marker"
    path.write_bytes(make(Evil(marker)))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("PyTorch was given the file"))
    message = refused(path, words)
    assert not marker.exists()
    if kind != "pickle-0":
        assert "torch.save(model.state_dict(), FILE)" in message


def test_the_marker_would_appear(tmp_path):
    with pytest.raises(FileExistsError):  # made twice: the pickle does run when it is let
        for _ in range(2):
            pickle.loads(pickle.dumps(Evil(tmp_path / "marker"), 2))


# Damage.


def read_bytes(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.pth"
        path.write_bytes(content)
        return read_state_dict(path)


@given(st.data())
@settings(max_examples=200)
def test_a_flipped_bit_is_found_or_changes_nothing(data):
    content = bytearray(saved(SMALL))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = read_bytes(bytes(content))
    except UsageError:
        return
    assert found.keys() == SMALL.keys() and all(torch.equal(found[name], SMALL[name]) for name in SMALL)


@given(st.integers(0, 10**6), st.booleans())
def test_a_cut_file_is_refused(cut, old):
    content = saved(SMALL, **(OLD if old else {}))
    with pytest.raises(UsageError):
        read_bytes(content[: cut % len(content)])


@given(st.binary(min_size=1, max_size=40), st.integers(0, 10**6), st.booleans())
@settings(max_examples=150)
def test_bytes_put_into_a_file_never_end_in_anything_but_a_refusal(junk, place, old):
    content = saved(SMALL, **(OLD if old else {}))
    place %= len(content)
    try:
        read_bytes(content[:place] + junk + content[place + len(junk) :])
    except UsageError as problem:
        assert "\n" not in str(problem)


def test_every_bit_of_the_tensors_is_guarded(tmp_path):
    content, path = saved({"a": torch.full((64,), 1.5)}), tmp_path / "x.pth"
    start = content.index(struct.pack("<f", 1.5) * 64)
    for bit in range(0, 64 * 32, 7):
        bad = bytearray(content)
        bad[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        refused(path, "CRC-32", "take another copy")


def test_a_zip_that_is_not_pytorchs_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("images/a.png", b"")
    refused(tmp_path / "x.pth", "not one of torch.save")
