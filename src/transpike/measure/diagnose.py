"""Where a spiking network departs from the analog one, why, and what to try.

How the error of a site is split into parts is in `transpike.measure.site_errors`. The limits from
which on an error is a finding are in `transpike.measure.findings`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from transpike.errors import ArgumentError, DataError
from transpike.graph.ambient import isolated
from transpike.graph.batches import Batches
from transpike.graph.capture import capture
from transpike.graph.network import Network, Site, check_timesteps
from transpike.graph.outputs import cut_of, prediction
from transpike.graph.structure import flat_values
from transpike.measure.findings import (
    Finding,
    OutputDiagnosis,
    SiteDiagnosis,
    advice,
    findings,
    verdict,
)
from transpike.measure.site_errors import Moments, SiteTally
from transpike.measure.sums import ordered_sum
from transpike.simulation.record import Record
from transpike.simulation.result import Simulation
from transpike.simulation.simulate import simulate
from transpike.spiking.neuron import quantized
from transpike.spiking.spiking_network import (
    SpikingNetwork,
    site_bounds,
    site_lowers,
    site_offsets,
    site_starts,
)

_CHECKED_SAMPLES = 2  # few, because checking charges needs the membranes at every timestep
_RECORD_BYTES = 256 * 2**20  # memory for the membranes at every timestep

Simulator = Callable[..., Simulation]


@dataclass(frozen=True)
class Diagnosis:
    """Where, by how much and why a spiking network departs from the analog one.

    Attributes:
        n: number of samples.
        timesteps: T.
        max_count: K, largest over all sites.
        coding: "rate" or "differential".
        against: what it was compared with: "the folded network" or "the model".
        sites: errors of every site, in execution order.
        output: errors of the output.
        findings: what is wrong at single sites, the first site first; empty if none stands out.
        advice: what the remaining error is made of, and what makes it smaller.
        settings: how the network was made.
    """

    n: int
    timesteps: int
    max_count: int
    coding: str
    against: str
    sites: tuple[SiteDiagnosis, ...]
    output: OutputDiagnosis
    findings: tuple[Finding, ...]
    advice: str
    settings: dict[str, Any]

    @property
    def healthy(self) -> bool:
        """Whether the output is close to the ANN's and no site stands out."""
        return self.output.close and not self.findings

    @property
    def verdict(self) -> tuple[str, ...]:
        """Full sentences: how close the output is, and whether no single site stands out."""
        return verdict(self.output.agreement, self.output.relative_error, bool(self.findings))

    @property
    def first(self) -> Finding | None:
        """The finding at the first site that has one."""
        return self.findings[0] if self.findings else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "healthy": self.healthy, "verdict": list(self.verdict)}

    def __str__(self) -> str:
        """A table of the sites, the findings and what to try."""
        width = max(len("output"), *(len(site.name) for site in self.sites))
        lines = [
            f"n={self.n}, T={self.timesteps}, K={self.max_count}, {self.coding} coding, against "
            f"{self.against}; errors are rms over the rms of the analog activation",
            "",
            f"{'site':<{width}} {'corr.':>6} {'error':>6} {'weights':>8} {'before':>7} "
            f"{'offset':>7} {'clip':>6} {'quant.':>7} {'uneven':>7} {'range':>6} {'dead':>5} "
            f"{'satur.':>6}  channels",
        ]
        for s in self.sites:
            rms = {name: part.rms for name, part in s.parts.items()}
            lines.append(
                f"{s.name:<{width}} {s.correlation:>6.3f} {s.relative_error:>6.3f} "
                f"{rms['weights']:>8.3f} {rms['propagated']:>7.3f} {rms['offset']:>7.3f} "
                f"{rms['clipping']:>6.3f} {rms['quantization']:>7.3f} {rms['unevenness']:>7.3f} "
                f"{s.range_over_maximum:>6.2f} {s.dead_channels:>5} {s.saturated_channels:>6}  "
                f"{s.channels}"
            )
        out = self.output
        agreement = "" if out.agreement is None else f"  {100 * out.agreement:.1f} % agree"
        lines.append(
            f"{'output':<{width}} {out.correlation:>6.3f} {out.relative_error:>6.3f} "
            f"{out.parts['weights'].rms:>8.3f} {out.parts['propagated'].rms:>7.3f}{agreement}"
        )
        lines += [
            "before: errors from the sites before; range: K d over the largest analog activation",
            "",
        ]
        lines += self.verdict
        for number, found in enumerate(self.findings):
            head = "first wrong at" if number == 0 else "also at"
            lines.append(f"{head} '{found.site}', {found.cause}: {found.evidence}")
            lines.append(f"  try: {found.remedy}")
        return "\n".join([*lines, self.advice])


