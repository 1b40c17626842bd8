import json
import time
from dataclasses import replace

import pytest

from fullconv.config import (
    CONVENTIONS,
    InputConvention,
    ModelConfig,
    TrainConfig,
    from_mapping,
    to_mapping,
)
from fullconv.errors import UsageError
from fullconv.labels import LabelSpace
from fullconv.weights.checkpoint import Header


@pytest.mark.parametrize(
    ("settings", "given", "words"),
    [
        (ModelConfig, {"padding": "papr"}, "padding is 'papr'; did you mean 'paper'? One of: paper, tight"),
        (ModelConfig, {"upsample": "learned"}, "upsample is 'learned'; did you mean 'learn-all'?"),
        (ModelConfig, {"fuse": "mean"}, "fuse is 'mean'; One of: sum, max"),
        (ModelConfig, {"stride": 0}, "stride is 0; give at least 1"),
        (ModelConfig, {"stride": 8.5}, "stride is '8.5'; give a whole number"),
        (ModelConfig, {"num_classes": None}, "num_classes is empty; give a value"),
        (ModelConfig, {"width": float("nan")}, "width is 'nan'; give a finite number"),
        (TrainConfig, {"optimizer": "adam"}, "optimizer is 'adam'; did you mean 'adamw'? One of: sgd, adamw"),
        (TrainConfig, {"loss": "avg"}, "loss is 'avg'; One of: mean, sum"),
        (TrainConfig, {"lr": -1}, "lr is -1.0; give at least 0"),
        (TrainConfig, {"flip": "perhaps"}, "flip is 'perhaps'; give true or false"),
        (TrainConfig, {"crop": 288}, "crop is '288'; give HEIGHTxWIDTH in pixels, such as 288x384"),
        (InputConvention, {"order": "gbr"}, "order is 'gbr'; did you mean 'rgb'? One of: rgb, bgr"),
        (InputConvention, {"mean": ()}, "mean is '()'; give finite numbers"),
        (InputConvention, {"mean": "123"}, "mean is '123'; give finite numbers"),
        (InputConvention, {"mean": (1.0, 2.0)}, "give 2 positive numbers, as in mean"),
        (InputConvention, {"mean": (1.0, 2.0, float("inf"))}, "mean is '(1.0, 2.0, inf)'; give finite numbers"),
        (InputConvention, {"std": (1.0, 0.0, 1.0)}, "std is '(1.0, 0.0, 1.0)'; give 3 positive numbers"),
        (InputConvention, {"std": (1.0,) * 4}, "give 3 positive numbers, as in mean"),
        (InputConvention, {"bands": "yes"}, "bands is 'yes'; give true or false"),
    ],
)
def test_settings_built_in_python_are_validated(settings, given, words):
    with pytest.raises(UsageError) as caught:
        settings(**given)
    assert str(caught.value).startswith(f"{settings.__name__}: ") and words in str(caught.value)
    with pytest.raises(UsageError):
        replace(settings(), **given)


def test_python_and_the_command_line_say_the_same():
    with pytest.raises(UsageError) as in_python:
        TrainConfig(loss="avg")
    with pytest.raises(UsageError) as typed:
        from_mapping(TrainConfig, {"loss": "avg"}, "TrainConfig")
    assert str(in_python.value) == str(typed.value)


def test_values_take_the_type_of_their_field():
    config = TrainConfig(lr=1, crop=[40, 52], steps=4.0)
    assert (config.lr, config.crop, config.steps) == (1.0, (40, 52), 4)
    assert type(config.lr) is float and type(config.steps) is int
    assert InputConvention("rgb", [1, 2, 3], [1, 1, 1]) == InputConvention("rgb", (1.0, 2.0, 3.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("convention", CONVENTIONS.values())
def test_headers_that_were_written_before_keep_loading(convention):
    """A header without the fields that are younger than it; a damaged one names the file."""
    header = Header(ModelConfig("vgg11", padding="paper"), LabelSpace.of(["a", "b"]), convention)
    old = json.loads(json.dumps(header.to_dict()))
    for name in ("levels", "fuse", "skip_scale", "last_pool", "channels", "late_fusion", "geometric_classes"):
        del old["model"][name]
    assert Header.from_dict(old, "m.safetensors") == header
    old["input"]["order"] = "gbr"
    with pytest.raises(UsageError, match=r"^m\.safetensors: .*order is 'gbr'"):
        Header.from_dict(old, "m.safetensors")


def test_the_settings_of_a_run_come_back_from_plain_values():
    for settings in (ModelConfig("vgg11", dropout=0.1), TrainConfig(crop=(40, 52), epochs=2)):
        assert from_mapping(type(settings), to_mapping(settings), "here") == settings


def test_validation_takes_less_than_a_millisecond():
    began = time.process_time()
    for _ in range(100):
        TrainConfig()
    assert time.process_time() - began < 0.1
