"""Calibration: statistics of the activations at every site, collected batch by batch.

The statistics are kept per channel. They need bounded memory and do not depend on the order of
the data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from transpike.errors import DataError
from transpike.graph.ambient import isolated
from transpike.graph.batches import Batches
from transpike.graph.network import Network, Site

# The upper bits of a positive float grow with its logarithm. With 6 bits of the mantissa there are
# 64 bins per octave. A bin is at most 1.6 % wide, so its middle is within 0.8 % of its values.
_SHIFT = 23 - 6
_PER_OCTAVE = 64
_BINS = 16 * _PER_OCTAVE


@dataclass
class Histogram:
    """Logarithmic histogram of non-negative values, with one row per channel.

    A row covers the 16 octaves below the largest value of its channel. Smaller values count as
    zero. When the largest value grows, the row moves up, and the values that it no longer covers
    become zeros. The result therefore does not depend on the order or the batches of the values.

    Attributes:
        channels: C, number of rows.
        counts: (C, 1024) number of values in each bin.
        first: (C,) integer code of the first bin of each row.
        total: number of values seen per channel, zeros included.
        maximum: (C,) largest value, in activation units.
    """

    channels: int
    counts: Tensor = field(init=False, repr=False)
    first: Tensor = field(init=False, repr=False)
    total: int = 0
    maximum: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.counts = torch.zeros(self.channels, _BINS, dtype=torch.int64)
        self.first = torch.ones(self.channels, dtype=torch.int64)
        self.maximum = torch.zeros(self.channels, dtype=torch.float64)

    def update(self, values: Tensor) -> None:
        """Add values of shape (C, N), in activation units, all >= 0."""
        self.total += values.shape[1]
        self.maximum = torch.maximum(self.maximum, values.amax(dim=1).double().cpu())
        codes = values.float().contiguous().view(torch.int32).bitwise_right_shift(_SHIFT)
        wanted = codes.amax(dim=1).long().cpu() - _BINS + 1
        self._move_to(torch.maximum(self.first, wanted))
        # 1 to _BINS inside the row, 0 for values below it.
        local = (codes - (self.first - 1).to(codes).unsqueeze(1)).clamp_(min=0).long()
        local += torch.arange(self.channels, device=local.device).unsqueeze(1) * (_BINS + 1)
        flat = torch.bincount(local.flatten(), minlength=self.channels * (_BINS + 1))
        self.counts += flat.reshape(self.channels, _BINS + 1)[:, 1:].cpu()

    def _move_to(self, first: Tensor) -> None:
        """Move the rows up. Values below the first bin are no longer counted and become zeros."""
        shift = (first - self.first).unsqueeze(1)
        if bool((shift > 0).any()):
            source = torch.arange(_BINS).unsqueeze(0) + shift
            moved = self.counts.gather(1, source.clamp(max=_BINS - 1))
            self.counts = torch.where(source < _BINS, moved, 0)
            self.first = first

    def merged(self) -> Histogram:
        """The histogram of all channels together, with one row."""
        aligned = copy.copy(self)
        aligned._move_to(self.first.max().expand(self.channels).clone())
        one = Histogram(1)
        one.counts = aligned.counts.sum(dim=0, keepdim=True)
        one.first, one.total = aligned.first[:1].clone(), self.total * self.channels
        one.maximum = self.maximum.amax(dim=0, keepdim=True)
        return one

    def edges(self) -> Tensor:
        """Edges of the bins, shape (C, bins + 1), in activation units."""
        codes = self.first.unsqueeze(1) + torch.arange(_BINS + 1)
        return (codes << _SHIFT).to(torch.int32).view(torch.float32).double()

    def quantile(self, fraction: float) -> Tensor:
        """The quantile over all values, zeros included.

        It interpolates linearly between the two nearest order statistics, as numpy does.

        Args:
            fraction: between 0 and 1.

        Returns:
            (C,), in activation units, within 1 % of the exact quantile.
        """
        rank = fraction * (self.total - 1)
        low = int(rank)
        weight = rank - low
        first = self._order_statistic(low)
        return first + weight * (self._order_statistic(min(low + 1, self.total - 1)) - first)

    def _order_statistic(self, rank: int) -> Tensor:
        """The value at position `rank` (0-based) in ascending order, as the middle of its bin."""
        cumulative = self.counts.cumsum(dim=1)
        target = rank - (self.total - cumulative[:, -1])  # zeros come first in ascending order
        position = torch.searchsorted(cumulative, target.clamp(min=0).unsqueeze(1), right=True)
        position = position.clamp(max=_BINS - 1)
        edges = self.edges()
        middle = (edges.gather(1, position) + edges.gather(1, position + 1)).squeeze(1) / 2
        value = torch.minimum(middle, self.maximum)
        return torch.where(target < 0, torch.zeros_like(value), value)


@dataclass
class Moments:
    """Mean and variance of the current of every channel, which is the input of the activation.

    The sums are float64. The order and the batches of the values change them by rounding only.

    Attributes:
        channels: C, number of channels.
        total: number of values seen per channel.
        sums: (C,) sum of the values, in activation units.
        squares: (C,) sum of the squared values, in activation units squared.
    """

    channels: int
    total: int = 0
    sums: Tensor = field(init=False, repr=False)
    squares: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.sums = torch.zeros(self.channels, dtype=torch.float64)
        self.squares = torch.zeros(self.channels, dtype=torch.float64)

    def update(self, values: Tensor) -> None:
        """Add values of shape (C, N), in activation units."""
        self.total += values.shape[1]
        self.sums += values.sum(dim=1, dtype=torch.float64).cpu()
        self.squares += values.square().sum(dim=1, dtype=torch.float64).cpu()

    def merged(self) -> Moments:
        """The moments of all channels together, with one channel."""
        one = Moments(1, self.total * self.channels)
        one.sums, one.squares = self.sums.sum().reshape(1), self.squares.sum().reshape(1)
        return one

    @property
    def mean(self) -> Tensor:
        """Mean, shape (C,), in activation units."""
        return self.sums / max(1, self.total)

    @property
    def variance(self) -> Tensor:
        """Variance, shape (C,), in activation units squared."""
        return (self.squares / max(1, self.total) - self.mean.square()).clamp(min=0)


@dataclass
class Range:
    """The least and the largest value of every channel. Both include 0.

    Attributes:
        channels: C, number of channels.
        lower: (C,) least value, <= 0, in activation units.
        upper: (C,) largest value, >= 0, in activation units.
    """

    channels: int
    lower: Tensor = field(init=False, repr=False)
    upper: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.lower = torch.zeros(self.channels, dtype=torch.float64)
        self.upper = torch.zeros(self.channels, dtype=torch.float64)

    def update(self, values: Tensor) -> None:
        """Add values of shape (C, N), in activation units."""
        least, most = values.aminmax(dim=1)
        self.lower = torch.minimum(self.lower, least.double().cpu())
        self.upper = torch.maximum(self.upper, most.double().cpu())


@dataclass(frozen=True)
class Calibration:
    """Statistics of the activations of a network on calibration data.

    Attributes:
        histograms: histogram of the magnitudes of the activations, by site name.
        n: number of inputs seen.
        sites: the sites of the network.
        fingerprint: fingerprint of the weights of the network.
        moments: moments of the currents before the activation, by site name.
        ranges: least and largest value of the sites behind a region, by name.
    """

    histograms: Mapping[str, Histogram] = field(repr=False)
    n: int
    sites: tuple[Site, ...]
    fingerprint: str = field(repr=False)
    moments: Mapping[str, Moments] = field(default_factory=dict, repr=False)
    ranges: Mapping[str, Range] = field(default_factory=dict, repr=False)


@isolated()
def calibrate(
    network: Network,
    batches: Iterable[Any],
    *,
    progress: Callable[[int, int | None], None] | None = None,
) -> Calibration:
    """Collect activation statistics at every site.

    Args:
        network: a network from `capture`.
        batches: tensors (B, ...), (tensor, label) pairs, or a DataLoader of either. A single
            tensor is one batch. Use training data, never test data.
        progress: called after each batch with the number of batches done and the number of all
            batches, or None if it is unknown.

    Returns:
        The statistics. The histograms do not depend on the order or the batches of the data, bit
        for bit, as long as convolutions round alike for different batch sizes. The moments change
        by rounding only.

    Raises:
        ArgumentError: `batches` is not a collection of batches.
        DataError: there is no data, or its shape, dtype or device is wrong, or it contains NaN.
    """
    histograms = {site.name: Histogram(site.channels) for site in network.sites}
    moments = {site.name: Moments(site.channels) for site in network.sites}
    ranges = {site.name: Range(site.channels) for site in network.sites if site.follows_region}

    def observe(site: Site, z: Tensor) -> Tensor:
        rows = z.movedim(site.channel_axis, 0).flatten(1)
        moments[site.name].update(rows)
        active = site.activate(rows)
        if site.lower_bound != 0:
            active = active.abs()
        histograms[site.name].update(active)
        if site.follows_region:
            ranges[site.name].update(rows)
        return site.activate(z)

    n, data = 0, Batches(batches)
    with torch.inference_mode():
        for done, x in enumerate(data.inputs(), start=1):
            network.run(x.to(network.device), observe)
            n += len(x)
            if progress is not None:
                progress(done, data.count)
    if n == 0:
        raise DataError(
            "calibration: needed at least one batch of data, got none. Give batches of training "
            "data."
        )
    return Calibration(histograms, n, network.sites, network.fingerprint, moments, ranges)
