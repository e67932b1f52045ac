"""The neurons by name: settings of the general neuron that the field knows or this library adds."""

from __future__ import annotations

from typing import Literal

from transpike.errors import ArgumentError
from transpike.spiking.neuron import MOST_BITS, USUAL_HYSTERESIS, Neuron, check_hysteresis
from transpike.spiking.schedule import Schedule

_COUNT_OF_RATIO_4 = 8  # max count from which a refining neuron's step is divided by 4, not 2
LONGEST_WINDOW = 7
"""Longest window that helps: by then a staggered layer has sent its input finely enough."""


def IF(*, initial_membrane: float = 0.5) -> Neuron:
    """Integrate-and-fire with reset by subtraction: step = threshold, at most one spike.

    Source: Rueckauer et al. 2017; the half-step start is from Deng & Gu 2021.
    """
    return Neuron(initial_membrane=initial_membrane)


def Burst(
    max_count: int = 5,
    *,
    mode: Literal["range", "resolution"] = "range",
    initial_membrane: float = 0.5,
) -> Neuron:
    """Burst neuron: up to `max_count` spikes per timestep.

    Args:
        max_count: K, largest count per timestep.
        mode: "range": step = threshold, so that K counts reach K thresholds (as published);
            "resolution": step = threshold / K, so that K counts reach the threshold.
        initial_membrane: fraction of the step.

    Source: Li & Zeng 2022 (range; there the initial membrane is 0); resolution equals the group
    neuron, and with K = 2^n - 1 the multi-threshold neuron with n binary-coded thresholds.
    """
    if mode not in ("range", "resolution"):
        raise ArgumentError(f"mode: needed 'range' or 'resolution', got {mode!r}.")
    step: Literal["threshold", "fraction"] = "threshold" if mode == "range" else "fraction"
    return Neuron(max_count=max_count, step=step, initial_membrane=initial_membrane)


def Signed(max_count: int = 1, *, initial_membrane: float = 0.5) -> Neuron:
    """Signed neuron with memory: takes back earlier spikes; step = threshold / max_count.

    Fires -1 as soon as V < 0 while the running total is positive, so the total stays >= 0.

    Source: Hu et al. 2023 (Fast-SNN, signed IF); differs: several counts per timestep.
    """
    return Neuron(
        max_count=max_count, signed=True, step="fraction", initial_membrane=initial_membrane
    )


