"""What TensorBoard reads is what the records said, each step once, also of a run that was resumed."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from fullconv.errors import RunError, UsageError
from fullconv.metrics import Scores
from fullconv.reporting.tensorboard import Board, scalars
from fullconv.training.loop import Record

NAMES = ("background", "traffic light/sign", "caf\udce9", "道路")


def record(step: int, loss: float = 1.0, scored: bool = False) -> Record:
    iu = (0.5, 0.25, None, 1.0)
    scores = Scores(0.75, 0.5, 0.625, None, iu, iu, (4, 3, 0, 2), 3) if scored else None
    return Record(step, loss, 0.1 / step, 6, 100, 1.5, scores)


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each tag, as TensorBoard shows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_events_are_the_records(tmp_path: Path) -> None:
    with Board(tmp_path) as board:
        for step in (1, 2, 3):
            board.write(record(step, 1 / step, scored=step == 2), NAMES)
    found = read(tmp_path)
    assert found["training/loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert found["training/learning_rate"] == [(1, pytest.approx(0.1)), (2, pytest.approx(0.05)),
                                               (3, pytest.approx(0.1 / 3))]  # fmt: skip
    assert found["training/images_per_second"] == [(step, 4.0) for step in (1, 2, 3)]
    assert found["validation/mean_iu"] == [(2, 0.625)] and found["validation/pixel_accuracy"] == [(2, 0.75)]
    assert found["iu/traffic_light_sign"] == [(2, 0.25)] and found["iu/道路"] == [(2, 1.0)]
    # What cannot be computed is no point of a curve.
    assert "validation/frequency_weighted_iu" not in found and "iu/caf_" not in found


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    with Board(tmp_path) as board:
        for step in range(1, 8):  # killed after step 7, its state saved after step 4
            board.write(record(step, loss=1.0), NAMES)
    with Board(tmp_path) as board:
        for step in range(5, 10):
            board.write(record(step, loss=2.0), NAMES)
    assert len(list(tmp_path.glob("events.*"))) == 2
    assert read(tmp_path)["training/loss"] == [(step, 1.0 if step < 5 else 2.0) for step in range(1, 10)]


def test_a_board_that_writes_nothing_leaves_nothing(tmp_path: Path) -> None:
    with Board(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_without_the_package_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'fullconv\[tensorboard\]'"):
        Board(tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="leave out --tensorboard"), Board(tmp_path / "file") as board:
        board.write(record(1), NAMES)


def test_memory_is_shown_where_it_was_measured() -> None:
    assert scalars(replace(record(1), memory=3 * 2**30), ())["training/memory_gib"] == 3.0
    assert "training/memory_gib" not in scalars(record(1), ())
    assert "training/images_per_second" not in scalars(Record(1, 1.0, 0.1, 1, 1, 0.0), ())
