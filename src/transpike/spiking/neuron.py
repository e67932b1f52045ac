"""One neuron with settings: step, largest count per timestep, sign, initial membrane.

Everything the field calls integrate-and-fire, burst, group, multi-threshold or signed neuron is a
setting of it; the presets at the end say which. Membranes are held in units of the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from transpike.errors import ArgumentError

_COUNT_OF_RATIO_4 = 8  # max count from which a refining neuron's step is divided by 4, not 2
LONGEST_WINDOW = 7
"""Timesteps after which a staggered layer has sent its input as finely as it helps."""
_CACHED = 24_576  # values whose states stay in the second-level cache
_HYSTERESIS = 0.5  # of a staggered neuron: few spikes at little more divergence than 1/3
_MOST_BITS = 16  # of a multi-threshold neuron's counts, of refined levels: exact in float32


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """Settings of the general neuron.

    With step d, membrane V and running total N of the counts, at every timestep: V += current;
    unsigned n = clamp(floor(V/d), 0, K); signed n = max(clamp(floor(V/d), -K, K), -N);
    V -= n d (reset by subtraction); the next operation sees n d. With `levels` L (differential
    coding) also N + n <= L, so that a settled neuron holds clamp(floor(C/d + v0), 0, L) of its
    cumulative input C. With a `ratio` r above 1 the step shrinks as time goes on, see `Refining`;
    with a `window` a layer fires in some timesteps only, see `Staggered`.

    Attributes:
        max_count: K, largest count per timestep, >= 1.
        signed: whether counts may be negative, taking back what was emitted before.
        step: "threshold": d = threshold; "fraction": d = threshold / K, or / L with `levels`.
        initial_membrane: V before the first timestep, as a fraction of the step, in [0, 1).
        telescoped: emit Q_t(C_t) - Q_{t-1}(C_{t-1}) of the cumulative input C with
            Q_t(c) = d clamp(floor(c/d), 0, K t): the reference, exactly the quantised network.
            Its counts are signed and not bounded by K per timestep.
        levels: L, the levels up to the threshold in differential coding; None: rate coding, where
            the levels are K T.
        ratio: r, by which the step is divided every `period` timesteps, in differential coding: a
            power of two; 1: the step stays.
        period: timesteps with the same step, >= 1.
        window: timesteps in which it may fire, >= 1; None: in all from its delay on. Outside of its
            window it adds up its current and is silent.
        lag: timesteps by which the window of a layer begins after those of the layers it reads;
            beyond window - 1, with which its input is complete, it only adds timesteps.
        delay: timesteps before its window. `convert` sets it, whatever it was: lag times the sites
            that come before on the longest path from the input.
        hysteresis: h, by how many steps the membrane has to be below 0 before a count is taken
            back, in [0, 1): n = floor(V/d) where V >= 0, else min(0, floor(V/d + h)).
        code: how a count is sent, which is how spikes are counted: "unit": |n| spikes; "binary":
            one spike per bit set in |n|.

    Raises:
        ArgumentError: a setting is out of range.
    """

    max_count: int = 1
    signed: bool = False
    step: Literal["threshold", "fraction"] = "threshold"
    initial_membrane: float = 0.5
    telescoped: bool = False
    levels: int | None = None
    ratio: int = 1
    period: int = 1
    window: int | None = None
    lag: int = 0
    delay: int = 0
    hysteresis: float = 0.0
    code: Literal["unit", "binary"] = "unit"

    def __post_init__(self) -> None:
        count = self.max_count
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ArgumentError(f"max_count: needed an integer >= 1, got {self.max_count!r}.")
        if self.step not in ("threshold", "fraction"):
            raise ArgumentError(f"step: needed 'threshold' or 'fraction', got {self.step!r}.")
        v0 = self.initial_membrane
        if not (math.isfinite(v0) and 0 <= v0 < 1):
            raise ArgumentError(f"initial_membrane: needed a fraction 0 <= v0 < 1, got {v0!r}.")
        if self.code not in ("unit", "binary"):
            raise ArgumentError(f"code: needed 'unit' or 'binary', got {self.code!r}.")
        self._check_window()
        self._check_refinement()
        if self.levels is not None:
            self._check_levels(self.levels)

    def _check_levels(self, levels: int) -> None:
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
            raise ArgumentError(f"levels: needed an integer >= 1, got {levels!r}.")
        if not self.signed or self.telescoped or self.step != "fraction":
            raise ArgumentError(
                "levels: differential coding needs a signed neuron with step='fraction', which is "
                "not telescoped. Use Differential(levels, max_count)."
            )

    def _check_refinement(self) -> None:
        for name, value in (("ratio", self.ratio), ("period", self.period)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ArgumentError(f"{name}: needed an integer >= 1, got {value!r}.")
        if self.ratio & (self.ratio - 1):
            raise ArgumentError(f"ratio: needed a power of two, got {self.ratio!r}.")
        if self.ratio > 1 and self.levels is None:
            raise ArgumentError(
                "ratio: a step that shrinks needs levels. Use Refining(max_count, ratio)."
            )
        if self.ratio == 1 and self.period > 1:
            raise ArgumentError(f"period: needed 1 with ratio 1, got {self.period!r}.")
        ends = self.ratio > 1 or self.window is not None
        if ends and isinstance(self.levels, int) and self.levels >= 1:
            self._check_reachable_levels(self.levels)

    def _check_reachable_levels(self, levels: int) -> None:
        most = _reachable(self.max_count, self.ratio, self.period, self.window)
        if levels > most:
            within = "" if self.window is None else f" in a window of {self.window}"
            raise ArgumentError(
                f"levels: K = {self.max_count} counts reach at most {most} first steps with ratio "
                f"{self.ratio} and period {self.period}{within}, got {levels} levels. Use fewer."
            )
        if self.ratio > 1 and levels * self.ratio > 2**_MOST_BITS:
            raise ArgumentError(
                f"ratio: needed levels times ratio <= 2^{_MOST_BITS}, got {levels} and "
                f"{self.ratio}: the step would never shrink."
            )

    def _check_window(self) -> None:
        least = {"lag": 0, "delay": 0} | ({} if self.window is None else {"window": 1})
        for name, lowest in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ArgumentError(f"{name}: needed an integer >= {lowest}, got {value!r}.")
        _check_hysteresis(self.hysteresis)
        for name in ("window", "lag", "delay", "hysteresis"):
            if self.levels is None and getattr(self, name):
                raise ArgumentError(
                    f"{name}: needed levels beside it, that is differential coding. Use "
                    "Staggered(max_count, ratio)."
                )

    @property
    def scheduled(self) -> bool:
        """Whether its timesteps differ: its step shrinks, or it fires in some of them only."""
        return self.ratio > 1 or self.window is not None or self.delay > 0

    def fires_at(self, t: int) -> bool:
        """Whether timestep t (1-based) is in its window."""
        return self.delay < t and (self.window is None or t <= self.delay + self.window)

    @property
    def name(self) -> str:
        """How tables call this neuron."""
        if self.ratio > 1:
            rest = f", L={self.levels}" if self.levels != self.max_count else ""
            rest += f", period={self.period}" if self.period > 1 else ""
            kind = "refining" if self.window is None else "staggered"
            return f"{kind} K={self.max_count}, ratio={self.ratio}{rest}{self._when}"
        if self.levels is not None:
            return f"differential L={self.levels}, K={self.max_count}{self._when}"
        if self.telescoped:
            return f"reference (telescoped, K={self.max_count})"
        if self.max_count == 1:
            return "signed" if self.signed else "IF"
        if self.code == "binary" and self.step == "fraction":
            kind = "signed multi-threshold" if self.signed else "multi-threshold"
            return f"{kind} K={self.max_count}"
        kind = "signed burst" if self.signed else "burst"
        mode = "resolution" if self.step == "fraction" else "range"
        return f"{kind} K={self.max_count} ({mode})"

    @property
    def _when(self) -> str:
        """Of its name: when it fires, and from where on if that is not as in the preset."""
        found = f", window={self.window}" if self.window is not None else ""
        found += f", lag={self.lag}" if self.lag or self.window is not None else ""
        usual = 0.0 if self.window is None else _HYSTERESIS
        return found + (f", hysteresis={self.hysteresis:.3g}" if self.hysteresis != usual else "")

    @property
    def range_factor(self) -> int:
        """Thresholds the neuron reaches per timestep."""
        return self.max_count if self.step == "threshold" else 1

    def step_of(self, threshold: Tensor) -> Tensor:
        """The step d for a threshold, activation units."""
        if self.step == "threshold":
            return threshold
        return threshold / (self.max_count if self.levels is None else self.levels)

    def levels_at(self, t: int) -> int:
        """Largest total after t timesteps, in units of the step at t.

        K t, or L in differential coding, times the ratio's power where the step has shrunk.
        """
        return self.max_count * t if self.levels is None else self.levels * self.finer_at(t)

    def reach_at(self, t: int) -> int:
        """Largest total after t timesteps, in units of the first step."""
        return self.max_count * t if self.levels is None else self.levels

    def finer_at(self, t: int) -> int:
        """First step over the step at timestep t (1-based); it grows while L times it fits 16 bits.

        A spike at t is worth step / finer_at(t). Before and after the window it stays.
        """
        if self.ratio == 1 or self.levels is None:
            return 1
        own = max(t - self.delay, 1)
        own = own if self.window is None else min(own, self.window)
        finer: int = self.ratio ** min((own - 1) // self.period, _MOST_BITS)
        while finer > 1 and self.levels * finer > 2**_MOST_BITS:
            finer //= self.ratio
        return finer


def _check_hysteresis(value: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value < 1):
        raise ArgumentError(f"hysteresis: needed 0 <= h < 1, got {value!r}.")


def _reachable(max_count: int, ratio: int, period: int, window: int | None) -> int:
    """First steps that K counts per timestep reach in a window, or in the end."""
    if ratio == 1:
        assert window is not None
        return max_count * window
    whole = max_count * period * ratio // (ratio - 1)
    if window is None or window > 2 * _MOST_BITS * period:
        return whole
    return int(sum(Fraction(max_count, ratio ** (i // period)) for i in range(window)))


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
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= _MOST_BITS:
        raise ArgumentError(f"bits: needed an integer in 1..{_MOST_BITS}, got {bits!r}.")
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
    stop, at the quantised network with `levels` levels. T is only the time to settle.

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
        ratio=2 if ratio is None else ratio,
        period=period,
    )


def Staggered(
    max_count: int = 2,
    ratio: int = 2,
    *,
    window: int = 4,
    lag: int = 1,
    levels: int | None = None,
    hysteresis: float = _HYSTERESIS,
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
    _check_hysteresis(hysteresis)
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
        ratio=ratio,
        window=window,
        lag=lag,
        hysteresis=float(hysteresis),
    )


def Telescoped(max_count: int = 1, *, initial_membrane: float = 0.5) -> Neuron:
    """The reference neuron, whose output equals the quantised network with K T levels exactly."""
    return Neuron(
        max_count=max_count,
        signed=True,
        step="fraction",
        initial_membrane=initial_membrane,
        telescoped=True,
    )


@dataclass
class State:
    """State of one population, in units of the step; created for every call.

    Attributes:
        membrane: (B, ...); for the telescoped neuron the cumulative input.
        total: (B, ...) running total of the counts, or None where no rule needs it.
    """

    membrane: Tensor
    total: Tensor | None


def initial_state(
    neuron: Neuron, bounded: bool, like: Tensor, start: Tensor | None = None
) -> State:
    """State before the first timestep, for a current of the shape of `like`.

    Args:
        neuron: settings.
        bounded: the activation has an upper bound.
        like: (B, ...).
        start: initial membrane in units of the step, broadcastable over (B, ...); None means the
            neuron's own.
    """
    needs_total = neuron.signed or neuron.telescoped or bounded
    membrane = torch.full_like(like, neuron.initial_membrane)
    if start is not None:
        membrane.copy_(start.expand_as(membrane))
    return State(membrane=membrane, total=torch.zeros_like(like) if needs_total else None)


def level_limit(
    neuron: Neuron, t: int, bound: Tensor | None, start: Tensor | None = None
) -> Tensor | float:
    """Largest total after t timesteps; `bound` is c/d of an activation clamp(x, 0, c).

    With a bound: max(0, floor(bound t + start)), and no t in differential coding. Of a refining
    neuron the result is in units of the step at t, the bound in those of the first, and a start
    other than the neuron's own is a current like any other: it does not move the bound.
    """
    most = float(neuron.levels_at(t))
    if bound is None:
        return most
    reach = bound * (t if neuron.levels is None else neuron.finer_at(t))
    if start is None or neuron.ratio > 1:
        start = torch.as_tensor(neuron.initial_membrane)
    limit = torch.floor(reach + start)
    return torch.clamp(limit, min=0, max=most)


def refined_start(neuron: Neuron, start: Tensor, t: int) -> Tensor:
    """The initial membrane in units of the step at t: what it has beyond the neuron's own grows."""
    finer, v0 = neuron.finer_at(t), neuron.initial_membrane
    return start if finer == 1 else (start - v0) * finer + v0


