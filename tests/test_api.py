"""What the public functions take, and that they refuse the rest in one line that names the argument and its type."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

import fullconv
from fullconv.config import CONVENTIONS, InputConvention, ModelConfig
from fullconv.datasets.open_dataset import open_dataset
from fullconv.datasets.synthetic.digits import Digits
from fullconv.errors import UsageError
from fullconv.exporting.export import export
from fullconv.inference.predictor import Predictor
from fullconv.weights import checkpoint as weights
from fullconv.weights.checkpoint import Header

SCENES = Digits("val", (40, 52), 2)
PIXELS = SCENES[0].image


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    net = fullconv.build(ModelConfig("lenet", stride=4, num_classes=11)).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Predictor(net, Header(net.config, SCENES.labels, CONVENTIONS["rgb128"]))


@pytest.fixture(scope="module")
def checkpoint(predictor, tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "m.safetensors"
    weights.save(path, predictor.net.state_dict(), predictor.header)
    return path


def encoded(kind="PNG", **more):
    stream = BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **more)
    return stream.getvalue()


@pytest.mark.parametrize(
    "given",
    [
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        Image.fromarray(PIXELS),
        encoded(),
        bytearray(encoded()),
        memoryview(encoded("BMP")),
    ],
    ids=["array", "channels first", "tensor", "tensor, channels first", "pillow", "bytes", "bytearray", "memoryview"],
)
def test_a_predictor_takes_an_image_in_any_form(predictor, given):
    expected = predictor.coarse(PIXELS)["semantic"].logits()
    found = predictor(given)
    np.testing.assert_array_equal(found.logits, expected)
    np.testing.assert_array_equal(found.image, PIXELS)


def test_a_pillow_image_is_read_as_its_file_is(predictor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    (tmp_path / "a.png").write_bytes(encoded(exif=exif))
    turned = predictor(tmp_path / "a.png").image
    assert turned.shape == (52, 40, 3)
    np.testing.assert_array_equal(predictor(Image.open(tmp_path / "a.png")).image, turned)
    gray = Image.fromarray(PIXELS).convert("L")
    np.testing.assert_array_equal(predictor(gray).image, np.asarray(gray.convert("RGB")))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([PIXELS], "image: a list; give a path, a PIL image, the bytes of an image file, or an array or tensor"),
        (None, "image: a NoneType; give a path"),
        (7, "image: a int; give a path"),
        (b"no image", "image: "),
        (PIXELS[0], "image of shape (52, 3) and type uint8: give (H, W, 3) uint8 RGB"),
        (torch.rand(3, 8, 8), "image of shape (8, 8, 3) and type float32: give (H, W, 3) uint8 RGB"),
    ],
)
def test_a_predictor_refuses_the_rest(predictor, given, words):
    one_line(lambda: predictor(given), words)


def test_a_net_of_bands_takes_arrays_and_paths():
    net = fullconv.build(ModelConfig("lenet", stride=4, num_classes=11, channels=5)).eval()
    bands = InputConvention("rgb", (9.0,) * 5, (2.0,) * 5, bands=True)
    predictor = Predictor(net, Header(net.config, SCENES.labels, bands))
    image = np.random.default_rng(0).random((9, 8, 5), np.float32)
    assert predictor(image.transpose(2, 0, 1)).prediction.shape == predictor(torch.from_numpy(image)).prediction.shape
    one_line(lambda: predictor(Image.fromarray(PIXELS)), "image: a Image; this net takes bands: give a path")


def one_line(call, words):
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_evaluate_takes_a_model_or_its_path(predictor, checkpoint, tmp_path):
    expected = fullconv.evaluate(predictor, SCENES)
    assert fullconv.evaluate(checkpoint, SCENES) == fullconv.evaluate(str(checkpoint), SCENES) == expected
    pairs = [(sample.image, sample.label) for sample in SCENES]
    assert fullconv.evaluate(predictor, pairs) == expected
    one_line(lambda: fullconv.evaluate(predictor.net, SCENES), "evaluate: predictor is a FCN; give a Predictor(")
    one_line(lambda: fullconv.evaluate(7, SCENES), "evaluate: predictor is a int; give a Predictor(")
    one_line(lambda: fullconv.evaluate(predictor, str(tmp_path)), f"{tmp_path}: ")
    one_line(lambda: fullconv.evaluate(predictor, 7), "dataset: a int; give one with a length")


def test_compile_takes_a_net_or_a_predictor(predictor):
    x = torch.rand(1, 3, 20, 24)
    fast = fullconv.compile(predictor, engine="torch")
    assert torch.equal(fast(x), fullconv.compile(predictor.net, engine="torch")(x))
    one_line(
        lambda: fullconv.compile(torch.nn.Conv2d(3, 2, 1)), "compile: model is a Conv2d; give an FCN, or a Predictor"
    )
    one_line(lambda: fullconv.compile("m.safetensors"), "compile: model is a str; give an FCN, or a Predictor")


def test_export_takes_a_path_or_its_name(predictor, tmp_path):
    checked = export(predictor, str(tmp_path / "m.pt2"), (24, 20))
    assert checked.path == tmp_path / "m.pt2" and checked.path.is_file()
    one_line(lambda: export(predictor, 7), "export: path is a int; give the path of a file such as m.onnx")
    one_line(lambda: export(predictor.net, "m.pt2"), "export: predictor is a FCN; give a Predictor")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_load_gives_what_was_exported(predictor, tmp_path, suffix):
    pytest.importorskip({".onnx": "onnxruntime", ".xml": "openvino"}[suffix])
    export(predictor, tmp_path / f"m{suffix}", (40, 52))
    found = fullconv.load(str(tmp_path / f"m{suffix}"))
    np.testing.assert_array_equal(found(PIXELS).prediction, predictor(PIXELS).prediction)
    assert fullconv.evaluate(tmp_path / f"m{suffix}", SCENES) == fullconv.evaluate(predictor, SCENES)
    one_line(lambda: fullconv.load(tmp_path / f"m{suffix}", engine="openvino"), "engine openvino: ")


def test_load_refuses_what_is_no_path(tmp_path):
    one_line(lambda: fullconv.load(b"m.onnx"), "load: path is a bytes; give the path of a checkpoint")
    (tmp_path / "m.onnx").write_bytes(b"no net")
    one_line(lambda: fullconv.load(tmp_path / "m.onnx"), f"{tmp_path / 'm.onnx'}: ")


def test_build_takes_settings():
    one_line(lambda: fullconv.build(torch.nn.Sequential()), "build: config is a Sequential; give a ModelConfig")
    one_line(lambda: fullconv.build("vgg16"), "build: config is a str; give a ModelConfig")


def test_confusion_matrix_takes_tensors_arrays_and_lists():
    guess, truth = np.array([[0, 1], [1, 0]]), np.array([[0, 1], [0, 255]])
    expected = [[1, 1], [0, 1]]
    for form in (np.asarray, torch.from_numpy, np.ndarray.tolist, lambda a: torch.from_numpy(a.astype(np.uint8))):
        assert fullconv.confusion_matrix(form(guess), form(truth), 2).tolist() == expected
    words = "metrics: the prediction is a Tensor of float32; give class indices"
    one_line(lambda: fullconv.confusion_matrix(torch.rand(2, 2), truth, 2), words)
    one_line(lambda: fullconv.confusion_matrix(guess, "label", 2), "metrics: the label is a str of")


def test_slices_of_our_datasets(digits_folder):
    assert [sample.name for sample in open_dataset(digits_folder, "train")[:3]] == [
        open_dataset(digits_folder, "train")[index].name for index in range(3)
    ]
