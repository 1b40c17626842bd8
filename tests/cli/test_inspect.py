"""``fullconv inspect``: one net in words, several as the paper's table 1; nothing in it is typed."""

import json
import os

import pytest
import safetensors.torch
import torch
from tests.support import zoo

from fullconv.cli.command import main
from fullconv.cli.inspect_table import TABLE
from fullconv.config import InputConvention, ModelConfig, TrainConfig
from fullconv.datasets.open_dataset import open_dataset
from fullconv.models.backbones.registry import BACKBONES
from fullconv.models.build import build, build_classifier
from fullconv.profiling.graph_cost import cost, depth, feature_sizes
from fullconv.training.run import prepare, records
from fullconv.weights import checkpoint
from fullconv.weights.convert import numbered

SMALL = {"backbone": "vgg11", "stride": 8, "width": 1 / 32, "native_size": 32}
PUBLISHED = {"caffenet": (57, "355", 8), "vgg16": (134, "404", 16), "googlenet": (6, "907", 22)}
"""Table 1 of the paper: millions of parameters, receptive field, layers; the stride of all is 32."""


def call(capsys, *argv):
    """Exit code, standard output and standard error of the command."""
    with pytest.raises(SystemExit) as left:
        main(["inspect", *(str(word) for word in argv)])
    out = capsys.readouterr()
    return left.value.code or 0, out.out, out.err


