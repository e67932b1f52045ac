"""SpikingJelly's converted networks as contestants. They run in the peers' environment."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import ann2snn, functional, neuron
from torch import Tensor, nn

from benchmarks.peers.contestants import Curve, curve_of_steps

CALIBRATION_BATCH = 64
LTB_BATCH, LTB_PASSES = 8, 8  # because its thresholds need many updates
VARIANTS = {
    "max": {"mode": "Max"},
    "p99.9": {"mode": "99.9%"},
    "channel-half": {"mode": "99.9%", "channel_wise": True, "half_threshold": True},
    "channel-half-pool": {
        "mode": "99.9%",
        "channel_wise": True,
        "half_threshold": True,
        "pre_spike_maxpool": True,
    },
    "ltb": None,  # local threshold balancing
}


class SpikingJelly:
    """A network converted by `ann2snn`, in single- or multi-step mode.

    Args:
        model: the module form, which the converter leaves unchanged.
        images: calibration images (N, C, H, W).
        variant: a key of VARIANTS.
        multi_step: whether all timesteps are one call. Otherwise each timestep is a call.
        device: where the network runs.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, variant: str, multi_step: bool, device: str
    ) -> None:
        options = VARIANTS[variant]
        if options is None:
            batches = [b for _ in range(LTB_PASSES) for b in images.split(LTB_BATCH)]
            recipe = ann2snn.LocalThresholdBalancingRecipe(_pairs(batches))
        else:
            recipe = ann2snn.RateCodingRecipe(_pairs(images.split(CALIBRATION_BATCH)), **options)
        self.net = ann2snn.Converter(recipe, device=device).convert(model).eval()
        self.variant, self.multi_step = variant, multi_step
        functional.set_step_mode(self.net, "m" if multi_step else "s")
        self.neurons = [m for m in self.net.modules() if isinstance(m, neuron.BaseNode)]
        if not self.neurons:
            raise RuntimeError("SpikingJelly: the converted network has no spiking neuron.")

    def run(self, x: Tensor, timesteps: int) -> Tensor:
        functional.reset_net(self.net)
        with torch.inference_mode():
            if self.multi_step:
                sequence = x.expand(timesteps, *x.shape)
                return self.net(sequence).sum(dim=0) / timesteps
            total = self.net(x)
            for _ in range(timesteps - 1):
                total = total + self.net(x)
            return total / timesteps

    def curve(self, x: Tensor, at: list[int]) -> Curve:
        """Always in single-step mode, where spikes can be counted after each timestep."""
        functional.set_step_mode(self.net, "s")
        functional.reset_net(self.net)
        with torch.inference_mode():
            curve = curve_of_steps(self.net, x, at, self.neurons, lambda _, output: output)
        functional.set_step_mode(self.net, "m" if self.multi_step else "s")
        return curve

    def settings(self) -> dict[str, Any]:
        return {
            "recipe": "LocalThresholdBalancingRecipe" if self.variant == "ltb" else self.variant,
            "options": VARIANTS[self.variant],
            "step_mode": "multi" if self.multi_step else "single",
            "neurons": f"{len(self.neurons)} layers of {type(self.neurons[0]).__name__}",
        }


def _pairs(batches: Any) -> list[tuple[Tensor, Tensor]]:
    return [(batch, torch.zeros(len(batch), dtype=torch.long)) for batch in batches]
