"""Weights on disk: one ``.safetensors`` file that needs nothing else, with a header that says what it is.

The header is JSON under the metadata key ``fullconv``: the model's settings, its label space, the input convention,
where it came from, and the SHA-256 of the tensors. A second key, ``fullconv.sha256``, seals both: one flipped bit
anywhere in the file is found. A file without them (torchvision's, say) is plain tensors; what input they want must be
told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from fullconv.config import InputConvention, ModelConfig, from_mapping, to_mapping
from fullconv.errors import RunError, UsageError, shown
from fullconv.io.atomic import Piece, write_pieces
from fullconv.io.download.fetch import page_or_pointer
from fullconv.labels import LabelSpace
from fullconv.weights.torch_file import read_state_dict

FORMAT = 1
"""Version of the header; raised when its meaning changes."""

KEY, SEAL = "fullconv", "fullconv.sha256"
"""The metadata keys of our files: the header as JSON text, and the hash over it and the tensors."""

_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.bool: "BOOL",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
}  # fmt: skip


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
            labels, convention = LabelSpace.from_dict(data["labels"]), InputConvention.from_dict(data["input"], where)
            geometric = LabelSpace.from_dict(data["geometric"]) if "geometric" in data else None
            return cls(model, labels, convention, str(data["kind"]), dict(data["provenance"]), geometric)
        except (KeyError, TypeError, ValueError) as problem:
            raise UsageError(
                f"{where}: its header is damaged ({type(problem).__name__}: {problem}); take another copy"
            ) from None


def _said(name: str, tensor: Tensor) -> bytes:
    """What is hashed of a tensor before its bytes."""
    return f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode()


def _bytes(tensor: Tensor, chunk: int = 1 << 23) -> Iterator[memoryview]:
    """The bytes of a tensor in the usual order, whatever its layout, some rows at a time: a large one that lies in
    another order is never copied as a whole.
    """
    plain = tensor.detach().cpu()
    plain = plain if plain.ndim else plain.reshape(1)
    rows = max(1, chunk * len(plain) // max(1, plain.nbytes))
    for part in plain.split(rows):
        yield memoryview(part.contiguous().reshape(-1).view(torch.uint8).numpy())


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, whatever their order in the file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(_said(name, tensors[name]))
        for content in _bytes(tensors[name]):
            digest.update(content)
    return digest.hexdigest()


def pack(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> tuple[int, Iterator[Piece]]:
    """A safetensors file with a JSON header and the fingerprint of its tensors: its size in bytes, and its pieces.

    The tensors are read, hashed and given away some megabytes at a time, so there is no second copy of them; the head
    of the file is the last piece, as it holds the hash.
    """
    places: dict[str, tuple[int, int]] = {}
    end = 0
    # The widest types first, as in every safetensors file: so each number stands at a multiple of its own size.
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        places[name] = end, end + tensors[name].nbytes
        end += tensors[name].nbytes
    begin = len(_head(tensors, places, header, hashlib.sha256().hexdigest()))

    def pieces() -> Iterator[Piece]:
        digest = hashlib.sha256()
        with ThreadPoolExecutor(1) as beside:  # large pieces are hashed while they are written
            for name in sorted(tensors):
                digest.update(_said(name, tensors[name]))
                place = begin + places[name][0]
                for content in _bytes(tensors[name]):
                    hashed = beside.submit(digest.update, content) if len(content) > 1 << 20 else None
                    yield place, content
                    place += len(content)
                    hashed.result() if hashed else digest.update(content)
        yield 0, _head(tensors, places, header, digest.hexdigest())

    return begin + end, pieces()


def _head(
    tensors: Mapping[str, Tensor], places: Mapping[str, tuple[int, int]], header: Mapping[str, Any], digest: str
) -> bytes:
    """What stands before the tensors: eight bytes of length, and JSON; as long for one digest as for any other."""
    text = json.dumps({**header, "sha256": digest}, sort_keys=True)
    head: dict[str, Any] = {"__metadata__": {KEY: text, SEAL: _seal(text, digest)}}
    for name, place in places.items():
        tensor = tensors[name]
        if tensor.dtype not in _TYPES:
            raise RunError(f"{name}: a safetensors file holds no {tensor.dtype}; convert it to another type")
        head[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
    written = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    written += b" " * (-len(written) % 8)
    return len(written).to_bytes(8, "little") + written


def _seal(text: str, digest: str) -> str:
    """SHA-256 over all that a file says: the text of its header, and the fingerprint of its tensors."""
    return hashlib.sha256((text + digest).encode()).hexdigest()


def unpack(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a safetensors file and its JSON header (None where it has none), checked: in a file of ours no
    bit is other than it was written.

    Raises `UsageError` naming the file when it is missing, damaged, or something else.
    """
    _refuse_what_it_is_not(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a mapping
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as problem:
        raise UsageError(f"{path}: not a whole safetensors file ({problem}); take another copy") from None
    return tensors, _checked(path, metadata, tensors)


def sha256_of(path: Path) -> str | None:
    """The fingerprint of its tensors that a checkpoint states, read without them; None where it states none."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return str(json.loads((file.metadata() or {})[KEY])["sha256"])
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError):
        return None


def _checked(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The header, if there is one, and if it and the tensors are what was written."""
    if KEY not in metadata and SEAL not in metadata:
        return None
    # Another key may be one of the two with a flipped bit.
    if KEY not in metadata or metadata.keys() - {KEY, SEAL}:
        raise UsageError(f"{path}: its header is damaged (the keys are {shown(sorted(metadata))}); take another copy")
    try:
        header = json.loads(metadata[KEY])
        inner = str(header["sha256"])
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"{path}: its header is damaged; take another copy") from None
    # Files from before the seal have none; of those only the tensors can be checked.
    if SEAL in metadata and metadata[SEAL] != _seal(metadata[KEY], inner):
        raise UsageError(f"{path}: its header does not fit its SHA-256: the file was damaged; take another copy")
    if inner != fingerprint(tensors):
        raise UsageError(f"{path}: its tensors do not fit their SHA-256: the file was damaged; take another copy")
    return dict(header)


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
    if (other := page_or_pointer(head)) is not None:
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
    write_pieces(path, *pack(tensors, header.to_dict()))


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


def verify(path: str | Path) -> Header:
    """Check that no bit of a checkpoint has changed since it was written, and return its header.

    Raises:
        UsageError: The file is missing, damaged, or states no SHA-256.
    """
    _, header = load(Path(path))
    if header is None:
        raise UsageError(
            f"{path}: plain weights state no SHA-256; fullconv convert {path} --out FILE writes a checkpoint"
        )
    return header
