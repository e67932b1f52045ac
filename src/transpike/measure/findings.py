"""Rules that name what is wrong with a spiking network, their limits, and remedies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from transpike.spiking.neuron import Neuron

LOCAL = ("clipping", "quantization", "unevenness")
PARTS = ("weights", "propagated", "offset", *LOCAL)
PART_LABELS = {
    "weights": "weights",
    "propagated": "from the sites before",
    "offset": "calibration offset",
    "clipping": "clipping",
    "quantization": "quantization",
    "unevenness": "unevenness",
}

# Limits of the verdict on the output.
# The accuracies of the two networks differ by at most the share of predictions that differ. From
# this limit on, the conversion can cost at most 10 points of accuracy.
LEAST_AGREEMENT = 0.9
# An output error of half the output's own size. Conversions of ResNet-20 (CIFAR-10) and of the
# digits network with an agreement of 0.9 or more had an error of at most 0.34. Those with an
# agreement of 0.85 to 0.89 had an error of 0.41 to 0.56.
MOST_OUTPUT_ERROR = 0.5

# Limits of the findings. Good conversions of trained networks stay at about half of each limit.
# They were measured on ResNet-20 (CIFAR-10) and the digits network, with every threshold rule and
# with K T from 8 to 64.
#
# The clipping error of the ANN's activations may be this large, relative to their rms and to the
# least possible error with as many levels. The quantization error has limits of the same kind.
_CLIPPING, _CLIPPING_OVER_BEST = 0.15, 1.5
_COARSE, _COARSE_OVER_BEST = 0.05, 3.0
# Unevenness, relative to the rms of the activations and to the median of the other sites.
_UNEVEN, _UNEVEN_OVER_MEDIAN = 0.6, 3.0
_WEIGHTS = 1e-3  # far above rounding (1e-5), and far below the effect of a missing tensor
_CHARGE = 0.05  # steps; rounding stays below 0.01
# Share of neurons that cannot send what is missing in one more timestep. In good conversions of
# ResNet-20, with Refining(4) and Refining(8), it is at most 0.009 at T = 4 and 0.028 at T = 8.
_LATE = 0.05
_WIDESPREAD = 0.5  # if more than this share of the sites do not fit, the calibration is wrong


@dataclass(frozen=True)
class Part:
    """One part of a site's error.

    Attributes:
        rms: root mean square of the part, relative to the rms of the analog activation.
        bias: mean of the part, relative to the same.
    """

    rms: float
    bias: float


@dataclass(frozen=True)
class SiteDiagnosis:
    """One site, compared over all samples, neurons and timesteps.

    Errors are relative: they are divided by the rms of the analog activation.

    Attributes:
        name: name of the site.
        neurons: number of neurons per sample.
        channels: number of channels.
        max_count: K.
        correlation: correlation of the analog activation with the mean spiking output; NaN where
            one is constant.
        relative_error: rms of the difference between both.
        parts: parts of the difference by name. The signed parts add up to it exactly.
        fit_clipping: rms error of clamping the analog activations to the range K d.
        fit_quantization: rms error of then rounding them to the K T levels.
        fit_best: least rms error that one step per channel gives with as many levels. Each value
            is rounded at once, also for a neuron with hysteresis, although that neuron's rounding
            depends on what it sent before.
        range_over_maximum: K d divided by the largest analog activation, median over channels.
        dead_channels: channels that never fire although the analog network is active.
        saturated_channels: channels in which at least half of the firing neurons are at the top
            level K T.
        silent_channels: channels in which the analog network is not active.
        firing_rates: shares of neurons. The first is that of neurons that never fire; entry
            i = 1..10 is that of neurons whose mean count is in ((i - 1)/10, i/10] of K.
        charge_error: rms difference, in steps, between the membrane and what the currents and
            counts leave. Without rounding it is 0 if no other site shares the neurons.
        late_share: share of neurons in which more is missing at T than K counts of the step at T
            can send. It is 0 unless the step has shrunk for good.
    """

    name: str
    neurons: int
    channels: int
    max_count: int
    correlation: float
    relative_error: float
    parts: dict[str, Part]
    fit_clipping: float
    fit_quantization: float
    fit_best: float
    range_over_maximum: float
    dead_channels: int
    saturated_channels: int
    silent_channels: int
    firing_rates: list[float]
    charge_error: float
    late_share: float = 0.0


@dataclass(frozen=True)
class OutputDiagnosis:
    """The output, compared over all samples.

    Attributes:
        correlation: correlation of all output values.
        relative_error: rms of their difference, relative to the rms of the analog output.
        parts: parts of the difference: "weights" and "propagated".
        agreement: share of equal predictions, read as `evaluate` reads them. None where the model
            returns several tensors, or one number per sample, which may be a regression.
    """

    correlation: float
    relative_error: float
    parts: dict[str, Part]
    agreement: float | None

    @property
    def close(self) -> bool:
        """Whether the output is close to the ANN's, within both limits."""
        return output_is_close(self.agreement, self.relative_error)


