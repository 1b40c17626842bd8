"""A program of torch.export (.pt2), for whoever has torch and not this package. It is written here and never read.

``torch.export.load`` runs what a file says: it unpickles, and takes text for Python. No look at an archive beforehand
is a guard, since what its directory says and what torch's reader finds may differ. The one program that is loaded here
is the one that was just written, from memory, to compare it with its net.
"""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fullconv.backends.export_program import program
from fullconv.backends.metadata import KEY, LOGITS, ExportMetadata
from fullconv.config import Size
from fullconv.errors import RunError, shown
from fullconv.warnings import without_warnings

if TYPE_CHECKING:
    from fullconv.models.fcn import FCN


def to_pt2(net: FCN, size: Size | None, card: ExportMetadata) -> tuple[bytes, ProgramNet, ExportMetadata]:
    """Return the net as a .pt2 file, the program in it as torch loads it, and what it says of itself in the extra file
    ``fullconv``.
    """
    made = program(net, size)
    # The tracer takes a map of one cell for another kind of map, and the program refuses images that come down to it.
    least = max((int(bound.lower) for bound in made.range_constraints.values()), default=1)
    card = replace(card, least=1 if size is not None else least)
    made._example_inputs = None  # the one part that would be pickled
    for part in made.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # the places of files on this machine are nobody's business
    out = BytesIO()
    with without_warnings():
        torch.export.save(made, out, extra_files={KEY: card.to_json()})
        return out.getvalue(), ProgramNet(torch.export.load(BytesIO(out.getvalue()))), card


class ProgramNet:
    """A program that torch runs: (N, C, H, W) float32 to a dict of its logits by name."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.module = program.module()

    def __call__(self, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run it once."""
        try:
            with torch.inference_mode():
                found = self.module(torch.from_numpy(np.ascontiguousarray(x)))
        except (RuntimeError, AssertionError) as problem:
            reason = shown(str(problem).strip().split("\n")[0][:200])
            raise RunError(
                f"pt2: the net cannot be run on {'x'.join(map(str, x.shape))} ({reason}); give another size"
            ) from None
        return dict(zip(LOGITS.values(), (scores.numpy() for scores in found), strict=False))
