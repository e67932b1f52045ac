"""Simulate a spiking network fast, in bounded memory, with the results of the reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from transpike.errors import ArgumentError
from transpike.graph.ambient import isolated
from transpike.graph.limits import check_fits
from transpike.graph.structure import flat_values
from transpike.simulation.early_stopping import EarlyStopping
from transpike.simulation.engine.prepared import prepared
from transpike.simulation.engine.request import Request
from transpike.simulation.engine.run import run
from transpike.simulation.record import OUTPUT_ONLY, Record
from transpike.simulation.result import Simulation, check_request
from transpike.spiking.spiking_network import SpikingNetwork, quantized_ann


@isolated()
def simulate(
    snn: SpikingNetwork,
    x: Tensor,
    timesteps: int,
    *,
    time_axis: bool = False,
    record: Record = OUTPUT_ONLY,
    early_stopping: EarlyStopping | None = None,
    chunk: int | None = None,
    memory_budget: int | None = None,
    precision: str = "exact",
    progress: Callable[[int, int], None] | None = None,
) -> Simulation:
    """Simulate a spiking network. Every call starts from the initial state.

    The engine computes one layer after the other over a chunk of timesteps. A linear operation
    sees time and batch as one axis, and what is constant in time is computed once. Memory does not
    grow with T, except for what `record` asks for and for the spike counts (T, B). Averages over
    time do not drift: after 1024 timesteps they are summed in float64. On a CPU, a 2-d
    convolution of mostly silent signals costs time in proportion to the spikes. Its sums are taken
    in another order there. This is exact for dyadic numbers; for others it may rarely move a spike.
    The same holds for another number of threads or another batch, if the network is in float32.

    Args:
        snn: the converted network.
        x: input (B, ...), the same at every timestep, or (T, B, ...) with `time_axis`.
        timesteps: T >= 1; every synchronous pass is counted.
        time_axis: whether the first axis of the input is time.
        record: what to keep; by default the output at every timestep and the spike counts.
        early_stopping: stop a sample as soon as its output is settled; its output is held from
            there on. It acts at the ends of chunks: see `Simulation.decided_at` and `computed`.
        chunk: number of timesteps that are computed together. The default is at most 8, and 1
            where layers fire one after the other, because then most layers have nothing to do.
            Results do not depend on it, except for the rounding of sums.
        memory_budget: bytes for values and states, in addition to the weights. The batch is split
            and the chunk is chosen so that they fit. By default the portions fit the caches.
        precision: "exact" computes in the network's own type and equals the reference. "fast"
            computes dense linear operations in bfloat16. "split" restores float32 from TF32
            products on CUDA. Membranes keep the network's own type in all three.
        progress: called with the number of timesteps x samples done, and with that of all.

    Returns:
        The output at every t in `record.output_at`, the spike counts, and what else was recorded.

    Raises:
        ArgumentError: an argument is out of range.
        DataError: the input does not fit the network.
    """
    wanted = check_request(snn, x, timesteps, time_axis, record)
    check_portion(chunk, memory_budget)
    kept = bool(record.sites) or record.totals
    if early_stopping is not None and kept:
        raise ArgumentError(
            "early_stopping: samples that have stopped have no record and no totals. Leave "
            "Record.sites and Record.totals out, or early_stopping."
        )
    in_one_pass = not (record.spikes or kept or early_stopping)
    if in_one_pass and _path_independent(snn, precision):
        sized = snn.sized_for(x, time_axis=time_axis)
        return _in_one_pass(sized, x, timesteps, wanted, time_axis)
    request = Request(
        timesteps=timesteps,
        output_at=wanted,
        record=record,
        time_axis=time_axis,
        chunk=chunk,
        memory_budget=memory_budget,
        early_stopping=early_stopping,
        progress=progress,
    )
    return _simulated(snn, x, request, precision)


def _simulated(snn: SpikingNetwork, x: Tensor, request: Request, precision: str) -> Simulation:
    """Run the engine and put its outputs together, (T', B, ...) each."""
    batch = x.shape[1] if request.time_axis else x.shape[0]
    size = tuple(x.shape[3 if request.time_axis else 2 :])
    engine = prepared(snn, precision, size)
    place = {t: index for index, t in enumerate(request.output_at)}
    outputs: list[Tensor] = []

    def collect(rows: slice | Tensor, t: int, found: list[Tensor]) -> None:
        if not outputs:
            size = sum(item[0].numel() * item.element_size() for item in found)
            size *= len(place) * batch
            check_fits(size, "outputs", x.device, "Use a short Record(output_at=[...]).")
            outputs.extend(item.new_empty((len(place), batch, *item.shape[1:])) for item in found)
        for output, item in zip(outputs, found, strict=True):
            output[place[t], rows] = item

    outcome = run(engine, x, request, collect)
    stopping = request.early_stopping is not None
    return Simulation(
        output=engine.network.structured(list(outputs)),
        output_at=request.output_at,
        timesteps=request.timesteps,
        counts_per_timestep=outcome.counts,
        neurons=engine.network.neurons,
        precision=precision,
        records=outcome.records,
        totals=outcome.totals,
        decided_at=outcome.decided_at if stopping else None,
        computed=outcome.computed if stopping else None,
    )


def _path_independent(snn: SpikingNetwork, precision: str) -> bool:
    """Whether the output at t depends on the cumulative input only, not on its order in time."""
    telescoped = all(neuron.telescoped for neuron in snn.neurons.values())
    return telescoped and snn.coding == "rate" and not snn.readout_start and precision == "exact"


def _in_one_pass(
    snn: SpikingNetwork, x: Tensor, timesteps: int, wanted: tuple[int, ...], time_axis: bool
) -> Simulation:
    """Compute the output of telescoped neurons: the quantized network of the mean input to t."""
    with torch.inference_mode():
        means = [x[:t].mean(dim=0) if time_axis else x for t in wanted]
        flat = [
            flat_values(quantized_ann(snn, mean, t)) for mean, t in zip(means, wanted, strict=True)
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
    """Check that both arguments are None or an integer >= 1.

    Raises:
        ArgumentError: an argument is out of range.
    """
    for name, value in (("chunk", chunk), ("memory_budget", memory_budget)):
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if value is not None and not good:
            raise ArgumentError(f"{name}: needed an integer >= 1, got {value!r}.")