def output_is_close(agreement: float | None, relative_error: float | None) -> bool:
    """Whether an output is close to the ANN's: `LEAST_AGREEMENT` and `MOST_OUTPUT_ERROR` hold.

    Args:
        agreement: share of equal predictions, or None where there are none.
        relative_error: rms of the difference over the rms of the ANN's output; None or NaN where
            the output has no error, as with a model that returns class indices.

    Returns:
        False also where neither number is known.
    """
    known = relative_error is not None and not math.isnan(relative_error)
    if agreement is None and not known:
        return False
    agrees = agreement is None or agreement >= LEAST_AGREEMENT
    return agrees and (relative_error is None or not relative_error > MOST_OUTPUT_ERROR)


def verdict(agreement: float | None, relative_error: float | None, found: bool) -> tuple[str, ...]:
    """The verdict on a conversion in full sentences: one on the output, one on the sites.

    Args:
        agreement: share of equal predictions, or None.
        relative_error: of the output, or None.
        found: whether a site stands out; its finding is then printed instead of the second
            sentence.
    """
    numbers = []
    if agreement is not None:
        numbers.append(
            f"{100 * agreement:.1f} % of the predictions agree (needed: "
            f"{100 * LEAST_AGREEMENT:.0f} % or more)"
        )
    if relative_error is not None and not math.isnan(relative_error):
        numbers.append(
            f"the relative error is {relative_error:.2f} (needed: {MOST_OUTPUT_ERROR} or less)"
        )
    if not numbers:
        first = (
            "The output cannot be judged: it is neither class scores nor a number with an error."
        )
    else:
        close = output_is_close(agreement, relative_error)
        first = f"The output is {'close to' if close else 'far from'} the ANN's: "
        first += " and ".join(numbers) + "."
    return (first,) if found else (first, "No single site stands out.")


@dataclass(frozen=True)
class Finding:
    """Something that is wrong at one or several sites, and what to try.

    Attributes:
        site: the first site where it shows.
        cause: "charge", "weights", "calibration", "clipping", "quantization", "unevenness" or
            "late corrections".
        sites: all sites where it shows.
        evidence: the numbers that show it, as text.
        remedy: what to try, as text.
    """

    site: str
    cause: str
    sites: tuple[str, ...]
    evidence: str
    remedy: str


def findings(sites: tuple[SiteDiagnosis, ...], output: OutputDiagnosis) -> tuple[Finding, ...]:
    """Find what is wrong, in execution order."""
    order = {site.name: index for index, site in enumerate(sites)} | {"output": len(sites)}
    found = [*_charges(sites), *_weights(sites, output), *_misfits(sites), *_late(sites)]
    found += _uneven(sites)
    return tuple(sorted(found, key=lambda finding: order[finding.site]))


