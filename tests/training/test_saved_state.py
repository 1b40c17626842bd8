"""The states of a run on disks that fail, and in files with a flipped bit: found whole, or not at all.

FULLCONV_FAULTS=full does the counts of ``make faults``.
"""

import itertools
import json
import os

import pytest
import safetensors.torch
import torch
from tests.support.damage import errors_at_every_operation, every_bit, flipped_bits, power_losses
from tests.support.faulty_disk import (
    ERRORS,
    Disk,
    ShortDisk,
    Tape,
    a_state,
    found_in,
    saved,
    using,
)

from fullconv.errors import RunError, UsageError
from fullconv.training.saved_state import newest_state, save_state
from fullconv.weights import checkpoint
from fullconv.weights.checkpoint import fingerprint, pack, unpack

FULL = os.environ.get("FULLCONV_FAULTS") == "full"


def test_an_error_at_any_operation_leaves_the_old_state_or_the_new_one(tmp_path):
    counts = errors_at_every_operation(tmp_path)
    assert counts["wrong"] == counts["leftovers"] == 0
    assert counts["old"] > 0 and counts["new"] > 0
    assert counts["old"] + counts["new"] == counts["faults"] == 2 * len(ERRORS) * counts["operations"]


@pytest.mark.parametrize("seed", range(3))
def test_a_disk_that_takes_little_at_a_time_has_the_same_file(tmp_path, seed):
    saved(tmp_path / "plain", 1)
    saved(tmp_path / "short", 1, on=ShortDisk(seed))
    plain, short = (tmp_path / name / "step-000000001.safetensors" for name in ("plain", "short"))
    assert short.read_bytes() == plain.read_bytes()


def test_the_power_may_fail_at_any_moment(tmp_path):
    counts = power_losses(tmp_path, Tape(), **({"saves": 8, "tears": 4} if FULL else {}))
    assert counts["wrong"] == 0
    assert counts["states"] > 300 and counts["new"] > 10


@pytest.mark.parametrize("forgotten", ["force file", "force folder"])
def test_the_test_of_power_loss_can_fail(tmp_path, forgotten):
    assert power_losses(tmp_path, Tape(lambda what, path: what == forgotten), enough=1)["wrong"]


def test_old_states_go_only_when_the_disk_has_the_new_one(tmp_path):
    tape = saved(tmp_path, 1, 2, 3, on=Tape())
    done = [(what, path.name) for what, path, *_ in tape.notes]
    assert done[-3:] == [
        ("replace", f".step-000000003.safetensors.{os.getpid()}.tmp"),
        ("force folder", tmp_path.name),
        ("unlink", "step-000000001.safetensors"),
    ]
    assert done[-4][0] == "force file"


def test_an_old_state_that_cannot_be_deleted_is_no_error(tmp_path):
    class Keeping(Disk):
        def operate(self, name, call, *args):
            if name == "unlink":
                raise PermissionError(13, "Permission denied")
            return call(*args)

    saved(tmp_path, 1, 2, 3, 4, on=Keeping())
    assert found_in(tmp_path) == 4


def test_a_state_that_was_passed_over_does_not_push_out_a_whole_one(tmp_path):
    saved(tmp_path, 4, 6)
    (tmp_path / "step-000000006.safetensors").write_bytes(b"damaged")
    assert found_in(tmp_path) == 4
    saved(tmp_path, 5)
    assert sorted(path.name[-13] for path in tmp_path.iterdir()) == ["4", "5"]


def test_a_run_of_damaged_states_is_not_begun_anew_in_silence(tmp_path):
    assert newest_state(tmp_path) is None
    for step in (1, 2):
        (tmp_path / f"step-00000000{step}.safetensors").write_bytes(b"damaged")
    with pytest.raises(UsageError, match="none of its 2 saved states is whole"):
        newest_state(tmp_path)


# One flipped bit


def test_any_flipped_bit_is_found(tmp_path):
    counts = every_bit(tmp_path) if FULL else flipped_bits(tmp_path, 1000)
    assert counts["found"] == counts["flips"]


def test_a_file_from_before_the_seal_is_read_and_its_tensors_are_checked(tmp_path):
    tensors, path = {"a": torch.arange(5.0), "b": torch.ones(2, 3)}, tmp_path / "old.safetensors"
    text = json.dumps({"step": 7, "sha256": fingerprint(tensors)})
    safetensors.torch.save_file(tensors, path, {"fullconv": text})
    read, header = unpack(path)
    assert header["step"] == 7 and torch.equal(read["b"], tensors["b"])
    safetensors.torch.save_file({**tensors, "a": torch.arange(5.0) + 1}, path, {"fullconv": text})
    with pytest.raises(UsageError, match="its tensors do not fit their SHA-256"):
        unpack(path)


