"""SNN calibration (Li et al. 2021) as a contestant, by the code of its authors.

The code is not a package. SNN_CALIBRATION names a checkout of github.com/yhhhli/SNN_Calibration
(MIT). It needs only torch and runs in our own environment.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.contestants import Curve, curve_of_steps
from benchmarks.peers.networks import Block

BATCH, ITERATIONS, MOMENTUM = 128, 5, 0.9  # as in its main_cal_cifar.py


class SnnCalibration:
    """A ResNet that is calibrated for one T, with layer-wise thresholds of least squared error.

    Args:
        model: the module form, which is changed.
        images: calibration images (N, C, H, W).
        variant: "light" (corrects biases) or "advanced" (membranes) followed by T, as in "light32".
        device: where the network runs.
    """

    def __init__(self, model: nn.Module, images: Tensor, variant: str, device: str) -> None:
        sys.path.insert(0, os.environ["SNN_CALIBRATION"])
        from models.calibration import bias_corr_model
        from models.CIFAR.models import resnet
        from models.fold_bn import search_fold_and_remove_bn
        from models.spiking_layer import SpikeModel, SpikeModule, get_maximum_activation

        self.level = variant.rstrip("0123456789")
        self.timesteps = int(variant.removeprefix(self.level))
        if self.level not in ("light", "advanced"):
            raise ValueError(f"variant: needed light or advanced with T, got {variant!r}.")
        search_fold_and_remove_bn(model)
        resnet.BN, resnet.ReLU = nn.BatchNorm2d, nn.ReLU
        for stage in (model.layer1, model.layer2, model.layer3):
            for index, block in enumerate(stage):
                stage[index] = _theirs(block, resnet.BasicBlock)
        self.net = SpikeModel(model.to(device).eval(), self.timesteps, resnet.res_specials)
        pairs = [(batch, torch.zeros(len(batch))) for batch in images.split(BATCH)]
        get_maximum_activation(
            pairs, self.net, MOMENTUM, ITERATIONS, self.timesteps, mse=True, channel_wise=False
        )
        with torch.no_grad():
            bias_corr_model(self.net, pairs, correct_mempot=self.level == "advanced")
        self.net.set_spike_state(True)
        self.sites = [m for m in self.net.modules() if isinstance(m, SpikeModule)]

    def run(self, x: Tensor, timesteps: int) -> Tensor:
        return self.curve(x, [timesteps]).outputs[timesteps]

    def curve(self, x: Tensor, at: list[int]) -> Curve:
        """One call per timestep. The network is meant to be read at its own T."""
        with torch.no_grad():
            self.net.init_membrane_potential()
            return curve_of_steps(
                self.net.model, x, at, self.sites, lambda site, output: output / site.threshold
            )

    def settings(self) -> dict[str, Any]:
        return {
            "calibration": self.level,
            "for_timesteps": self.timesteps,
            "thresholds": "least squared error per layer",
            "neurons": f"{len(self.sites)} layers",
        }


def _theirs(block: Block, kind: type[nn.Module]) -> nn.Module:
    """The same block as a module of their own, which their converter recognizes."""
    shortcut = None if isinstance(block.shortcut, nn.Identity) else block.shortcut
    first, second = block.conv1, block.conv2
    made = kind(first.in_channels, second.out_channels, first.stride[0], shortcut)
    made.conv1, made.conv2, made.bn1, made.bn2 = first, second, nn.Identity(), nn.Identity()
    return made