def _charges(sites: tuple[SiteDiagnosis, ...]) -> Iterator[Finding]:
    wrong = [site for site in sites if not site.charge_error <= _CHARGE]
    if wrong:
        yield Finding(
            wrong[0].name,
            "charge",
            tuple(site.name for site in wrong),
            f"the membrane differs by {wrong[0].charge_error:.2f} steps from what the currents and "
            f"counts of this site leave (so it does at {len(wrong)} sites in all): the neurons are "
            "shared with another site, or keep state from an earlier input.",
            "give every call of an activation its own neurons, and reset them for every input, as "
            "transpike.simulate does.",
        )


def _weights(sites: tuple[SiteDiagnosis, ...], output: OutputDiagnosis) -> Iterator[Finding]:
    rows: list[tuple[str, Part | None]] = [(s.name, s.parts["weights"]) for s in sites]
    rows.append(("output", output.parts.get("weights")))
    wrong = [(name, part) for name, part in rows if part is not None and part.rms > _WEIGHTS]
    if wrong:
        name, part = wrong[0]
        yield Finding(
            name,
            "weights",
            tuple(name for name, _ in wrong),
            f"on the activations of the model, the converted weights give a current with an error "
            f"of {100 * part.rms:.1f} % (mean {100 * part.bias:+.1f} %): a weight or bias before "
            "this site is missing or differs from the model's.",
            "convert the model again with transpike.capture and transpike.convert, and compare the "
            "tensors before this site.",
        )


def _misfits(sites: tuple[SiteDiagnosis, ...]) -> Iterator[Finding]:
    """Find thresholds that do not fit the analog activations of these inputs."""
    narrow = [
        site
        for site in sites
        if site.fit_clipping > max(_CLIPPING, _CLIPPING_OVER_BEST * site.fit_best)
    ]
    coarse = [
        site
        for site in sites
        if site.fit_quantization > max(_COARSE, _COARSE_OVER_BEST * site.fit_best)
    ]
    names = {site.name for site in (*narrow, *coarse)}
    wrong = [site for site in sites if site.name in names]
    if wrong and wrong[0] is sites[0] and len(wrong) > max(1, _WIDESPREAD * len(sites)):
        yield _miscalibrated(wrong, len(sites), narrow)
        return
    for site in narrow:
        yield Finding(
            site.name,
            "clipping",
            (site.name,),
            f"its range K d is {site.range_over_maximum:.2f} times the largest analog activation "
            f"(median over channels), and clipping alone makes an error of "
            f"{100 * site.fit_clipping:.0f} %.",
            "a larger threshold here: Percentile(99.99) or MaxAbs(), more calibration data, or "
            "LeastSquares(levels=K*T).",
        )
    for site in coarse:
        yield Finding(
            site.name,
            "quantization",
            (site.name,),
            f"its range K d is {site.range_over_maximum:.2f} times the largest analog activation "
            f"(median over channels), so its levels are coarse: the error is "
            f"{100 * site.fit_quantization:.0f} %, but could be {100 * site.fit_best:.0f} % with "
            "as many levels.",
            "a smaller threshold here: Percentile(99.9) or LeastSquares(levels=K*T), per channel.",
        )


def _miscalibrated(wrong: list[SiteDiagnosis], total: int, narrow: list[SiteDiagnosis]) -> Finding:
    first = wrong[0]
    size = "small" if first in narrow else "large"
    return Finding(
        first.name,
        "calibration",
        tuple(site.name for site in wrong),
        f"from the first site on, thresholds are too {size} for these inputs, at {len(wrong)} of "
        f"{total} sites. Here the range K d is {first.range_over_maximum:.2f} times the largest "
        "analog activation. The network was calibrated on inputs of another scale.",
        "calibrate again on training data that is normalized as these inputs are. If it was, use "
        "one threshold per channel, by Percentile(99.9) or LeastSquares(levels=K*T).",
    )


