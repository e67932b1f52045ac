"""The spiking network as data, and the quantized ANN that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from transpike.errors import ArgumentError, TranspikeError
from transpike.graph.network import Network, Site, check_timesteps
from transpike.spiking.neuron import Neuron, quantized

Coding = Literal["rate", "differential"]


class SpikingNetwork(nn.Module):
    """A converted network: the folded analog graph, and a neuron with its steps at every site.

    At timestep t a site with step d charges V += current / d + offset, from V = start. In rate
    coding input, biases and offsets come at every timestep and the readout is a time average; in
    differential coding they come at t = 1 only, a time-varying input as its differences, and the
    readout is the running sum.

    It is data, not a forward pass: `transpike.simulate(snn, x, timesteps)` runs it, with state
    made anew for every call. `.to()`, `.double()` and `state_dict()` work as on any module.

    Attributes:
        neurons: neuron settings by site name.
        settings: how it was made (threshold rule, calibration size, ...), JSON-ready.
        readout_start: outputs at t average the timesteps readout_start + 1 .. t where t is larger,
            else 1 .. t; every timestep still counts in T.
        coding: "rate" or "differential".

    Raises:
        ArgumentError: neurons and coding, or coding and readout_start, do not go together.
    """

    def __init__(
        self,
        network: Network,
        neurons: Mapping[str, Neuron],
        steps: Mapping[str, Tensor],
        settings: Mapping[str, Any],
        *,
        starts: Mapping[str, Tensor] | None = None,
        offsets: Mapping[str, Tensor] | None = None,
        readout_start: int = 0,
        coding: Coding = "rate",
    ) -> None:
        super().__init__()
        _check_coding(neurons, readout_start, coding)
        self.readout_start = readout_start
        self.coding: Coding = coding
        self._graph = network.with_tensors({}, network.input_dtype)
        self.neurons = dict(neurons)
        self.settings = dict(settings)
        self._weights = _tensor_holder(network.tensors)
        self._steps = _tensor_holder(steps)
        if starts is None:
            starts = {
                name: torch.full_like(step, neurons[name].initial_membrane)
                for name, step in steps.items()
            }
        self._starts = _tensor_holder(starts)
        if offsets is None:
            offsets = {name: torch.zeros_like(step) for name, step in steps.items()}
        self._offsets = _tensor_holder(offsets)

    @property
    def network(self) -> Network:
        """The folded analog network."""
        tensors = {_dotted(name): t for name, t in self._weights.named_buffers()}
        return self._graph.with_tensors(tensors, next(iter(self.steps.values())).dtype)

    @property
    def steps(self) -> dict[str, Tensor]:
        """Step per site name, shape (C,), activation units."""
        return {_dotted(name): tensor for name, tensor in self._steps.named_buffers()}

    @property
    def starts(self) -> dict[str, Tensor]:
        """Initial membrane per site name, shape (C,), in units of the step; any real number."""
        return {_dotted(name): tensor for name, tensor in self._starts.named_buffers()}

    @property
    def offsets(self) -> dict[str, Tensor]:
        """Extra current per site name, shape (C,), in units of the step; zero unless calibrated."""
        return {_dotted(name): tensor for name, tensor in self._offsets.named_buffers()}

    @property
    def max_count(self) -> int:
        """Largest count per timestep over all sites."""
        return max(neuron.max_count for neuron in self.neurons.values())

    @property
    def first_output(self) -> int:
        """First timestep at which every layer may have fired; before it outputs mean nothing."""
        return 1 + max(neuron.schedule.delay for neuron in self.neurons.values())

    def check_timesteps(self, timesteps: int) -> None:
        """Refuse a number of timesteps before whose end some layers have not fired.

        Raises:
            ArgumentError: `timesteps` is not an integer of at least `first_output`.
        """
        check_timesteps(timesteps)
        if timesteps < self.first_output:
            windows = [
                n.schedule.delay + n.schedule.window
                for n in self.neurons.values()
                if n.schedule.window is not None
            ]
            whole = f" ({max(windows)} for whole windows)" if windows else ""
            raise ArgumentError(
                f"timesteps: needed at least {self.first_output}{whole}, got {timesteps}: layers "
                "fire one after the other, and the last ones would not yet. Give more timesteps, "
                "or use Refining(K), whose layers all fire from the first one on."
            )

    def changed(self, **values: Any) -> SpikingNetwork:
        """The same network with other neurons, steps, starts, offsets, readout_start or settings.

        Per-site mappings replace the whole mapping; what is not named stays.
        """
        kept = {
            "neurons": self.neurons,
            "steps": self.steps,
            "settings": self.settings,
            "starts": self.starts,
            "offsets": self.offsets,
            "readout_start": self.readout_start,
            "coding": self.coding,
        }
        return SpikingNetwork(self.network, **{**kept, **values})

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


def _check_coding(neurons: Mapping[str, Neuron], readout_start: int, coding: str) -> None:
    if coding not in ("rate", "differential"):
        raise ArgumentError(f"coding: needed 'rate' or 'differential', got {coding!r}.")
    unfit = [n for n, neuron in neurons.items() if (neuron.levels is None) == (coding != "rate")]
    if unfit:
        needed = "levels of every neuron" if coding == "differential" else "neurons without levels"
        raise ArgumentError(
            f"coding: {coding} coding needs {needed}, which {unfit[:3]} lack. Use one neuron, such "
            "as Differential(8) or Signed(1), at every site."
        )
    if isinstance(readout_start, bool) or not isinstance(readout_start, int) or readout_start < 0:
        raise ArgumentError(f"readout_start: needed an integer >= 0, got {readout_start!r}.")
    if readout_start and coding == "differential":
        raise ArgumentError(
            "readout_start: differential coding reads a running sum, from which no timestep can be "
            "left out. Use readout_start=0."
        )


def _tensor_holder(tensors: Mapping[str, Tensor]) -> nn.Module:
    holder = nn.Module()
    for name, tensor in tensors.items():
        if tensor.ndim == 4:  # the order convolutions run fastest in
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        holder.register_buffer(_buffer_name(name), tensor)
    return holder


def _buffer_name(name: str) -> str:
    """Buffers may have no dots; the leading slash keeps clear of a module's own attributes."""
    return "/" + name.replace("%", "%25").replace("/", "%2F").replace(".", "/")


