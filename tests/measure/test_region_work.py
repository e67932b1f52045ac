"""The analog work of regions against counts by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nets
import transpike as tp

N, C, T = 5, 8, 3


def _attention(m, x):
    q, k, v = m.q(x), m.k(x), m.v(x)
    return m.last(F.relu(m.after(F.scaled_dot_product_attention(q, k, v))))


def _einsum(m, x):
    scores = torch.einsum("bnc,bmc->bnm", m.q(x), m.k(x)).softmax(-1)
    return m.last(F.relu(m.after(scores @ m.v(x))))


def _activation(function):
    return lambda m, x: m.last(F.relu(m.after(function(m.q(x)))))


# The values are the function of the model, and multiply-accumulates, evaluations and additions.
CASES = {
    "gelu": (_activation(F.gelu), (0, N * C, N * C)),
    "layer_norm": (_activation(lambda x: F.layer_norm(x, (C,))), (2 * N * C, N * C, N * C)),
    "square": (_activation(torch.square), (N * C, 0, N * C)),
    "attention": (_attention, (2 * N * N * C, 0, N * C)),
    "einsum": (_einsum, (2 * N * N * C, N * N, N * N + N * C)),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_work_of_a_region(name):
    forward, expected = CASES[name]
    torch.manual_seed(0)
    layers = {part: nn.Linear(C, C) for part in ("q", "k", "v", "after")}
    model = nets.Fn(forward, **layers, last=nn.Linear(C, 2)).eval()
    snn = tp.convert(model, [torch.randn(8, N, C)], neuron=tp.Signed(2))
    cost = tp.measure_cost(snn, [torch.randn(2, N, C)], T)
    (row,) = (row for row in cost.operations if row.op == "region")
    found = row.counts.macs_region, row.counts.evaluations, row.counts.additions_region
    assert found == expected  # The input is static, so this is done once.
    assert row.name == snn.network.sites[0].name
    assert row.counts.ann_macs == expected[0] and row.counts.ann_evaluations == expected[1]
    assert f"region {row.name}" in str(cost) and "are without them" in str(cost)
    for energy in cost.energy:
        assert 0 < energy.regions_pj < energy.snn_pj


def test_a_region_behind_spikes_works_at_every_timestep():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(C, C), nn.ReLU(), nn.Linear(C, C), nn.GELU()), nn.Linear(C, 2)
    )
    snn = tp.convert(model, [torch.randn(8, C)], neuron=tp.Signed(2))
    cost = tp.measure_cost(snn, [torch.randn(2, C)], T)
    assert cost.total.evaluations == T * C and cost.total.ann_evaluations == C
    assert "running sums and values of regions" in cost.memory_bytes
