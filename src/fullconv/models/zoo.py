"""Classifiers of other people's libraries by name: ``torchvision:resnet50``, ``timm:resnet50.a1_in1k`` (extra ``zoo``).

They are built as those libraries build them, and go the same way as any other `nn.Module`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from fullconv.config import InputConvention
from fullconv.errors import UsageError, shown, suggestion

LIBRARIES = ("torchvision", "timm")


def is_zoo_name(name: str) -> bool:
    """Whether a name is that of a library's net: ``torchvision:...`` or ``timm:...``."""
    return name.partition(":")[0] in LIBRARIES and ":" in name


def zoo_classifier(name: str, weights: bool = False, **settings: Any) -> tuple[nn.Module, int]:
    """A classifier by name, in evaluation mode, and the side of the crop that it was made for.

    weights: fetch its published weights (by the library's own download); random else. settings: of the net's maker,
    as ``num_classes``. Raises `UsageError` for an unknown name, or a library that is not installed.
    """
    library, _, net = name.partition(":")
    zoo = _import(library)
    known = zoo.models.list_models(module=zoo.models) if library == "torchvision" else zoo.list_models()
    if net.partition(".")[0] not in known:
        raise UsageError(f"{library}: there is no net '{shown(net)}'; {suggestion(net, known)}")
    try:
        return _make(zoo, net, weights, settings)
    except (TypeError, ValueError, RuntimeError, OSError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise UsageError(f"{name}: {library} cannot make it ({reason}); check the name and its settings") from None


def _make(zoo: ModuleType, net: str, weights: bool, settings: dict[str, Any]) -> tuple[nn.Module, int]:
    with torch.device("cpu"):  # their random starts do not all work without memory
        if zoo.__name__ == "timm":
            made = zoo.create_model(net, pretrained=weights, **settings)
            return made.eval(), int(made.pretrained_cfg.get("input_size", (3, 224, 224))[1])
        chosen = zoo.models.get_model_weights(net).DEFAULT
        quiet = {"init_weights": False} if net in ("googlenet", "inception_v3") and not weights else {}
        made = zoo.models.get_model(net, weights=chosen if weights else None, **quiet, **settings)
        return made.eval(), int(chosen.transforms().crop_size[0])


def input_of(name: str) -> InputConvention:
    """The input that a net's published weights want, from its library."""
    library, _, net = name.partition(":")
    zoo = _import(library)
    facts = zoo.get_pretrained_cfg(net) if library == "timm" else zoo.models.get_model_weights(net).DEFAULT.transforms()
    mean, std = (tuple(round(255 * float(value), 4) for value in part) for part in (facts.mean, facts.std))
    return InputConvention("rgb", mean, std)


def native_size_of(name: str) -> int:
    """The side of the crop that a net was made for, without building it."""
    library, _, net = name.partition(":")
    zoo = _import(library)
    try:
        if library == "timm":
            return int(zoo.get_pretrained_cfg(net).input_size[1])
        return int(zoo.models.get_model_weights(net).DEFAULT.transforms().crop_size[0])
    except (AttributeError, ValueError, TypeError, RuntimeError):
        return 224


def _import(library: str) -> ModuleType:
    try:
        if library == "timm":
            import timm

            return timm
        import torchvision

        return torchvision
    except ImportError:
        raise UsageError(f"{library}: it is not installed; pip install 'fullconv[zoo]'") from None
    except RuntimeError as problem:
        # Its compiled part belongs to another build of torch (the CPU wheel beside a CUDA torchvision, say).
        reason = str(problem).strip().splitlines()[0]
        raise UsageError(
            f"{library}: it does not fit the torch that is installed ({reason}); install both from one index"
        ) from None
