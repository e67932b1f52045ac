"""BrainCog's converted networks as contestants. They run in the peers' environment."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.contestants import Curve

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing it overwrites entries of timm's registry
    from braincog.base.conversion import Convertor
    from braincog.base.conversion.convertor import SNode

CALIBRATION_BATCH = 128
# gamma is the largest count per timestep, and also the value at which calibration clips.
VARIANTS: dict[str, dict[str, Any]] = {
    "gamma5": {"gamma": 5},
    "gamma5-p99": {"gamma": 5, "p": 0.99},
    "gamma2": {"gamma": 2},
}


class BrainCog:
    """A network converted by `Convertor`, one call per timestep.

    Args:
        model: the module form. A copy is converted, because the converter changes it in place.
        images: calibration images (N, C, H, W).
        variant: a key of VARIANTS.
        device: where the network runs.
    """

    def __init__(self, model: nn.Module, images: Tensor, variant: str, device: str) -> None:
        batches = [(b.contiguous(), torch.zeros(len(b))) for b in images.split(CALIBRATION_BATCH)]
        self.variant = variant
        convertor = Convertor(batches, device=device, batch_num=len(batches), **VARIANTS[variant])
        with torch.no_grad():
            self.net = convertor(copy.deepcopy(model).to(device)).eval()
        self.neurons = [m for m in self.net.modules() if isinstance(m, SNode)]
        if not self.neurons:
            raise RuntimeError("BrainCog: the converted network has no spiking neuron.")

    def run(self, x: Tensor, timesteps: int) -> Tensor:
        self.net.reset()
        with torch.inference_mode():
            total = self.net(x)
            for _ in range(timesteps - 1):
                total = total + self.net(x)
        return total / timesteps

    def curve(self, x: Tensor, at: list[int]) -> Curve:
        self.net.reset()
        curve, total = Curve({}), 0.0
        spikes = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        with torch.inference_mode():
            for t in range(1, max(at) + 1):
                total = total + self.net(x)
                for node in self.neurons:
                    spikes += node.spike.flatten(1).sum(dim=1, dtype=torch.float64)
                if t in at:
                    curve.outputs[t], curve.spikes[t] = total / t, spikes.clone()
        return curve

    def settings(self) -> dict[str, Any]:
        return {"options": VARIANTS[self.variant], "neurons": f"{len(self.neurons)} layers"}
