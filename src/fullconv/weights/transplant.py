"""Weights from one net into another by name: from the classifier into the FCN on it, from FCN-32s to 16s to 8s, from
one stream into two (section 4.1, and the authors' ``surgery.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fullconv.errors import UsageError
from fullconv.models.fcn import FCN
from fullconv.models.variants import double_kernel, more_channels
from fullconv.weights.torchvision_names import paper_names


@dataclass(frozen=True)
class Transplant:
    """What `transplant` did, by the parameter's name in the net.

    copied: taken as they are. reshaped: a fully connected weight read as its convolution, the same numbers in the
    same order. expanded: made larger (more input channels, more classes, a doubled kernel). missing: left as the net
    had them. unused: in the file, and of no use to the net (by their names there).
    """

    copied: tuple[str, ...]
    reshaped: tuple[str, ...]
    expanded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def taken(self) -> tuple[str, ...]:
        """All parameters that have their values from the file."""
        return self.copied + self.reshaped + self.expanded

    def __str__(self) -> str:
        parts = [f"{len(self.copied)} copied"]
        for what in ("reshaped", "expanded", "missing", "unused"):
            names: tuple[str, ...] = getattr(self, what)
            if names:
                shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
                parts.append(f"{len(names)} {what} ({shown})")
        return "; ".join(parts)


def transplant(
    net: FCN, tensors: Mapping[str, Tensor], where: str, *, stream: str | None = None, expand_scores: bool = False
) -> Transplant:
    """Copy weights into an FCN by name.

    tensors: a state dict of an FCN (``backbone.conv1_1.weight``, ``score_fr.weight``) or of the classifier below it
    (``conv1_1.weight`` or torchvision's names). `where` is the file, for errors.
    stream: for late fusion, the stream (``color`` or ``hha``) that a net of one stream goes into; both if not given.
    expand_scores: put score layers for fewer classes into the first rows of the net's (the authors'
    ``expand_score``); else score layers for another number of classes are left out.

    Every layer below the scores must be in the file. Raises `UsageError` naming what is missing or does not fit.
    """
    target = net.state_dict()
    theirs = _for_streams(net, _as_fcn(tensors, target), stream)
    chosen: dict[str, Tensor] = {}
    did: dict[str, list[str]] = {"copied": [], "reshaped": [], "expanded": [], "missing": []}
    for name, mine in target.items():
        found = theirs.get(name)
        if found is None and (name.endswith("num_batches_tracked") or _of_another_stream(net, name, stream)):
            continue
        fitted = None if found is None else _fit(net, name, found, mine.shape, expand_scores)
        if fitted is None:
            if name.startswith("backbone"):
                raise UsageError(_does_not_fit(name, found, mine, where))
            did["missing"].append(name)
            continue
        how, chosen[name] = fitted
        if not bool(torch.isfinite(chosen[name]).all()):
            raise UsageError(f"{where}: '{name}' has values that are not finite; take another copy")
        did[how].append(name)
    with torch.no_grad():
        for name, tensor in chosen.items():
            target[name].copy_(tensor)
    unused = tuple(sorted(set(theirs) - set(chosen)))
    return Transplant(**{how: tuple(names) for how, names in did.items()}, unused=unused)


def _as_fcn(tensors: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by an FCN's names; a classifier's are below ``backbone``."""
    if any(name.startswith("backbone") for name in tensors):
        return dict(tensors)
    wanted = [name.partition(".")[2] for name in target if name.startswith("backbone")]
    return {f"backbone.{name}": tensor for name, tensor in paper_names(tensors, wanted).items()}


def _for_streams(net: FCN, tensors: dict[str, Tensor], stream: str | None) -> dict[str, Tensor]:
    """The tensors of a net of one stream under the names of the streams that they go into."""
    ends = [f"_{stream}"] if stream else list(net.streams)
    if stream and f"_{stream}" not in net.streams:
        raise UsageError(f"stream '{stream}': this net has no such stream; leave it out")
    if net.streams == ("",) or not any(name.startswith("backbone.") for name in tensors):
        return tensors
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(backbone|score_fr|score_pool\d+)(.*\..*)", name)
        for end in ends if match else [""]:
            named[f"{match[1]}{end}{match[2]}" if match else name] = tensor
    return named


def _of_another_stream(net: FCN, name: str, stream: str | None) -> bool:
    others: Sequence[str] = [end for end in net.streams if stream and end != f"_{stream}"]
    return any(re.match(rf"(backbone|score_fr|score_pool\d+){end}[._]", name) for end in others)


def _fit(net: FCN, name: str, found: Tensor, shape: torch.Size, expand_scores: bool) -> tuple[str, Tensor] | None:
    """How a tensor comes into a shape, and the tensor in it; None where it does not."""
    if found.shape == shape:
        return "copied", found
    if not name.startswith("backbone"):
        if expand_scores and name.startswith("score") and found.shape[1:] == shape[1:] and found.shape[0] < shape[0]:
            return "expanded", torch.cat([found, found.new_zeros(shape[0] - found.shape[0], *shape[1:])])
        return None
    if found.numel() == shape.numel() and found.shape[0] == shape[0]:
        return "reshaped", found.reshape(shape)
    if len(shape) != 4 or found.shape[0] != shape[0]:
        return None
    if found.ndim == 4 and found.shape[2:] == shape[2:] and 3 == found.shape[1] < shape[1] == net.config.channels:
        return "expanded", more_channels(found, shape[1])
    if net.config.last_pool == "enlarged" and 4 * found.numel() == shape.numel():
        return "expanded", double_kernel(found.reshape(shape[0], shape[1], shape[2] // 2, shape[3] // 2))
    return None


def _does_not_fit(name: str, found: Tensor | None, mine: Tensor, where: str) -> str:
    layer = name.partition(".")[2]
    if found is None:
        return f"{where}: it has no '{layer}'; these weights are of another backbone"
    return (
        f"{where}: '{layer}' is {tuple(found.shape)}, the net wants {tuple(mine.shape)}; "
        "check --backbone, --width and --native-size"
    )
