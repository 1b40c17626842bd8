"""What a verb does, Python does in one call: the same files, the same numbers, the same errors."""

import ast
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from tests.support.predicting import call, checkpoint, image, names

import fullconv
from fullconv.cli.command import main
from fullconv.config import ModelConfig, TrainConfig
from fullconv.errors import UsageError
from fullconv.evaluation.evaluate_model import evaluate_model
from fullconv.io.image import read_image
from fullconv.io.label_image import read_label_values
from fullconv.models.build import build_classifier
from fullconv.reporting.train_and_report import Note, ReportProgress, RunStarted, StageStarted
from fullconv.training.loop import Record
from fullconv.training.stop import Stop
from fullconv.weights.checkpoint import Header, fingerprint, save, unpack

MODEL = {"backbone": "vgg11", "stride": 8, "width": 1 / 32, "native_size": 32}
CONFIG = {"steps": 2, "batch_size": 2, "crop": "32x32", "precision": "fp32", "workers": 0}


def flags(*settings):
    """Settings as the words of a command line."""
    return [word for part in settings for k, v in part.items() for word in (f"--{k.replace('_', '-')}", str(v))]


def weights_of(path):
    return fingerprint(unpack(path)[0])


def test_every_public_name_is_there_and_in_the_stub():
    stub = ast.parse(Path(fullconv.__file__).with_suffix(".pyi").read_text())
    stated = {
        alias.asname: f"{node.module.removeprefix('fullconv.')}:{alias.name}"
        for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }  # fmt: skip
    homes = {name: home if ":" in home else f"{home}:{name}" for name, home in fullconv._HOME.items()}
    assert stated == homes
    exported = next(node.value for node in stub.body if isinstance(node, ast.Assign))
    assert sorted(ast.literal_eval(exported)) == sorted(fullconv.__all__) == sorted(homes)
    assert all(getattr(fullconv, name) is not None for name in homes)


# -- predict -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("one") / "model.safetensors")


@pytest.fixture
def photos(tmp_path):
    for name in ("b.png", "a.jpg"):
        image(tmp_path / "photos" / name)
    (tmp_path / "photos" / "c.png").write_bytes(b"<!doctype html>")
    return tmp_path / "photos"


@pytest.mark.parametrize("given, words", [
    ({}, []),
    ({"overlay": True, "entropy": True, "scales": (0.5, 1), "flip": True},
     ["--overlay", "--entropy", "--scales", "0.5,1", "--flip"]),
    ({"tile": 32, "halo": 32}, ["--tile", "32", "--halo", "32"]),
])  # fmt: skip
def test_predict_writes_what_the_verb_writes(model, photos, tmp_path, capsys, given, words):
    code, out, _ = call(capsys, "predict", model, photos, "--out", tmp_path / "verb", "--json", *words)
    said = json.loads(out)
    steps = []
    found = fullconv.predict(model, photos, tmp_path / "call", progress=lambda *step: steps.append(step), **given)
    assert code == 2 and names(tmp_path / "verb") == names(tmp_path / "call") != []
    for name in names(tmp_path / "call"):
        assert (tmp_path / "verb" / name).read_bytes() == (tmp_path / "call" / name).read_bytes()
    assert found.failed == said["failed"] and [record.name for record in found] == ["a", "b", "c"]
    assert [record.error is None for record in found] == [True, True, False] and not found[2].files
    assert all(path.is_file() for record in found for path in record.files.values())
    assert found[0].files["output"] == tmp_path / "call" / "a.png" and steps[-1] == (3, 3)
    again = fullconv.predict(model, photos, tmp_path / "call", skip_existing=True, **given)
    assert again.skipped == 2 and not again.written


def test_predict_without_a_folder_gives_segmentations(model, photos, tmp_path):
    predictor = fullconv.load(model)
    found = fullconv.predict(predictor, [photos / "b.png", photos / "a.jpg"])
    pixels = [read_image(photos / "b.png"), read_image(photos / "a.jpg")]
    arrays = fullconv.predict(model, pixels)
    assert [record.name for record in arrays] == ["000001", "000002"] and not found.written
    for one, other, given in zip(found, arrays, pixels, strict=True):
        wanted = predictor(given).prediction
        assert np.array_equal(one.segmentation.prediction, wanted)
        assert np.array_equal(other.segmentation.prediction, wanted)
    (single,) = fullconv.predict(model, pixels[0], tmp_path / "out")
    assert np.array_equal(read_label_values(single.files["output"]), predictor(pixels[0]).prediction)


