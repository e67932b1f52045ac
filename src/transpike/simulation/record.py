"""What a simulation is asked to keep besides its result at the last timestep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transpike.errors import ArgumentError


@dataclass(frozen=True)
class Record:
    """What a simulation keeps.

    A simulation that keeps less needs less memory and less time.

    Attributes:
        output_at: timesteps at which the output is read, counted from 1; None means every timestep
            from 1 to T.
        sites: names of the sites whose spike counts and membrane potentials are kept at every
            timestep.
        totals: whether the input currents and the spike counts of every neuron are summed over
            time.
        spikes: whether spikes are counted. If they are not, a rate-coded network of telescoped
            neurons needs one pass per entry of `output_at` instead of T timesteps, because its
            output depends on the cumulative input only. All other networks are simulated step by
            step in either case.

    Raises:
        ArgumentError: a field has the wrong type.
    """

    output_at: Iterable[int] | None = None
    sites: Iterable[str] = ()
    totals: bool = False
    spikes: bool = True

    def __post_init__(self) -> None:
        if self.output_at is not None:
            if not isinstance(self.output_at, Iterable):
                raise ArgumentError(
                    f"output_at: needed a list of timesteps, got {self.output_at!r}."
                )
            object.__setattr__(self, "output_at", tuple(self.output_at))
        if isinstance(self.sites, str) or not isinstance(self.sites, Iterable):
            raise ArgumentError(f"sites: needed a list of names of sites, got {self.sites!r}.")
        object.__setattr__(self, "sites", tuple(self.sites))
        for name in ("totals", "spikes"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentError(f"{name}: needed True or False, got {getattr(self, name)!r}.")


OUTPUT_ONLY = Record()
"""The default: the output at every timestep and the spike counts."""
