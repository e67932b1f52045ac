"""The networks of the study on CIFAR-10: ResNets, a ResNet without additions, and a VGG.

The blocks of the ResNets are those of torchvision. All networks take a width, the number of
channels in the first stage, because torchvision and timm fix the width of the stem at 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from transpike.errors import ArgumentError, missing_package
from transpike.zoo.models.resnet_cifar import CifarResNet

WIDTH = 64  # channels of the first stage in the published networks
STEMS = ("3x3", "7x7")
_LAST_POOL = 4  # pixels; 32 -> 4 after the three strides of the network with a 3x3 stem
# Blocks per stage. "resnet101-basic" is what the study calls ResNet101.
_BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "plainnet18": (2, 2, 2, 2),
    "resnet50": (3, 4, 6, 3),
    "resnet101-basic": (3, 4, 23, 3),
    "resnet101": (3, 4, 23, 3),
}
_STEM_OF = {"resnet18": "3x3", "plainnet18": "3x3"}  # all others have the 7x7 stem
# One width, many depths. Source: He et al. 2016, section 4.2
_DEPTHS = {f"resnet{depth}": depth for depth in (20, 32, 44, 56, 110)}
_WIDTH_OF_DEPTHS = 16
# Convolutions of the VGG by stage: how many, and their channels as a multiple of the width.
_VGG_STAGES = ((2, 1), (2, 2), (4, 4), (4, 8), (3, 8))


class PlainBlock(nn.Module):
    """Two conv-BatchNorm-ReLU: a basic block of a ResNet without its addition."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, channels, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        activation: Tensor = self.relu(self.bn2(self.conv2(out)))
        return activation


class Backbone(nn.Module):
    """A stem, four stages of residual or plain blocks, average pooling and a classifier.

    Args:
        kind: name of the network in the study, for example `resnet18`.
        width: channels of the first stage; each later stage has twice as many.
        num_classes: size of the output.
        stem: `3x3`, one convolution for images of 32 x 32 pixels, or `7x7`, a convolution with
            stride 2 and max-pooling 3x3 with stride 2, as for ImageNet.

    Raises:
        ArgumentError: torchvision is not installed.
    """

    def __init__(self, kind: str, width: int, num_classes: int, stem: str) -> None:
        super().__init__()
        kernel, stride = (3, 1) if stem == "3x3" else (7, 2)
        self.conv1 = nn.Conv2d(3, width, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if stem == "3x3" else nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        stages = []
        for index, blocks in enumerate(_BLOCKS[kind]):
            stage, channels = _stage(kind, channels, width << index, blocks, 2 if index else 1)
            stages.append(stage)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = (
            nn.AvgPool2d(_LAST_POOL, stride=2) if stem == "3x3" else nn.AdaptiveAvgPool2d(1)
        )
        self.fc = nn.Linear(channels, num_classes)
        _start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, 32, 32) to logits (B, num_classes)."""
        out = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits: Tensor = self.fc(self.avgpool(out).flatten(1))
        return logits


class VGG18(nn.Module):
    """Fifteen conv-BatchNorm-ReLU in five stages, each with max-pooling 2x2, and a classifier.

    Args:
        width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.
        num_classes: size of the output.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for count, multiple in _VGG_STAGES:
            for _ in range(count):
                layers += [
                    nn.Conv2d(channels, multiple * width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(multiple * width),
                    nn.ReLU(inplace=True),
                ]
                channels = multiple * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes)
        _start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, 32, 32) to logits (B, num_classes)."""
        logits: Tensor = self.fc(self.features(x).flatten(1))
        return logits


def is_backbone(name: str) -> bool:
    """Whether a name such as `resnet18:16`, `resnet18-7x7:16` or `resnet56` is one of these."""
    if name in _DEPTHS:
        return True
    kind, _ = _kind_and_stem(name.partition(":")[0])
    return kind in _BLOCKS or name.partition(":")[0] == "vgg18"


def backbone(name: str, num_classes: int = 10) -> nn.Module:
    """A network of the study.

    Args:
        name: `NAME` or `NAME:WIDTH`, where NAME is `resnet18`, `plainnet18`, `resnet50`,
            `resnet101-basic`, `resnet101` or `vgg18`. All but the last one also take a stem, as in
            `resnet18-7x7` or `resnet50-3x3`. The default width is 64. `resnet20`, `resnet32`,
            `resnet44`, `resnet56` and `resnet110` take neither.
        num_classes: size of the output.

    Returns:
        The untrained network in training mode.

    Raises:
        ArgumentError: the name is unknown, the width is no number above 0, or torchvision is not
            installed.
    """
    first = name.partition(":")[0]
    if not is_backbone(name):
        known = ", ".join([*_BLOCKS, *_DEPTHS])
        raise ArgumentError(f"unknown network {name!r}: needed {known} or vgg18.")
    if name in _DEPTHS:
        return CifarResNet(_DEPTHS[name], num_classes)
    width = width_of(name)
    if first == "vgg18":
        return VGG18(width, num_classes)
    kind, stem = _kind_and_stem(first)
    return Backbone(kind, width, num_classes, stem or _STEM_OF.get(kind, "7x7"))


def width_of(name: str) -> int:
    """The channels of the first stage in a name such as `resnet18:16`.

    Raises:
        ArgumentError: the width is no number above 0.
    """
    if name in _DEPTHS:
        return _WIDTH_OF_DEPTHS
    first, colon, width = name.partition(":")
    if colon and not (width.isdecimal() and int(width) >= 1):
        raise ArgumentError(f"model {name!r}: needed a width in channels, as {first}:16.")
    return int(width) if colon else WIDTH


def _kind_and_stem(first: str) -> tuple[str, str]:
    """The kind of a network, and its stem where the name has one."""
    for stem in STEMS:
        if first.endswith(f"-{stem}"):
            return first.removesuffix(f"-{stem}"), stem
    return first, ""


def _stage(
    kind: str, in_channels: int, channels: int, blocks: int, stride: int
) -> tuple[nn.Sequential, int]:
    """The blocks of one stage, and the number of channels behind it."""
    if kind == "plainnet18":
        plain = [PlainBlock(in_channels, channels, stride)]
        plain += [PlainBlock(channels, channels, 1) for _ in range(blocks - 1)]
        return nn.Sequential(*plain), channels
    block = _residual_block(kind)
    out_channels: int = channels * block.expansion
    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
    stages: Sequence[nn.Module] = [
        block(in_channels, channels, stride, shortcut),
        *(block(out_channels, channels) for _ in range(blocks - 1)),
    ]
    return nn.Sequential(*stages), out_channels


def _residual_block(kind: str) -> Any:
    """The block of torchvision. It calls one ReLU module twice or three times."""
    try:
        from torchvision.models.resnet import BasicBlock, Bottleneck
    except ImportError as error:
        raise missing_package("torchvision") from error
    return Bottleneck if kind in ("resnet50", "resnet101") else BasicBlock


def _start(network: nn.Module) -> None:
    """Draw the weights of the convolutions as He et al., 2015, do."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


__all__ = ["VGG18", "Backbone", "PlainBlock", "backbone", "is_backbone", "width_of"]
