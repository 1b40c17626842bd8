"""Reads .prototxt files: a net as text.

protobuf's text_format parses them, and is as strict as Caffe: an unknown setting is an error, because a misspelt one
would leave a default in its place and change the net silently. A pass over the tokens before it (`_scan`) bounds what
it receives, blanks the messages that are not read, and records where the layers are; so every error states a line and
a column.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from google.protobuf import text_format

from fullconv.errors import UsageError, shown
from fullconv.weights.caffe.net import (  # fmt: skip
    MAX_LAYERS,
    SETTINGS,
    SOURCES,
    Layer,
    Net,
    brief,
    check_file,
    inputs_of,
    layer_of,
    text_of,
    unreadable,
)
from fullconv.weights.caffe.schema import ENUMS, MESSAGES

MAX_BYTES = 10_000_000
MAX_TOKENS = 500_000
"""More than ten times what the largest nets have: 0.3 MB of text, some 40,000 tokens."""

MAX_TEXT = 100_000
MAX_DEPTH = 20

_TOKEN = re.compile(
    r"(?P<space>(?:[ \t\r\n\f\v]++|#[^\n]*+)++)"
    r"|(?P<word>[A-Za-z_]\w*+)"
    r"|(?P<number>(?:-[ \t]*+)?+(?:0[xX][0-9a-fA-F]++|(?:\d++\.?+\d*+|\.\d++)(?:[eE][+-]?+\d++)?+[fF]?+|inf\w*+|nan)"
    r"(?![\w.]))"
    r"|(?P<string>\"[^\"\\\n]*+(?:\\.[^\"\\\n]*+)*+\"|'[^'\\\n]*+(?:\\.[^'\\\n]*+)*+')"
    r"|(?P<open>[{<\[])|(?P<close>[}>\]])|(?P<mark>[:;,])|(?P<odd>(?s:.))",
    re.ASCII,
)
_ESCAPE = re.compile(r"\\(?:([abfnrtv\\'\"?]|[0-3]?[0-7]{1,2}|[xX][0-9a-fA-F]{1,2})|(.))")
_CLOSING = {"{": "}", "<": ">", "[": "]"}
_SKIPPED = {
    field.name
    for kind in ("Net", "Layer")
    for field in MESSAGES[kind].DESCRIPTOR.fields
    if field.message_type and field.message_type.name == "Skipped"
}


class _Place(NamedTuple):
    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


class _Mark(NamedTuple):
    """The place of a layer, and those of the values of its own fields by name."""

    place: _Place
    values: dict[str, list[_Place]]


_Wrong = Callable[..., UsageError]


def read_prototxt(path: Path) -> Net:
    """Read the net in a .prototxt; its layers have no blobs.

    Today's format (`layer`) and the one before it (`layers`) are read, all phases together: see `Layer.train_only`.

    Raises:
        UsageError: The text is not a net, has an unknown setting or layer type, or a layer whose bottom is not the
            top of an earlier layer or an input. The message states the line and the column.

    """
    check_file(path, ".prototxt", MAX_BYTES)
    try:
        text = path.read_bytes().decode("utf-8-sig", "backslashreplace")
    except OSError as problem:
        raise unreadable(path, problem) from None

    def wrong(place: _Place, what: str, cure: str = "correct it") -> UsageError:
        return UsageError(f"{path}: {place}: {what}; {cure}")

    clean, first, marks = _scan(text, wrong)
    net = MESSAGES["Net"]()
    try:
        text_format.Parse(clean, net)
    except text_format.ParseError as problem:
        raise _refusal(problem, clean, wrong) from None
    if not marks:
        raise wrong(_Place(1, 1), "no layers", "give the prototxt of the net, not of the solver")
    layers = [
        layer_of(message, f"{path}: {mark.place}", str(mark.place))
        for message, mark in zip(net.layer or net.layers, marks, strict=True)
    ]
    head = min((place for name, place in first.items() if name.startswith("input")), default=_Place(1, 1))
    inputs = inputs_of(net, layers, str(path), str(head))
    _check_layers(layers, marks, {name for name, _ in inputs}, wrong)
    return Net(text_of(net.name), tuple(layers), inputs)


def _scan(text: str, wrong: _Wrong) -> tuple[str, dict[str, _Place], list[_Mark]]:
    """Return the text that protobuf is to parse, the first places of the net's fields, and its layers.

    The text has its tokens at their places, and no messages that are skipped.
    """
    tokens = (found for found in _TOKEN.finditer(text) if found.lastgroup != "space")
    if excess := next(islice(tokens, MAX_TOKENS, None), None):
        before = text[: excess.start()]
        place = _Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise wrong(place, f"more than {MAX_TOKENS:,} words and marks", "is it the file you mean?")
    clean: list[str] = []
    first: dict[str, _Place] = {}
    layers: list[_Mark] = []
    brackets: list[tuple[str, _Place]] = []
    line, line_start, skip = 1, 0, MAX_DEPTH + 1
    key = last = ""
    for found in _TOKEN.finditer(text):
        kind, token = str(found.lastgroup), found.group()
        place = _Place(line, found.start() - line_start + 1)
        if kind == "space":
            if "\n" in token:
                line, line_start = line + token.count("\n"), found.start() + token.rindex("\n") + 1
            clean.append(token)
            continue
        if kind == "odd":
            raise wrong(place, "a string without its end" if token in "\"'" else f"unexpected '{brief(token)}'")
        inner = brackets[-1][0] if brackets else ""
        if kind == "close":
            if token != _CLOSING.get(inner):
                raise wrong(place, f"'{token}' in place of {_CLOSING.get(inner) or 'the name of a setting'!r}")
            brackets.pop()
        skipping = len(brackets) >= skip
        skip = skip if skipping else MAX_DEPTH + 1
        if kind == "open":
            if last not in ("word", ":", ",", "["):
                raise wrong(place, f"'{token}' in place of the name of a setting")
            if token == "[" and not inner and key in ("layer", "layers"):
                raise wrong(place, "'[' in place of '{'", "write the layers one by one")
            brackets.append((token, place))
            if len(brackets) > MAX_DEPTH:
                raise wrong(place, f"brackets in more than {MAX_DEPTH} others")
            if key in _SKIPPED and token != "[" and not skipping:
                skip = len(brackets)
        elif kind == "string":
            token = _string(token, place, wrong)
        elif kind == "number":
            # text_format takes no space after a minus, and protobuf 5 no F behind a float.
            token = "".join(token.split()).lower().rjust(len(token))
        if kind == "word" and last != ":" and inner != "[" and not skipping:
            key = token
            if not inner:
                first.setdefault(key, place)
                if {"layer", "layers"} <= first.keys():
                    raise wrong(place, "both `layer` and `layers`, and Caffe takes one of them", "use one format")
                if key in ("layer", "layers"):
                    layers.append(_Mark(place, {}))
                if len(layers) > MAX_LAYERS:
                    raise wrong(place, f"more than {MAX_LAYERS:,} layers", "is it the file you mean?")
            elif key == "layer" and "layers" in first and len(brackets) == 1:
                cure = "bring the file up to date with Caffe's upgrade_net_proto_text"
                raise wrong(place, "a layer in Caffe's oldest format (V0)", cure)
        elif kind in ("word", "string") and len(brackets) - (inner == "[") == 1 and last != "string" and layers:
            layers[-1].values.setdefault(key, []).append(place)
        clean.append(" " * len(token) if skipping else token)
        last = kind if kind in ("word", "string", "number") else token
    if brackets:
        mark, place = brackets[-1]
        raise wrong(place, f"'{mark}' without its '{_CLOSING[mark]}'", "close it")
    return "".join(clean), first, layers


def _string(token: str, place: _Place, wrong: _Wrong) -> str:
    """Check the escapes of a string, and write them as text_format knows them."""
    if len(token) > MAX_TEXT:
        raise wrong(place, f"a text of more than {MAX_TEXT:,} characters", "is it the file you mean?")

    def known(found: re.Match[str]) -> str:
        if found[2]:
            raise wrong(place, f"a text with the escape '\\{brief(found[2])}'")
        return "?" if found[1] == "?" else found[0].replace("X", "x")

    return _ESCAPE.sub(known, token)


def _refusal(problem: text_format.ParseError, text: str, wrong: _Wrong) -> UsageError:
    """Return the error for what text_format refuses."""
    place = _Place(problem.GetLine() or 1, problem.GetColumn() or 1)
    line = text.split("\n", place.line)[place.line - 1]
    message = str(problem).partition(" : ")[2].removeprefix(f"'{line}': ").removesuffix(".")
    if found := re.fullmatch(r'Message type "caffe\.(\w+)" has no field named "(.*)"', message):
        cure = _nearest(found[2], MESSAGES[found[1]].DESCRIPTOR.fields_by_name, "remove it")
        return wrong(place, f"unknown setting '{brief(found[2])}'", cure)
    if found := re.fullmatch(r'Enum type "caffe\.\w+\.(\w+)" has no value (?:named|with number) (.*)', message):
        cure = _nearest(found[2], ENUMS[found[1]], f"use one of {', '.join(ENUMS[found[1]])}")
        return wrong(place, f"unknown {found[1]} '{brief(found[2])}'", cure)
    begin = re.search(r"\w*\s*:?\s*$", line[: place.column - 1])
    where = f"{begin[0] if begin else ''}{line[place.column - 1 :].split(' ')[0]}"
    return wrong(place, f"{shown(message[:120]).replace('caffe.', '')} at '{brief(where)}'")


def _check_layers(layers: list[Layer], marks: list[_Mark], made: set[str], wrong: _Wrong) -> None:
    """Refuse a type that is not supported, and a bottom that no layer has made yet; all phases count as one net."""
    makers: dict[str, tuple[str, _Place]] = {}
    for layer, mark in zip(layers, marks, strict=True):
        for top in layer.tops:
            makers.setdefault(top, (brief(layer.name), mark.place))
    for layer, mark in zip(layers, marks, strict=True):
        name = f"layer '{brief(layer.name)}'"
        if not layer.train_only and not layer.type:
            raise wrong(mark.place, f"{name} has no type", 'give it one, as in type: "Convolution"')
        if not layer.train_only and layer.type not in SETTINGS:
            what = f"{name} is of the type '{brief(layer.type)}', which is not supported"
            raise wrong(mark.values["type"][0], what, _nearest(layer.type, SETTINGS, "remove the layer"))
        if not layer.train_only and not layer.bottoms and layer.type not in SOURCES:
            raise wrong(mark.place, f"{name} has no bottom", "give it one")
        for bottom, place in zip(layer.bottoms, mark.values.get("bottom", []), strict=True):
            if bottom not in made and bottom in makers:
                what = "{} reads '{}', which layer '{}' makes only at {}".format(name, brief(bottom), *makers[bottom])
                raise wrong(place, what, "put the layers in order, without a cycle")
            if bottom not in made:
                cure = _nearest(bottom, made, "add the layer or the input that makes it")
                raise wrong(place, f"{name} reads '{brief(bottom)}', which no layer makes", cure)
        made.update(layer.tops)


def _nearest(wrong: str, valid: Iterable[str], otherwise: str) -> str:
    """Return the way out of a misspelt name, or `otherwise` if no name is similar."""
    near = difflib.get_close_matches(wrong[:60], islice(valid, MAX_LAYERS), n=1)
    return f"did you mean '{brief(near[0])}'?" if near else otherwise