GOOD = json.dumps({"sha256": fingerprint({"a": torch.ones(2)})})
SEAL = checkpoint._seal(GOOD, json.loads(GOOD)["sha256"])


@pytest.mark.parametrize(
    "metadata, words",
    [
        ({"fullconv.sha256": SEAL}, "its header is damaged"),
        ({"fullconv": GOOD, "fullconv.sha257": SEAL}, "its header is damaged"),
        ({"fullconv": GOOD, "fullconv.sha256": SEAL, "format": "pt"}, "its header is damaged"),
        ({"fullconv": GOOD, "fullconv.sha256": SEAL[::-1]}, "its header does not fit its SHA-256"),
        ({"fullconv": GOOD + " ", "fullconv.sha256": SEAL}, "its header does not fit its SHA-256"),
        ({"fullconv": GOOD[::-1], "fullconv.sha256": SEAL}, "its header is damaged"),
        ({"fullconv": "[1]"}, "its header is damaged"),
        ({"fullconv": "{}"}, "its header is damaged"),
        ({"fullconv": '{"sha256": 1}'}, "its tensors do not fit"),
    ],
)
def test_metadata_that_was_not_written_so_is_refused(tmp_path, metadata, words):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, path, metadata)
    with pytest.raises(UsageError, match=words):
        unpack(path)
    safetensors.torch.save_file({"a": torch.ones(2)}, path, {"fullconv": GOOD, "fullconv.sha256": SEAL})
    assert unpack(path)[1] == json.loads(GOOD)


# What is in a state


@pytest.mark.parametrize("where", ["net", "optimizer", "average"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_not_saved(tmp_path, where, value):
    saved(tmp_path, 1)
    state = a_state(2)
    state.average = {name: tensor.clone() for name, tensor in state.net.state_dict().items()}
    weight = state.net[0].weight
    place = {
        "net": weight,
        "optimizer": state.optimizer.state[weight]["momentum_buffer"],
        "average": state.average["0.weight"],
    }[where]
    with torch.no_grad():
        place[1, 0, 2, 1] = value
    with using(Disk()) as disk, pytest.raises(RunError, match=rf"step 2: {where}\.\S*0\.weight .* not finite"):
        save_state(tmp_path, state, {})
    assert disk.count == 0
    assert found_in(tmp_path) == 1


KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32,
         torch.int16, torch.int8, torch.uint8, torch.bool]  # fmt: skip
SHAPES = [(), (0,), (1,), (7,), (3, 0, 2), (3, 5), (5, 3, 3, 2)]


def test_tensors_of_every_kind_and_layout_come_back_as_the_library_reads_them(tmp_path):
    tensors = {
        f"{kind}{shape}{layout}": make(torch.randint(0, 2, shape).to(kind))
        for kind, shape in itertools.product(KINDS, SHAPES)
        for layout, make in {"": torch.clone, " turned": lambda t: t.transpose(0, -1) if t.ndim else t}.items()
    }
    size, pieces = pack(tensors, {"note": "é\n\udce9"})
    path = tmp_path / "x.safetensors"
    checkpoint.write_pieces(path, size, pieces)
    assert path.stat().st_size == size
    library, (ours, header) = safetensors.torch.load_file(path), unpack(path)
    assert header["note"] == "é\n\udce9" and header["sha256"] == fingerprint(tensors)
    assert library.keys() == ours.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(library[name], tensor) and torch.equal(ours[name], tensor), name
        assert ours[name].dtype == tensor.dtype, name
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    head = json.loads(content[8:begin])
    assert all((begin + head[name]["data_offsets"][0]) % tensor.element_size() == 0 for name, tensor in tensors.items())


def test_large_tensors_are_saved_in_parts_that_make_the_whole(tmp_path):
    large = torch.randn(300, 64, 16, 16).contiguous(memory_format=torch.channels_last)  # 19 MB, of more than two parts
    tensors = {"large": large, "flat": torch.randn(5_000_001), "small": torch.ones(3)}
    checkpoint.write_pieces(tmp_path / "x.safetensors", *pack(tensors, {}))
    found, header = unpack(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert header["sha256"] == fingerprint({name: tensor.contiguous() for name, tensor in tensors.items()})


def test_what_the_format_has_not_is_refused_by_name():
    with pytest.raises(RunError, match=r"wave: a safetensors file holds no torch\.complex128; convert"):
        pack({"wave": torch.zeros(2, dtype=torch.complex128)}, {})
