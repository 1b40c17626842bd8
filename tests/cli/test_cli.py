"""The command: help without torch, errors in one line, and the whole way from a folder to masks."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules

import numpy as np
import pytest
from PIL import Image

import fullconv
from fullconv import cli
from fullconv.cli.command import VERBS, main
from fullconv.datasets.open_dataset import open_dataset
from fullconv.evaluation.evaluate import evaluate

NET = ["--backbone", "vgg11", "--stride", "8", "--width", "0.03125", "--native-size", "32"]


def call(capsys, *argv):
    """Exit code, standard output and standard error of the command."""
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in argv])
    out = capsys.readouterr()
    return left.value.code or 0, out.out, out.err


@pytest.fixture(scope="module")
def trained(digits_folder, tmp_path_factory):
    """A run folder made by the command itself."""
    out = tmp_path_factory.mktemp("cli") / "run"
    with pytest.raises(SystemExit) as left:
        main(
            [
                "train",
                str(digits_folder),
                "--out",
                str(out),
                *NET,
                "--steps",
                "4",
                "--batch-size",
                "2",
                "--crop",
                "32x32",
            ]
        )
    assert not left.value.code
    return out


def test_the_run_folder_holds_what_is_promised(trained):
    names = sorted(p.name for p in trained.iterdir() if not p.name.startswith("."))
    assert names == ["last", "last.safetensors", "log.jsonl", "model.safetensors", "report.html"]


def test_evaluate_says_what_the_library_says(trained, digits_folder, capsys):
    code, out, _ = call(capsys, "evaluate", trained / "model.safetensors", digits_folder, "--json")
    said = json.loads(out)
    found = evaluate(fullconv.load(trained / "model.safetensors"), open_dataset(digits_folder, "val"))
    assert code == 0
    assert (said["mean_iu"], said["pixel_accuracy"]) == (found.mean_iu, found.pixel_accuracy)
    assert list(said["classes"]) == list(open_dataset(digits_folder, "val").labels.names)
    code, out, _ = call(capsys, "evaluate", trained / "model.safetensors", digits_folder)
    assert code == 0
    assert "mean IU" in out
    assert "background" in out
    code, out, _ = call(
        capsys, "evaluate", trained / "model.safetensors", digits_folder, "--engine", "eager", "--precision", "bf16",
        "--json",
    )  # fmt: skip
    half = json.loads(out)
    assert (code, half["engine"], half["precision"]) == (0, "eager", "bf16")
    assert said["engine"] == "torch" and abs(half["mean_iu"] - said["mean_iu"]) < 0.05


def test_predict_writes_masks_at_the_size_of_each_image(trained, digits_folder, tmp_path, capsys):
    odd = tmp_path / "odd ones"
    odd.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 91, 3), np.uint8)).save(odd / "wide.png")
    Image.new("L", (1, 1), 9).save(odd / "-dot.png")
    model = trained / "model.safetensors"
    code, out, _ = call(
        capsys, "predict", model, odd, digits_folder / "val" / "images", "--out", tmp_path / "m", "--overlay", "--json"
    )
    said = json.loads(out)
    assert code == 0
    assert len(said["written"]) == 4
    for row in said["written"]:
        with Image.open(row["output"]) as mask, Image.open(row["input"]) as image:
            assert mask.size == image.size
            assert mask.mode == "P"
            api = fullconv.load(model)(row["input"]).prediction
            assert (np.asarray(mask) == api).all()
    assert (tmp_path / "m" / "-dot.overlay.jpg").exists()


def test_predict_goes_on_with_the_other_files(trained, digits_folder, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<!doctype html>")
    good = next((digits_folder / "val" / "images").iterdir())
    code, _, err = call(capsys, "predict", trained / "model.safetensors", broken, good, "--out", tmp_path / "m")
    assert code == 2
    assert "1 of 2 images could not be read" in err
    assert "broken.jpg" in err
    assert (tmp_path / "m" / f"{good.stem}.png").exists()


def test_check_finds_nothing_wrong_and_says_what_is_there(digits_folder, capsys):
    code, out, _ = call(capsys, "check", digits_folder)
    assert code == 0
    assert "0 errors" in out
    code, out, _ = call(capsys, "check", digits_folder, "--json")
    assert json.loads(out)["splits"]["train"]["images"] == 6


@pytest.mark.slow
def test_inspect_prints_the_published_figures(capsys):
    code, out, _ = call(capsys, "inspect", "--backbone", "vgg16", "--padding", "paper", "--stride", "32", "--json")
    said = json.loads(out)
    assert code == 0
    assert (said["parameters"], said["receptive_field"], said["joins"][0]["crop"]) == (134_346_581, "404", 19)
    code, out, _ = call(capsys, "inspect", "--backbone", "mobilenet_v2", "--layers")
    assert "features.18.2" in out


@pytest.mark.slow
def test_staged_from_a_coarser_net(trained, digits_folder, tmp_path, capsys):
    """--weights of an FCN brings its own settings and input convention; --stride makes it finer."""
    first, second = tmp_path / "32s", tmp_path / "16s"
    brief = ["--steps", "2", "--batch-size", "2", "--crop", "32x32"]
    net = [*NET[:2], "--stride", "32", *NET[4:]]
    assert call(capsys, "train", digits_folder, "--out", first, *net, *brief)[0] == 0
    weights = ["--weights", first / "model.safetensors"]
    code, out, _ = call(capsys, "train", digits_folder, "--out", second, *weights, "--stride", "16", *brief)
    assert code == 0
    assert "FCN-16s on vgg11" in out
    code, _, err = call(capsys, "train", digits_folder, "--out", tmp_path / "x", *weights, "--input", "caffe")
    assert code == 2
    assert "says itself" in err


@pytest.fixture
def hostile(tmp_path, digits_folder, trained):
    """Paths of things that cannot be used, by name."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    images = tmp_path / "nomasks" / "images"
    images.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(images / "a.png")
    for name, label in (("size", Image.new("L", (8, 9))), ("range", Image.fromarray(np.full((9, 9), 77, np.uint8)))):
        for split in ("train", "val"):
            for kind in ("images", "labels"):
                (tmp_path / name / split / kind).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / name / split / "images" / "a.png")
            label.save(tmp_path / name / split / "labels" / "a.png")
        (tmp_path / name / "classes.yaml").write_text("names: [a, b]")
    (tmp_path / "half.safetensors").write_bytes((trained / "model.safetensors").read_bytes()[:5000])
    (tmp_path / "page.safetensors").write_text("<html>404</html>")
    flipped = bytearray((trained / "model.safetensors").read_bytes())
    flipped[-100] ^= 4
    (tmp_path / "flip.safetensors").write_bytes(bytes(flipped))
    (tmp_path / "recipe.yaml").write_text("lr: 0.1\nbach_size: 3\n")
    (tmp_path / "tags.yaml").write_text("lr: !!python/object/apply:os.system ['true']\n")
    return {"tmp": tmp_path, "data": digits_folder, "model": trained / "model.safetensors", "run": trained}


