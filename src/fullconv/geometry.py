"""Where an output cell looks: the geometry of convolutional nets, in exact fractions.

Every layer of a fully convolutional net is an affine map on each axis (section 3 of the paper: y_ij = f({x_{si+di,
sj+dj}})). Maps compose, a transposed convolution is the inverse of its convolution, parallel branches must agree,
and a crop is a difference of starts. So the offsets that the released nets carry as numbers (19; 5, 27; 5, 9, 31)
are computed here from the layers, and the same code aligns the skips of any other backbone.

Pixel centres lie on the whole numbers, the first pixel at 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fullconv.errors import UsageError

Array = Any
"""An array of numpy, or a tensor of torch: what is written for both uses what they have in common."""


class GeometryError(UsageError):
    """A layer without an affine map, or two features that cannot be aligned by a whole number of cells."""


@dataclass(frozen=True)
class AxisMap:
    """Where the cells of a feature look, on one axis of the image.

    Cell ``i`` is centred on the pixel ``start + stride * i``, and sees ``field`` pixels around it (its receptive
    field). Between cells of a transposed convolution the field varies with the phase by less than one input cell;
    `field` is its bound.

    >>> image = AxisMap()
    >>> conv = Window(kernel=3, padding=1)
    >>> pool = Window(kernel=2, stride=2)
    >>> image.then(conv).then(pool)
    AxisMap(stride=2, start=1/2, field=4)
    """

    stride: Fraction = Fraction(1)
    start: Fraction = Fraction(0)
    field: Fraction = Fraction(1)

    def then(self, layer: Window) -> AxisMap:
        """The map of the layer's output, when this is the map of its input."""
        later = layer.map
        return AxisMap(
            self.stride * later.stride,
            self.start + self.stride * later.start,
            self.field + (later.field - 1) * self.stride,
        )

    def cropped(self, offset: int) -> AxisMap:
        """The map after the first `offset` cells are cut away."""
        return AxisMap(self.stride, self.start + offset * self.stride, self.field)

    def joined(self, other: AxisMap) -> AxisMap:
        """The map of a sum or concatenation of two features, which must lie on the same grid."""
        if (self.stride, self.start) != (other.stride, other.start):
            raise GeometryError(
                f"branches that do not meet: {self} and {other}; crop or pad one of them so that stride and start agree"
            )
        return AxisMap(self.stride, self.start, max(self.field, other.field))

    def offset_to(self, other: AxisMap) -> int:
        """How many cells lie before the cell that coincides with the first cell of `other`: the offset of the crop.

        Negative when this feature starts later. Raises `GeometryError` for different strides, or a part of a cell.
        """
        if self.stride != other.stride:
            raise GeometryError(
                f"crop: the strides {self.stride} and {other.stride} differ; upsample the coarser feature first"
            )
        offset = (other.start - self.start) / self.stride
        if offset.denominator != 1:
            raise GeometryError(
                f"crop: the features are {offset} cells apart, not a whole number; change a padding or the kernel"
            )
        return int(offset)

    def __repr__(self) -> str:
        return f"AxisMap(stride={self.stride}, start={self.start}, field={self.field})"


