"""torchvision and timm for tests: torchvision does not import beside a CPU build of torch, whose wheel lacks the
operators that its detection part registers itself to, so they are defined first where they are missing.
"""

import importlib.util
import warnings

import pytest
import torch

OPERATORS = ("nms", "qnms")
KEPT = []


def torchvision():
    """The library, or a skip where it is not installed."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("torchvision and timm are not installed: pip install 'fullconv[zoo]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchvision
        except RuntimeError:
            if not KEPT:
                KEPT.append(torch.library.Library("torchvision", "DEF"))
                for name in OPERATORS:
                    KEPT[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            import torchvision
    return torchvision


def timm():
    """The library, or a skip where it is not installed."""
    torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm
    return timm
