"""Figure 4 (section 4.2): the same images through FCN-32s, FCN-16s and FCN-8s, beside the truth."""

from __future__ import annotations

from fullconv.data.dataset import photograph
from fullconv.hardware import machine
from fullconv.reporting.pictures import colour_label, side_by_side
from fullconv.reproduce.learning import Learned
from fullconv.reproduce.paper_tables import FOUR
from fullconv.reproduce.result import Result, Say
from fullconv.reproduce.setting import Setting, part
from fullconv.reproduce.table2 import ORDER_ONLY, row_of, staged, verdict

SHOWN = 4
"""Images in the picture."""


def run(setting: Setting, say: Say) -> Result:
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
        machine(),
        (*setting.notes, ORDER_ONLY),
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
