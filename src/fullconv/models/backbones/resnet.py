"""ResNet-18, -34 and -50 (He et al. 2016), with torchvision's key names.

ResNets are not in the paper. Where a block of ResNet-50 subsamples, its 3x3 convolution does, as in torchvision's nets
(V1.5), not the 1x1 before it, as in the original: the published weights want it.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (N, incoming, H, W) -> (N, channels, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, incoming: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(incoming, channels, stride)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """The residual is added, then the ReLU."""
        residual = self.relu1(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        summed: Tensor = self.relu2(residual + self.downsample(x))
        return summed


class Bottleneck(nn.Module):
    """1x1 to few channels, 3x3, 1x1 to four times as many, beside a shortcut: (N, incoming, H, W) ->
    (N, 4 * channels, H / stride, W / stride).
    """

    expansion = 4

    def __init__(self, incoming: int, channels: int, stride: int) -> None:
        super().__init__()
        outgoing = self.expansion * channels
        self.conv1 = nn.Conv2d(incoming, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(channels, outgoing, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outgoing)
        self.downsample = _shortcut(incoming, outgoing, stride)
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """The residual is added, then the ReLU."""
        residual = self.relu1(self.bn1(self.conv1(x)))
        residual = self.relu2(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        summed: Tensor = self.relu3(residual + self.downsample(x))
        return summed


BLOCKS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}
"""The kind of block and how many each of the four layers has, by the depth of the net (table 1 of He et al.)."""

CHANNELS = (64, 128, 256, 512)


def resnet(depth: int, num_classes: int = 1000, width: float = 1.0) -> nn.Sequential:
    """A ResNet classifier: (N, 3, H, W) -> (N, num_classes); native size 224, stride 32.

    `depth`: 18, 34 or 50. `width` scales every channel count.

    >>> [name for name in resnet(18, width=1 / 16).state_dict() if "downsample.0" in name][0]
    'layer2.0.downsample.0.weight'
    """
    block, counts = BLOCKS[depth]
    incoming, *_ = planes = [max(1, round(channels * width)) for channels in CHANNELS]
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, incoming, 7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(incoming),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    for number, (channels, count) in enumerate(zip(planes, counts, strict=True), start=1):
        blocks: list[nn.Module] = []
        for position in range(count):
            blocks.append(block(incoming, channels, stride=2 if number > 1 and position == 0 else 1))
            incoming = block.expansion * channels
        layers[f"layer{number}"] = nn.Sequential(*blocks)
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(incoming, num_classes)
    net = nn.Sequential(layers)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return net


def _shortcut(incoming: int, outgoing: int, stride: int) -> nn.Module:
    """The input itself where the block changes neither size nor channels, else a 1x1 convolution to fit."""
    if stride == 1 and incoming == outgoing:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(incoming, outgoing, 1, stride, bias=False), nn.BatchNorm2d(outgoing))
