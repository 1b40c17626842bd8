"""The studies of the paper as functions: each measures on the data at hand what the paper claims, and lays the paper's
numbers beside. One file for each kind of study; each study is a ``run(setting, say) -> Result``.

>>> list(STUDIES)[:3]
['table1', 'table2', 'figure4']
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from fullconv.errors import UsageError, suggestion
from fullconv.reproduce.result import Result, Row, Say
from fullconv.reproduce.setting import Setting, open_setting

__all__ = ["STUDIES", "Result", "Row", "Setting", "Study", "open_setting", "study"]


@dataclass(frozen=True)
class Study:
    """A study by name. about: one line. trains: whether nets are trained, from a classifier. module: its file, with
    ``:function`` if that is not ``run``.
    """

    about: str
    module: str
    trains: bool = True

    @property
    def run(self) -> Callable[[Setting, Say], Result]:
        """Measures; the module is imported only now."""
        module, _, name = self.module.partition(":")
        found: Callable[[Setting, Say], Result] = getattr(import_module(f"fullconv.reproduce.{module}"), name or "run")
        return found


STUDIES = {
    "table1": Study("AlexNet, VGG16, GoogLeNet as FCN-32s: size, receptive field, time (section 4.1)", "table1", False),
    "table2": Study("FCN-32s-fixed, 32s, 16s, 8s: the four numbers (section 4.2)", "table2"),
    "figure4": Study("the same scenes through FCN-32s, 16s and 8s (section 4.2)", "table2:run_figure4"),
    "figure5": Study(
        "whole images against sampled cells: the curves of the loss (section 4.3)", "patch_sampling:run_figure5"
    ),
    "balancing": Study(
        "weights of classes, and rare classes drawn more often (section 4.3)", "variations:run_balancing"
    ),
    "sampling": Study("whole images against sampled cells: final loss and speed (section 4.3)", "patch_sampling"),
    "augmentation": Study("mirror images and jitter (section 4.3)", "variations:run_augmentation"),
    "timing": Study("one dense pass of AlexNet against 100 patches (section 3.1)", "timing", False),
    "upper-bounds": Study("the best mean IU that coarse cells allow (appendix A)", "appendix_a", False),
}
"""All studies, in the order of `fullconv reproduce list`."""


def study(name: str) -> Study:
    """A study by name; raises `UsageError` with the nearest one for an unknown name."""
    if name not in STUDIES:
        raise UsageError(f"'{name}' is not a study; {suggestion(name, ['list', *STUDIES])}")
    return STUDIES[name]
