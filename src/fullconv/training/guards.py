"""The known traps of training an FCN, told in plain words at the start or as soon as they show.

Each of them is a thread in somebody's issue tracker: no pretrained weights, a trunk or an upsampling of zeros, pixels
in another scale than the weights want, batch statistics that destroy a folded batch norm, a net that says background
everywhere, masks of nothing but void.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fullconv.config import CONVENTIONS, InputConvention, ModelConfig, TrainConfig
from fullconv.data.dataset import Dataset, facts_of
from fullconv.errors import FullconvError, UsageError
from fullconv.inference.tensor_input import to_input
from fullconv.labels import LabelSpace
from fullconv.metrics import Scores
from fullconv.models.build import build_classifier, native_size
from fullconv.models.fcn import FCN
from fullconv.models.upsample import Upsample
from fullconv.weights.torchvision_names import paper_names

LOOKED_AT = 8
"""Images on which the input of the weights is tried."""

SURER = 1.3
"""How much surer a classifier must be of another input before that is said."""

EMPTY_STEPS = 20


def refuse_dead_layers(net: FCN, where: str) -> None:
    """Raise `UsageError` for a layer below the scores, or a learned upsampling, that holds nothing but zeros: through
    it comes no gradient, and the net stays as it is.
    """
    for name, layer in net.named_modules():
        learned = isinstance(layer, Upsample) and layer.weight is not None
        trunk = isinstance(layer, nn.Conv2d) and name.startswith("backbone")
        if (learned or trunk) and not bool(layer.weight.detach().any()):
            what = "an upsampling" if learned else "a layer"
            raise UsageError(
                f"{where}: '{name}' is {what} of zeros, through which nothing is learned; take other weights"
            )


def has_learned_norms(net: nn.Module) -> bool:
    """Whether any batch norm of a net holds other values than a new one: means 0, variances 1, scales 1, offsets 0."""
    return any(
        bool((tensor != initial).any())
        for layer in net.modules()
        if isinstance(layer, nn.BatchNorm2d)
        for tensor, initial in (
            (layer.running_mean, 0), (layer.running_var, 1), (layer.weight, 1), (layer.bias, 0)
        )
        if tensor is not None
    )  # fmt: skip


def refuse_lost_norms(net: FCN, config: TrainConfig, where: str) -> None:
    """Raise `UsageError` where batch statistics are asked for and the weights have batch norm folded into their
    convolutions: its mean 0 and variance 1 are no statistics, and those of a batch would put others in their place.
    """
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats]
    folded = [n for n in norms if n.running_mean is not None and n.running_var is not None
              and not bool(n.running_mean.any()) and bool((n.running_var == 1).all())]  # fmt: skip
    if config.freeze_bn is False and norms and len(folded) == len(norms):
        raise UsageError(
            f"{where}: batch norm is folded into its convolutions, and --no-freeze-bn would destroy what they learned; "
            "leave it out"
        )


def doubt_of_input(
    tensors: Mapping[str, Tensor], model: ModelConfig, convention: InputConvention, dataset: Dataset
) -> str | None:
    """A sentence when the classifier in `tensors` is much surer of these images under another input convention than
    under the one that it is to be given; None when not, or when there is no whole classifier of photographs.

    A classifier that sees 0 to 255 for its standardised scale, or the reverse, still answers, and is less sure: the
    mean of its largest probability falls. RGB for BGR costs it little, and is not told by this.
    """
    if facts_of(dataset).modalities != ("color",) or not len(dataset):
        return None
    classifier = _whole_classifier(tensors, model)
    if classifier is None:
        return None
    side = native_size(model)
    images = torch.from_numpy(
        np.stack([_centre(dataset, index, side) for index in range(min(LOOKED_AT, len(dataset)))])
    )
    sure: dict[str, float] = {}
    candidates = {"this": convention} | {name: CONVENTIONS[name] for name in ("caffe", "torchvision", "rgb128")}
    with torch.inference_mode():
        for name, tried in candidates.items():
            sure[name] = float(classifier(to_input(images, tried)).softmax(1).max(1).values.mean())
    best = max(sure, key=lambda name: sure[name])
    if sure[best] < SURER * sure["this"] or CONVENTIONS.get(best) == convention:
        return None
    return (
        f"the weights are surer of these images as --input {best} (largest probability {sure[best]:.2f} on average) "
        f"than as they are given ({sure['this']:.2f}); the mean or scale of the channels may be wrong for them"
    )


def _whole_classifier(tensors: Mapping[str, Tensor], model: ModelConfig) -> nn.Module | None:
    if any(name.startswith("backbone") for name in tensors):
        return None
    try:
        with torch.device("meta"):  # for the names alone
            names = build_classifier(model, classes=1).state_dict()
        last = [name for name in names if name.endswith("weight")][-1]
        named = paper_names(tensors, names)
        classes = named[last].shape[0]
        classifier = build_classifier(model, classes=classes)
        classifier.load_state_dict(
            {name: named[name].reshape(mine.shape) if name in named else mine
             for name, mine in classifier.state_dict().items()}
        )  # fmt: skip
    except (KeyError, IndexError, RuntimeError, FullconvError):
        return None
    return classifier.eval() if classes > 10 else None


def _centre(dataset: Dataset, index: int, side: int) -> np.ndarray:
    """The middle of an image, repeated at its borders where it is smaller."""
    image = dataset[index].image
    pads = [(max(0, side - n) // 2, max(0, side - n + 1) // 2) for n in image.shape[:2]]
    padded = np.pad(image, [*pads, (0, 0)], mode="edge")
    top, left = ((n - side) // 2 for n in padded.shape[:2])
    return padded[top : top + side, left : left + side]


class Watch:
    """What shows while a net is trained. Give it what comes; it answers with a sentence when there is one, once."""

    def __init__(self, labels: LabelSpace, total: int, pretrained: bool) -> None:
        self.labels, self.total, self.pretrained = labels, total, pretrained
        self.empty = 0
        self.said: set[str] = set()

    def step(self, step: int, valid: int) -> str | None:
        """After a step with so many valid pixels."""
        self.empty = 0 if valid else self.empty + 1
        if self.empty < EMPTY_STEPS:
            return None
        return self._once(
            "void", f"step {step}: the labels of the last {EMPTY_STEPS} steps are void all over: nothing was learned; "
            "look at the masks (255 is void) with fullconv check"
        )  # fmt: skip

    def evaluated(self, step: int, scores: Scores) -> str | None:
        """After an evaluation."""
        known = [accuracy for accuracy in scores.accuracy if accuracy is not None]
        if len(known) < 2 or step < 0.3 * self.total or sorted(known)[-1] != 1 or sorted(known)[-2] != 0:
            return None
        name = self.labels.names[scores.accuracy.index(1.0)]
        why = (
            "the rate may be too low for the loss, or the masks mostly that class"
            if self.pretrained
            else "it was begun with random weights, with which this is the rule; give --weights of a classifier"
        )
        return self._once("stuck", f"step {step}: the net says '{name}' everywhere; {why}")

    def _once(self, kind: str, sentence: str) -> str | None:
        if kind in self.said:
            return None
        self.said.add(kind)
        return sentence
