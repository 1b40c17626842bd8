"""The paper's numbers are those of the paper, and each says how well it is known."""

import pytest

from fullconv.errors import UsageError
from fullconv.reproduce.paper_tables import EVIDENCE, TABLES, Entry, lookup, table


def values(name, row):
    return tuple(entry.value for entry in table(name).row(row).values())


@pytest.mark.parametrize(
    ("name", "row", "printed"),
    [
        ("table1", "AlexNet", (39.8, 50, 8, 57, 355, 32)),
        ("table1", "VGG16", (56.0, 210, 16, 134, 404, 32)),
        ("table1", "GoogLeNet", (42.5, 59, 22, 6, 907, 32)),
        ("table2", "FCN-32s-fixed", (83.0, 59.7, 45.4, 72.0)),
        ("table2", "FCN-32s", (89.1, 73.3, 59.4, 81.4)),
        ("table2", "FCN-16s", (90.0, 75.7, 62.4, 83.0)),
        ("table2", "FCN-8s", (90.3, 75.9, 62.7, 83.2)),
        ("table4", "Gupta et al.", (60.3, 28.6, 47.0)),
        ("table4", "FCN-32s RGB", (60.0, 42.2, 29.2, 43.9)),
        ("table4", "FCN-32s RGBD", (61.5, 42.4, 30.5, 45.5)),
        ("table4", "FCN-32s HHA", (57.1, 35.2, 24.2, 40.4)),
        ("table4", "FCN-32s RGB-HHA", (64.3, 44.9, 32.8, 48.0)),
        ("table4", "FCN-16s RGB-HHA", (65.4, 46.1, 34.0, 49.5)),
        ("table5", "FCN-16s", (85.2, 51.7, 39.5, 76.1, 94.3)),
        ("table5", "Tighe et al. 1", (75.6, 41.1)),
        ("table5", "Pinheiro et al.", (77.7, 29.8)),
        ("context 59", "FCN-8s", (65.9, 46.5, 35.1, 51.0)),
        ("context 33", "FCN-8s", (71.8, 67.6, 53.5, 57.7)),
        ("timing", "whole image", (22, 37)),
        ("timing", "patches in batches", (1.2, 2.4, 5.5, 6.5)),
        ("timing", "patches one by one", (5.4, 24.5)),
        ("voc test", "FCN-8s", (62.7, 62.2, 175)),
    ],
)
def test_the_numbers_are_those_of_the_paper(name, row, printed):
    assert values(name, row) == printed


def test_the_upper_bounds():
    found = {int(row): values("upper bounds", row)[0] for row in TABLES["upper bounds"].rows}
    assert found == {128: 50.9, 64: 73.3, 32: 86.1, 16: 92.8, 8: 96.4, 4: 98.5}


def test_the_ratios_follow_from_the_times():
    whole, batched, single = (table("timing").row(row) for row in TABLES["timing"].rows)
    for way in ("forward", "backward"):
        assert 100 * batched[way].value / whole[way].value == pytest.approx(batched[f"{way} ratio"].value, abs=0.05)
    assert 100 * single["forward"].value / whole["forward"].value == pytest.approx(24.5, abs=0.05)


@pytest.mark.parametrize("name", TABLES)
def test_every_number_has_a_source_and_a_known_tag(name):
    for row in TABLES[name].rows:
        for entry in table(name).row(row).values():
            assert entry.tag in EVIDENCE and entry.source
            assert ("unverified" in str(entry)) == (entry.tag == "J?") == entry.to_dict()["unverified"]


def test_the_tables_of_the_conference_paper_have_no_unverified_number():
    for name in ("table1", "table2", "table4", "upper bounds", "timing", "context 59", "context 33"):
        assert not any(e.unverified for row in TABLES[name].rows for e in table(name).row(row).values())
    assert [n for n, e in table("released").row("FCN-8s").items() if not e.unverified] == ["pixel acc.", "mean IU"]


def test_what_is_not_there_is_said():
    assert lookup("table4", "Gupta et al.", "mean acc.") is None
    for wrong in (("table9", "FCN-8s", "mean IU"), ("table2", "FCN-4s", "mean IU"), ("table2", "FCN-8s", "IU")):
        with pytest.raises(UsageError, match="there is no"):
            lookup(*wrong)
    with pytest.raises(ValueError, match="tag"):
        Entry(1.0, "", "here", "?")
