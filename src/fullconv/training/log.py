"""The records of a run as lines of ``log.jsonl``, in order and once each, and the split where it was made here."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from fullconv.data.dataset import Dataset, facts_of
from fullconv.errors import RunError, UsageError, shown
from fullconv.io.atomic import write_atomically
from fullconv.training.loop import Record


def as_json(record: Record, names: tuple[str, ...]) -> dict[str, Any]:
    """A record as a line of the log."""
    plain = {key: value for key, value in asdict(record).items() if key != "scores"}
    return plain if record.scores is None else {**plain, "scores": record.scores.to_dict(names)}


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run, in order; a last line that was cut short by a kill is left out.

    Raises `UsageError` if the log is not text.
    """
    lines = []
    path = folder / "log.jsonl"
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], start=1):
        try:
            lines.append(json.loads(line.decode()))
        except UnicodeDecodeError:
            raise UsageError(
                f"{shown(path)}: line {number} is damaged (it is not UTF-8); take another copy, or delete the line"
            ) from None
        except ValueError:
            break
    return lines


class Log:
    """``log.jsonl`` of a run that is at `step`: what was noted of later steps goes, they are about to be done again.

    writes: whether this process is the one that writes; the others hold an empty log.
    """

    def __init__(self, folder: Path, step: int, writes: bool = True) -> None:
        self.path = folder / "log.jsonl"
        self.file: IO[str] | None = None
        if not writes:
            return
        kept = [line for line in read_log(folder) if line["step"] <= step]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self.file = self.path.open("a", encoding="utf-8")

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.file is not None:
            self.file.close()

    def write(self, line: dict[str, Any]) -> None:
        """Note a record."""
        assert self.file is not None
        if not self.path.exists():  # what is written to a removed file is lost without a word
            raise RunError(f"{self.path.parent}: the folder of the run was removed while it was written; begin again")
        try:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        except OSError as problem:
            raise RunError(
                f"{self.path}: cannot write ({problem.strerror or problem}); free the disk and go on with --resume"
            ) from None

    def secure(self) -> None:
        """Force it to the disk: before a state is saved, so that no state is newer than what is noted."""
        assert self.file is not None
        os.fsync(self.file.fileno())


def write_split(folder: Path, dataset: Dataset, validation: Dataset | None) -> None:
    """Write down which images train and which validate, when the folder did not say and the split was made here."""
    made = facts_of(dataset).split_made
    if made is None:
        return
    splits = {"train": facts_of(dataset).pairs, "val": facts_of(validation).pairs if validation is not None else ()}
    names = {split: [name for name, *_ in pairs] for split, pairs in splits.items()}
    write_atomically(folder / "split.json", json.dumps({"how": made, **names}, indent=1).encode())
