"""Table 2 (section 4.2): what each skip adds. FCN-32s begins from the classifier, FCN-16s from FCN-32s, FCN-8s from
FCN-16s; of FCN-32s-fixed only the scores learn. The rate of each stage falls to 0, as in the demo's. Figure 4 shows
the same images through all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fullconv.config import TrainConfig
from fullconv.data.dataset import photograph
from fullconv.reporting.pictures import colour_label, side_by_side
from fullconv.reproduce.learning import Learned, StudyPlan, learn, plan, scored
from fullconv.reproduce.paper_tables import FOUR
from fullconv.reproduce.plots import bars
from fullconv.reproduce.result import (
    NOTICEABLE,
    Result,
    Row,
    Say,
    beside,
    compared,
    four,
    too_little,
)
from fullconv.reproduce.setting import Setting, part

STAGES = (("FCN-32s", 32), ("FCN-16s", 16), ("FCN-8s", 8))

SHOWN = 4
"""Images in the picture of figure 4."""

ORDER_ONLY = (
    "The paper's numbers are those of VGG16 on PASCAL VOC 2011; on other data or with another net compare the order, "
    "not the values."
)


def runs_of(setting: Setting, fixed: bool) -> dict[str, tuple[int, TrainConfig]]:
    """The stride and the settings of each training by name."""
    runs = {"FCN-32s-fixed": (32, replace(setting.training, learn="scores"))} if fixed else {}
    return {**runs, **{name: (stride, setting.training) for name, stride in STAGES}}


def staged(setting: Setting, say: Say, fixed: bool = True) -> tuple[dict[str, Learned], StudyPlan]:
    """All nets by name, and the plan by which they were trained. fixed: FCN-32s-fixed too."""
    runs = runs_of(setting, fixed)
    planned = plan(setting, runs, say)
    nets: dict[str, Learned] = {}
    start = setting.start
    for name, (stride, config) in runs.items():
        say(f"training {name} ...")
        nets[name] = learn(setting, stride, config, planned.steps, start)
        start = nets[name].tensors if config.learn == "all" else setting.start
    return nets, planned


def row_of(name: str, learned: Learned, planned: StudyPlan) -> Row:
    """The four numbers of a net beside those of the paper and of the released nets."""
    return Row(name, four(scored(learned, planned)), beside(name, paper="table2", released="released"))


def verdict(rows: Sequence[Row]) -> str:
    """What the mean IUs say of each step from coarse to fine, beside what the paper's say."""
    if (nothing := too_little(rows)) is not None:
        return nothing
    words = {1: "better than", 0: "no better than", -1: "worse than"}
    found = {row.name: row for row in rows}
    said = []
    pairs = [("FCN-32s", "FCN-32s-fixed"), ("FCN-16s", "FCN-32s"), ("FCN-8s", "FCN-16s")]
    for finer, coarser in pairs:
        if finer not in found or coarser not in found:
            continue
        here = compared(finer, found[finer]["mean IU"], coarser, found[coarser]["mean IU"])
        # In table 2 all three steps are upwards, the last by 0.3 points: the paper too speaks of diminishing returns.
        last = finer == "FCN-8s"
        agrees = here >= 0 if last else here > 0
        printed = "the paper gains 0.3 points here" if last else "as in the paper" if agrees else "unlike the paper"
        if last and not agrees:
            printed = "unlike the paper, which gains 0.3 points"
        said.append(f"{finer} is {words[here]} {coarser} ({printed})")
    return "; ".join(said) + f". Differences of less than {NOTICEABLE:g} point of mean IU count as none."


def run(setting: Setting, say: Say) -> Result:
    """Train and score the four nets."""
    nets, planned = staged(setting, say)
    rows = tuple(row_of(name, learned, planned) for name, learned in nets.items())
    stage = "Every stage has the same number of steps; FCN-16s and 8s have those of the nets before them besides."
    return Result(
        "table2",
        "Section 4.2, table 2: fusing finer layers improves the segmentation, with diminishing returns after FCN-8s.",
        setting.name,
        FOUR,
        rows,
        verdict(rows),
        {**setting.facts(), **planned.facts()},
        notes=(*setting.notes, ORDER_ONLY, stage),
        curves={name: {"loss": list(learned.losses)} for name, learned in nets.items()},
        figure=bars(rows, "mean IU", "percent"),
    )


def run_figure4(setting: Setting, say: Say) -> Result:
    """Train the three nets in stages, and draw what they say."""
    nets, planned = staged(setting, say, fixed=False)
    rows = tuple(row_of(name, learned, planned) for name, learned in nets.items())
    return Result(
        "figure4",
        "Section 4.2, figure 4: fusing layers of finer strides brings back detail.",
        setting.name,
        FOUR,
        rows,
        verdict(rows),
        {**setting.facts(), **planned.facts()},
        notes=(*setting.notes, ORDER_ONLY),
        figure=picture(setting, nets),
    )


def picture(setting: Setting, nets: dict[str, Learned]) -> bytes:
    """Image, the nets from coarse to fine, truth: some validation images that the seed chooses."""
    images = part(setting.validation, SHOWN, setting.seed)
    grid = []
    for sample in (images[i] for i in range(len(images))):
        said = [colour_label(learned.predictor(sample.image).prediction, images.labels) for learned in nets.values()]
        grid.append([photograph(sample.image), *said, colour_label(sample.semantic, images.labels)])
    return side_by_side(grid, ("image", *nets, "truth"))