def refine(neuron: Neuron, state: State, t: int) -> None:
    """Express the state before timestep t (1-based) in units of the step of t, in place.

    The neuron's own start v0 is what a count is rounded by: it stays a fraction of the step.
    """
    if t == 1 or neuron.finer_at(t) == neuron.finer_at(t - 1):
        return
    state.membrane = state.membrane * neuron.ratio - neuron.initial_membrane * (neuron.ratio - 1)
    if state.total is not None:
        state.total = state.total * neuron.ratio


def level_of(neuron: Neuron, membrane: Tensor) -> Tensor:
    """Steps a membrane is above or, beyond the hysteresis, below 0; a new tensor."""
    if not neuron.hysteresis:
        return torch.floor(membrane)
    negative = torch.floor(membrane + neuron.hysteresis).clamp_(max=0)
    return torch.floor(membrane.clamp(min=0)) + negative


def fire(
    neuron: Neuron, state: State, t: int, bound: Tensor | None, start: Tensor | None = None
) -> Tensor:
    """Counts of timestep t (1-based) from a membrane that already holds this step's current.

    Updates the state in place. `bound` is c/d, `start` the initial membrane in units of the step,
    both broadcastable over the membrane, or None.
    """
    if not neuron.fires_at(t):
        return torch.zeros_like(state.membrane)
    level = level_of(neuron, state.membrane)
    if neuron.telescoped:
        assert state.total is not None
        limit = torch.as_tensor(level_limit(neuron, t, bound, start))
        reached = torch.minimum(level.clamp_(min=0), limit)
        count = reached - state.total
        state.total = reached
        return count
    count = level.clamp_(min=-neuron.max_count if neuron.signed else 0, max=neuron.max_count)
    if state.total is not None:
        if neuron.signed:
            count = torch.maximum(count, -state.total)
        if bound is not None or neuron.levels is not None:
            # The activation's own bound c: N <= floor(c t / d + v0); the levels: N <= L.
            limit = torch.as_tensor(level_limit(neuron, t, bound, start))
            count = torch.minimum(count, limit - state.total)
        state.total = state.total + count
    state.membrane = state.membrane - count
    return count


