"""What the forms equal to a model share: changing the trunks of an FCN, and computing single nodes of a trunk."""

from __future__ import annotations

import copy
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from torch import fx, nn

from fullconv.models.fcn import FCN
from fullconv.models.graph import layer_of
from fullconv.models.trace import KINDS, POINTWISE, Operation, operation_of


def with_trunks(net: FCN, change: Callable[[fx.GraphModule], nn.Module]) -> FCN:
    """Return a copy of a network with changed trunks, which must give the same features; all else is shared."""
    changed = copy.copy(net)
    changed._modules = dict(net._modules)
    for stream in net.streams:
        trunk = net.get_submodule(f"backbone{stream}")
        assert isinstance(trunk, fx.GraphModule)
        changed._modules[f"backbone{stream}"] = change(trunk)
    return changed


def plain_operation(trunk: fx.GraphModule, node: fx.Node) -> Operation | None:
    """Return what a node does; None if it is unknown, or not what torch's own layer does in evaluation mode."""
    operation = operation_of(trunk, node)
    if operation is None or operation.layer is None:
        return operation
    if operation.kind in KINDS.values():
        return operation if type(operation.layer) in KINDS else None
    return operation if isinstance(operation.layer, POINTWISE) and not operation.layer.training else None


def call(trunk: fx.GraphModule, node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
    """Compute a node from other values of its inputs; constants are those of the graph."""

    def given(source: fx.Node) -> Any:
        return attrgetter(str(source.target))(trunk) if source.op == "get_attr" else value(source)

    args, kwargs = fx.map_arg(node.args, given), fx.map_arg(node.kwargs, given)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    layer = layer_of(trunk, node)
    function = layer if layer is not None else node.target
    assert callable(function)
    return function(*args, **kwargs)
