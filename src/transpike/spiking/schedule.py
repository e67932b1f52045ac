"""The schedule of a neuron: the timesteps in which it fires, and its step at each of them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from transpike.errors import ArgumentError

# Largest power of the ratio in a divisor. The limit that `Neuron` gives is never higher.
_MOST_POWER = 16


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the step of a neuron shrinks, and in which timesteps the neuron fires.

    `divisor_at` gives the divisor of the step at a timestep, and `fires_at` says whether the
    neuron may fire. With the defaults the step stays the same and the neuron fires at every
    timestep.

    Attributes:
        ratio: the number that divides the step after every `period` timesteps, a power of two.
            With 1 the step stays the same.
        period: number of timesteps with the same step, >= 1.
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

    @property
    def shrinks(self) -> bool:
        """Whether the step changes."""
        return self.ratio > 1

    @property
    def varies(self) -> bool:
        """Whether the step changes or the neuron is silent in some timesteps."""
        return self.shrinks or self.window is not None or self.delay > 0

    @property
    def last(self) -> int | None:
        """Last timestep of the window (1-based), or None if the window does not end."""
        return None if self.window is None else self.delay + self.window

    def fires_at(self, t: int) -> bool:
        """Whether the neuron may fire at timestep t (1-based)."""
        return self.delay < t and (self.last is None or t <= self.last)

    def divisor_at(self, t: int, most: int) -> int:
        """The divisor of the step at timestep t.

        Args:
            t: timestep (1-based). Before and after the window the divisor does not change.
            most: largest divisor that the neuron can represent.

        Returns:
            A power of the ratio, >= 1.
        """
        if not self.shrinks:
            return 1
        own = max(t - self.delay, 1)
        own = own if self.window is None else min(own, self.window)
        divisor: int = self.ratio ** min((own - 1) // self.period, _MOST_POWER)
        while divisor > 1 and divisor > most:
            divisor //= self.ratio
        return divisor

    def reachable(self, max_count: int) -> int | None:
        """Largest total that the neuron can emit, rounded down, in units of the first step.

        Args:
            max_count: largest count per timestep.

        Returns:
            The total, or None where there is no limit.
        """
        if not self.shrinks:
            return None if self.window is None else max_count * self.window
        if self.window is None or self.window > 2 * _MOST_POWER * self.period:
            return max_count * self.period * self.ratio // (self.ratio - 1)
        parts = (Fraction(max_count, self.ratio ** (i // self.period)) for i in range(self.window))
        return int(sum(parts))
