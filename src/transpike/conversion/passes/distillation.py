"""Train the steps and offsets of the neurons, so that the output approaches the analog output.

Shapes: B inputs, C channels, T timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transpike.errors import ArgumentError
from transpike.graph.network import Network, Site
from transpike.graph.outputs import Reading, check_reading, cut_of, divergence
from transpike.graph.structure import flat_values
from transpike.simulation.fidelity import squared_distance
from transpike.simulation.record import Record
from transpike.simulation.simulate import simulate
from transpike.spiking.neuron import refined_start
from transpike.spiking.spiking_network import SpikingNetwork

_BATCH = 64
# Bytes of one value per neuron in a batch. The backward pass keeps about six times as much.
_VALUES = 256 * 2**20
_SEED = 0


@dataclass(frozen=True)
class Distillation:
    """Train the step and offset of every channel for the output at T.

    Adam changes log2 of the step and the offset in levels. It minimizes the distance between the
    output at T and the output of the analog network. Weights do not change, and no labels are
    used. More inputs give better results. Several thousand images are a good number. Fewer images
    are enough for masks, where every pixel is a sample.

    The distance depends on the output:

    - Class scores: the squared distance relative to the analog scores. The mean over the scores
      of each input is removed first, because it does not change the softmax. The divergence of
      the softmax is not used: it would overfit the few inputs whose class is not clear.
    - A mask (one channel): the divergence of its probability, with every pixel as a sample.
    - Values: the squared distance relative to the analog values.

    The forward pass simulates the spiking network. For the backward pass the mean output of a
    site is n d/T, where n = clamp(floor(T (z/d + offset) + start), 0, K T), z is its mean input
    current, and floor has the derivative 1. If the activation is bounded by c, n is at most
    floor(c T/d + start).

    Attributes:
        epochs: number of passes over the inputs, >= 1.
        rate: learning rate at the start, > 0. It falls to 0 along a cosine.
        reading: "scores": outputs are class scores along axis 1, or a mask if they have one
            channel (logits, or probabilities after a sigmoid), as in `evaluate`. "values": any
            numbers. If a network has several outputs, those with one channel are always values.

    Raises:
        ArgumentError: a setting is out of range.

    Source: Esser et al. 2020 (learned step size: the gradient of d); differs: only the neurons of
    a spiking network are trained, on its own spike counts, with the analog network as teacher.
    """

    epochs: int = 4
    rate: float = 0.01
    reading: Reading = "scores"

    def __post_init__(self) -> None:
        if isinstance(self.epochs, bool) or not isinstance(self.epochs, int) or self.epochs < 1:
            raise ArgumentError(f"epochs: needed an integer >= 1, got {self.epochs!r}.")
        if not 0 < self.rate < float("inf"):
            raise ArgumentError(f"rate: needed a number > 0, got {self.rate!r}.")
        check_reading(self.reading)


def distilled(
    one: Distillation, snn: SpikingNetwork, images: Tensor, timesteps: int
) -> SpikingNetwork:
    """The network with trained steps and offsets.

    Args:
        one: the settings.
        snn: the network.
        images: training inputs (B, ...).
        timesteps: T, the number of timesteps to optimize for, >= 1.

    Returns:
        A trained copy, or `snn` if training did not bring its output closer.

    Raises:
        ArgumentError: the network already has a delayed readout.
    """
    if snn.readout_start:
        raise ArgumentError(
            "passes: Distillation needed a readout over all timesteps, got readout_start="
            f"{snn.readout_start}. Put it before DelayedReadout."
        )
    with torch.inference_mode(False), torch.enable_grad():
        snn, images = _ordinary(snn), images.detach().clone()
        student = _Student(snn, timesteps, one.reading)
        targets = _analog(snn.network, images)
        before = student.distance(snn, images, targets)
        optimizer = torch.optim.Adam(student.parameters, lr=one.rate)
        rounds = list(_batches(one.epochs, len(images), _batch_size(snn.network)))
        for number, rows in enumerate(rounds):
            for group in optimizer.param_groups:
                group["lr"] = one.rate * (1 + math.cos(math.pi * number / len(rounds))) / 2
            rows = rows.to(images.device)
            loss = student.loss(images[rows], [target[rows] for target in targets])
            slopes = torch.autograd.grad(loss, student.parameters)
            for parameter, slope in zip(student.parameters, slopes, strict=True):
                parameter.grad = slope
            optimizer.step()
        trained = student.network()
        return trained if student.distance(trained, images, targets) < before else snn


def _ordinary(snn: SpikingNetwork) -> SpikingNetwork:
    """The network with tensors that allow gradients, even if they come from inference mode."""
    network = snn.network
    if not any(t.is_inference() for t in (*network.tensors.values(), *snn.steps.values())):
        return snn
    tensors = {name: tensor.clone() for name, tensor in network.tensors.items()}
    kinds = (snn.steps, snn.starts, snn.offsets)
    steps, starts, offsets = ({n: v.clone() for n, v in kind.items()} for kind in kinds)
    return SpikingNetwork(
        network.with_tensors(tensors, network.input_dtype),
        snn.neurons,
        steps,
        snn.settings,
        starts=starts,
        offsets=offsets,
        lowers={name: tensor.clone() for name, tensor in snn.lowers.items()},
        uppers={name: tensor.clone() for name, tensor in snn.uppers.items()},
        coding=snn.coding,
    )


def _analog(network: Network, images: Tensor) -> list[Tensor]:
    """The outputs of the analog network, one tensor (B, ...) per leaf."""
    with torch.no_grad():
        parts = [flat_values(network(x)) for x in torch.split(images, _batch_size(network))]
    return [torch.cat(leaves) for leaves in zip(*parts, strict=True)]


def _batches(epochs: int, count: int, size: int) -> Iterator[Tensor]:
    """Input indices of every batch of every epoch. Each epoch has its own order."""
    generator = torch.Generator().manual_seed(_SEED)
    for _ in range(epochs):
        yield from torch.split(torch.randperm(count, generator=generator), size)


def _batch_size(network: Network) -> int:
    """Number of inputs per batch."""
    itemsize = torch.empty(0, dtype=network.dtype).element_size()
    each = sum(site.neurons for site in network.sites) * itemsize
    return max(1, min(_BATCH, _VALUES // each))


@dataclass(frozen=True)
class _Distance:
    """Distance between the outputs of a spiking network and those of its analog network, >= 0."""

    reading: Reading
    cut: float

    def between(self, analog: Sequence[Tensor], spiking: Sequence[Tensor]) -> Tensor:
        """The distance over all leaves, each (B, C, ...)."""
        return self.joined([self.sums(analog, spiking)])

    def sums(self, analog: Sequence[Tensor], spiking: Sequence[Tensor]) -> Tensor:
        """Gap and size of every leaf, (leaves, 2). Both are sums, to be added up over batches."""
        pairs = list(zip(analog, spiking, strict=True))
        return torch.stack([self._of_one(*pair, len(pairs) == 1) for pair in pairs])

    def joined(self, sums: Sequence[Tensor]) -> Tensor:
        """The distance from the sums of all batches."""
        gap, size = torch.stack(list(sums)).sum(dim=0).unbind(dim=1)
        return (gap / size.clamp(min=torch.finfo(size.dtype).tiny)).sum()

    def _of_one(self, analog: Tensor, spiking: Tensor, alone: bool) -> Tensor:
        channels = analog.shape[1] if analog.ndim > 1 else 0
        if self.reading == "scores" and channels == 1 and alone:
            gaps = divergence(analog, spiking, self.cut)
            return torch.stack([gaps.sum(), gaps.new_tensor(gaps.numel())])
        if self.reading == "scores" and channels > 1:
            analog, spiking = (x - x.mean(dim=1, keepdim=True) for x in (analog, spiking))
        return torch.stack(squared_distance(spiking, analog))


class _Student:
    """A spiking network whose steps and offsets are trained."""

    def __init__(self, snn: SpikingNetwork, timesteps: int, reading: Reading = "scores") -> None:
        self.snn, self.timesteps = snn, timesteps
        self._distance = _Distance(reading, cut_of(snn.network))
        self.scale = timesteps if snn.coding == "rate" else 1
        steps, offsets = snn.steps, snn.offsets
        self.octaves = {n: torch.zeros_like(v).requires_grad_() for n, v in steps.items()}
        self.levels = {n: torch.zeros_like(v).requires_grad_() for n, v in offsets.items()}
        self.parameters = [*self.octaves.values(), *self.levels.values()]

    def step(self, name: str) -> Tensor:
        """Trained step, shape (C,), in activation units."""
        return self.snn.steps[name] * torch.exp2(self.octaves[name])

    def offset(self, name: str) -> Tensor:
        """Trained offset, shape (C,), in units of the step."""
        return self.snn.offsets[name] + self.levels[name] / self.scale

    def network(self) -> SpikingNetwork:
        """The spiking network with the steps and offsets trained so far."""
        names = list(self.octaves)
        return self.snn.changed(
            steps={name: self.step(name).detach() for name in names},
            offsets={name: self.offset(name).detach() for name in names},
        )

    def distance(self, snn: SpikingNetwork, images: Tensor, targets: list[Tensor]) -> float:
        """Distance of the output of a spiking network at T from the targets."""
        sums, at, size = [], [self.timesteps], _batch_size(snn.network)
        with torch.no_grad():
            for start in range(0, len(images), size):
                part = slice(start, start + size)
                run = simulate(snn, images[part], self.timesteps, record=Record(output_at=at))
                found = [leaf[0] for leaf in flat_values(run.output)]
                sums.append(self._distance.sums([target[part] for target in targets], found))
            return float(self._distance.joined([one.double() for one in sums]))

    def loss(self, x: Tensor, targets: list[Tensor]) -> Tensor:
        """Distance of the output at T from the targets.

        The value is that of the simulated spiking network. For the gradient, floor has the
        derivative 1.
        """
        now = self.network()
        record = Record(output_at=[self.timesteps], totals=True)
        totals = simulate(now, x, self.timesteps, record=record).totals
        starts = self.snn.starts

        def send(site: Site, z: Tensor) -> Tensor:
            name, spread = site.name, site.along_channels
            neuron = self.snn.neurons[name]
            finer, v0 = neuron.finer_at(self.timesteps), neuron.initial_membrane
            start = spread(refined_start(neuron, starts[name], self.timesteps)) / finer
            step = spread(self.step(name))
            level = self.scale * (z / step + spread(self.offset(name))) + start
            most = torch.full_like(step, neuron.reach_at(self.timesteps))
            upper = self.snn.uppers.get(name, site.upper_bound)
            lower = self.snn.lowers.get(name, site.lower_bound or None)
            own = v0 / finer if neuron.schedule.shrinks else start
            if lower is None:
                level = level.clamp(min=0)
            else:
                bound = spread(lower) if isinstance(lower, Tensor) else lower
                least = torch.maximum((self.scale * bound / step + own).clamp(max=0), -most)
                level = torch.maximum(level, least)
            if upper is not None:  # The gradient of c/d keeps the output at c.
                bound = spread(upper) if isinstance(upper, Tensor) else upper
                most = torch.minimum((self.scale * bound / step + own).clamp(min=0), most)
            level = torch.minimum(level, most)
            count = level + (totals[name].net.to(level) - level).detach()
            return count * (step / self.scale)

        found: Any = self.snn.network.run(x, send)
        return self._distance.between(targets, flat_values(found))


__all__ = ["Distillation", "distilled"]
