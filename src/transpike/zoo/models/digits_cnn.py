"""The small network of the demo for digits of 8 x 8 pixels. It trains in seconds on a CPU."""

from __future__ import annotations

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an identity shortcut, with one ReLU module used twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        # Shared on purpose, as in the blocks of torchvision: two calls are two populations.
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to the same shape."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        activation: Tensor = self.relu(out)
        return activation


class DigitsCNN(nn.Module):
    """Convolution, max-pooling, a residual block and a classifier.

    Args:
        num_classes: size of the output.
        width: channels of the first convolution; the residual block has twice as many.
    """

    def __init__(self, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.pool = nn.MaxPool2d(2)
        self.block = ResidualBlock(2 * width)
        self.average = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Linear(2 * width * 4, num_classes)  # 4: the 2x2 average-pooled cells

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 1, 8, 8) to logits (B, num_classes)."""
        out = self.average(self.block(self.pool(self.stem(x))))
        logits: Tensor = self.classifier(out.flatten(1))
        return logits


def digits_cnn(num_classes: int = 10) -> DigitsCNN:
    """The network of the demo, which has 24 k parameters.

    Args:
        num_classes: size of the output.

    Returns:
        The untrained network in training mode.
    """
    return DigitsCNN(num_classes)


__all__ = ["DigitsCNN", "ResidualBlock", "digits_cnn"]
