import ast
import pickle
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fullconv.config import CONVENTIONS, ModelConfig, TrainConfig
from fullconv.data.dataset import Dataset, DatasetFacts, Sample, Subset, adapt, facts_of
from fullconv.datasets.open_dataset import open_dataset
from fullconv.datasets.synthetic.digits import Digits
from fullconv.errors import UsageError
from fullconv.labels import LabelSpace
from fullconv.models.build import build
from fullconv.training.loop import State, fit

SOURCE = Path(__file__).parents[2] / "src" / "fullconv"
LABELS = LabelSpace.of(["background", "cell"])
OPTIONAL = {field.name for field in fields(DatasetFacts)}


class Foreign(torch.utils.data.Dataset):
    """(image, label) pairs as torch's users have them, in each of the forms that they take."""

    def __init__(self, form):
        self.form = form
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (4, 20, 24, 3), np.uint8)
        self.masks = rng.integers(0, 2, (4, 20, 24), np.uint8)
        self.masks[0, 0, 0] = 255

    def __len__(self):
        return 4

    def __getitem__(self, index):
        image, mask = self.images[index], self.masks[index]
        return {
            "arrays": lambda: (image, mask),
            "pillow": lambda: (Image.fromarray(image), Image.fromarray(mask)),
            "tensors": lambda: (torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask).long()[None]),
            "lists": lambda: [image, mask],
            "samples": lambda: Sample(image, mask, f"{index:06d}"),
        }[self.form]()


@pytest.mark.parametrize("form", ["arrays", "pillow", "tensors", "lists", "samples"])
def test_a_dataset_of_torch_is_adapted(form):
    foreign = Foreign(form)
    found = adapt(foreign, LABELS)
    assert len(found) == 4 and found.labels is LABELS
    for index, sample in enumerate(found):
        np.testing.assert_array_equal(sample.image, foreign.images[index])
        np.testing.assert_array_equal(sample.semantic, foreign.masks[index])
        assert sample.name == f"{index:06d}" and sample.image.dtype == np.uint8


def test_an_adapted_dataset_trains():
    config = TrainConfig(steps=2, lr=0.001, batch_size=2, workers=0)
    state = State.of(build(ModelConfig("lenet", stride=4, num_classes=2)), config)
    records = list(fit(state, adapt(Foreign("tensors"), LABELS), config, CONVENTIONS["rgb128"]))
    assert [record.step for record in records] == [1, 2]


def test_a_dataset_is_adapted_to_itself():
    scenes = Digits("val", (40, 52), 3)
    assert adapt(scenes) is scenes and adapt(scenes, LABELS) is scenes


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (7, "dataset: a int; give one with a length and numbered samples"),
        (Foreign("arrays"), "dataset: a Foreign without a label space"),
        (iter([1]), "dataset: a list_iterator"),
    ],
)
def test_what_cannot_be_adapted_is_refused_in_one_line(given, words):
    with pytest.raises(UsageError) as caught:
        adapt(given)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (7, "sample 0: a int; give a Sample, or a pair"),
        ((np.zeros((4, 5, 3), np.uint8),), "sample 0: a tuple; give a Sample"),
        (("a.png", np.zeros((4, 5), int)), "sample 0: a str; give a path, a PIL image"),
        ((np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), int)), "sample 0: label of shape (5, 4)"),
        ((np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5))), "sample 0: label of shape (4, 5) and type float64"),
        ((np.zeros((4, 5, 3), np.uint8), np.full((4, 5), 2)), "sample 0: label 2 is not one of the 2 classes"),
        (
            (np.zeros((4, 5, 3), np.float32), np.zeros((4, 5), int)),
            "sample 0: image of shape (4, 5, 3) and type float32",
        ),
    ],
)
def test_an_item_that_is_no_pair_is_refused_in_one_line(item, words):
    with pytest.raises(UsageError) as caught:
        adapt([item], LABELS)[0]
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_facts_have_defaults_and_a_dataset_may_state_any_of_them(digits_folder):
    class Plain:
        labels = LABELS

    facts = facts_of(Plain())
    assert facts == DatasetFacts(tasks={"semantic": LABELS})
    assert (facts.modalities, facts.pairs, facts.split_made, facts.notes) == (("color",), (), None, ())
    assert (facts.present_only, facts.photographs, facts.statistics) == (False, "", None)
    stated = {name: object() for name in OPTIONAL}
    assert vars(facts_of(type("Stating", (Plain,), stated)())) == stated
    folder = open_dataset(digits_folder, "train")
    assert facts_of(folder).pairs is folder.pairs and facts_of(folder).statistics == folder.statistics


def test_a_subset_keeps_the_facts_and_its_own_pairs(digits_folder):
    folder = open_dataset(digits_folder, "train")
    chosen = Subset(folder, [4, 1, 4])
    assert [sample.name for sample in chosen] == [folder.pairs[i][0] for i in (4, 1, 4)]
    assert [name for name, *_ in facts_of(chosen).pairs] == [sample.name for sample in chosen]
    assert facts_of(chosen).modalities == ("color",) and chosen.labels == folder.labels
    assert pickle.loads(pickle.dumps(chosen))[0].name == chosen[0].name


def test_numbers_and_slices(digits_folder):
    scenes = Digits("train", (40, 52), 6)
    for dataset in (scenes, open_dataset(digits_folder, "train"), Subset(scenes, range(6))):
        names = [sample.name for sample in dataset]
        assert len(names) == len(dataset) == 6
        assert [sample.name for sample in dataset[:3]] == names[:3]
        assert [sample.name for sample in dataset[::-2]] == names[::-2]
        assert dataset[-1].name == names[-1] and dataset[np.int64(2)].name == names[2]
        for beyond in (6, -7):
            with pytest.raises(IndexError):
                dataset[beyond]
        with pytest.raises(UsageError, match=r"^dataset: index of type str; give a number or a slice$"):
            dataset["0"]


def probes(text):
    """Where a file asks an object for a member of its own choice that a dataset may have."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
            yield node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            constant = isinstance(node.args[1], ast.Constant) and node.args[1].value in OPTIONAL | {"labels", "about"}
            if constant or ast.unparse(node.args[0]).split(".")[-1] in ("dataset", "data", "validation"):
                yield node.lineno


def test_optional_members_are_asked_for_in_one_place():
    found = {str(path.relative_to(SOURCE)): list(probes(path.read_text())) for path in SOURCE.rglob("*.py")}
    asking = {name for name, lines in found.items() if lines}
    assert asking == {"__init__.py", "data/dataset.py"}  # the first imports public names when they are used


def test_the_search_for_probes_can_fail():
    assert list(probes('getattr(x, "pairs", ())\nhasattr(dataset, name)\ngetattr(x, "stride")\n')) == [1, 2]


def test_our_datasets_are_of_the_protocol(digits_folder):
    some: list[Dataset] = [Digits("val"), open_dataset(digits_folder, "val"), adapt(Foreign("arrays"), LABELS)]
    assert all(isinstance(dataset.labels, LabelSpace) and len(dataset) and dataset[0].name for dataset in some)
