"""PyTorch's files made by hand, true and lying, and how a refusal is read."""

import io
import struct
import zlib

import pytest
import torch

from fullconv.errors import UsageError
from fullconv.weights.torch_file import read_state_dict

SMALL = {"a.weight": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)}


def refused(path, *words):
    """The message of a refusal: one line, the file first."""
    with pytest.raises(UsageError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and ";" in message and len(message) < 500
    for word in words:
        assert word in message, message
    return message


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


OLD = {"_use_new_zipfile_serialization": False}


def craft(parts, count=None, gap=b""):
    """A zip archive of (name, data, method, claimed size, claimed start) parts, which may lie; None: the truth.

    The claimed size is that after unpacking, for a part that is stored (method 0) both.
    """
    body, directory, starts = b"", b"", {}
    for name, data, method, size, start in parts:
        starts[name] = len(body)
        size, at = len(data) if size is None else size, len(body) if start is None else starts[start]
        check = zlib.crc32(data)  # that of a packed part is never asked for
        common = struct.pack("<HHHHHIII", 20, 0, method, 0, 0, check, len(data) if method else size, size)
        body += b"PK\3\4" + common + struct.pack("<HH", len(name), 0) + name.encode() + data
        tail = struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, at)
        directory += b"PK\1\2" + struct.pack("<H", 20) + common + tail + name.encode()
    counts = (len(parts) if count is None else count,) * 2
    end = struct.pack("<HHHHIIH", 0, 0, *counts, len(directory), len(body) + len(gap), 0)
    return body + gap + directory + b"PK\5\6" + end


def instructions(*extra, size=4):
    """The pickle of {'a': a tensor of `size` elements}, with other instructions at its start."""
    storage = (
        b"((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpu" + b"J" + struct.pack("<i", size) + b"tQ"
    )
    tensor = b"K\0J" + struct.pack("<i", size) + b"\x85K\1\x85\x89ccollections\nOrderedDict\n)Rt"
    return b"".join((b"\x80\2", *extra, b"}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n", storage, tensor, b"Rs."))


def deflated(mebibytes):
    """So many mebibytes of zeros, in a thousandth of that, made in no time."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * mebibytes + packer.flush()


def plain(pickled=None, data=bytes(16)):
    pickled = instructions() if pickled is None else pickled
    parts = [("x/data.pkl", pickled), ("x/data/0", data), ("x/version", b"3\n")]
    return [(name, content, 0, None, None) for name, content in parts]