@pytest.mark.parametrize(
    "line, words",
    [
        ("trian x", ["'trian' is not a verb", "did you mean 'train'"]),
        ("train", ["the following arguments are required"]),
        ("train {tmp}/missing --out {tmp}/o", ["missing: no such folder", "nearest"]),
        ("train {tmp}/file --out {tmp}/o", ["file"]),
        ("train {tmp}/empty --out {tmp}/o", ["empty"]),
        ("train {tmp}/nomasks --out {tmp}/o", ["nomasks", "masks"]),
        ("train {tmp}/size --out {tmp}/o --steps 1", ["a.png", "9", "8"]),
        ("train {tmp}/range --out {tmp}/o --steps 1", ["a.png", "77", "81"]),
        ("train {data} --out {run}", ["holds a run already", "--resume"]),
        ("train {data} --out {tmp}/file", ["it is a file"]),
        ("train {data} --out {tmp}/o --bach-size 3", ["--bach-size", "did you mean '--batch-size'"]),
        ("train {data} --out {tmp}/o --lr fast", ["lr is 'fast'", "a finite number"]),
        ("train {data} --out {tmp}/o --lr nan", ["lr is 'nan'", "a finite number"]),
        ("train {data} --out {tmp}/o --batch-size 0", ["batch_size is 0", "at least 1"]),
        ("train {data} --out {tmp}/o --crop 12", ["crop is '12'", "HEIGHTxWIDTH"]),
        ("train {data} --out {tmp}/o --loss mae", ["loss is 'mae'", "mean, sum"]),
        ("train {data} --out {tmp}/o --backbone vgg17", ["backbone 'vgg17'", "did you mean"]),
        ("train {data} --out {tmp}/o --backbone lenet --stride 8", ["no feature at that stride", "4"]),
        ("train {data} --out {tmp}/o --recipe lptop", ["did you mean 'laptop'"]),
        ("train {data} --out {tmp}/o --recipe {tmp}/no.yaml", ["no such recipe file"]),
        ("train {data} --out {tmp}/o --recipe {tmp}/recipe.yaml", ["line 2", "bach_size", "did you mean 'batch_size'"]),
        ("train {data} --out {tmp}/o --recipe {tmp}/tags.yaml", ["line 1", "a tag"]),
        ("train {data} --out {tmp}/o --weights {tmp}/none.safetensors", ["no such file"]),
        ("train {data} --out {tmp}/o --weights {tmp}/page.safetensors", ["HTML page"]),
        ("train {data} --out {tmp}/o --weights {tmp}/half.safetensors", ["half.safetensors", "another copy"]),
        ("train {data} --out {tmp}/o --weights {model} --width 0.5", ["check --backbone, --width"]),
        (
            "train {data} --out {tmp}/o --steps 2 --loss sum --lr 0.1 --backbone lenet --stride 4",
            ["lr 0.1 with loss 'sum'"],
        ),
        ("evaluate {tmp}/flip.safetensors {data}", ["SHA-256"]),
        ("evaluate {run} {data}", ["it is a folder; did you mean"]),
        ("evaluate {model} {data} --split test", ["no split 'test'"]),
        ("evaluate {model} {data} --split vall", ["One of: train, val"]),
        ("predict {model} {tmp}/nothing.jpg --out {tmp}/o", ["no such file or folder"]),
        ("predict {model} {tmp}/empty --out {tmp}/o", ["no images in this folder"]),
        ("predict {model} {tmp}/file --out {tmp}/file", ["it is a file"]),
        ("check {tmp}/missing", ["no such folder"]),
        ("inspect --backbone vgg16 --stride 7", ["no feature at that stride"]),
    ],
)
def test_bad_input_is_one_line_and_exit_2(hostile, capsys, line, words):
    code, out, err = call(capsys, *line.format(**hostile).split())
    assert code == 2, err
    errors = [text for text in err.splitlines() if text.startswith("fullconv: error:")]
    assert len(errors) == 1, (out, err)
    assert "Traceback" not in err
    for word in words:
        assert word in errors[0], errors[0]
    left = hostile["tmp"] / "o"
    assert not left.exists() or not list(left.rglob("*.safetensors")), "something was written half"


