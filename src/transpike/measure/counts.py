"""What is counted: the operations of one inference, and the activity they are counted from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True)
class Counts:
    """Operations of one inference of one sample, mean over samples, over all timesteps.

    Attributes:
        accumulates: additions caused by spikes, with each spike counted as its neuron's code sends
            it.
        accumulates_unit: the same if a count of n is sent as n spikes.
        accumulates_binary: the same if a count is sent as its binary digits.
        macs_input: multiply-accumulates on values that follow from the static input, done once.
        macs_readout: multiply-accumulates behind the time average, done once.
        macs_current: multiply-accumulates on currents, all timesteps together.
        macs_region: multiply-accumulates of regions, all timesteps together.
        evaluations: values of nonlinear functions of single elements in regions, all timesteps.
        additions_region: additions of regions, all timesteps together.
        additions: all other additions: constant currents into membranes, resets, and analog values
            that are pooled or added.
        comparisons: comparisons with thresholds and for maxima.
        neuron_updates: neurons times timesteps. Neurons with a window count its timesteps only.
        ann_macs: multiply-accumulates of the analog network, also without zero weights and padding.
        ann_macs_nominal: the same as usually printed: every kernel position of every output.
        ann_quantized_macs: those of `ann_macs` whose input is an activation.
        ann_bit_macs: the same, each times the bits of its activation in the quantized network.
        ann_additions: biases, additions of branches and average pooling in the analog network.
        ann_comparisons: ReLU and max-pool in the analog network.
        ann_evaluations: the evaluations of regions in the analog network.
    """

    accumulates: float = 0.0
    accumulates_unit: float = 0.0
    accumulates_binary: float = 0.0
    macs_input: float = 0.0
    macs_readout: float = 0.0
    macs_current: float = 0.0
    macs_region: float = 0.0
    evaluations: float = 0.0
    additions_region: float = 0.0
    additions: float = 0.0
    comparisons: float = 0.0
    neuron_updates: float = 0.0
    ann_macs: float = 0.0
    ann_macs_nominal: float = 0.0
    ann_quantized_macs: float = 0.0
    ann_bit_macs: float = 0.0
    ann_additions: float = 0.0
    ann_comparisons: float = 0.0
    ann_evaluations: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        """Sum, field by field."""
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Operation:
    """What one operation of the network costs.

    Attributes:
        name: the site's name, or the place of the operation in the user's model.
        op: what it is, such as "conv2d", "neurons" or "readout".
        counts: per sample.
    """

    name: str
    op: str
    counts: Counts


@dataclass(frozen=True)
class Activity:
    """What was measured: sums over samples and timesteps.

    Attributes:
        samples: number of samples.
        timesteps: T.
        differential: whether inputs, biases and constant currents arrive once, and not at every
            timestep.
        sites: spikes per neuron by the name of the site, shape (3, ...): as sent, as unit spikes,
            and in binary.
        pools: the same for the changes of a max-pool's output, by the name of its node. A max-pool
            without an entry passes graded currents on.
        bits: bits of the activation in the quantized network, by the name of the site.
        updates: timesteps in which the neurons may fire, by the name of the site.
        comparisons: comparisons per neuron and such a timestep, by the name of the site.
        resets: additions that a spike causes in its own neuron, by the name of the site.
    """

    samples: int
    timesteps: int
    differential: bool
    sites: Mapping[str, Tensor]
    pools: Mapping[str, Tensor]
    bits: Mapping[str, int]
    updates: Mapping[str, int]
    comparisons: Mapping[str, int]
    resets: Mapping[str, int]


__all__ = ["Activity", "Counts", "Operation"]
