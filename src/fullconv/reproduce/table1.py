"""Table 1 (section 4.1): three classifiers as FCN-32s, what they are and what they cost. Their mean IU only where there
is time to train them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from fullconv.config import ModelConfig
from fullconv.errors import RunError
from fullconv.models.build import build
from fullconv.models.fcn import FCN
from fullconv.profiling.graph_cost import depth
from fullconv.reproduce.learning import learn, plan, scored
from fullconv.reproduce.paper_tables import table
from fullconv.reproduce.plots import bars
from fullconv.reproduce.result import Result, Row, Say, beside, four
from fullconv.reproduce.setting import Setting
from fullconv.reproduce.timing import forward_seconds, median_seconds

NETS = {"AlexNet": "caffenet", "VGG16": "vgg16", "GoogLeNet": "googlenet"}
"""The backbone of each net of the table; FCN-AlexNet is on Caffe's own, whose layers are as large."""

TRAINED_FROM = 10.0
"""Minutes of budget from which on the nets are trained too."""

FIELD = (
    "The paper's 907 pixels of GoogLeNet are those of the classifier with its average pool, which the FCN leaves out; "
    "715 is the field of the FCN."
)


def row_of(name: str, setting: Setting, seconds: float) -> tuple[Row, int]:
    """All that is computed or timed of a net, and how often it was timed. seconds: that timing may take."""
    config = ModelConfig(NETS[name], stride=32, num_classes=21, padding="paper", width=setting.width)
    torch.manual_seed(setting.seed)
    net = build(config).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert isinstance(net, FCN)
    image = torch.zeros(1, 3, setting.image, setting.image).contiguous(memory_format=torch.channels_last)
    taken, rounds = median_seconds(forward_seconds(net, image), setting, seconds)
    top = net.trace[net.features[0]].axis
    measured: dict[str, float | None] = {
        "mean IU": None,
        "forward": 1000 * taken,
        "conv. layers": depth(net),
        "parameters": round(sum(parameter.numel() for parameter in net.parameters()) / 1e6, 2),
        "rf size": float(top.field),
        "max stride": float(top.stride),
    }
    return Row(name, measured, beside(name, paper="table1")), rounds


def verdict(rows: Sequence[Row]) -> str:
    """Which computed facts are the paper's, and whether times and mean IUs have the paper's order."""
    facts = ("conv. layers", "parameters", "rf size", "max stride")
    other = [
        f"{column} of {row.name} ({row[column]:g}, there {row.paper['paper'][column]})"
        for row in rows
        for column in facts
        if round(row[column]) != row.paper["paper"][column].value
    ]
    said = "All computed facts are the paper's" if not other else f"Unlike the paper: {', '.join(other)}"

    def order(column: str, printed: bool) -> list[str]:
        return sorted(
            (row.name for row in rows),
            key=lambda name: next(
                row.paper["paper"][column].value if printed else row[column] for row in rows if row.name == name
            ),
        )

    for column, words in (("forward", "from fast to slow"), ("mean IU", "from worst to best")):
        if all(row.measured.get(column) is not None for row in rows):
            here = order(column, printed=False)
            same = "as in the paper" if here == order(column, printed=True) else "unlike the paper"
            said += f"; {words} they are {', '.join(here)}, {same}"
    return said + "."


def run(setting: Setting, say: Say) -> Result:
    """Compute, time, and train if the budget is for it."""
    rows, rounds, notes = [], {}, [*setting.notes, FIELD, "The paper's times are those of a GPU, a Tesla K40c."]
    trains = setting.budget >= TRAINED_FROM
    share = setting.left() / (4 * len(NETS))
    for name in NETS:
        say(f"{name}: measuring a forward pass at {setting.image}x{setting.image} ...")
        row, rounds[name] = row_of(name, setting, share)
        rows.append(row)
    facts = setting.facts()
    if trains:
        rows, trained = _trained(setting, rows, say)
        facts |= {"trained": trained}
        notes.append(
            "Trained here from random weights, unlike in the paper, except the net that weights were given for."
        )
    else:
        notes.append(f"The nets were not trained: that takes a budget of at least {TRAINED_FROM:g} minutes.")
    return Result(
        "table1",
        "Section 4.1, table 1: classifiers become fully convolutional nets; of these three VGG16 is the best.",
        setting.name,
        table("table1").columns,
        tuple(rows),
        verdict(rows),
        {**facts, "image": setting.image, "timed_rounds": rounds, "width_of_timed_nets": setting.width},
        notes=tuple(notes),
        figure=bars(rows, "forward", "ms"),
    )


def _trained(setting: Setting, rows: list[Row], say: Say) -> tuple[list[Row], dict[str, object]]:
    """The rows with a mean IU each, and the number of steps; a training that diverges leaves its row without one."""
    found, facts = [], {}
    for place, row in enumerate(rows):
        backbone = NETS[row.name]
        own = setting.start is not None and setting.model.backbone == backbone
        small = ModelConfig(backbone, width=setting.model.width)
        its = replace(
            setting,
            model=setting.model if own else small,
            start=setting.start if own else None,
            training=replace(setting.training, lr=min(setting.training.lr, 0.01)),
        )
        # A part of what is left: the budget of a setting whose clock began earlier by what the other nets need.
        part = replace(its, began=its.began - its.left() * (1 - 1 / (len(rows) - place)))
        say(f"training {row.name} ...")
        try:
            planned = plan(part, {row.name: (32, its.training)}, say)
            learned = learn(its, 32, its.training, planned.steps, its.start)
            reached = four(scored(learned, planned))["mean IU"]
            facts[row.name] = {**planned.facts(), "width": its.model.width}
        except RunError as problem:
            say(f"{row.name}: {problem}")
            reached, facts[row.name] = None, {"diverged": str(problem)}
        found.append(Row(row.name, {**row.measured, "mean IU": reached}, row.paper))
    return found, dict(facts)
