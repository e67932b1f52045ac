"""The family of residual networks for CIFAR, with 6n + 2 layers.

Source: He, Zhang, Ren, Sun, 2016, "Deep Residual Learning for Image Recognition", section 4.2.
The layers have the names of the widely used public checkpoints, so these load without changes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

_STAGE_WIDTHS = (16, 32, 64)  # channels per stage, He et al. 2016, section 4.2
_CONVOLUTIONS_PER_BLOCK = 2
_FIRST_AND_LAST = 2  # the stem convolution and the classifier count as layers


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with an option-A shortcut, which subsamples and pads channels with 0."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.reduces = stride != 1 or in_channels != channels
        self.added_channels = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = out + self._shortcut(x)
        return F.relu(out)

    def _shortcut(self, x: Tensor) -> Tensor:
        if not self.reduces:
            return x
        before = self.added_channels // 2
        after = self.added_channels - before
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, after), "constant", 0.0)


class CifarResNet(nn.Module):
    """A residual network for 32x32 images.

    Args:
        depth: number of weight layers, 6n + 2: 20, 32, 44, 56, 110.
        num_classes: size of the output.
        in_channels: channels of the input image.

    Raises:
        ValueError: `depth` is not 6n + 2 with n >= 1.
    """

    def __init__(self, depth: int = 20, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        blocks, rest = divmod(depth - _FIRST_AND_LAST, _CONVOLUTIONS_PER_BLOCK * len(_STAGE_WIDTHS))
        if rest or blocks < 1:
            raise ValueError(f"CifarResNet: needed a depth of 6n + 2 (20, 32, ...), got {depth}.")
        width = _STAGE_WIDTHS[0]
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, _STAGE_WIDTHS[0], blocks, stride=1)
        self.layer2 = _stage(_STAGE_WIDTHS[0], _STAGE_WIDTHS[1], blocks, stride=2)
        self.layer3 = _stage(_STAGE_WIDTHS[1], _STAGE_WIDTHS[2], blocks, stride=2)
        self.linear = nn.Linear(_STAGE_WIDTHS[2], num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_channels, 32, 32) to logits (B, num_classes)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        out = out.view(out.size(0), -1)
        logits: Tensor = self.linear(out)
        return logits


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def resnet20(num_classes: int = 10) -> CifarResNet:
    """The network with 20 layers and 0.27 M parameters. Its published accuracy is 91.7 %.

    Args:
        num_classes: size of the output.

    Returns:
        The untrained network in training mode.
    """
    return CifarResNet(20, num_classes)


__all__ = ["BasicBlock", "CifarResNet", "resnet20"]
