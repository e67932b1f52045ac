"""Presets: the settings of the general neuron that have a name."""

from __future__ import annotations

from typing import Literal

from transpike.errors import ArgumentError
from transpike.spiking.neuron import MOST_BITS, USUAL_HYSTERESIS, Neuron, check_hysteresis
from transpike.spiking.schedule import Schedule

_COUNT_OF_RATIO_4 = 8  # smallest max count for which the default ratio of `Refining` is 4, not 2
LONGEST_WINDOW = 7
"""Longest window that helps. After it a staggered layer has sent its input finely enough."""


def IF(*, initial_membrane: float = 0.5) -> Neuron:
    """Integrate-and-fire neuron: at most one spike per timestep, reset by subtraction.

    The step equals the threshold.

    Args:
        initial_membrane: membrane before the first timestep, as a fraction of the step, in [0, 1).

    Raises:
        ArgumentError: a setting is out of range.

    Source: Rueckauer et al. 2017. The start at half a step is from Deng & Gu 2021.
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
        max_count: K, largest count per timestep, >= 1.
        mode: "range": step = threshold, so K counts are worth K thresholds. "resolution":
            step = threshold / K, so K counts are worth one threshold.
        initial_membrane: membrane before the first timestep, as a fraction of the step, in [0, 1).

    Raises:
        ArgumentError: a setting is out of range.

    Source: Li & Zeng 2022 for mode "range"; differs: their initial membrane is 0. Mode
    "resolution" equals the group neuron. With K = 2^n - 1 its counts also equal those of the
    multi-threshold neuron with n thresholds.
    """
    if mode not in ("range", "resolution"):
        raise ArgumentError(f"mode: needed 'range' or 'resolution', got {mode!r}.")
    step: Literal["threshold", "fraction"] = "threshold" if mode == "range" else "fraction"
    return Neuron(max_count=max_count, step=step, initial_membrane=initial_membrane)


def Signed(max_count: int = 1, *, initial_membrane: float = 0.5) -> Neuron:
    """Signed neuron with memory: negative spikes take back earlier positive ones.

    The step is threshold / max_count. A neuron with a negative membrane emits a negative count,
    as long as the sum of its counts stays >= 0.

    Args:
        max_count: K, largest count per timestep, >= 1.
        initial_membrane: membrane before the first timestep, as a fraction of the step, in [0, 1).

    Raises:
        ArgumentError: a setting is out of range.

    Source: Hu et al. 2023 (Fast-SNN, signed IF); differs: it can emit several counts per
    timestep.
    """
    return Neuron(
        max_count=max_count, signed=True, step="fraction", initial_membrane=initial_membrane
    )


def MultiThreshold(bits: int, *, signed: bool = False, initial_membrane: float = 0.5) -> Neuron:
    """Multi-threshold neuron: thresholds d, 2 d, ..., 2^(bits-1) d, with one spike each.

    The step d is threshold / (2^bits - 1). If the largest thresholds fire first, their spikes are
    the binary digits of the count clamp(floor(V/d), 0, 2^bits - 1). The counts therefore equal
    those of `Burst` in mode "resolution" with K = 2^bits - 1. Only the spikes differ: there is one
    for each bit that is set in the count.

    Args:
        bits: number of thresholds, 1 to 16.
        signed: whether counts may be negative, as in `Signed`.
        initial_membrane: membrane before the first timestep, as a fraction of the step, in [0, 1).

    Raises:
        ArgumentError: a setting is out of range.

    Source: Hao et al. 2026 (H-MT). A law test checks the equality.
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

    The input and the biases enter once, at the first timestep. The network then settles at the
    quantized network with `levels` levels, and its spikes stop. T is only the time to settle.

    Args:
        levels: L, number of levels up to the threshold, >= 1. The step is threshold / L.
        max_count: K, largest count per timestep, >= 1.
        initial_membrane: membrane before the first timestep, as a fraction of the step, in [0, 1).

    Raises:
        ArgumentError: a setting is out of range.

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
    """Signed neuron for differential coding whose step shrinks over time.

    At timestep t the step is d_t = d / ratio^floor((t - 1) / period), with d = threshold / levels.
    The first timesteps send a rough value. Later timesteps send the remainder with smaller steps
    and counts of either sign. The number of levels thus grows exponentially with t, where rate
    coding has K t levels.

    Consider one population whose whole input C comes at the first timestep, with v0 = 1/2 and
    ratio <= 2 K. If its first timesteps reach C, its output after t timesteps is
    d_t clamp(floor(C/d_t + v0), 0, L d/d_t). In a network, earlier populations also send
    corrections later, and these must be sent with the smaller step. Leave room for them with
    ratio <= K / 2, or with a longer period if K is small. A correction that does not fit is never
    made up for, so the output need not reach that of the quantized network. The step of `Cyclic`
    returns, and its output always reaches it.

    Hardware can keep the step, the spikes and the weights constant. It then multiplies membranes,
    pools and the readout by the ratio between timesteps, which is a bit shift.

    Args:
        max_count: K, largest count per timestep, >= 1.
        ratio: number that divides the step, a power of two >= 2. Default: 4 if K >= 8, else 2.
        levels: L, number of first steps up to the threshold, at most
            K period ratio / (ratio - 1). Default: floor(K (1 + 1 / ratio)) period, which is what
            two steps reach. It came closest to the analog network on a ResNet-20 (K = 4 and 8).
        period: number of timesteps with the same step, >= 1.
        initial_membrane: membrane before the first timestep, as a fraction of the step, in [0, 1).

    Raises:
        ArgumentError: a setting is out of range.

    Source: this library, after Kim et al. 2018 (weighted spikes, where a spike of phase t weighs
    2^-t) and You et al. 2024 (signed neuron for differential coding); differs: signed counts up
    to K correct what earlier counts sent, so a value can be sent before it is complete.
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


