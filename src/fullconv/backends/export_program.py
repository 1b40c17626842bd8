"""A net as the exporters take it: its input has a name, its outputs are a tuple, and a size that is not known before is
arithmetic in the graph.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullconv.backends.metadata import COARSE, LOGITS
from fullconv.config import Size
from fullconv.models.fcn import FCN
from fullconv.warnings import without_warnings

EXAMPLE = (2, 96, 128)
"""Images, height and width with which a net of any size is traced: no two of them equal, none of them 1, since the
tracer takes those for constants.
"""


EXPORTING = threading.RLock()
"""Held while torch exports a net and a converter reads what came of it: both keep state of the whole process."""


class TupleOutputs(nn.Module):
    """The logits of each task, then its coarse scores, or one of both alone."""

    def __init__(self, net: FCN, logits: bool = True, coarse: bool = True) -> None:
        super().__init__()
        self.net = net
        self.logits = logits
        self.coarse = coarse

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) to the outputs in the order of `names`."""
        height, width = image.shape[2:]
        scores = self.net.coarse(self.filled(image))
        logits = [self.net.to_image(task, found, height, width) for task, found in scores.items() if self.logits]
        return (*logits, *(scores.values() if self.coarse else ()))

    def filled(self, image: Tensor) -> Tensor:
        """The image, extended to the least size that the margin is made for; the margin would do it with numbers, and
        here the sizes are symbols.
        """
        height, width = image.shape[2:]
        least = self.net.margin.least
        if least <= 1 or (isinstance(height, int) and isinstance(width, int)):
            return image
        below, right = (torch.sym_max(0, least - pixels) for pixels in (height, width))
        return F.pad(image, (0, right, 0, below))

    @property
    def names(self) -> list[str]:
        """The names of the outputs."""
        logits = [LOGITS[task] for task in self.net.tasks] if self.logits else []
        return [*logits, *(COARSE[task] for task in self.net.tasks if self.coarse)]


def example(net: FCN, size: Size | None) -> tuple[Tensor, Any]:
    """An input to trace a net with, and which of its axes are of any size: none, or all but the channels."""
    channels = net.config.channels * len(net.streams)
    if size is not None:
        return torch.zeros(1, channels, *size), None
    images, height, width = EXAMPLE
    least = net.margin.least
    any_size = torch.export.Dim.DYNAMIC
    # Larger than what is extended, so that the example goes the way that all larger ones go.
    height, width = (pixels + 2 * least // 16 * 16 for pixels in (height, width))
    return torch.zeros(images, channels, height, width), ({0: any_size, 2: any_size, 3: any_size},)


def program(net: FCN, size: Size | None) -> torch.export.ExportedProgram:
    """The net as a program of torch.export: (N, C, H, W) to its logits, a tuple of them for two heads."""
    x, dynamic = example(net, size)
    with EXPORTING, without_warnings(), torch.no_grad():
        return torch.export.export(TupleOutputs(net.eval(), coarse=False), (x,), dynamic_shapes=dynamic)
