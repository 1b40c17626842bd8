"""Verdicts follow the numbers: other numbers, another verdict."""

import pytest

from fullconv.errors import RunError
from fullconv.reproduce import (
    appendix_a,
    patch_sampling,
    table1,
    table2,
    timing,
    variations,
)
from fullconv.reproduce.result import Row, beside, compared, too_little


def nets(**values):
    names = {"fixed": "FCN-32s-fixed", "c32": "FCN-32s", "c16": "FCN-16s", "c8": "FCN-8s"}
    return [Row(names[key], {"mean IU": value, "mean acc.": 50.0, "classes": 21}) for key, value in values.items()]


def test_table2_agrees_with_the_paper_and_flips():
    said = table2.verdict(nets(fixed=40.0, c32=50.0, c16=55.0, c8=55.3))
    assert "FCN-16s is better than FCN-32s (as in the paper)" in said
    assert "FCN-8s is no better than FCN-16s" in said
    flipped = table2.verdict(nets(fixed=40.0, c32=55.0, c16=50.0, c8=40.0))
    assert "FCN-16s is worse than FCN-32s (unlike the paper)" in flipped
    assert "FCN-8s is worse than FCN-16s (unlike the paper, which gains 0.3 points)" in flipped
    assert "FCN-32s is worse than FCN-32s-fixed (unlike" in table2.verdict(nets(fixed=60.0, c32=50.0))


def test_the_paper_agrees_with_itself():
    printed = {
        name: beside(name, paper="table2")["paper"] for name in ("FCN-32s-fixed", "FCN-32s", "FCN-16s", "FCN-8s")
    }
    rows = [Row(name, {"classes": 21} | {c: e.value for c, e in row.items()}) for name, row in printed.items()]
    assert "unlike" not in table2.verdict(rows)
    ms = {"whole image": (22.0, 37.0), "patches in batches": (1.2, 2.4), "patches one by one": (5.4, 10.0)}
    assert "unlike" not in timing.verdict(timing.rows_of(ms, 100))
    rows = [Row(name, {c: e.value for c, e in beside(name, paper="table1")["paper"].items()},
                beside(name, paper="table1")) for name in table1.NETS]  # fmt: skip
    assert "unlike" not in table1.verdict(rows).lower()
    rows = [Row(str(f), {"mean IU": beside(str(f), paper="upper bounds")["paper"]["mean IU"].value}) for f in
            appendix_a.FACTORS]  # fmt: skip
    assert "unlike" not in appendix_a.verdict(rows)


def test_table1_names_what_differs():
    rows = [Row(name, {c: e.value for c, e in beside(name, paper="table1")["paper"].items()},
                beside(name, paper="table1")) for name in table1.NETS]  # fmt: skip
    changed = [Row(rows[0].name, {**rows[0].measured, "rf size": 356.0, "mean IU": 90.0}, rows[0].paper), *rows[1:]]
    said = table1.verdict(changed)
    assert "rf size of AlexNet (356, there 355)" in said
    assert "from worst to best they are GoogLeNet, VGG16, AlexNet, unlike the paper" in said


def test_nets_that_learned_nothing_have_no_verdict():
    def rows(classes):
        return [Row(name, {"mean IU": 7.0, "mean acc.": 9.4, "classes": classes}) for name in ("FCN-32s", "FCN-16s")]

    assert too_little(rows(11)) and table2.verdict(rows(11)).startswith("No verdict")
    assert variations.verdict(rows(11), "so").startswith("No verdict") and too_little(rows(30)) is None


@pytest.mark.parametrize(
    ("value", "words", "paper"),
    [(53.0, "is better than", "unlike the paper"), (50.4, "makes no difference to", "as in the paper"),
     (40.0, "is worse than", "as in the paper")],
)  # fmt: skip
def test_variations(value, words, paper):
    rows = [
        Row("plain", {"mean IU": 50.0, "mean acc.": 60.0, "classes": 21}),
        Row("weights", {"mean IU": value, "mean acc.": 60.0, "classes": 21}),
    ]
    said = variations.verdict(rows, "where none helps")
    assert f"weights {words} plain" in said and paper in said


def trained(name, loss, step):
    return Row(name, {"final loss": loss, "s/step": step, "images/s": 1 / step})


def test_sampling():
    as_printed = patch_sampling.verdict([trained("whole", 0.50, 1.0), trained("half", 0.51, 2.0)], 21)
    assert "the same loss, as in the paper" in as_printed and "2.0 times as long, slower as in the paper" in as_printed
    flipped = patch_sampling.verdict([trained("whole", 0.50, 2.0), trained("half", 0.30, 1.0)], 21)
    assert "a lower loss (by 40 % of the larger), unlike" in flipped and "not slower, unlike the paper" in flipped
    assert "a higher loss" in patch_sampling.verdict([trained("whole", 0.3, 2.0), trained("half", 0.50, 1.0)], 21)
    assert patch_sampling.verdict([trained("whole", 2.9, 2.0), trained("half", 2.9, 1.0)], 21).startswith("No verdict")


def test_timing():
    slow = {"whole image": (200.0, 300.0), "patches in batches": (1.0, 2.0), "patches one by one": (3.0, 4.0)}
    said = timing.verdict(timing.rows_of(slow, 100))
    assert "0.5 times as long" in said and "not faster, unlike in the paper" in said


def test_bounds():
    def rows(*values):
        return [Row(str(f), {"mean IU": v}) for f, v in zip(appendix_a.FACTORS, values, strict=True)]

    assert "no obstacle to" in appendix_a.verdict(rows(50, 60, 70, 80, 95, 99))
    assert "are an obstacle on this data, unlike" in appendix_a.verdict(rows(50, 60, 70, 80, 85, 99))
    assert "does not rise steadily" in appendix_a.verdict(rows(99, 95, 80, 70, 60, 50))


def test_what_was_not_measured_is_no_number():
    with pytest.raises(RunError, match="no mean IU was measured"):
        table2.verdict([Row("FCN-32s", {"mean IU": None, "mean acc.": 80.0}), *nets(c16=50.0)])
    with pytest.raises(RunError, match="not a number"):
        compared("a", float("nan"), "b", 1.0)