def quantized(neuron: Neuron, drive: Tensor, t: int, start: Tensor, bound: Tensor | None) -> Tensor:
    """What a population alone holds after t timesteps of an input it had from the first on.

    floor(C/d + start) within 0 and the levels, with d the step at t, where K does not bind it. With
    a window or hysteresis it depends on the counts before, and the timesteps are gone through.

    Args:
        neuron: settings.
        drive: cumulative input C over t timesteps, (B, ...), in units of the first step.
        t: timesteps, >= 1.
        start: initial membrane, in units of the first step, broadcastable over (B, ...).
        bound: c/d of an activation clamp(x, 0, c), or None.

    Returns:
        (B, ...), in units of the first step.
    """
    fine = neuron.finer_at(t)
    if t <= neuron.delay:
        return torch.zeros_like(drive)
    if neuron.hysteresis or neuron.window is not None:
        rows = max(1, _CACHED * len(drive) // max(1, drive.numel()))
        parts = torch.split(drive, rows)
        return torch.cat([_gone_through(neuron, part, t, start, bound) for part in parts]) / fine
    level = torch.floor(drive * fine + refined_start(neuron, start, t)).clamp_(min=0)
    limit = level_limit(neuron, t, bound, start)
    return torch.minimum(level, torch.as_tensor(limit)) / fine


def _gone_through(
    neuron: Neuron, drive: Tensor, t: int, start: Tensor, bound: Tensor | None
) -> Tensor:
    """Total after t timesteps, in units of the step at t, of a current that came before them."""
    state = initial_state(neuron, bound is not None, drive, start)
    state.membrane = state.membrane + drive
    last = t if neuron.window is None else min(t, neuron.delay + neuron.window)
    for now in range(neuron.delay + 1, last + 1):
        refine(neuron, state, now)
        fire(neuron, state, now, bound, start)
    assert state.total is not None
    return state.total
