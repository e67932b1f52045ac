"""Portions, progress, interrupts, precision, memory and plans of the engine, and its cache."""

import copy
import gc
import pickle
import weakref

import pytest
import torch

import nets
import transpike as tp
from transpike.simulation.engine.memory import portion
from transpike.simulation.engine.plan import plan
from transpike.simulation.engine.precision import arithmetic, tf32_terms
from transpike.simulation.engine.prepared import prepared


def test_portions_do_not_change_results():
    snn = nets.dyadic_snn(nets.conv_net(), (2, 8, 8), tp.Signed(2))
    x = nets.dyadic_input(7, 2, 8, 8)
    names = [s.name for s in snn.network.sites]
    whole = tp.simulate(snn, x, 6, record=tp.Record(sites=names, totals=True))
    least = plan(snn.network, constant_input=True)
    one = least.bytes_per_sample(4) + least.bytes_per_timestep(4)
    for budget in (one, 2 * one, 10**9):
        record = tp.Record(sites=names, totals=True)
        run = tp.simulate(snn, x, 6, record=record, memory_budget=budget)
        nets.same_counts(whole, run)
        torch.testing.assert_close(run.output, whole.output, rtol=1e-6, atol=1e-7)
        for name in names:
            assert torch.equal(run.records[name].membrane, whole.records[name].membrane)
            assert torch.equal(run.totals[name].net, whole.totals[name].net)


def test_a_budget_below_one_sample_is_refused_with_the_number_needed():
    snn = nets.dyadic_snn(nets.conv_net(), (2, 8, 8), tp.Signed(2))
    with pytest.raises(tp.ArgumentError, match=r"memory_budget: .* needs [\d,]+ bytes"):
        tp.simulate(snn, nets.dyadic_input(2, 2, 8, 8), 4, memory_budget=100)


def test_budget_lowers_the_chunk_first_and_raises_it_when_there_is_room():
    network, _ = nets.captured("conv2d", torch.float32)
    made = plan(network, constant_input=True)
    state, value = made.bytes_per_sample(4), made.bytes_per_timestep(4)
    options = {"itemsize": 4, "chunk": None}
    cpu = torch.device("cpu")
    tight = portion(made, 64, 10, cpu, budget=state + 3 * value, **options)
    assert (tight.samples, tight.timesteps) == (1, 2)
    roomy = portion(made, 64, 10, cpu, budget=10 * (state + 64 * value), **options)
    assert (roomy.samples, roomy.timesteps) == (10, 64)
    assert portion(made, 64, 10, cpu, budget=None, **options).timesteps == 8
    assert portion(made, 3, 10, cpu, budget=None, **options).timesteps == 3


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "8"])
@pytest.mark.parametrize("name", ["chunk", "memory_budget"])
def test_bad_portions_are_refused(name, bad):
    snn = nets.dyadic_snn(nets.conv_net(), (2, 8, 8), tp.IF())
    with pytest.raises(tp.ArgumentError, match=f"{name}: needed an integer"):
        tp.simulate(snn, nets.dyadic_input(2, 2, 8, 8), 2, **{name: bad})


