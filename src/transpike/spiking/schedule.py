"""The schedule of a neuron: the timesteps in which it fires, and its step at each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from transpike.errors import ArgumentError

# Largest power of the ratio in a divisor. The limit that `Neuron` gives is never higher.
_MOST_POWER = 16


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The step of a neuron at every timestep, and the timesteps in which the neuron fires.

    `divisor_at` gives the divisor of the step at a timestep, and `fires_at` says whether the
    neuron may fire. With the defaults the step stays the same and the neuron fires at every
    timestep. The step changes in one of two forms. `ratio` and `period` let it shrink regularly.
    `divisors` lists it timestep by timestep, and with `cyclic` the list starts again at its end.

    Attributes:
        ratio: the number that divides the step after every `period` timesteps, a power of two.
            With 1 the step stays the same.
        period: number of timesteps with the same step, >= 1.
        divisors: the divisor of the step at each timestep of the window, powers of two, or None
            for `ratio` and `period`.
        cyclic: whether the divisors start again after the last one. Otherwise the last one stays.
        window: number of timesteps in which the neuron may fire, >= 1. None means all timesteps
            after its delay. Outside its window, the neuron adds up its current and is silent.
        lag: number of timesteps by which the window of a layer starts after the windows of the
            layers that it reads, >= 0. With lag = window - 1 the input of the layer is complete
            before the layer fires. A longer lag only adds timesteps.
        delay: number of timesteps before the window, >= 0. `convert` overwrites it: it becomes
            lag times the number of sites that come before on the longest path from the input.

    Raises:
        ArgumentError: a value is out of range.
    """

    ratio: int = 1
    period: int = 1
    divisors: tuple[int, ...] | None = None
    cyclic: bool = False
    window: int | None = None
    lag: int = 0
    delay: int = 0

    def __post_init__(self) -> None:
        least = {"lag": 0, "delay": 0, "ratio": 1, "period": 1}
        for name, lowest in (least if self.window is None else {"window": 1} | least).items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ArgumentError(f"{name}: needed an integer >= {lowest}, got {value!r}.")
        if self.ratio & (self.ratio - 1):
            raise ArgumentError(f"ratio: needed a power of two, got {self.ratio!r}.")
        if self.ratio == 1 and self.period > 1:
            raise ArgumentError(f"period: needed 1 with ratio 1, got {self.period!r}.")
        if not isinstance(self.cyclic, bool):
            raise ArgumentError(f"cyclic: needed True or False, got {self.cyclic!r}.")
        if self.divisors is None:
            if self.cyclic:
                raise ArgumentError(
                    "cyclic: needed divisors that start again, got divisors=None. Use "
                    "Schedule(divisors=(1, 4), cyclic=True)."
                )
        else:
            self._check_divisors(self.divisors)

    def _check_divisors(self, given: object) -> None:
        divisors = tuple(given) if isinstance(given, list | tuple) else ()
        for one in divisors or (None,):
            whole = isinstance(one, int) and not isinstance(one, bool)
            if not (whole and one >= 1 and not one & (one - 1)):
                raise ArgumentError(
                    f"divisors: needed a tuple of powers of two, got {given!r}. Use, for example, "
                    "divisors=(1, 4)."
                )
        if self.ratio > 1:
            raise ArgumentError(
                f"divisors: needed ratio 1 beside them, got {self.ratio}. Give the divisors, or "
                "ratio and period."
            )
        object.__setattr__(self, "divisors", divisors)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values. Divisors that are not given are left out, as in older files."""
        values = asdict(self)
        if self.divisors is None:
            del values["divisors"], values["cyclic"]
        else:
            values["divisors"] = list(self.divisors)
        return values

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Schedule:
        """The schedule from the values that `to_dict` gave.

        Raises:
            TypeError: a key is unknown.
            ArgumentError: a value is out of range.
        """
        return cls(**content)

    @property
    def shrinks(self) -> bool:
        """Whether the step of some timestep is smaller than the first step."""
        return self.ratio > 1 or (self.divisors is not None and max(self.divisors) > 1)

    @property
    def varies(self) -> bool:
        """Whether the step changes or the neuron is silent in some timesteps."""
        return self.shrinks or self.window is not None or self.delay > 0

    @property
    def follows(self) -> bool:
        """Whether a neuron with this schedule can send a change of its input at any time.

        It can if it fires at every timestep and its largest step comes again and again.
        """
        return self.window is None and self.delay == 0 and self.returns

    @property
    def last(self) -> int | None:
        """Last timestep of the window (1-based), or None if the window does not end."""
        return None if self.window is None else self.delay + self.window

    @property
    def returns(self) -> bool:
        """Whether the largest step comes again after every smaller one, or no step is smaller."""
        return not self.shrinks or self.cyclic

    def fires_at(self, t: int) -> bool:
        """Whether the neuron may fire at timestep t (1-based)."""
        return self.delay < t and (self.last is None or t <= self.last)

    def divisor_at(self, t: int, most: int) -> int:
        """The divisor of the step at timestep t.

        Args:
            t: timestep (1-based). Before and after the window the divisor does not change.
            most: largest divisor that the neuron can represent. A larger power of the ratio is
                replaced by the largest one that fits. Given divisors are not changed.

        Returns:
            A power of two, >= 1.
        """
        own = self._own(t)
        if self.divisors is not None:
            place = (own - 1) % len(self.divisors) if self.cyclic else own - 1
            return self.divisors[min(place, len(self.divisors) - 1)]
        if self.ratio == 1:
            return 1
        divisor: int = self.ratio ** min((own - 1) // self.period, _MOST_POWER)
        while divisor > 1 and divisor > most:
            divisor //= self.ratio
        return divisor

    def finest_at(self, t: int, most: int) -> int:
        """The largest divisor of the timesteps 1 to t; `most` is as in `divisor_at`."""
        if self.divisors is None:
            return self.divisor_at(t, most)
        return max(self.divisors[: self._own(t)])

    def _own(self, t: int) -> int:
        """The timestep counted from the start of the window (1-based), inside of the window."""
        own = max(t - self.delay, 1)
        return own if self.window is None else min(own, self.window)

    def reachable(self, max_count: int) -> int | None:
        """Largest total that the neuron can emit, rounded down, in units of the first step.

        Args:
            max_count: largest count per timestep.

        Returns:
            The total, or None where there is no limit.
        """
        if self.divisors is not None:
            if self.window is None:
                return None
            divisors = [self.divisor_at(self.delay + t, 1) for t in range(1, self.window + 1)]
            return int(sum(Fraction(max_count, divisor) for divisor in divisors))
        if not self.shrinks:
            return None if self.window is None else max_count * self.window
        if self.window is None or self.window > 2 * _MOST_POWER * self.period:
            return max_count * self.period * self.ratio // (self.ratio - 1)
        parts = (Fraction(max_count, self.ratio ** (i // self.period)) for i in range(self.window))
        return int(sum(parts))
