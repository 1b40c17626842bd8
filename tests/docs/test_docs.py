"""What the pages in docs/ say is so: their Python prints what stands there, their tables are the code's, their pictures
and links exist.
"""

import ast
import doctest
import importlib.util
import re
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fullconv.config import CONVENTIONS, ModelConfig, to_mapping
from fullconv.geometry import AxisMap
from fullconv.models.alignment import Margin
from fullconv.models.build import build, build_classifier
from fullconv.profiling.process_memory import format_bytes

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
PICTURES = sorted((DOCS / "pictures").glob("*.py"))
LARGEST = 250_000


def blocks(text):
    """The Python of a page, in its order."""
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def run(text, name):
    """Run the Python of a page, each block on what those before it left; how many examples printed something else."""
    names, failed = {}, 0
    for number, block in enumerate(blocks(text)):
        if ">>>" not in block:
            exec(compile(block, f"{name}, block {number}", "exec"), names)
            continue
        examples = doctest.DocTestParser().get_doctest(block, names, f"{name}, block {number}", name, 0)
        failed += doctest.DocTestRunner().run(examples, clear_globs=False).failed
        names = examples.globs
    return failed


def table(page, *titles):
    """The rows of the table with these titles, as dicts of strings."""
    head = "| " + " | ".join(titles) + " |"
    lines = (DOCS / page).read_text().splitlines()
    rows = lines[lines.index(head) + 2 :]
    end = next(i for i, line in enumerate([*rows, ""]) if not line.startswith("|"))
    return [dict(zip(titles, (cell.strip() for cell in row.strip("|").split("|")), strict=True)) for row in rows[:end]]


