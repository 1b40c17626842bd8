"""A program of torch.export (.pt2), for whoever has torch and not this package; with torch, it is run here too.

``torch.export.load`` runs what a file says: it unpickles, and takes text for Python. So a file is read here only if it
holds nothing of the kind: tensors as plain bytes, calls of torch's tensor operations alone, sizes as plain arithmetic.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fullconv.backends.export_program import program
from fullconv.backends.metadata import KEY, LOGITS, ExportMetadata
from fullconv.config import Size
from fullconv.errors import RunError, UsageError, shown
from fullconv.warnings import without_warnings

if TYPE_CHECKING:
    from fullconv.models.fcn import FCN

MEMBERS = (
    r"data/weights/weight_\d+|data/weights/model_weights_config\.json|data/constants/tensor_\d+|"
    r"data/constants/model_constants_config\.json|models/model\.json|extra/fullconv|archive_format|archive_version|"
    r"\.data/version|\.data/serialization_id|byteorder"
)
"""The members of an archive that holds no pickle, below its one folder."""

TARGETS = (
    r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|torch\.ops\.higher_order\.wrap_with_autocast|"
    r"torch\.sym_(max|min|not|ite)|"
    r"_operator\.(add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge|and_|or_|getitem)|math\.(ceil|floor|trunc)"
)
"""The functions that its graph may call: those of tensors and numbers, none of which opens a file."""

SYMBOL = r"[su]\d{1,6}"
"""The name of a size."""

FUNCTIONS = {
    "Add", "Mul", "Pow", "Max", "Min", "FloorDiv", "PythonMod", "Mod", "CleanDiv", "CeilDiv", "Symbol", "Integer", "Eq",
    "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "true", "false",
}  # fmt: skip
"""The functions and constants that its sizes may name."""

PLAIN = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.keyword, ast.operator, ast.unaryop, ast.cmpop,
    ast.expr_context,
)  # fmt: skip
"""The parts of a text of Python that are arithmetic and no more."""


def to_pt2(net: FCN, size: Size | None, card: ExportMetadata) -> bytes:
    """The net as a .pt2 file, with what it says of itself in the extra file ``fullconv``."""
    made = program(net, size)
    # The tracer takes a map of one cell for another kind of map, and the program refuses images that come down to it.
    least = max((int(bound.lower) for bound in made.range_constraints.values()), default=1)
    card = replace(card, least=1 if size is not None else least)
    made._example_inputs = None  # the one part that would be pickled
    for part in made.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # the places of files on this machine are nobody's business
    out = BytesIO()
    with without_warnings():
        torch.export.save(made, out, extra_files={KEY: card.to_json()})
    return out.getvalue()


def read(path: Path) -> tuple[torch.export.ExportedProgram, ExportMetadata]:
    """The program in a file and what it says of itself. Raises `UsageError` naming the file."""
    content = path.read_bytes()
    try:
        text = _looked_at(content)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, UnicodeDecodeError, RecursionError):
        raise UsageError(f"{shown(path)}: not a whole .pt2 file; take another copy") from None
    except ValueError as problem:
        raise UsageError(
            f"{shown(path)}: it holds more than tensors and operations on them ({shown(problem)}), which torch would "
            "run while it reads it; export it again with fullconv export"
        ) from None
    card = ExportMetadata.from_json(text, path)
    try:
        with without_warnings():
            return torch.export.load(BytesIO(content)), card
    except Exception as problem:
        reason = shown(str(problem).strip().split("\n")[0][:200])
        raise UsageError(
            f"{shown(path)}: torch {torch.__version__} does not read it ({reason}); export it again"
        ) from None


def _looked_at(content: bytes) -> str | None:
    """The extra file ``fullconv`` of an archive. Raises `ValueError` with what else than tensors and calls is in it."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        infos = archive.infolist()
        names = [info.filename.partition("/")[2] for info in infos]
        if len({info.filename.partition("/")[0] for info in infos}) != 1 or len(set(names)) != len(names):
            raise ValueError("two archives in one")
        for info, name in zip(infos, names, strict=True):
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(content):
                raise ValueError(f"{name} is packed")
            if not re.fullmatch(MEMBERS, name) and not (name == "data/sample_inputs/model.pt" and not info.file_size):
                raise ValueError(name)
        text = {name: archive.read(info) for info, name in zip(infos, names, strict=True) if "json" in name}
        for name, said in text.items():
            for key, value in _pairs(json.loads(said)):
                _check(name, key, value)
        extra = next((info for info, name in zip(infos, names, strict=True) if name == f"extra/{KEY}"), None)
        return archive.read(extra).decode() if extra else None


def _pairs(tree: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values of a JSON text, at any depth."""
    waiting = [tree]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield from found.items()
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def _check(where: str, key: str, value: Any) -> None:
    if key == "use_pickle" and value is not False:
        raise ValueError(f"a pickle in {where}")
    if key == "target" and not re.fullmatch(TARGETS, str(value)):
        raise ValueError(f"a call of {value}")
    if key == "expr_str":
        for node in ast.walk(ast.parse(value, mode="eval")):
            fine = isinstance(node, PLAIN) or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
            if isinstance(node, ast.Name):
                fine = node.id in FUNCTIONS or re.fullmatch(SYMBOL, node.id) is not None
            if isinstance(node, ast.Constant):
                fine = not isinstance(node.value, str) or re.fullmatch(SYMBOL, node.value) is not None
            if not fine:
                raise ValueError(f"the size '{str(value)[:80]}'")


class ProgramNet:
    """A program that torch runs: (N, C, H, W) float32 to a dict of its logits by name."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.module = program.module()

    def __call__(self, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run it once."""
        try:
            with torch.inference_mode():
                found = self.module(torch.from_numpy(np.ascontiguousarray(x)))
        except (RuntimeError, AssertionError) as problem:
            reason = shown(str(problem).strip().split("\n")[0][:200])
            raise RunError(
                f"pt2: the net cannot be run on {'x'.join(map(str, x.shape))} ({reason}); give another size"
            ) from None
        return dict(zip(LOGITS.values(), (scores.numpy() for scores in found), strict=False))
