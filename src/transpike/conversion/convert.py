"""Convert a captured, calibrated network into a spiking one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor, nn

from transpike.conversion.calibrate import Calibration, calibrate
from transpike.conversion.passes import CalibrationPass, apply_pass
from transpike.conversion.settings import check_settings
from transpike.conversion.thresholds import Percentile, ThresholdRule
from transpike.conversion.thresholds import threshold as threshold_of
from transpike.errors import ArgumentError
from transpike.graph.ambient import isolated
from transpike.graph.batches import Batches
from transpike.graph.capture import capture
from transpike.graph.network import Network, check_timesteps
from transpike.spiking.neuron import Neuron
from transpike.spiking.presets import IF
from transpike.spiking.spiking_network import Coding, SpikingNetwork

# Largest number of levels that a rule aims at if the step shrinks. With more levels, rounding no
# longer matters.
_MOST_LEVELS = 1024


@isolated()
def convert(
    model: nn.Module | Network,
    calibration: Calibration | Iterable[Any],
    *,
    neuron: Neuron | None = None,
    threshold: ThresholdRule | None = None,
    timesteps: int | None = None,
    passes: Sequence[CalibrationPass] = (),
    batches: Iterable[Any] | None = None,
) -> SpikingNetwork:
    """Turn a trained network into a spiking one.

    Args:
        model: a captured network, or a module. A module is captured with the first batch.
        calibration: statistics from `calibrate`, or batches of training data: tensors (B, ...),
            (tensor, label) pairs, or a DataLoader of either.
        neuron: the neuron at every site. Default: `IF()`.
        threshold: the threshold rule. Default: `Percentile(99.9, granularity="channel")`.
        timesteps: T, the number of timesteps to optimize for. Rules with `levels=None` and
            calibration passes need it.
        passes: calibration passes such as `BiasCorrection()`, applied one after the other.
        batches: training data for the passes. Default: the batches in `calibration`.

    Returns:
        The spiking network. The model does not change.

    Raises:
        UnsupportedError: the model has operations without an exact spiking form. The error lists
            all of them.
        DataError: the calibration data cannot be used.
        ArgumentError: a setting is out of range or missing.
    """
    neuron = IF() if neuron is None else neuron
    rule = Percentile() if threshold is None else threshold
    applied = list(passes)  # An iterator can be read only once, so this comes first.
    check_settings(neuron, rule, applied)
    _check_timesteps(applied, timesteps)
    if isinstance(calibration, Calibration):
        data = None if batches is None else Batches(batches)
        if applied and data is None:
            raise ArgumentError(
                "passes: needed training inputs, which a Calibration does not keep. Give them as "
                "batches=..., or give batches in place of the Calibration."
            )
        network, statistics = _checked_calibration(model, calibration), calibration
    else:
        given = Batches(calibration).repeatable()
        data = given if batches is None else Batches(batches)
        network = model if isinstance(model, Network) else capture(model, given.first())
        statistics = calibrate(network, given)
    snn = _converted(network, statistics, neuron, rule, timesteps)
    if applied and data is not None and timesteps is not None:
        images = data.joined().to(network.device)
        for one in applied:
            snn = apply_pass(one, snn, images, timesteps)
    return snn


def _converted(
    network: Network,
    statistics: Calibration,
    neuron: Neuron,
    rule: ThresholdRule,
    timesteps: int | None,
) -> SpikingNetwork:
    """The spiking network before any calibration pass."""
    neuron = _without_delay(neuron)
    levels = _levels(neuron, timesteps)
    steps: dict[str, Tensor] = {}
    silent: dict[str, int] = {}
    for site in network.sites:
        histogram = statistics.histograms[site.name]
        values = threshold_of(
            rule,
            histogram,
            moments=statistics.moments.get(site.name),
            levels=levels,
            initial_membrane=neuron.initial_membrane,
            range_factor=neuron.range_factor,
            bound=site.upper_bound,
        )
        quiet = int((histogram.maximum <= 0).sum())
        if quiet:
            silent[site.name] = quiet
        steps[site.name] = neuron.step_of(values).to(dtype=network.dtype, device=network.device)
    settings = {
        "neuron": neuron.to_dict(),
        "threshold": {"rule": type(rule).__name__, **asdict(rule)},
        "threshold_timesteps": timesteps,
        "calibration_n": statistics.n,
        "silent_channels": silent,
    }
    coding: Coding = "rate" if neuron.levels is None else "differential"
    ranges, like = statistics.ranges.items(), next(iter(steps.values()))
    snn = SpikingNetwork(
        network,
        _neurons(network, neuron),
        steps,
        settings,
        lowers={name: one.lower.to(like) for name, one in ranges},
        uppers={name: one.upper.to(like) for name, one in ranges},
        coding=coding,
    )
    if timesteps is not None:
        snn.check_timesteps(timesteps)
    return snn


def _levels(neuron: Neuron, timesteps: int | None) -> int | None:
    """Number of levels that a rule aims at, or None if it is not known without timesteps."""
    levels = None if neuron.schedule.shrinks else neuron.levels
    if levels is not None or timesteps is None:
        return levels
    levels = neuron.levels_at(timesteps)
    return min(levels, _MOST_LEVELS) if neuron.schedule.shrinks else levels


def _without_delay(neuron: Neuron) -> Neuron:
    """The neuron with a delay of 0. It may come from a site of another network."""
    return replace(neuron, schedule=replace(neuron.schedule, delay=0))


def _neurons(network: Network, neuron: Neuron) -> dict[str, Neuron]:
    """The neuron of every site. With a lag, the windows of deeper layers start later."""
    schedule, depth = neuron.schedule, network.depth
    return {
        site.name: replace(
            neuron, schedule=replace(schedule, delay=schedule.lag * (depth[site.name] - 1))
        )
        for site in network.sites
    }


def _check_timesteps(passes: Sequence[CalibrationPass], timesteps: int | None) -> None:
    if timesteps is not None:
        check_timesteps(timesteps)
    elif passes:
        raise ArgumentError(
            "passes: a calibration pass needs the number of timesteps to correct the network for. "
            "Give convert(..., timesteps=...)."
        )


def _checked_calibration(model: nn.Module | Network, calibration: Calibration) -> Network:
    if not isinstance(model, Network):
        raise ArgumentError(
            f"convert: needed the captured network of the Calibration, got {type(model).__name__}. "
            "Give that network, or give batches in place of the Calibration."
        )
    if (calibration.sites, calibration.fingerprint) != (model.sites, model.fingerprint):
        raise ArgumentError(
            "convert: needed a Calibration of this network, got one of another network. Call "
            "calibrate() with this network."
        )
    return model
