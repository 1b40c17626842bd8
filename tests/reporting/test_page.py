"""Laws of a page: well formed, self-contained, safe with any text. Of a figure: a PNG of the size asked for."""

from __future__ import annotations

import base64
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.support.strict_html import Reader, check

from fullconv.datasets.published.label_spaces import VOC
from fullconv.errors import UsageError
from fullconv.labels import LabelSpace
from fullconv.reporting import figures as draw
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
from fullconv.reporting.pictures import view

HOSTILE = [
    "<script>alert(1)</script>",
    '" onload="x',
    "'",
    "a&b;&lt;",
    "caf\udce9.jpg",
    "\ud800",
    "\x00\x1b[31m",
    "{{ 7*7 }}",
    "$x_1$",
]


def dot(width: int = 4, height: int = 2, **options: object) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def whole_page(text: str) -> str:
    figure = Figure(dot(), text, text, narrow=dot())
    table = Table((text, "number"), ((text, "1.0"), ("x", "-")), text, swatches=((1, 2, 3), (255, 255, 255)),
                  marked=frozenset({(0, 1)}))  # fmt: skip
    parts = (figure, Gallery((figure, figure), 2), Strip((figure, figure), text), table, Code(text, text))
    return render(text, text, [Section(text, text, parts), Section("two"), Section("three")], {text: text})


@pytest.mark.parametrize("text", ["plain", *HOSTILE])
def test_any_text_is_shown_and_does_nothing(text: str) -> None:
    reader = check(whole_page(text))
    shown = "".join("\ufffd" if c < " " or "\ud800" <= c <= "\udfff" else c for c in text)
    assert sum(shown in found for found in reader.texts) >= 11


@settings(max_examples=15, deadline=None)
@given(st.text(st.characters(), min_size=1, max_size=20))  # surrogates among them
def test_a_page_of_any_text_is_well_formed(text: str) -> None:
    check(whole_page(text.strip() or "x"))


def test_the_reader_refuses_what_is_wrong() -> None:
    for wrong in ("<p>", "<b><i></b></i>", "</p>", "<p></p></p>"):
        with pytest.raises(AssertionError):
            Reader(wrong)
    for foreign in (
        '<img alt="a" src="http://x/a.png">',
        '<a href="#nowhere"></a>',
        "<script></script>",
        '<p onclick="x"></p>',
    ):
        with pytest.raises(AssertionError):
            check(foreign)


def test_a_picture_is_inside_the_page_at_its_true_size() -> None:
    png = dot(40, 20, dpi=(192, 192))
    reader = check(render("t", "l", [Section("s", "", (Figure(png, "", "a red field"),))], {}))
    (image,) = (attributes for tag, attributes in reader.tags if tag == "img")
    assert base64.b64decode(image["src"].partition(",")[2]) == png
    assert (image["width"], image["height"]) == ("20", "10")
    assert Figure(dot(40, 20), "", "x").size == (40, 20)
    with pytest.raises(ValueError, match="no PNG"):
        _ = Figure(b"GIF89a", "", "x").size


def test_a_photograph_is_a_jpeg_at_its_true_size() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    photo, flat = view(noise, 40), view(np.zeros_like(noise), 40)
    assert photo.startswith(b"\xff\xd8") and flat.startswith(b"\x89PNG")
    assert Figure(photo, "", "x").size == Figure(flat, "", "x").size == (40, 30)
    assert Figure(photo, "", "x").source.startswith("data:image/jpeg;base64,")
    # A small picture is enlarged pixel for pixel, so that its pixels can be seen.
    tiny = view(np.eye(2, dtype=np.uint8)[..., None].repeat(3, 2) * 255, 10)
    assert np.asarray(Image.open(BytesIO(tiny)).convert("L"))[:, [0, 9, 10, 19]].tolist()[0] == [255, 255, 0, 0]


def test_a_phone_gets_the_narrow_drawing() -> None:
    wide, narrow = dot(40, 20), dot(20, 20)
    reader = check(render("t", "l", [Section("s", "", (Figure(wide, "", "x", narrow), Figure(wide, "", "y")))], {}))
    sources = [attributes for tag, attributes in reader.tags if tag == "source"]
    assert len(sources) == 1 and "max-width" in sources[0]["media"] and sources[0]["srcset"].endswith(" 2x")
    assert base64.b64decode(sources[0]["srcset"].partition(",")[2].removesuffix(" 2x")) == narrow


