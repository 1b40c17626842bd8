"""Settings as frozen dataclasses: the command line, the YAML recipes and the checkpoint header are three faces of them.

A field carries its own help text and its choices. Every field is checked when the dataclass is constructed, and
`from_mapping` reads a plain mapping (YAML, JSON, parsed flags) strictly, so an unknown key or a value of the wrong kind
is one line with the nearest valid spelling, wherever it came from.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from fullconv.errors import UsageError, suggestion

Size = tuple[int, int]
"""(height, width) in pixels; written ``288x384``."""

T = TypeVar("T")


def option(default: Any, help: str, choices: tuple[str, ...] = (), least: float | None = None) -> Any:
    """A dataclass field with its help text, its choices, and the least value it may have."""
    return field(default=default, metadata={"help": help, "choices": choices, "least": least})


@cache
def _annotations(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def field_type(cls: type, name: str) -> tuple[type, bool]:
    """The type of a field without ``| None``, and whether None is allowed."""
    hint = _annotations(cls)[name]
    if isinstance(hint, types.UnionType):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return inner[0], True
    return hint, False


def coerce(cls: type, spec: Field[Any], value: Any, where: str) -> Any:
    """`value` as the field wants it, or a `UsageError` that says where it came from and what was expected."""
    kind, optional = field_type(cls, spec.name)
    name = f"{where}: {spec.name}"
    if value is None or (optional and value == "none"):
        if optional:
            return None
        raise UsageError(f"{name} is empty; give a value")
    if kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise UsageError(f"{name} is '{value}'; give true or false")
    if kind == Size:
        parts = value.lower().split("x") if isinstance(value, str) else value
        try:
            height, width = (int(part) for part in parts)
        except (TypeError, ValueError):
            raise UsageError(f"{name} is '{value}'; give HEIGHTxWIDTH in pixels, such as 288x384") from None
        if min(height, width) < 1:
            raise UsageError(f"{name} is '{value}'; both sides must be at least 1")
        return height, width
    try:
        if kind is int and (isinstance(value, bool) or (isinstance(value, float) and value != int(value))):
            raise ValueError
        made = kind(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError, OverflowError):
        made = None
    if made is None or (isinstance(made, float) and not math.isfinite(made)):
        wanted = {int: "a whole number", float: "a finite number", str: "a word", Path: "a path"}.get(
            kind, kind.__name__
        )
        raise UsageError(f"{name} is '{value}'; give {wanted}")
    choices, least = spec.metadata.get("choices", ()), spec.metadata.get("least")
    if choices and made not in choices:
        raise UsageError(f"{name} is '{made}'; {suggestion(str(made), choices)}")
    if least is not None and made < least:
        raise UsageError(f"{name} is {made}; give at least {least:g}")
    return made


def validate(settings: Any) -> None:
    """Convert every field of a frozen dataclass with `coerce`; call it from ``__post_init__``.

    Raises:
        UsageError: A value is not valid; the message begins with the name of the class.
    """
    for spec in fields(settings):
        value = coerce(type(settings), spec, getattr(settings, spec.name), type(settings).__name__)
        object.__setattr__(settings, spec.name, value)


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """The dataclass `cls` from a plain mapping; `where` names its origin in errors (a file, or ``--lr``)."""
    known = {spec.name: spec for spec in fields(cls)}  # type: ignore[arg-type]
    for key in mapping:
        if key not in known:
            raise UsageError(f"{where}: there is no setting '{key}'; {suggestion(str(key), known)}")
    missing = [
        n for n, s in known.items() if n not in mapping and s.default is MISSING and s.default_factory is MISSING
    ]
    if missing:
        raise UsageError(f"{where}: '{missing[0]}' is missing; add it")
    return cls(**{key: coerce(cls, known[key], value, where) for key, value in mapping.items()})


def to_mapping(settings: Any) -> dict[str, Any]:
    """The inverse of `from_mapping`, in values that JSON and YAML can hold.

    >>> from_mapping(ModelConfig, to_mapping(ModelConfig()), "here") == ModelConfig()
    True
    """
    plain = asdict(settings)
    return {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in plain.items()}


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the layers of a net, and nothing else."""

    backbone: str = option(
        "mobilenet_v2", "the classifier that is made fully convolutional: vgg16, mobilenet_v2, squeezenet1_0 ..."
    )
    stride: int = option(8, "stride of the finest scores: 32, 16 or 8 for FCN-32s, -16s, -8s", least=1)
    num_classes: int = option(21, "number of classes K, background counted", least=1)
    padding: str = option(
        "tight",
        "'paper' pads the image by 100 as the released nets do; 'tight' pads the least that keeps every crop in bounds",
        ("paper", "tight"),
    )
    width: float = option(1.0, "factor on every channel count of the backbone, fc6 and fc7 included", least=0.001)
    upsample: str = option(
        "fixed",
        "transposed convolutions: all bilinear for good, the inner ones learned (the CVPR nets), or all learned",
        ("fixed", "learn-intermediate", "learn-all"),
    )
    dropout: float | None = option(None, "probability of its dropout layers; the backbone's own if not given", least=0)
    native_size: int | None = option(
        None, "side of the crop the classifier was made for; its own (224, 227, 28) if not given", least=1
    )
    levels: str = option(
        "all",
        "which strides are scored: all from the coarsest down to --stride (a skip net), or the finest alone "
        "(the paper's pool4-only, an ablation)",
        ("all", "finest"),
    )
    fuse: str = option(
        "sum", "how a skip joins the upsampled scores; the paper found max hard to train", ("sum", "max")
    )
    skip_scale: float = option(
        1.0, "factor on the n-th skip's feature, to the power n: 0.01 is the at-once FCN-8s (0.01 and 0.0001)", least=0
    )
    last_pool: str = option(
        "strided",
        "the last subsampling of the trunk: kept, dilated (stride 1, what follows is dilated: same weights), or "
        "enlarged (stride 1, fc6 twice as large: 14x14 for a VGG, section 4.2)",
        ("strided", "dilated", "enlarged"),
    )
    channels: int = option(3, "channels of the input; 4 for early fusion of colour and depth (NYUDv2 RGB-D)", least=1)
    late_fusion: str = option(
        "none",
        "two whole streams (colour and HHA), whose scores are averaged as in the released net or summed as printed",
        ("none", "average", "sum"),
    )
    geometric_classes: int | None = option(None, "classes of a second head (SIFT Flow's geometric labels: 3)", least=1)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class InputConvention:
    """How pixels become the input of a net: ``(pixels[order] - mean) / std``, pixels 0 to 255. Data of the weights,
    not of the code.

    `mean` and `std` are in the order of the channels as the net takes them. `order` is that of the first three;
    channels after them (depth, HHA) stay as they are. `bands`: the files are read as they are stored, 16 bits and any
    number of bands, and not as photographs.

    >>> InputConvention.named("caffe").order, InputConvention.named("bgr:104,117,123").mean
    ('bgr', (104.0, 117.0, 123.0))
    """

    order: str = "rgb"
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    bands: bool = False

    def __post_init__(self) -> None:
        if self.order not in ("rgb", "bgr"):
            raise UsageError(f"InputConvention: order is '{self.order}'; {suggestion(str(self.order), ('rgb', 'bgr'))}")
        for name in ("mean", "std"):
            given = getattr(self, name)
            try:
                numbers = () if isinstance(given, str) else tuple(map(float, given))
            except (TypeError, ValueError):
                numbers = ()
            if not numbers or not all(map(math.isfinite, numbers)):
                raise UsageError(f"InputConvention: {name} is '{given}'; give finite numbers, one for each channel")
            object.__setattr__(self, name, numbers)
        if len(self.std) != len(self.mean) or min(self.std) <= 0:
            raise UsageError(
                f"InputConvention: std is '{self.std}'; give {len(self.mean)} positive numbers, as in mean"
            )
        if not isinstance(self.bands, bool):
            raise UsageError(f"InputConvention: bands is '{self.bands}'; give true or false")

    @property
    def channels(self) -> list[int]:
        """The channel of an image that each channel of the input comes from; for BGR this is its own inverse."""
        colors = range(len(self.mean))[:3]
        return [*(reversed(colors) if self.order == "bgr" else colors), *range(3, len(self.mean))]

    def normalize(self, images: Any, out: Any, array: Callable[[tuple[float, ...]], Any]) -> Any:
        """Write images (N, H, W, C) into `out` (N, C, H, W) float32 as the net takes them, and return it.

        Both are arrays of numpy, or tensors of torch; `array` makes a float32 one of numbers.
        """
        if images.shape[-1] != len(self.mean):
            raise UsageError(f"images of {images.shape[-1]} channels: this input has {len(self.mean)}; give as many")
        mean, std = array(self.mean), array(self.std)
        for channel, source in enumerate(self.channels):
            out[:, channel] = (images[..., source] - mean[channel, None]) / std[channel, None]
        return out

    @classmethod
    def named(cls, name: str) -> InputConvention:
        """A convention by name (`CONVENTIONS`), or spelt ``ORDER:MEAN,MEAN,MEAN[/STD]``."""
        if name in CONVENTIONS:
            return CONVENTIONS[name]
        try:
            order, numbers = name.split(":")
            mean, _, std = numbers.partition("/")
            means = tuple(float(m) for m in mean.split(","))
            stds = tuple(float(s) for s in (std or "1").split(","))
            if len(means) < 3:
                raise ValueError
            return cls(order, means, stds * len(means) if len(stds) == 1 else stds)
        except (ValueError, UsageError):
            known = ", ".join(CONVENTIONS)
            raise UsageError(
                f"input '{name}': give one of {known}, or ORDER:MEANS/STD such as bgr:104,117,123/1"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint header."""
        plain = {"order": self.order, "mean": list(self.mean), "std": list(self.std)}
        return {**plain, "bands": True} if self.bands else plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "header") -> InputConvention:
        """The inverse of `to_dict`; `where` is the file, for errors."""
        try:
            return cls(data["order"], data["mean"], data["std"], data.get("bands", False))
        except UsageError as problem:
            raise UsageError(f"{where}: {problem}; take another copy") from None


CONVENTIONS = {
    # Caffe's ILSVRC nets and all released FCNs: BGR, the ILSVRC mean taken off, no division.
    "caffe": InputConvention("bgr", (104.00699, 116.66877, 122.67892), (1.0, 1.0, 1.0)),
    # The released nets for other data sets. HHA is not reversed, and depth comes as its logarithm.
    "nyud-color": InputConvention("bgr", (116.190, 97.203, 92.318), (1.0, 1.0, 1.0)),
    "nyud-hha": InputConvention("rgb", (132.431, 94.076, 118.477), (1.0, 1.0, 1.0)),
    "nyud-color-d": InputConvention("bgr", (116.190, 97.203, 92.318, 7.844), (1.0,) * 4),
    "nyud-color-hha": InputConvention("bgr", (116.190, 97.203, 92.318, 132.431, 94.076, 118.477), (1.0,) * 6),
    "siftflow": InputConvention("bgr", (114.578, 115.294, 108.353), (1.0, 1.0, 1.0)),
    # torchvision's ImageNet weights: RGB in 0..1, standardised; here in units of 0..255.
    "torchvision": InputConvention(),
    # TensorFlow's MobileNets: RGB in -1..1.
    "rgb128": InputConvention("rgb", (128.0, 128.0, 128.0), (128.0, 128.0, 128.0)),
}


@dataclass(frozen=True)
class TrainConfig:
    """How a net is trained. `fullconv.training.loop.fit` reads it; recipes are files of it."""

    steps: int | None = option(None, "number of update steps; from --epochs if not given", least=1)
    epochs: float | None = option(None, "passes over the training split (default: 30 unless --steps is given)", least=0)
    batch_size: int = option(4, "images at a time", least=1)
    accumulate: int = option(
        1, "batches whose gradients make one step (the paper: 20 images, one at a time, at their own sizes)", least=1
    )
    optimizer: str = option("sgd", "the paper's gradient descent with momentum, or AdamW (ours)", ("sgd", "adamw"))
    loss: str = option(
        "mean",
        "per-pixel cross entropy: its sum (the released nets) or its mean over the valid pixels",
        ("mean", "sum"),
    )
    lr: float = option(0.004, "learning rate of the weights; biases take twice as much", least=0)
    momentum: float = option(0.9, "SGD momentum", least=0)
    weight_decay: float = option(5e-4, "weight decay of the weights; biases have none", least=0)
    bias_rate: float = option(2.0, "learning rate of biases over that of weights", least=0)
    schedule: str = option(
        "poly", "learning rate over the run: constant, or falling to 0 by the power 0.9", ("constant", "poly")
    )
    warmup: int = option(0, "steps over which the rate rises linearly to its value", least=0)
    replacement: bool = option(
        False, "draw images with replacement, as the released nets did, instead of epoch by epoch"
    )
    crop: Size | None = option(None, "size of a random crop, HEIGHTxWIDTH; the whole image if not given")
    scale: float | None = option(None, "random scale: a factor from 1/SCALE to SCALE before the crop", least=1)
    flip: bool = option(False, "mirror left to right at random")
    jitter: int = option(0, "random shift by up to so many pixels each way (the paper tried 32)", least=0)
    color: float = option(
        0.0, "strength 0 to 1 of random brightness, contrast, saturation and hue changes; 0 = none", least=0
    )
    keep: float = option(
        1.0,
        "probability that a cell of the finest scores counts in the loss; batches grow by its inverse (section 3.4)",
        least=0.01,
    )
    shift: bool = option(
        False, "random shift of the image within the stride, which with --keep makes every patch possible (section 3.4)"
    )
    class_weights: str = option(
        "none", "weights of the classes in the loss: none, inverse or median (frequencies), or numbers such as 1,2,0.5"
    )
    balance: bool = option(False, "draw images with rare classes more often (with replacement)")
    hard: float = option(
        1.0, "share of the hardest pixels that count in the loss (online hard example mining; ours)", least=0.001
    )
    ema: float = option(0.0, "decay of a moving average of the weights, which is evaluated and kept (ours)", least=0)
    learn: str = option(
        "all",
        "which layers learn: all, or the scores (and learned upsampling) alone: the paper's FCN-32s-fixed",
        ("all", "scores"),
    )
    freeze_bn: bool | None = option(
        None, "keep batch-norm statistics as loaded (default: yes exactly when --weights is given)"
    )
    precision: str = option(
        "auto", "arithmetic of the forward pass; auto is bf16 where the machine has it", ("auto", "fp32", "bf16")
    )
    seed: int = option(0, "with the step and the sample it decides every random choice", least=0)
    workers: int | None = option(
        None, "processes that load images (default: cores less two, at most 4); the result is the same", least=0
    )
    worker_timeout: float = option(60.0, "seconds without images after which the loader counts as hung", least=0)
    eval_every: int | None = option(
        None, "steps between evaluations on the validation split (default: ten times a run)", least=1
    )
    save_every: int = option(50, "steps between saves of the training state", least=1)
    patience: int | None = option(
        None, "end the run after so many evaluations without a better mean IU (early stopping)", least=1
    )
    device: str = option("auto", "where the net is: cpu, cuda, mps, or auto: a GPU where there is one")

    def __post_init__(self) -> None:
        validate(self)

    def total_steps(self, images: int) -> int:
        """The number of steps of the whole run on a training split of so many images."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil((30 if self.epochs is None else self.epochs) * images / self.images_per_step))

    @property
    def drawn(self) -> int:
        """Images at a time: more, where only a part of their cells counts."""
        return math.ceil(self.batch_size / min(self.keep, 1.0))

    @property
    def images_per_step(self) -> int:
        """Images that make one step."""
        return self.drawn * self.accumulate
