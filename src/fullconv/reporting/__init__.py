"""Reports: what was found, on one HTML page that needs nothing else and can be read by somebody who was not there.

`page` has the building blocks of a page, `figures` and `pictures` draw; `run` writes the report of a training run,
with the label audit of `audit`, `compare` that of several runs, and `tensorboard` what TensorBoard reads.
Importing the package is cheap: drawing libraries are imported when something is drawn.
"""

from __future__ import annotations

from fullconv.reporting.page import (
    Code,
    Figure,
    Gallery,
    Section,
    Strip,
    Table,
    percent,
    render,
)

__all__ = ["Code", "Figure", "Gallery", "Section", "Strip", "Table", "percent", "render"]
