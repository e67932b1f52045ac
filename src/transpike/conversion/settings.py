"""Check the settings of a conversion, which `convert` and `Recipe` take."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from transpike.conversion.passes import CalibrationPass
from transpike.conversion.thresholds import ThresholdRule
from transpike.errors import ArgumentError
from transpike.spiking.neuron import Neuron


def check_settings(neuron: object, rule: object, passes: Iterable[object]) -> None:
    """Refuse settings of the wrong kind.

    Raises:
        ArgumentError: `neuron` is not a Neuron, `rule` is not a threshold rule, or one of `passes`
            is not a calibration pass.
    """
    if not isinstance(neuron, Neuron):
        raise ArgumentError(f"neuron: needed a Neuron such as IF() or Burst(5), {_got(neuron)}.")
    if not isinstance(rule, ThresholdRule):
        raise ArgumentError(f"threshold: needed a rule such as Percentile(99.9), {_got(rule)}.")
    for one in passes:
        if not isinstance(one, CalibrationPass):
            raise ArgumentError(f"passes: needed passes such as BiasCorrection(), {_got(one)}.")


def _got(value: object) -> str:
    """The end of a message: the value that was given.

    A function or class of transpike was not called, so the message shows how to call it.
    """
    name = getattr(value, "__name__", "")
    if not (callable(value) and getattr(value, "__module__", "").startswith("transpike.")):
        return f"got {value!r}"
    first = next(iter(inspect.signature(value).parameters.values()), None)
    example = ""
    if first is not None and first.kind is first.POSITIONAL_OR_KEYWORD:
        missing = first.default is first.empty
        example = "2" if missing else "" if first.default is None else repr(first.default)
    return f"got {name} itself. Call it: tp.{name}({example})"