def test_views_stand_beside_each_other_under_their_titles() -> None:
    views = tuple(Figure(dot(), title, f"{title} of x") for title in ("image", "truth", "net"))
    page = render("t", "l", [Section("s", "", (Strip(views, "words"), Strip(views[:2])))], {})
    reader = check(page)
    assert reader.texts.count("image") == 2 and reader.texts.count("words") == 1
    assert page.count('class="views odd" style="--views: 3"') == page.count('class="views" style="--views: 2"') == 1
    assert [a["alt"] for tag, a in reader.tags if tag == "img"][:3] == ["image of x", "truth of x", "net of x"]


def test_cells_that_stand_out_and_long_paths() -> None:
    path = "/data/" + "a" * 40
    table = Table(("", "a", "b"), (("x", "1", "2"), ("y", "3", path)), marked=frozenset({(1, 1), (0, 2)}))
    page = render("t", "l", [Section("s", "", (table,))], {})
    check(page)
    assert page.count("<mark>") == 2 and "<mark>3</mark>" in page and "<mark>2</mark>" in page
    assert f'<span class="long">{path}</span>' in page
    assert Table(("run", "time"), (("a", "0:01:02"), ("b", "12:00:00"))).numeric == (False, True)


def test_columns_of_numbers_are_right_aligned() -> None:
    table = Table(("0", "a", "b", "c"), (("1", "7.5", "-", "x"), ("2", "1,234", "12.0 %", "3")))
    assert table.numeric == (False, True, True, False)
    page = render("t", "l", [Section("s", "", (table,))], {})
    assert page.count('class="number"') == 2 * 3  # header and two rows, two columns


def test_a_crooked_table_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells under a header of 2"):
        Table(("a", "b"), (("x",),))
    with pytest.raises(ValueError, match="swatches"):
        Table(("a",), (("x",),), swatches=())


def test_paragraphs_and_nothing_superfluous() -> None:
    reader = check(render("t", "one\n\ntwo", [Section("s", "three\nmore\n\n\nfour")], {}))
    assert [tag for tag, _ in reader.tags].count("p") == 4
    assert not {tag for tag, _ in reader.tags} & {"nav", "dl", "img", "table"}


def test_percent_as_in_the_paper() -> None:
    assert [percent(x) for x in (0.0, 0.62749, 1.0, None)] == ["0.0", "62.7", "100.0", "-"]


def test_importing_the_room_is_cheap() -> None:
    code = "import sys, fullconv.reporting; print(sorted({'torch', 'matplotlib', 'PIL', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# -- figures ----------------------------------------------------------------------------------------------------------


def opened(png: bytes) -> Image.Image:
    picture = Image.open(BytesIO(png))
    picture.load()
    assert picture.format == "PNG" and picture.mode == "RGBA"
    assert round(picture.info["dpi"][0]) == 192
    assert len(np.unique(np.asarray(picture).view(np.uint32)[::3])) > 3, "blank"
    return picture


def lines(steps: int, every: int = 5) -> list[dict[str, object]]:
    scored = {"scores": {"mean_iu": 0.5}}
    return [{"step": i, "loss": 2 / i, "lr": 1e-3, **(scored if i % every == 0 else {})} for i in range(1, steps + 1)]


@pytest.mark.parametrize("steps", [1, 100])
def test_curves(steps: int) -> None:
    tall, low = (opened(draw.curves(lines(steps, every), 320)) for every in (1, steps + 1))
    assert tall.width == low.width == 640
    assert tall.height > low.height  # without an evaluation there is no panel for it
    assert tall.getpixel((0, 0))[3] == 0  # the page shows through