def test_import_and_help_need_no_torch_and_no_time():
    code = "import sys, fullconv; assert not {'torch', 'numpy', 'PIL', 'rich'} & set(sys.modules), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    watch = (
        "import sys\ntry:\n from fullconv.cli.command import main; main(['--help'])\n"
        "finally:\n assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    times = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-c", watch], check=True, stdout=subprocess.DEVNULL)
        after = os.times()  # of the processor: other tests run at the same time
        times.append(sum(after[2:4]) - sum(before[2:4]))
    assert min(times) < 0.5, times


def test_every_verb_helps_with_an_example(capsys):
    for verb in VERBS:
        code, out, _ = call(capsys, verb, "--help")
        assert code == 0
        assert f"example: fullconv {verb}" in out


def test_the_table_of_verbs_names_each_module_of_a_verb(capsys):
    modules = (module.name for module in iter_modules(cli.__path__, "fullconv.cli."))
    verbs = [name.rpartition(".")[2] for name in modules if hasattr(import_module(name), "EXAMPLE")]
    assert sorted(VERBS) == sorted(verbs)
    out = " ".join(call(capsys, "--help")[1].split())
    assert all(f"{verb} {' '.join(line.split())}" in out for verb, line in VERBS.items())


def test_only_the_module_of_the_chosen_verb_is_imported():
    watch = (
        "import sys\ntry:\n from fullconv.cli.command import main; main(['check', '--help'])\n"
        "finally:\n print(sorted(name for name in sys.modules if name.startswith('fullconv.cli.')))\n"
        " assert 'torch' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", watch], check=True, capture_output=True, text=True).stdout
    imported = {name.rpartition(".")[2] for name in re.findall(r"fullconv\.cli\.\w+", out.splitlines()[-1])}
    assert imported & set(VERBS) == {"check"}
