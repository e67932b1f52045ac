"""Laws of starts, offsets and the readout start of a network, and of its coding and codes."""

import numpy as np
import pytest
import torch
from benchmarks import oracle
from hypothesis import given
from hypothesis import strategies as st

import nets
import transpike as tp
from transpike.graph.without_constants import increments
from transpike.spiking.spiking_network import SpikingNetwork


def _changed(snn, starts=None, offsets=None, readout_start=0):
    """Return the same network with the given starts, offsets and readout start."""
    return SpikingNetwork(
        snn.network,
        snn.neurons,
        snn.steps,
        snn.settings,
        starts=starts,
        offsets=offsets,
        readout_start=readout_start,
        coding=snn.coding,
    )


def _settled(run):
    return all(not bool(counts[-1].any()) for counts in run.counts_per_timestep.values())


@pytest.mark.parametrize("levels, max_count", [(8, 1), (5, 3)])
@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_settled_differential_equals_the_quantized_ann(name, levels, max_count):
    """Once no neuron fires any more, the outputs are equal in float64 for every kind of graph."""
    network, calibration = nets.captured(name)
    neuron = tp.Differential(levels, max_count)
    snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.Percentile(95))
    torch.manual_seed(7)
    x = torch.randn(3, *nets.NETS[name][1], dtype=torch.float64)
    timesteps = 12 * levels
    run = tp.simulate_reference(snn, x, timesteps, record=tp.Record(output_at=[timesteps]))
    assert _settled(run)
    last = [leaf[-1] for leaf in nets.leaves(run.output)]
    assert nets.error(last, nets.leaves(tp.quantized_ann(snn, x, 1))) < 1e-9
    assert nets.error(last, nets.leaves(tp.quantized_ann(snn, x, 50))) < 1e-9


def test_differential_follows_an_input_that_changes():
    """The input is sent as differences between frames, so the last frame decides the output."""
    network, calibration = nets.captured("conv2d")
    snn = tp.convert(network, calibration, neuron=tp.Differential(6, 2))
    frames = torch.randn(4, 3, *nets.CONV_NET_INPUT, dtype=torch.float64)
    x = torch.cat([frames, frames[-1:].expand(60, -1, -1, -1, -1)])
    run = tp.simulate_reference(snn, x, 64, time_axis=True)
    assert _settled(run)
    assert nets.error(run.output[-1], tp.quantized_ann(snn, frames[-1], 1)) < 1e-9


@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_increments_are_the_linear_part_of_every_node(name):
    """Every node computes f(x) - f(0), so an input of zero gives zero at every site."""
    network, _ = nets.captured(name)
    later = increments(network)
    zero = torch.zeros(3, *nets.NETS[name][1], dtype=torch.float64)
    seen = []

    def at_site(site, z):
        seen.append(float(z.abs().max()))
        return z

    for leaf in nets.leaves(later.run(zero, at_site)):
        if not any(node.kind == "readout" for node in network.nodes):
            assert not leaf.any()
    assert seen and max(seen) == 0


def test_bias_enters_a_difference_once():
    network, _ = nets.captured("linear")
    x = torch.randn(4, 7, dtype=torch.float64)
    whole = network.run(x, lambda site, z: z) - network.run(0 * x, lambda site, z: z)
    torch.testing.assert_close(increments(network).run(x, lambda site, z: z), whole)


@given(
    kind=st.sampled_from(["if", "burst", "signed", "telescoped", "bounded"]),
    timesteps=st.integers(1, 10),
    seed=st.integers(0, 10**6),
)
def test_starts_and_offsets_against_the_oracle(kind, timesteps, seed):
    """A start is an initial membrane, an offset is a current; both are in units of the step."""
    neuron = {
        "if": tp.IF(),
        "burst": tp.Burst(3, mode="resolution"),
        "telescoped": tp.Telescoped(2),
    }.get(kind, tp.Signed(2))
    activation = torch.nn.Hardtanh(0.0, 1.3137) if kind == "bounded" else None
    network, calibration = nets.one_site([1.0, 0.6, 1.2], activation)
    plain = tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs())
    (name,) = plain.steps
    rng = np.random.default_rng(seed)
    start, offset = rng.normal(0.5, 1.0, 3), rng.normal(0, 0.2, 3)
    snn = _changed(plain, {name: torch.from_numpy(start)}, {name: torch.from_numpy(offset)})
    step = snn.steps[name].numpy()
    x = rng.normal(0.3, 1.0, (timesteps, 2, 3))
    record = tp.Record(sites=[name])
    run = tp.simulate_reference(snn, torch.from_numpy(x), timesteps, time_axis=True, record=record)
    for c in range(3):
        counts, _ = oracle.neuron(
            x[:, :, c] + offset[c] * step[c],
            step[c],
            neuron.max_count,
            signed=neuron.signed,
            initial_membrane=start[c],
            upper_bound=1.3137 if kind == "bounded" else None,
            telescoped=kind == "telescoped",
        )
        np.testing.assert_array_equal(run.records[name].counts[:, :, c].numpy(), counts)


@pytest.mark.parametrize("name", ["conv2d", "relu6", "residual", "average"])
def test_telescoped_equals_quantized_ann_with_starts_and_offsets(name):
    network, calibration = nets.captured(name)
    plain = tp.convert(network, calibration, neuron=tp.Telescoped(3), threshold=tp.Percentile(99))
    torch.manual_seed(4)
    starts = {n: torch.randn_like(v) for n, v in plain.starts.items()}
    offsets = {n: 0.3 * torch.randn_like(v) for n, v in plain.offsets.items()}
    snn = _changed(plain, starts, offsets)
    x = torch.randn(3, *nets.NETS[name][1], dtype=torch.float64)
    run = tp.simulate_reference(snn, x, 6)
    assert nets.error(run.output[-1], tp.quantized_ann(snn, x, 6)) < 1e-9
    assert nets.error(run.output[-1], tp.quantized_ann(plain, x, 6)) > 1e-3


