"""Simulate a spiking network: the same numbers as the reference, fast and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from transpike.errors import ArgumentError
from transpike.simulation.early_stopping import EarlyStopping
from transpike.simulation.engine.memory import DEFAULT_CHUNK as DEFAULT_CHUNK
from transpike.simulation.engine.prepared import prepared
from transpike.simulation.engine.run import Request
from transpike.simulation.result import Simulation, check_request
from transpike.spiking.spiking_network import SpikingNetwork, quantized_ann


def simulate(
    snn: SpikingNetwork,
    x: Tensor,
    timesteps: int,
    *,
    time_axis: bool = False,
    output_at: Iterable[int] | None = None,
    record: Iterable[str] = (),
    totals: bool = False,
    spikes: bool = True,
    early_stopping: EarlyStopping | None = None,
    chunk: int | None = None,
    memory_budget: int | None = None,
    precision: str = "exact",
    progress: Callable[[int, int], None] | None = None,
) -> Simulation:
    """Simulate a spiking network; state is made anew for every call.

    Layer by layer over chunks of timesteps: linear operations see time and batch as one axis, what
    is constant in time is computed once, and memory does not grow with T, but for the outputs
    (`output_at`), spikes per sample and timestep, and records. On a CPU, 2-d convolutions of mostly
    silent signals cost in proportion to their spikes; their sums are taken in another order there,
    which is exact on dyadic numbers and may move a rare spike on others.

    Args:
        snn: the converted network.
        x: input (B, ...), the same at every timestep, or (T, B, ...) with `time_axis`.
        timesteps: T >= 1, every synchronous pass counted.
        time_axis: the input's first axis is time.
        output_at: the timesteps to read out, 1-based; default all.
        record: names of the sites whose counts and membranes are kept.
        totals: whether to sum currents and counts of every neuron.
        spikes: whether spikes have to be counted. Where not, a rate-coded network of telescoped
            neurons takes one pass per entry of `output_at` instead of T timesteps: its output
            depends on the cumulative input only. Other networks are simulated as ever.
        early_stopping: stop a sample as soon as its output is settled; its output is held
            from there on. It acts at the ends of chunks: see `Simulation.decided_at` and
            `computed`.
        chunk: timesteps computed together; default at most 8, and 1 where layers fire one after the
            other, as then most layers have nothing to do. Results do not depend on it, but for
            the rounding of sums.
        memory_budget: bytes for values and states, next to the weights; the batch is split, and
            the chunk lowered, or raised above 8, to fit. Default: portions that fit the caches.
        precision: "exact": the network's own type, equal to the reference; "fast": dense linear
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
    if early_stopping is not None and (record or totals):
        raise ArgumentError(
            "early_stopping: samples that have stopped have no record and no totals. Leave out "
            "record and totals, or early_stopping."
        )
    if (
        not spikes
        and _path_independent(snn, precision)
        and not (record or totals or early_stopping)
    ):
        return _in_one_pass(snn, x, timesteps, wanted, time_axis)
    engine = prepared(snn, precision)
    request = Request(
        timesteps=timesteps,
        output_at=wanted,
        time_axis=time_axis,
        record=record,
        totals=totals,
        chunk=chunk,
        memory_budget=memory_budget,
        early_stopping=early_stopping,
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
        decided_at=outcome.decided_at if early_stopping is not None else None,
        computed=outcome.computed if early_stopping is not None else None,
    )


def _path_independent(snn: SpikingNetwork, precision: str) -> bool:
    """Whether the output at t follows from the cumulative input, whatever the way there."""
    telescoped = all(neuron.telescoped for neuron in snn.neurons.values())
    return telescoped and snn.coding == "rate" and not snn.readout_start and precision == "exact"


def _in_one_pass(
    snn: SpikingNetwork, x: Tensor, timesteps: int, wanted: tuple[int, ...], time_axis: bool
) -> Simulation:
    """Outputs of telescoped neurons: the quantized network on the mean input up to t."""
    with torch.inference_mode():
        means = [x[:t].mean(dim=0) if time_axis else x for t in wanted]
        flat = [
            pytree.tree_leaves(quantized_ann(snn, mean, t))
            for mean, t in zip(means, wanted, strict=True)
        ]
    network = snn.network
    return Simulation(
        output=network.structured([torch.stack(column) for column in zip(*flat, strict=True)]),
        output_at=wanted,
        timesteps=timesteps,
        counts_per_timestep={},
        neurons=network.neurons,
        precision="exact",
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
