"""When a neuron fires, and by how much its step is divided at each timestep."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from transpike.errors import ArgumentError

_MOST_POWER = 16  # of the ratio: levels times the divisor stay exact in float32 anyway


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the step of a neuron shrinks and in which timesteps it fires.

    Everything else reads the sequence of divisors through `divisor_at`, and the timesteps through
    `fires_at`. The default divides the step by 1 and fires at every timestep.

    Attributes:
        ratio: number by which the step is divided every `period` timesteps, a power of two; with 1
            the step stays as it is.
        period: timesteps with the same step, >= 1.
        window: timesteps in which the neuron may fire, >= 1; None: all timesteps after its delay.
            Outside of its window it adds up its current and is silent.
        lag: timesteps by which the window of a layer begins after those of the layers it reads.
            With lag = window - 1 its input is complete; a longer lag only adds timesteps.
        delay: timesteps before its window. `convert` sets it, whatever it was: lag times the sites
            that come before on the longest path from the input.

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
        """Whether timesteps differ: the step changes, or the neuron fires in some of them only."""
        return self.shrinks or self.window is not None or self.delay > 0

    @property
    def last(self) -> int | None:
        """Last timestep of the window, or None if it does not end."""
        return None if self.window is None else self.delay + self.window

    def fires_at(self, t: int) -> bool:
        """Whether timestep t (1-based) is in the window."""
        return self.delay < t and (self.last is None or t <= self.last)

    def divisor_at(self, t: int, most: int) -> int:
        """Number by which the step is divided at timestep t (1-based).

        Args:
            t: timestep; before and after the window the divisor stays.
            most: largest divisor the neuron can hold.
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
        """First steps that `max_count` counts per timestep reach in all; None: no limit."""
        if not self.shrinks:
            return None if self.window is None else max_count * self.window
        if self.window is None or self.window > 2 * _MOST_POWER * self.period:
            return max_count * self.period * self.ratio // (self.ratio - 1)
        parts = (Fraction(max_count, self.ratio ** (i // self.period)) for i in range(self.window))
        return int(sum(parts))