def MultiThreshold(bits: int, *, signed: bool = False, initial_membrane: float = 0.5) -> Neuron:
    """Multi-threshold neuron: thresholds d, 2 d, ..., 2^(bits-1) d, one spike per threshold.

    Greedy firing over these thresholds gives the count clamp(floor(V/d), 0, 2^bits - 1) in binary,
    so this is the resolution burst neuron with K = 2^bits - 1 whose spikes are the bits set.

    Source: Hao et al. 2026 (H-MT); the equality is a law test.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= MOST_BITS:
        raise ArgumentError(f"bits: needed an integer in 1..{MOST_BITS}, got {bits!r}.")
    return Neuron(
        max_count=2**bits - 1,
        signed=signed,
        step="fraction",
        initial_membrane=initial_membrane,
        code="binary",
    )


def Differential(levels: int, max_count: int = 1, *, initial_membrane: float = 0.5) -> Neuron:
    """Signed neuron for differential coding, with a chosen number of levels up to the threshold.

    The input is presented once and biases enter once; the network then settles, and its spikes
    stop, at the quantized network with `levels` levels. T is only the time to settle.

    Source: You et al. 2024 (SpikeZIP-TF, ST-BIF neuron).
    """
    return Neuron(
        max_count=max_count,
        signed=True,
        step="fraction",
        initial_membrane=initial_membrane,
        levels=levels,
    )


def Refining(
    max_count: int = 4,
    ratio: int | None = None,
    *,
    levels: int | None = None,
    period: int = 1,
    initial_membrane: float = 0.5,
) -> Neuron:
    """Signed neuron for differential coding whose step shrinks, so that each spike refines the sum.

    At timestep t the step is d_t = d / ratio^floor((t - 1) / period), d = threshold / levels: the
    first timesteps send the value roughly, the later ones, with counts of either sign, what is
    left. With an input that is presented once, a population alone holds
    clamp(floor(C/d_t + v0), 0, L d/d_t) d_t after t timesteps if v0 = 1/2, ratio <= 2 K and its
    first timesteps reach C: the levels grow with the power of t, where rate coding has K t. What
    the populations before it correct later has to be sent with the smaller step, so leave room for
    it: ratio <= K / 2, or a longer period where K is small.

    The same with constant weights: membranes, pools and the readout are multiplied by the ratio
    (a shift) between timesteps, while step and spikes stay as they are.

    Args:
        max_count: K, largest count per timestep.
        ratio: by which the step is divided: a power of two, >= 2; default 2, from K = 8 on 4.
        levels: L, first steps up to the threshold, at most K period ratio / (ratio - 1). Default:
            what two steps reach, K (1 + 1 / ratio) rounded down, times the period. It came closest
            on a ResNet-20 (K = 4 and 8).
        period: timesteps with the same step.
        initial_membrane: fraction of the step.

    Source: this library, from Kim et al. 2018 (weighted spikes: a phase's spikes weigh 2^-t) and
    You et al. 2024 (signed neuron of differential coding); differs: signed counts up to K correct
    what earlier ones sent, so that a value does not have to be complete before it is sent.
    """
    if ratio == 1:
        raise ArgumentError("ratio: needed a power of two >= 2, got 1. Use Differential for 1.")
    if isinstance(max_count, int) and ratio is None:
        ratio = 4 if max_count >= _COUNT_OF_RATIO_4 else 2
    if isinstance(max_count, int) and levels is None:
        levels = max_count * (ratio + 1) // ratio * period if ratio else None
    return Neuron(
        max_count=max_count,
        signed=True,
        step="fraction",
        initial_membrane=initial_membrane,
        levels=levels,
        schedule=Schedule(ratio=2 if ratio is None else ratio, period=period),
    )


def Staggered(
    max_count: int = 2,
    ratio: int = 2,
    *,
    window: int = 4,
    lag: int = 1,
    levels: int | None = None,
    hysteresis: float = USUAL_HYSTERESIS,
) -> Neuron:
    """Refining neuron whose layers fire one after the other: few spikes, many timesteps.

    A layer is silent and adds up its current until its window begins, `lag` timesteps after that of
    the layers it reads; so it knows its input almost, with lag = window - 1 completely, before it
    sends its first count, and has little to take back. The k-th layer fires in the timesteps
    lag (k - 1) + 1 .. lag (k - 1) + window; a network of D layers, one after the other, needs
    T = lag (D - 1) + window. A membrane is in use for window + lag timesteps, longer behind a skip.

    With hysteresis h and the start v0 = (1 - h) / 2 a count is sent where the rest is at least
    (1 + h) / 2 steps. With ratio 2, for a complete input up to one first step, a timestep then
    carries a count in about one of three cases, where rounding to the nearest (h = 0) has one of
    two: with h = 1/3 it is the non-adjacent form of the number, the signed binary form with the
    fewest digits that are not 0. Larger inputs, which more counts reach, take more of them.

    Args:
        max_count: K, largest count per timestep.
        ratio: by which the step is divided from one timestep of the window to the next, a power of
            two, >= 2.
        window: timesteps in which a layer fires.
        lag: timesteps by which a layer's window begins after that of the layers it reads; beyond
            window - 1 it only adds timesteps.
        levels: L, first steps up to the threshold, at most what the window reaches. Default: what
            two steps reach, K (1 + 1 / ratio) rounded down, or K with a window of one.
        hysteresis: h, steps, in [0, 1); 0 rounds to the nearest.

    Source: this library, from Stöckl & Maass 2021 (few spikes: layer after layer, a spike's weight
    falls with time), Park et al. 2020 (T2FSNN: windows that overlap) and `Refining`; differs:
    signed counts correct what was sent, so windows may overlap, and hysteresis makes them rare.
    """
    for name, value in (("ratio", ratio), ("window", window)):
        if value is None:
            raise ArgumentError(f"{name}: needed a whole number, got None.")
    check_hysteresis(hysteresis)
    if ratio == 1:
        raise ArgumentError("ratio: needed a power of two >= 2, got 1. Use Differential for 1.")
    if levels is None and isinstance(max_count, int) and isinstance(ratio, int) and ratio > 1:
        levels = max_count if window == 1 else max_count * (ratio + 1) // ratio
    return Neuron(
        max_count=max_count,
        signed=True,
        step="fraction",
        initial_membrane=(1 - hysteresis) / 2,
        levels=levels,
        schedule=Schedule(ratio=ratio, window=window, lag=lag),
        hysteresis=float(hysteresis),
    )


def Telescoped(max_count: int = 1, *, initial_membrane: float = 0.5) -> Neuron:
    """The reference neuron, whose output equals the quantized network with K T levels exactly."""
    return Neuron(
        max_count=max_count,
        signed=True,
        step="fraction",
        initial_membrane=initial_membrane,
        telescoped=True,
    )
