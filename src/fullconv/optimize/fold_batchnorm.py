"""Batch norm folded into the convolution before it: the same network, to rounding, with fewer passes."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fullconv.models.fcn import FCN
from fullconv.models.graph import bypass, finish, layer_of, layers_of, shared_copy
from fullconv.models.trace import walk
from fullconv.optimize.trunks import with_trunks


def folded(net: FCN) -> FCN:
    """Return a copy of a network in evaluation mode with each batch norm folded into the convolution before it.

    Other weights are shared.
    """
    found = with_trunks(net, _folded)
    found.trace = walk(found.get_submodule(f"backbone{net.streams[0]}"), net.config.channels)
    return found


def _folded(trunk: fx.GraphModule) -> fx.GraphModule:
    """Fold each pair into one convolution under the name of the norm, which may be that of a feature."""
    found = shared_copy(trunk)
    for node, convolution in list(layers_of(found)):
        norm = next(iter(node.users)) if len(node.users) == 1 else node
        layer = layer_of(found, norm)
        if type(convolution) is nn.Conv2d and type(layer) is nn.BatchNorm2d and layer.running_mean is not None:
            found.set_submodule(str(norm.target), fuse_conv_bn_eval(convolution, layer))
            bypass(node)
    return finish(found).eval()
