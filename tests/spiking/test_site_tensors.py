"""A spiking network refuses neurons, steps, starts and offsets that do not fit its sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import transpike as tp

KINDS = ["steps", "starts", "offsets"]


@pytest.fixture(scope="module")
def snn() -> tp.SpikingNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    return tp.convert(model.eval(), [torch.rand(8, 6)], neuron=tp.Signed(1))


DENSE = "dense and on cpu, got torch."
UNFIT: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "inf": (lambda v: v * float("inf") + 1, "got (inf|nan) in channel 0"),
    "NaN": (lambda v: v * float("nan"), "got nan in channel 0"),
    "one NaN": (lambda v: torch.cat([v[:5], v[5:] * float("nan")]), "got nan in channel 5"),
    "scalar": (lambda v: v[0], r"got shape \(\)"),
    "few channels": (lambda v: v[:3], r"got shape \(3,\)"),
    "one channel": (lambda v: v[:1], r"got shape \(1,\)"),
    "two axes": (lambda v: v[None], r"got shape \(1, 8\)"),
    "empty": (lambda v: v[:0], r"got shape \(0,\)"),
    "float64": (lambda v: v.double(), "of torch.float64"),
    "float16": (lambda v: v.half(), "of torch.float16"),
    "bfloat16": (lambda v: v.bfloat16(), "of torch.bfloat16"),
    "int64": (lambda v: torch.ones(8, dtype=torch.int64), "of torch.int64"),
    "bool": (lambda v: v > 0, "of torch.bool"),
    "complex64": (lambda v: v + 0j, "of torch.complex64"),
    "sparse": (lambda v: v.to_sparse(), DENSE + "sparse_coo on cpu"),
    "meta": (lambda v: v.to("meta"), DENSE + "strided on meta"),
    "gradient": (lambda v: v.clone().requires_grad_(), r"requires_grad=True. Use .detach\(\)"),
    "number": (lambda v: 0.5, "in a tensor, got float"),
    "list": (lambda v: v.tolist(), "in a tensor, got list"),
    "array": (lambda v: v.numpy(), "in a tensor, got ndarray"),
}


@pytest.mark.parametrize("unfit", UNFIT)
@pytest.mark.parametrize("kind", KINDS)
def test_values_that_do_not_fit(snn: tp.SpikingNetwork, kind: str, unfit: str) -> None:
    change, match = UNFIT[unfit]
    (name,) = snn.steps
    with pytest.raises(tp.ArgumentError, match=f"{kind} of '{name}': needed 8 .*{match}"):
        snn.changed(**{kind: {name: change(getattr(snn, kind)[name])}})


@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, -1e-30])
def test_steps_are_above_zero(snn: tp.SpikingNetwork, value: float) -> None:
    (name,) = snn.steps
    steps = {name: torch.full_like(snn.steps[name], value)}
    with pytest.raises(tp.ArgumentError, match="needed 8 values > 0 of .*, got -?[01]"):
        snn.changed(steps=steps)
    for kind in ("starts", "offsets"):  # These may have either sign.
        snn.changed(**{kind: steps})


@pytest.mark.parametrize("kind", [*KINDS, "neurons"])
def test_every_site_has_one_entry(snn: tp.SpikingNetwork, kind: str) -> None:
    (name,) = snn.steps
    good = getattr(snn, kind)
    with pytest.raises(tp.ArgumentError, match=f"{kind}: needed one .*'{name}' is missing or too"):
        snn.changed(**{kind: {}})
    with pytest.raises(tp.ArgumentError, match=f"{kind}: needed one .*'other' is missing or too"):
        snn.changed(**{kind: {**good, "other": good[name]}})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("values", [[1.0], 3, torch.ones(8), "1"])
def test_values_come_by_site(snn: tp.SpikingNetwork, kind: str, values: Any) -> None:
    with pytest.raises(tp.ArgumentError, match=f"{kind}: needed one for each site by name, got"):
        snn.changed(**{kind: values})


@pytest.mark.parametrize("neuron", ["signed:1", None, tp.Signed, 1])
def test_neurons_are_neurons(snn: tp.SpikingNetwork, neuron: Any) -> None:
    (name,) = snn.steps
    with pytest.raises(tp.ArgumentError, match=f"neurons of '{name}': needed a Neuron, got"):
        snn.changed(neurons={name: neuron})


def test_all_values_have_the_type_of_the_weights(snn: tp.SpikingNetwork) -> None:
    precise = snn.changed().double()
    (name,) = snn.steps
    assert precise.changed(steps=precise.steps).steps[name].dtype == torch.float64
    with pytest.raises(tp.ArgumentError, match=r"of torch.float64, got .* of torch.float32"):
        precise.changed(steps=snn.steps)
