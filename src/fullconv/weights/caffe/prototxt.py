"""Reads .prototxt files: a net as text.

The reader is as strict as Caffe: a setting that Caffe does not have is an error, because a misspelt one would leave
a default in its place and change the net without a word. Every message has line and column.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from fullconv.errors import UsageError
from fullconv.weights.caffe.file_kind import head_of, is_text, unreadable
from fullconv.weights.caffe.net import (
    MAX_LAYERS,
    SETTINGS,
    SOURCES,
    Layer,
    Net,
    brief,
    inputs_of,
    layer_of,
    text_of,
)
from fullconv.weights.caffe.schema import ENUMS, FIELDS, MESSAGES, Field

MAX_BYTES = 10_000_000
MAX_TOKENS = 500_000
"""More than ten times what the largest nets have: 0.3 MB of text, some 40,000 words and marks."""

MAX_TEXT = 100_000
MAX_DEPTH = 20

_TOKEN = re.compile(
    r"(?P<space>(?:[ \t\r\n\f\v]++|#[^\n]*+)++)"
    r"|(?P<word>[A-Za-z_]\w*+)"
    r"|(?P<number>0[xX][0-9a-fA-F]++|(?:\d++\.?+\d*+|\.\d++)(?:[eE][+-]?+\d++)?+[fF]?+)"
    r"|(?P<string>\"[^\"\\\n]*+(?:\\.[^\"\\\n]*+)*+\"|'[^'\\\n]*+(?:\\.[^'\\\n]*+)*+')"
    r"|(?P<mark>[{}<>\[\]:;,-])",
    re.ASCII,
)
_ESCAPE = re.compile(rb"\\(?:[xX]([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
_ESCAPED = dict(zip(b"abfnrtv\\'\"?", b"\a\b\f\n\r\t\v\\'\"?", strict=True))
_INTEGER = re.compile(r"0[xX][0-9a-fA-F]{1,16}|0[0-7]{0,22}|[1-9]\d{0,19}", re.ASCII)
_WORDS: dict[str, dict[str, int] | dict[str, float]] = {
    **ENUMS,
    "bool": {"true": 1, "True": 1, "t": 1, "1": 1, "false": 0, "False": 0, "f": 0, "0": 0},
    "float": {"inf": math.inf, "infinity": math.inf, "nan": math.nan},
}
_WANTED = {"bool": "true or false", "float": "a number"}
_CLOSING = {"{": "}", "<": ">", "[": "]"}


class _Text:
    """A text with the token at which the reader stands: its kind, its characters, and where it begins."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name
        self.kind, self.token, self.at, self.end = "", "", 0, 0
        self.counted, self.lines, self.line_start = 0, 1, 0
        self.tokens = 0
        self.advance()

    def advance(self) -> None:
        """Go to the next token; its kind is ``end`` behind the last."""
        found = _TOKEN.match(self.text, self.end)
        if found and found.lastgroup == "space":
            self.end = found.end()
            found = _TOKEN.match(self.text, self.end)
        self.at = self.end
        self.tokens += 1
        if self.tokens > MAX_TOKENS:
            raise self.wrong(self.at, f"more than {MAX_TOKENS:,} words and marks", "is it the file you mean?")
        if found:
            self.kind, self.token, self.end = str(found.lastgroup), found.group(), found.end()
        elif self.at == len(self.text):
            self.kind, self.token = "end", ""
        else:
            odd = self.text[self.at]
            what = "a string without its end" if odd in "\"'" else f"'{brief(odd)}', which no prototxt has here"
            raise self.wrong(self.at, what)

    def takes(self, mark: str) -> bool:
        """Whether the token is this mark, which is then passed."""
        if self.kind != "mark" or self.token != mark:
            return False
        self.advance()
        return True

    def place(self, at: int) -> str:
        """The line and column of an offset, both from 1."""
        if at < self.counted:
            self.counted, self.lines, self.line_start = 0, 1, 0
        self.lines += self.text.count("\n", self.counted, at)
        self.line_start = max(self.line_start, self.text.rfind("\n", self.counted, at) + 1)
        self.counted = at
        return f"line {self.lines}, column {at - self.line_start + 1}"

    def wrong(self, at: int, what: str, cure: str = "correct it") -> UsageError:
        """The error for what stands at an offset."""
        return UsageError(f"{self.name}: {self.place(at)}: {what}; {cure}")

    def unexpected(self, wanted: str) -> UsageError:
        """The error for the token here, where something else had to stand."""
        found = f"'{brief(self.token)}'" if self.kind != "end" else "the end of the file"
        return self.wrong(self.at, f"{found} in place of {wanted}")


class _Entry(NamedTuple):
    """A layer of the text: its record, its offset, and the offsets of its settings by name."""

    layer: Layer
    at: int
    marks: dict[str, list[int]]


