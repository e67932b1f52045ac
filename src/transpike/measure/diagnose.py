"""Where a spiking network departs from the analog one, why, and what to try.

At every site the analog activation a = f(z) is compared with what the spiking site sends on
average, s, on the same inputs. With zbar the site's own mean current, the difference is split into
parts that add up to s - a exactly:

    weights       f(z') - a              z': current of the converted network's weights on the
                                         reference model's own activations (zero without a model)
    propagated    f(zbar) - f(z')        what arrives wrong from the sites before
    offset        f(zbar + o) - f(zbar)  the extra current of a calibration pass
    clipping      C(f) - f(zbar + o)     C: clamp to the range K d
    quantization  Q(zbar + o) - C(f)     Q: the staircase with K T levels from the site's start
    unevenness    s - Q(zbar + o)        spikes too many or too few because currents came unevenly

In differential coding sums over time take the place of means, and L levels that of K T (those of
the step at T where it shrinks).
The last three are local: they arise in this site, and it is they that point at a cause.

Source: the split into clipping, quantization and unevenness is Bu et al. 2022 (Optimal ANN-SNN
conversion); differs: per site, on the site's own current, so that what comes from before is apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from transpike.conversion.calibrate import Histogram
from transpike.conversion.thresholds import LeastSquares, threshold
from transpike.errors import ArgumentError, DataError
from transpike.graph.batches import Batches
from transpike.graph.capture import capture
from transpike.graph.network import Network, Site, check_timesteps
from transpike.graph.outputs import cut_of, prediction
from transpike.measure.findings import (
    Finding,
    OutputDiagnosis,
    Part,
    SiteDiagnosis,
    advice,
    findings,
    verdict,
)
from transpike.simulation.fidelity import squared_distance
from transpike.simulation.record import Record
from transpike.simulation.result import Simulation, Totals
from transpike.simulation.simulate import simulate
from transpike.spiking.neuron import Neuron, quantized
from transpike.spiking.spiking_network import SpikingNetwork, site_bounds, site_offsets, site_starts

RATE_BINS = 10
_CHECKED_SAMPLES = 2  # for the book-keeping of charges, which needs the membranes
_RECORD_BYTES = 256 * 2**20  # of membranes over time kept at once

Simulator = Callable[..., Simulation]


@dataclass(frozen=True)
class Diagnosis:
    """Where, by how much and why a spiking network departs from the analog one.

    Attributes:
        n: samples.
        timesteps: T.
        max_count: K, largest over all sites.
        coding: "rate" or "differential".
        against: "the folded network" or "the model".
        sites: in execution order.
        output: the readout.
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
        """What is wrong at the first site where something is."""
        return self.findings[0] if self.findings else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "healthy": self.healthy, "verdict": list(self.verdict)}

    def __str__(self) -> str:
        """A table of the sites, the findings and what to try."""
        width = max(len("output"), *(len(site.name) for site in self.sites))
        lines = [
            f"n={self.n}, T={self.timesteps}, K={self.max_count}, {self.coding} coding, against "
            f"{self.against}; errors: rms over rms of the analog activation",
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
            "before: from the sites before; range: K d over the largest analog activation",
            "",
        ]
        lines += self.verdict
        for number, found in enumerate(self.findings):
            head = "first wrong at" if number == 0 else "also at"
            lines.append(f"{head} '{found.site}', {found.cause}: {found.evidence}")
            lines.append(f"  try: {found.remedy}")
        return "\n".join([*lines, self.advice])


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
        batches: tensors (B, ...) or (tensor, label) pairs; a few hundred samples are enough. Use
            data that is prepared as the network will get it.
        timesteps: T >= 1.
        model: the model it was made from. Without it the comparison is with the converted
            network's own folded weights, where a damaged weight cannot show.
        simulator: what runs the network, with the arguments of `simulate` (such as
            `record`); another engine can be diagnosed this way.
        progress: called with (samples done, None).

    Returns:
        Errors of every site and their parts, findings, and advice.

    Raises:
        DataError: no data, or data that does not fit the network.
        ArgumentError: `timesteps` is out of range, or the model is another one.
    """
    check_timesteps(timesteps)
    tally = _Tally(snn, timesteps, model, simulator)
    for x in Batches(batches).inputs():
        tally.add(x.to(snn.network.device))
        if progress is not None:
            progress(tally.samples, None)
    return tally.result()


class _Moments:
    """Sums over many values of an analog and a spiking quantity, and of parts of the difference."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, float] = {}
        self.parts: dict[str, tuple[float, float]] = {}

    def add(self, analog: Tensor, spiking: Tensor, parts: Mapping[str, Tensor]) -> None:
        a, s = analog.double(), spiking.double()
        self.count += a.numel()
        gap, size = squared_distance(s, a)
        sums = {"a": a.sum(), "s": s.sum(), "aa": size, "ss": (s * s).sum(), "as": (a * s).sum()}
        for name, value in (sums | {"ee": gap}).items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        for name, part in parts.items():
            mean, square = self.parts.get(name, (0.0, 0.0))
            value = part.double()
            self.parts[name] = mean + float(value.sum()), square + float(value.square().sum())

    @property
    def rms(self) -> float:
        """Of the analog quantity; 1 where it is zero, so that errors stay as they are."""
        return math.sqrt(self.sums["aa"] / self.count) or 1.0

    @property
    def correlation(self) -> float:
        n, t = self.count, self.sums
        spread = (t["aa"] - t["a"] ** 2 / n) * (t["ss"] - t["s"] ** 2 / n)
        return (t["as"] - t["a"] * t["s"] / n) / math.sqrt(spread) if spread > 0 else math.nan

    @property
    def relative_error(self) -> float:
        return math.sqrt(self.sums["ee"] / self.count) / self.rms

    def split(self) -> dict[str, Part]:
        return {
            name: Part(math.sqrt(square / self.count) / self.rms, mean / self.count / self.rms)
            for name, (mean, square) in self.parts.items()
        }


