"""Train neurons, not weights: steps and currents by gradient, towards the analog output.

Shapes: B inputs, C channels, T timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from transpike.errors import ArgumentError
from transpike.graph.network import Network, Site
from transpike.graph.outputs import Reading, check_reading, cut_of, divergence
from transpike.simulation.fidelity import squared_distance
from transpike.simulation.record import Record
from transpike.simulation.simulate import simulate
from transpike.spiking.neuron import refined_start
from transpike.spiking.spiking_network import SpikingNetwork

_BATCH = 64
# Bytes of one value of every site of a batch; about six times that is kept for the backward pass.
_VALUES = 256 * 2**20
_SEED = 0


@dataclass(frozen=True)
class Distillation:
    """Train step and offset of every channel for the network's output at T.

    Adam on log2 of the step and on the offset in levels, for the least distance of the output at T
    from the analog network's. Of class scores it is the squared distance, relative to the analog
    scores, without what is common to all scores of an input, as that changes no softmax. (The
    divergence of the softmax itself learns from the few inputs that are not clear, by heart.) Of a
    mask, one channel, it is the divergence of its probability, of which every pixel is a sample.
    The more inputs, the better: several thousand, or as many pixels as they have.

    Forward, the spiking network itself is simulated; backward, every site's mean output is n d/T
    with n = clamp(floor(T (z/d + offset) + start), 0, K T), or at most floor(c T/d + start) where
    the activation is bounded by c, z its mean input current, and floor has the derivative 1.
    Weights stay as they are, no labels are used.

    Attributes:
        epochs: passes over the inputs, >= 1.
        rate: learning rate at the start, falling to 0 along a cosine, > 0.
        reading: "scores": outputs are class scores along axis 1, or of one channel a mask (logits,
            or probabilities behind a sigmoid), as `evaluate` reads them; "values": any numbers. Of
            a network with several outputs those of one channel are values in any case.

    Source: Esser et al. 2020 (learned step size: the gradient of d); differs: of a spiking
    network's neurons alone, on its own spike counts, with the analog network as the teacher.
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
    """A copy with trained steps and offsets; the network itself where training found no better.

    Args:
        one: settings.
        snn: the network so far.
        images: training inputs (B, ...).
        timesteps: T that it is to be best for.

    Raises:
        ArgumentError: the network has a delayed readout already.
    """
    if snn.readout_start:
        raise ArgumentError(
            "passes: Distillation trains for the mean over all timesteps. Put it before "
            "DelayedReadout."
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
    """A copy of tensors that a derivative can be taken of, though they came of inference mode."""
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
        coding=snn.coding,
    )


def _analog(network: Network, images: Tensor) -> list[Tensor]:
    """The analog network's outputs, leaf by leaf, (B, ...)."""
    with torch.no_grad():
        parts = [pytree.tree_leaves(network(x)) for x in torch.split(images, _batch_size(network))]
    return [torch.cat(leaves) for leaves in zip(*parts, strict=True)]


def _batches(epochs: int, count: int, size: int) -> Iterator[Tensor]:
    """Rows of every batch of every epoch, each epoch in another order."""
    generator = torch.Generator().manual_seed(_SEED)
    for _ in range(epochs):
        yield from torch.split(torch.randperm(count, generator=generator), size)


def _batch_size(network: Network) -> int:
    """Inputs per batch."""
    itemsize = torch.empty(0, dtype=network.dtype).element_size()
    each = sum(site.neurons for site in network.sites) * itemsize
    return max(1, min(_BATCH, _VALUES // each))


@dataclass(frozen=True)
class _Distance:
    """How far the outputs of a spiking network are from the analog one's, a number >= 0."""

    reading: Reading
    cut: float

    def between(self, analog: Sequence[Tensor], spiking: Sequence[Tensor]) -> Tensor:
        """Of all outputs, leaf by leaf (B, C, ...)."""
        return self.joined([self.sums(analog, spiking)])

    def sums(self, analog: Sequence[Tensor], spiking: Sequence[Tensor]) -> Tensor:
        """What is added up over batches: the gap, and the size it is relative to, of every leaf."""
        pairs = list(zip(analog, spiking, strict=True))
        return torch.stack([self._of_one(*pair, len(pairs) == 1) for pair in pairs])

    def joined(self, sums: Sequence[Tensor]) -> Tensor:
        """The distance, from the sums of every batch."""
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
        """(C,), activation units."""
        return self.snn.steps[name] * torch.exp2(self.octaves[name])

    def offset(self, name: str) -> Tensor:
        """(C,), units of the step."""
        return self.snn.offsets[name] + self.levels[name] / self.scale

    def network(self) -> SpikingNetwork:
        """The spiking network as trained so far."""
        names = list(self.octaves)
        return self.snn.changed(
            steps={name: self.step(name).detach() for name in names},
            offsets={name: self.offset(name).detach() for name in names},
        )

    def distance(self, snn: SpikingNetwork, images: Tensor, targets: list[Tensor]) -> float:
        """Distance of a spiking network's output at T."""
        sums, at, size = [], [self.timesteps], _batch_size(snn.network)
        with torch.no_grad():
            for start in range(0, len(images), size):
                part = slice(start, start + size)
                run = simulate(snn, images[part], self.timesteps, record=Record(output_at=at))
                found = [leaf[0] for leaf in pytree.tree_leaves(run.output)]
                sums.append(self._distance.sums([target[part] for target in targets], found))
            return float(self._distance.joined([one.double() for one in sums]))

    def loss(self, x: Tensor, targets: list[Tensor]) -> Tensor:
        """Distance of the output at T; its value is the spiking network's own."""
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
            if site.upper_bound is not None:  # c/d: with the derivative that keeps the output at c
                own = v0 / finer if neuron.schedule.shrinks else start
                reach = (self.scale * site.upper_bound / step + own).clamp(min=0)
                most = torch.minimum(reach, most)
            level = torch.minimum(level.clamp(min=0), most)
            count = level + (totals[name].net.to(level) - level).detach()
            return count * (step / self.scale)

        found: Any = self.snn.network.run(x, send)
        return self._distance.between(targets, pytree.tree_leaves(found))


__all__ = ["Distillation", "distilled"]
