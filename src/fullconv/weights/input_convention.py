"""A change of the input that weights want, made in their first convolution: BGR to RGB, another mean, another scale.

Mixing the two conventions up costs some five points of mean IU (59 against 64 on VOC in a well-known reproduction),
so every file of ours says which one it wants, and this is the one place where one becomes another.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fullconv.config import InputConvention
from fullconv.errors import UsageError


def change_convention(
    tensors: Mapping[str, Tensor], first: str, was: InputConvention, to: InputConvention, where: str
) -> dict[str, Tensor]:
    """The weights of a net that takes input of another convention and gives the same scores.

    first: the name of its first convolution, whose ``weight`` (O, C, h, w) and ``bias`` change. `where` is the file,
    for errors. Where that layer's zero padding is touched the scores are equal only if the mean stays, because the
    zeros stand for the mean: another mean is another colour around the image.

    Raises `UsageError` for another mean without a bias to take it up.
    """
    if len(was.mean) != len(to.mean):
        raise UsageError(f"{where}: its input has {len(was.mean)} channels, not {len(to.mean)}; keep its convention")
    weight, bias = tensors[f"{first}.weight"].double(), tensors.get(f"{first}.bias")
    mean, std = torch.tensor(was.mean).double(), torch.tensor(was.std).double()
    if was.order != to.order:
        place = was.channels if was.order == "bgr" else to.channels
        weight, mean, std = weight[:, place], mean[place], std[place]
    # The old input from the new one, channel by channel: (x * new std + new mean - old mean) / old std.
    shift = (torch.tensor(to.mean).double() - mean) / std
    if bias is None and bool(shift.abs().max() > 1e-12):
        raise UsageError(
            f"{where}: '{first}' has no bias to take up another mean; keep its convention, which the file remembers"
        )
    factor = (torch.tensor(to.std).double() / std).view(1, -1, 1, 1)
    changed = {f"{first}.weight": weight * factor}
    if bias is not None:
        changed[f"{first}.bias"] = bias.double() + (weight.sum((2, 3)) * shift).sum(1)
    return {**tensors, **{name: tensor.to(tensors[name].dtype) for name, tensor in changed.items()}}