def Cyclic(
    max_count: int = 8,
    divisors: tuple[int, ...] | None = None,
    *,
    levels: int | None = None,
    initial_membrane: float = 0.5,
) -> Neuron:
    """Signed neuron for differential coding whose step becomes smaller and then large again.

    At timestep t the step is d / divisors[(t - 1) mod P], with P divisors and d = threshold /
    levels. The first cycle sends a rough value and then the rest of it. When earlier populations
    correct later what they have sent, the large step passes on a large correction at once. Where
    the rest is less than half of the large step, the large step sends nothing.

    With a static input every population comes to rest, one after the other along the network. The
    output then equals that of the quantized network with L max(divisors) levels, and it stays. The
    step of `Refining` does not return, so `Refining` has no such law.

    Hardware needs spikes of P weights, which are powers of two times the weight of a synapse. The
    membranes and the totals stay as they are.

    Args:
        max_count: K, largest count per timestep, >= 1.
        divisors: the divisors of the step in one cycle, powers of two. Default: (1, 4) if K >= 8,
            else (1, 2). A longer cycle such as (1, 4, 16) has more levels and needs more timesteps.
        levels: L, number of steps d up to the threshold. Default: the sum of floor(K / divisor)
            over the different divisors, which is what one count of every size reaches.
        initial_membrane: membrane before the first timestep, as a fraction of the step, in [0, 1).

    Raises:
        ArgumentError: a setting is out of range.

    Source: this library, after Kim et al. 2018 (weighted spikes with a phase that repeats), You et
    al. 2024 (signed neuron for differential coding) and the canonic signed spike coding of
    arXiv 2408.17245, where the weights of spikes of +-1 double over time and later spikes correct
    what earlier ones sent too much; differs: counts up to K, a step that returns, and the law.
    """
    whole = isinstance(max_count, int) and not isinstance(max_count, bool) and max_count >= 1
    if divisors is None:
        divisors = (1, 4) if whole and max_count >= _COUNT_OF_RATIO_4 else (1, 2)
    schedule = Schedule(divisors=divisors, cyclic=True)
    if levels is None and whole and schedule.divisors is not None:
        levels = max(1, sum(max_count // divisor for divisor in set(schedule.divisors)))
    return Neuron(
        max_count=max_count,
        signed=True,
        step="fraction",
        initial_membrane=initial_membrane,
        levels=levels,
        schedule=schedule,
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

    A layer adds up its current silently until its window starts, `lag` timesteps after the windows
    of the layers that it reads. It then knows most of its input, so it has little to take back.
    With lag = window - 1 it knows all of its input.

    Layer k fires in timesteps lag (k - 1) + 1 to lag (k - 1) + window. A chain of D layers needs
    T = lag (D - 1) + window timesteps. A membrane is in use for window + lag timesteps, and for
    longer behind a skip connection.

    With hysteresis h the initial membrane is v0 = (1 - h) / 2, and a count is sent if the
    remainder is at least (1 + h) / 2 steps. This makes counts rare. With ratio 2 and a complete
    input of at most one first step, about one timestep in three carries a count, against one in
    two without hysteresis. With h = 1/3 the counts are the non-adjacent form of the input: the
    signed binary form with the fewest nonzero digits. Larger inputs need more counts.

    Args:
        max_count: K, largest count per timestep, >= 1.
        ratio: number that divides the step from each timestep of the window to the next, a power
            of two >= 2.
        window: number of timesteps in which a layer fires, >= 1.
        lag: as in `Schedule`, >= 0. A lag beyond window - 1 only adds timesteps.
        levels: L, number of first steps up to the threshold, at most what the window reaches.
            Default: floor(K (1 + 1 / ratio)), or K if the window is 1.
        hysteresis: h, in steps, in [0, 1). With 0 the neuron rounds to the nearest step.

    Raises:
        ArgumentError: a setting is out of range.

    Source: this library, after Stöckl & Maass 2021 (few spikes: layers fire one after the other
    and the weight of a spike falls over time), Park et al. 2020 (T2FSNN: overlapping windows) and
    `Refining`; differs: signed counts correct what was sent before, so windows may overlap.
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
    """The reference neuron: its output equals the quantized network with K T levels exactly.

    Args:
        max_count: K, number of levels per timestep, >= 1. The step is threshold / K.
        initial_membrane: membrane before the first timestep, as a fraction of the step, in [0, 1).

    Raises:
        ArgumentError: a setting is out of range.
    """
    return Neuron(
        max_count=max_count,
        signed=True,
        step="fraction",
        initial_membrane=initial_membrane,
        telescoped=True,
    )
