"""Small files that would take all memory, all time or the process itself are refused, and take none."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.support.pytorch_files import OLD, SMALL, craft, deflated, instructions, plain, refused, saved

from fullconv.weights.torch_file import MOST_PARTS, read_state_dict


def craft_nested():
    """An archive whose second part lies, with its header, in the bytes of the first."""
    inner = craft([("x/data/1", bytes(16), 0, None, None)])
    inner = inner[: inner.index(b"PK\1\2")]
    whole = craft([*plain(data=inner), ("x/data/1", bytes(16), 0, None, None)])
    entry = whole.rindex(b"PK\1\2")
    at = whole.index(inner).to_bytes(4, "little")
    return whole[: entry + 42] + at + whole[entry + 46 :]


def many_views(count):
    whole = torch.zeros(1000)
    return {f"{i}": whole[i:] for i in range(count)}


BOMBS = {
    "compressed": (lambda: craft([*plain()[:1], ("x/data/0", deflated(400), 8, 400 << 20, None)]), "is compressed"),
    "4 TB": (lambda: craft([*plain()[:1], ("x/data/0", deflated(1), 8, 0xFFFFFFFE, None)]), "is compressed"),
    "compressed pickle": (lambda: craft([("x/data.pkl", deflated(64), 8, 64 << 20, None)]), "is compressed"),
    "larger than the file": (lambda: craft([*plain()[:1], ("x/data/0", bytes(16), 0, 1 << 31, None)]), "overlaps"),
    "overlap": (lambda: craft([*plain(), ("x/data/1", bytes(16), 0, None, "x/data/0")]), "overlaps"),
    "a part in a part": (craft_nested, "overlaps"),
    "a part twice": (lambda: craft([*plain(), *plain()]), "lists a part twice"),
    "a part in capitals": (lambda: craft([*plain(), ("X/DATA/0", b"", 0, None, None)]), "lists a part twice"),
    "miscounted": (lambda: craft(plain(), count=1), "lists a part twice"),
    "a list elsewhere": (lambda: craft(plain(), gap=b"hidden").replace(b"hidden", b"hidde"), "gap"),
    "a million parts": (lambda: craft(plain(), count=MOST_PARTS + 1), "more than a state dict"),
    "two ends": (lambda: craft(plain()) + b"PK\5\6" + bytes(18), "gap"),
    "a comment": (lambda: craft(plain())[:-2] + b"\4\0PK\5\6", "no end"),
    "elements that are not there": (lambda: craft(plain(instructions(size=1 << 30))), "PyTorch cannot read it"),
    "deep": (lambda: craft(plain(instructions(b"}K\1" + b"\x85" * 10**6 + b"K\2s"))), "nested deeper"),
    "unfolding": (lambda: craft(plain(instructions(b")q\0" + b"h\0h\0\x86q\0" * 40))), "nested deeper"),
    "views": (lambda: saved(many_views(200)), "its tensors have"),
    "views, old": (lambda: saved(many_views(200), **OLD), "its tensors have"),
}


def test_the_crafted_archive_is_sound_where_it_does_not_lie(tmp_path):
    (tmp_path / "x.pth").write_bytes(craft(plain(data=struct.pack("<4f", 1, 2, 3, 4))))
    assert torch.equal(read_state_dict(tmp_path / "x.pth")["a"], torch.tensor([1.0, 2, 3, 4]))
    assert len(deflated(400)) < 500_000


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused(tmp_path, kind):
    make, words = BOMBS[kind]
    (tmp_path / "bomb.pth").write_bytes(make())
    refused(tmp_path / "bomb.pth", words)


@pytest.mark.parametrize(
    "name",
    ["torch._utils _rebuild_qtensor", "torch._utils _rebuild_wrapper_subclass", "torch FloatTensor", "torch Tensor",
     "builtins bytearray", "builtins eval", "torch.storage _load_from_bytes", "torch._tensor _rebuild_from_type_v2",
     "collections OrderedDict.fromkeys", "torch hub", "torch float"],
)  # fmt: skip
def test_names_that_no_state_dict_needs_are_refused(tmp_path, name):
    (tmp_path / "x.pth").write_bytes(craft(plain(instructions(f"c{name}\n0".replace(" ", "\n").encode()))))
    refused(tmp_path / "x.pth", f"it names '{name.replace(' ', '.')}'")


MEASURE = """
import sys
from pathlib import Path
from fullconv.errors import UsageError
from fullconv.weights.torch_file import read_state_dict

def kilobytes(what):
    status = Path("/proc/self/status").read_text()
    return int(status.partition(what + ":")[2].split()[0])

def grown(work):
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
    before = kilobytes("VmRSS")
    work()
    print(kilobytes("VmHWM") - before)

def refuse(name):
    try:
        read_state_dict(Path(name))
    except UsageError:
        return
    print("it was read")

read_state_dict(Path(sys.argv[1]))
grown(lambda: bytes(bytearray(b"x") * (64 << 20)))
for name in sys.argv[2:]:
    grown(lambda: refuse(name))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system does not tell peak memory")
def test_bombs_take_no_memory(tmp_path):
    torch.save(SMALL, tmp_path / "small.pth")
    names = []
    for number, (make, _) in enumerate(BOMBS.values()):
        names.append(str(tmp_path / f"{number}.pth"))
        Path(names[-1]).write_bytes(make())
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "small.pth"), *names], capture_output=True, text=True, check=True
    )
    gauge, *grown = map(int, run.stdout.split())
    assert gauge > 60 * 1024  # kilobytes: the measure sees what is there to see
    assert len(grown) == len(BOMBS) and max(grown) < 20 * 1024, grown