@pytest.mark.parametrize("given, words", [
    ({"tile": 0}, "--tile 0: give auto"),
    ({"halo": -1}, "--halo -1: give 0 or more"),
    ({"format": "jpg"}, "there is no such format"),
    ({"every": 0}, "--every 0: give 1 or more"),
    ({"shard": "5/4"}, "--shard 5/4"),
    ({"ray": "local", "shard": "1/2"}, "leave --shard out"),
    ({"ray": "local"}, "--ray: the workers need files"),
    ({"engine": "torsch"}, "torsch"),
    ({"split": "val"}, "--split belongs to a published set"),
])  # fmt: skip
def test_predict_refuses_wrong_arguments(model, photos, given, words):
    with pytest.raises(UsageError, match=words.replace("/", ".")):
        fullconv.predict(model, photos / "a.jpg", **given)


# -- train and evaluate ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(digits_folder, tmp_path_factory):
    """The run of the verb, that of the function, and its events."""
    root = tmp_path_factory.mktemp("train")
    with pytest.raises(SystemExit) as left:
        main(["train", str(digits_folder), "--out", str(root / "verb"), *flags(MODEL, CONFIG)])
    assert not left.value.code
    events = []
    result = fullconv.train(digits_folder, root / "call", model=MODEL, config=CONFIG, progress=events.append)
    return root / "verb", result, events


def test_train_makes_the_run_of_the_verb(trained):
    verb, result, events = trained
    assert names(verb) == names(result.folder)
    for name in ("model.safetensors", "last.safetensors"):
        assert weights_of(verb / name) == weights_of(result.folder / name)
    assert unpack(verb / "model.safetensors")[1]["model"] == unpack(result.model)[1]["model"]
    assert (result.steps, result.total, result.stopped) == (2, 2, None) and result.report.is_file()
    assert result.scores.mean_iu == unpack(result.model)[1]["provenance"]["val"]["mean_iu"]
    kinds = [type(event) for event in events if not isinstance(event, Note)]
    assert kinds[:3] == [RunStarted, Record, Record] and ReportProgress in kinds and events[-1] is result
    assert events[0].plan.peak > 0 and events[0].run.total == 2


def test_train_takes_settings_as_dataclasses_and_a_dataset(trained, digits_folder, tmp_path):
    _, result, _ = trained
    train, val = (fullconv.open_dataset(digits_folder, split) for split in ("train", "val"))
    again = fullconv.train(
        train, tmp_path / "run", val=val, model=ModelConfig(**MODEL),
        config=TrainConfig(**{**CONFIG, "crop": (32, 32)}),
    )  # fmt: skip
    assert weights_of(again.model) == weights_of(result.model)
    assert np.array_equal(again.predictor(train[0].image).prediction, result.predictor(train[0].image).prediction)


def test_train_is_stopped_and_resumed(trained, digits_folder, tmp_path):
    _, whole, _ = trained
    stop = Stop(tmp_path / "stop")
    settings = {"model": MODEL, "config": CONFIG}

    def end_after_the_first(event):
        if isinstance(event, Record):
            stop.file.touch()

    stop.file.touch()
    first = fullconv.train(digits_folder, tmp_path / "run", stop=stop, progress=end_after_the_first, **settings)
    assert (first.steps, first.report) == (1, None) and "stop" in first.stopped
    with pytest.raises(UsageError, match="holds a run already"):
        fullconv.train(digits_folder, tmp_path / "run", **settings)
    resumed = fullconv.train(digits_folder, tmp_path / "run", resume=True, **settings)
    assert weights_of(resumed.folder / "last.safetensors") == weights_of(whole.folder / "last.safetensors")
    assert resumed.report.is_file()


@pytest.mark.slow
def test_train_in_stages(digits_folder, tmp_path):
    recipe = tmp_path / "small.yaml"
    shared = {key: value for key, value in {**MODEL, **CONFIG}.items() if key != "stride"}
    recipe.write_text(json.dumps({**shared, "stages": [{"stride": 32}, {"stride": 16}]}))
    events = []
    result = fullconv.train(digits_folder, tmp_path / "run", recipe=recipe, progress=events.append)
    assert [event.stride for event in events if isinstance(event, StageStarted)] == [32, 16]
    assert result.folder == tmp_path / "run" and result.predictor.header.model.stride == 16
    assert weights_of(result.model) == weights_of(tmp_path / "run" / "16s" / "model.safetensors")
    stop = Stop(tmp_path / "stop")
    stop.file.touch()
    ended = fullconv.train(digits_folder, tmp_path / "ended", recipe=recipe, stop=stop)
    assert (ended.folder, ended.steps, ended.report) == (tmp_path / "ended" / "32s", 1, None)
    with pytest.raises(UsageError, match="has a stride for each stage"):
        fullconv.train(digits_folder, tmp_path / "other", recipe=recipe, model={"stride": 8})


