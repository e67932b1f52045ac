"""The networks of the benchmarks, in a form that all contestants can convert.

SpikingJelly and BrainCog need one nn.ReLU module per call. transpike and the analog network use the
ResNet-20 of `transpike.zoo.models`, as users have it. Random weights are made from a seed. Their
BatchNorm statistics are those of random images, so that a normal share of the neurons is active.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transpike.zoo.models import load_state_dict, resnet20

SETTLING_IMAGES = 8


class Block(nn.Module):
    """A basic residual block of one module per operation.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: of the first convolution.
        shortcut: makes the shortcut of a block that changes stride or channels, from these three.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, shortcut: Callable[..., nn.Module]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


def _subsample_and_pad(in_channels: int, channels: int, stride: int) -> nn.Conv2d:
    """Option A of He et al. 2016 as a fixed convolution: every second pixel, new channels 0."""
    shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
    before = (channels - in_channels) // 2
    with torch.no_grad():
        shortcut.weight.zero_()
        for channel in range(in_channels):
            shortcut.weight[before + channel, channel] = 1
    return shortcut


class ModuleResNet20(nn.Module):
    """ResNet-20 for CIFAR-10 of modules only, which loads the weights of `resnet20`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, 1)
        self.layer2 = _stage(16, 32, 2)
        self.layer3 = _stage(32, 64, 2)
        self.pool = nn.AvgPool2d(8)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.flatten(self.pool(x)))


def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    sizes = ((in_channels, stride), (channels, 1), (channels, 1))
    return nn.Sequential(*(Block(n, channels, step, _subsample_and_pad) for n, step in sizes))


def resnet20_of_modules(weights: str) -> nn.Module:
    """The module form of ResNet-20 with weights of the usual form."""
    model = ModuleResNet20()
    missing, unexpected = model.load_state_dict(load_state_dict(weights), strict=False)
    if unexpected or any("shortcut" not in name for name in missing):
        raise ValueError(f"{weights}: unexpected {unexpected}, missing {missing}.")
    return model.eval()


def _projection(in_channels: int, channels: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
    )


def resnet18() -> nn.Module:
    """ResNet-18 for 32x32 images: a 3x3 stem without pooling, 11.2 M parameters."""
    widths, blocks = (64, 64, 128, 256, 512), []
    for before, width in itertools.pairwise(widths):
        stride = 1 if before == width else 2
        blocks += [Block(n, width, s, _projection) for n, s in ((before, stride), (width, 1))]
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 1, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        *blocks,
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def vgg16_bn() -> nn.Module:
    """VGG-16 with BatchNorm for 32x32 images: one linear layer, 14.7 M parameters."""
    layers: list[nn.Module] = []
    before = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [
                nn.Conv2d(before, width, 3, 1, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


class UNet(nn.Module):
    """U-Net with 1 input and 1 output channel, 31 M parameters at width 64."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(
            _double(before, after) for before, after in zip([1, *widths[:-1]], widths, strict=True)
        )
        self.pools = nn.ModuleList(nn.MaxPool2d(2) for _ in widths[1:])
        self.ups = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in reversed(widths[:-1]))
        self.up = nn.ModuleList(_double(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for double, pool in zip(self.down[:-1], self.pools, strict=True):
            x = double(x)
            skips.append(x)
            x = pool(x)
        x = self.down[-1](x)
        for widen, double, skip in zip(self.ups, self.up, reversed(skips), strict=True):
            x = double(torch.cat([skip, widen(x)], 1))
        return self.head(x)


def _double(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, 1, 1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, 1, 1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


@dataclass(frozen=True)
class Entry:
    """A network of the benchmark.

    Attributes:
        shape: shape of one image, (C, H, W).
        trained: whether the weights are trained. Then accuracy is measured too.
        build: makes the module form from a path of weights.
        plain: makes the form that users have, which computes the same. None if it is the module
            form.
    """

    shape: tuple[int, ...]
    trained: bool
    build: Callable[[str], nn.Module]
    plain: Callable[[str], nn.Module] | None = None


def _random(factory: Callable[[], nn.Module], shape: tuple[int, ...]) -> Callable[[str], nn.Module]:
    def build(_: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = factory()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = None  # statistics are the plain mean over all batches
            model.train()
            images = SETTLING_IMAGES if shape[-1] <= 32 else 2
            with torch.no_grad():
                model(torch.randn(images, *shape))
        return model.eval()

    return build


def _plain_resnet20(weights: str) -> nn.Module:
    model = resnet20()
    model.load_state_dict(load_state_dict(weights))
    return model.eval()


CIFAR, TILE = (3, 32, 32), (1, 256, 256)
NETWORKS = {
    "resnet20": Entry(CIFAR, True, resnet20_of_modules, _plain_resnet20),
    "resnet18": Entry(CIFAR, False, _random(resnet18, CIFAR)),
    "vgg16_bn": Entry(CIFAR, False, _random(vgg16_bn, CIFAR)),
    "unet16": Entry(TILE, False, _random(lambda: UNet(16), TILE)),
}
