from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import transpike as tp
from nets import NETS, Fn, captured
from transpike.measure.activity import passes_counts
from transpike.measure.cost import NOT_COUNTED, measure_cost
from transpike.measure.energy import FP32_45NM, INT8_45NM


def _network(name: str) -> tuple[tp.Network, tp.Calibration]:
    network, calibration = captured(name)
    return network, calibration


def _cost(name: str, neuron: tp.Neuron, timesteps: int = 3) -> tp.Cost:
    network, calibration = _network(name)
    torch.manual_seed(1)
    x = torch.randn(3, *network.input_shape, dtype=torch.float64)
    return measure_cost(tp.convert(network, calibration, neuron=neuron), [x], timesteps)


@pytest.mark.parametrize("name", NETS)
def test_every_network_has_a_cost(name: str) -> None:
    from nets import build

    cost = _cost(name, tp.Signed(2))
    network, _ = _network(name)
    shape = (2, *network.input_shape)
    assert cost.total.ann_macs_nominal == tp.inspect(build(name), torch.randn(shape).double()).macs
    assert 0 < cost.total.ann_macs <= cost.total.ann_macs_nominal
    assert cost.total.accumulates > 0


def test_the_first_layer_is_analog_and_done_once() -> None:
    cost = _cost("conv2d", tp.IF(), timesteps=5)
    first = next(row for row in cost.operations if row.op == "conv2d")
    # The layer maps 2 to 4 channels by kernels of 3 x 3 with padding 1 on 8 x 8 pixels. Along
    # each axis, 22 pairs of an input and an output position share a weight.
    assert first.counts.macs_input == first.counts.ann_macs == 22 * 22 * 2 * 4
    assert first.counts.accumulates == 0
    again = cost.energy_under(FP32_45NM)
    extra = again.snn_uncached_pj - again.snn_pj
    assert extra == pytest.approx(4 * 4.6 * cost.total.macs_input)


def test_the_head_is_done_once_on_the_time_average() -> None:
    cost = _cost("conv2d", tp.IF())
    assert cost.total.macs_readout == 6 * 2 * 2 * 5
    (readout,) = [row for row in cost.operations if row.op == "readout"]
    last = cost.sites[-1]
    assert readout.counts.accumulates == pytest.approx(last.spikes * last.neurons)


def test_constant_currents_come_at_every_timestep() -> None:
    few, many = (_cost("conv2d", tp.IF(), timesteps=t) for t in (2, 7))
    for cost, t in ((few, 2), (many, 7)):
        spikes = cost.spikes_per_neuron * cost.neurons
        once = 4 * 8 * 8 + 5  # The biases of the first layer and of the head are added once.
        assert cost.total.additions == pytest.approx(cost.neurons * t + spikes + once)
        assert cost.total.neuron_updates == cost.neurons * t


def test_differential_coding_gets_input_and_biases_once() -> None:
    cost = _cost("dilated", tp.Differential(8), timesteps=6)
    assert cost.coding == "differential"
    assert {site.bits for site in cost.sites} == {4}  # This is ceil(log2(8 + 1)) for every T.
    (after,) = [row for row in cost.operations if row.name == cost.sites[0].name]
    spikes = cost.sites[0].spikes * cost.sites[0].neurons
    assert after.counts.additions == pytest.approx(cost.sites[0].neurons + 2 * spikes)


def test_binary_code_is_what_is_sent() -> None:
    unit = _cost("grouped", tp.Burst(7, mode="resolution"))
    binary = _cost("grouped", tp.MultiThreshold(3))
    assert unit.total.accumulates == unit.total.accumulates_unit
    assert binary.total.accumulates == binary.total.accumulates_binary
    # Both networks have the same counts.
    assert binary.total.accumulates_binary == unit.total.accumulates_binary
    assert binary.total.accumulates < unit.total.accumulates


def test_bits_match_the_levels() -> None:
    for count, timesteps, bits in ((1, 1, 1), (1, 3, 2), (1, 4, 3), (4, 4, 5), (8, 4, 6)):
        assert math.ceil(math.log2(count * timesteps + 1)) == bits
        cost = _cost("grouped", tp.Signed(count), timesteps)
        assert {site.bits for site in cost.sites} == {bits}
        assert cost.total.ann_bit_macs == bits * cost.total.ann_quantized_macs


def test_tables_hold_the_published_numbers() -> None:
    assert FP32_45NM.mac_pj == pytest.approx(4.6) and FP32_45NM.add_pj == 0.9
    assert INT8_45NM.mac_pj == pytest.approx(0.3) and INT8_45NM.add_pj == 0.1
    assert "Horowitz 2014" in FP32_45NM.source and "Horowitz 2014" in INT8_45NM.source


def test_quantized_ann_of_as_many_bits_as_the_table_costs_the_same() -> None:
    cost = _cost("grouped", tp.Signed(1), timesteps=255)  # Counts up to 255 need 8 bits.
    row = cost.energy_under(INT8_45NM)
    assert row.quantized_ann_pj == pytest.approx(row.ann_pj)
    small = _cost("grouped", tp.Signed(1), timesteps=3).energy_under(INT8_45NM)
    assert small.quantized_ann_pj < row.ann_pj


def test_memory_counts_what_the_neurons_keep() -> None:
    plain, signed = (_cost("conv2d", neuron).memory_bytes for neuron in (tp.IF(), tp.Signed(1)))
    neurons = 4 * 8 * 8 + 6 * 2 * 2
    assert plain["membranes"] == 8 * neurons  # A number in float64 takes 8 bytes.
    assert plain["running totals of counts"] == 0
    assert signed["running totals of counts"] == 8 * neurons
    assert plain["running sums of max-pools"] == 8 * 4 * 8 * 8
    assert plain["constant currents"] == 8 * 4 * 8 * 8
    assert plain["readout sums"] == 8 * 6 * 2 * 2


