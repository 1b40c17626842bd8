"""Weights on disk: one ``.safetensors`` file that needs nothing else, with a header that says what it is.

The header is JSON under the metadata key ``fullconv``: the model's settings, its label space, the input convention,
where it came from, and the SHA-256 of the tensors. A file without it (torchvision's, say) is plain tensors; what
input they want must be told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fullconv.atomic import write_atomically
from fullconv.config import InputConvention, ModelConfig, from_mapping, to_mapping
from fullconv.errors import UsageError
from fullconv.labels import LabelSpace
from fullconv.weights.download import other_than_weights
from fullconv.weights.pytorch import read_state_dict

FORMAT = 1
"""Version of the header; raised when its meaning changes."""


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself.

    kind: ``fcn``, or ``classifier`` for a backbone with its class scores.
    provenance: free facts: data set, settings of the run, scores, version.
    geometric: the classes of the second head, of a net that has one (SIFT Flow).
    """

    model: ModelConfig
    labels: LabelSpace
    input: InputConvention
    kind: str = "fcn"
    provenance: dict[str, Any] = field(default_factory=dict)
    geometric: LabelSpace | None = None

    @property
    def tasks(self) -> dict[str, LabelSpace]:
        """The classes of each head, by its task."""
        return {"semantic": self.labels} | ({"geometric": self.geometric} if self.geometric else {})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "model": to_mapping(self.model),
            "labels": self.labels.to_dict(),
            "input": self.input.to_dict(),
            "provenance": self.provenance,
            **({"geometric": self.geometric.to_dict()} if self.geometric else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> Header:
        """The inverse of `to_dict`; `where` is the file, for errors."""
        try:
            if data["format"] != FORMAT:
                raise UsageError(
                    f"{where}: its format is version {data['format']}, this fullconv reads {FORMAT}; update fullconv"
                )
            model = from_mapping(ModelConfig, data["model"], where)
            labels, convention = LabelSpace.from_dict(data["labels"]), InputConvention.from_dict(data["input"])
            geometric = LabelSpace.from_dict(data["geometric"]) if "geometric" in data else None
            return cls(model, labels, convention, str(data["kind"]), dict(data["provenance"]), geometric)
        except (KeyError, TypeError, ValueError) as problem:
            raise UsageError(
                f"{where}: its header is damaged ({type(problem).__name__}: {problem}); take another copy"
            ) from None


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, whatever their order in the file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def pack(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """The bytes of a safetensors file with a JSON header and the fingerprint of its tensors."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"fullconv": json.dumps({**header, "sha256": fingerprint(plain)}, sort_keys=True)}
    return safetensors.torch.save(plain, metadata)


def unpack(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a safetensors file and its JSON header (None where it has none), checked against its fingerprint.

    Raises `UsageError` naming the file when it is missing, damaged, or something else.
    """
    _refuse_what_it_is_not(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a mapping
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as problem:
        raise UsageError(f"{path}: not a whole safetensors file ({problem}); take another copy") from None
    if "fullconv" not in metadata:
        return tensors, None
    try:
        header = json.loads(metadata["fullconv"])
    except ValueError:
        raise UsageError(f"{path}: its header is damaged; take another copy") from None
    if header.get("sha256") != fingerprint(tensors):
        raise UsageError(f"{path}: its tensors do not fit their SHA-256: the file was damaged; take another copy")
    return tensors, header


def _refuse_what_it_is_not(path: Path) -> bytes:
    """The first bytes of a file that may be weights; other things are refused by what they are."""
    if not path.exists():
        raise UsageError(f"{path}: there is no such file; check the path")
    if path.is_dir():
        inside = path / "model.safetensors"
        hint = f"did you mean {inside}?" if inside.exists() else "give the .safetensors file"
        raise UsageError(f"{path}: it is a folder; {hint}")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise UsageError(f"{path}: empty file; take another copy")
    if (other := other_than_weights(head)) is not None:
        cure = "run git lfs pull" if "git-lfs" in other else "fetch it again"
        raise UsageError(f"{path}: {other}, not weights; {cure}")
    if path.suffix == ".keras" or head.startswith(b"\x89HDF"):
        raise UsageError(
            f"{path}: a Keras file, whose fully connected layers are flattened rows first (height, width, channels); "
            "save them as a PyTorch state dict with fc6 transposed to (channels, height, width)"
        )
    if path.suffix in (".caffemodel", ".prototxt"):
        raise UsageError(f"{path}: a file of Caffe's; convert it first: fullconv convert {path} --out m.safetensors")
    if path.suffix in (".onnx", ".pb", ".tflite", ".mat", ".engine"):
        raise UsageError(f"{path}: a net in another format; save its weights as a PyTorch state dict or .safetensors")
    return head


def save(path: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    """Write a checkpoint: all of it, or nothing."""
    write_atomically(path, pack(tensors, header.to_dict()))


def load(path: Path) -> tuple[dict[str, Tensor], Header | None]:
    """Read tensors and header; the header is None for a file of plain tensors, and for PyTorch's own files.

    Raises `UsageError` naming the file when it is missing, damaged, or something else.
    """
    head = _refuse_what_it_is_not(path)
    # The length at the start of a safetensors file may look like anything; the brace after it does not.
    pickled = head[8:9] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80")
    if path.suffix in (".pth", ".pt") or pickled:
        return read_state_dict(path), None
    tensors, header = unpack(path)
    return tensors, Header.from_dict(header, str(path)) if header is not None else None
