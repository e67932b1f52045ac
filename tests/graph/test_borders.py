"""Models at the border of what is captured: each is refused, or its outputs are right."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nets
import transpike as tp


class Net(nn.Module):
    """A module with two linear layers, whose output is a given function of (module, input)."""

    def __init__(self, function, first=(5, 6), second=(6, 3)):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(*first), nn.Linear(*second)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def _flip_twice(s, x):
    return F.relu(s.b(F.relu(s.a(x)).flip(0))).flip(0)


def _cat_halves(s, x):
    y = s.b(F.relu(s.a(torch.cat([x, x.flip(-1)], 0))))
    return y[: x.shape[0]] - y[x.shape[0] :]


def _sequence_first(s, x):
    return s.b(F.relu(s.a(x.transpose(0, 1)))).transpose(0, 1)


def _merged(s, x):
    return s.b(F.relu(s.a(x.reshape(-1, 5)))).reshape(x.shape[0], 4, 3).mean(1)


def _not_merged(s, x):
    return s.b(F.relu(s.a(x))).mean(1)


MIXES_SAMPLES = {
    "flip": (_flip_twice, "the batch must stay the first axis"),
    "cat": (_cat_halves, "each sample must be computed on its own, batch first"),
}
MOVES_BATCH = {"sequence_first": _sequence_first, "merged": _merged}


@pytest.mark.parametrize("name", MIXES_SAMPLES)
def test_samples_must_not_change_places(name):
    function, match = MIXES_SAMPLES[name]
    with pytest.raises(tp.UnsupportedError, match=match):
        tp.capture(Net(function), torch.randn(4, 5))


@pytest.mark.parametrize("name", MOVES_BATCH)
def test_the_batch_may_move_or_merge(name):
    network = tp.capture(Net(MOVES_BATCH[name]).double(), torch.randn(3, 4, 5).double())
    x = torch.randn(6, 3, 4, 5).double()
    snn = tp.convert(network, [x[0]], neuron=tp.Telescoped(3))
    run = tp.simulate_reference(snn, x, 6, time_axis=True)
    for t in (1, 3, 6):
        expected = tp.quantized_ann(snn, x[:t].mean(0), t)
        torch.testing.assert_close(run.output[t - 1], expected, rtol=0, atol=1e-9)
    alone = [tp.simulate(snn, x[:, i : i + 1], 6, time_axis=True).output for i in range(3)]
    torch.testing.assert_close(torch.cat(alone, dim=1), run.output, rtol=0, atol=1e-9)


def test_remedy_for_a_merged_batch():
    x = torch.randn(3, 4, 5)
    snn = tp.convert(Net(_not_merged), [x])
    run = tp.simulate(snn, x, 5)
    nets.same_counts(run, tp.simulate_reference(snn, x, 5))
    assert run.neurons == 4 * 6
    assert run.spike_counts["relu"].shape == (3,)


def test_generated_site_names_do_not_take_a_modules_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.ModuleList([nn.Linear(5, 5) for _ in range(3)])
            self.relu, self.relu_1 = nn.ReLU(), nn.ReLU()

        def forward(self, x):
            x = self.relu(self.fc[1](self.relu(self.fc[0](x))))
            return self.relu_1(self.fc[2](x))

    x = torch.randn(4, 5)
    snn = tp.convert(Named(), [x])
    assert [site.name for site in snn.network.sites] == ["relu", "relu_2", "relu_1"]
    nets.same_counts(tp.simulate(snn, x, 6), tp.simulate_reference(snn, x, 6))


def test_folded_weights_do_not_take_a_users_name():
    class Clash(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc0, self.bn, self.linear = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

        def forward(self, x):
            return self.linear(torch.relu(self.bn(self.fc0(x))))

    x = torch.randn(16, 5)
    model = nets.settle_batchnorm(Clash(), x)
    torch.testing.assert_close(tp.capture(model, x)(x), model(x))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 2), nn.ReLU()),
        Net(lambda s, x: s.b(F.relu(s.a(x.sub_(0.5))))),
    ],
)
def test_in_place_on_the_input(model):
    x = torch.randn(4, 5)
    before = x.clone()
    network = tp.capture(model, x)
    assert torch.equal(x, before)
    torch.testing.assert_close(network(x), model(x.clone()))


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda s, x: {"o": s.b(F.relu(s.a(x))), "size": 3}, "an output must be a signal"),
        (lambda s, x: s.b(F.relu(s.a(x))).mean(), "the batch must stay the first axis"),
        (lambda s, x: s.b(F.relu(s.a(x))).argmax(), "the batch must stay the first axis"),
        (lambda s, x: F.relu(s.b(F.relu(s.a(x))).sum(1)), "needs a feature axis"),
        (lambda s, x: F.dropout(s.b(F.relu(s.a(x))), 0.5), "dropout is active"),
        (lambda s, x: F.relu(s.a(x)) + torch.full((x.shape[0], 6), 0.3).lgamma(), "lgamma"),
    ],
)
def test_refused_with_a_name(function, match):
    with pytest.raises(tp.UnsupportedError, match=match):
        tp.capture(Net(function), torch.randn(4, 5))


def test_lazy_weights_and_the_remedy():
    model, x = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(4, 5)
    with pytest.raises(tp.DataError, match="run the model once first"):
        tp.capture(model, x)
    model(x)
    assert len(tp.capture(model, x).sites) == 1


def test_half_precision_and_the_remedy():
    model, x = Net(lambda s, x: s.b(F.relu(s.a(x)))).bfloat16(), torch.randn(4, 5).bfloat16()
    with pytest.raises(tp.DataError, match="needed float32 or float64"):
        tp.capture(model, x)
    assert len(tp.capture(model.float(), x.float()).sites) == 1


def test_integer_outputs_are_checked():
    def mixes(s, x):
        y = s.b(F.relu(s.a(x)))
        return (-y if x.shape[0] > 1 else y).argmax(1)

    with pytest.raises(tp.UnsupportedError, match="branch on the batch size"):
        tp.capture(Net(mixes), torch.randn(4, 5))


def test_weak_mixing_is_refused_by_name():
    def mixes(s, x):
        y = s.a(x)
        return s.b(F.relu(y - 1e-3 * y.mean(0)))

    with pytest.raises(tp.UnsupportedError, match="mean.*the batch must stay the first axis"):
        tp.capture(Net(mixes), torch.randn(4, 5))


def test_telescoped_counts_are_magnitudes_whatever_the_sign_flag():
    x = torch.randn(4, 5)
    model = Net(lambda s, x: F.relu(s.b(F.relu(s.a(x)))))
    snn = tp.convert(model, [x], neuron=tp.Neuron(telescoped=True))
    nets.same_counts(tp.simulate(snn, x, 12), tp.simulate_reference(snn, x, 12))


def test_percentile_of_repeated_values():
    from transpike.conversion.calibrate import Histogram

    for value in (0.5, 1.0, 1.99, 3.7):
        histogram = Histogram(1)
        histogram.update(torch.cat([torch.full((1, 990), value), torch.full((1, 10), 10.0)], 1))
        assert float(histogram.quantile(0.98)) == pytest.approx(value, rel=0.01)


def test_calibration_of_another_network_is_refused():
    x = torch.randn(4, 5)
    one, other = (tp.capture(Net(lambda s, x: s.b(F.relu(s.a(x)))), x) for _ in range(2))
    scaled = Net(lambda s, x: s.b(F.relu(s.a(x))))
    with torch.no_grad():
        scaled.a.weight *= 100
    tp.convert(other, tp.calibrate(one, [x]))  # A network with the same weights is accepted.
    with pytest.raises(tp.ArgumentError, match="another network"):
        tp.convert(tp.capture(scaled, x), tp.calibrate(one, [x]))


def test_a_sigmoid_head_is_cut_at_a_half():
    x = torch.randn(64, 5)
    logits = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1))
    target = (logits(x) > 0).long().squeeze(1)
    for model in (logits, nn.Sequential(logits, nn.Sigmoid())):
        result = tp.evaluate(tp.convert(model, [x]), [(x, target)], 4)
        assert result.ann_accuracy == 1.0


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ([0, 1, 2, 0], "needed targets as a tensor"),
        (torch.tensor([0, 1, 7, 0]), "class indices 0..2"),
        (torch.tensor([0.0, 1.5, 1.0, 0.0]), "class indices 0..2"),
    ],
)
def test_bad_targets(target, match):
    x = torch.randn(4, 5)
    snn = tp.convert(Net(lambda s, x: s.b(F.relu(s.a(x)))), [x])
    with pytest.raises(tp.DataError, match=match):
        tp.evaluate(snn, [(x, target)], 2)


def test_module_names_with_slashes(tmp_path):
    model = nn.Sequential()
    for name, module in (("a/b", nn.Linear(5, 6)), ("relu", nn.ReLU()), ("c%2F", nn.Linear(6, 2))):
        model.add_module(name, module)
    x = torch.randn(4, 5)
    snn = tp.convert(model, [x])
    tp.save(snn, tmp_path / "net")
    assert torch.equal(
        tp.simulate(tp.load(tmp_path / "net"), x, 3).output, tp.simulate(snn, x, 3).output
    )
