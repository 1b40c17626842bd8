"""MobileNetV2 (Sandler et al. 2018), with torchvision's key names and its symmetric padding.

TensorFlow's SAME padding pads by a number of cells that depends on the size of the image, so a net with it has no
geometry of its own; with ``padding=1`` it has one, and the published weights work (shifted by half a cell at each
stride of 2).
"""

from __future__ import annotations

from torch import Tensor, nn

# Expansion, output channels, blocks, stride of the first block (table 2 of the MobileNetV2 paper).
PLAN = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def divisible(channels: float, by: int = 8) -> int:
    """The multiple of `by` nearest to `channels`, never more than a tenth below it: the rule of the MobileNet
    papers.
    """
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


class ConvNormActivation(nn.Sequential):
    """Convolution, batch norm, ReLU6."""

    def __init__(self, incoming: int, outgoing: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(incoming, outgoing, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outgoing),
            nn.ReLU6(inplace=True),
        )


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project: with a shortcut where neither size nor channels change."""

    def __init__(self, incoming: int, outgoing: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = incoming * expansion
        layers: list[nn.Module] = [ConvNormActivation(incoming, hidden, kernel=1)] if expansion != 1 else []
        layers += [
            ConvNormActivation(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outgoing, 1, bias=False),
            nn.BatchNorm2d(outgoing),
        ]
        self.conv = nn.Sequential(*layers)
        self.shortcut = stride == 1 and incoming == outgoing

    def forward(self, x: Tensor) -> Tensor:
        """(N, incoming, H, W) -> (N, outgoing, H / stride, W / stride)."""
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2: (N, 3, H, W) -> (N, num_classes); native size 224, stride 32."""

    def __init__(self, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        incoming = divisible(32 * width)
        last = divisible(1280 * max(1.0, width))
        layers: list[nn.Module] = [ConvNormActivation(3, incoming, stride=2)]
        for expansion, channels, blocks, stride in PLAN:
            outgoing = divisible(channels * width)
            for number in range(blocks):
                layers.append(InvertedResidual(incoming, outgoing, stride if number == 0 else 1, expansion))
                incoming = outgoing
        layers.append(ConvNormActivation(incoming, last, kernel=1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, 0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of one crop."""
        x = self.features(x).mean((2, 3))
        scores: Tensor = self.classifier(x)
        return scores