def test_max_pool_over_two_steps_passes_graded_currents() -> None:
    """If a window mixes steps, its changes are not counts, so the next weights cost MACs."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.d, self.e = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            joined = self.c(x).relu() + self.d(x).relu()
            return self.e(torch.nn.functional.max_pool2d(joined, 2)).relu()

    x = torch.randn(4, 2, 4, 4)
    snn = tp.convert(Mixed().eval(), [x])
    cost = measure_cost(snn, [x], 5)
    assert cost.total.macs_current == 5 * 2 * 2 * 4 * 3


def test_text_and_json() -> None:
    cost = _cost("unet", tp.Signed(2))
    text = str(cost)
    for site in cost.sites:
        assert site.name in text
    assert f"{cost.total.accumulates:,.0f}" in text and "45 nm int8" in text
    for item in NOT_COUNTED:
        assert item in text
    content = json.loads(json.dumps(cost.to_dict()))
    assert content["n"] == 3 and content["timesteps"] == 3 and content["max_count"] == 2
    assert content["not_counted"] == list(NOT_COUNTED)
    assert [row["table"] for row in content["energy"]] == ["45 nm fp32", "45 nm int8"]
    assert content["total"]["accumulates"] == cost.total.accumulates


def test_refusals_and_their_remedies() -> None:
    network, calibration = _network("conv2d")
    snn = tp.convert(network, calibration)
    with pytest.raises(tp.DataError, match="needed at least one batch"):
        measure_cost(snn, [], 4)
    with pytest.raises(tp.ArgumentError, match="timesteps: needed an integer >= 1"):
        measure_cost(snn, [torch.randn(2, *network.input_shape)], 0)


class _Gain(nn.Module):
    """A model that multiplies by ones of the size of the batch, or by the number one."""

    def __init__(self, computed: bool) -> None:
        super().__init__()
        self.c, self.computed = nn.Conv2d(2, 3, 1), computed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gain = torch.ones(x.shape[0], 3, 1, 1) if self.computed else 1.0
        return (self.c(x).relu() * gain).relu()


def test_an_operation_without_a_rule_is_named() -> None:
    x = torch.randn(4, 2, 4, 4)
    with pytest.raises(tp.ArgumentError, match=r"no counting rule for aten.mul.* or a number"):
        measure_cost(tp.convert(_Gain(True).eval(), [x]), [x], 2)
    assert measure_cost(tp.convert(_Gain(False).eval(), [x]), [x], 2).total.accumulates > 0


class _Top(nn.Module):
    """A model that has weights behind a maximum over the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.d = nn.Conv2d(2, 3, 1), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.d(self.c(x).relu().amax(dim=(2, 3))).relu()


def test_amax_is_a_pool_over_everything() -> None:
    x = torch.randn(4, 2, 4, 4)
    cost = measure_cost(tp.convert(_Top().eval(), [x]), [x], 3)
    (pool,) = [row for row in cost.operations if row.op == "amax"]
    assert pool.counts.comparisons == pool.counts.accumulates  # Each spike is in one window.
    assert cost.total.macs_current == 0 and cost.total.ann_comparisons == 48 + 2 + 48 - 3


def test_progress_is_told_the_samples() -> None:
    network, calibration = _network("linear")
    seen: list[int] = []
    x = torch.randn(5, *network.input_shape, dtype=torch.float64)
    snn = tp.convert(network, calibration)
    measure_cost(snn, list(x.split(2)), 2, progress=lambda done, _: seen.append(done))
    assert seen == [2, 4, 5]


def test_updates_of_a_layer_are_those_of_its_window():
    """Two timesteps after the last window raise T, but they add no updates."""
    network, calibration = captured("conv2d")
    snn = tp.convert(network, calibration, neuron=tp.Staggered(2, window=3, lag=2))
    x = torch.randn(2, *network.input_shape, dtype=torch.float64)
    last = max(neuron.schedule.delay + neuron.schedule.window for neuron in snn.neurons.values())
    for timesteps, of_last in ((last, 3), (last + 2, 3), (last - 1, 2)):
        cost = measure_cost(snn, [x], timesteps)
        sizes = [site.neurons for site in network.sites]
        wanted = 3 * sum(sizes[:-1]) + of_last * sizes[-1]
        assert cost.timesteps == timesteps and cost.total.neuron_updates == wanted


def test_a_pool_over_layers_of_different_windows_is_graded():
    """A max-pool passes whole counts only if the steps of all its inputs shrink together."""
    together = Fn(lambda m, x: F.max_pool2d(torch.cat([m.c(x).relu(), m.e(x).relu()], 1), 2),
                  c=nn.Conv2d(2, 2, 3), e=nn.Conv2d(2, 2, 3))  # fmt: skip
    apart = Fn(lambda m, x: (lambda a: F.max_pool2d(torch.cat([a, m.e(a).relu()], 1), 2))(
        m.c(x).relu()), c=nn.Conv2d(2, 2, 3), e=nn.Conv2d(2, 2, 1))  # fmt: skip
    for model, counted in ((together, True), (apart, False)):
        x = torch.randn(4, 2, 8, 8, dtype=torch.float64)
        network = tp.capture(model.double().eval(), x)
        snn = tp.convert(network, [x], neuron=tp.Staggered(2), threshold=tp.MaxAbs("layer"))
        steps = {name: torch.ones_like(step) for name, step in snn.steps.items()}
        (pool,) = [node for node in network.nodes if node.kind == "cumulative"]
        assert passes_counts(snn.changed(steps=steps), pool) is counted
