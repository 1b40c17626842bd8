"""Weights from anywhere as one of our files: Caffe's nets, PyTorch's state dicts, plain safetensors.

A source is read, recognized, and comes back with the header that its file will have; what was done and what was
assumed is said in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullconv import __version__
from fullconv.config import InputConvention, ModelConfig
from fullconv.datasets.folder.classes_file import parse_rules
from fullconv.datasets.published.label_spaces import NYUDV2, PASCAL_CONTEXT, SIFTFLOW, SIFTFLOW_GEOMETRIC, VOC
from fullconv.errors import RunError, UsageError, shown, suggestion
from fullconv.io.download.fetch import cache_folder
from fullconv.labels import LabelSpace
from fullconv.models.backbones.external import input_of, is_zoo_name, zoo_classifier
from fullconv.models.backbones.registry import BACKBONES
from fullconv.models.build import build, build_classifier, native_size
from fullconv.models.convolutionalize import Conversion, convolutionalize
from fullconv.models.fcn import FCN
from fullconv.models.trace import symbolic_trace
from fullconv.models.variants import first_convolution
from fullconv.models.verify import Proof, prove
from fullconv.weights.caffe import to_fcn as caffe
from fullconv.weights.caffe.caffemodel import read_blobs, read_caffemodel
from fullconv.weights.caffe.prototxt import read_prototxt
from fullconv.weights.caffe.recognize import recognize
from fullconv.weights.checkpoint import Header, load, save
from fullconv.weights.input_convention import change_convention
from fullconv.weights.known import KNOWN
from fullconv.weights.pretrained import fetch
from fullconv.weights.torchvision_names import paper_names

AGREE = 1e-4
"""How far the scores of a Caffe graph and of the net made from it may differ in single precision, relative to the
largest of them: rounding, and nothing else, makes a difference.
"""


@dataclass(frozen=True)
class Converted:
    """Weights that have become one of our files: the tensors and the header of it, and notes on how, line by line."""

    tensors: dict[str, Tensor]
    header: Header
    notes: tuple[tuple[str, str], ...]

    def net(self) -> nn.Module:
        """The net with its weights: an FCN, or the classifier."""
        with torch.device("meta"):
            net = empty_net(self.header)
        net.load_state_dict(self.tensors, assign=True)
        return net.eval()


@dataclass(frozen=True)
class ConversionResult:
    """The result of `convert_source`: the weights, and of a classifier its dense form.

    report: what became of each layer; proof: whether the dense form is the classifier slid, if that was asked for.
    path: the file that was written.
    """

    converted: Converted
    report: Conversion | None = None
    proof: Proof | None = None
    path: Path | None = None


def convert_source(
    source: str | Path,
    out: str | Path | None = None,
    *,
    prototxt: str | Path | None = None,
    backbone: str | None = None,
    input: str | None = None,
    to_input: str | None = None,
    classes: str | Path | None = None,
    verify: bool = False,
    progress: Callable[[int, int | None], Any] | None = None,
    log: Callable[[str], Any] = lambda line: None,
) -> ConversionResult:
    """Turn weights from elsewhere into one file of fullconv, and a classifier into its dense form.

    Args:
        source: A file of weights, the name or address of published weights, ``torchvision:NAME`` or ``timm:NAME``.
        out: The ``.safetensors`` file to write.
        prototxt: The layers of a ``.caffemodel``, if not its own.
        backbone: The network of a state dict (default: recognized by its shapes).
        input: The input convention of the weights, for a file without one.
        to_input: Change the first layer so that the network takes this convention.
        classes: A ``classes.yaml`` with the names of the classes.
        verify: Prove that the dense form of a classifier is the classifier slid over the image.
        progress: Called with the bytes fetched, and all of them.
        log: Called with the address and licence of published weights.

    Raises:
        UsageError: The source is damaged, unknown, or does not fit the arguments.
        RunError: The proof failed; nothing is written.

    """
    target = None if out is None else Path(out)
    if target is not None and target.suffix != ".safetensors":
        raise UsageError(f"{target}: our files end in .safetensors; give such a name")
    labels = None
    if classes is not None:
        rules = parse_rules(Path(classes).read_bytes(), str(classes))
        if rules.names is None:
            raise UsageError(f"{classes}: it has no 'names'; list the classes there")
        labels = LabelSpace.of(rules.names, rules.palette)
    convention = None if input is None else InputConvention.named(input)
    path, layers = Path(source), None if prototxt is None else Path(prototxt)
    if is_zoo_name(str(source)) and not path.exists():
        converted = convert_zoo(str(source), labels)
    else:
        if not path.exists():
            path, convention = _fetched(str(source), convention, progress, log)
        converted = convert(path, prototxt=layers, backbone=backbone, convention=convention, labels=labels)
    if to_input is not None:
        converted = with_input(converted, InputConvention.named(to_input), str(source))
    report = proof = None
    if converted.header.kind == "classifier":
        net, side = converted.net(), native_size(converted.header.model)
        dense, report = convolutionalize(net, side)
        proof = prove(net, dense, side) if verify else None
    if proof is not None and not proof.holds:
        log(f"\n{proof}")
        raise RunError(f"{source}: the dense form is not the classifier slid; nothing was written")
    if target is not None:
        provenance = {"fullconv": __version__, **converted.header.provenance}
        save(target, converted.tensors, replace(converted.header, provenance=provenance))
    return ConversionResult(converted, report, proof, target)


def _fetched(
    source: str, convention: InputConvention | None, progress: Callable[[int, int | None], Any] | None,
    log: Callable[[str], Any],
) -> tuple[Path, InputConvention | None]:  # fmt: skip
    """Fetch published weights by name or address unless they are kept already; return file and input convention."""
    known = KNOWN.get(source)
    if known is None and not source.startswith(("http://", "https://")):
        near = suggestion(source, list(KNOWN)).split(" One of")[0]
        near = near if near.startswith("did you mean") else "fullconv convert --list shows those that are known"
        raise UsageError(f"{shown(source)}: there is no such file, and no published weights of that name; {near}")
    if known is not None:
        log(f"{source}: {known.url}\nlicence: {known.licence}")
        if convention is None and known.input is not None:
            convention = InputConvention.named(known.input)
    log(f"kept in {cache_folder()}")
    return fetch(source, progress=progress), convention


def empty_net(header: Header) -> nn.Module:
    """The net that a header describes, with random weights."""
    model = header.model
    return build_classifier(model, model.num_classes) if header.kind == "classifier" else build(model)


def convert(
    source: Path,
    *,
    prototxt: Path | None = None,
    backbone: str | None = None,
    convention: InputConvention | None = None,
    labels: LabelSpace | None = None,
) -> Converted:
    """Weights of any known kind, read and recognized.

    prototxt: the layers of a .caffemodel, if not those that it holds itself. backbone: which net a state dict is for;
    found by its names and shapes if not given. convention: the input that it wants, for a file that does not say.
    labels: the classes; for a Caffe FCN of 21, 60, 40 or 33 classes those of PASCAL VOC, PASCAL-Context, NYUDv2 or
    SIFT Flow if not given, else numbers.

    Raises `UsageError` for a file that is damaged, of no known net, or that does not compute what it seems to.
    """
    if source.suffix == ".caffemodel":
        return _from_caffe(source, prototxt, convention, labels)
    if prototxt is not None:
        raise UsageError(f"{source}: --prototxt belongs to a .caffemodel; leave it out")
    tensors, header = load(source)
    if header is not None:
        if convention is not None and convention != header.input:
            raise UsageError(f"{source}: it says itself what input it wants ({header.input.order}); leave --input out")
        return Converted(tensors, header, (("is", f"the {header.kind} of a fullconv file"),))
    return _from_state_dict(source, tensors, backbone, convention, labels)


def convert_zoo(name: str, labels: LabelSpace | None = None) -> Converted:
    """A library's classifier with its published weights: ``torchvision:resnet50``, ``timm:convnext_tiny.in12k``."""
    net, _ = zoo_classifier(name, weights=True)
    return _from_state_dict(Path(name), net.state_dict(), name, input_of(name), labels)


