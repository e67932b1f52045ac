"""Simulate a spiking network: the same numbers as the reference, fast and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from transpike.engine.memory import DEFAULT_CHUNK as DEFAULT_CHUNK
from transpike.engine.run import Engine, Request
from transpike.errors import ArgumentError
from transpike.reference import Simulation, check_request
from transpike.spiking import SpikingNetwork
from transpike.until import Until


def simulate(
    snn: SpikingNetwork,
    x: Tensor,
    timesteps: int,
    *,
    time_axis: bool = False,
    output_at: Iterable[int] | None = None,
    record: Iterable[str] = (),
    totals: bool = False,
    until: Until | None = None,
    chunk: int | None = None,
    memory_budget: int | None = None,
    precision: str = "exact",
    progress: Callable[[int, int], None] | None = None,
) -> Simulation:
    """Simulate a spiking network; state is made anew for every call.

    Layer by layer over chunks of timesteps: linear operations see time and batch as one axis, what
    is constant in time is computed once, and memory does not grow with T, but for the outputs
    (`output_at`), spikes per sample and timestep, and records.

    Args:
        snn: the converted network.
        x: input (B, ...), the same at every timestep, or (T, B, ...) with `time_axis`.
        timesteps: T >= 1, every synchronous pass counted.
        time_axis: the input's first axis is time.
        output_at: the timesteps to read out, 1-based; default all.
        record: names of the sites whose counts and membranes are kept.
        totals: whether to sum currents and counts of every neuron.
        until: stop a sample as soon as its output is settled; its output is held from there on. It
            acts at the ends of chunks: see `Simulation.decided_at` and `computed`.
        chunk: timesteps computed together; default at most 8. Results do not depend on it.
        memory_budget: bytes for values and states, next to the weights; the batch is split, and
            the chunk lowered, or raised above 8, to fit. Default: portions that fit the caches.
        precision: "exact": the network's own type, equal to the reference; "fast": linear
            operations in bfloat16; "split": on CUDA, TF32 products that restore float32. Membranes
            keep the network's own type.
        progress: called with the timesteps x samples done, and in all.

    Returns:
        Readout at every t in `output_at`, spikes, records and totals.

    Raises:
        ArgumentError: an argument is out of range.
        DataError: the input does not fit the network.
    """
    record = tuple(record)
    wanted = check_request(snn, x, timesteps, time_axis, output_at, record)
    check_portion(chunk, memory_budget)
    if until is not None and (record or totals):
        raise ArgumentError(
            "until: samples that have stopped have no record and no totals. Leave out record and "
            "totals, or until."
        )
    engine = Engine(snn, precision)
    request = Request(
        timesteps=timesteps,
        output_at=wanted,
        time_axis=time_axis,
        record=record,
        totals=totals,
        chunk=chunk,
        memory_budget=memory_budget,
        until=until,
        progress=progress,
    )
    batch = x.shape[1] if time_axis else x.shape[0]
    place = {t: index for index, t in enumerate(wanted)}
    outputs: list[Tensor] = []

    def collect(rows: slice | Tensor, t: int, found: list[Tensor]) -> None:
        if not outputs:
            outputs.extend(item.new_empty((len(wanted), batch, *item.shape[1:])) for item in found)
        for output, item in zip(outputs, found, strict=True):
            output[place[t], rows] = item

    outcome = engine.run(x, request, collect)
    return Simulation(
        output=engine.network.structured(list(outputs)),
        output_at=wanted,
        timesteps=timesteps,
        counts_per_timestep=outcome.counts,
        neurons=engine.network.neurons,
        precision=precision,
        records=outcome.records,
        totals=outcome.totals,
        decided_at=outcome.decided_at if until is not None else None,
        computed=outcome.computed if until is not None else None,
    )


def check_portion(chunk: int | None, memory_budget: int | None) -> None:
    """Refuse anything but None or an integer >= 1.

    Raises:
        ArgumentError: an argument is out of range.
    """
    for name, value in (("chunk", chunk), ("memory_budget", memory_budget)):
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if value is not None and not good:
            raise ArgumentError(f"{name}: needed an integer >= 1, got {value!r}.")