def test_progress_counts_every_timestep_of_every_sample():
    snn = nets.dyadic_snn(nets.conv_net(), (2, 8, 8), tp.IF())
    seen = []
    tp.simulate(
        snn,
        nets.dyadic_input(5, 2, 8, 8),
        7,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    assert seen[-1] == (35, 35)


def test_an_interrupt_leaves_the_finished_batches():
    snn, x = nets.classifier()
    target = snn.network(x).argmax(1)

    def batches(stop):
        for index in range(3):
            if index == stop:
                raise KeyboardInterrupt
            yield x[8 * index : 8 * index + 8], target[8 * index : 8 * index + 8]

    found = tp.evaluate(snn, batches(2), 5)
    assert found.interrupted and found.samples == found.n == 16
    whole = tp.evaluate(snn, [(x[:16], target[:16])], 5)
    assert not whole.interrupted
    assert found.accuracy == whole.accuracy
    assert "interrupted" in str(found)
    with pytest.raises(KeyboardInterrupt):
        tp.evaluate(snn, batches(0), 5)


def test_an_interrupt_within_a_batch_counts_none_of_it():
    snn, x = nets.classifier()
    target = snn.network(x).argmax(1)
    calls = []

    def stop(done, total):
        calls.append(done)
        if len(calls) == 2:
            raise KeyboardInterrupt

    half = [(x[:12], target[:12]), (x[12:], target[12:])]
    found = tp.evaluate(snn, half, 5, progress=stop)
    assert found.samples == 12
    assert found.accuracy == tp.evaluate(snn, half[:1], 5).accuracy


def test_fast_is_close_to_exact_and_says_how_close():
    snn, x = nets.classifier()
    target = snn.network(x).argmax(1)
    exact, fast = (tp.simulate(snn, x, 8, precision=p) for p in ("exact", "fast"))
    assert (exact.precision, fast.precision) == ("exact", "fast")
    assert not torch.equal(exact.output, fast.output)
    error = (exact.output[-1] - fast.output[-1]).std() / exact.output[-1].std()
    assert error < 0.2
    assert fast.output.dtype == torch.float32
    found = tp.evaluate(snn, [(x, target)], 8, precision="fast", compare_exact=True)
    equal = exact.output.argmax(2) == fast.output.argmax(2)
    assert found.exact_agreement == pytest.approx(equal.double().mean(1).tolist())
    assert found.precision == "fast"


def test_precision_is_refused_where_it_cannot_be_had():
    snn, x = nets.classifier()
    with pytest.raises(tp.ArgumentError, match="precision: needed one of"):
        tp.simulate(snn, x, 2, precision="half")
    with pytest.raises(tp.ArgumentError, match="needs the tensor cores of a CUDA device"):
        tp.simulate(snn, x, 2, precision="split")
    with pytest.raises(tp.ArgumentError, match="needs a network in float32"):
        tp.simulate(snn.double(), x.double(), 2, precision="fast")


def test_tf32_terms_add_up_and_have_few_bits():
    x = torch.randn(1000) * torch.logspace(-6, 6, 1000)
    high, low = tf32_terms(x)
    for term in (high, low):
        assert torch.equal(term.view(torch.int32) & 0x1FFF, torch.zeros(1000, dtype=torch.int32))
    assert float(((high.double() + low.double() - x.double()) / x.double()).abs().max()) < 2**-21


def test_three_tf32_products_restore_a_float32_convolution():
    """This is the arithmetic of precision 'split', but the products are computed in float32."""
    torch.manual_seed(0)
    network = tp.capture(nets.conv_net(), torch.randn(2, 2, 8, 8))
    node = next(n for n in network.nodes if "conv2d" in n.op)
    split = arithmetic("exact", network)
    split = type(split)("split", split.kept, split.product, split.signal)
    values = {node.reads[0]: torch.randn(3, 2, 8, 8)}
    found = split.call(network, network, node)(values, 3)
    exact = network.to(dtype=torch.float64)
    doubled = {name: value.double() for name, value in values.items()}
    wanted = exact.compute(node, doubled, 3)
    torch.testing.assert_close(found.double(), wanted, rtol=2e-6, atol=2e-6)


def test_memory_does_not_grow_with_timesteps():
    """The portion that is computed at once has the same size for every number of timesteps."""
    network, _ = nets.captured("conv2d", torch.float32)
    made = plan(network, constant_input=True)
    sizes = {
        portion(made, t, 100, torch.device("cpu"), itemsize=4, chunk=None, budget=None)
        for t in (8, 64, 256, 1000)
    }
    assert len(sizes) == 1


def test_a_plan_names_every_dead_value_once():
    network, _ = nets.captured("conv2d", torch.float32)
    made = plan(network, constant_input=False)
    dead = [name for step in made.steps for name in step.dead]
    assert len(dead) == len(set(dead))
    assert not set(dead) & set(made.readout)
    read = {name for step in made.steps for name in step.reads}
    assert read - set(made.readout) <= set(dead) | made.kept


@pytest.mark.parametrize("time_axis", [False, True])
@pytest.mark.parametrize("name", ["conv2d", "conv1d", "grouped"])
def test_one_pass_of_telescoped_neurons_equals_the_stepwise_reference(name, time_axis):
    network, calibration = nets.captured(name, torch.float64)
    snn = tp.convert(network, calibration, neuron=tp.Telescoped(3))
    lead = (6, 3) if time_axis else (3,)
    x = torch.randn(*lead, *nets.NETS[name][1], dtype=torch.float64)
    at = [1, 2, 5, 6]
    slow = tp.simulate_reference(snn, x, 6, time_axis=time_axis, record=tp.Record(output_at=at))
    record = tp.Record(output_at=at, spikes=False)
    fast = tp.simulate(snn, x, 6, time_axis=time_axis, record=record)
    torch.testing.assert_close(fast.output, slow.output, rtol=1e-9, atol=1e-11)
    assert fast.output_at == slow.output_at and not fast.counts_per_timestep
    with pytest.raises(tp.DataError, match="spikes=True"):
        _ = fast.spikes_per_neuron


def test_neurons_that_depend_on_the_way_are_simulated_even_without_spikes():
    snn, x = nets.classifier()
    nets.same_simulation(
        tp.simulate(snn, x, 5, record=tp.Record(spikes=False)), tp.simulate(snn, x, 5)
    )


def test_an_engine_lives_no_longer_than_its_network():
    snn, x = nets.classifier()
    tp.simulate(snn, x, 4)
    engine = weakref.ref(prepared(snn, "exact"))
    assert engine() is prepared(snn, "exact")
    assert "_prepared" not in vars(snn)
    del snn
    gc.collect()
    assert engine() is None


def test_a_network_that_ran_is_copied_and_pickled():
    snn, x = nets.classifier()
    found = tp.simulate(snn, x, 4)
    for copied in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        nets.same_simulation(tp.simulate(copied, x, 4), found)


@pytest.mark.parametrize("part", ["weight", "step", "start", "neuron"])
def test_a_changed_network_is_prepared_anew(part):
    snn, x = nets.classifier()
    before = tp.simulate(snn, x, 4)
    nets.same_simulation(before, tp.simulate(snn, x, 4))
    name = snn.network.sites[0].name
    if part == "weight":
        next(iter(snn.network.tensors.values())).data.mul_(0.5)
    elif part == "step":
        snn.steps[name].data[0] *= 2
    elif part == "start":
        snn.starts[name].data[0] += 0.25
    else:
        snn.neurons[name] = tp.Signed(1)
    found = tp.simulate(snn, x, 4)
    assert not torch.equal(found.output, before.output)
    torch.testing.assert_close(found.output, tp.simulate_reference(snn, x, 4).output)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.add_(1),
        lambda weight: weight[0].mul_(2),
        lambda weight: weight.data.mul_(1.5),
        lambda weight: weight.copy_(weight + 1),
    ],
)
def test_a_changed_weight_is_noticed(change):
    snn, x = nets.classifier()
    before = tp.simulate(snn, x, 4).output
    assert torch.equal(before, tp.simulate(snn, x, 4).output)
    buffers = [buffer for buffer in snn.buffers() if buffer.numel() > 8 and buffer.ndim > 1]
    with torch.no_grad():
        change(max(buffers, key=torch.numel))
    after = tp.simulate(snn, x, 4).output
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, tp.simulate_reference(snn, x, 4).output)


def test_a_simulated_network_can_be_copied_pickled_and_moved():
    snn, x = nets.classifier()
    run = tp.simulate(snn, x, 4)
    for other in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        nets.same_simulation(run, tp.simulate(other, x, 4))
    assert tp.simulate(snn.double(), x.double(), 4).output.dtype == torch.float64