def _from_caffe(
    source: Path, prototxt: Path | None, convention: InputConvention | None, labels: LabelSpace | None
) -> Converted:
    if prototxt is None:
        net = read_caffemodel(source)
    else:
        net = caffe.with_weights(read_prototxt(prototxt), read_blobs(source), str(source))
    found = recognize(net, str(source))
    tensors, did = caffe.state_dict(found, str(source))
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    apart = caffe.difference(net, found, tensors)
    if apart > AGREE:
        raise UsageError(
            f"{source}: its layers compute something else than {found.config.backbone} as it was published: the scores "
            f"differ by {apart:.0e} of the largest; look at the settings of its layers, or convert it by hand"
        )
    classes = found.config.num_classes
    if labels is None:
        released = {len(space): space for space in (VOC, PASCAL_CONTEXT, NYUDV2, SIFTFLOW)}
        labels = released.get(classes, numbered(classes)) if found.kind == "fcn" else numbered(classes)
    wanted = f"{found.convention.order}, mean {', '.join(f'{mean:g}' for mean in found.convention.mean)}"
    notes = [
        ("is", f"{_described(found.kind, found.config)} (Caffe)"),
        ("layers", "; ".join(f"{len(names)} {how}" for how, names in did.items() if names)),
        ("same scores", f"as the Caffe graph run layer by layer, to {apart:.0e} of the largest"),
        ("input", "as given" if convention is not None else f"{wanted} ({found.source})"),
    ]
    heads = found.config.geometric_classes
    geometric = (SIFTFLOW_GEOMETRIC if heads == len(SIFTFLOW_GEOMETRIC) else numbered(heads)) if heads else None
    header = Header(
        found.config, labels, convention or found.convention, found.kind, {"source": source.name}, geometric
    )
    return Converted(tensors, _checked(header, source), tuple(notes))