@dataclass(frozen=True)
class Window:
    """One axis of a layer that slides a window: a convolution, a pooling, or a transposed convolution.

    `padding` counts the cells added at both ends (taken off, for a transposed convolution), `after` those at the far
    end where they differ; `ceil` is the rounding of Caffe's pooling, which keeps a last window that is not full.
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    transposed: bool = False
    ceil: bool = False
    output_padding: int = 0
    after: int | None = None

    @property
    def both(self) -> int:
        """The padding at both ends together."""
        return self.padding + (self.padding if self.after is None else self.after)

    @property
    def span(self) -> int:
        """The cells from the first tap to the last."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def map(self) -> AxisMap:
        """The layer alone, as an affine map."""
        middle = Fraction(self.span - 1, 2) - self.padding
        if self.transposed:
            return AxisMap(Fraction(1, self.stride), -middle / self.stride, Fraction(self.span - 1, self.stride) + 1)
        return AxisMap(Fraction(self.stride), middle, Fraction(self.span))

    def size(self, cells: int) -> int:
        """How many cells come out of `cells`; 0 or less where the layer refuses so small an input.

        >>> [Window(kernel=2, stride=2, ceil=True).size(n) for n in (1, 2, 3)]
        [1, 1, 2]
        """
        if self.transposed:
            return (cells - 1) * self.stride - self.both + self.span + self.output_padding
        room = cells + self.both - self.span
        out = (-(-room // self.stride) if self.ceil else room // self.stride) + 1
        # A last window must begin inside the input or its first padding (as in Caffe and PyTorch).
        return out - 1 if self.ceil and (out - 1) * self.stride >= cells + self.padding else out

    def seen(self, first: int, end: int) -> tuple[int, int]:
        """The input cells, from the first to before the last, that the output cells from `first` to before `end` look
        at; below 0 and beyond the size of the input they are padding.

        >>> Window(kernel=3, stride=2, padding=1).seen(0, 5), Window(kernel=4, stride=2, transposed=True).seen(3, 4)
        ((-1, 10), (0, 2))
        """
        if self.transposed:
            return -((self.span - 1 - first - self.padding) // self.stride), (end - 1 + self.padding) // self.stride + 1
        return first * self.stride - self.padding, (end - 1) * self.stride - self.padding + self.span

    def sources(self, outputs: Iterable[int], size: int) -> set[int]:
        """The input cells, of `size` there are, that the given output cells are computed from: the layer's support,
        exactly.

        >>> sorted(Window(kernel=3, padding=1).sources([0, 5], size=9))
        [0, 1, 4, 5, 6]
        """
        taps = [tap * self.dilation for tap in range(self.kernel)]
        if self.transposed:
            reached = {divmod(cell + self.padding - tap, self.stride) for cell in outputs for tap in taps}
            return {cell for cell, rest in reached if rest == 0 and 0 <= cell < size}
        first = [cell * self.stride - self.padding for cell in outputs]
        return {cell + tap for cell in first for tap in taps if 0 <= cell + tap < size}


IMAGE = AxisMap()
"""The map of the image itself: every cell sees its own pixel."""


def bilinear_window(factor: int, coarse: AxisMap, target: AxisMap) -> Window:
    """The transposed convolution that upsamples `coarse` by `factor` onto the grid of `target`.

    The bilinear kernel has 2f taps, or 2f - 1 where only that makes the offset a whole number (VGG: 2f; AlexNet: 63
    for 32; section 3.3 and the released nets). Raises `GeometryError` when neither does.

    >>> bilinear_window(2, AxisMap(Fraction(2), Fraction(1, 2)), AxisMap()).kernel
    4
    """
    for taps in (2 * factor, 2 * factor - 1):
        window = Window(kernel=taps, stride=factor, transposed=True)
        try:
            coarse.then(window).offset_to(target)
        except GeometryError:
            continue
        return window
    raise GeometryError(
        f"upsampling by {factor}: neither {2 * factor} nor {2 * factor - 1} taps bring "
        f"{coarse} onto {target}; change a padding"
    )


def bilinear_line(taps: int) -> list[float]:
    """The bilinear kernel on one axis: Caffe's filler, and the authors' ``upsample_filt``.

    >>> bilinear_line(4), bilinear_line(3)
    ([0.25, 0.75, 0.75, 0.25], [0.5, 1.0, 0.5])
    """
    factor = (taps + 1) // 2
    centre = factor - 1 if taps % 2 else factor - 0.5
    return [1 - abs(tap - centre) / factor for tap in range(taps)]


def upsampling_matrix(window: Window, cells: Array, pixels: Array, line: Array) -> Array:
    """The (pixels, cells) matrix that upsamples one axis.

    Row j holds the kernel's taps on the cells that pixel j sees; at most two are not zero. `cells` and `pixels` are the
    indices, `line` is `bilinear_line`, all of them arrays of numpy or tensors of torch.
    """
    tap = pixels[:, None] - window.stride * cells[None]
    seen = (tap >= 0) & (tap < window.kernel)
    return line[tap.clip(0, window.kernel - 1)] * seen  # a product, which exporters fold


@dataclass(frozen=True)
class Reach:
    """The scores of a pixel are computed from at most `before` pixels before it, itself, and `after` pixels after it,
    on each axis. An image that is shifted by a multiple of `period` pixels has its scores shifted with it, exactly.
    """

    before: int
    after: int
    period: int
