"""Rewriting of networks as graphs (`torch.fx`): what every change to a graph of layers is made of.

Graphs are changed in place; change a `shared_copy` to keep the original.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx, nn


def layer_of(graph_module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls; None for a function, a method, an input or an output."""
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None


def layers_of(graph_module: fx.GraphModule) -> Iterator[tuple[fx.Node, nn.Module]]:
    """Yield the nodes that call a module, in order, and these modules."""
    for node in graph_module.graph.nodes:
        layer = layer_of(graph_module, node)
        if layer is not None:
            yield node, layer


def node_names(graph: fx.Graph) -> dict[fx.Node, str]:
    """Return the name of every node: the module's own for layers (``pool4``), fx's for functions (``add_1``)."""
    names: dict[fx.Node, str] = {}
    taken: set[str] = set()
    for node in graph.nodes:
        name = str(node.target) if node.op == "call_module" else node.name
        names[node] = name if name not in taken else node.name
        taken.add(names[node])
    return names


def features_of(node: fx.Node) -> list[fx.Node]:
    """Return the nodes that a node reads, without parameters and other constants."""
    return [source for source in node.all_input_nodes if source.op != "get_attr"]


def kind_name(node: fx.Node, layer: nn.Module | None = None) -> str:
    """Return the name of what a node calls: ``Conv2d``, ``relu_``, ``iadd``."""
    return type(layer).__name__ if layer is not None else str(getattr(node.target, "__name__", node.target))


def argument(node: fx.Node, place: int, name: str, default: Any = None) -> Any:
    """Return an argument of a node's call, which it gives by place or by name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def works_in_place(node: fx.Node, layer: nn.Module | None = None) -> bool:
    """Whether a node overwrites the first feature that it reads."""
    if layer is not None:
        return bool(getattr(layer, "inplace", False))
    name = kind_name(node)
    return name.endswith("_") or name in ("iadd", "imul") or bool(node.kwargs.get("inplace"))


def bypass(node: fx.Node, source: fx.Node | None = None) -> None:
    """Erase a node; what read it reads `source`, by default the first node that it read."""
    node.replace_all_uses_with(source or node.all_input_nodes[0])
    node.graph.erase_node(node)


def replace(graph_module: fx.GraphModule, node: fx.Node, name: str, layer: nn.Module, source: fx.Node) -> fx.Node:
    """Put a layer, called with `source`, in the place of a node, under a name; return its node."""
    graph_module.add_submodule(name, layer)
    with graph_module.graph.inserting_after(node):
        new = graph_module.graph.call_module(name, (source,))
    bypass(node, new)
    return new


def erase_dead(graph: fx.Graph, erasable: Callable[[fx.Node], bool] = lambda node: True) -> None:
    """Erase the nodes that nothing reads, from the last to the first; inputs and outputs stay."""
    for node in reversed(list(graph.nodes)):
        if node.op not in ("placeholder", "output") and not node.users and erasable(node):
            graph.erase_node(node)


def give(graph_module: fx.GraphModule, outputs: fx.Node | tuple[fx.Node, ...]) -> None:
    """Make a graph return other nodes, and take out what none of them needs."""
    next(iter(reversed(graph_module.graph.nodes))).args = (outputs,)
    erase_dead(graph_module.graph)
    finish(graph_module)


def finish(graph_module: fx.GraphModule, drop_unused: bool = True) -> fx.GraphModule:
    """Check and compile a graph after changes, and drop the modules that it does not call; return it."""
    if drop_unused:
        graph_module.delete_all_unused_submodules()
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def shared_copy(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return a graph module with a graph of its own and the same layers and tensors."""
    return fx.GraphModule(graph_module, copy.deepcopy(graph_module.graph))