def _from_state_dict(
    source: Path,
    tensors: dict[str, Tensor],
    backbone: str | None,
    convention: InputConvention | None,
    labels: LabelSpace | None,
) -> Converted:
    config, ours = _recognized(source, tensors, backbone)
    if convention is None:
        raise UsageError(
            f"{source}: it does not say what input it wants; add --input caffe (BGR minus mean), "
            "torchvision (RGB standardised) or rgb128"
        )
    reshaped = sum(1 for name, tensor in ours.items() if tensors.get(name) is not tensor)
    notes = [
        ("is", _described("classifier", config)),
        ("tensors", f"{len(ours)} taken, {reshaped} of them under another name or shape"),
    ]
    unused = len(tensors) - len(ours)
    if unused > 0:
        notes.append(("left out", f"{unused} tensors that {config.backbone} has no place for"))
    header = Header(config, labels or numbered(config.num_classes), convention, "classifier", {"source": source.name})
    return Converted(ours, _checked(header, source), tuple(notes))


def _checked(header: Header, source: Path) -> Header:
    if len(header.labels) != header.model.num_classes:
        raise UsageError(
            f"{source}: it has {header.model.num_classes} classes, and {len(header.labels)} names were given; "
            "give one for each"
        )
    return header


def _recognized(
    source: Path, tensors: Mapping[str, Tensor], backbone: str | None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The backbone whose parameters these are, by their names and shapes, and the tensors by our names."""
    fitting: dict[str, tuple[ModelConfig, dict[str, Tensor]]] = {}
    numbers = [name for name in tensors if not name.endswith("num_batches_tracked")]
    for name in [backbone] if backbone else BACKBONES:
        fit = _fitted(name, tensors)
        # A deeper net has the tensors of a shallower one too; what is found and not told must fit to the last tensor.
        if fit and (backbone or sum(not key.endswith("num_batches_tracked") for key in fit[1]) == len(numbers)):
            fitting[name] = fit
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if fitting:
        raise UsageError(f"{source}: it fits {' and '.join(fitting)} alike; say which by --backbone")
    if backbone:
        with torch.device("meta"):
            wanted = build_classifier(ModelConfig(backbone), 1000).state_dict()
        missing = next((n for n in wanted if n not in tensors and not n.endswith("num_batches_tracked")), None)
        what = f"it has no '{missing}'" if missing else "its shapes are others"
        raise UsageError(f"{source}: these are not the weights of {backbone} ({what}); check --backbone")
    some = ", ".join(shown(name) for name in list(tensors)[:3])
    raise UsageError(
        f"{source}: its tensors ({some} ...) fit no backbone that is known here; give --backbone, "
        "or torchvision:NAME or timm:NAME for one of theirs"
    )


def _fitted(name: str, tensors: Mapping[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]] | None:
    """The settings with which a backbone has just these parameters, and the tensors in their shapes."""
    with torch.device("meta"):
        full = build_classifier(ModelConfig(name), 1000).state_dict()
        theirs = paper_names(tensors, full)
        first, last = next(iter(full)), list(full)[-1]
        if first not in theirs or last not in theirs or not theirs[first].ndim or not theirs[last].ndim:
            return None
        config = ModelConfig(
            name, num_classes=theirs[last].shape[0], width=theirs[first].shape[0] / full[first].shape[0]
        )
        wanted = build_classifier(config, config.num_classes).state_dict()
    ours: dict[str, Tensor] = {}
    for key, mine in wanted.items():
        tensor = theirs.get(key)
        if tensor is None and key.endswith("num_batches_tracked"):
            tensor = torch.zeros((), dtype=torch.long)
        if tensor is None or tensor.numel() != mine.numel() or tensor.shape[:1] != mine.shape[:1]:
            return None
        ours[key] = tensor if tensor.shape == mine.shape else tensor.reshape(mine.shape)
    return config, ours


def with_input(converted: Converted, to: InputConvention, where: str) -> Converted:
    """The same net for input of another convention: its first convolution is changed (`change_convention`).

    Raises `UsageError` for a net with two streams, and for another mean around a pad-100 net, whose border the mean is.
    """
    header = converted.header
    if to == header.input:
        return converted
    if header.model.padding == "paper" and header.kind == "fcn" and set(to.mean) != set(header.input.mean):
        raise UsageError(
            f"{where}: the 100 pixels around the image are its mean, and would be another colour; keep its convention"
        )
    with torch.device("meta"):
        net = empty_net(header)
    if isinstance(net, FCN) and len(net.streams) > 1:
        raise UsageError(f"{where}: a net of two streams keeps its convention; leave --to-input out")
    first, conv = first_convolution(net.get_submodule("backbone") if isinstance(net, FCN) else symbolic_trace(net))
    name = f"backbone.{first}" if isinstance(net, FCN) else first
    tensors = change_convention(converted.tensors, name, header.input, to, where)
    border = "" if not any(conv.padding) or to.mean == header.input.mean else "; the border of the image may differ"
    note = ("input changed", f"{header.input.order} to {to.order} in '{first}'{border}")
    return Converted(tensors, replace(header, input=to), (*converted.notes, note))


def numbered(classes: int) -> LabelSpace:
    """A label space for classes whose names are not known."""
    names = [f"class {index}" for index in range(classes)]
    return LabelSpace.of(names, ignore_index=255 if classes <= 255 else 65535)


def _described(kind: str, config: ModelConfig) -> str:
    width = f", width {config.width:g}" if config.width != 1 else ""
    if kind == "classifier":
        return f"a {config.backbone} classifier of {config.num_classes} classes{width}"
    parts = [f"FCN-{config.stride}s on {config.backbone}, {config.num_classes} classes{width}"]
    if config.skip_scale != 1:
        parts.append(f"at-once (skips scaled by {config.skip_scale:g})")
    if config.channels != 3:
        parts.append(f"{config.channels} channels (early fusion)")
    if config.late_fusion != "none":
        parts.append(f"late fusion of two streams ({config.late_fusion})")
    if config.geometric_classes:
        parts.append(f"a second head of {config.geometric_classes} classes")
    if config.upsample != "fixed":
        parts.append(f"upsampling {config.upsample}")
    return ", ".join(parts)
