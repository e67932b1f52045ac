"""Errors of one site, and of the readout: sums over batches, and their split into parts.

At every site the analog activation a = f(z) is compared with the mean output s of the spiking site
on the same inputs. Let zbar be the mean input current of the spiking site. The difference s - a is
the sum of these parts:

    weights       f(z') - a              z' is the current that the weights of the converted network
                                         give on the activations of the reference model (without a
                                         model this part is zero)
    propagated    f(zbar) - f(z')        errors that arrive from the sites before
    offset        f(zbar + o) - f(zbar)  o is the extra current of a calibration pass
    clipping      C(f) - f(zbar + o)     C clamps to the range K d
    quantization  Q(zbar + o) - C(f)     Q is the staircase with K T levels from the site's start
    unevenness    s - Q(zbar + o)        spikes too many or too few, because currents vary over time

In differential coding, sums over time take the place of means, and L levels take the place of K T
levels. Where the step shrinks, the levels are those of the step at T. The last three parts are
local: they arise in this site and point at a cause.

Source: the split into clipping, quantization and unevenness is from Bu et al. 2022 (Optimal ANN-SNN
conversion); differs: it is made at each site, on the current of that site, so that errors from the
sites before are a part of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from transpike.conversion.calibrate import Histogram
from transpike.conversion.thresholds import LeastSquares, threshold
from transpike.graph.network import Site
from transpike.measure.findings import Part, SiteDiagnosis
from transpike.measure.sums import ordered_sum
from transpike.simulation.result import Totals
from transpike.spiking.neuron import Neuron

RATE_BINS = 10


class Moments:
    """Sums that compare an analog with a spiking quantity.

    Attributes:
        count: number of values.
        sums: sums of the values, their squares and products, and of the squared difference.
        parts: for each part of the difference, its sum and the sum of its squares.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, float] = {}
        self.parts: dict[str, tuple[float, float]] = {}

    def add(self, analog: Tensor, spiking: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Add values, and the parts of their difference; all of one shape."""
        a, s = analog.double(), spiking.double()
        self.count += a.numel()
        products = {"aa": a * a, "ss": s * s, "as": a * s, "ee": (s - a).square()}
        for name, values in ({"a": a, "s": s} | products).items():
            self.sums[name] = self.sums.get(name, 0.0) + ordered_sum(values)
        for name, part in parts.items():
            mean, square = self.parts.get(name, (0.0, 0.0))
            value = part.double()
            self.parts[name] = mean + ordered_sum(value), square + ordered_sum(value.square())

    @property
    def rms(self) -> float:
        """Root mean square of the analog quantity; 1 if it is zero, so that errors stay as is."""
        return math.sqrt(self.sums["aa"] / self.count) or 1.0

    @property
    def correlation(self) -> float:
        """Pearson's correlation of both quantities; NaN where one is constant."""
        n, t = self.count, self.sums
        spread = (t["aa"] - t["a"] ** 2 / n) * (t["ss"] - t["s"] ** 2 / n)
        return (t["as"] - t["a"] * t["s"] / n) / math.sqrt(spread) if spread > 0 else math.nan

    @property
    def relative_error(self) -> float:
        """Root mean square of the difference over that of the analog quantity."""
        return math.sqrt(self.sums["ee"] / self.count) / self.rms

    def split(self) -> dict[str, Part]:
        """Every part of the difference, relative to the analog quantity."""
        return {
            name: Part(math.sqrt(square / self.count) / self.rms, mean / self.count / self.rms)
            for name, (mean, square) in self.parts.items()
        }


class SiteTally:
    """All sums at one site.

    Args:
        site: the site.
        neuron: its neuron.
        timesteps: T.
        scale: timesteps that a sum over time is divided by: T, or 1 in differential coding.
        bounds: least and largest value of a site behind a region, broadcastable over (B, ...), in
            activation units. None for all other sites.
    """

    def __init__(
        self,
        site: Site,
        neuron: Neuron,
        timesteps: int,
        scale: int,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.bounds = bounds
        self.site, self.neuron, self.timesteps, self.scale = site, neuron, timesteps, scale
        self.moments = Moments()
        self.fit = {"clipping": 0.0, "quantization": 0.0}
        self.histogram = Histogram(site.channels)
        zeros = torch.zeros(site.channels, dtype=torch.float64)
        self.spikes, self.firing, self.top = zeros.clone(), zeros.clone(), zeros.clone()
        self.rates = torch.zeros(RATE_BINS + 1, dtype=torch.float64)
        self.charge_error = 0.0
        self.late = self.seen = 0

    def add(
        self,
        analog: Tensor,
        forced: Tensor,
        totals: Totals,
        step: Tensor,
        quantize: Callable[[Tensor], Tensor],
        shift: Tensor,
    ) -> None:
        """Add a batch.

        Args:
            analog: activation a, (B, ...).
            forced: current z', (B, ...).
            totals: sums over time of the spiking site.
            step: threshold d, broadcast over (B, ...), activation units.
            quantize: the staircase Q, from currents to activations.
            shift: offset o, activation units.
        """
        site, reach = self.site, self.neuron.reach_at(self.timesteps)
        current = totals.current / self.scale
        spiking = totals.net * (step / self.scale)
        own, shifted = site.activate(current), site.activate(current + shift)
        span = step * (reach / self.scale)
        clipped, levels = self._clipped(shifted, span), quantize(current + shift)
        parts = {
            "weights": site.activate(forced) - analog,
            "propagated": own - site.activate(forced),
            "offset": shifted - own,
            "clipping": clipped - shifted,
            "quantization": levels - clipped,
            "unevenness": spiking - levels,
        }
        self.moments.add(analog, spiking, parts)
        kept = self._clipped(analog, span)
        self.fit["clipping"] += ordered_sum((kept - analog).double().square())
        self.fit["quantization"] += ordered_sum((quantize(analog) - kept).double().square())
        self.histogram.update(self.by_channel(analog).abs())
        if self.neuron.schedule.window is None and not self.neuron.schedule.returns:
            finest = step / self.neuron.finer_at(self.timesteps)
            missing = (parts["unevenness"] / finest).abs() > self.neuron.max_count
            self.late += int(missing.sum())
            self.seen += missing.numel()
        self._count(totals, reach)

    def _clipped(self, values: Tensor, span: Tensor) -> Tensor:
        """Limit activations to the range of the neurons."""
        if self.bounds is None:
            return torch.minimum(values, span)
        lower, upper = self.bounds
        return values.clamp(torch.maximum(lower, -span), torch.minimum(upper, span))

    def by_channel(self, values: Tensor) -> Tensor:
        """(B, ...) -> (C, N)."""
        return values.movedim(self.site.channel_axis, 0).flatten(1)

    def _count(self, totals: Totals, reach: int) -> None:
        unit, net = self.by_channel(totals.unit), self.by_channel(totals.net)
        self.spikes += unit.double().sum(dim=1).cpu()
        self.firing += (net != 0).double().sum(dim=1).cpu()
        self.top += (net.abs() >= reach).double().sum(dim=1).cpu()
        rate = unit / (self.neuron.max_count * self.timesteps)
        bins = torch.ceil(rate * RATE_BINS).clamp(max=RATE_BINS).long().flatten()
        self.rates += torch.bincount(bins, minlength=RATE_BINS + 1).cpu()

    def result(self, step: Tensor) -> SiteDiagnosis:
        """The errors of the site, from all batches; `step` is d per channel."""
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
            late_share=self.late / self.seen if self.seen else 0.0,
        )


def least_error(histogram: Histogram, neuron: Neuron, timesteps: int) -> float:
    """Find the least relative rms error of quantizing activations with one step per channel.

    The number of levels is that of the neuron up to its threshold: K T, or T for a burst in range
    mode, or L in differential coding. Hysteresis is left out: every value is rounded at once.

    Args:
        histogram: analog activations of every channel.
        neuron: the neuron, which has the levels and the start.
        timesteps: T.
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


__all__ = ["RATE_BINS", "Moments", "SiteTally", "least_error"]