@isolated()
def diagnose(
    snn: SpikingNetwork,
    batches: Iterable[Any],
    timesteps: int,
    *,
    model: nn.Module | Network | None = None,
    simulator: Simulator = simulate,
    progress: Callable[[int, int | None], None] | None = None,
) -> Diagnosis:
    """Compare a spiking network with the analog one, site by site, and name what is wrong.

    Args:
        snn: the converted network.
        batches: tensors (B, ...) or (tensor, label) pairs. A few hundred samples are enough.
            Prepare them as the network will get them.
        timesteps: T >= 1.
        model: the model that the network was made from. Without it the comparison is with the
            converted network's own folded weights, which cannot show a damaged weight.
        simulator: the function that runs the network, with the arguments of `simulate`, such as
            `record`. Give another one to diagnose another engine.
        progress: called with (samples done, None).

    Returns:
        A verdict on the output, the errors of every site and their parts, findings, and advice.

    Raises:
        DataError: no data, or data that does not fit the network.
        ArgumentError: `timesteps` is out of range, or the model is another one.
    """
    check_timesteps(timesteps)
    tally: _Tally | None = None
    for x in Batches(batches).inputs():
        tally = tally or _Tally(snn.sized_for(x), timesteps, model, simulator)
        tally.add(x.to(snn.network.device))
        if progress is not None:
            progress(tally.samples, None)
    return (tally or _Tally(snn, timesteps, model, simulator)).result()


