"""An exported file says what its net says, with the face of a predictor."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.small_nets import graph, image, predictor

from fullconv.config import CONVENTIONS, InputConvention
from fullconv.errors import UsageError
from fullconv.exporting.export import card_of
from fullconv.inference.exported import ExportedPredictor, load_exported
from fullconv.inference.preprocess import to_input
from fullconv.inference.tensor_input import to_input as with_torch


@given(
    st.sampled_from([*CONVENTIONS.values(), InputConvention("bgr", (1.5,) * 5, (3.0,) * 5, bands=True)]),
    st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 9),
)  # fmt: skip
def test_the_input_is_that_of_torch_to_the_bit(convention, height, width, floats, seed):
    shot = image(height, width, len(convention.mean), seed)
    if floats:
        shot = shot.astype(np.float32) / 7
        shot[0, 0, 0], shot[-1, -1, -1] = np.nan, np.inf
    expected = with_torch(torch.from_numpy(shot[None]), convention).numpy()
    found = to_input(shot, convention)
    assert found.dtype == np.float32 and found.flags.c_contiguous and (found == expected).all()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "m.onnx"
    path.write_bytes(graph((40, 56), backbone="lenet", stride=4))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_it_says_what_the_net_says(file, whole):
    one, exported = predictor("lenet", 4), load_exported(file, threads=1, whole=whole)
    shot = image(40, 56)
    found, expected = exported(shot), one(shot)
    assert np.abs(found.logits - expected.logits).max() <= 1e-5 * np.ptp(expected.logits)
    assert (found.prediction == expected.prediction).all() and (found.image == shot).all()
    assert exported.labels == one.labels and exported.header.tasks == one.header.tasks
    assert exported.header == card_of(one, (40, 56))
    # What this package runs stops at the net's own stride.
    assert found.scores.scores.shape[1:] == ((40, 56) if whole else expected.scores.scores.shape[1:])


def test_another_size_is_one_line(file):
    with pytest.raises(UsageError, match=r"image of 41x56: m\.onnx takes images of 40x56 alone; .* --size dynamic"):
        load_exported(file)(image(41, 56))


def test_another_image_is_one_line(file):
    with pytest.raises(UsageError, match=r"image of shape \(40, 56\) and type uint8"):
        load_exported(file)(np.zeros((40, 56), np.uint8))


@pytest.mark.parametrize(
    "name, precision, said",
    [("m.bin", "fp32", "its suffix is none of"), ("no.onnx", "fp32", "no such file"), ("", "fp32", "its suffix"),
     ("m.onnx", "bf16", "is run in fp32; export to .xml for bf16")],
)  # fmt: skip
def test_what_cannot_be_loaded(file, name, precision, said):
    with pytest.raises(UsageError, match=said):
        load_exported(file.parent / name, precision)


@pytest.mark.parametrize("outputs", [{}, {"coarse": np.zeros((1, 4, 9, 9))}, {"logits": np.zeros((3, 9))}])
def test_a_file_that_does_not_give_what_it_says(outputs):
    lying = ExportedPredictor(lambda x: outputs, card_of(predictor("lenet", 4), None), "m.onnx")
    with pytest.raises(UsageError, match=r"m\.onnx: it says 3 classes, and gives"):
        lying(image(40, 56))


@pytest.mark.slow
def test_two_heads():
    one = predictor(geometric_classes=3, stride=32)
    from fullconv.backends import onnx

    model = onnx.cut(onnx.to_onnx(one.net, (40, 50)), ["coarse", "coarse_geometric"])
    found, expected = (
        ExportedPredictor(onnx.OnnxNet(model, 1), card_of(one, (40, 50)), "m")(image(40, 50)),
        one(image(40, 50)),
    )
    assert (found.prediction == expected.prediction).all()
    assert (found.geometric.prediction == expected.geometric.prediction).all()
    assert found.geometric.labels.names == ("flat", "upright", "sky")
