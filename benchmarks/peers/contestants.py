"""The simulators that the benchmarks compare: the interface, the analog network and transpike.

`run` is what is timed: T timesteps of one batch of static images, with the mean readout only at T.
`curve` gives the readouts and spikes at several T of one simulation, for accuracies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import transpike as tp
from transpike.conversion.specs import parse_neuron


@dataclass(frozen=True)
class Curve:
    """Readouts and spikes of one batch.

    Attributes:
        outputs: the mean readout over the timesteps 1..t, (B, ...), by t.
        spikes: the spikes of each image up to t over all neurons, (B,), by t. A count of n is n
            spikes. Empty for the analog network.
    """

    outputs: dict[int, Tensor]
    spikes: dict[int, Tensor] = field(default_factory=dict)


def curve_of_steps(
    step: Callable[[Tensor], Tensor],
    x: Tensor,
    at: list[int],
    sites: list[nn.Module],
    counts: Callable[[nn.Module, Tensor], Tensor],
) -> Curve:
    """Call a network once per timestep and count the spikes of its neurons.

    Args:
        step: the network; each call is the next timestep.
        x: images (B, C, H, W), the same at every timestep.
        at: timesteps at which to read.
        sites: the modules whose outputs are spikes.
        counts: the spike counts of a site, from its output.
    """
    spikes = torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def count(site: nn.Module, _: Any, output: Tensor) -> None:
        spikes.add_(counts(site, output).flatten(1).sum(dim=1, dtype=torch.float64))

    hooks = [site.register_forward_hook(count) for site in sites]
    curve, total = Curve({}), torch.zeros((), device=x.device)
    for t in range(1, max(at) + 1):
        total = total + step(x)
        if t in at:
            curve.outputs[t], curve.spikes[t] = total / t, spikes.clone()
    for hook in hooks:
        hook.remove()
    return curve


class Contestant(Protocol):
    """One way to simulate one converted network."""

    def run(self, x: Tensor, timesteps: int) -> Tensor:
        """The mean readout over the timesteps 1..T, (B, ...)."""

    def curve(self, x: Tensor, at: list[int]) -> Curve:
        """The readouts and spikes at each t of `at`."""

    def settings(self) -> dict[str, Any]:
        """How the network was made, as values for JSON."""


class Analog:
    """The user's model unchanged: evaluation mode, NCHW, BatchNorm not folded, float32."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def run(self, x: Tensor, timesteps: int) -> Tensor:
        del timesteps
        with torch.inference_mode():
            return self.model(x)

    def curve(self, x: Tensor, at: list[int]) -> Curve:
        output = self.run(x, 1)
        return Curve(dict.fromkeys(at, output))

    def settings(self) -> dict[str, Any]:
        return {"form": "eval(), NCHW, BatchNorm unfused, torch.inference_mode, float32"}


class Transpike:
    """transpike: `simulate` in one precision, or `simulate_reference`."""

    def __init__(
        self, model: nn.Module, batches: list[Tensor], neuron: str, precision: str, device: str
    ) -> None:
        snn = tp.convert(model, batches, neuron=parse_neuron(neuron))
        self.snn = snn.to(device)
        self.precision = precision

    def _simulate(self, x: Tensor, timesteps: int, at: list[int]) -> tp.Simulation:
        if self.precision == "reference":
            return tp.simulate_reference(self.snn, x, timesteps, record=tp.Record(output_at=at))
        record = tp.Record(output_at=at)
        return tp.simulate(self.snn, x, timesteps, record=record, precision=self.precision)

    def run(self, x: Tensor, timesteps: int) -> Tensor:
        return self._simulate(x, timesteps, [timesteps]).output[0]

    def curve(self, x: Tensor, at: list[int]) -> Curve:
        run = self._simulate(x, max(at), at)
        counts = torch.stack([c.double() for c in run.counts_per_timestep.values()])
        spikes = counts.sum(dim=0).cumsum(dim=0)  # (T, B)
        outputs = dict(zip(run.output_at, run.output, strict=True))
        return Curve(outputs, {t: spikes[t - 1] for t in at})

    def settings(self) -> dict[str, Any]:
        return {"precision": self.precision, **self.snn.settings}