def test_evaluate_takes_paths_and_agrees_with_the_verb(trained, digits_folder, capsys):
    _, result, _ = trained
    code, out, _ = call(capsys, "evaluate", result.model, digits_folder, "--json", "--trimap", "1,3")
    said = json.loads(out)
    scores = fullconv.evaluate(result.model, digits_folder)
    steps = []
    found = evaluate_model(result.model, digits_folder, trimap=[1, 3], progress=lambda *step: steps.append(step))
    assert code == 0 and scores.mean_iu == said["mean_iu"] == found.tasks["semantic"].mean_iu
    plain = json.loads(json.dumps(found.to_dict()))
    assert {**plain, "model": str(result.model), "data": str(digits_folder)} == said
    assert found.split == "val" and found.images == 2 and steps[-1] == ("evaluating near borders", 2, 2)
    dataset = fullconv.open_dataset(digits_folder, "train")
    loaded = fullconv.evaluate(result.predictor, dataset)
    assert asdict(loaded) == asdict(fullconv.evaluate(str(result.model), digits_folder, split="train"))
    with pytest.raises(UsageError, match="no split 'test'"):
        fullconv.evaluate(result.model, digits_folder, split="test")


# -- check, convert, export, verify ------------------------------------------------------------------------------------


def test_check_finds_what_the_verb_prints(digits_folder, capsys):
    code, out, _ = call(capsys, "check", digits_folder, "--json")
    found = fullconv.check(digits_folder)
    assert code == 0 and found.ok and json.loads(json.dumps(found.to_dict())) == json.loads(out)


@pytest.fixture
def classifier(tmp_path):
    config = ModelConfig("lenet", stride=4, num_classes=10)
    path = tmp_path / "lenet.safetensors"
    save(path, build_classifier(config, 10).state_dict(), Header(config, fullconv.LabelSpace.of("0123456789"),
         fullconv.InputConvention(), kind="classifier"))  # fmt: skip
    return path


def test_convert_writes_what_the_verb_writes(classifier, tmp_path, capsys):
    code, out, _ = call(capsys, "convert", classifier, "--out", tmp_path / "verb.safetensors", "--verify", "--json")
    found = fullconv.convert(classifier, tmp_path / "call.safetensors", verify=True)
    said = json.loads(out)
    assert code == 0 and (tmp_path / "verb.safetensors").read_bytes() == found.path.read_bytes()
    assert found.proof.holds and said["proof"]["holds"] and said["dense"]["native_size"] == found.report.native_size[0]
    assert fullconv.convert(classifier).path is None and fullconv.convert(classifier).proof is None
    with pytest.raises(UsageError, match="such a name"):
        fullconv.convert(classifier, tmp_path / "x.pth")
    with pytest.raises(UsageError, match="no published weights of that name"):
        fullconv.convert(tmp_path / "none.pth")


@pytest.mark.slow
def test_export_takes_paths_and_data(trained, digits_folder, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    _, result, _ = trained
    limits = {"data": digits_folder, "limit": 1}
    found = fullconv.export(str(result.model), tmp_path / "call.onnx", **limits)
    code, out, _ = call(
        capsys, "export", result.model, "--out", tmp_path / "verb.onnx", "--data", digits_folder, "--limit", 1, "--json"
    )
    said = json.loads(out)
    plain = json.loads(json.dumps(found.to_dict()))
    assert code == 0 and {**plain, "file": said["file"], "bytes": said["bytes"]} == said
    assert found.path == tmp_path / "call.onnx" and found.mean_iu is not None and found.path.is_file()
    loaded = fullconv.predict(found.path, sorted((digits_folder / "val" / "images").iterdir()))
    assert len(loaded) == 2 and not loaded.failed
    for given, words in (({"limit": 0}, "--limit is 0"), ({"size": (9, 9)}, "--size 9x9: an image of")):
        with pytest.raises(UsageError, match=words):
            fullconv.export(result.model, tmp_path / "no.onnx", **{**limits, **given})
    assert not (tmp_path / "no.onnx").exists()


def test_verify_finds_a_flipped_bit(model, tmp_path):
    assert fullconv.verify(model).labels.names[0] == "background"
    path = Path(shutil.copyfile(model, tmp_path / "flipped.safetensors"))
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)
    with pytest.raises(UsageError, match="SHA-256"):
        fullconv.verify(path)


def test_a_module_that_is_imported_replaces_no_function():
    """A package of the name of a public function would take its place as soon as one of its modules is imported."""
    packages = {path.name for path in Path(fullconv.__file__).parent.iterdir() if path.is_dir()}
    modules = {path.stem for path in Path(fullconv.__file__).parent.glob("*.py")}
    assert "checking" in packages and "config" in modules
    assert not (packages | modules) & set(fullconv._HOME)
