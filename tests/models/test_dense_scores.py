"""Shift-and-stitch, the rarefied net and the slid classifier are one function, in random nets and the paper's kinds."""

import copy
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.support.nets import EVERY_BACKBONE
from torch import nn

from fullconv.errors import UsageError
from fullconv.geometry import Window
from fullconv.models.backbones.registry import BACKBONES
from fullconv.models.build import stage_outputs
from fullconv.models.convolutionalize import convolutionalize
from fullconv.models.dense_scores import interior, rarefy, shift_and_stitch
from fullconv.models.graph import node_names
from fullconv.models.trace import walk, windows_of

EXACT = 1e-12
CHANNELS = 2


def difference(one, two):
    return float((one - two).abs().max())


class Branches(nn.Module):
    """Two ways of one window that meet again, joined by a sum or side by side."""

    def __init__(self, one, two, concat):
        super().__init__()
        self.one, self.two = one, two
        self.mix = nn.Conv2d(2 * CHANNELS, CHANNELS, 1) if concat else None

    def forward(self, x):
        if self.mix is None:
            return self.one(x) + self.two(x)
        return self.mix(torch.cat([self.one(x), self.two(x)], 1))


@st.composite
def layers(draw, strides, padded, ceil, linear):
    """A layer of the given strides; rows and columns have their own kernel, padding and dilation."""
    kind = draw(st.sampled_from(["conv", "conv", "avg", "branch"] + ["max"] * (not linear)))
    kernel = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    padding = tuple(draw(st.integers(0, k // 2)) if padded else 0 for k in kernel)
    groups = draw(st.sampled_from([1, CHANNELS]))
    ceil = ceil and draw(st.booleans())
    average = nn.AvgPool2d(
        kernel, strides, padding, ceil, draw(st.booleans()), draw(st.sampled_from([None, None, 3]))
    )  # fmt: skip
    plain = nn.Conv2d(CHANNELS, CHANNELS, kernel, strides, padding, groups=groups)
    if kind == "branch":
        average.ceil_mode = False  # else the branches may differ in size
        two = average if linear or draw(st.booleans()) else nn.MaxPool2d(kernel, strides, padding)
        return Branches(plain, two, draw(st.booleans()))
    if kind == "avg":
        return average
    dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    if kind == "max":
        return nn.MaxPool2d(kernel, strides, padding, dilation, ceil_mode=ceil)
    more = tuple(p + draw(st.integers(0, 2)) if padded else 0 for p in padding)
    return nn.Conv2d(CHANNELS, CHANNELS, kernel, strides, more, dilation, groups)


@st.composite
def nets(draw, padded=False, ceil=False, linear=False):
    """A random net of one to four layers and stride at most 6 on each axis, in double precision."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    left, square, parts = [6, 6], draw(st.booleans()), []
    for _ in range(draw(st.integers(1, 4))):
        rows = draw(st.integers(1, min(4, left[0])))
        columns = rows if square else draw(st.integers(1, min(4, left[1])))
        left = [left[0] // rows, left[1] // columns]
        parts.append(draw(layers((rows, columns), padded, ceil, linear)))
        point = [nn.Identity()] if linear else [nn.LeakyReLU(0.3), nn.Tanh(), nn.LocalResponseNorm(3), seen_norm()]
        parts.append(draw(st.sampled_from(point)))
    return lively(nn.Sequential(*parts))


def lively(net):
    """The net in evaluation mode and double precision, with weights that keep the signal through every layer."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return net.double().eval()


def seen_norm():
    norm = nn.BatchNorm2d(CHANNELS)
    nn.init.uniform_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def strides_of(net):
    last = walk(net).last
    return int(last.rows.stride), int(last.columns.stride)


def a_canvas(net, more):
    """An image on which every phase has cells that see no padding, and `more` pixels."""
    last = walk(net).last
    sides = (int(axis.field + 2 * axis.stride) + n for axis, n in zip((last.rows, last.columns), more, strict=True))
    return torch.randn(1, CHANNELS, *sides, dtype=torch.float64)


def a_stride_left(data, net):
    """A stride that is left, and the factor by which shift-and-stitch comes to it."""
    rows, columns = strides_of(net)
    if rows != columns:
        return 1, None
    stride = data.draw(st.sampled_from([t for t in range(1, rows + 1) if rows % t == 0]))
    return stride, rows // stride


EXTRA = st.tuples(st.integers(0, 12), st.integers(0, 12))
some = settings(max_examples=40)


@some
@given(net=nets(), more=EXTRA, data=st.data())
def test_without_padding_the_stitched_scores_are_the_rarefied_nets_corner(net, more, data):
    stride, factor = a_stride_left(data, net)
    canvas = a_canvas(net, more)
    with torch.no_grad():
        dense, stitched = rarefy(net, stride, CHANNELS)(canvas), shift_and_stitch(net, canvas, factor)
    height, width = stitched.shape[2:]
    assert [height, width] == [n - n % (s // stride) for n, s in zip(dense.shape[2:], strides_of(net), strict=True)]
    assert difference(stitched, dense[:, :, :height, :width]) <= EXACT < 1e-6 < float(stitched.std())


@some
@given(net=nets(padded=True, ceil=True), more=EXTRA, data=st.data())
def test_with_padding_they_are_equal_on_the_cells_that_see_none(net, more, data):
    stride, factor = a_stride_left(data, net)
    canvas = a_canvas(net, more)
    with torch.no_grad():
        own, dense, stitched = net(canvas), rarefy(net, stride)(canvas), shift_and_stitch(net, canvas, factor)
    last = walk(net).last
    inside, mine, every = [(slice(None), slice(None)) for _ in range(3)]
    for axis, pixels in zip((last.rows, last.columns), canvas.shape[2:], strict=True):
        f = int(axis.stride) // stride
        cells, view = interior(axis, pixels), interior(axis, pixels - (f - 1) * stride)
        inside += (slice(f * view.start, f * view.stop),)
        mine += (slice(cells.start, cells.stop),)
        every += (slice(f * cells.start, f * cells.stop, f),)
        assert view
    assert dense[inside].shape == stitched[inside].shape
    assert difference(stitched[inside], dense[inside]) <= EXACT
    assert difference(own[mine], dense[every]) <= EXACT


@some
@given(net=nets(padded=True), more=EXTRA, data=st.data())
def test_the_rarefied_net_gives_the_nets_own_scores_at_their_places_borders_included(net, more, data):
    stride, _ = a_stride_left(data, net)
    canvas = a_canvas(net, more)
    rows, columns = (s // stride for s in strides_of(net))
    with torch.no_grad():
        mine, dense = net(canvas), rarefy(net, stride)(canvas)
    assert mine.shape == dense[:, :, ::rows, ::columns].shape
    assert difference(mine, dense[:, :, ::rows, ::columns]) <= EXACT


@some
@given(net=nets(padded=True, ceil=True), more=EXTRA, data=st.data())
def test_the_rarefied_net_has_the_stride_asked_for_and_the_same_field_and_first_cell(net, more, data):
    stride, _ = a_stride_left(data, net)
    rarefied = rarefy(net, stride)
    before, after = walk(net).last, walk(rarefied).last
    for old, new in ((before.rows, after.rows), (before.columns, after.columns)):
        assert (new.stride, new.start, new.field) == (stride, old.start, old.field)
    canvas = a_canvas(net, more)
    sizes = [walk(rarefied).sizes(n, axis)[after.name] for axis, n in enumerate(canvas.shape[2:])]
    with torch.no_grad():
        assert list(rarefied(canvas).shape[2:]) == sizes


@some
@given(net=nets(padded=True, ceil=True, linear=True), more=EXTRA)
def test_the_interior_is_exactly_what_the_surroundings_do_not_change(net, more):
    """The image alone, and amid more image: a cell is the same if and only if it lies in the interior."""
    image = a_canvas(net, more)
    last = walk(net).last
    # More image than the padding and the fields of the padded cells reach, by a whole number of cells.
    around = [int(a.stride) * int((2 * a.field - a.start) / a.stride + 1) for a in (last.rows, last.columns)]
    amid = torch.nn.functional.pad(image, (around[1], around[1], around[0], around[0]), value=torch.nan)
    amid = torch.where(amid.isnan(), torch.randn_like(amid), amid)
    with torch.no_grad():
        alone = net(image)[0]
        top, left = (m // int(a.stride) for m, a in zip(around, (last.rows, last.columns), strict=True))
        same = net(amid)[0, :, top : top + alone.shape[1], left : left + alone.shape[2]]
    equal = (alone - same).abs().amax(0) <= EXACT
    rows, columns = (interior(a, n) for a, n in zip((last.rows, last.columns), image.shape[2:], strict=True))
    expected = torch.zeros_like(equal)
    expected[rows.start : rows.stop, columns.start : columns.stop] = True
    assert torch.equal(equal, expected)


def halving(factor):
    """A net of convolutions and pools, max and average, that comes to the stride `factor` by halves."""
    parts = []
    for level in range(factor.bit_length() - 1):
        parts += [nn.Conv2d(CHANNELS, CHANNELS, 2), nn.LeakyReLU(0.3), (nn.MaxPool2d, nn.AvgPool2d)[level % 2](2)]
    return lively(nn.Sequential(*parts, nn.Conv2d(CHANNELS, 3, 2)))


def vgg_like():
    """VGG's blocks without their padding: two 3x3 convolutions and a pool, three times, and a 3x3 fc6."""
    parts, incoming = [], 3
    for outgoing in (8, 12, 16):
        parts += [nn.Conv2d(incoming, outgoing, 3), nn.ReLU(), nn.Conv2d(outgoing, outgoing, 3), nn.ReLU()]
        parts, incoming = [*parts, nn.MaxPool2d(2, 2)], outgoing
    return lively(nn.Sequential(*parts, nn.Conv2d(incoming, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1)))


def alexnet_like():
    """AlexNet's strides, windows, groups and normalization without the padding; its last pool an average."""
    first = [nn.Conv2d(3, 8, 11, stride=4), nn.ReLU(), nn.MaxPool2d(3, 2), nn.LocalResponseNorm(5)]
    second = [nn.Conv2d(8, 8, 5, groups=2), nn.ReLU(), nn.AvgPool2d(2, 2), nn.Conv2d(8, 4, 3, groups=2)]
    return lively(nn.Sequential(*first, *second))


PAPERS = {
    **{f"halving to {f}": (partial(halving, f), f) for f in (2, 4, 8, 16, 32)},
    "vgg": (vgg_like, 8),
    "alexnet": (alexnet_like, 16),
}


@pytest.mark.parametrize("make, factor", PAPERS.values(), ids=PAPERS)
def test_the_papers_kinds_of_net_agree_at_every_factor(make, factor):
    """Where the dense size is a multiple of the factor, the shapes are equal too."""
    net = make()
    axis = walk(net).last.axis
    assert axis.stride == factor
    sides = int(axis.field) + 2 * factor - 1, int(axis.field) + factor - 1
    canvas = torch.randn(1, net[0].in_channels, *sides, dtype=torch.float64)
    with torch.no_grad():
        dense, stitched = rarefy(net)(canvas), shift_and_stitch(net, canvas)
    assert dense.shape[2:] == stitched.shape[2:] == (2 * factor, factor)
    assert difference(stitched, dense) <= EXACT < float(dense.std())


@pytest.mark.parametrize("make, factor", PAPERS.values(), ids=PAPERS)
def test_stride_1_without_rarefaction_is_another_function(make, factor):
    """Only the strides taken away: the later filters see a smaller and finer field, and the scores are others."""
    net = make()
    plain = copy.deepcopy(net)
    for layer in plain:
        if hasattr(layer, "stride"):
            layer.stride = (1, 1)
    rarefied = rarefy(net)
    sides = [int(walk(net).last.axis.field) + 9] * 2
    canvas = torch.randn(1, net[0].in_channels, *sides, dtype=torch.float64)
    with torch.no_grad():
        dense, wrong = rarefied(canvas), plain(canvas)
    finer, axis = walk(plain).last.axis, walk(rarefied).last.axis
    assert finer.field < axis.field
    offset = int(axis.start - finer.start)
    wrong = wrong[:, :, offset : offset + dense.shape[2], offset : offset + dense.shape[3]]
    assert dense.shape == wrong.shape
    assert float((dense - wrong).abs().mean()) > 0.2 * float(dense.std())


def one_cell_classifier():
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16, 5)),
    )


@pytest.mark.parametrize(
    "classifier, native", [(one_cell_classifier(), 13), (BACKBONES["lenet"].make(num_classes=3, width=0.2), 28)]
)
def test_both_are_the_classifier_slid_over_the_image_pixel_by_pixel(classifier, native):
    dense, _ = convolutionalize(lively(classifier), native)
    image = torch.randn(1, 3, native + 7, native + 3, dtype=torch.float64)
    with torch.no_grad():
        crops = image.unfold(2, native, 1).unfold(3, native, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        slid = classifier(crops).view(8, 4, -1).permute(2, 0, 1)[None]
        assert rarefy(dense)(image).shape == shift_and_stitch(dense, image).shape == slid.shape
        assert difference(rarefy(dense)(image), slid) <= EXACT
        assert difference(shift_and_stitch(dense, image), slid) <= EXACT


def test_at_the_border_of_a_padded_net_exactly_the_cells_differ_that_must():
    """Stride 4 with padding inside, 64x64 cells: those differ whose view has its border where the canvas has pixels.

    The first phase begins where the canvas begins and the last ends where it ends: their zeros are the canvas's own.
    """
    net = nn.Sequential(*(halves() + halves()), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)).double()
    canvas = torch.randn(1, CHANNELS, 67, 67, dtype=torch.float64)
    with torch.no_grad():
        dense, stitched = rarefy(net)(canvas), shift_and_stitch(net, canvas)
    assert stitched.shape[2:] == dense.shape[2:] == (64, 64)
    inside = interior(walk(net).last.axis, 64)
    assert inside == range(2, 14)
    good = torch.tensor([cell in inside or (phase == 0 and cell < 2) or (phase == 3 and cell >= 14)
                         for cell in range(16) for phase in range(4)])  # fmt: skip
    equal = (stitched - dense).abs().amax((0, 1)) <= EXACT
    assert torch.equal(equal, good[:, None] & good)
    assert int((~equal).sum()) == 1392
    assert difference(stitched, dense) > 0.01


def halves():
    return [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.MaxPool2d(2)]


@pytest.fixture(scope="module", params=EVERY_BACKBONE)
def dense(request):
    """A built-in classifier in its dense form, in double precision, and a side at which no pool has a partial
    window.
    """
    torch.manual_seed(1)
    chosen = BACKBONES[request.param]
    net, report = convolutionalize(chosen.make(num_classes=2, width=1 / 16), chosen.native_size)
    features = {name: f.rows for name, f in ((f.name, f) for f in report.trace)}

    def whole(side):
        sizes = report.trace.sizes(side)
        return all((side - 1 - 2 * axis.start) // axis.stride + 1 == sizes[name] for name, axis in features.items())

    return net.double().eval(), next(side for side in range(chosen.native_size, 1000) if whole(side))


def test_every_backbone_keeps_its_scores_at_half_its_stride(dense):
    net, side = dense
    half = int(walk(net).last.axis.stride) // 2
    image = torch.randn(1, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        mine, denser = net(image), rarefy(net, half)(image)
    assert difference(mine, denser[:, :, ::2, ::2]) <= EXACT * float(mine.abs().max())


def test_every_backbone_keeps_its_field_names_and_weights_at_every_stride(dense):
    net, _ = dense
    before = walk(net).last.axis
    stride = int(before.stride)
    for left in (n for n in range(1, stride + 1) if stride % n == 0):
        rarefied = rarefy(net, left)
        after = walk(rarefied).last.axis
        assert (after.stride, after.start, after.field) == (left, before.start, before.field)
        assert list(rarefied.state_dict()) == list(net.state_dict())
        assert list(node_names(rarefied.graph).values()) == list(node_names(net.graph).values())
        assert stage_outputs(rarefied, ".*") == stage_outputs(net, ".*")


class Again(nn.Module):
    """One pool and one convolution, each called at several strides, as many nets are written."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(CHANNELS, CHANNELS, 3), nn.MaxPool2d(2)
        self.pool_2 = nn.Identity()

    def forward(self, x):
        return self.conv(self.pool(self.conv(self.pool_2(self.pool(self.conv(x))))))


def test_a_module_that_is_called_twice_gets_a_dilation_for_each_call_and_keeps_one_weight():
    net = Again().double()
    rarefied = rarefy(net)
    canvas = torch.randn(1, CHANNELS, 40, 41, dtype=torch.float64)
    with torch.no_grad():
        dense, stitched = rarefied(canvas), shift_and_stitch(net, canvas)
    height, width = stitched.shape[2:]
    assert difference(stitched, dense[:, :, :height, :width]) <= EXACT
    assert len(list(rarefied.parameters())) == 2
    half = rarefy(net, 2)  # here the first two calls of the convolution need no dilation: one layer serves both
    assert [layer.dilation for layer in half.modules() if isinstance(layer, nn.Conv2d)] == [(1, 1), (2, 2)]
    assert len(half.state_dict()) == 4


def test_the_net_itself_is_left_as_it_was_and_its_mode_is_kept():
    net = halving(4).train()
    before = copy.deepcopy(net)
    rarefied = rarefy(net)
    assert [str(layer) for layer in net] == [str(layer) for layer in before]
    assert not {p.data_ptr() for p in rarefied.parameters()} & {p.data_ptr() for p in net.parameters()}
    assert all(layer.training for layer in rarefied.children())
    assert not any(layer.training for layer in rarefy(net.eval()).modules())


@some
@given(net=nets(padded=True, ceil=True))
def test_rarefying_in_two_steps_is_rarefying_at_once(net):
    stride = strides_of(net)
    half = max(n for n in range(1, 3) if stride[0] % n == stride[1] % n == 0)
    canvas = a_canvas(net, (0, 0))
    with torch.no_grad():
        assert difference(rarefy(rarefy(net, half))(canvas), rarefy(net)(canvas)) <= EXACT


@some
@given(net=nets(padded=True, ceil=True), more=EXTRA)
def test_at_its_own_stride_the_rarefied_net_is_the_net(net, more):
    rows, columns = strides_of(net)
    assume(rows == columns)
    canvas = a_canvas(net, more)
    with torch.no_grad():
        assert torch.equal(rarefy(net, rows)(canvas), net(canvas))


def test_a_pool_that_keeps_a_part_of_the_stride_has_no_partial_window():
    """From 3 and 2 the stride 2 is what the second pool keeps; its window is spread, and its last one is full."""
    net = nn.Sequential(*(nn.MaxPool2d(k, k, ceil_mode=True) for k in (3, 2)))
    canvas = torch.randn(1, 1, 11, 12)
    assert rarefy(net, 2)(canvas).shape[2:] == (3, 4)
    assert torch.equal(rarefy(net, 2)(canvas), rarefy(net)(canvas)[:, :, ::2, ::2])


class Odd(nn.Module):
    """A layer that has a window, and no form with another."""

    def forward(self, x):
        return x[:, :, ::2, ::2]


windows_of.register(Odd, lambda layer: (Window(1, 2), Window(1, 2)))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, 2)

    def forward(self, x):
        return x, self.conv(x)


UP = nn.Sequential(nn.Conv2d(3, 3, 2, 2), nn.ConvTranspose2d(3, 3, 2, 2))
FOUR = nn.Sequential(nn.Conv2d(3, 3, 4, 4))
IMAGE = torch.zeros(1, 3, 16, 16)


@pytest.mark.parametrize(
    "refused, words",
    [
        (lambda: rarefy(UP), "layer '1' .ConvTranspose2d.: it is an upsampling"),
        (lambda: rarefy(nn.Sequential(Odd(), FOUR)), "layer '0' .Odd.: no rarefied form"),
        (lambda: rarefy(nn.Sequential(FOUR, nn.AdaptiveAvgPool2d(1))), "layer '1' .AdaptiveAvgPool2d.*convolutionali"),
        (lambda: rarefy(FOUR, 0), "stride 0: it does not divide the net's stride, 4; One of: 1, 2, 4$"),
        (lambda: rarefy(FOUR, 3), "stride 3: .* One of: 1, 2, 4$"),
        (lambda: rarefy(FOUR, 8), "stride 8: .* One of: 1, 2, 4$"),
        (lambda: rarefy(nn.Conv2d(3, 3, 4, (4, 6)), 3), "stride 3: it does not divide .*, 4 by 6; One of: 1, 2$"),
        (lambda: shift_and_stitch(FOUR, IMAGE, 3), "factor 3: it is no whole divisor of the net's stride, 4"),
        (lambda: shift_and_stitch(FOUR, IMAGE, 0), "factor 0: "),
        (lambda: shift_and_stitch(nn.Sequential(UP[1]), IMAGE), "factor 1/2: .* upsampling"),
        (lambda: shift_and_stitch(FOUR, IMAGE[0]), r"image of shape \(3, 16, 16\): four axes"),
        (lambda: shift_and_stitch(FOUR, IMAGE[:, :, :6]), "image of 6x16: its shifted views, 3x13, are too small"),
        (lambda: shift_and_stitch(FOUR, IMAGE[:, :, :, :2]), "image of 16x2: its shifted views, 13x0, are too small"),
        (lambda: shift_and_stitch(Two(), IMAGE), "Two: it gives a tuple"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(refused, words):
    with pytest.raises(UsageError, match=words) as caught:
        refused()
    assert "\n" not in str(caught.value)


def test_the_page_about_it_says_what_is():
    page = (Path(__file__).parents[2] / "docs" / "rarefaction.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    names: dict = {}
    exec(compile(block, "rarefaction.md", "exec"), names)
    assert block.count("\nassert ") == 2  # of the page itself, which have held
    height, width = names["height"], names["width"]
    assert torch.allclose(names["stitched"], names["dense"][:, :, :height, :width], atol=1e-5)
    with pytest.raises(AssertionError):
        exec(compile(block.replace("(stitched, ", "(stitched + 1, "), "rarefaction.md", "exec"), {})
