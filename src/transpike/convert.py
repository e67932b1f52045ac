"""Convert a captured, calibrated network into a spiking one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from transpike.calibrate import Calibration, calibrate, inputs_of
from transpike.capture import capture
from transpike.errors import ArgumentError, DataError, TranspikeError
from transpike.network import Network, check_timesteps
from transpike.neuron import IF, Neuron
from transpike.thresholds import Percentile, ThresholdRule
from transpike.thresholds import threshold as threshold_of


class SpikingNetwork(nn.Module):
    """A converted network: the folded analog graph, and a neuron with its steps at every site.

    It is data, not a forward pass: `transpike.simulate(snn, x, timesteps)` runs it, with state
    made anew for every call. `.to()`, `.double()` and `state_dict()` work as on any module.

    Attributes:
        neurons: neuron settings by site name.
        settings: how it was made (threshold rule, calibration size, ...), JSON-ready.
    """

    def __init__(
        self,
        network: Network,
        neurons: Mapping[str, Neuron],
        steps: Mapping[str, Tensor],
        settings: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self._graph = replace(network, tensors={})
        self.neurons = dict(neurons)
        self.settings = dict(settings)
        self._weights = _tensor_holder(network.tensors)
        self._steps = _tensor_holder(steps)

    @property
    def network(self) -> Network:
        """The folded analog network."""
        tensors = {_dotted(name): t for name, t in self._weights.named_buffers()}
        dtype = next(iter(self.steps.values())).dtype
        return replace(self._graph, tensors=tensors, input_dtype=dtype)

    @property
    def steps(self) -> dict[str, Tensor]:
        """Step per site name, shape (C,), activation units."""
        return {_dotted(name): tensor for name, tensor in self._steps.named_buffers()}

    @property
    def max_count(self) -> int:
        """Largest count per timestep over all sites."""
        return max(neuron.max_count for neuron in self.neurons.values())

    def forward(self, *_: object) -> Tensor:
        """Refused: a spiking network needs a number of timesteps."""
        raise TranspikeError(
            "a SpikingNetwork is not called directly; use transpike.simulate(snn, x, timesteps=T)."
        )

    def extra_repr(self) -> str:
        """Sites with their neurons."""
        return "\n".join(
            f"{site.name}: {self.neurons[site.name].name}, {site.neurons} neurons"
            for site in self._graph.sites
        )


def _tensor_holder(tensors: Mapping[str, Tensor]) -> nn.Module:
    holder = nn.Module()
    for name, tensor in tensors.items():
        holder.register_buffer(_buffer_name(name), tensor)
    return holder


def _buffer_name(name: str) -> str:
    """Buffers may have no dots; the leading slash keeps clear of a module's own attributes."""
    return "/" + name.replace("%", "%25").replace("/", "%2F").replace(".", "/")


def _dotted(buffer: str) -> str:
    name = buffer.removeprefix("/").replace("/", ".")
    return name.replace("%2F", "/").replace("%25", "%")


