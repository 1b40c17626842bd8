"""The published data sets, read as their official files lie on disk.

Each file of this folder is one family: what its files hold, its classes and counts, whom to cite, on which terms, where
it is to be had, and the reader. ``NAME:DIR`` opens one, ``fullconv data list`` shows them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from fullconv.datasets.published.description import DatasetInfo
from fullconv.datasets.published.split import Official, Split
from fullconv.errors import UsageError, suggestion

__all__ = ["DatasetInfo", "Official", "Split", "abouts", "named"]

FAMILIES = ("voc", "sbd", "context", "nyud", "siftflow", "camvid", "cityscapes", "ade20k")
"""The files of this folder that describe data sets, in the order in which they are listed."""


@cache
def abouts() -> dict[str, DatasetInfo]:
    """The description of every data set by its name.

    >>> abouts()["nyudv2"].splits
    {'trainval': 795, 'train': 381, 'val': 414, 'test': 654}
    """
    found: dict[str, DatasetInfo] = {}
    for family in FAMILIES:
        for about in import_module(f"fullconv.datasets.published.{family}").ABOUT:
            found[about.name] = about
    return found


@dataclass(frozen=True)
class Named:
    """An official data set in its folder: what ``NAME:DIR`` means."""

    about: DatasetInfo
    root: Path

    def open(self, split: str) -> Official:
        """One of its splits. Raises `UsageError` for a split that it does not have, and for what is missing in the
        folder: what was looked for, where, and where to get it.
        """
        self.about.require(split)
        return Official(self.about, split, self.about.read(self.about, self.root, split))


def named(text: str | Path) -> Named | None:
    """The official data set that ``NAME:DIR`` means; None where the text is not of this form (a folder, say).

    Raises `UsageError` for a name alone, and for a name that is none, if no folder bears it.

    >>> named("siftflow:somewhere").about.tasks["geometric"].names
    ('sky', 'horizontal', 'vertical')
    """
    name, colon, folder = str(text).partition(":")
    about = abouts().get(name)
    if about is not None and colon and folder:
        return Named(about, Path(folder))
    if about is not None and not Path(text).exists():
        raise UsageError(f"{text}: which folder is it in? give {name}:DIR, or get it with fullconv data get {name}")
    if colon and len(name) > 1 and "/" not in name and not Path(text).exists():  # one letter is a drive
        raise UsageError(f"{text}: there is no data set '{name}'; {suggestion(name, abouts())}")
    return None
