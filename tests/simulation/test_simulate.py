"""The readout, spike counts, records and structure of a simulation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nets
import transpike as tp

BOTH = pytest.mark.parametrize("simulate", [tp.simulate, tp.simulate_reference])


def _snn(name="conv2d", neuron=None, dtype=torch.float64):
    network, calibration = nets.captured(name, dtype)
    return tp.convert(network, calibration, neuron=neuron or tp.Signed(max_count=2))


def _x(name="conv2d", *lead, dtype=torch.float64):
    return torch.randn(*(lead or (3,)), *nets.NETS[name][1], dtype=dtype)


@BOTH
def test_result_of_a_run(simulate):
    snn, x = _snn(), _x()
    run = simulate(snn, x, timesteps=5)
    assert run.output.shape == (5, 3, 5)
    assert run.timesteps == 5
    assert run.output_at == (1, 2, 3, 4, 5)
    assert run.neurons == snn.network.neurons
    assert list(run.spike_counts) == [s.name for s in snn.network.sites]
    for name, counts in run.spike_counts.items():
        assert counts.shape == (3,)
        per_timestep = run.counts_per_timestep[name]
        assert per_timestep.shape == (5, 3)
        assert torch.equal(per_timestep.sum(0), counts)


@BOTH
def test_spikes_per_neuron_is_cumulative(simulate):
    run = simulate(_snn(), _x(), 5)
    total = sum(c.double() for c in run.counts_per_timestep.values())
    expected = total.mean(1).cumsum(0) / run.neurons
    found = torch.as_tensor(run.spikes_per_neuron).double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@BOTH
def test_output_at_keeps_only_the_named_timesteps(simulate):
    snn, x = _snn(), _x()
    full = simulate(snn, x, 8)
    some = simulate(snn, x, 8, record=tp.Record(output_at=[2, 8]))
    assert some.output_at == (2, 8)
    assert torch.equal(some.output, full.output[[1, 7]])
    for name in full.spike_counts:
        assert torch.equal(some.spike_counts[name], full.spike_counts[name])


@BOTH
@pytest.mark.parametrize("bad", [[0], [9], [1.5], []])
def test_output_at_out_of_range(simulate, bad):
    with pytest.raises(tp.ArgumentError, match="output_at"):
        simulate(_snn(), _x(), 8, record=tp.Record(output_at=bad))


@BOTH
def test_record_has_to_be_a_record(simulate):
    with pytest.raises(tp.ArgumentError, match="record: needed a tp.Record, got"):
        simulate(_snn(), _x(), 2, record=["relu"])


@pytest.mark.parametrize(
    ("field", "value"), [("output_at", 3), ("sites", "relu"), ("totals", 1), ("spikes", "no")]
)
def test_record_refuses_wrong_types(field, value):
    with pytest.raises(tp.ArgumentError, match=f"{field}: needed"):
        tp.Record(**{field: value})


@BOTH
def test_static_input_equals_repeated_frames(simulate):
    snn, x = _snn(), _x()
    frames = x.expand(4, *x.shape)
    nets.same_simulation(simulate(snn, x, 4), simulate(snn, frames, 4, time_axis=True))


@BOTH
def test_time_axis_must_match_timesteps(simulate):
    with pytest.raises(tp.TranspikeError, match="4"):
        simulate(_snn(), _x("conv2d", 3, 2), 4, time_axis=True)


@BOTH
def test_record_keeps_chosen_sites(simulate):
    snn, x = _snn(), _x()
    first = snn.network.sites[0]
    run = simulate(snn, x, 4, record=tp.Record(sites=[first.name]))
    assert list(run.records) == [first.name]
    record = run.records[first.name]
    assert record.counts.shape == record.membrane.shape == (4, 3, *first.shape)
    assert torch.equal(
        record.counts.abs().flatten(2).sum(2).long(),
        run.counts_per_timestep[first.name].long(),
    )


@BOTH
def test_record_of_an_unknown_site(simulate):
    with pytest.raises(tp.ArgumentError, match="nowhere"):
        simulate(_snn(), _x(), 2, record=tp.Record(sites=["nowhere"]))


@BOTH
def test_sigmoid_head_is_applied_once_to_the_mean(simulate):
    model = nets.build("sigmoid_head")
    logits = nn.Sequential(*list(model)[:-1])
    batch = _x("sigmoid_head", 8)
    runs = [simulate(tp.convert(m, [batch], neuron=tp.IF()), batch[:3], 6) for m in (model, logits)]
    torch.testing.assert_close(runs[0].output, torch.sigmoid(runs[1].output))


@BOTH
@pytest.mark.parametrize("head", ["softmax", "log_softmax", "argmax"])
def test_other_heads(simulate, head):
    function = {
        "softmax": lambda y: y.softmax(1),
        "log_softmax": lambda y: F.log_softmax(y, 1),
        "argmax": lambda y: y.argmax(1),
    }[head]
    parts = {"a": nn.Linear(4, 8), "b": nn.Linear(8, 3)}
    model = nets.Fn(lambda m, x: function(m.b(F.relu(m.a(x)))), **parts)
    plain = nets.Fn(lambda m, x: m.b(F.relu(m.a(x))), **parts)
    x = torch.randn(9, 4)
    runs = [simulate(tp.convert(m, [x]), x, 5) for m in (model, plain)]
    expected = torch.stack([function(y) for y in runs[1].output])
    torch.testing.assert_close(runs[0].output, expected)


@BOTH
def test_structured_output(simulate):
    run = simulate(_snn("dict_head"), _x("dict_head"), 4)
    assert list(run.output) == ["a", "b"]
    assert run.output["a"].shape == (4, 3, 4, 8, 8)
    assert isinstance(run.output["b"], tuple)
    assert [t.shape for t in run.output["b"]] == [(4, 3, 1, 8, 8), (4, 3, 3, 8, 8)]


@BOTH
def test_network_that_ends_in_a_site_reads_out_its_mean(simulate):
    network, calibration = nets.one_site([1.0, 2.0])
    snn = tp.convert(network, calibration, neuron=tp.IF(), threshold=tp.MaxAbs())
    x = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    run = simulate(snn, x, 10)
    expected = torch.tensor([[0.3, 0.6]], dtype=torch.float64)
    torch.testing.assert_close(run.output[-1], expected)


@BOTH
def test_bias_acts_at_every_timestep(simulate):
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.fill_(1.0)
            layer.bias.fill_(0.5)
    snn = tp.convert(model, [torch.full((2, 1), 0.5)], neuron=tp.IF(), threshold=tp.MaxAbs())
    run = simulate(snn, torch.zeros(1, 1), 8)
    torch.testing.assert_close(run.output[-1], torch.full((1, 1), 1.0))


def test_padding_never_gives_nan():
    """With padding of minus infinity, a difference of two maxima at the border could be NaN."""
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 1), nn.MaxPool2d(3, 2, 1, ceil_mode=True))
    snn = tp.convert(model, [torch.randn(4, 2, 7, 7)])
    assert bool(tp.simulate(snn, torch.randn(2, 2, 7, 7), 6).output.isfinite().all())


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 16, 100])
def test_chunk_length_changes_nothing(chunk):
    snn, x = _snn(), _x()
    base, run = tp.simulate(snn, x, 16), tp.simulate(snn, x, 16, chunk=chunk)
    nets.same_counts(base, run)
    torch.testing.assert_close(base.output, run.output, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk", [0, -1])
def test_bad_chunk(chunk):
    with pytest.raises(tp.ArgumentError, match="chunk"):
        tp.simulate(_snn(), _x(), 2, chunk=chunk)


def test_unknown_precision():
    with pytest.raises(tp.ArgumentError, match="precision"):
        tp.simulate(_snn(), _x(), 2, precision="rough")


def test_no_gradient_is_kept():
    assert not tp.simulate(_snn(), _x(), 2).output.requires_grad


def test_gradient_mode_is_left_as_it_was():
    with torch.enable_grad():
        tp.simulate(_snn(), _x(), 2)
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_engine_equals_reference_on_every_operation(name):
    snn, x = _snn(name), _x(name, 5, 3)
    slow = tp.simulate_reference(snn, x, 5, time_axis=True)
    fast = tp.simulate(snn, x, 5, time_axis=True, chunk=2)
    nets.same_counts(slow, fast)
    for a, b in zip(nets.leaves(slow.output), nets.leaves(fast.output), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@BOTH
@pytest.mark.parametrize("neuron", [tp.Burst(7), tp.Signed(max_count=3), tp.Telescoped(2)])
def test_totals_sum_the_record(simulate, neuron):
    snn, x = _snn(neuron=neuron), _x()
    names = [site.name for site in snn.network.sites]
    run = simulate(snn, x, 6, record=tp.Record(totals=True, sites=names))
    assert list(run.totals) == names
    for name in names:
        counts, totals = run.records[name].counts, run.totals[name]
        assert torch.equal(totals.net, counts.sum(0))
        assert torch.equal(totals.unit, counts.abs().sum(0))
        ones = [sum(bin(abs(int(n))).count("1") for n in series) for series in counts.flatten(1).T]
        assert torch.equal(totals.binary.flatten(), torch.tensor(ones).double())
        assert torch.equal(totals.unit.flatten(1).sum(1), run.spike_counts[name])


def test_totals_hold_the_current_of_the_reference():
    snn, x = _snn(), _x()
    record = tp.Record(totals=True)
    mine, theirs = (
        f(snn, x, 5, record=record).totals for f in (tp.simulate, tp.simulate_reference)
    )
    for name in mine:
        torch.testing.assert_close(mine[name].current, theirs[name].current)
