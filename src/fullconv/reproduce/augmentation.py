"""Section 4.3, "Augmentation": mirror images, and shifts by up to 32 pixels."""

from __future__ import annotations

from dataclasses import replace

from fullconv.reproduce.result import Result, Say
from fullconv.reproduce.setting import Setting
from fullconv.reproduce.variations import result, rows_of

PAPER_JITTER, PAPER_SIDE = 32, 500
"""The greatest shift that the paper tried, and the longer side of its images, in pixels."""


def jitter_for(height: int, width: int) -> int:
    """The paper's shift for images of another size: the same part of the longer side, at least 1 pixel.

    >>> jitter_for(375, 500), jitter_for(192, 192)
    (32, 12)
    """
    return max(1, round(PAPER_JITTER * max(height, width) / PAPER_SIDE))


def run(setting: Setting, say: Say) -> Result:
    """Train without augmentation, with mirror images, and with both."""
    height, width = setting.train[0].image.shape[:2]
    jitter = jitter_for(height, width)
    plain = setting.training
    ways = {
        "no augmentation": plain,
        "mirror": replace(plain, flip=True),
        "mirror and jitter": replace(plain, flip=True, jitter=jitter),
    }
    rows, planned = rows_of(setting, ways, say)
    notes: tuple[str, ...] = (
        f"Jitter of up to {jitter} pixels: the paper's {PAPER_JITTER}, scaled to images of {height}x{width}.",
    )
    if setting.name == "digits":
        notes += ("A mirrored digit is mostly no digit, unlike a mirrored photograph.",)
    claim = "Section 4.3: mirroring and jittering the training data gives no noticeable improvement."
    short = "which saw no noticeable gain"
    return result("augmentation", claim, short, setting, rows, planned, notes, jitter=jitter)
