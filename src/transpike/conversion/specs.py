"""Read the short forms of neurons, threshold rules and passes that the command line takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

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
    LeastSquares,
    LocalThresholdBalancing,
    MaxAbs,
    Percentile,
    ThresholdRule,
    UpperBound,
)
from transpike.errors import ArgumentError
from transpike.spiking.neuron import Neuron
from transpike.spiking.presets import (
    IF,
    Burst,
    Cyclic,
    Differential,
    MultiThreshold,
    Refining,
    Signed,
    Staggered,
    Telescoped,
)

NEURON_FORMS = (
    "if, burst:5, burst:8:resolution, signed:1, multi:3, multi:3:signed, differential:8:1, "
    "refining:4, refining:4:2:6:1, cyclic:8, cyclic:8:1-4:10, staggered:2, staggered:2:2:4:1:3, "
    "staggered:K=2,window=4,lag=1, telescoped:8"
)
EARLY_STOPPING_FORMS = "margin, margin:0.9, entropy, entropy:0.1"
THRESHOLD_FORMS = "percentile:99.9, max, bound, lsq, lsq:16, gauss, gauss:16, ltb, ltb:1000"
PASS_FORMS = (
    "bias, membrane, search, distill, distill:values, delay, allocate:2.5, allocate:counts:3"
)
GRANULARITIES = ("channel", "layer")

_USUAL_MEMBRANE = 0.5  # the initial membrane of every preset but Staggered


@dataclass(frozen=True)
class _Setting:
    """One setting of a short form.

    Attributes:
        parameter: the parameter that takes it.
        kind: "whole": a whole number; "auto": a whole number, or "auto" for None; "list": whole
            numbers joined by "-", or "auto" for None; "percent": a number in percent; "choice":
            one of `choices`.
        choices: the words that may stand at the position of the setting, with their values.
        named: the words that may stand after `name=`; None: those of `choices`.
    """

    parameter: str
    kind: Literal["whole", "auto", "list", "percent", "choice"] = "whole"
    choices: Mapping[str, Any] = field(default_factory=dict)
    named: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Form:
    """One kind of neuron or rule: what makes it, and its settings in the order of the form.

    A setting that is left out keeps the default of `make`.
    """

    make: Callable[..., Any]
    settings: Mapping[str, _Setting] = field(default_factory=dict)


_K = _Setting("max_count")
_LEVELS = _Setting("levels", "auto")
_MODES = {"range": "range", "resolution": "resolution"}
_NEURONS = {
    "if": _Form(IF),
    "burst": _Form(Burst, {"K": _K, "mode": _Setting("mode", "choice", _MODES)}),
    "signed": _Form(Signed, {"K": _K}),
    "telescoped": _Form(Telescoped, {"K": _K}),
    "multi": _Form(
        partial(MultiThreshold, bits=2),
        {
            "bits": _Setting("bits"),
            "signed": _Setting("signed", "choice", {"signed": True}, {"yes": True, "no": False}),
        },
    ),
    "differential": _Form(partial(Differential, levels=8), {"levels": _Setting("levels"), "K": _K}),
    "refining": _Form(
        Refining,
        {
            "K": _K,
            "ratio": _Setting("ratio", "auto"),
            "levels": _LEVELS,
            "period": _Setting("period"),
        },
    ),
    "cyclic": _Form(Cyclic, {"K": _K, "divisors": _Setting("divisors", "list"), "levels": _LEVELS}),
    "staggered": _Form(
        Staggered,
        {
            "K": _K,
            "ratio": _Setting("ratio"),
            "window": _Setting("window"),
            "lag": _Setting("lag"),
            "levels": _LEVELS,
        },
    ),
}
_RULES = {
    "max": _Form(MaxAbs),
    "bound": _Form(UpperBound),
    "percentile": _Form(Percentile, {"P": _Setting("percentile", "percent")}),
    "lsq": _Form(LeastSquares, {"levels": _LEVELS}),
    "gauss": _Form(GaussianIteration, {"levels": _LEVELS}),
    "ltb": _Form(LocalThresholdBalancing, {"iterations": _Setting("iterations")}),
}


def parse_neuron(text: str, initial_membrane: float = _USUAL_MEMBRANE) -> Neuron:
    """Read a neuron.

    A setting that is left out keeps the default of the preset. Settings can be given by position,
    as in `staggered:2:2:4`, or by name, as in `staggered:K=2,window=4,lag=1`.

    Args:
        text: one of these forms, where K is the largest count per timestep:
            `if`, `burst:K`, `burst:K:range`, `burst:K:resolution`, `signed:K`, `telescoped:K`,
            `multi:BITS` or `multi:BITS:signed` (K = 2^BITS - 1), `differential:LEVELS:K`,
            `refining:K:RATIO:LEVELS:PERIOD`, `cyclic:K:DIVISORS:LEVELS` with divisors such as
            `1-4-16`, `staggered:K:RATIO:WINDOW:LAG:LEVELS`.
        initial_membrane: membrane before the first timestep, as a fraction of the step. The
            initial membrane of a staggered neuron follows from its hysteresis.

    Returns:
        The neuron. Without a number, `multi` has 2 bits and `differential` has 8 levels.

    Raises:
        ArgumentError: the form is unknown, or the neuron does not take these settings.
    """
    values = _values(text, _NEURONS, f"unknown neuron {text!r}: needed a form like {NEURON_FORMS}.")
    kind = text.partition(":")[0]
    if kind != "staggered":
        values["initial_membrane"] = initial_membrane
    elif initial_membrane != _USUAL_MEMBRANE:
        raise ArgumentError(
            f"{text!r}: the initial membrane of a staggered neuron follows from its hysteresis. "
            "Leave it out, or use Staggered(hysteresis=...) in Python."
        )
    neuron: Neuron = _NEURONS[kind].make(**values)
    return neuron


def parse_threshold(text: str, granularity: str = "channel") -> ThresholdRule:
    """Read a threshold rule.

    Args:
        text: one of these forms: `max`, `bound`, `percentile:P` with P in percent, `lsq` or
            `gauss` (the number of levels follows from the neuron and the timesteps),
            `lsq:LEVELS`, `gauss:LEVELS`, `ltb:ITERATIONS`. Names work too, as in `lsq:levels=16`.
        granularity: `channel` or `layer`.

    Returns:
        The rule. A number that is left out keeps the default of the rule.

    Raises:
        ArgumentError: the form or the granularity is unknown, or a number is out of range.
    """
    if granularity not in GRANULARITIES:
        raise ArgumentError(
            f"unknown granularity {granularity!r}: needed {' or '.join(GRANULARITIES)}."
        )
    unknown = f"unknown threshold {text!r}: needed a form like {THRESHOLD_FORMS}."
    values = _values(text, _RULES, unknown)
    rule: ThresholdRule = _RULES[text.partition(":")[0]].make(**values, granularity=granularity)
    return rule


def parse_passes(text: str) -> tuple[CalibrationPass, ...]:
    """Read calibration passes.

    Args:
        text: passes in their order, joined by commas: `bias`, `membrane`, `search`, `distill`,
            `distill:values` (for a network whose outputs are values, not class scores), `delay`,
            `allocate:SPIKES` (a budget in spikes per neuron) and `allocate:counts:K` (a budget in
            levels per timestep).

    Returns:
        The passes, in the order of the text.

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
    """Read the shape of one input, such as `3x224x224`.

    Returns:
        The extents, without the batch axis.

    Raises:
        ArgumentError: the text is not made of whole numbers >= 1 joined by `x`.
    """
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        shape = (0,)
    if min(shape) < 1:
        raise ArgumentError(f"unknown input shape {text!r}: needed a form like 3x224x224.")
    return shape


