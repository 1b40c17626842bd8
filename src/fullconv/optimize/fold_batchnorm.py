"""Batch norm in the convolution before it: the same net, to rounding, with fewer passes over its features."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fullconv.models.fcn import FCN
from fullconv.models.trace import walk


def folded(net: FCN) -> FCN:
    """A copy of a net for prediction, in which each batch norm behind a convolution is part of it.

    Other weights are shared. The net must be in evaluation mode: what is folded are the averages that it has learned.
    """
    found = net.with_trunks(_folded)
    found.trace = walk(found.get_submodule(f"backbone{net.streams[0]}"), net.config.channels)
    return found


def _folded(trunk: fx.GraphModule) -> fx.GraphModule:
    """Each pair is one convolution under the name of the norm, which may be that of a feature."""
    layers, graph = dict(trunk.named_modules()), fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    fused: dict[str, nn.Module] = {}
    for node in trunk.graph.nodes:
        if node.op == "output":
            graph.output(fx.map_arg(node.args[0], values.__getitem__))
        elif (norm := _norm_behind(node, layers)) is not None:
            convolution, target = layers[str(node.target)], str(norm.target)
            assert isinstance(convolution, nn.Conv2d)
            fused[target] = fuse_conv_bn_eval(convolution, layers[target])
            values[norm] = graph.call_module(target, (values[node.all_input_nodes[0]],))
        elif node not in values:
            values[node] = graph.node_copy(node, values.__getitem__)
    made = fx.GraphModule({**layers, **dict(trunk.named_parameters()), **dict(trunk.named_buffers()), **fused}, graph)
    return made.eval()


def _norm_behind(node: fx.Node, layers: dict[str, nn.Module]) -> fx.Node | None:
    """The batch norm behind a convolution that nobody else reads."""
    users = list(node.users)
    if node.op != "call_module" or type(layers[str(node.target)]) is not nn.Conv2d or len(users) != 1:
        return None
    norm = layers.get(str(users[0].target)) if users[0].op == "call_module" else None
    return users[0] if type(norm) is nn.BatchNorm2d and norm.running_mean is not None else None