def said(capsys, *argv):
    code, out, err = call(capsys, *argv, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def trained(digits_folder, tmp_path_factory):
    """The best net of a run, as training writes it."""
    folder = tmp_path_factory.mktemp("inspect") / "[run]"
    data = [open_dataset(digits_folder, split) for split in ("train", "val")]
    settings = TrainConfig(steps=1, batch_size=1, crop=(32, 32), workers=0)
    list(records(prepare(folder, "digits", *data, ModelConfig(**SMALL), settings, InputConvention())))
    return folder / "model.safetensors"


def saved(path, kind, config, **provenance):
    net = build(config) if kind == "fcn" else build_classifier(config, config.num_classes)
    header = checkpoint.Header(config, numbered(config.num_classes), InputConvention(), kind, provenance)
    checkpoint.save(path, net.state_dict(), header)
    return path


def test_the_published_table(capsys):
    found = said(capsys, *PUBLISHED, "--stride", 32, "--padding", "paper")["nets"]
    for one, (name, (millions, field, layers)) in zip(found, PUBLISHED.items(), strict=True):
        assert (one["net"], round(one["parameters"] / 1e6), one["depth"]) == (name, millions, layers)
        # GoogLeNet's 907 is that of the classifier with its pool, which section 4.1 drops.
        assert (one["receptive_field_with_pool"] or one["receptive_field"]) == field
        assert (one["coarsest_stride"], one["size"]) == ("32", [500, 500])
    assert [one["receptive_field"] for one in found] == ["355", "404", "715"]


def test_the_released_crops(capsys):
    found = said(capsys, "--backbone", "vgg16", "--padding", "paper", "--stride", 32)
    assert (found["parameters"], found["receptive_field"]) == (134_346_581, "404")
    assert [(j["upscore"], j["taps"], j["crop"]) for j in found["joins"]] == [("upscore", 64, 19)]
    assert found["scores"] == {"score_fr": "drop7"}
    assert found["margin"] == {"before": 0, "after": 0, "least": 1}
    assert sum(found["parameters_by_part"].values()) == found["parameters"]


@pytest.mark.slow
@pytest.mark.parametrize("name, size", [("vgg16", (500, 500)), ("resnet18", (96, 321)), ("googlenet", (1, 700))])
def test_the_costs_are_those_of_the_library(capsys, name, size):
    found = said(capsys, name, "--stride", 16, "--size", f"{size[0]}x{size[1]}", "--layers")
    with torch.device("meta"):
        net = build(ModelConfig(name, stride=16))
    spent = cost(net, *size)
    assert (found["flops"], found["weight_bytes"]) == (spent.flops, spent.weight_bytes)
    assert (found["peak_bytes"], found["kept_bytes"]) == (spent.peak_bytes, spent.kept_bytes)
    assert sum(found["flops_by_part"].values()) == found["flops"]
    assert found["depth"] == depth(net)
    assert {row["name"]: tuple(row["size"]) for row in found["layers"]} == feature_sizes(net, *size)
    assert (found["net"], found["kind"], found["model"]["backbone"]) == (name, "backbone", name)


@pytest.mark.parametrize(
    "name, side",
    [
        ("caffenet", None),
        ("lenet", None),
        ("googlenet", 7),
        ("resnet18", 7),
        pytest.param("mobilenet_v2", 7, marks=pytest.mark.slow),
        ("squeezenet1_1", 13),
    ],
)
def test_the_pool_of_the_classifier_is_told_where_there_is_one(capsys, name, side):
    found = said(capsys, name, "--stride", 4 if name == "lenet" else 16)
    # A global pool covers the map that the native crop gives: so many cells, a stride apart.
    wider = side and int(found["receptive_field"]) + (side - 1) * int(found["coarsest_stride"])
    assert found["receptive_field_with_pool"] == (str(wider) if side else None)


def test_one_skip_alone_does_not_end_where_the_classifier_does(capsys):
    found = said(capsys, "googlenet", "--stride", 16, "--levels", "finest")
    assert (found["coarsest_stride"], found["receptive_field_with_pool"]) == ("16", None)


def test_one_net_in_words(capsys, terminal):
    code, out, _ = call(capsys, "googlenet", "--stride", 8, "--size", "300x200")
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    facts = dict(line.split("  ", 1) for line in lines if not line.startswith(" "))
    below = lines[1 + next(n for n, line in enumerate(lines) if line.startswith("receptive field"))]
    assert facts["net"].strip() == "FCN-8s on googlenet, 21 classes, tight padding"
    assert facts["receptive field"].strip() == "715 pixels at stride 32"
    assert below.strip() == "907 with the classifier's average pool, which section 4.1 drops"
    assert facts["image"].strip() == "300x200"
    assert "GFLOPs: trunk " in facts["arithmetic"]
    assert {"mean IU on val", "forward pass"}.isdisjoint(facts)


def cells(line):
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_several_nets_stand_side_by_side(capsys, terminal):
    code, out, _ = call(capsys, *PUBLISHED, "--stride", 32, "--padding", "paper")
    assert code == 0
    header, *rows, last = out.splitlines()
    assert cells(header) == list(PUBLISHED)
    table = {row[0]: row[1:] for row in map(cells, rows)}
    assert set(table) == set(TABLE) - {"backbone", "mean IU on val", "forward pass"}
    assert table["conv. layers"] == ["8", "16", "22"]
    assert table["parameters"] == ["57M", "134M", "6M"]
    assert table["rf size"] == ["355", "404", "715"]
    assert table["with average pool"] == ["907"]
    assert len({len(row.rstrip()) for row in (header, *rows)}) == 1, "the last column is aligned to the right"
    assert last == "for an image of 500x500"


@pytest.mark.slow
def test_more_nets_than_fit_go_into_more_tables(capsys, terminal):
    names = [name for name in BACKBONES if name.startswith("vgg")]
    code, out, _ = call(capsys, *names, "--stride", 16, "--layers")
    assert code == 0
    table, *layers = out.split("\n\n")
    assert max(map(len, table.splitlines())) <= 80
    heads = [cells(line) for line in table.splitlines() if line.startswith("   ")]
    assert len(heads) > 1
    assert [name for head in heads for name in head] == names
    assert [block.splitlines()[0] for block in layers] == names


def test_layers_are_listed_with_their_size(capsys, terminal):
    code, out, _ = call(capsys, "vgg16", "--padding", "paper", "--layers")
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.split("\n\n")[1].splitlines()}
    assert rows["feature"] == ["stride", "start", "field", "channels", "size"]
    assert rows["conv1_1"] == ["1", "-99", "3", "64", "698x698"]
    assert rows["pool3"][0::3] == ["8", "256"]
    assert rows["fc6"] == ["32", "25/2", "404", "4096", "16x16"]


def test_a_checkpoint_says_what_it_is_and_what_it_reached(trained, capsys, terminal):
    found = said(capsys, trained)
    reached = checkpoint.load(trained)[1].provenance["val"]["mean_iu"]
    assert (found["kind"], found["mean_iu"]) == ("fcn", reached)
    assert {key: found["model"][key] for key in SMALL} == SMALL
    assert f"mean IU on val   {100 * reached:.1f}" in call(capsys, trained)[1]
    # Beside others: the run's folder is its name, and the cells of nets that were never scored are empty.
    code, out, _ = call(capsys, "vgg16", trained, "resnet18")
    assert code == 0
    rows = {row[0]: row[1:] for row in map(cells, out.splitlines())}
    assert cells(out.splitlines()[0]) == ["vgg16", "[run]", "resnet18"]
    assert rows["mean IU on val"] == [f"{100 * reached:.1f}"]
    assert rows["backbone"] == ["vgg11"]


