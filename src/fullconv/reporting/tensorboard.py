"""A run for TensorBoard: what the log holds, as its scalars."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.errors import RunError, UsageError
from fullconv.training.loop import Record

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_NOT_IN_A_TAG = re.compile(r"[^-\w.]")  # the slash too: it would open a group of its own
_FOUR = ("mean_iu", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iu")


class Board(AbstractContextManager["Board"]):
    """Writes records for TensorBoard into a folder, beside whatever is there (``events.out.tfevents.*``).

    Tags: ``training/loss``, ``training/learning_rate``, ``training/images_per_second``, ``training/memory_gib`` where
    it was measured; of an evaluation ``validation/mean_iu``, ``validation/pixel_accuracy``,
    ``validation/mean_accuracy``, ``validation/frequency_weighted_iu`` and ``iu/CLASS`` of every class, as fractions of
    1. What cannot be computed is left out.

    The first record of a board says where it begins: what earlier boards wrote of that step and those after it is
    purged, so that a resumed run has each step once. Use it as a context manager:

    ``with Board(run.folder) as board: ... board.write(record, names)``

    Raises `UsageError` when TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(
                "--tensorboard: TensorBoard is not installed; pip install 'fullconv[tensorboard]'"
            ) from None
        self.folder = folder
        self._kind = SummaryWriter
        self._writer: SummaryWriter | None = None

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def write(self, record: Record, names: Sequence[str]) -> None:
        """Write one record at its step. names: of the classes, in their order.

        Raises `RunError` when the folder cannot be written.
        """
        try:
            if self._writer is None:
                self._writer = self._kind(str(self.folder), purge_step=record.step)
            for tag, value in scalars(record, names).items():
                self._writer.add_scalar(tag, value, record.step)
            if record.scores is not None:
                self._writer.flush()
        except OSError as problem:
            raise RunError(
                f"{self.folder}: TensorBoard's events cannot be written ({problem.strerror or problem}); free the disk "
                "or leave out --tensorboard"
            ) from None

    def close(self) -> None:
        """Write down what waits. Nothing happens when nothing was written."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def scalars(record: Record, names: Sequence[str]) -> dict[str, float]:
    """The scalars of a record by their tags.

    >>> scalars(Record(step=1, loss=0.5, lr=0.1, images=4, valid=100, seconds=2.0), [])["training/images_per_second"]
    2.0
    """
    found: dict[str, Any] = {
        "training/loss": record.loss,
        "training/learning_rate": record.lr,
        "training/images_per_second": record.images / record.seconds if record.seconds > 0 else None,
    }
    if record.memory:
        found["training/memory_gib"] = record.memory / 2**30
    if record.scores is not None:
        found |= {f"validation/{name}": getattr(record.scores, name) for name in _FOUR}
        found |= {f"iu/{_tag(name)}": iu for name, iu in zip(names, record.scores.iu, strict=True)}
    return {tag: float(value) for tag, value in found.items() if value is not None}


def _tag(name: str) -> str:
    """The name of a class as TensorBoard takes it.

    >>> _tag("traffic light/sign"), _tag("道路")
    ('traffic_light_sign', '道路')
    """
    return _NOT_IN_A_TAG.sub("_", name)
