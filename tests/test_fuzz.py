"""Random networks with fixed seeds agree with the oracle.

`python -m benchmarks.fuzz` draws more of them.
"""

import random
import warnings
from collections import Counter
from unittest import mock

import pytest
import torch
from benchmarks.fuzz.__main__ import examined
from benchmarks.fuzz.checks import Case, Tally, listed_once
from benchmarks.fuzz.drawing import draw_program
from benchmarks.fuzz.settings import NEURONS

import transpike as tp

SHARDS, SEEDS = 2, 14  # seeds of a shard
WEIGHTS = 12  # networks that share a graph, which is captured once
SMALL = 4  # instructions of a network, about


@pytest.mark.parametrize("shard", range(SHARDS))
def test_random_networks_agree_with_the_oracle(shard):
    """At least 200 networks in all, each with its own weights, neuron and inputs."""
    seeds = range(shard * SEEDS, (shard + 1) * SEEDS)
    with listed_once(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, on modules that a user would avoid
        tally = examined(seeds, SMALL, 1, WEIGHTS)
    assert tally.disagreements == []
    assert tally.counts["captures"] == SEEDS
    assert tally.counts["networks"] >= 200 // SHARDS
    for kind in ("simulations", "analog", "cost checks", "saved and loaded", "sparse convolutions"):
        assert tally.counts[kind] >= SEEDS, kind


def test_every_preset_is_drawn():
    presets = {name for name, module in tp._MODULE_OF.items() if module == "spiking.presets"}
    assert presets <= set(NEURONS)


def test_every_kind_of_operation_is_drawn():
    found = Counter()
    for seed in range(150):
        program = draw_program(random.Random(seed))
        found.update(one.op for one in program.instructions)
        found[program.structure] += 1
        found.update(type(part).__name__ for part in program.parts.values())
    layers = ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d", "Linear", "BatchNorm2d", "ReLU6")
    moves = ("add", "sub", "cat", "part", "max_pool", "avg_pool", "adaptive_max", "adaptive_avg")
    others = ("resize", "shuffle", "pad", "flatten", "mean", "scale", "tuple", "dict", "nested")
    assert {*layers, *moves, *others} <= set(found)


def _off_by_one(function):
    """Return the simulator with one spike too many at every site."""

    def wrong(*args, **kwargs):
        run = function(*args, **kwargs)
        with torch.inference_mode():  # in which the simulators make their results
            for counts in run.counts_per_timestep.values():
                counts[0, 0] += 1
        return run

    return wrong


def _shifted(function):
    """Return the quantized network with outputs that are a little too large."""

    def shifted(output):
        if isinstance(output, torch.Tensor):
            return output + 1e-3
        if isinstance(output, dict):
            return {key: shifted(value) for key, value in output.items()}
        return [shifted(value) for value in output]

    return lambda *args: shifted(function(*args))


@pytest.mark.parametrize("name", ["simulate", "simulate_reference", "quantized_ann"])
def test_a_wrong_number_is_found(name):
    """One wrong count, or a wrong last digit of an output, is a disagreement."""
    right = getattr(tp, name)
    if name == "quantized_ann":
        wrong = _shifted(right)
    else:
        wrong = _off_by_one(right)
    tally = Tally()
    with mock.patch.object(tp, name, wrong, create=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seed = 3
        while not tally.disagreements and seed < 8:
            Case(seed, tally, SMALL).run(1)
            seed += 1
    assert tally.disagreements