def test_a_classifier_is_shown_as_the_net_that_the_flags_make_of_it(tmp_path, capsys):
    classifier = ModelConfig(**SMALL, num_classes=1000)
    path = saved(tmp_path / "c.safetensors", "classifier", classifier)
    found = said(capsys, path, "--stride", 16, "--num-classes", 7)
    assert (found["kind"], found["model"]["stride"], found["model"]["num_classes"]) == ("classifier", 16, 7)
    assert found["model"]["width"] == SMALL["width"]
    assert "a classifier; shown is the net that begins with it" in " ".join(call(capsys, path)[1].split())


@pytest.mark.parametrize("val", [None, {}, "good", {"mean_iu": None}])
def test_a_checkpoint_that_was_never_scored_has_no_mean_iu(tmp_path, capsys, val):
    path = saved(tmp_path / "m.safetensors", "fcn", ModelConfig(**SMALL, num_classes=3), val=val)
    assert said(capsys, path)["mean_iu"] is None
    assert "mean IU" not in " ".join(call(capsys, path)[1].split())


def test_a_net_of_a_library_stands_beside_our_own(capsys):
    zoo.torchvision()
    theirs, ours = said(capsys, "torchvision:resnet18", "resnet18")["nets"]
    own = {"net", "model", "scores"}
    assert {key: value for key, value in theirs.items() if key not in own} == {
        key: value for key, value in ours.items() if key not in own
    }


def test_time_is_measured_when_asked(capsys, terminal):
    small = ["lenet", "--stride", "4", "--size", "40x30"]
    found = said(capsys, *small, "--time")
    assert 0 < found["forward_seconds"] < 10
    assert found["machine"]["threads"] == torch.get_num_threads()
    line = next(line for line in call(capsys, *small, "--time")[1].splitlines() if line.startswith("forward pass"))
    assert "s on " in line and found["machine"]["cpu"] in line
    out = call(capsys, "lenet", *small, "--time")[1]
    assert len(cells(next(line for line in out.splitlines() if line.startswith("forward pass")))) == 3
    assert out.splitlines()[-1].startswith("for an image of 40x30; timed on ")
    assert not {"forward_seconds", "machine"} & set(said(capsys, *small))


def test_a_time_that_needs_more_memory_than_there_is(capsys, monkeypatch):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    code, _, err = call(capsys, "vgg16", "--time")
    assert code == 1
    assert err.count("\n") == 1
    assert "vgg16: a forward pass at 500x500 needs" in err and "this machine has 4; give a smaller --size" in err
    assert call(capsys, "vgg16")[0] == 0


@pytest.mark.parametrize(
    "line, words",
    [
        ("vgg116", ["'vgg116': neither a backbone nor a checkpoint", "did you mean 'vgg1"]),
        ("vgg16 resnet51", ["'resnet51'", "did you mean 'resnet50'"]),
        ("{tmp}/none.safetensors", ["none.safetensors: there is no such file"]),
        ("{tmp}", ["it is a folder"]),
        ("{tmp}/page.safetensors", ["HTML page"]),
        ("{tmp}/plain.safetensors", ["plain weights", "--backbone"]),
        ("vgg16 --backbone vgg11", ["--backbone vgg11: the nets are named already"]),
        ("{model} --stride 16", ["--stride: a checkpoint says itself"]),
        ("{model} {model} --num-classes 3", ["--num-classes: a checkpoint says itself"]),
        ("--backbone vgg16 --stride 7", ["no feature at that stride"]),
        ("vgg16 lenet", ["stride 8: lenet has no feature at that stride; One of: 4"]),
        ("vgg16 --size 500", ["size is '500'; give HEIGHTxWIDTH"]),
        ("vgg16 --size 0x500", ["at least 1"]),
        ("vgg16 --size 5000000x1", ["--size 5000000x1: no image is that large"]),
        ("vgg16 --layer", ["--layer: there is no such flag; did you mean '--layers'"]),
        ("mobilenet_v2 --native-size 96", ["leave native_size out"]),
    ],
)
def test_bad_input_is_one_line(trained, tmp_path, capsys, line, words):
    (tmp_path / "page.safetensors").write_text("<html>404</html>")
    safetensors.torch.save_file({"w": torch.zeros(2)}, tmp_path / "plain.safetensors")
    code, out, err = call(capsys, *(word.format(tmp=tmp_path, model=trained) for word in line.split()))
    assert code == 2, err
    assert out == ""
    assert err.startswith("fullconv: error: ") and err.count("\n") == 1, err
    for word in words:
        assert word in err, err