class _SiteTally:
    """Everything that is summed up at one site."""

    def __init__(self, site: Site, neuron: Neuron, timesteps: int, scale: int) -> None:
        self.site, self.neuron, self.timesteps, self.scale = site, neuron, timesteps, scale
        self.moments = _Moments()
        self.fit = {"clipping": 0.0, "quantization": 0.0}
        self.histogram = Histogram(site.channels)
        zeros = torch.zeros(site.channels, dtype=torch.float64)
        self.spikes, self.firing, self.top = zeros.clone(), zeros.clone(), zeros.clone()
        self.rates = torch.zeros(RATE_BINS + 1, dtype=torch.float64)
        self.charge_error = 0.0

    def add(
        self,
        analog: Tensor,
        forced: Tensor,
        totals: Totals,
        step: Tensor,
        quantize: Callable[[Tensor], Tensor],
        shift: Tensor,
    ) -> None:
        """Add a batch; all (B, ...), `shift` the offset in activation units."""
        site, reach = self.site, self.neuron.reach_at(self.timesteps)
        current = totals.current / self.scale
        spiking = totals.net * (step / self.scale)
        own, shifted = site.activate(current), site.activate(current + shift)
        span = step * (reach / self.scale)
        clipped, levels = torch.minimum(shifted, span), quantize(current + shift)
        parts = {
            "weights": site.activate(forced) - analog,
            "propagated": own - site.activate(forced),
            "offset": shifted - own,
            "clipping": clipped - shifted,
            "quantization": levels - clipped,
            "unevenness": spiking - levels,
        }
        self.moments.add(analog, spiking, parts)
        kept = torch.minimum(analog, span)
        self.fit["clipping"] += float((kept - analog).double().square().sum())
        self.fit["quantization"] += float((quantize(analog) - kept).double().square().sum())
        self.histogram.update(self.by_channel(analog))
        self._count(totals, reach)

    def by_channel(self, values: Tensor) -> Tensor:
        """(B, ...) -> (C, N)."""
        return values.movedim(self.site.channel_axis, 0).flatten(1)

    def _count(self, totals: Totals, reach: int) -> None:
        unit, net = self.by_channel(totals.unit), self.by_channel(totals.net)
        self.spikes += unit.double().sum(dim=1).cpu()
        self.firing += (net > 0).double().sum(dim=1).cpu()
        self.top += (net >= reach).double().sum(dim=1).cpu()
        rate = unit / (self.neuron.max_count * self.timesteps)
        bins = torch.ceil(rate * RATE_BINS).clamp(max=RATE_BINS).long().flatten()
        self.rates += torch.bincount(bins, minlength=RATE_BINS + 1).cpu()

    def result(self, step: Tensor) -> SiteDiagnosis:
        moments, histogram = self.moments, self.histogram
        relative = {
            name: math.sqrt(square / moments.count) / moments.rms
            for name, square in self.fit.items()
        }
        active = histogram.maximum > 0
        reach = step.double().cpu() * self.neuron.reach_at(self.timesteps) / self.scale
        ratio = (reach / histogram.maximum)[active]
        return SiteDiagnosis(
            name=self.site.name,
            neurons=self.site.neurons,
            channels=self.site.channels,
            max_count=self.neuron.max_count,
            correlation=moments.correlation,
            relative_error=moments.relative_error,
            parts=moments.split(),
            fit_clipping=relative["clipping"],
            fit_quantization=relative["quantization"],
            fit_best=least_error(histogram, self.neuron, self.timesteps),
            range_over_maximum=float(ratio.median()) if len(ratio) else math.nan,
            dead_channels=int((active & (self.spikes == 0)).sum()),
            saturated_channels=int(((self.firing > 0) & (2 * self.top >= self.firing)).sum()),
            silent_channels=int((~active).sum()),
            firing_rates=(self.rates / self.rates.sum()).tolist(),
            charge_error=self.charge_error,
        )


