"""YAML as plain data: no tags, no aliases (a few of them unfold to gigabytes), no key given twice, no unknown key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from fullconv.errors import UsageError, shown, suggestion

MAX_DEPTH = 20
_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


def load_plain(content: bytes, name: str, keys: Iterable[str]) -> dict[str, Any]:
    """The mapping in the bytes of a YAML file; `keys` are those that it may have at the top, `name` stands in the
    messages.

    Raises `UsageError` in one line with the number of the line.

    >>> load_plain(b"lr: 0.1", "recipe.yaml", ["lr", "steps"])
    {'lr': 0.1}
    """
    keys = list(keys)
    try:
        text = content.decode("utf-8-sig")
        depth = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            line = f"line {token.start_mark.line + 1}"
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if depth > MAX_DEPTH:  # time grows with the square of the depth
                raise UsageError(f"{name}: {line}: nested too deeply; write plain keys and values")
            if isinstance(token, yaml.AliasToken | yaml.TagToken):
                raise UsageError(f"{name}: {line}: an alias or a tag; write plain values")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_repeated(root, name)
        data = yaml.safe_load(text)
    except UnicodeDecodeError:
        raise UsageError(f"{name}: no UTF-8 text; save it as UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        reason = shown(getattr(error, "problem", None) or "a value that cannot be read")
        raise UsageError(f"{name}: {line}no valid YAML ({reason}); correct it") from None
    if data is None:
        return {}
    if not isinstance(data, dict) or not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{name}: a {type(data).__name__} in place of keys; begin with `{keys[0]}: ...`")
    for node, _ in root.value:
        if node.value not in keys:
            line = f"line {node.start_mark.line + 1}"
            raise UsageError(f"{name}: {line}: unknown key '{shown(node.value)[:60]}'; {suggestion(node.value, keys)}")
    return data


def _refuse_repeated(node: yaml.Node | None, name: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError(f"{name}: line {line}: a list as a key; keys are words or numbers")
            if key.value in seen:
                raise UsageError(f"{name}: line {line}: the key '{shown(key.value)[:60]}' stands twice; keep one")
            seen.add(key.value)
            _refuse_repeated(value, name)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated(item, name)
