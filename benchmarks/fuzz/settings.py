"""Draw neurons, and convert a network with them so that an oracle can follow every number."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

import transpike as tp
from benchmarks.fuzz.programs import Program
from benchmarks.fuzz.reading import Array, Populace, Reading, Spiking


def draw_neuron(rng: random.Random) -> tp.Neuron:
    """A preset with random arguments, or the general neuron."""
    return rng.choice(list(NEURONS.values()))(rng)


def _v0(rng: random.Random) -> float:
    return rng.choice((0.0, 0.25, 0.5, 0.5, 0.5, 0.75))


def _differential(rng: random.Random) -> tp.Neuron:
    return tp.Differential(rng.randint(1, 12), rng.randint(1, 4), initial_membrane=_v0(rng))


def _refining(rng: random.Random) -> tp.Neuron:
    count, ratio, period = rng.randint(1, 8), rng.choice((None, 2, 4)), rng.choice((1, 1, 2))
    levels = None if rng.random() < 0.6 else rng.randint(1, count)
    return tp.Refining(count, ratio, levels=levels, period=period, initial_membrane=_v0(rng))


def _cyclic(rng: random.Random) -> tp.Neuron:
    count, divisors = (
        rng.randint(1, 8),
        rng.choice((None, (1, 2), (1, 4), (1, 2, 8), (2, 1), (1, 1))),
    )
    levels = None if rng.random() < 0.6 else rng.randint(1, 2 * count)
    return tp.Cyclic(count, divisors, levels=levels, initial_membrane=_v0(rng))


def _listed(rng: random.Random) -> tp.Neuron:
    """A neuron whose divisors are listed and fire in a window, or stay at the last one."""
    count, listed = rng.randint(2, 5), rng.choice(((1, 2, 4), (1, 1, 4), (1, 4, 2), (2, 1, 4)))
    window = rng.choice((None, 3, 4))
    return tp.Neuron(
        max_count=count,
        signed=True,
        step="fraction",
        initial_membrane=_v0(rng),
        levels=rng.randint(1, count) if window is None else 1,
        schedule=tp.Schedule(
            divisors=listed,
            cyclic=rng.random() < 0.3,
            window=window,
            lag=0 if window is None else rng.randint(0, 2),
        ),
        hysteresis=rng.choice((0.0, 0.25)),
    )


def _staggered(rng: random.Random) -> tp.Neuron:
    count, window = rng.randint(1, 5), rng.randint(1, 4)
    return tp.Staggered(
        count,
        rng.choice((2, 4)),
        window=window,
        lag=rng.randint(0, 2),
        levels=None if rng.random() < 0.6 else rng.randint(1, count),
        hysteresis=rng.choice((0.0, 0.25, 0.5)),
    )


def _general(rng: random.Random) -> tp.Neuron:
    return tp.Neuron(
        max_count=rng.randint(1, 6),
        signed=rng.random() < 0.5,
        step=rng.choice(("threshold", "fraction")),
        initial_membrane=_v0(rng),
        code=rng.choice(("unit", "binary")),
    )


def _windowed(rng: random.Random) -> tp.Neuron:
    """A neuron of differential coding with a constant step that fires in a window."""
    count, window = rng.randint(1, 4), rng.randint(1, 4)
    return tp.Neuron(
        max_count=count,
        signed=True,
        step="fraction",
        initial_membrane=_v0(rng),
        levels=rng.randint(1, count * window),
        schedule=tp.Schedule(window=window, lag=rng.randint(0, 1)),
        hysteresis=rng.choice((0.0, 0.25)),
    )


NEURONS: dict[str, Any] = {
    "IF": lambda r: tp.IF(initial_membrane=_v0(r)),
    "Burst": lambda r: tp.Burst(
        r.randint(1, 6), mode=r.choice(("range", "resolution")), initial_membrane=_v0(r)
    ),
    "Signed": lambda r: tp.Signed(r.randint(1, 5), initial_membrane=_v0(r)),
    "MultiThreshold": lambda r: tp.MultiThreshold(
        r.randint(1, 4), signed=r.random() < 0.5, initial_membrane=_v0(r)
    ),
    "Differential": _differential,
    "Refining": _refining,
    "Cyclic": _cyclic,
    "Staggered": _staggered,
    "Telescoped": lambda r: tp.Telescoped(r.randint(1, 4), initial_membrane=_v0(r)),
    "general": _general,
    "windowed": _windowed,
    "listed": _listed,
}
"""Neurons by the name of their preset."""


def draw_inputs(rng: random.Random, program: Program, *lead: int) -> Tensor:
    """Inputs of a program, (*lead, ...)."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    x = torch.randn(*lead, *program.shape, generator=generator, dtype=torch.float64) * 1.5
    if program.dyadic:
        x = (x * 4).round() / 4
    return x.to(program.dtype)


