"""Classifiers of other people's libraries by name: ``torchvision:resnet50``, ``timm:resnet50.a1_in1k`` (extra ``zoo``).

They are built as those libraries build them, and go the same way as any other `nn.Module`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import nn

from fullconv import host
from fullconv.config import InputConvention
from fullconv.errors import UsageError, shown, suggestion
from fullconv.warnings import without_warnings

LIBRARIES = ("torchvision", "timm")


def is_zoo_name(name: str) -> bool:
    """Whether a name is that of a library's net: ``torchvision:...`` or ``timm:...``."""
    return name.partition(":")[0] in LIBRARIES and ":" in name


def zoo_classifier(name: str, weights: bool = False, **settings: Any) -> tuple[nn.Module, int]:
    """A classifier by name, in evaluation mode, and the side of the crop that it was made for.

    weights: fetch its published weights (by the library's own download); random else. settings: of the net's maker,
    as ``num_classes``. Raises `UsageError` for an unknown name, or a library that is not installed.
    """
    origin, _, net = name.partition(":")
    zoo = library(origin)
    known = zoo.models.list_models(module=zoo.models) if origin == "torchvision" else zoo.list_models()
    if net.partition(".")[0] not in known:
        raise UsageError(f"{origin}: there is no net '{shown(net)}'; {suggestion(net, known)}")
    try:
        return _make(zoo, net, weights, settings)
    except (TypeError, ValueError, RuntimeError, OSError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise UsageError(f"{name}: {origin} cannot make it ({reason}); check the name and its settings") from None


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
    origin, _, net = name.partition(":")
    zoo = library(origin)
    facts = zoo.get_pretrained_cfg(net) if origin == "timm" else zoo.models.get_model_weights(net).DEFAULT.transforms()
    mean, std = (tuple(round(255 * float(value), 4) for value in part) for part in (facts.mean, facts.std))
    return InputConvention("rgb", mean, std)


def native_size_of(name: str) -> int:
    """The side of the crop that a net was made for, without building it."""
    origin, _, net = name.partition(":")
    zoo = library(origin)
    try:
        if origin == "timm":
            return int(zoo.get_pretrained_cfg(net).input_size[1])
        return int(zoo.models.get_model_weights(net).DEFAULT.transforms().crop_size[0])
    except (AttributeError, ValueError, TypeError, RuntimeError):
        return 224


def library(name: str) -> ModuleType:
    """``torchvision`` or ``timm``, imported. Raises `UsageError` where it is not installed or does not fit.

    torchvision's compiled part belongs to one build of torch. Where it cannot be loaded, torchvision stops at two
    operators of detection that no net here uses. In a process of fullconv's own they are declared, and the rest of it
    works; in another the declaration is not ours to make.
    """
    try:
        with without_warnings():
            try:
                return importlib.import_module(name)
            except RuntimeError as problem:
                if "torchvision::" not in str(problem) or _DECLARED or not host.owns_process():
                    raise
                _DECLARED.append(torch.library.Library("torchvision", "FRAGMENT"))
                for operator in ("nms", "qnms"):
                    if not hasattr(torch.ops.torchvision, operator):
                        _DECLARED[0].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                return importlib.import_module(name)
    except ImportError:
        raise UsageError(f"{name}: it is not installed; pip install 'fullconv[zoo]'") from None
    except RuntimeError as problem:
        reason = str(problem).strip().splitlines()[0]
        raise UsageError(
            f"{name}: it does not fit the torch that is installed ({reason}); install both from one index, or "
            "use the command, which can do without its operators"
        ) from None


_DECLARED: list[torch.library.Library] = []
"""Kept, since what a library declares goes with it."""