class _Tally:
    """Sums over batches, for every site and the readout."""

    def __init__(
        self,
        snn: SpikingNetwork,
        timesteps: int,
        model: nn.Module | Network | None,
        simulator: Simulator,
    ) -> None:
        self.snn, self.network, self.timesteps = snn, snn.network, timesteps
        self.model, self.simulator = model, simulator
        self.reference: Network | None = None
        self.scale = timesteps if snn.coding == "rate" else 1
        self.steps = {s.name: s.along_channels(snn.steps[s.name]) for s in self.network.sites}
        self.starts, self.offsets = site_starts(snn), site_offsets(snn)
        self.bounds, self.lowers = site_bounds(snn), site_lowers(snn)
        self.sites = {site.name: self._tally(site) for site in self.network.sites}
        self.output, self.cut = Moments(), cut_of(snn.network)
        self.agree = self.predictions = 0
        self.samples = 0

    def _tally(self, site: Site) -> SiteTally:
        lower, upper = self.snn.lowers.get(site.name), self.snn.uppers.get(site.name)
        bounds = None
        if lower is not None and upper is not None:
            bounds = site.along_channels(lower), site.along_channels(upper)
        return SiteTally(site, self.snn.neurons[site.name], self.timesteps, self.scale, bounds)

    def add(self, x: Tensor) -> None:
        self.network.check_input(x)
        if self.model is not None and self.reference is None:
            self.reference = _reference(self.model, self.network, x)
        record = Record(output_at=[self.timesteps], totals=True)
        run = self.simulator(self.snn, x, self.timesteps, record=record)
        with torch.inference_mode():
            analog, forced, expected, through = self._analog(x)
            for site in self.network.sites:
                name = site.name
                self.sites[name].add(
                    analog[name],
                    forced[name],
                    run.totals[name],
                    self.steps[name],
                    partial(self._quantized, site),
                    self._shift(site),
                )
            self._compare_output(run, expected, through)
        if self.samples == 0:
            self._check_charges(x[:_CHECKED_SAMPLES])
        self.samples += len(x)

    def _analog(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], Any, Any]:
        """Compute the analog side of the comparison.

        Returns:
            Activations of the reference by site; currents of the converted weights on them by
            site; the output of the reference; and the output of the converted weights on it.
        """
        analog: dict[str, Tensor] = {}
        forced: dict[str, Tensor] = {}

        def observe(site: Site, z: Tensor) -> Tensor:
            analog[site.name] = site.activate(z)
            return analog[site.name]

        def force(site: Site, z: Tensor) -> Tensor:
            forced[site.name] = z
            return analog[site.name] if self.reference is not None else site.activate(z)

        if self.reference is not None:
            expected = self.reference.run(x, observe)
            return analog, forced, expected, self.network.run(x, force)
        output = self.network.run(x, force)
        sites = {site.name: site for site in self.network.sites}
        return {n: sites[n].activate(z) for n, z in forced.items()}, forced, output, output

    def _shift(self, site: Site) -> Tensor:
        """The offset in activation units."""
        offset, step = self.offsets[site.name], self.steps[site.name]
        return torch.zeros_like(step) if offset is None else offset * step

    def _quantized(self, site: Site, z: Tensor) -> Tensor:
        """Activation that a site reaches with a constant current z, in activation units."""
        step, start = self.steps[site.name], self.starts[site.name]
        neuron = self.snn.neurons[site.name]
        drive, bound, lower = z / step * self.scale, self.bounds[site.name], self.lowers[site.name]
        level = quantized(neuron, drive, self.timesteps, start, bound, lower)
        return level * (step / self.scale)

    def _compare_output(self, run: Simulation, expected: Any, through: Any) -> None:
        leaves = [flat_values(value) for value in (run.output, expected, through)]
        for spiking, analog, forced in zip(*leaves, strict=True):
            if not analog.is_floating_point():
                continue  # class indices have no error
            s = spiking[-1]
            self.output.add(analog, s, {"weights": forced - analog, "propagated": s - forced})
        if isinstance(expected, Tensor) and _has_predictions(expected):
            equal = self._classes(run.output[-1]) == self._classes(expected)
            self.agree += int(equal.sum())
            self.predictions += equal.numel()

    def _classes(self, output: Tensor) -> Tensor:
        """Predictions; a model that returns integers, such as an argmax, returns them itself."""
        return prediction(output, self.cut) if output.is_floating_point() else output

    def _check_charges(self, x: Tensor) -> None:
        """Compare the membrane at T with start + currents - counts, in steps, on a few samples."""
        for names in self._record_groups(len(x)):
            run = self.simulator(
                self.snn,
                x,
                self.timesteps,
                record=Record(output_at=[self.timesteps], sites=names, totals=True),
            )
            for name in names:
                step, offset = self.steps[name], self.offsets[name]
                totals, neuron = run.totals[name], self.snn.neurons[name]
                left = self.starts[name] + totals.current / step
                if offset is not None:
                    left = left + offset * self.scale
                if not neuron.telescoped:
                    left = left - totals.net
                wrong = run.records[name].membrane[-1] / step - left
                mean = ordered_sum(wrong.double().square()) / wrong.numel()
                self.sites[name].charge_error = math.sqrt(mean)

    def _record_groups(self, samples: int) -> Iterator[list[str]]:
        """Group sites so that the membranes of a group fit into memory together."""
        group: list[str] = []
        filled = 0
        for site in self.network.sites:
            size = 2 * self.network.dtype.itemsize * samples * self.timesteps * site.neurons
            if group and filled + size > _RECORD_BYTES:
                yield group
                group, filled = [], 0
            group.append(site.name)
            filled += size
        yield group

    def result(self) -> Diagnosis:
        if not self.samples:
            raise DataError("diagnose: needed at least one batch of data, got none.")
        sites = tuple(
            self.sites[site.name].result(self.snn.steps[site.name]) for site in self.network.sites
        )
        output = OutputDiagnosis(
            correlation=self.output.correlation if self.output.count else math.nan,
            relative_error=self.output.relative_error if self.output.count else math.nan,
            parts=self.output.split(),
            agreement=self.agree / self.predictions if self.predictions else None,
        )
        return Diagnosis(
            n=self.samples,
            timesteps=self.timesteps,
            max_count=self.snn.max_count,
            coding=self.snn.coding,
            against="the folded network" if self.model is None else "the model",
            sites=sites,
            output=output,
            findings=findings(sites, output),
            advice=advice(sites, self.snn.neurons.values(), self.timesteps),
            settings=dict(self.snn.settings),
        )


def _has_predictions(output: Tensor) -> bool:
    """Whether an output holds classes or a mask. One number per sample may be a regression."""
    if not output.is_floating_point():
        return True
    return output.ndim > 2 or (output.ndim == 2 and output.shape[1] > 1)


def _reference(model: nn.Module | Network, network: Network, x: Tensor) -> Network:
    captured = model if isinstance(model, Network) else capture(model, x)
    found = [(site.name, site.shape) for site in captured.sites]
    needed = [(site.name, site.shape) for site in network.sites]
    if found != needed:
        raise ArgumentError(
            f"model: needed the model that the spiking network was made from, with {len(needed)} "
            f"sites; this one has {len(found)}, and they differ. Give that model, or leave model "
            "out."
        )
    return captured.to(dtype=network.dtype, device=network.device)


__all__ = ["Diagnosis", "diagnose"]
