"""The verb `convert`: any source into one file, said and proved."""

import json

import pytest
import safetensors.torch
import torch
from tests.support.caffe_files import write_caffemodel, write_prototxt
from tests.support.caffe_nets import RELEASED

from fullconv.cli.command import main
from fullconv.config import ModelConfig
from fullconv.models.build import build_classifier
from fullconv.weights import checkpoint


def run(capsys, *words):
    with pytest.raises(SystemExit) as left:
        main([*map(str, words)])
    said = capsys.readouterr()
    return left.value.code or 0, said.out, said.err


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "squeezenet.pth"
    torch.save(build_classifier(ModelConfig("squeezenet1_1", width=0.5), 1000).state_dict(), path)
    return path


def test_a_classifier_becomes_a_file_with_its_proof(capsys, tmp_path, classifier):
    out = tmp_path / "m.safetensors"
    code, said, _ = run(capsys, "convert", classifier, "--input", "torchvision", "--verify", "--out", out)
    assert code == 0
    assert "a squeezenet1_1 classifier of 1000 classes, width 0.5" in said
    assert "AdaptiveAvgPool2d over the whole map -> AvgPool2d 13x13" in said
    assert "on the native crop: equal to the classifier" in said and "equal at 4 places" in said
    tensors, header = checkpoint.load(out)
    assert header.kind == "classifier" and header.provenance["source"] == "squeezenet.pth"
    assert len(header.labels) == 1000 and header.labels.ignore_index == 65535
    assert set(tensors) == set(build_classifier(ModelConfig("squeezenet1_1"), 9).state_dict())


def test_json_holds_what_was_said(capsys, classifier):
    code, said, err = run(capsys, "convert", classifier, "--input", "torchvision", "--verify", "--json")
    found = json.loads(said)
    assert code == 0 and "made dense" in err
    assert found["proof"]["holds"] is True and found["dense"]["stride"] == "16"
    assert found["model"]["backbone"] == "squeezenet1_1"


def test_the_authors_fcn_becomes_a_file_that_predicts(capsys, tmp_path):
    from PIL import Image

    layers = RELEASED["voc-fcn16s"](double=False)
    write_prototxt(tmp_path / "deploy.prototxt", layers, [("data", (1, 3, 60, 50))])
    write_caffemodel(tmp_path / "fcn16s.caffemodel", layers)
    out = tmp_path / "m.safetensors"
    code, said, _ = run(
        capsys, "convert", tmp_path / "fcn16s.caffemodel", "--prototxt", tmp_path / "deploy.prototxt", "--out", out
    )
    assert code == 0 and "FCN-16s on vgg16, 21 classes, width 0.03125 (Caffe)" in said
    assert "as the Caffe graph run layer by layer" in said
    Image.new("RGB", (50, 41), (90, 20, 200)).save(tmp_path / "photo.png")
    code, _, _ = run(capsys, "predict", out, tmp_path / "photo.png", "--out", tmp_path / "masks")
    with Image.open(tmp_path / "masks" / "photo.png") as mask:
        assert code == 0 and mask.size == (50, 41)


def test_names_of_classes_from_a_file(capsys, tmp_path):
    net = build_classifier(ModelConfig("lenet", width=0.2), 2)
    safetensors.torch.save_file(net.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "classes.yaml").write_text("names: [cat, dog]\n")
    out = tmp_path / "m.safetensors"
    code, _, _ = run(
        capsys, "convert", tmp_path / "w.safetensors", "--input", "caffe", "--classes", tmp_path / "classes.yaml",
        "--to-input", "rgb128", "--out", out,
    )  # fmt: skip
    header = checkpoint.load(out)[1]
    assert code == 0 and header.labels.names == ("cat", "dog") and header.input.order == "rgb"


def test_the_list_of_known_weights(capsys):
    code, said, _ = run(capsys, "convert", "--list")
    assert code == 0 and "fcn8s-vgg16.voc2011-sbd" in said and max(map(len, said.splitlines())) <= 80
    code, said, _ = run(capsys, "convert", "--list", "--json")
    assert code == 0 and len(json.loads(said)) > 30


@pytest.mark.parametrize(
    "words, says",
    [
        (["convert"], "no SOURCE is given"),
        (["convert", "vgg16.oxfort"], "did you mean 'vgg16.oxford'?"),
        (["convert", "nothing.pth"], "no such file"),
        (["convert", "{net}"], "add --input caffe"),
        (["convert", "{net}", "--input", "torchvision", "--out", "m.pth"], "our files end in .safetensors"),
        (["convert", "{net}", "--input", "torchvision", "--backbone", "vgg16"], "not the weights of vgg16"),
        (["convert", "{net}", "--input", "torchvision", "--prototxt", "x"], "belongs to a .caffemodel"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(words, says, capsys, classifier):
    code, _, err = run(capsys, *[word.format(net=classifier) for word in words])
    assert code == 2 and says in err and err.count("\n") == 1, err
