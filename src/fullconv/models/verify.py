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

from fullconv.errors import UsageError
from fullconv.geometry import Window
from fullconv.models.trace import Operation, operation_of, symbolic_trace, walk

POINT = Window(1)

LARGE = 30_000_000
"""Parameters from which on the proof is done in single precision and at one place, to stay quick and small."""

FAR = 1200
"""The receptive field, in pixels, from which on it is done so too."""

PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""The cells that are compared, by row and column."""


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

    Raises `UsageError` for a classifier whose scores are all 0, which any net would equal.

    Both are run in evaluation mode, in double precision (single for more than `LARGE` parameters), on random images of
    which the largest is one receptive field and one stride each way.

    >>> from fullconv.models.convolutionalize import convolutionalize
    >>> lenet = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 14 * 14, 10))
    >>> dense, report = convolutionalize(lenet, 28)
    >>> prove(lenet, dense, 28).holds
    True
    """
    size = (native_size, native_size) if isinstance(native_size, int) else native_size
    axes = walk(dense, channels).last.rows, walk(dense, channels).last.columns
    steps = int(axes[0].stride), int(axes[1].stride)
    field = int(axes[0].field), int(axes[1].field)
    heavy = sum(p.numel() for p in classifier.parameters()) > LARGE or max(field) > FAR
    kind = torch.float32 if heavy else torch.float64
    net, slid = (copy.deepcopy(one).to(kind).eval() for one in (classifier, dense))
    random = torch.Generator().manual_seed(0)

    def image(height: int, width: int) -> Tensor:
        return torch.randn(1, channels, height, width, generator=random).to(kind)

    with torch.no_grad():
        crop = image(*size)
        scores = net(crop).flatten()
        if not bool(scores.any()):
            raise UsageError("every score of the classifier is 0: nothing can be compared; give it weights")
        native = _apart(slid(crop).flatten(), scores)
        padded, agree = _with_padding(net, slid, image(size[0] + steps[0], size[1] + steps[1]), size, steps)
        wide = image(field[0] + 2 * steps[0], field[1] + 2 * steps[1])
        free, whole = Unpadded(net), Unpadded(slid)
        cells = whole(wide)
        # The first cell that no zero reaches may begin some pixels into the image: padding put the grid there.
        ends = [
            int(axis.start + cell * axis.stride + (axis.field - 1) / 2) + 1
            for axis, cell in zip(axes, whole.first_cell, strict=True)
        ]
        places = [(1, 1)] if heavy else PLACES
        found = [
            _apart(cells[0, :, i, j], free(wide[:, :, a : a + ends[0], b : b + ends[1]]).flatten())
            for i, j in places
            for a, b in [(i * steps[0], j * steps[1])]
        ]
    return Proof(native, max(found), len(found), padded, agree, 1e-4 if heavy else 1e-9)


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) if a.shape == b.shape else float("inf")


def _with_padding(
    net: nn.Module, dense: nn.Module, image: Tensor, size: tuple[int, int], steps: tuple[int, int]
) -> tuple[float, float]:
    """The largest difference of the two as they are, on crops of the native size, and how often the best class
    stays.
    """
    cells = dense(image)
    worst, kept = 0.0, 0
    for i, j in PLACES:
        top, left = i * steps[0], j * steps[1]
        scores = net(image[:, :, top : top + size[0], left : left + size[1]]).flatten()
        mine = cells[0, :, i, j] if i < cells.shape[2] and j < cells.shape[3] else torch.full_like(scores, torch.nan)
        worst = max(worst, _apart(mine, scores))
        kept += int(mine.argmax() == scores.argmax())
    return worst, kept / len(PLACES)


class Unpadded(fx.Interpreter):
    """A net with all zero padding taken away: called with an image, it gives the scores that no zero has touched.

    It runs the graph layer by layer and counts how many cells at the front each value has lost against the padded net.
    Where branches join, all are cut to the cells that they share, and a layer with a stride begins where the padded
    one would.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net if isinstance(net, fx.GraphModule) else symbolic_trace(net)
        super().__init__(self.net)
        self.lost: dict[fx.Node, tuple[int, int]] = {}

    @property
    def first_cell(self) -> tuple[int, int]:
        """The first cell of the scores of the last run, as the padded net counts them."""
        return next(lost for node, lost in self.lost.items() if node.op == "output")

    def __call__(self, image: Tensor) -> Tensor:
        """The scores of an image (1, C, H, W)."""
        result: Tensor = self.run(image)
        return result

    def run_node(self, n: fx.Node) -> Any:
        """One layer, and what it has lost."""
        sources = [source for source in n.all_input_nodes if source in self.lost]
        operation = operation_of(self.net, n)
        if operation is not None and operation.windows != (POINT, POINT):
            return self._without_zeros(n, sources[0], operation)
        maps = [s for s in sources if isinstance(self.env[s], Tensor) and self.env[s].ndim == 4]
        if len(maps) > 1 and operation is not None:
            self._meet(maps)
        if n.op != "get_attr":
            self.lost[n] = self.lost[maps[0] if maps else sources[0]] if sources else (0, 0)
        return super().run_node(n)

    def _without_zeros(self, n: fx.Node, source: fx.Node, operation: Operation) -> Tensor:
        """The cells of a padded layer that see no zero."""
        lost, windows = self.lost[source], operation.windows
        first = tuple(max(0, -(-(c + w.padding) // w.stride)) for c, w in zip(lost, windows, strict=True))
        top, left = (f * w.stride - w.padding - c for f, w, c in zip(first, windows, lost, strict=True))
        self.lost[n] = first[0], first[1]
        x: Tensor = self.env[source][:, :, top:, left:]
        if operation.kind == "pad":
            return x
        bare = copy.copy(operation.layer)
        assert bare is not None
        bare.padding = (0, 0)  # type: ignore[assignment]
        result: Tensor = bare(x)
        return result

    def _meet(self, maps: list[fx.Node]) -> None:
        """Cut the maps that join to the cells that all of them have."""
        first = [max(self.lost[s][a] for s in maps) for a in (0, 1)]
        sizes = [min(self.env[s].shape[2 + a] + self.lost[s][a] for s in maps) - first[a] for a in (0, 1)]
        for s in maps:
            top, left = (first[a] - self.lost[s][a] for a in (0, 1))
            self.env[s] = self.env[s][:, :, top : top + sizes[0], left : left + sizes[1]]
            self.lost[s] = first[0], first[1]
