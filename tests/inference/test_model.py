import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from fullconv.config import CONVENTIONS, ModelConfig
from fullconv.data.dataset import Subset
from fullconv.datasets.synthetic.digits import Digits
from fullconv.evaluation.evaluate import evaluate
from fullconv.exporting.export import export
from fullconv.inference.exported import load_exported
from fullconv.inference.model import Model
from fullconv.inference.predictor import Predictor
from fullconv.inference.tta import Augmented
from fullconv.models.build import build
from fullconv.weights.checkpoint import Header

SOURCE = Path(__file__).parents[2] / "src" / "fullconv"
SCENES = Digits("val", (40, 52), 3)


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    net = build(ModelConfig("lenet", stride=4, num_classes=11)).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Predictor(net, Header(net.config, SCENES.labels, CONVENTIONS["rgb128"]))


@pytest.mark.slow
def test_every_model_is_evaluated_alike(predictor, tmp_path):
    export(predictor, tmp_path / "m.onnx", (40, 52))
    exported = load_exported(tmp_path / "m.onnx")
    one_pass, flipped = Augmented(predictor), Augmented(predictor, flip=True)
    for model in (predictor, exported, one_pass, flipped):
        assert Model in type(model).__mro__
        assert model.labels is model.header.labels and model.labels.names == SCENES.labels.names
    expected = evaluate(predictor, SCENES)
    assert evaluate(exported, SCENES) == evaluate(one_pass, SCENES) == expected
    one = Subset(SCENES, [1])
    truth, said = one[0].semantic, flipped(one[0].image).prediction
    known = truth != 255
    assert evaluate(flipped, one).pixel_accuracy == (said == truth)[known].mean()
    np.testing.assert_array_equal(exported(one[0].image).prediction, predictor(one[0].image).prediction)


def casts(text):
    """The lines on which a value is cast to a model of one kind."""
    for node in ast.walk(ast.parse(text)):
        cast = isinstance(node, ast.Call) and ast.unparse(node.func) in ("cast", "typing.cast")
        if cast and any(name in ast.unparse(node.args[0]) for name in ("Predictor", "Exported", "Model")):
            yield node.lineno


def test_a_model_is_never_cast():
    assert not {path.name: lines for path in SOURCE.rglob("*.py") if (lines := list(casts(path.read_text())))}
    assert list(casts('x = 1\ncast("Predictor", model)\n')) == [2]
