"""Reads the short forms of neurons and thresholds that the command line takes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Literal

from transpike.conversion.passes import (
    AllocateCounts,
    BiasCorrection,
    CalibrationPass,
    DelayedReadout,
    MembraneCorrection,
    SiteSearch,
)
from transpike.conversion.passes.distillation import Distillation
from transpike.conversion.thresholds import (
    GaussianIteration,
    Granularity,
    LeastSquares,
    LocalThresholdBalancing,
    MaxAbs,
    Percentile,
    ThresholdRule,
)
from transpike.errors import ArgumentError
from transpike.spiking.neuron import Neuron
from transpike.spiking.presets import (
    IF,
    Burst,
    Differential,
    MultiThreshold,
    Refining,
    Signed,
    Staggered,
    Telescoped,
)

NEURON_FORMS = (
    "if, burst:5, burst:8:resolution, signed:1, multi:3, multi:3:signed, differential:8:1, "
    "refining:4, refining:4:2:6:1, staggered:2, staggered:2:2:4:1:3, "
    "staggered:K=2,window=4,lag=1, telescoped:8"
)
EARLY_STOPPING_FORMS = "margin, margin:0.9, entropy, entropy:0.1"
THRESHOLD_FORMS = "percentile:99.9, max, lsq, lsq:16, gauss, gauss:16, ltb, ltb:1000"
PASS_FORMS = (
    "bias, membrane, search, distill, distill:values, delay, allocate:2.5, allocate:counts:3"
)
GRANULARITIES = ("channel", "layer")

_DEFAULT_PERCENTILE = 99.9
# Settings by kind, in the order of the short form, with the value where one is left out.
_NEURON_NAMES = {
    "burst": {"K": "5", "mode": "range"},
    "signed": {"K": "1"},
    "telescoped": {"K": "1"},
    "multi": {"bits": "2", "signed": "no"},
    "differential": {"levels": "8", "K": "1"},
    "refining": {"K": "4", "ratio": "auto", "levels": "auto", "period": "1"},
    "staggered": {"K": "2", "ratio": "2", "window": "4", "lag": "1", "levels": "auto"},
}
_THRESHOLD_NAMES = {
    "percentile": {"P": "99.9"},
    "lsq": {"levels": "auto"},
    "gauss": {"levels": "auto"},
    "ltb": {"iterations": "1000"},
}


def parse_neuron(text: str, initial_membrane: float = 0.5) -> Neuron:
    """Reads a neuron.

    Args:
        text: `if`, `burst:K`, `burst:K:range`, `burst:K:resolution`, `signed:K` or
            `telescoped:K`, with K spikes per timestep at most; `multi:BITS` or `multi:BITS:signed`
            (K = 2^BITS - 1, counts sent in binary); `differential:LEVELS:K`;
            `refining:K:RATIO:LEVELS:PERIOD`; `staggered:K:RATIO:WINDOW:LAG:LEVELS`. The preset's
            own numbers where left out. Names work too: `staggered:K=2,window=4,lag=1`.
        initial_membrane: membrane at the start, a fraction of the step; a staggered neuron's
            follows from its hysteresis.

    Raises:
        ArgumentError: the form is unknown, or the neuron does not take these settings.
    """
    text = _in_order(text, _NEURON_NAMES)
    kind, *settings = text.split(":")
    if kind == "if" and not settings:
        return IF(initial_membrane=initial_membrane)
    if kind == "burst" and settings[1:] in ([], ["range"]):
        return Burst(_count(text, settings, 5), initial_membrane=initial_membrane)
    if kind == "burst" and settings[1:] == ["resolution"]:
        count = _count(text, settings, 5)
        return Burst(count, mode="resolution", initial_membrane=initial_membrane)
    if kind == "signed" and len(settings) <= 1:
        return Signed(_count(text, settings, 1), initial_membrane=initial_membrane)
    if kind == "telescoped" and len(settings) <= 1:
        return Telescoped(_count(text, settings, 1), initial_membrane=initial_membrane)
    if kind == "multi" and len(settings) <= 2 and settings[1:] in ([], ["signed"]):
        bits = _count(text, settings, 2)
        return MultiThreshold(bits, signed=len(settings) == 2, initial_membrane=initial_membrane)
    if kind == "differential" and len(settings) <= 2:
        levels, count = _count(text, settings, 8), _count(text, settings[1:], 1)
        return Differential(levels, count, initial_membrane=initial_membrane)
    if kind == "refining" and len(settings) <= 4:
        return _refining(text, settings, initial_membrane)
    if kind == "staggered" and len(settings) <= 5:
        return _staggered(text, settings, initial_membrane)
    raise ArgumentError(f"unknown neuron {text!r}: needed a form like {NEURON_FORMS}.")


def _refining(text: str, settings: list[str], initial_membrane: float) -> Neuron:
    return Refining(
        _count(text, settings, 4),
        _optional(text, settings[1:]),
        levels=_optional(text, settings[2:]),
        period=_count(text, settings[3:], 1),
        initial_membrane=initial_membrane,
    )


def _staggered(text: str, settings: list[str], initial_membrane: float) -> Neuron:
    if initial_membrane != 0.5:
        raise ArgumentError(
            f"{text!r}: the initial membrane of a staggered neuron follows from its hysteresis; "
            "leave it out, or use Staggered(hysteresis=...) in Python."
        )
    return Staggered(
        _count(text, settings, 2),
        _count(text, settings[1:], 2),
        window=_count(text, settings[2:], 4),
        lag=_count(text, settings[3:], 1),
        levels=_optional(text, settings[4:]),
    )


def parse_threshold(text: str, granularity: str = "channel") -> ThresholdRule:
    """Reads a threshold rule.

    Args:
        text: `percentile:P` with P in percent, `max`, `lsq` or `gauss` (levels follow from the
            neuron and the timesteps), `lsq:LEVELS`, `gauss:LEVELS`, or `ltb:ITERATIONS`. Names
            work too: `lsq:levels=16`.
        granularity: `channel` or `layer`.

    Raises:
        ArgumentError: the form or the granularity is unknown, or a number is out of range.
    """
    if granularity not in GRANULARITIES:
        raise ArgumentError(
            f"unknown granularity {granularity!r}: needed {' or '.join(GRANULARITIES)}."
        )
    text = _in_order(text, _THRESHOLD_NAMES)
    scope: Granularity = "channel" if granularity == "channel" else "layer"
    kind, *settings = text.split(":")
    if kind == "max" and not settings:
        return MaxAbs(granularity=scope)
    if kind == "percentile" and len(settings) <= 1:
        percentile = _percent(text, settings[0]) if settings else _DEFAULT_PERCENTILE
        return Percentile(percentile, granularity=scope)
    if kind == "lsq" and len(settings) <= 1:
        levels = _optional(text, settings)
        return LeastSquares(levels=levels, granularity=scope)
    if kind == "gauss" and len(settings) <= 1:
        levels = _optional(text, settings)
        return GaussianIteration(levels=levels, granularity=scope)
    if kind == "ltb" and len(settings) <= 1:
        return LocalThresholdBalancing(_count(text, settings, 1000), granularity=scope)
    raise ArgumentError(f"unknown threshold {text!r}: needed a form like {THRESHOLD_FORMS}.")


def parse_passes(text: str) -> tuple[CalibrationPass, ...]:
    """Reads calibration passes, in order.

    Args:
        text: `bias`, `membrane`, `search`, `distill` (`distill:values` for a regression), `delay`
            and `allocate:SPIKES` (spikes per neuron), joined by commas.

    Raises:
        ArgumentError: a form is unknown, or a number is out of range.
    """
    plain = {
        "bias": BiasCorrection,
        "membrane": MembraneCorrection,
        "search": SiteSearch,
        "distill": Distillation,
        "delay": DelayedReadout,
    }
    passes: list[CalibrationPass] = []
    for part in text.split(","):
        kind, *settings = part.strip().split(":")
        if kind in plain and not settings:
            passes.append(plain[kind]())
        elif kind == "distill" and settings == ["values"]:
            passes.append(Distillation(reading="values"))
        elif kind == "allocate" and len(settings) == 1 and settings != ["counts"]:
            passes.append(AllocateCounts(_number(part, settings[0])))
        elif kind == "allocate" and len(settings) == 2 and settings[0] == "counts":
            passes.append(AllocateCounts(mean_count=_number(part, settings[1])))
        else:
            raise ArgumentError(f"unknown pass {part!r}: needed forms like {PASS_FORMS}.")
    return tuple(passes)


def parse_shape(text: str) -> tuple[int, ...]:
    """Reads the shape of one input, as `3x224x224`.

    Raises:
        ArgumentError: it is not whole numbers >= 1 joined by `x`.
    """
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        shape = (0,)
    if min(shape) < 1:
        raise ArgumentError(f"unknown input shape {text!r}: needed a form like 3x224x224.")
    return shape


def _in_order(text: str, names: Mapping[str, Mapping[str, str]]) -> str:
    """The form with colons of one with names, as in `staggered:K=2,lag=1`."""
    kind, _, rest = text.partition(":")
    if "=" not in rest:
        return text
    if kind not in names:
        raise ArgumentError(
            f"{text!r}: {kind!r} takes no names; needed one of {', '.join(names)} before them."
        )
    possible = ", ".join(names[kind])
    found: dict[str, str] = {}
    for part in rest.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (equals and value) or ":" in part:
            raise ArgumentError(
                f"{text!r}: needed settings such as name=value, joined by commas, got {part!r}. "
                f"Possible names: {possible}."
            )
        if name not in names[kind]:
            raise ArgumentError(f"{text!r}: unknown name {name!r}. Possible names: {possible}.")
        if name in found:
            raise ArgumentError(f"{text!r}: {name} is given twice. Give it once.")
        found[name] = value
    if kind == "multi":
        signed = found.pop("signed", "no")
        if signed not in ("yes", "no"):
            raise ArgumentError(f"{text!r}: signed: needed yes or no, got {signed!r}.")
        tail = ["signed"] if signed == "yes" else []
        return ":".join([kind, found.get("bits", names[kind]["bits"]), *tail])
    return ":".join([kind, *(found.get(name, usual) for name, usual in names[kind].items())])


def _count(text: str, settings: list[str], default: int) -> int:
    return _whole_number(text, settings[0]) if settings else default


def _optional(text: str, settings: list[str]) -> int | None:
    return _whole_number(text, settings[0]) if settings and settings[0] != "auto" else None


def _whole_number(text: str, number: str) -> int:
    try:
        return int(number)
    except ValueError:
        raise ArgumentError(f"{text!r}: needed a whole number, got {number!r}.") from None


def _percent(text: str, number: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ArgumentError(f"{text!r}: needed a number in percent, got {number!r}.") from None


def _number(text: str, number: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ArgumentError(f"{text!r}: needed a number, got {number!r}.") from None


def parse_early_stopping(text: str) -> tuple[Literal["margin", "entropy"], float | None]:
    """Reads a stopping rule.

    Args:
        text: `margin` or `entropy`, alone or with a threshold, as in `margin:0.9`.

    Returns:
        The rule, and its threshold if one is given.

    Raises:
        ArgumentError: the form is unknown or the threshold not a number.
    """
    rule, *settings = text.split(":")
    with contextlib.suppress(ValueError):
        if rule in ("margin", "entropy") and len(settings) <= 1:
            threshold = float(settings[0]) if settings else None
            return ("margin" if rule == "margin" else "entropy"), threshold
    raise ArgumentError(
        f"unknown stopping rule {text!r}: needed a form like {EARLY_STOPPING_FORMS}."
    )
