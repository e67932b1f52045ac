"""Long simulations: sums over time do not drift, and numbers that are too large are refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nets
import transpike as tp
from transpike.graph.limits import MOST_COUNT
from transpike.simulation.readout import BLOCK, RunningSum

# Float32 rounds the sums of one block to about this part of the mean.
TOLERANCE = 1e-5


def network(kind: str, neuron: tp.Neuron) -> tuple[tp.SpikingNetwork, torch.Tensor]:
    """A small network that was converted, and two inputs."""
    torch.manual_seed(0)
    if kind == "pool":
        body = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        model, x = nn.Sequential(*body, nn.Linear(12, 4)), torch.rand(8, 1, 4, 4)
    else:
        model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), torch.rand(8, 6)
    return tp.convert(model.eval(), [x], neuron=neuron), x[:2]


def drift(pool: bool, neuron: tp.Neuron, timesteps: int) -> float:
    """How far the output is from that in float64, as a part of it.

    Every timestep adds a number that float32 rounds in the same direction for a long time.
    """
    middle = [nn.ReLU(), nn.MaxPool1d(1) if pool else nn.Identity()]
    model = nn.Sequential(nn.Conv1d(1, 1, 1), *middle, nn.Conv1d(1, 1, 1)).eval()
    with torch.no_grad():
        for layer, weight, bias in ((model[0], 0.3, 0.1), (model[3], 1.1, 0.3)):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
    x = torch.tensor([[[1.0]], [[0.77]], [[0.55]]])
    snn, at = tp.convert(model, [x], neuron=neuron), tp.Record(output_at=[timesteps])
    precise = snn.changed().double()
    found = tp.simulate(snn, x, timesteps, record=at, chunk=BLOCK).output
    exact = tp.simulate(precise, x.double(), timesteps, record=at, chunk=BLOCK).output
    return float(((found - exact) / exact).abs().max())


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("neuron", [tp.IF(), tp.Signed(3)])
def test_averages_over_time_do_not_drift(neuron: tp.Neuron, pool: bool) -> None:
    assert drift(pool, neuron, 8 * BLOCK) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("timesteps", [10**5, 10**6])
@pytest.mark.parametrize("pool", [False, True])
def test_averages_over_a_million_timesteps_do_not_drift(pool: bool, timesteps: int) -> None:
    assert drift(pool, tp.Signed(1), timesteps) < TOLERANCE


@pytest.mark.parametrize("timesteps", [100, 1000, 8 * BLOCK])
def test_the_stated_drift_of_telescoped_neurons(timesteps: int) -> None:
    assert drift(False, tp.Telescoped(1), timesteps) < timesteps * 2.0**-24 + TOLERANCE


CASES: dict[str, dict[str, Any]] = {
    "rate": {},
    "differential": {"neuron": tp.Differential(8)},
    "readout start": {"readout_start": 1030},
    "early readout start": {"readout_start": 5},
    "telescoped": {"neuron": tp.Telescoped(1)},
}


@pytest.mark.parametrize("chunk", [None, 300])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["layers", "pool"])
def test_the_engine_equals_the_reference_behind_the_first_block(
    kind: str, case: str, chunk: int | None
) -> None:
    options = dict(CASES[case])
    snn, x = network(kind, options.pop("neuron", tp.Signed(1)))
    snn, timesteps = snn.changed(**options), BLOCK + 20
    record = tp.Record(output_at=[1, 4, BLOCK - 1, BLOCK, BLOCK + 1, timesteps])
    expected = tp.simulate_reference(snn, x, timesteps, record=record)
    nets.same_simulation(tp.simulate(snn, x, timesteps, record=record, chunk=chunk), expected)


def test_samples_that_stop_leave_the_sums_of_the_others() -> None:
    total = RunningSum(torch.ones(3, 2))
    for t in range(2, 2 * BLOCK + 2):
        total.add(torch.full((3, 2), float(t)), t)
    whole = total.total()
    total.keep(torch.tensor([0, 2]))
    assert torch.equal(total.total(), whole[[0, 2]])
    assert torch.equal(total.mean(2 * BLOCK + 1), torch.full((2, 2), float(BLOCK + 1)))


@pytest.mark.parametrize("size", [MOST_COUNT + 1, 10**9, 10**20, 10**400])
def test_numbers_that_float32_cannot_count_to_are_refused(size: int) -> None:
    snn, x = network("layers", tp.Signed(1))
    model = nn.Sequential(nn.Linear(6, 3), nn.ReLU())
    calls = {
        "timesteps": [
            lambda: tp.simulate(snn, x, size),
            lambda: tp.simulate_reference(snn, x, size),
            lambda: tp.quantized_ann(snn, x, size),
            lambda: tp.evaluate(snn, [(x, torch.zeros(2))], size),
            lambda: tp.convert(model, [x], neuron=tp.IF(), timesteps=size),
        ],
        "max_count": [
            lambda: tp.Burst(size),
            lambda: tp.Signed(size),
            lambda: tp.Telescoped(size),
            lambda: tp.Differential(8, size),
        ],
        "levels": [
            lambda: tp.Differential(size),
            lambda: tp.LeastSquares(size),
            lambda: tp.GaussianIteration(size),
        ],
        "iterations": [lambda: tp.LocalThresholdBalancing(size)],
    }
    for name, every in calls.items():
        for call in every:
            with pytest.raises(tp.ArgumentError, match=f"{name}: needed at most 16777216, because"):
                call()


def test_levels_that_do_not_fit_in_memory() -> None:
    match = r"needed at most 65536 levels.*Use GaussianIteration\(levels=65536\)"
    with pytest.raises(tp.ArgumentError, match=match):
        tp.GaussianIteration(2**16 + 1)
    _, x = network("layers", tp.Signed(1))
    options = {"neuron": tp.Signed(2**9), "timesteps": 2**10}
    model = nn.Sequential(nn.Linear(6, 3), nn.ReLU()).eval()
    with pytest.raises(tp.ArgumentError, match=match):
        tp.convert(model, [x], threshold=tp.GaussianIteration(), **options)


def test_results_that_do_not_fit_in_memory() -> None:
    snn, x = network("layers", tp.Signed(1))
    many, few = x[:1].expand(10**6, 6), tp.Record(output_at=[1])
    with pytest.raises(tp.ArgumentError, match="spike counts that fit the .* Use fewer timesteps"):
        tp.simulate(snn, many, MOST_COUNT, record=few)
    model = nn.Sequential(nn.Linear(6, 1), nn.ReLU(), nn.Linear(1, 10**5))
    wide = tp.convert(model.eval(), [x], neuron=tp.Signed(1))
    with pytest.raises(tp.ArgumentError, match="outputs that fit the .* Use a short Record"):
        tp.simulate(wide, x, 10**6)


@pytest.mark.filterwarnings("ignore")  # PyTorch calls sparse and nested tensors unfinished.
@pytest.mark.parametrize("kind", ["sparse_coo", "sparse_csr", "_mkldnn", "nested"])
def test_inputs_that_are_not_dense(kind: str) -> None:
    snn, x = network("layers", tp.Signed(1))
    made = {
        "sparse_coo": x.to_sparse,
        "sparse_csr": x.to_sparse_csr,
        "_mkldnn": x.to_mkldnn,
        "nested": lambda: torch.nested.nested_tensor(list(x)),
    }[kind]()
    model = nn.Sequential(nn.Linear(6, 3), nn.ReLU())
    got = "nested one. Use one tensor per" if kind == "nested" else f"layout {kind}. Use .to_dense"
    for name, call in {
        "input": lambda: tp.simulate(snn, made, 4),
        "input ": lambda: tp.simulate_reference(snn, made, 4),
        "input  ": lambda: tp.quantized_ann(snn, made, 4),
        "input   ": lambda: tp.calibrate(tp.capture(model, x), [made]),
        "example_input": lambda: tp.capture(model, made),
    }.items():
        with pytest.raises(tp.DataError, match=f"{name.strip()}: needed a dense.*{re.escape(got)}"):
            call()


@pytest.mark.parametrize(
    "output_at",
    [[1, 3], (3, 1, 1), {1, 3}, np.array([1, 3]), torch.tensor([3, 1]), [np.int8(1), np.uint64(3)],
     [torch.tensor(1), 3], range(1, 4, 2), np.arange(1, 4, 2), (t for t in (1, 3))],
)  # fmt: skip
def test_whole_numbers_of_every_library_are_timesteps(output_at: Any) -> None:
    snn, x = network("layers", tp.Signed(1))
    record = tp.Record(output_at=output_at)
    for simulate in (tp.simulate, tp.simulate_reference):
        found = simulate(snn, x, 4, record=record).output_at
        assert found == (1, 3) and all(type(t) is int for t in found)


@pytest.mark.parametrize(
    "output_at",
    [[True], [False], [1, True], [np.True_], torch.tensor([True]), [1.0], [np.float64(2)], ["1"],
     [0], [5], [-1], [], [None], np.array([[1]]), torch.tensor([1.0]), "12", [10**30]],
)  # fmt: skip
def test_what_is_no_timestep_is_refused(output_at: Any) -> None:
    snn, x = network("layers", tp.Signed(1))
    for simulate in (tp.simulate, tp.simulate_reference):
        with pytest.raises(tp.ArgumentError, match=r"output_at: needed timesteps in 1\.\.4, got"):
            simulate(snn, x, 4, record=tp.Record(output_at=output_at))