def test_readout_start_leaves_the_first_timesteps_out():
    network, calibration = nets.captured("conv2d")
    plain = tp.convert(network, calibration, neuron=tp.Signed(2))
    x = torch.randn(3, *nets.CONV_NET_INPUT, dtype=torch.float64)
    whole = tp.simulate_reference(plain, x, 9).output
    late = tp.simulate_reference(_changed(plain, readout_start=4), x, 9).output
    assert torch.equal(late[:4], whole[:4])
    for t in range(5, 10):
        torch.testing.assert_close(late[t - 1], (t * whole[t - 1] - 4 * whole[3]) / (t - 4))


@pytest.mark.parametrize("signed", [False, True])
def test_multi_threshold_is_burst_whose_spikes_are_bits(signed):
    network, calibration = nets.captured("conv2d")
    binary = tp.convert(network, calibration, neuron=tp.MultiThreshold(3, signed=signed))
    burst = tp.Signed(7) if signed else tp.Burst(7, mode="resolution")
    unit = tp.convert(network, calibration, neuron=burst)
    x = torch.randn(3, *nets.CONV_NET_INPUT, dtype=torch.float64)
    names = list(unit.steps)
    a = tp.simulate_reference(binary, x, 6, record=tp.Record(sites=names))
    b = tp.simulate_reference(unit, x, 6, record=tp.Record(sites=names, totals=True))
    assert torch.equal(a.output, b.output)
    for name in names:
        counts = b.records[name].counts.numpy()
        assert np.array_equal(a.records[name].counts.numpy(), counts)
        bits = np.vectorize(lambda n: bin(abs(int(n))).count("1"))(counts)
        assert a.spike_counts[name].tolist() == bits.sum((0, 2, 3, 4)).tolist()
        assert b.spike_counts[name].tolist() == np.abs(counts).sum((0, 2, 3, 4)).tolist()
        assert b.totals[name].binary.sum() == bits.sum()


@pytest.mark.parametrize("name", ["conv2d", "relu6"])
def test_store_keeps_starts_offsets_coding_and_readout(tmp_path, name):
    network, calibration = nets.captured(name)
    for neuron, late in ((tp.Signed(2), 3), (tp.Differential(6), 0), (tp.MultiThreshold(2), 1)):
        plain = tp.convert(network, calibration, neuron=neuron)
        starts = {n: torch.randn_like(v) for n, v in plain.starts.items()}
        offsets = {n: torch.randn_like(v) for n, v in plain.offsets.items()}
        snn = _changed(plain, starts, offsets, late)
        tp.save(snn, tmp_path / "net")
        loaded = tp.load(tmp_path / "net")
        assert (loaded.coding, loaded.readout_start) == (snn.coding, late)
        x = torch.randn(2, *nets.NETS[name][1], dtype=torch.float64)
        nets.same_simulation(tp.simulate_reference(snn, x, 6), tp.simulate_reference(loaded, x, 6))


def test_tensors_of_sites_move_with_the_network():
    network, calibration = nets.captured("conv2d", torch.float32)
    snn = tp.convert(network, calibration).double()
    for kind in (snn.steps, snn.starts, snn.offsets):
        assert {v.dtype for v in kind.values()} == {torch.float64}
    assert len(snn.state_dict()) == len(network.tensors) + 3 * len(network.sites)


def test_codings_do_not_mix():
    network, calibration = nets.captured("conv2d")
    snn = tp.convert(network, calibration, neuron=tp.Signed())
    mixed = {**snn.neurons, network.sites[0].name: tp.Differential(4)}
    with pytest.raises(tp.ArgumentError, match="needed neurons without levels for rate coding"):
        SpikingNetwork(network, mixed, snn.steps, {})
    with pytest.raises(tp.ArgumentError, match="needed neurons with levels for differential"):
        SpikingNetwork(network, snn.neurons, snn.steps, {}, coding="differential")
    same = dict.fromkeys(snn.neurons, tp.Differential(8))
    assert SpikingNetwork(network, same, snn.steps, {}, coding="differential").coding
    with pytest.raises(tp.ArgumentError, match="needed 0 in differential coding, got 2"):
        SpikingNetwork(network, same, snn.steps, {}, coding="differential", readout_start=2)
    with pytest.raises(tp.ArgumentError, match="coding: needed 'rate' or 'differential'"):
        SpikingNetwork(network, same, snn.steps, {}, coding="phase")
    with pytest.raises(tp.ArgumentError, match="readout_start: needed an integer >= 0"):
        SpikingNetwork(network, snn.neurons, snn.steps, {}, readout_start=-1)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tp.Neuron(levels=4), "needs signed=True, step='fraction' and telescoped=False"),
        (lambda: tp.Neuron(levels=4, signed=True), "step='fraction'"),
        (lambda: tp.Differential(0), "levels: needed an integer >= 1"),
        (lambda: tp.MultiThreshold(0), "bits: needed an integer in 1..16"),
        (lambda: tp.Neuron(code="morse"), "code: needed 'unit' or 'binary'"),
    ],
)
def test_neurons_out_of_range_are_refused(call, message):
    with pytest.raises(tp.ArgumentError, match=message):
        call()
