"""Section 4.3, "Class balancing": weights for the classes in the loss, and images of rare classes drawn more often."""

from __future__ import annotations

from dataclasses import replace

from fullconv.reproduce.paper_tables import lookup
from fullconv.reproduce.result import Result, Say
from fullconv.reproduce.setting import Setting, part
from fullconv.reproduce.variations import result, rows_of
from fullconv.training.sampling import pixel_counts

MOST = 1000
"""Training samples at most: drawing by class needs to look at every label."""


def run(setting: Setting, say: Say) -> Result:
    """Train without balancing, with two kinds of weights, and with balanced drawing."""
    plain = setting.training
    ways = {
        "no balancing": plain,
        "inverse weights": replace(plain, class_weights="inverse"),
        "median weights": replace(plain, class_weights="median"),
        "balanced drawing": replace(plain, balance=True),
    }
    few = part(setting.train, min(MOST, max(64, int(100 * setting.budget))), setting.seed)
    counts = pixel_counts(few).sum(0)
    background = round(100 * float(counts[0]) / max(1, int(counts.sum())), 1)
    printed = lookup("balance", "data", "background")
    rows, planned = rows_of(replace(setting, train=few), ways, say)
    name = setting.train.labels.names[0]
    note = f"Class '{name}' has {background:g} % of the pixels; on PASCAL VOC background has about {printed} %."
    claim = "Section 4.3: balancing the classes by weights or by sampling is not needed, though most is background."
    short = "where balancing is not needed"
    return result("balancing", claim, short, setting, rows, planned, (note,), training_images=len(few))
