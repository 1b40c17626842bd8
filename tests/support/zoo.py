"""torchvision and timm for tests, or a skip where they are not installed."""

import importlib.util

import pytest

from fullconv.models.backbones.external import library


def torchvision():
    """The library, or a skip where it is not installed."""
    return _library("torchvision")


def timm():
    """The library, or a skip where it is not installed."""
    return _library("timm")


def _library(name):
    if importlib.util.find_spec("timm") is None:
        pytest.skip("torchvision and timm are not installed: pip install 'fullconv[zoo]'")
    return library(name)