def least_error(histogram: Histogram, neuron: Neuron, timesteps: int) -> float:
    """Least relative rms error of quantizing activations, with one step per channel.

    The levels are those a neuron has up to its threshold: K T, T for a range burst, L in
    differential coding. Hysteresis is left out: every value is rounded at once.
    """
    levels = max(1, neuron.levels_at(timesteps) // neuron.range_factor)
    start = neuron.initial_membrane
    best = threshold(LeastSquares(levels), histogram, initial_membrane=start)
    edges = histogram.edges()
    values = (edges[:, :-1] + edges[:, 1:]) / 2
    step = (best / levels).unsqueeze(1)
    error = values - step * torch.floor(values / step + start).clamp(0, levels)
    whole = float((histogram.counts * values.square()).sum())
    return math.sqrt(float((histogram.counts * error.square()).sum()) / whole) if whole else 0.0


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
        self.bounds = site_bounds(snn)
        self.sites = {
            site.name: _SiteTally(site, snn.neurons[site.name], timesteps, self.scale)
            for site in self.network.sites
        }
        self.output, self.cut = _Moments(), cut_of(snn.network)
        self.agree = self.predictions = 0
        self.samples = 0

    def add(self, x: Tensor) -> None:
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
        """Analog activations, the currents the converted weights make of them, and outputs."""
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
        """The staircase of a site for a constant current z."""
        step, start = self.steps[site.name], self.starts[site.name]
        neuron = self.snn.neurons[site.name]
        drive, bound = z / step * self.scale, self.bounds[site.name]
        return quantized(neuron, drive, self.timesteps, start, bound) * (step / self.scale)

    def _compare_output(self, run: Simulation, expected: Any, through: Any) -> None:
        leaves = [pytree.tree_leaves(value) for value in (run.output, expected, through)]
        for spiking, analog, forced in zip(*leaves, strict=True):
            if not analog.is_floating_point():
                continue  # predictions, such as argmax, have no error
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
        """Membrane at T against start + currents - counts, in steps, on a few samples."""
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
                self.sites[name].charge_error = float(wrong.double().square().mean().sqrt())

    def _record_groups(self, samples: int) -> Iterator[list[str]]:
        """Sites whose membranes fit into memory together."""
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
    """Whether an output holds classes, or is a mask; one number per sample may be a regression."""
    if not output.is_floating_point():
        return True
    return output.ndim > 2 or (output.ndim == 2 and output.shape[1] > 1)


def _reference(model: nn.Module | Network, network: Network, x: Tensor) -> Network:
    captured = model if isinstance(model, Network) else capture(model, x)
    found = [(site.name, site.shape) for site in captured.sites]
    needed = [(site.name, site.shape) for site in network.sites]
    if found != needed:
        raise ArgumentError(
            f"model: needed the model the spiking network was made from, with {len(needed)} sites; "
            f"this one has {len(found)}, and they differ. Give that model, or leave model out."
        )
    return captured.to(dtype=network.dtype, device=network.device)


__all__ = ["RATE_BINS", "Diagnosis", "diagnose", "least_error"]