def parse_early_stopping(text: str) -> tuple[Literal["margin", "entropy"], float | None]:
    """Read a stopping rule.

    Args:
        text: `margin` or `entropy`, alone or with a threshold, as in `margin:0.9`.

    Returns:
        The rule, and its threshold or None.

    Raises:
        ArgumentError: the form is unknown, or the threshold is not a number.
    """
    rule, *settings = text.split(":")
    with contextlib.suppress(ValueError):
        if rule in ("margin", "entropy") and len(settings) <= 1:
            threshold = float(settings[0]) if settings else None
            return ("margin" if rule == "margin" else "entropy"), threshold
    raise ArgumentError(
        f"unknown stopping rule {text!r}: needed a form like {EARLY_STOPPING_FORMS}."
    )


def _values(text: str, forms: Mapping[str, _Form], unknown: str) -> dict[str, Any]:
    """Values by parameter of the settings that `text` gives.

    Args:
        text: a short form.
        forms: the known forms by kind.
        unknown: the message where `text` is none of them.
    """
    kind, _, rest = text.partition(":")
    if "=" in rest:
        return _values_by_name(text, forms)
    given = text.split(":")[1:]
    if kind not in forms or len(given) > len(forms[kind].settings):
        raise ArgumentError(unknown)
    values = {}
    for setting, value in zip(forms[kind].settings.values(), given, strict=False):
        if setting.kind == "choice" and value not in setting.choices:
            raise ArgumentError(unknown)
        values[setting.parameter] = _read(text, setting, setting.choices, value)
    return values


def _values_by_name(text: str, forms: Mapping[str, _Form]) -> dict[str, Any]:
    """Values by parameter of a form with names, such as `staggered:K=2,lag=1`."""
    kind, _, rest = text.partition(":")
    named = {name: form.settings for name, form in forms.items() if form.settings}
    if kind not in named:
        raise ArgumentError(
            f"{text!r}: {kind!r} takes no names. Kinds that take names: {', '.join(named)}."
        )
    possible = ", ".join(named[kind])
    values: dict[str, Any] = {}
    for part in rest.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (equals and value) or ":" in part:
            raise ArgumentError(
                f"{text!r}: needed settings such as name=value, joined by commas, got {part!r}. "
                f"Possible names: {possible}."
            )
        if name not in named[kind]:
            raise ArgumentError(f"{text!r}: unknown name {name!r}. Possible names: {possible}.")
        setting = named[kind][name]
        if setting.parameter in values:
            raise ArgumentError(f"{text!r}: {name} is given twice. Give it once.")
        words = setting.choices if setting.named is None else setting.named
        if setting.kind == "choice" and value not in words:
            raise ArgumentError(f"{text!r}: {name}: needed {' or '.join(words)}, got {value!r}.")
        values[setting.parameter] = _read(text, setting, words, value)
    return values


def _read(text: str, setting: _Setting, words: Mapping[str, Any], value: str) -> Any:
    if setting.kind == "choice":
        return words[value]
    if setting.kind == "percent":
        return _number(text, value, "a number in percent")
    if setting.kind in ("auto", "list") and value == "auto":
        return None
    if setting.kind == "list":
        return tuple(_whole_number(text, part) for part in value.split("-"))
    return _whole_number(text, value)


def _whole_number(text: str, number: str) -> int:
    try:
        return int(number)
    except ValueError:
        raise ArgumentError(f"{text!r}: needed a whole number, got {number!r}.") from None


def _number(text: str, number: str, what: str = "a number") -> float:
    try:
        return float(number)
    except ValueError:
        raise ArgumentError(f"{text!r}: needed {what}, got {number!r}.") from None
