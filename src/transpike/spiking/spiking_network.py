"""The spiking network as data, and its quantized ANN."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from transpike.errors import ArgumentError, DataError, TranspikeError
from transpike.graph.ambient import isolated
from transpike.graph.network import Network, Site, check_timesteps
from transpike.spiking.neuron import Neuron, quantized
from transpike.spiking.site_tensors import check_per_site

Coding = Literal["rate", "differential"]


class SpikingNetwork(nn.Module):
    """A converted network: the folded analog graph, with a neuron and its steps at every site.

    The membrane of a site starts at V = start. At every timestep a site with step d adds
    current / d + offset to V. In rate coding the input, biases and offsets enter at every
    timestep, and the readout is an average over time. In differential coding they enter at t = 1
    only, a time-varying input enters as its differences, and the readout is a running sum.

    The network is data and has no forward pass. `transpike.simulate(snn, x, timesteps)` runs it
    and creates new state for every call. `.to()`, `.double()` and `state_dict()` work as on any
    module.

    Attributes:
        neurons: neuron settings by site name.
        settings: how the network was made (threshold rule, calibration size, ...), JSON-ready.
        readout_start: the output at t is the average over timesteps readout_start + 1 to t. It is
            the average over 1 to t while t <= readout_start. All timesteps count in T.
        coding: "rate" or "differential".

    Raises:
        ArgumentError: the neurons or `readout_start` do not fit the coding, or the neurons, steps,
            starts or offsets do not fit the sites.
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
        lowers: Mapping[str, Tensor] | None = None,
        uppers: Mapping[str, Tensor] | None = None,
        readout_start: int = 0,
        coding: Coding = "rate",
    ) -> None:
        super().__init__()
        _check_sites(network, neurons, {"steps": steps})
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
        if offsets is None:
            offsets = {name: torch.zeros_like(step) for name, step in steps.items()}
        ranges = {"lowers": lowers or {}, "uppers": uppers or {}}
        _check_sites(network, neurons, {"starts": starts, "offsets": offsets, **ranges})
        self._starts, self._offsets = _tensor_holder(starts), _tensor_holder(offsets)
        self._lowers, self._uppers = map(_tensor_holder, ranges.values())
        _check_signs(network, neurons, self.lowers)

    @property
    def network(self) -> Network:
        """The folded analog network."""
        tensors = {_dotted(name): t for name, t in self._weights.named_buffers()}
        return self._graph.with_tensors(tensors, next(iter(self.steps.values())).dtype)

    @property
    def steps(self) -> dict[str, Tensor]:
        """Step by site name, shape (C,), in activation units."""
        return {_dotted(name): tensor for name, tensor in self._steps.named_buffers()}

    @property
    def starts(self) -> dict[str, Tensor]:
        """Initial membrane by site name, shape (C,), in units of the step. It can be any number."""
        return {_dotted(name): tensor for name, tensor in self._starts.named_buffers()}

    @property
    def offsets(self) -> dict[str, Tensor]:
        """Extra current by site name, shape (C,), in units of the step. It is zero without passes.

        Calibration passes such as `BiasCorrection` set it.
        """
        return {_dotted(name): tensor for name, tensor in self._offsets.named_buffers()}

    @property
    def lowers(self) -> dict[str, Tensor]:
        """Least value by the name of a site behind a region, shape (C,), <= 0, activation units."""
        return {_dotted(name): tensor for name, tensor in self._lowers.named_buffers()}

    @property
    def uppers(self) -> dict[str, Tensor]:
        """Largest value by the name of a site behind a region, shape (C,), >= 0."""
        return {_dotted(name): tensor for name, tensor in self._uppers.named_buffers()}

    @property
    def max_count(self) -> int:
        """Largest count per timestep over all sites."""
        return max(neuron.max_count for neuron in self.neurons.values())

    @property
    def first_output(self) -> int:
        """First timestep (1-based) at which all layers may fire. Earlier outputs mean nothing."""
        return 1 + max(neuron.schedule.delay for neuron in self.neurons.values())

    def at(self, size: Sequence[int]) -> SpikingNetwork:
        """The same network for inputs of another size. Both networks share their tensors.

        Thresholds, initial membranes and offsets are per channel, so they fit every size. Functions
        that take an input choose the size themselves. Use this method to set the tile size of
        `simulate_tiled`.

        Args:
            size: sizes of the axes after the channels, such as height and width.

        Returns:
            This network if it already has this size, else a copy.

        Raises:
            DataError: the network does not take this size. The message names the axis or the
                operation.
        """
        network = self.network.at(size)
        if network.input_shape == self._graph.input_shape:
            return self
        other = copy.copy(self)  # The copy shares the modules that hold the tensors.
        other._graph = network.with_tensors({}, network.input_dtype)
        return other

    def sized_for(self, x: Tensor, *, time_axis: bool = False) -> SpikingNetwork:
        """The network for the size of an input.

        Args:
            x: input (B, ...), or (T, B, ...) with `time_axis`.
            time_axis: whether the first axis of x is time.

        Raises:
            DataError: the network does not take this size, as in `at`.
        """
        return self.at(self.network.sized_for(x, time_axis=time_axis).input_shape[1:])

    def check_timesteps(self, timesteps: int) -> None:
        """Refuse a number of timesteps in which some layers could not fire.

        Raises:
            ArgumentError: `timesteps` is not an integer >= `first_output`.
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
                f"timesteps: needed at least {self.first_output}{whole}, got {timesteps}. Layers "
                "fire one after the other, and the last ones could not fire. Give more timesteps, "
                "or use Refining(K), whose layers all fire from the first timestep."
            )

    def changed(self, **values: Any) -> SpikingNetwork:
        """A copy of the network with some values changed.

        Args:
            **values: new neurons, steps, starts, offsets, lowers, uppers, readout_start, coding or
                settings. A mapping replaces the whole old mapping.

        Raises:
            ArgumentError: a value does not fit the sites or the coding.
        """
        kept = {
            "neurons": self.neurons,
            "steps": self.steps,
            "settings": self.settings,
            "starts": self.starts,
            "offsets": self.offsets,
            "lowers": self.lowers,
            "uppers": self.uppers,
            "readout_start": self.readout_start,
            "coding": self.coding,
        }
        return SpikingNetwork(self.network, **{**kept, **values})

    def forward(self, *_: object) -> Tensor:
        """Refuse the call, because a spiking network needs a number of timesteps.

        Raises:
            TranspikeError: always.
        """
        raise TranspikeError(
            "a SpikingNetwork cannot be called directly. Use transpike.simulate(snn, x, "
            "timesteps=T)."
        )

    def extra_repr(self) -> str:
        """One line per site, with its neuron."""
        return "\n".join(
            f"{site.name}: {self.neurons[site.name].name}, {site.neurons} neurons"
            for site in self._graph.sites
        )


def _check_sites(
    network: Network,
    neurons: Mapping[str, Neuron],
    per_site: Mapping[str, Mapping[str, Tensor]],
) -> None:
    try:
        check_per_site(network, neurons, per_site)
    except DataError as error:
        raise ArgumentError(str(error)) from None
    for name, neuron in neurons.items():
        if not isinstance(neuron, Neuron):
            raise ArgumentError(f"neurons of '{name}': needed a Neuron, got {neuron!r}.")


def _check_coding(neurons: Mapping[str, Neuron], readout_start: int, coding: str) -> None:
    if coding not in ("rate", "differential"):
        raise ArgumentError(f"coding: needed 'rate' or 'differential', got {coding!r}.")
    unfit = [n for n, neuron in neurons.items() if (neuron.levels is None) == (coding != "rate")]
    if unfit:
        needed = "with levels" if coding == "differential" else "without levels"
        raise ArgumentError(
            f"coding: needed neurons {needed} for {coding} coding, got others at {unfit[:3]}. Use "
            "one neuron, such as Differential(8) or Signed(1), at every site."
        )
    if isinstance(readout_start, bool) or not isinstance(readout_start, int) or readout_start < 0:
        raise ArgumentError(f"readout_start: needed an integer >= 0, got {readout_start!r}.")
    if readout_start and coding == "differential":
        raise ArgumentError(
            f"readout_start: needed 0 in differential coding, got {readout_start}. The output is a "
            "running sum, which needs every timestep. Use readout_start=0."
        )


def _check_signs(
    network: Network, neurons: Mapping[str, Neuron], lowers: Mapping[str, Tensor]
) -> None:
    """Refuse unsigned neurons behind regions with negative values."""
    for site in network.sites:
        neuron = neurons[site.name]
        negative = site.follows_region and bool((lowers[site.name] < 0).any())
        if negative and not (neuron.signed or neuron.telescoped):
            raise ArgumentError(
                f"neuron: needed a signed neuron at '{site.name}', whose values have either sign, "
                f"got {neuron.name}. Use Signed({neuron.max_count})."
            )


def _tensor_holder(tensors: Mapping[str, Tensor]) -> nn.Module:
    holder = nn.Module()
    for name, tensor in tensors.items():
        if tensor.ndim == 4:  # convolutions are fastest in this memory format
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        holder.register_buffer(_buffer_name(name), tensor)
    return holder


def _buffer_name(name: str) -> str:
    """The name as a buffer name, which must not contain dots.

    The leading slash keeps it different from the attributes of a module.
    """
    return "/" + name.replace("%", "%25").replace("/", "%2F").replace(".", "/")


def _dotted(buffer: str) -> str:
    name = buffer.removeprefix("/").replace("/", ".")
    return name.replace("%2F", "/").replace("%25", "%")


def site_bounds(snn: SpikingNetwork) -> dict[str, Tensor | None]:
    """Upper bound of the activation over its step by site, broadcastable over (B, ...), or None."""
    steps, uppers = snn.steps, snn.uppers
    return {
        site.name: _over_step(site, uppers.get(site.name, site.upper_bound), steps)
        for site in snn.network.sites
    }


def site_lowers(snn: SpikingNetwork) -> dict[str, Tensor | None]:
    """Lower bound of the activation by site, over its step. None stands for 0."""
    steps, lowers = snn.steps, snn.lowers
    return {
        site.name: _over_step(site, lowers.get(site.name, site.lower_bound or None), steps)
        for site in snn.network.sites
    }


def _over_step(
    site: Site, bound: Tensor | float | None, steps: Mapping[str, Tensor]
) -> Tensor | None:
    return None if bound is None else site.along_channels(bound / steps[site.name])


def site_starts(snn: SpikingNetwork) -> dict[str, Tensor]:
    """Initial membrane by site name, in units of the step, broadcastable over (B, ...)."""
    starts = snn.starts
    return {site.name: site.along_channels(starts[site.name]) for site in snn.network.sites}


def site_offsets(snn: SpikingNetwork) -> dict[str, Tensor | None]:
    """Offset by site name, in units of the step, broadcastable over (B, ...).

    The offset of a site is None if all its values are zero.
    """
    offsets = snn.offsets
    return {
        site.name: site.along_channels(offsets[site.name])
        if bool(offsets[site.name].any())
        else None
        for site in snn.network.sites
    }


@isolated()
def quantized_ann(snn: SpikingNetwork, x: Tensor, timesteps: int) -> Any:
    """The output of the quantized ANN, the reference of the spiking network at T.

    The quantized ANN is the analog network with a quantized activation at every site. It has the
    step d, offset, start and max count K of the spiking network. With the current z of a site:

    - Rate coding has K T levels: d/T clamp(floor(T (z/d + offset) + start), 0, K T). If the
      activation is bounded by c, the count is at most floor(c T/d + start).
    - Differential coding has L levels for every T: d clamp(floor(z/d + offset + start), 0, L). If
      the step shrinks, d and L are the values at T.
    - Behind a region the level lies between that of the least and that of the largest value of the
      calibration data, of either sign.
    - With a window or hysteresis, the activation is the output of the neuron after T timesteps,
      if it has its whole input z/d + offset from the start.

    The accuracy of the quantized ANN is a reference and not an upper bound.

    Args:
        snn: the converted network.
        x: input, shape (B, ...).
        timesteps: T, >= 1.

    Returns:
        The output, in the structure of the model's output.

    Raises:
        ArgumentError: `timesteps` is not an integer >= 1.
    """
    check_timesteps(timesteps)
    steps, bounds, lowers = snn.steps, site_bounds(snn), site_lowers(snn)
    starts, offsets = site_starts(snn), site_offsets(snn)
    scale = timesteps if snn.coding == "rate" else 1

    def quantize(site: Site, z: Tensor) -> Tensor:
        neuron, bound, offset = snn.neurons[site.name], bounds[site.name], offsets[site.name]
        step = site.along_channels(steps[site.name])
        drive = z / step
        if offset is not None:
            drive = drive + offset
        whole, start, lower = drive * scale, starts[site.name], lowers[site.name]
        held = quantized(neuron, whole, timesteps, start, bound, lower)
        return held * (step / scale)

    with torch.inference_mode():
        return snn.network.run(x, quantize)
