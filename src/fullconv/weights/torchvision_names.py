"""torchvision's names for the weights of nets that bear the paper's names here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor


def paper_names(tensors: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """A VGG state dict of torchvision (``features.0.weight``, ``classifier.0.weight``) under the paper's names
    (conv1_1, fc6).

    wanted: the names of the classifier's parameters, with or without those of its class scores. The order of the
    layers is the same in both, so the n-th of theirs is the n-th of ours. Other state dicts come back as they are.
    """
    ours = [m.group(1) for name in wanted if (m := re.fullmatch(r"((?:conv|bn)\d_\d|fc[67])\.weight", name))]
    theirs = [
        name.removesuffix(".weight") for name in tensors if re.fullmatch(r"(features|classifier)\.\d+\.weight", name)
    ]
    if not ours or not theirs:
        return dict(tensors)
    layers = sorted(theirs, key=lambda name: (name.startswith("classifier"), int(name.split(".")[1])))
    names = dict(zip(layers, [*ours, "fc8"], strict=False))
    found = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        found[f"{names.get(layer, layer)}.{kind}"] = tensor
    return found