def read_prototxt(path: Path) -> Net:
    """The net in a .prototxt, its layers without blobs.

    Today's form (`layer`) and the one before it (`layers`) are read, all phases together: see `Layer.train_only`.
    Raises `UsageError` with line and column for text that is no net, an unknown setting or layer type, and for a
    layer whose bottom no earlier layer or input makes.
    """
    head = head_of(path, ".prototxt", MAX_BYTES)
    if not is_text(head):
        raise UsageError(f"{path}: a binary file (a .caffemodel?), not a .prototxt; give the net as text")
    try:
        text = _Text(path.read_bytes().decode("utf-8-sig", "backslashreplace"), str(path))
    except OSError as problem:
        raise unreadable(path, problem) from None
    net, entries = MESSAGES["Net"](), []
    places: dict[str, int] = {}
    while text.kind != "end":
        field, at = _name(text, "Net")
        places.setdefault(field.name, at)
        if field.name not in ("layer", "layers"):
            _setting(text, net, field, at)
            continue
        if {"layer", "layers"} <= places.keys():
            raise text.wrong(at, "both `layer` and `layers`, and Caffe takes one of them", "write all in one form")
        entries.append(_layer(text, field, at))
        if len(entries) > MAX_LAYERS:
            raise text.wrong(at, f"more than {MAX_LAYERS:,} layers", "is it the file you mean?")
    layers = [entry.layer for entry in entries]
    if not layers:
        raise text.wrong(0, "no layers", "give the prototxt of the net, not of the solver")
    first = min((at for name, at in places.items() if name.startswith("input")), default=0)
    inputs = inputs_of(net, layers, text.name, text.place(first))
    _check_types(text, entries)
    _check_bottoms(text, entries, {name for name, _ in inputs})
    return Net(text_of(net.name), tuple(layers), inputs)


def _layer(text: _Text, field: Field, at: int) -> _Entry:
    message = MESSAGES[field.kind]()
    text.takes(":")
    marks = _message(text, message)
    if field.kind == "V1Layer" and "layer" in marks:
        cure = "bring the file up to date with Caffe's upgrade_net_proto_text"
        raise text.wrong(marks["layer"][0], "a layer in Caffe's oldest form (V0)", cure)
    place = text.place(at)
    return _Entry(layer_of(message, f"{text.name}: {place}", place), at, marks)


def _check_types(text: _Text, entries: Sequence[_Entry]) -> None:
    for layer, at, marks in entries:
        if layer.train_only or layer.type in SETTINGS:
            continue
        if not layer.type:
            raise text.wrong(at, f"layer '{brief(layer.name)}' has no type", 'give it one, as in type: "Convolution"')
        what = f"layer '{brief(layer.name)}' is of the type '{brief(layer.type)}', which is not read"
        raise text.wrong(marks["type"][0], what, _nearest(layer.type, SETTINGS, "take the layer out"))


def _check_bottoms(text: _Text, entries: Sequence[_Entry], made: set[str]) -> None:
    """Refuse a net in which a layer comes before what it reads. Layers of all phases count as one net."""
    makers: dict[str, list[_Entry]] = {}
    for entry in entries:
        for top in entry.layer.tops:
            makers.setdefault(top, []).append(entry)
    for layer, at, marks in entries:
        if not layer.bottoms and layer.type not in SOURCES and not layer.train_only:
            raise text.wrong(at, f"layer '{brief(layer.name)}' has no bottom", "say what it reads")
        for bottom, mark in zip(layer.bottoms, marks.get("bottom", []), strict=True):
            if bottom in made:
                continue
            what = f"layer '{brief(layer.name)}' reads '{brief(bottom)}', which "
            if bottom not in makers:
                cure = _nearest(bottom, made, "add the layer or the input that makes it")
                raise text.wrong(mark, f"{what}no layer makes", cure)
            maker = makers[bottom][0]
            later = f"layer '{brief(maker.layer.name)}' makes only at {text.place(maker.at)}"
            raise text.wrong(mark, f"{what}{later}", "put the layers in order, without a cycle")
        made.update(layer.tops)


def _name(text: _Text, kind: str) -> tuple[Field, int]:
    """The setting of a message that is named here, and its offset; the name is passed."""
    if text.kind != "word":
        raise text.unexpected("the name of a setting")
    at, name = text.at, text.token
    if name not in FIELDS[kind]:
        cure = _nearest(name, FIELDS[kind], "take it out")
        raise text.wrong(at, f"'{brief(name)}' is no setting of Caffe's here", cure)
    text.advance()
    return FIELDS[kind][name], at


def _message(text: _Text, message: Any) -> dict[str, list[int]]:
    """Read the settings in braces into a message; gives the offsets of their values by name.

    Messages lie in each other as deeply as `FIELDS` has them, so a text cannot nest without end.
    """
    opening, brace = text.token, text.at
    if not text.takes("{") and not text.takes("<"):
        raise text.unexpected("'{'")
    marks: dict[str, list[int]] = {}
    while not text.takes(_CLOSING[opening]):
        if text.kind == "end":
            raise text.wrong(brace, f"'{opening}' without its '{_CLOSING[opening]}'", "close it")
        field, at = _name(text, message.DESCRIPTOR.name)
        marks.setdefault(field.name, []).extend(_setting(text, message, field, at))
    return marks


