"""One neuron with settings: step, largest count per timestep, sign, initial membrane, schedule.

Everything the field calls integrate-and-fire, burst, group, multi-threshold or signed neuron is a
setting of it; `presets` says which. Membranes are held in units of the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor

from transpike.errors import ArgumentError
from transpike.spiking.schedule import Schedule

_CACHED = 24_576  # values whose states stay in the second-level cache
USUAL_HYSTERESIS = 0.5  # of a staggered neuron: few spikes at little more divergence than 1/3
MOST_BITS = 16  # of a multi-threshold neuron's counts, of refined levels: exact in float32


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """Settings of the general neuron.

    With step d, membrane V and running total N of the counts, at every timestep: V += current;
    unsigned n = clamp(floor(V/d), 0, K); signed n = max(clamp(floor(V/d), -K, K), -N);
    V -= n d (reset by subtraction); the next operation sees n d. With `levels` L (differential
    coding) also N + n <= L, so that a settled neuron holds clamp(floor(C/d + v0), 0, L) of its
    cumulative input C. Its `schedule` lets the step shrink as time goes on, see `Refining`, or
    lets a layer fire in some timesteps only, see `Staggered`.

    Attributes:
        max_count: K, largest count per timestep, >= 1.
        signed: whether counts may be negative, taking back what was emitted before.
        step: "threshold": d = threshold; "fraction": d = threshold / K, or / L with `levels`.
        initial_membrane: V before the first timestep, as a fraction of the step, in [0, 1).
        telescoped: emit Q_t(C_t) - Q_{t-1}(C_{t-1}) of the cumulative input C with
            Q_t(c) = d clamp(floor(c/d), 0, K t): the reference, exactly the quantized network.
            Its counts are signed and not bounded by K per timestep.
        levels: L, the levels up to the threshold in differential coding; None: rate coding, where
            the levels are K T.
        schedule: how the step shrinks and in which timesteps the neuron fires. Anything but the
            default needs `levels`.
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
    schedule: Schedule = field(default_factory=Schedule)
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
            raise ArgumentError(
                "ratio: a step that shrinks needs levels. Use Refining(max_count, ratio)."
            )
        timed = {name: getattr(self.schedule, name) for name in ("window", "lag", "delay")}
        for name, value in (timed | {"hysteresis": self.hysteresis}).items():
            if value:
                raise ArgumentError(
                    f"{name}: needed levels beside it, that is differential coding. Use "
                    "Staggered(max_count, ratio)."
                )

    def _check_levels(self, levels: int) -> None:
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
            raise ArgumentError(f"levels: needed an integer >= 1, got {levels!r}.")
        if not self.signed or self.telescoped or self.step != "fraction":
            raise ArgumentError(
                "levels: differential coding needs a signed neuron with step='fraction', which is "
                "not telescoped. Use Differential(levels, max_count)."
            )

    def _check_reachable_levels(self, levels: int) -> None:
        schedule = self.schedule
        most = schedule.reachable(self.max_count)
        if most is not None and levels > most:
            within = "" if schedule.window is None else f" in a window of {schedule.window}"
            raise ArgumentError(
                f"levels: K = {self.max_count} counts reach at most {most} first steps with ratio "
                f"{schedule.ratio} and period {schedule.period}{within}, got {levels} levels. Use "
                "fewer."
            )
        if schedule.shrinks and levels * schedule.ratio > 2**MOST_BITS:
            raise ArgumentError(
                f"ratio: needed levels times ratio <= 2^{MOST_BITS}, got {levels} and "
                f"{schedule.ratio}: the step would never shrink."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; those of the schedule stand beside the others."""
        values = asdict(self)
        values.update(values.pop("schedule"))
        return values

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Neuron:
        """The neuron that `to_dict` gave these values.

        Raises:
            TypeError: a key is unknown.
            ArgumentError: a value is out of range.
        """
        own = dict(content)
        timed = {one.name: own.pop(one.name) for one in fields(Schedule) if one.name in own}
        return cls(**own, schedule=Schedule(**timed))

    @property
    def name(self) -> str:
        """How tables call this neuron."""
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
        """Of its name: when it fires, and from where on if that is not as in the preset."""
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
        if self.levels is None:
            return 1
        return self.schedule.divisor_at(t, 2**MOST_BITS // self.levels)


def check_hysteresis(value: float) -> None:
    """Refuse a hysteresis outside of [0, 1)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value < 1):
        raise ArgumentError(f"hysteresis: needed 0 <= h < 1, got {value!r}.")


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
    if start is None or neuron.schedule.shrinks:
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
    factor = neuron.finer_at(t) // neuron.finer_at(t - 1)
    state.membrane = state.membrane * factor - neuron.initial_membrane * (factor - 1)
    if state.total is not None:
        state.total = state.total * factor


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
    if not neuron.schedule.fires_at(t):
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
    if t <= neuron.schedule.delay:
        return torch.zeros_like(drive)
    if neuron.hysteresis or neuron.schedule.window is not None:
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
    last = (
        t
        if neuron.schedule.window is None
        else min(t, neuron.schedule.delay + neuron.schedule.window)
    )
    for now in range(neuron.schedule.delay + 1, last + 1):
        refine(neuron, state, now)
        fire(neuron, state, now, bound, start)
    assert state.total is not None
    return state.total
