"""Streaming statistics of every site: per channel, order-independent, in bounded memory."""

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

# A float's upper bits are its logarithm: 6 bits of mantissa make 64 bins per octave, each at
# most 1.6 % wide, so a value known by its bin is known within 0.8 %.
_SHIFT = 23 - 6
_PER_OCTAVE = 64
_BINS = 16 * _PER_OCTAVE


@dataclass
class Histogram:
    """Logarithmic histogram of non-negative values, one row per channel.

    A row covers the 16 octaves below its channel's largest value; smaller values count as zero.
    The result depends on the values only, not on their order or batching: when the maximum
    grows, the window moves and what falls out below joins the zeros.

    Attributes:
        channels: number of rows.
        counts: (C, 1024) values per bin.
        first: (C,) integer code of each row's first bin.
        total: values seen per channel, zeros included.
        maximum: (C,) largest value.
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
        """Add values of shape (C, N), all >= 0."""
        self.total += values.shape[1]
        self.maximum = torch.maximum(self.maximum, values.amax(dim=1).double().cpu())
        codes = values.float().contiguous().view(torch.int32).bitwise_right_shift(_SHIFT)
        wanted = codes.amax(dim=1).long().cpu() - _BINS + 1
        self._move_to(torch.maximum(self.first, wanted))
        # 1.._BINS inside the window, 0 below it
        local = (codes - (self.first - 1).to(codes).unsqueeze(1)).clamp_(min=0).long()
        local += torch.arange(self.channels, device=local.device).unsqueeze(1) * (_BINS + 1)
        flat = torch.bincount(local.flatten(), minlength=self.channels * (_BINS + 1))
        self.counts += flat.reshape(self.channels, _BINS + 1)[:, 1:].cpu()

    def _move_to(self, first: Tensor) -> None:
        """Move the windows up; what falls out below is no longer counted, so it is a zero."""
        shift = (first - self.first).unsqueeze(1)
        if bool((shift > 0).any()):
            source = torch.arange(_BINS).unsqueeze(0) + shift
            moved = self.counts.gather(1, source.clamp(max=_BINS - 1))
            self.counts = torch.where(source < _BINS, moved, 0)
            self.first = first

    def merged(self) -> Histogram:
        """All channels as one row."""
        aligned = copy.copy(self)
        aligned._move_to(self.first.max().expand(self.channels).clone())
        one = Histogram(1)
        one.counts = aligned.counts.sum(dim=0, keepdim=True)
        one.first, one.total = aligned.first[:1].clone(), self.total * self.channels
        one.maximum = self.maximum.amax(dim=0, keepdim=True)
        return one

    def edges(self) -> Tensor:
        """Edges of the bins, shape (C, bins + 1), activation units."""
        codes = self.first.unsqueeze(1) + torch.arange(_BINS + 1)
        return (codes << _SHIFT).to(torch.int32).view(torch.float32).double()

    def quantile(self, fraction: float) -> Tensor:
        """The quantile over all values, zeros included, shape (C,), within 1 % of the exact one.

        Interpolates linearly between the two neighboring order statistics, as numpy does.
        """
        rank = fraction * (self.total - 1)
        low = int(rank)
        weight = rank - low
        first = self._order_statistic(low)
        return first + weight * (self._order_statistic(min(low + 1, self.total - 1)) - first)

    def _order_statistic(self, rank: int) -> Tensor:
        """The value with `rank` smaller ones before it: the middle of its bin."""
        cumulative = self.counts.cumsum(dim=1)
        target = rank - (self.total - cumulative[:, -1])  # the zeros come first
        position = torch.searchsorted(cumulative, target.clamp(min=0).unsqueeze(1), right=True)
        position = position.clamp(max=_BINS - 1)
        edges = self.edges()
        middle = (edges.gather(1, position) + edges.gather(1, position + 1)).squeeze(1) / 2
        value = torch.minimum(middle, self.maximum)
        return torch.where(target < 0, torch.zeros_like(value), value)


@dataclass
class Moments:
    """Mean and variance of the currents of every channel, before the activation.

    Sums are kept in float64; another order or batching of the values changes them by rounding only.

    Attributes:
        channels: number of channels.
        total: values seen per channel.
        sums: (C,) sum of the values.
        squares: (C,) sum of the squared values.
    """

    channels: int
    total: int = 0
    sums: Tensor = field(init=False, repr=False)
    squares: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.sums = torch.zeros(self.channels, dtype=torch.float64)
        self.squares = torch.zeros(self.channels, dtype=torch.float64)

    def update(self, values: Tensor) -> None:
        """Add values of shape (C, N)."""
        self.total += values.shape[1]
        self.sums += values.sum(dim=1, dtype=torch.float64).cpu()
        self.squares += values.square().sum(dim=1, dtype=torch.float64).cpu()

    def merged(self) -> Moments:
        """All channels as one."""
        one = Moments(1, self.total * self.channels)
        one.sums, one.squares = self.sums.sum().reshape(1), self.squares.sum().reshape(1)
        return one

    @property
    def mean(self) -> Tensor:
        """(C,), activation units."""
        return self.sums / max(1, self.total)

    @property
    def variance(self) -> Tensor:
        """(C,), activation units squared."""
        return (self.squares / max(1, self.total) - self.mean.square()).clamp(min=0)


@dataclass(frozen=True)
class Calibration:
    """Statistics of a network's activations on calibration data.

    Attributes:
        histograms: of the activations, one per site name.
        n: samples seen.
        sites: the sites they belong to.
        fingerprint: of the network's weights.
        moments: of the currents before the activation, one per site name.
    """

    histograms: Mapping[str, Histogram] = field(repr=False)
    n: int
    sites: tuple[Site, ...]
    fingerprint: str = field(repr=False)
    moments: Mapping[str, Moments] = field(default_factory=dict, repr=False)


@isolated()
def calibrate(
    network: Network,
    batches: Iterable[Any],
    *,
    progress: Callable[[int, int | None], None] | None = None,
) -> Calibration:
    """Collect activation statistics at every site.

    Args:
        network: from `capture`.
        batches: tensors (B, ...), (tensor, label) pairs, or a DataLoader of either; a single
            tensor counts as one batch. Use training data, never test data.
        progress: called with (batches done, batches in all or None).

    Returns:
        Statistics; the same, bit for bit, for any order or batching of the same values, up to
        how convolutions round for different batch sizes.

    Raises:
        DataError: no data, wrong shape, dtype or device, or NaN.
    """
    histograms = {site.name: Histogram(site.channels) for site in network.sites}
    moments = {site.name: Moments(site.channels) for site in network.sites}

    def observe(site: Site, z: Tensor) -> Tensor:
        rows = z.movedim(site.channel_axis, 0).flatten(1)
        moments[site.name].update(rows)
        histograms[site.name].update(site.activate(rows))
        return site.activate(z)

    n, data = 0, Batches(batches)
    with torch.inference_mode():
        for done, x in enumerate(data.inputs(), start=1):
            network.run(x.to(network.device), observe)
            n += len(x)
            if progress is not None:
                progress(done, data.count)
    if n == 0:
        raise DataError("calibration: needed at least one batch of data, got none.")
    return Calibration(histograms, n, network.sites, network.fingerprint, moments)
