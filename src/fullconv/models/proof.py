"""Proof that a dense classifier is the classifier slid over the image (section 3.1), by running both.

On the native crop both give one list of scores. On a larger image zero padding inside the net comes in the way: the
classifier sees zeros around each crop, the dense net sees the image. So the slide is proved without any padding
(`Unpadded`), for which crops have the size of the receptive field; and what padding changes is measured, not hidden.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fullconv.geometry import IMAGE, AxisMap
from fullconv.models.trace import SUMS, Windows, is_concat, symbolic_trace, walk, windows_of

LARGE = 30_000_000
"""Parameters from which on the proof is done in single precision, to stay quick and small."""


@dataclass(frozen=True)
class Proof:
    """How far a dense net is from the classifier that it came from. All differences are relative to the largest score.

    native: on the native crop. slid: without padding, over `cells` places of an image. tolerance: what rounding may
    do. padded: what zero padding changes, on a larger image, cell by cell against crops of the native size; `agree` is
    the share of these cells that keep their best class.
    """

    native: float
    slid: float
    cells: int
    padded: float
    agree: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the dense net is the classifier, and slides, up to rounding."""
        return max(self.native, self.slid) <= self.tolerance

    def __str__(self) -> str:
        kept = (
            f"; the best class stays in {100 * self.agree:.0f} % of the places" if self.padded > self.tolerance else ""
        )
        return "\n".join(
            [
                f"on the native crop: equal to the classifier, to {self.native:.0e} of the largest score",
                f"slid, without padding: equal at {self.cells} places of a larger image, to {self.slid:.0e}",
                f"slid, with the padding it has: zeros around each crop change scores by up to {self.padded:.0e}{kept}",
            ]
            if self.holds
            else [
                f"NOT the classifier slid: {self.native:.0e} of the largest score apart on the native crop, "
                f"{self.slid:.0e} slid without padding, where rounding allows {self.tolerance:.0e}"
            ]
        )


def prove(classifier: nn.Module, dense: fx.GraphModule, native_size: int | tuple[int, int], channels: int = 3) -> Proof:
    """Compare a classifier with its dense form (what `convolutionalize` returned for it).

    Both are run in evaluation mode, in double precision (single for more than `LARGE` parameters), on random images of
    which the largest is one receptive field and one stride each way.

    >>> from fullconv.models.convolutionalize import convolutionalize
    >>> lenet = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 14 * 14, 10))
    >>> dense, report = convolutionalize(lenet, 28)
    >>> prove(lenet, dense, 28).holds
    True
    """
    size = (native_size, native_size) if isinstance(native_size, int) else native_size
    large = sum(p.numel() for p in classifier.parameters()) > LARGE
    kind = torch.float32 if large else torch.float64
    net, slid = (copy.deepcopy(one).to(kind).eval() for one in (classifier, dense))
    random = torch.Generator().manual_seed(0)

    def image(height: int, width: int) -> Tensor:
        return torch.randn(1, channels, height, width, generator=random).to(kind)

    axes = walk(slid, channels).last.rows, walk(slid, channels).last.columns
    steps = int(axes[0].stride), int(axes[1].stride)
    with torch.no_grad():
        crop = image(*size)
        scores = net(crop).flatten()
        native = _apart(slid(crop).flatten(), scores)
        places = [(0, 0), (0, 1), (1, 0), (1, 1)]
        padded, agree = _with_padding(net, slid, image(size[0] + steps[0], size[1] + steps[1]), size, steps, places)
        free, whole = Unpadded(net), Unpadded(slid)
        field = int(axes[0].field), int(axes[1].field)
        wide = image(field[0] + 2 * steps[0], field[1] + 2 * steps[1])
        cells = whole(wide)
        # The first cell that no zero reaches begins some pixels into the image: padding put the grid there.
        ends = [int(g.start + (g.field - 1) / 2) + 1 for g in whole.output_grid]
        found = [
            _apart(cells[0, :, i, j], free(wide[:, :, a : a + ends[0], b : b + ends[1]]).flatten())
            for i, j in places
            for a, b in [(i * steps[0], j * steps[1])]
        ]
    return Proof(native, max(found), len(found), padded, agree, 1e-4 if large else 1e-9)


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) if a.shape == b.shape else float("inf")