def _setting(text: _Text, message: Any, field: Field, at: int) -> list[int]:
    """Read what follows the name of a setting, which stood at an offset; gives the offsets of its values."""
    if not field.repeated and field.kind != "-" and message.HasField(field.name):
        raise text.wrong(at, f"'{field.name}' for the second time", "keep one")
    if not text.takes(":") and field.kind not in FIELDS and field.kind != "-":
        raise text.unexpected("':'")
    places = []
    listed = field.repeated and text.takes("[")
    more = not (listed and text.takes("]"))
    while more:
        places.append(text.at)
        _value(text, message, field)
        more = listed and not text.takes("]")
        if more and not text.takes(","):
            raise text.unexpected("',' or ']'")
    if not text.takes(","):
        text.takes(";")
    return places


def _value(text: _Text, message: Any, field: Field) -> None:
    """Read one value of a setting into its message."""
    if field.kind == "-":
        _skip(text)
    elif field.kind in FIELDS:
        inner = getattr(message, field.name)
        if field.repeated:
            inner = inner.add()
        inner.SetInParent()  # said, even where nothing is in the braces
        _message(text, inner)
    else:
        at, value = text.at, _scalar(text, field)
        try:
            if field.repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
        except (ValueError, TypeError):
            raise text.wrong(at, f"'{field.name}' cannot be {brief(value)}") from None


def _scalar(text: _Text, field: Field) -> bytes | int | float:
    """The text, name or number here, as the field wants it."""
    if field.kind == "string":
        return _quoted(text)
    sign = -1 if field.kind not in (*ENUMS, "bool") and text.takes("-") else 1
    words = _WORDS.get(field.kind, {})
    value: int | float
    if text.kind in ("word", "number") and text.token in words:
        value = words[text.token]
    elif text.kind == "word" and field.kind in ENUMS:
        cure = _nearest(text.token, words, f"Caffe has {', '.join(words)}")
        raise text.wrong(text.at, f"'{brief(text.token)}' is no {field.name} of Caffe's", cure)
    elif text.kind == "number" and field.kind == "float" and text.token[:2].lower() != "0x":
        value = float(text.token.rstrip("fF"))
    elif text.kind == "number" and field.kind not in ("bool", "float") and _INTEGER.fullmatch(text.token):
        value = int(text.token, 8 if text.token.startswith("0") and text.token.isdigit() else 0)
    else:
        raise text.unexpected(_WANTED.get(field.kind, "a whole number"))
    text.advance()
    return sign * value


def _quoted(text: _Text) -> bytes:
    """The text in quotes here; one after another they are one text."""
    parts = []
    while text.kind == "string":
        at = text.at
        if len(text.token) > MAX_TEXT:
            raise text.wrong(at, f"a text of more than {MAX_TEXT:,} characters", "is it the file you mean?")

        def plain(found: re.Match[bytes], at: int = at) -> bytes:
            code, octal, char = found.groups()
            if char is not None and ord(char) not in _ESCAPED:
                raise text.wrong(at, f"a text with the escape '\\{brief(char.decode('latin-1'))}'")
            return bytes([int(code, 16) if code else int(octal, 8) & 255 if octal else _ESCAPED[ord(char)]])

        parts.append(_ESCAPE.sub(plain, text.token[1:-1].encode()))
        text.advance()
    if not parts:
        raise text.unexpected("a text in quotes")
    return b"".join(parts)


def _skip(text: _Text) -> None:
    """Pass a value that does not matter: one word, number or text, or all in its brackets."""
    opened: list[str] = []
    while True:
        text.takes("-")
        if text.kind == "end":
            raise text.unexpected(f"'{_CLOSING[opened[-1]]}'" if opened else "a value")
        if text.kind == "mark" and text.token in _CLOSING:
            opened.append(text.token)
            if len(opened) > MAX_DEPTH:
                raise text.wrong(text.at, f"brackets in more than {MAX_DEPTH} others")
        elif text.kind == "mark" and opened and text.token == _CLOSING[opened[-1]]:
            opened.pop()
        elif text.kind == "mark" and (not opened or text.token not in ":,;"):
            raise text.unexpected(f"'{_CLOSING[opened[-1]]}'" if opened else "a value")
        last = text.kind
        text.advance()
        if not opened and not (last == text.kind == "string"):
            return


def _nearest(wrong: str, valid: Iterable[str], otherwise: str) -> str:
    """The way out of a misspelt name, or what to do where no name is near."""
    near = difflib.get_close_matches(wrong[:60], islice(valid, MAX_LAYERS), n=1)
    return f"did you mean '{brief(near[0])}'?" if near else otherwise
