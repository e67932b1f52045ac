"""The general neuron: its settings, its state and its update.

The integrate-and-fire, burst, group, multi-threshold and signed neurons of the literature are
settings of this one neuron. `presets` lists these settings. Membranes are in units of the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor

from transpike.errors import ArgumentError
from transpike.graph.limits import check_count
from transpike.spiking.schedule import Schedule

_CACHED = 24_576  # number of values whose states fit in the second-level cache
# Default of a staggered neuron. It gives fewer spikes than 1/3 at little more divergence.
USUAL_HYSTERESIS = 0.5
# Bits of the counts of a multi-threshold neuron, and of refined levels. Both are exact in float32.
MOST_BITS = 16


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """Settings of the general neuron.

    Let d be the step, V the membrane, which starts at v0 d, and N the sum of all counts so far.
    At every timestep:

    1. The current is added: V += current.
    2. The count n is chosen. An unsigned neuron has n = clamp(floor(V/d), 0, K). A signed neuron
       has n = max(clamp(floor(V/d), -K, K), -N). Behind a region, where values have either sign,
       the least total is that of the least value, and not 0.
    3. The membrane is reset by subtraction: V -= n d. The next operation receives n d.

    With `levels` L (differential coding), n also satisfies N + n <= L. When the neuron has
    settled, N is clamp(floor(C/d + v0), 0, L), where C is its cumulative input. With a `schedule`
    the step shrinks over time (`Refining`), becomes smaller and larger in turn (`Cyclic`), or the
    neuron fires in some timesteps only (`Staggered`). V and N are then in units of the smallest
    step so far. A count n at a larger step of u units is worth n u of them, so nothing is rounded.

    Attributes:
        max_count: K, largest count per timestep, >= 1.
        signed: whether counts may be negative. A negative count takes back earlier counts.
        step: "threshold": d = threshold. "fraction": d = threshold / K, or threshold / L with
            `levels`.
        initial_membrane: v0, V before the first timestep, as a fraction of the step, in [0, 1).
        telescoped: whether the neuron emits Q_t(C_t) - Q_{t-1}(C_{t-1}), where
            Q_t(c) = d clamp(floor(c/d), 0, K t) and C_t is the cumulative input with the initial
            membrane. This is the reference, which equals the quantized network exactly. Its
            counts are signed, and K does not limit them in a single timestep. C_t grows with t, so
            in float32 it is off by up to t 2^-24 of itself: 6e-5 at t = 1000. Use `snn.double()`
            for much longer simulations. Other neurons do not drift.
        levels: L, number of levels up to the threshold in differential coding. None means rate
            coding, which has K T levels after T timesteps.
        schedule: how the step changes, and in which timesteps the neuron fires. Any schedule but
            the default needs `levels`.
        hysteresis: h, the number of steps that the membrane must be below 0 before a count is
            taken back, in [0, 1). Where V < 0, min(0, floor(V/d + h)) replaces floor(V/d).
        code: how a count is sent as spikes. "unit": |n| spikes. "binary": one spike for each bit
            that is set in |n|.

    Raises:
        ArgumentError: a setting is out of range.
    """

    max_count: int = 1
    signed: bool = False
    step: Literal["threshold", "fraction"] = "threshold"
    initial_membrane: float = 0.5
    telescoped: bool = False
    levels: int | None = None
    schedule: Schedule = field(default_factory=Schedule)
    hysteresis: float = 0.0
    code: Literal["unit", "binary"] = "unit"

    def __post_init__(self) -> None:
        check_count("max_count", self.max_count)
        if self.step not in ("threshold", "fraction"):
            raise ArgumentError(f"step: needed 'threshold' or 'fraction', got {self.step!r}.")
        v0 = self.initial_membrane
        if not (math.isfinite(v0) and 0 <= v0 < 1):
            raise ArgumentError(f"initial_membrane: needed a fraction 0 <= v0 < 1, got {v0!r}.")
        if self.code not in ("unit", "binary"):
            raise ArgumentError(f"code: needed 'unit' or 'binary', got {self.code!r}.")
        check_hysteresis(self.hysteresis)
        if not isinstance(self.schedule, Schedule):
            raise ArgumentError(
                f"schedule: needed a Schedule, got {self.schedule!r}. Use Schedule(ratio=2)."
            )
        if self.levels is None:
            self._check_without_levels()
        else:
            self._check_levels(self.levels)
            self._check_reachable_levels(self.levels)

    def _check_without_levels(self) -> None:
        if self.schedule.shrinks:
            if self.schedule.divisors is not None:
                raise ArgumentError(
                    "divisors: a step that changes needs levels, got levels=None. Use "
                    "Cyclic(max_count, divisors)."
                )
            raise ArgumentError(
                "ratio: a step that shrinks needs levels, got levels=None. Use "
                "Refining(max_count, ratio)."
            )
        timed = {name: getattr(self.schedule, name) for name in ("window", "lag", "delay")}
        for name, value in (timed | {"hysteresis": self.hysteresis}).items():
            if value:
                raise ArgumentError(
                    f"{name}: needed differential coding, got levels=None. Use "
                    "Staggered(max_count, ratio)."
                )

    def _check_levels(self, levels: int) -> None:
        check_count("levels", levels)
        if not self.signed or self.telescoped or self.step != "fraction":
            raise ArgumentError(
                "levels: differential coding needs signed=True, step='fraction' and "
                "telescoped=False. Use Differential(levels, max_count)."
            )

    def _check_reachable_levels(self, levels: int) -> None:
        schedule = self.schedule
        most = schedule.reachable(self.max_count)
        if most is not None and levels > most:
            within = "" if schedule.window is None else f" in a window of {schedule.window}"
            steps = f"ratio {schedule.ratio} and period {schedule.period}"
            if schedule.divisors is not None:
                steps = f"divisors {schedule.divisors}"
            raise ArgumentError(
                f"levels: needed at most {most}, got {levels}. With {steps}, {self.max_count} "
                f"counts per timestep reach no more{within}. Use fewer levels."
            )
        if schedule.divisors is not None and levels * max(schedule.divisors) > 2**MOST_BITS:
            raise ArgumentError(
                f"divisors: needed levels * divisor <= 2^{MOST_BITS}, got {levels} levels and "
                f"divisor {max(schedule.divisors)}. Use fewer levels or smaller divisors."
            )
        if schedule.shrinks and levels * schedule.ratio > 2**MOST_BITS:
            raise ArgumentError(
                f"ratio: needed levels * ratio <= 2^{MOST_BITS}, so that the step can shrink, got "
                f"{levels} levels and ratio {schedule.ratio}. Use fewer levels or a smaller ratio."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values. The values of the schedule stand beside the others."""
        values = asdict(self)
        del values["schedule"]
        return values | self.schedule.to_dict()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Neuron:
        """The neuron from the values that `to_dict` gave.

        Raises:
            TypeError: a key is unknown.
            ArgumentError: a value is out of range.
        """
        own = dict(content)
        timed = {one.name: own.pop(one.name) for one in fields(Schedule) if one.name in own}
        return cls(**own, schedule=Schedule.from_dict(timed))

    @property
    def name(self) -> str:
        """Name of this neuron in tables."""
        if self.schedule.divisors is not None and self.levels is not None:
            kind = "cyclic" if self.schedule.cyclic else "stepped"
            divisors = "-".join(map(str, self.schedule.divisors))
            rest = f", L={self.levels}" if self.levels != self.max_count else ""
            return f"{kind} K={self.max_count}, divisors={divisors}{rest}{self._when}"
        if self.schedule.shrinks:
            rest = f", L={self.levels}" if self.levels != self.max_count else ""
            rest += f", period={self.schedule.period}" if self.schedule.period > 1 else ""
            kind = "refining" if self.schedule.window is None else "staggered"
            return f"{kind} K={self.max_count}, ratio={self.schedule.ratio}{rest}{self._when}"
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
        """The end of the name: window, lag, and hysteresis if it is not the preset's default."""
        found = f", window={self.schedule.window}" if self.schedule.window is not None else ""
        found += (
            f", lag={self.schedule.lag}"
            if self.schedule.lag or self.schedule.window is not None
            else ""
        )
        usual = 0.0 if self.schedule.window is None else USUAL_HYSTERESIS
        return found + (f", hysteresis={self.hysteresis:.3g}" if self.hysteresis != usual else "")

    @property
    def range_factor(self) -> int:
        """Upper end of the range of activations, in units of the threshold."""
        return self.max_count if self.step == "threshold" else 1

    def step_of(self, threshold: Tensor) -> Tensor:
        """The step d of a threshold, in activation units and with the shape of the threshold."""
        if self.step == "threshold":
            return threshold
        return threshold / (self.max_count if self.levels is None else self.levels)

    def levels_at(self, t: int) -> int:
        """Largest total after t timesteps, in units of the smallest step so far.

        It is K t in rate coding. In differential coding it is L times `finer_at(t)`.
        """
        return self.max_count * t if self.levels is None else self.levels * self.finer_at(t)

    def reach_at(self, t: int) -> int:
        """Largest total after t timesteps, in units of the first step: K t, or L."""
        return self.max_count * t if self.levels is None else self.levels

    def finer_at(self, t: int) -> int:
        """The first step divided by the smallest step of the timesteps 1 to t.

        The state is in units of this smallest step. The result grows as long as L times the result
        fits in 16 bits. It does not change before or after the window.
        """
        if self.levels is None:
            return 1
        return self.schedule.finest_at(t, 2**MOST_BITS // self.levels)

    def divisor_at(self, t: int) -> int:
        """The first step divided by the step at timestep t (1-based).

        A spike at t is worth step / divisor_at(t).
        """
        if self.levels is None:
            return 1
        return self.schedule.divisor_at(t, 2**MOST_BITS // self.levels)

    def unit_at(self, t: int) -> int:
        """The step at timestep t, in units of the smallest step so far: a power of two."""
        return self.finer_at(t) // self.divisor_at(t)


def check_hysteresis(value: float) -> None:
    """Refuse a hysteresis outside [0, 1).

    Raises:
        ArgumentError: `value` is not a number in [0, 1).
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value < 1):
        raise ArgumentError(f"hysteresis: needed 0 <= h < 1, got {value!r}.")


@dataclass
class State:
    """State of one population, in units of the smallest step so far. Every call makes a new one.

    Attributes:
        membrane: (B, ...). Of a telescoped neuron it is the initial membrane plus the cumulative
            input.
        total: (B, ...) sum of all counts so far, or None if the neuron does not need it.
    """

    membrane: Tensor
    total: Tensor | None


def initial_state(
    neuron: Neuron, bounded: bool, like: Tensor, start: Tensor | None = None
) -> State:
    """State before the first timestep.

    Args:
        neuron: settings.
        bounded: whether the activation has an upper bound.
        like: (B, ...) tensor with the shape, dtype and device of the current.
        start: initial membrane in units of the step, broadcastable over (B, ...). None means
            `neuron.initial_membrane`.
    """
    needs_total = neuron.signed or neuron.telescoped or bounded
    membrane = torch.full_like(like, neuron.initial_membrane)
    if start is not None:
        membrane.copy_(refined_start(neuron, start, 1).expand_as(membrane))
    return State(membrane=membrane, total=torch.zeros_like(like) if needs_total else None)


def level_limit(
    neuron: Neuron, t: int, bound: Tensor | None, start: Tensor | None = None
) -> Tensor | float:
    """Largest total after t timesteps, in units of the smallest step so far.

    Without a bound it is `levels_at(t)`. A bound lowers it to max(0, floor(bound t + start)) in
    rate coding, and to max(0, floor(bound r + start)) with r = `finer_at(t)` in differential
    coding. If the step shrinks, `start` is replaced by the initial membrane of the neuron: the
    rest of `start` acts like a current, which does not move the bound.

    Args:
        neuron: settings.
        t: timesteps, >= 1.
        bound: c/d of an activation clamp(x, 0, c), where d is the first step, or None.
        start: initial membrane in units of the step, broadcastable over (B, ...). None means
            `neuron.initial_membrane`.

    Returns:
        A number, or with a bound a tensor that broadcasts over (B, ...).
    """
    most = float(neuron.levels_at(t))
    if bound is None:
        return most
    reach = bound * (t if neuron.levels is None else neuron.finer_at(t))
    if start is None or neuron.schedule.shrinks:
        start = torch.as_tensor(neuron.initial_membrane)
    limit = torch.floor(reach + start)
    return torch.clamp(limit, min=0, max=most)


def lower_limit(
    neuron: Neuron, t: int, lower: Tensor | None, start: Tensor | None = None
) -> Tensor | float:
    """Least total after t timesteps, in units of the smallest step so far, 0 without a bound.

    With a bound it is min(0, floor(lower t + start)), but at least minus the number of levels. Here
    `lower` is the lower bound divided by d, <= 0, or None. All else is as in `level_limit`.
    """
    if lower is None:
        return 0.0
    reach = lower * (t if neuron.levels is None else neuron.finer_at(t))
    if start is None or neuron.schedule.shrinks:
        start = torch.as_tensor(neuron.initial_membrane)
    return torch.clamp(torch.floor(reach + start), min=-float(neuron.levels_at(t)), max=0)


def refined_start(neuron: Neuron, start: Tensor, t: int) -> Tensor:
    """The initial membrane in units of the smallest step of the timesteps 1 to t.

    The initial membrane v0 of the neuron stays the same fraction of the step. The difference
    between `start` and v0 is converted from first steps to that step.
    """
    finer, v0 = neuron.finer_at(t), neuron.initial_membrane
    return start if finer == 1 else (start - v0) * finer + v0


def refine(neuron: Neuron, state: State, t: int) -> None:
    """Convert the state before timestep t (1-based) if its step is the smallest so far, in place.

    The initial membrane v0 of the neuron sets how counts are rounded. It stays the same fraction
    of the step. A step that becomes larger again changes nothing here, so nothing is rounded.
    """
    if t == 1 or neuron.finer_at(t) == neuron.finer_at(t - 1):
        return
    factor = neuron.finer_at(t) // neuron.finer_at(t - 1)
    state.membrane = state.membrane * factor - neuron.initial_membrane * (factor - 1)
    if state.total is not None:
        state.total = state.total * factor


def in_steps(neuron: Neuron, membrane: Tensor, unit: int) -> Tensor:
    """A membrane V as (V - v0) / unit + v0: in steps of `unit` units, with the same v0.

    The division is exact, because `unit` is a power of two.
    """
    if unit == 1:
        return membrane
    return (membrane + neuron.initial_membrane * (unit - 1)) / unit


def whole_steps(total: Tensor, unit: int) -> Tensor:
    """The number of whole steps of `unit` units in a whole total >= 0."""
    return total if unit == 1 else torch.floor(total / unit)


def level_of(neuron: Neuron, membrane: Tensor) -> Tensor:
    """The number of whole steps in the membrane, with hysteresis below 0, as a new tensor."""
    if not neuron.hysteresis:
        return torch.floor(membrane)
    negative = torch.floor(membrane + neuron.hysteresis).clamp_(max=0)
    return torch.floor(membrane.clamp(min=0)) + negative


def fire(
    neuron: Neuron,
    state: State,
    t: int,
    bound: Tensor | None,
    start: Tensor | None = None,
    lower: Tensor | None = None,
) -> Tensor:
    """Counts of timestep t, (B, ...), in units of the step at t. The state is updated in place.

    The state is in units of the smallest step so far, and the step at t is u of them. With the rest
    V - v0, the count is floor((V - v0) / u + v0) before it is limited. With v0 = 1/2, a rest below
    half of the step at t thus gives no count.

    Args:
        neuron: settings.
        state: state whose membrane already contains the current of timestep t.
        t: timestep (1-based).
        bound: c/d of an activation clamp(x, 0, c), broadcastable over the membrane, or None.
        start: initial membrane in units of the step, broadcastable over the membrane. None means
            `neuron.initial_membrane`.
        lower: the lower bound of the activation divided by d, <= 0, like `bound`. None means 0.
    """
    if not neuron.schedule.fires_at(t):
        return torch.zeros_like(state.membrane)
    unit = neuron.unit_at(t)
    level = level_of(neuron, in_steps(neuron, state.membrane, unit))
    least = lower_limit(neuron, t, lower, start)
    if neuron.telescoped:
        assert state.total is not None
        limit = torch.as_tensor(level_limit(neuron, t, bound, start))
        reached = torch.minimum(level.clamp_(min=least), limit)
        count = reached - state.total
        state.total = reached
        return count
    count = level.clamp_(min=-neuron.max_count if neuron.signed else 0, max=neuron.max_count)
    if state.total is not None:
        if neuron.signed:
            count = torch.maximum(count, -whole_steps(state.total - least, unit))
        if bound is not None or neuron.levels is not None:
            # A bound c of the activation gives N <= floor(c t / d + v0). Levels give N <= L.
            limit = torch.as_tensor(level_limit(neuron, t, bound, start))
            count = torch.minimum(count, whole_steps(limit - state.total, unit))
        state.total = state.total + count * unit
    state.membrane = state.membrane - count * unit
    return count


def quantized(
    neuron: Neuron,
    drive: Tensor,
    t: int,
    start: Tensor,
    bound: Tensor | None,
    lower: Tensor | None = None,
) -> Tensor:
    """Total output of a population after t timesteps that has its whole input from the start.

    The total is floor(C/d + start), limited to the range from 0 (or from `lower`) to the number of
    levels, where d is the smallest step of the timesteps 1 to t. It ignores the limit of K counts
    per timestep. With a window or hysteresis the total depends on earlier counts, so the timesteps
    are simulated one by one, with that limit.

    Args:
        neuron: settings.
        drive: cumulative input C over t timesteps, (B, ...), in units of the first step.
        t: timesteps, >= 1.
        start: initial membrane in units of the first step, broadcastable over (B, ...).
        bound: c/d of an activation clamp(x, 0, c), or None.
        lower: the lower bound of the activation divided by d, <= 0. None means 0.

    Returns:
        The total, (B, ...), in units of the first step.
    """
    fine = neuron.finer_at(t)
    if t <= neuron.schedule.delay:
        return torch.zeros_like(drive)
    if neuron.hysteresis or neuron.schedule.window is not None:
        rows = max(1, _CACHED * len(drive) // max(1, drive.numel()))
        parts = torch.split(drive, rows)
        ends = [_gone_through(neuron, part, t, start, bound, lower) for part in parts]
        return torch.cat(ends) / fine
    level = torch.floor(drive * fine + refined_start(neuron, start, t))
    level = level.clamp_(min=lower_limit(neuron, t, lower, start))
    limit = level_limit(neuron, t, bound, start)
    return torch.minimum(level, torch.as_tensor(limit)) / fine


def _gone_through(
    neuron: Neuron,
    drive: Tensor,
    t: int,
    start: Tensor,
    bound: Tensor | None,
    lower: Tensor | None,
) -> Tensor:
    """Total after t timesteps, in units of the smallest step, with all current before the first."""
    state = initial_state(neuron, bound is not None, drive, start)
    state.membrane = state.membrane + drive * neuron.finer_at(1)
    last = (
        t
        if neuron.schedule.window is None
        else min(t, neuron.schedule.delay + neuron.schedule.window)
    )
    for now in range(neuron.schedule.delay + 1, last + 1):
        refine(neuron, state, now)
        fire(neuron, state, now, bound, start, lower)
    assert state.total is not None
    return state.total
