"""Proof that a dense classifier is the classifier slid over the image (section 3.1), by running both.

On the native crop both give the same scores. On a larger image they differ by the zero padding inside the network: the
classifier sees zeros around each crop, the dense network sees the image. So the slide is proved without any padding
(`Unpadded`), on crops as large as the receptive field; and what padding changes is measured separately.
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

LARGE, FAR = 30_000_000, 1200
"""Above this number of parameters or pixels of receptive field, compare in single precision and at one place only."""

PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""The compared cells, (row, column)."""


@dataclass(frozen=True)
class Proof:
    """How far a dense network is from its classifier. Differences are relative to the largest score.

    native: on the native crop. slid: without padding, at `cells` places of an image. padded: with padding, on a larger
    image, cell by cell against crops of the native size. agree: the share of these cells that keep their best class.
    tolerance: the largest difference that rounding explains.
    """

    native: float
    slid: float
    cells: int
    padded: float
    agree: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the dense network is the classifier slid over the image, up to rounding."""
        return max(self.native, self.slid) <= self.tolerance

    def __str__(self) -> str:
        if not self.holds:
            return (
                f"NOT the classifier slid: {self.native:.0e} of the largest score apart on the native crop, "
                f"{self.slid:.0e} slid without padding, where rounding allows {self.tolerance:.0e}"
            )
        kept = f"; the best class stays in {100 * self.agree:.0f} % of the places"
        return (
            f"on the native crop: equal to the classifier, to {self.native:.0e} of the largest score\n"
            f"slid, without padding: equal at {self.cells} places of a larger image, to {self.slid:.0e}\n"
            f"slid, with the padding it has: zeros around each crop change scores by up to {self.padded:.0e}"
            f"{kept if self.padded > self.tolerance else ''}"
        )


def prove(classifier: nn.Module, dense: fx.GraphModule, native_size: int | tuple[int, int], channels: int = 3) -> Proof:
    """Compare a classifier with its dense form, as `convolutionalize` returned it.

    Both are run in evaluation mode and double precision on random images, the largest of which is one receptive field
    and two strides wide.

    Raises:
        UsageError: All scores of the classifier are 0, which any network would equal.

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
        height, width = (
            int(axis.start + cell * axis.stride + (axis.field - 1) / 2) + 1
            for axis, cell in zip(axes, whole.first_cell, strict=True)
        )
        apart = []
        for i, j in PLACES[-1:] if heavy else PLACES:
            top, left = i * steps[0], j * steps[1]
            apart.append(_apart(cells[0, :, i, j], free(wide[:, :, top : top + height, left : left + width]).flatten()))
    return Proof(native, max(apart), len(apart), padded, agree, 1e-4 if heavy else 1e-9)


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) if a.shape == b.shape else float("inf")


def _with_padding(
    net: nn.Module, dense: nn.Module, image: Tensor, size: tuple[int, int], steps: tuple[int, int]
) -> tuple[float, float]:
    """Return the largest difference with padding, on crops of the native size, and how often the best class stays."""
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
    """A network without its zero padding: it gives the scores that no zero has touched.

    It runs the graph layer by layer and counts the cells at the front that each value has lost against the padded
    network. Branches that join are cut to the cells that they share, and a layer with a stride begins where the padded
    one would.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net if isinstance(net, fx.GraphModule) else symbolic_trace(net)
        super().__init__(self.net)
        self.lost: dict[fx.Node, tuple[int, int]] = {}

    @property
    def first_cell(self) -> tuple[int, int]:
        """The first cell of the last run's scores, as the padded network counts them."""
        return next(lost for node, lost in self.lost.items() if node.op == "output")

    def __call__(self, image: Tensor) -> Tensor:
        """Return the scores of an image (1, C, H, W)."""
        result: Tensor = self.run(image)
        return result

    def run_node(self, n: fx.Node) -> Any:
        """Run one layer and count what it has lost."""
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
        """Return the cells of a padded layer that see no zero."""
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
        """Cut maps that join to the cells that all of them have."""
        first = [max(self.lost[s][a] for s in maps) for a in (0, 1)]
        sizes = [min(self.env[s].shape[2 + a] + self.lost[s][a] for s in maps) - first[a] for a in (0, 1)]
        for s in maps:
            top, left = (first[a] - self.lost[s][a] for a in (0, 1))
            self.env[s] = self.env[s][:, :, top : top + sizes[0], left : left + sizes[1]]
            self.lost[s] = first[0], first[1]
