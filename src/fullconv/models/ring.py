"""Where the padded image is a constant: the ring that a net of wide padding computes around every image.

The released nets pad the image by 100 pixels (section 4 of the authors' code), so that a third of their work is done
where there is no image. On each axis, cells of a feature are of three kinds: those that see the image, those that see
the border of the padded canvas, and those between them, which are the same for every image and everywhere: the ring.
"""

from __future__ import annotations

from dataclasses import dataclass

from fullconv.geometry import Window


@dataclass(frozen=True)
class Extent:
    """The cells of one feature on one axis: `cells` in all; those from `begin` to before `end` may see the image; the
    first `front` and the last `back` see the border of the canvas. All others are ring.
    """

    cells: int
    begin: int
    end: int
    front: int = 0
    back: int = 0

    @property
    def apart(self) -> bool:
        """Whether no cell sees both image and border."""
        return self.front <= self.begin and self.end <= self.cells - self.back

    @property
    def length(self) -> int:
        """The cells that may see the image."""
        return self.end - self.begin

    def through(self, window: Window, borderless: bool) -> Extent:
        """The extent behind a layer. borderless: its padding is no border: what it pads is what the ring holds.

        >>> Extent(500, 0, 500).through(Window(3, padding=100), borderless=True)
        Extent(cells=698, begin=98, end=600, front=0, back=0)
        >>> Extent(698, 98, 600).through(Window(3, padding=1), borderless=False)
        Extent(cells=698, begin=97, end=601, front=1, back=1)
        """
        step, pad, reach = window.stride, window.padding, window.span - 1
        cells = window.size(self.cells)
        begin = max(0, -(-(self.begin + pad - reach) // step))
        end = min(cells, (self.end - 1 + pad) // step + 1)
        front = 0 if borderless and not self.front else -(-(self.front + pad) // step)
        first = cells if borderless and not self.back else -(-(self.cells - self.back + pad - reach) // step)
        return Extent(cells, begin, end, min(front, cells), max(0, min(cells, cells - first)))

    def union(self, other: Extent) -> Extent:
        """The extent of a sum or concatenation of two features on one grid."""
        return Extent(
            self.cells, min(self.begin, other.begin), max(self.end, other.end),
            max(self.front, other.front), max(self.back, other.back),
        )  # fmt: skip

    def seen_by(self, window: Window, out: Extent) -> tuple[int, int]:
        """The ring cells that a layer needs before and after the image cells of this feature, to make those of `out`;
        negative where it needs fewer than there are.
        """
        first = out.begin * window.stride - window.padding
        last = (out.end - 1) * window.stride - window.padding + window.span
        return self.begin - first, last - self.end

    def indices(self, wide: Extent) -> list[int]:
        """For each cell of a wider canvas of the same period the cell of this one that holds the same, image aside."""
        ring = self.front
        assert self.cells - self.front - self.back >= 1
        assert (self.front, self.back) == (wide.front, wide.back)
        behind = wide.cells - wide.back
        return [i if i < ring else ring if i < behind else i - wide.cells + self.cells for i in range(wide.cells)]
