"""The U-Net of the mitochondria experiment, with logits or probabilities as output.

Source: Ronneberger, Fischer, Brox, 2015, "U-Net: Convolutional Networks for Biomedical Image
Segmentation". It differs in the same points as the network of the original mitochondria study:
padded convolutions, BatchNorm, one input channel and one output channel. The layers have the names
of that network, so its state dict loads without changes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from transpike.errors import ArgumentError

WIDTH = 64  # channels of the first stage in the study, 31 M parameters
POOLINGS = 4
DIVISOR = 2**POOLINGS  # height and width must be multiples of it


class DoubleConv(nn.Module):
    """Two blocks of 3x3 convolution, BatchNorm and ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (in_channels, channels):
            convolution = nn.Conv2d(inputs, channels, 3, padding=1)
            layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H, W)."""
        out: Tensor = self.conv(x)
        return out


class UNet(nn.Module):
    """Five stages down and four stages up; a stage up also sees the stage down of its size.

    Args:
        width: channels of the first stage; every further stage down has twice as many.
        sigmoid: give probabilities instead of logits, as the network of the study does.
        in_channels: channels of the image.
        num_classes: channels of the output.

    Raises:
        ArgumentError: a number is below 1.
    """

    def __init__(
        self, width: int = WIDTH, sigmoid: bool = False, in_channels: int = 1, num_classes: int = 1
    ) -> None:
        super().__init__()
        if min(width, in_channels, num_classes) < 1:
            raise ArgumentError(
                f"UNet: needed width, in_channels and num_classes >= 1, got {width}, "
                f"{in_channels}, {num_classes}."
            )
        self.sigmoid = sigmoid
        first, second, third, fourth, fifth = (width * 2**stage for stage in range(POOLINGS + 1))
        self.pool = nn.MaxPool2d(2)
        self.conv1 = DoubleConv(in_channels, first)
        self.conv2 = DoubleConv(first, second)
        self.conv3 = DoubleConv(second, third)
        self.conv4 = DoubleConv(third, fourth)
        self.conv5 = DoubleConv(fourth, fifth)
        self.up6 = nn.ConvTranspose2d(fifth, fourth, 2, stride=2)
        self.conv6 = DoubleConv(2 * fourth, fourth)
        self.up7 = nn.ConvTranspose2d(fourth, third, 2, stride=2)
        self.conv7 = DoubleConv(2 * third, third)
        self.up8 = nn.ConvTranspose2d(third, second, 2, stride=2)
        self.conv8 = DoubleConv(2 * second, second)
        self.up9 = nn.ConvTranspose2d(second, first, 2, stride=2)
        self.conv9 = DoubleConv(2 * first, first)
        self.conv10 = nn.Conv2d(first, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to logits (B, num_classes, H, W).

        With `sigmoid` the output holds probabilities. H and W are multiples of 16.
        """
        down1 = self.conv1(x)
        down2 = self.conv2(self.pool(down1))
        down3 = self.conv3(self.pool(down2))
        down4 = self.conv4(self.pool(down3))
        out = self.conv5(self.pool(down4))
        # The upsampled half comes first, because the weights of the study expect this order.
        out = self.conv6(torch.cat([self.up6(out), down4], dim=1))
        out = self.conv7(torch.cat([self.up7(out), down3], dim=1))
        out = self.conv8(torch.cat([self.up8(out), down2], dim=1))
        out = self.conv9(torch.cat([self.up9(out), down1], dim=1))
        logits: Tensor = self.conv10(out)
        return torch.sigmoid(logits) if self.sigmoid else logits


def unet(num_classes: int = 1, width: int = WIDTH) -> UNet:
    """The network with logits as output.

    Args:
        num_classes: channels of the output.
        width: channels of the first stage.

    Returns:
        The untrained network in training mode.
    """
    return UNet(width, num_classes=num_classes)


def unet_sigmoid(num_classes: int = 1, width: int = WIDTH) -> UNet:
    """The same network with probabilities as output, as in the original study."""
    return UNet(width, sigmoid=True, num_classes=num_classes)


def unet_width(state: Mapping[str, Tensor]) -> int:
    """Width of the network that a state dict belongs to.

    Args:
        state: weights by name.

    Raises:
        ArgumentError: the state dict does not belong to a U-Net.
    """
    name = "conv1.conv.0.weight"
    if name not in state or state[name].dim() != 4:
        raise ArgumentError(f"these are not the weights of a U-Net: needed a layer {name!r}.")
    return len(state[name])


__all__ = ["DIVISOR", "WIDTH", "DoubleConv", "UNet", "unet", "unet_sigmoid", "unet_width"]