def convert(
    model: nn.Module | Network,
    calibration: Calibration | Iterable[Any],
    *,
    neuron: Neuron | None = None,
    threshold: ThresholdRule | None = None,
    timesteps: int | None = None,
) -> SpikingNetwork:
    """Turn a trained network into a spiking one.

    Args:
        model: a captured network, or a module, which is then captured with the first batch.
        calibration: from `calibrate`, or batches of training data.
        neuron: settings of every site; default `IF()`.
        threshold: rule; default `Percentile(99.9, granularity="channel")`.
        timesteps: the number of timesteps `LeastSquares(levels=None)` is to be best for.

    Returns:
        The spiking network. The model is left unchanged.

    Raises:
        UnsupportedError: lists every operation of the model that has no exact spiking form.
        DataError: unusable calibration data.
        ArgumentError: a setting is out of range.
    """
    neuron = IF() if neuron is None else neuron
    rule = Percentile() if threshold is None else threshold
    if not isinstance(neuron, Neuron):
        raise ArgumentError(f"neuron: needed a Neuron such as IF() or Burst(5), got {neuron!r}.")
    if not isinstance(rule, ThresholdRule):
        raise ArgumentError(f"threshold: needed a rule such as Percentile(99.9), got {rule!r}.")
    if timesteps is not None:
        check_timesteps(timesteps)
    network, statistics = _captured_and_calibrated(model, calibration)
    levels = neuron.max_count * timesteps if timesteps is not None else None
    steps: dict[str, Tensor] = {}
    silent: dict[str, int] = {}
    for site in network.sites:
        histogram = statistics.histograms[site.name]
        values = threshold_of(
            rule,
            histogram,
            levels=levels,
            initial_membrane=neuron.initial_membrane,
            range_factor=neuron.range_factor,
        )
        quiet = int((histogram.maximum <= 0).sum())
        if quiet:
            silent[site.name] = quiet
        steps[site.name] = neuron.step_of(values).to(dtype=network.dtype, device=network.device)
    settings = {
        "neuron": asdict(neuron),
        "threshold": {"rule": type(rule).__name__, **asdict(rule)},
        "threshold_timesteps": timesteps,
        "calibration_n": statistics.n,
        "silent_channels": silent,
    }
    return SpikingNetwork(network, {s.name: neuron for s in network.sites}, steps, settings)


def _captured_and_calibrated(
    model: nn.Module | Network, calibration: Calibration | Iterable[Any]
) -> tuple[Network, Calibration]:
    if isinstance(calibration, Calibration):
        network = model if isinstance(model, Network) else None
        if network is None:
            raise ArgumentError(
                "convert: a Calibration belongs to a captured network; give that network, or the "
                "model with batches of data."
            )
        if (calibration.sites, calibration.fingerprint) != (network.sites, network.fingerprint):
            raise ArgumentError("convert: the calibration was made with another network.")
        return network, calibration
    batches: Iterable[Any] = calibration
    if isinstance(batches, Tensor):
        batches = [batches]
    if not isinstance(model, Network):
        if not isinstance(batches, Iterable):
            raise ArgumentError(
                f"calibration: needed batches of data, got {type(batches).__name__}."
            )
        if iter(batches) is batches:  # a generator can be read only once
            batches = list(batches)
        first = next(inputs_of(batches), None)
        if first is None:
            raise DataError("calibration: needed at least one batch of data, got none.")
        model = capture(model, first)
    return model, calibrate(model, batches)


def site_bounds(snn: SpikingNetwork) -> dict[str, Tensor | None]:
    """c/d of every site whose activation is clamp(x, 0, c), shaped to broadcast over (B, ...)."""
    steps = snn.steps
    return {
        site.name: None
        if site.upper_bound is None
        else site.along_channels(site.upper_bound / steps[site.name])
        for site in snn.network.sites
    }


def quantized_ann(snn: SpikingNetwork, x: Tensor, timesteps: int) -> Any:
    """The quantised analog network with K T levels: the ceiling of the spiking network at T.

    Every site becomes d/T clamp(floor(T z/d + v0), 0, K T) with the spiking network's own step
    d, initial membrane v0 and max count K; a bounded site stays within floor(c T/d + v0). It is
    a reference, not an upper bound.

    Args:
        snn: the converted network.
        x: input, shape (B, ...).
        timesteps: T.

    Returns:
        The output in the model's structure.
    """
    check_timesteps(timesteps)
    steps = snn.steps

    def quantize(site: Any, z: Tensor) -> Tensor:
        neuron = snn.neurons[site.name]
        step = site.along_channels(steps[site.name])
        level = torch.floor(z / step * timesteps + neuron.initial_membrane)
        limit = neuron.max_count * timesteps
        level = level.clamp_(0, limit)
        if site.upper_bound is not None:
            bound = torch.floor(site.upper_bound / step * timesteps + neuron.initial_membrane)
            level = torch.minimum(level, bound)
        result: Tensor = level * (step / timesteps)
        return result

    with torch.inference_mode():
        return snn.network.run(x, quantize)