def _with_padding(
    net: nn.Module, dense: nn.Module, image: Tensor, size: tuple[int, int], steps: tuple[int, int],
    places: list[tuple[int, int]],
) -> tuple[float, float]:  # fmt: skip
    """The largest difference of the two as they are, on crops of the native size, and how often the best class
    stays.
    """
    cells = dense(image)
    worst, kept = 0.0, 0
    for i, j in places:
        top, left = i * steps[0], j * steps[1]
        scores = net(image[:, :, top : top + size[0], left : left + size[1]]).flatten()
        mine = cells[0, :, i, j] if i < cells.shape[2] and j < cells.shape[3] else torch.full_like(scores, torch.nan)
        worst = max(worst, _apart(mine, scores))
        kept += int(mine.argmax() == scores.argmax())
    return worst, kept / len(places)


class Unpadded(fx.Interpreter):
    """A net with all zero padding taken away: called with an image, it gives the scores that no zero has touched.

    It runs the graph layer by layer and knows where the cells of every value look. Branches that are padded
    differently begin at different places then; where they join, all are cut to the cells that they share.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net if isinstance(net, fx.GraphModule) else symbolic_trace(net))
        self.grids: dict[fx.Node, tuple[AxisMap, AxisMap]] = {}

    @property
    def output_grid(self) -> tuple[AxisMap, AxisMap]:
        """Where the cells of the scores of the last run look."""
        output = next(node for node in self.grids if node.op == "output")
        return self.grids[output]

    def __call__(self, image: Tensor) -> Tensor:
        """The scores of an image (1, C, H, W)."""
        result: Tensor = self.run(image)
        return result

    def run_node(self, n: fx.Node) -> Any:
        """One layer, and its grid."""
        sources = [source for source in n.all_input_nodes if source in self.grids]
        if n.op == "placeholder":
            self.grids[n] = IMAGE, IMAGE
            return super().run_node(n)
        layer = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        windows = windows_of(layer) if layer is not None else None
        if layer is not None and windows is not None and any(w.map != IMAGE for w in windows):
            return self._without_zeros(n, sources[0], layer, windows)
        if len(sources) > 1 and (n.target in SUMS or is_concat(n)):
            self._meet(n, sources)
        elif sources:
            self.grids[n] = self.grids[sources[0]]
        return super().run_node(n)

    def _without_zeros(self, n: fx.Node, source: fx.Node, layer: nn.Module, windows: Windows) -> Tensor:
        """The cells of a padded layer that see no zero: those at the front are left out, whole strides of them, so that
        the others stay on the grid of the padded layer.
        """
        out = [-(-w.padding // w.stride) for w in windows]
        top, left = (cells * w.stride - w.padding for cells, w in zip(out, windows, strict=True))
        rows, columns = (g.then(w).cropped(c) for g, w, c in zip(self.grids[source], windows, out, strict=True))
        self.grids[n] = rows, columns
        bare = copy.copy(layer)
        bare.padding = (0, 0)  # type: ignore[assignment]
        result: Tensor = bare(self.env[source][:, :, top:, left:])
        return result

    def _meet(self, n: fx.Node, sources: list[fx.Node]) -> None:
        """Cut the values that join to the cells that all of them have."""
        spatial = [s for s in sources if isinstance(self.env[s], Tensor) and self.env[s].ndim == 4]
        starts = [max(self.grids[s][a].start for s in spatial) for a in (0, 1)]
        offsets = {
            s: [int((starts[a] - self.grids[s][a].start) / self.grids[s][a].stride) for a in (0, 1)] for s in spatial
        }
        sizes = [min(self.env[s].shape[2 + a] - offsets[s][a] for s in spatial) for a in (0, 1)]
        for s in spatial:
            top, left = offsets[s]
            self.env[s] = self.env[s][:, :, top : top + sizes[0], left : left + sizes[1]]
            self.grids[s] = self.grids[s][0].cropped(top), self.grids[s][1].cropped(left)
        rows, columns = self.grids[spatial[0]]
        for s in spatial[1:]:
            rows, columns = rows.joined(self.grids[s][0]), columns.joined(self.grids[s][1])
        self.grids[n] = rows, columns