def converted(
    rng: random.Random, program: Program, network: tp.Network, neuron: tp.Neuron
) -> tp.SpikingNetwork:
    """Convert a network, then draw its steps, initial membranes and offsets.

    In a dyadic program the steps are powers of two and the other numbers multiples of 1/16.
    Elsewhere they are uneven, so that no membrane equals a threshold except by rounding.
    """
    rule = rng.choice((tp.MaxAbs(), tp.Percentile(95), tp.Percentile(99, granularity="layer")))
    snn = tp.convert(network, [draw_inputs(rng, program, 12)], neuron=neuron, threshold=rule)
    generator = torch.Generator().manual_seed(rng.randrange(2**31))

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64)
        drawn = drawn * (high - low) + low
        return ((drawn * 16).floor() / 16 if program.dyadic else drawn).to(like.dtype)

    steps = {}
    for name, step in snn.steps.items():
        step = step.clamp(1e-2, 1e3)
        drawn = 2.0 ** step.log2().round().clamp(-4, 4) if program.dyadic else step
        steps[name] = drawn if program.dyadic else step * uniform(step, 0.7, 1.1)
    corrected = rng.random() < 0.5
    low, high = (-0.5, 1.5) if corrected else (neuron.initial_membrane,) * 2
    if not program.dyadic:
        low, high = low + 0.01, high + 0.02  # an even start could meet a threshold exactly
    starts = {name: uniform(step, low, high) for name, step in snn.steps.items()}
    wide = 0.4 if corrected else 0.0
    offsets = {
        name: uniform(step, -wide, wide) if wide else torch.zeros_like(step)
        for name, step in snn.steps.items()
    }
    late = rng.randint(1, 2) if neuron.levels is None and rng.random() < 0.25 else 0
    return snn.changed(steps=steps, starts=starts, offsets=offsets, readout_start=late)


def spiking_oracle(reading: Reading, snn: tp.SpikingNetwork) -> Spiking:
    """The oracle of a converted network; it takes numbers from it, and no rules.

    Raises:
        ValueError: the network has other sites than the program.
    """
    program, sites = reading.program, snn.network.sites
    if len(sites) != len(program.sites):
        raise ValueError(f"{len(sites)} sites, and the program has {len(program.sites)}")
    depth = {0: 0}
    for one in program.instructions:
        depth[one.out] = max(depth[i] for i in one.reads) + (one.op == "site")
    populaces = {}
    for one, site in zip(program.sites, sites, strict=True):
        if site.shape != reading.shapes[one.out]:
            raise ValueError(f"site {site.name} has shape {site.shape}, v{one.out} another")
        neuron = snn.neurons[site.name]
        own = {f.name: getattr(neuron, f.name) for f in fields(neuron) if f.name != "schedule"}
        schedule = {f.name: getattr(neuron.schedule, f.name) for f in fields(neuron.schedule)}
        schedule["delay"] = schedule["lag"] * (depth[one.out] - 1)
        axis = site.channel_axis - 1
        populaces[one.out] = Populace(
            settings=own | schedule,
            step=_everywhere(snn.steps[site.name], site.shape, axis),
            start=_everywhere(snn.starts[site.name], site.shape, axis),
            offset=_everywhere(snn.offsets[site.name], site.shape, axis),
            bound=one.settings["bound"],
        )
    return Spiking(reading, populaces, snn.readout_start)


def _everywhere(values: Tensor, shape: tuple[int, ...], axis: int) -> Array:
    """One number per channel as one number per neuron, (N,)."""
    lined = [1] * len(shape)
    lined[axis] = -1
    found = values.double().numpy().reshape(lined)
    return np.broadcast_to(found, shape).reshape(-1).astype(np.float64)