def _late(sites: tuple[SiteDiagnosis, ...]) -> Iterator[Finding]:
    """Find steps that have shrunk before the layers before were done correcting their output."""
    stuck = [site for site in sites if site.late_share > _LATE]
    if stuck:
        worst = max(stuck, key=lambda site: site.late_share)
        yield Finding(
            stuck[0].name,
            "late corrections",
            tuple(site.name for site in stuck),
            "late corrections do not fit into a step that has shrunk for good: at "
            f"{len(stuck)} of {len(sites)} sites more is missing at T than one more timestep can "
            f"send, in up to {100 * worst.late_share:.0f} % of the neurons ('{worst.name}').",
            "Cyclic(K), whose step becomes large again; or a step that shrinks later, with a "
            "smaller ratio or a longer period.",
        )


def _uneven(sites: tuple[SiteDiagnosis, ...]) -> Iterator[Finding]:
    rms = [site.parts["unevenness"].rms for site in sites]
    for index, (site, value) in enumerate(zip(sites, rms, strict=True)):
        others = sorted(rms[:index] + rms[index + 1 :])
        median = others[len(others) // 2] if others else 0.0
        if value > max(_UNEVEN, _UNEVEN_OVER_MEDIAN * median):
            yield Finding(
                site.name,
                "unevenness",
                (site.name,),
                f"spikes that arrive unevenly over time make an error of {100 * value:.0f} % here, "
                f"but of {100 * median:.0f} % in the median of the other sites.",
                "Signed(K), which can take spikes back, or a larger K before this site.",
            )


_WHAT_HELPS = {
    "clipping": "a wider range: Percentile(99.99), MaxAbs(), or LeastSquares(levels=K*T)",
    "quantization": (
        "more levels: more timesteps, Refining(K), or a larger K with Signed(K) or "
        "Burst(K, mode='resolution'); with few levels LeastSquares(levels=K*T)"
    ),
    "unevenness": "Signed(K), a larger K, or more timesteps",
}


def advice(sites: tuple[SiteDiagnosis, ...], neurons: Iterable[Neuron], timesteps: int) -> str:
    """Say what the local errors consist of, and what makes the largest part smaller."""
    squares = {
        name: sum(site.parts[name].rms ** 2 for site in sites) / len(sites) for name in LOCAL
    }
    whole = sum(squares.values())
    if not whole:
        return "the sites add no error of their own."
    largest = max(squares, key=lambda name: squares[name])
    shares = ", ".join(f"{name} {100 * value / whole:.0f} %" for name, value in squares.items())
    helps, used = _WHAT_HELPS[largest], list(neurons)
    last = max(
        (n.schedule.delay + n.schedule.window for n in used if n.schedule.window is not None),
        default=0,
    )
    if largest == "quantization" and timesteps < last:
        helps = f"more timesteps: the last window ends at {last}"
    elif largest == "quantization" and any(neuron.schedule.window is not None for neuron in used):
        helps = "a longer window; with few levels LeastSquares(levels=...)"
    elif largest == "unevenness" and any(neuron.schedule.window is not None for neuron in used):
        helps = "a larger lag, so that layers know more of their input before they fire"
    elif largest == "unevenness" and not all(neuron.schedule.returns for neuron in used):
        helps = (
            "a larger K, or a step that shrinks later: a smaller ratio or a longer period; or "
            "Cyclic(K), whose step becomes large again"
        )
    elif largest == "quantization" and any(neuron.schedule.cyclic for neuron in used):
        helps = "a longer cycle, such as divisors 1, 4, 16, with more timesteps; or a larger K"
    elif largest == "unevenness" and all(neuron.signed for neuron in used):
        helps = "a larger K, or more timesteps"
    return f"mean squared error that arises in the sites: {shares}.\nwhat would help most: {helps}."


__all__ = ["LOCAL", "PARTS", "Finding", "OutputDiagnosis", "Part", "SiteDiagnosis"]