def _dotted(buffer: str) -> str:
    name = buffer.removeprefix("/").replace("/", ".")
    return name.replace("%2F", "/").replace("%25", "%")


def site_bounds(snn: SpikingNetwork) -> dict[str, Tensor | None]:
    """c/d of every site whose activation is clamp(x, 0, c), shaped to broadcast over (B, ...)."""
    steps = snn.steps
    return {
        site.name: None
        if site.upper_bound is None
        else site.along_channels(site.upper_bound / steps[site.name])
        for site in snn.network.sites
    }


def site_starts(snn: SpikingNetwork) -> dict[str, Tensor]:
    """Initial membrane of every site in units of the step, shaped to broadcast over (B, ...)."""
    starts = snn.starts
    return {site.name: site.along_channels(starts[site.name]) for site in snn.network.sites}


def site_offsets(snn: SpikingNetwork) -> dict[str, Tensor | None]:
    """Offset of every site in units of the step, as `site_starts`; None where all are zero."""
    offsets = snn.offsets
    return {
        site.name: site.along_channels(offsets[site.name])
        if bool(offsets[site.name].any())
        else None
        for site in snn.network.sites
    }


def quantized_ann(snn: SpikingNetwork, x: Tensor, timesteps: int) -> Any:
    """The quantized ANN with K T levels, the reference of the spiking network at T.

    Every site becomes d/T clamp(floor(T (z/d + offset) + start), 0, K T) with the spiking
    network's own step d, offset, start and max count K; a bounded site stays within
    floor(c T/d + start). In differential coding every site becomes
    d clamp(floor(z/d + offset + start), 0, L), whatever T; where the step shrinks, d and L are
    those at T; with a window or hysteresis it becomes what the neuron itself holds of z + offset
    after T timesteps. It is a reference, not an upper bound.

    Args:
        snn: the converted network.
        x: input, shape (B, ...).
        timesteps: T.

    Returns:
        The output in the model's structure.
    """
    check_timesteps(timesteps)
    steps, bounds = snn.steps, site_bounds(snn)
    starts, offsets = site_starts(snn), site_offsets(snn)
    scale = timesteps if snn.coding == "rate" else 1

    def quantize(site: Site, z: Tensor) -> Tensor:
        neuron, bound, offset = snn.neurons[site.name], bounds[site.name], offsets[site.name]
        step = site.along_channels(steps[site.name])
        drive = z / step
        if offset is not None:
            drive = drive + offset
        held = quantized(neuron, drive * scale, timesteps, starts[site.name], bound)
        return held * (step / scale)

    with torch.inference_mode():
        return snn.network.run(x, quantize)