@pytest.mark.parametrize("runs", [1, 2, 10])
def test_curves_of_runs_together(runs: int) -> None:
    logs = {f"run {i}": lines(20 + i, 5) for i in range(runs)}
    for place, log in enumerate(logs.values()):
        for line in log:
            line |= {"seconds": 2.0, "loss": line["loss"] + place / 4}
    scored = opened(draw.curves_together(logs, 320))
    bare = opened(draw.curves_together({n: [{**x, "scores": None} for x in log] for n, log in logs.items()}, 320))
    assert scored.width == bare.width == 640 and scored.height > bare.height
    colours = np.asarray(scored)[..., :3].reshape(-1, 3)
    for place in range(runs):
        assert (colours == draw.run_colour(place)).all(1).any(), place
    # A sum beside a mean: both can be seen, on a logarithmic scale. A run without a step has no curve.
    draw.curves_together({**logs, "sum": [{**x, "loss": 1e5 * x["loss"]} for x in logs["run 0"]], "none": []}, 320)


def test_curves_of_nothing_are_refused() -> None:
    for draws in (lambda: draw.curves([]), lambda: draw.curves_together({"a": []})):
        with pytest.raises(UsageError, match="no step"):
            draws()


@pytest.mark.parametrize(
    "names", [("a", "b"), VOC.names, tuple(f"c{i}" for i in range(60)), ("$x", "道路", "caf\udce9\n")]
)
def test_confusion_of_few_and_many_and_strange_names(names: tuple[str, ...]) -> None:
    counts = np.diag(np.arange(len(names)))  # the first class has no pixels
    picture = opened(draw.confusion(counts, names, 320))
    assert picture.width <= 640 and abs(picture.width - picture.height) <= 1


def test_confusion_shows_shares_not_counts() -> None:
    counts = np.array([[1, 1], [30, 10]])
    assert draw.confusion(counts, "ab") == draw.confusion(1000 * counts, "ab")
    assert draw.confusion(counts, "ab") != draw.confusion(counts.T, "ab")


def test_side_by_side_places_the_pictures() -> None:
    red, blue = np.zeros((2, 30, 60, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    tall = np.full((120, 60, 3), 255, np.uint8)
    picture = opened(draw.side_by_side([[red, blue], [tall, tall]], ["image", "truth"], 208))
    assert picture.size == (416, 52 + 100 + 16 + 400)
    assert picture.getpixel((100, 100)) == (255, 0, 0, 255)
    assert picture.getpixel((316, 100)) == (0, 0, 255, 255)
    assert picture.getpixel((208, 100))[3] == 0  # between them the page
    assert picture.getpixel((100, 300)) == (255, 255, 255, 255)


def test_small_pictures_are_enlarged_without_blur() -> None:
    board = (np.indices((4, 4)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    sheet = np.asarray(Image.open(BytesIO(draw.side_by_side([[board]], (), 32))))
    assert (sheet[..., :3] == board.repeat(16, 0).repeat(16, 1)).all()


def test_side_by_side_refuses_crooked_grids() -> None:
    field = np.zeros((2, 2, 3), np.uint8)
    for rows, titles in (
        ([[field], [field, field]], ()),
        ([], ()),
        ([[]], ()),
        ([[field]], ("a", "b")),
        ([[field[0]]], ()),
    ):
        with pytest.raises(UsageError, match="figures:"):
            draw.side_by_side(rows, titles)


def test_a_heat_map_is_hot_where_the_score_is_high() -> None:
    image = np.full((40, 80, 3), 128, np.uint8)
    score = np.zeros((4, 8))
    score[:, 4:] = 1
    named, plain = (opened(draw.heat_map(image, score, name, width=80)) for name in ("50 % <cats>", ""))
    assert plain.size == (2 * (80 + 58), 80) and named.height > plain.height
    cold, hot = (np.asarray(plain)[40, x, :3].astype(int).sum() for x in (20, 140))
    assert hot > cold + 100


def test_colour_label() -> None:
    labels = LabelSpace.of(["background", "cell"], [(1, 2, 3), (4, 5, 6)])
    label = np.array([[0, 1, 255]], np.uint8)
    assert draw.colour_label(label, labels).tolist() == [[[1, 2, 3], [4, 5, 6], list(labels.void_colour)]]
    with pytest.raises(UsageError, match="holds 2, outside the 2 classes"):
        draw.colour_label(np.array([[2]]), labels)