def script(name):
    """A script of docs/pictures as a module."""
    spec = importlib.util.spec_from_file_location(f"pictures_{name}", DOCS / "pictures" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_prints_what_stands_there(page):
    assert run(page.read_text(), page.name) == 0


def test_a_page_that_lies_is_found():
    assert run("```python\n>>> 1 + 1\n2\n```\n\n```python\n>>> 1 + 1\n3\n```\n", "lie") == 1
    assert run("```python\nx = 1\n```\n\n```python\n>>> x\n2\n```\n", "lie") == 1
    with pytest.raises(AssertionError):
        run("```python\nassert False\n```\n", "lie")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_every_link_and_picture_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_picture_is_shown_small_and_has_its_script():
    shown = {
        name for page in [*PAGES, ROOT / "README.md"] for name in re.findall(r"(\w+\.(?:png|jpg))\)", page.read_text())
    }
    pictures = [path for path in DOCS.iterdir() if path.suffix in (".png", ".jpg")]
    assert {path.name for path in pictures} == shown
    assert {path.stem for path in pictures} >= {path.stem for path in PICTURES}
    assert all(path.stat().st_size < LARGEST for path in pictures)


def test_the_receptive_fields():
    for row in table("geometry.md", "net", "receptive field", "the paper's Table 1"):
        with torch.device("meta"):
            net = build(ModelConfig(row["net"], stride=32, padding="paper"))
        assert net.trace.last.axis.field == int(row["receptive field"])


ALIGNMENT = table(
    "geometry.md", "net, stride", "padding", "first cells at", "kernel, crop of scores, crop of skip",
    "margin before, after, least",
)  # fmt: skip


@pytest.mark.parametrize("row", ALIGNMENT, ids=lambda row: f"{row['net, stride']} {row['padding']}")
def test_the_table_of_crops_and_margins(row):
    backbone, stride = row["net, stride"].split(", ")
    with torch.device("meta"):
        net = build(ModelConfig(backbone, stride=int(stride), padding=row["padding"]))
    starts = [Fraction(start) for start in row["first cells at"].split(",")]
    joins = ast.literal_eval(f"[{row['kernel, crop of scores, crop of skip']}]")
    assert [net.trace[name].axis.start for name in net.features] == starts
    assert [(join.window.kernel, join.crop_scores, join.crop_skip) for join in net.joins] == joins
    assert net.margin == Margin(*map(int, row["margin before, after, least"].split(",")))


def test_the_table_of_input_conventions():
    said = {}
    for row in table("conversion.md", "name", "order", "mean", "std", "of"):
        mean, std = (tuple(map(float, row[key].split(","))) for key in ("mean", "std"))
        said[row["name"]] = (row["order"], mean, std)
    assert said == {name: (c.order, c.mean, c.std) for name, c in CONVENTIONS.items()}


def variants():
    """The settings in the table of the paper's variants, each as a dict."""
    found = []
    for row in table("conversion.md", "variant", "settings", "where"):
        for settings in re.findall(r"`([^`]+)`", row["settings"]):
            call = ast.parse(f"dict({settings})", mode="eval").body
            found.append({word.arg: ast.literal_eval(word.value) for word in call.keywords})
    return found


@pytest.mark.parametrize("settings", variants(), ids=str)
def test_every_variant_of_the_paper_is_a_net(settings):
    with torch.device("meta"):
        net = build(ModelConfig(**{"backbone": "vgg16", **settings}))
        logits = net(torch.empty(1, net.config.channels * len(net.streams), 70, 50))
    assert all(found.shape[2:] == (70, 50) for found in (logits.values() if isinstance(logits, dict) else [logits]))
    assert all(getattr(net.config, key) == value for key, value in settings.items())


def test_the_table_of_variants_leaves_no_setting_out():
    ordinary = {"backbone", "num_classes", "width", "dropout", "native_size"}
    choices = {(key, value) for settings in variants() for key, value in settings.items()}
    assert {key for key, _ in choices} - ordinary == set(to_mapping(ModelConfig())) - ordinary
    for name, spec in ModelConfig.__dataclass_fields__.items():
        for choice in set(spec.metadata["choices"]) - {spec.default}:
            assert (name, choice) in choices


@pytest.mark.parametrize("name", ["geometry", "conversion"])
def test_a_picture_of_numbers_is_drawn_from_the_net(name, tmp_path, monkeypatch):
    drawn = tmp_path / f"{name}.png"
    monkeypatch.setattr(sys, "argv", [name, "--out", str(drawn)])
    script(name).main()
    with Image.open(drawn) as now, Image.open(DOCS / drawn.name) as kept:
        assert now.size == kept.size
        # Another matplotlib may draw letters a shade otherwise; one pixel more of padding is a difference above 2.
        apart = np.abs(np.asarray(now.convert("L"), float) - np.asarray(kept.convert("L"), float))
        assert apart.mean() < 0.5


HEATMAP = script("heatmap")


@given(
    stride=st.sampled_from([1, 2, 4, 8, 16, 32]), before=st.integers(0, 40), half=st.booleans(), side=st.integers(1, 90)
)
def test_a_heat_map_lies_on_the_image_exactly(stride, before, half, side):
    """Cells that hold the pixel of their own centre become the pixels' own numbers."""
    start = -before - (Fraction(1, 2) if half and stride > 1 else 0)
    centres = torch.tensor([float(start + stride * cell) for cell in range((side - start) // stride + 2)]).double()
    laid = HEATMAP.laid_on_the_image(centres.expand(len(centres), -1), AxisMap(Fraction(stride), start), side, side)
    assert torch.allclose(laid, torch.arange(side).double().expand(side, -1), atol=1e-9)


@pytest.mark.slow
def test_the_heat_map_is_drawn_from_a_net_and_a_photograph(tmp_path, monkeypatch, capsys):
    weights, photograph, out = (tmp_path / name for name in ("w.safetensors", "photo.png", "map.jpg"))
    safetensors.torch.save_file(build_classifier(HEATMAP.CONFIG, 1000).state_dict(), weights)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (260, 310, 3), dtype=np.uint8)).save(photograph)
    asked, look, draw = [], HEATMAP.look, HEATMAP.draw
    monkeypatch.setattr(HEATMAP, "look", lambda *given: asked.append(look(*given)) or asked[-1])
    monkeypatch.setattr(HEATMAP, "draw", lambda *given: asked.append(given[2]) or draw(*given))

    def run(*words):
        given = ["heatmap", "--weights", str(weights), "--image", str(photograph), *words]
        monkeypatch.setattr(sys, "argv", given)
        HEATMAP.main()

    run("--out", str(out), "--class", "7=cock", "--class", "9")
    seen, names = asked
    assert seen.shown == (7, 9) and names == {7: "cock"} and seen.maps[0].shape == (260, 310)
    with Image.open(out) as drawn:
        assert drawn.format == "JPEG"
    (tmp_path / "names.txt").write_text("".join(f"class number {k}\n" for k in range(1000)))
    run("--out", str(out), "--names", str(tmp_path / "names.txt"))
    likeliest, names = asked[2:]
    assert likeliest.shown[0] != likeliest.shown[1] and names[999] == "class number 999"
    assert likeliest.maps[0].max() >= seen.maps[0].max()
    kept = (DOCS / "heatmap.jpg").stat().st_mtime_ns
    for words in ([], ["--out", str(out), "--class", "1000"], ["--out", str(out), "--class", "1", "--class", "1"]):
        with pytest.raises(SystemExit) as left:
            run(*words)
        assert left.value.code == 2 and "error: " in capsys.readouterr().err
    assert (DOCS / "heatmap.jpg").stat().st_mtime_ns == kept


def test_the_table_of_data_sets_is_the_code():
    from fullconv.datasets.published.catalog import abouts

    rows = table("datasets.md", "name", "what", "classes", "images", "get")
    for row, about in zip(rows, abouts().values(), strict=True):
        assert row["name"] == f"`{about.name}`" and row["what"] == about.title
        assert row["classes"] == " + ".join(str(len(space)) for space in about.tasks.values())
        counts = ", ".join(f"{split} {count:,}" if count else split for split, count in about.splits.items())
        assert row["images"] == counts and (row["get"] == "yes") == bool(about.files)


def test_the_bounds_in_the_page_are_those_of_camvid(shared_data):
    from fullconv.datasets.open_dataset import open_dataset
    from fullconv.evaluation.upper_bounds import upper_bounds

    found = upper_bounds(open_dataset(f"camvid:{shared_data / 'camvid'}", "val"))
    for row in table("datasets.md", "factor", "mean IU", "pixel acc."):
        reached = found[int(row["factor"])]
        assert row["mean IU"] == f"{100 * reached.mean_iu:.1f}"
        assert row["pixel acc."] == f"{100 * reached.pixel_accuracy:.1f}"


def test_the_table_of_recipes_is_that_of_the_files():
    from fullconv.training.recipes import recipe_names

    rows = table("training.md", "recipe", "to reach")
    assert sorted(row["recipe"].strip("`") for row in rows) == recipe_names()
    folder = ROOT / "src" / "fullconv" / "recipes"
    for row in rows:
        assert f'expect: "{row["to reach"]}"' in (folder / f"{row['recipe'].strip('`')}.yaml").read_text()


def test_the_speed_of_training_is_that_of_the_result_file():
    import json

    found = json.loads((ROOT / "benchmarks" / "results" / "bench-train.json").read_text())
    for row, way in zip(
        table("training.md", "way", "seconds", "times as fast", "loss off by"), found["ways"], strict=True
    ):
        assert row["way"] == way["way"] and row["seconds"] == f"{way['seconds']:.2f}"
        assert row["times as fast"] == f"{way['speedup']:.2f}"


def test_the_cost_of_predicting_is_that_of_the_result_file():
    import json

    found = json.loads((ROOT / "benchmarks" / "results" / "predict.json").read_text())
    kinds = ("network", "flip", "scales", "probability", "entropy", "writing")
    rows = table("prediction.md", "way", "images/s", "net at work", *kinds)
    for row, way in zip(rows, found["ways"], strict=True):
        spent = way.get("seconds_per_image", {})
        assert row["way"].replace("`", "") == way["way"] and row["images/s"] == f"{way['images_per_second']:.1f}"
        assert row["net at work"] == (f"{way['net_busy']:.0%}" if spent else "")
        assert [row[kind] for kind in kinds] == [f"{spent[kind]:.3f}" if kind in spent else "" for kind in kinds]


def test_the_verdicts_are_those_of_the_result_files():
    import json

    results = ROOT / "benchmarks" / "results" / "studies"
    rows = table("studies.md", "study", "data", "command", "verdict")
    found = {(row["study"], row["verdict"]) for row in rows}
    files = [json.loads(path.read_text()) for path in results.glob("*/*.json")]
    assert found == {(result["study"], result["verdict"]) for result in files} and len(rows) == len(files)


# -- long runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slurm.sh", "kubernetes.yaml"])
def test_the_job_files_use_flags_that_there_are(name):
    from fullconv.cli.command import build_parser
    from fullconv.training.recipes import recipe_names

    text = (DOCS / "jobs" / name).read_text()
    train = text[text.index("fullconv train" if name == "slurm.sh" else "args: [train") :]
    train = train[: train.index("\n}" if name == "slurm.sh" else "]")]
    flags = re.findall(r"--[a-z][a-z-]+", train)
    assert {"--out", "--resume", "--recipe"} <= set(flags) <= set(build_parser("train")[1].flags())
    assert re.search(r"--recipe,? ([\w-]+)", train)[1] in recipe_names()


def test_the_job_files_are_well_formed():
    import subprocess

    import yaml

    subprocess.run(["bash", "-n", DOCS / "jobs" / "slurm.sh"], check=True)
    job = yaml.safe_load((DOCS / "jobs" / "kubernetes.yaml").read_text())
    container = job["spec"]["template"]["spec"]["containers"][0]
    words = [*container["command"], *container["args"]]
    assert words[words.index("-m") :][:3] == ["-m", "fullconv", "train"]


def test_the_numbers_of_long_runs_are_the_code_s():
    from fullconv.config import TrainConfig
    from fullconv.distributed import TIMEOUT

    text = (DOCS / "long-runs.md").read_text()
    assert f"`--save-every` steps ({TrainConfig().save_every})" in text
    assert f"`--worker-timeout` ({TrainConfig().worker_timeout:.0f} s)" in text
    assert f"`--dist-timeout` ({TIMEOUT:.0f} s)" in text


def test_the_faults_of_long_runs_are_those_that_were_measured():
    import json

    text = (DOCS / "long-runs.md").read_text()
    found = json.loads((ROOT / "benchmarks" / "results" / "faults.json").read_text())
    flips, errors, power = found["flips"], found["errors"], found["power"]
    assert f"| {flips['flips']:,} at random, and each of {flips['every_bit']['flips']:,} bits | 0 not found |" in text
    assert flips["found"] == flips["flips"] and flips["every_bit"]["found"] == flips["every_bit"]["flips"]
    assert f"| {errors['faults']} | {errors['wrong']} |" in text
    assert f"| {power['states']:,} states of the disk | {power['wrong']} |" in text
    assert f"| {found['operations']['deaths']} | {found['operations']['wrong']} |" in text
    assert f"| {found['full_disk']['runs']} | {found['full_disk']['runs'] - found['full_disk']['old']} |" in text
    kills, resumes = found["kills"], [found["resumes"][f"workers_{n}"] for n in (0, 2)]
    assert (
        f"| {kills['kills']} kills, {kills['halfway']} of them within a save | {kills['torn'] + kills['lost']} |"
        in text
    )
    assert f"| {sum(r['kills'] for r in resumes)} kills | {sum(len(r['different']) for r in resumes)} |" in text
    ranks, shards = found["ranks"], found["shards"]
    assert f"| {ranks['kills']} kills | {ranks['kills'] - ranks['equal']} |" in text
    assert f"| {shards['layouts']} | {shards['layouts'] - shards['equal']} |" in text
    cost = found["cost"]
    assert f"of 401 MB takes {cost['large']['ratio_to_torch_save']:.1f} times" in text
    assert cost["small"]["ratio_to_torch_save"] < 2.5 and cost["small"]["ratio_to_torch_save_into_place"] < 1.25


# -- speed ------------------------------------------------------------------------------------------------------------


def measured(name):
    import json

    return json.loads((ROOT / "benchmarks" / "results" / name).read_text())["runs"]


SPEED = ("threads", "seconds", "times as fast", "GFLOP/s", "of the limit", "scores off by", "labels as plain", "memory")


@pytest.mark.parametrize(("title", "name"), [("way", "bench-predict.json"), ("on AVX2", "bench-predict-avx2.json")])
def test_the_speed_of_prediction_is_that_of_the_result_file(title, name):
    ways = [(run["threads"], way) for run in measured(name) for way in run["ways"]]
    for row, (threads, way) in zip(table("speed.md", title, *SPEED), ways, strict=True):
        assert (row[title], row["threads"]) == (way["way"], str(threads))
        assert row["seconds"] == f"{way['seconds']:.2f}" and row["times as fast"] == f"{way['speedup']:.1f}"
        assert row["memory"] == (format_bytes(way["peak_bytes"]) if way.get("peak_bytes") else "")
        if "labels" in way:
            assert (
                row["GFLOP/s"] == f"{way['gflop_per_second']:.0f}"
                and row["scores off by"] == f"{way['max_rel_diff']:.0e}"
            )
            assert row["labels as plain"] == f"{100 * way['labels']:.2f} %"
        if way.get("share_of_limit"):
            assert row["of the limit"] == f"{100 * way['share_of_limit']:.0f} %"


@pytest.mark.parametrize(("title", "name"), [("way", "mobilenet_v2"), ("on VGG16", "vgg16_bn")])
def test_what_precision_leaves_is_that_of_the_result_file(title, name):
    import json

    found = json.loads((ROOT / "benchmarks" / "results" / f"precision-{name}.json").read_text())
    rows = table("speed.md", title, "mean IU", "labels as in fp32")
    assert [(row[title], row["mean IU"], row["labels as in fp32"]) for row in rows] == [
        (way["way"], f"{100 * way['mean IU']:.2f}", f"{100 * way['labels']:.2f}") for way in found["ways"]
    ]


@pytest.mark.parametrize(("title", "name"), [("way", "avx512"), ("on AVX2", "avx2")])
def test_the_speed_of_small_nets_is_that_of_the_result_file(title, name):
    runs = measured(f"bench-predict-mobilenet-{name}.json")
    sizes = ["x".join(map(str, run["size"])) for run in runs]
    rows = table("speed.md", title, *sizes)
    found = [{way["way"]: f"{1000 * way['seconds']:.0f}" for way in run["ways"]} for run in runs]
    assert [row[title] for row in rows] == list(found[0])
    for row in rows:
        assert [row[size] for size in sizes] == [ways.get(row[title], "") for ways in found]


def test_the_readme_has_the_newest_speed():
    run = measured("bench-predict.json")[0]
    lines = (ROOT / "README.md").read_text().splitlines()
    for way in run["ways"]:
        assert f"| {way['way']} | {way['seconds']:.2f} | {way['speedup']:.1f} |" in lines


def test_the_numbers_of_large_images_are_those_of_the_result_file():
    import json

    found = json.loads((ROOT / "benchmarks" / "results" / "large.json").read_text())["cases"]
    large, equal = found["100 MP, FCN-8s MobileNetV2"], found["3000x2000, strips and tiles against the whole, fp32"]
    text = " ".join((DOCS / "large-images.md").read_text().split())
    assert f"takes {large['peak_bytes'] / 1e9:.1f} GB of memory at most" in text
    assert f"{large['seconds_per_megapixel']:.2f} seconds per megapixel, {large['ratio']:.2f} times those" in text
    panorama = found["40 MP panorama, FCN-8s VGG16"]
    assert f"takes {panorama['peak_bytes'] / 1e9:.2f} GB" in text
    assert f"{panorama['seconds_per_megapixel']:.1f} seconds per megapixel, {panorama['ratio']:.2f} times" in text
    assert f"{equal['strips']['labels']} labels differ between strips and the whole" in text
    assert f"{equal['tiles']['labels']} between {equal['tiles']['of']} tiles and the whole" in text
    assert equal["strips"]["scores"] == equal["tiles"]["scores"] == 0 and "difference of a score is 0.0" in text
