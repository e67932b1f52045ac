"""Capture gives one graph that equals the eager model and has one name per site."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nets
import transpike as tp


def _names(network):
    return [site.name for site in network.sites]


def test_site_names_are_module_paths():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(self.conv(self.relu(x)))

    model = nn.Sequential()
    model.add_module("layer1", nn.Sequential(Inner()))
    model.add_module("head", nn.Conv2d(2, 1, 1))
    network = tp.capture(model, torch.randn(2, 2, 4, 4))
    assert _names(network) == ["layer1.0.relu", "layer1.0.relu_1"]


def test_functional_and_inplace_calls_are_sites_of_their_own():
    network, _ = nets.captured("inplace")
    assert len(network.sites) == 2
    assert len(set(_names(network))) == 2


def test_three_calls_of_one_module_are_three_sites():
    network, _ = nets.captured("reused")
    assert _names(network) == ["act", "act_1", "act_2"]


FORMS = {
    "relu": (lambda x: torch.relu(x), None),
    "F.relu_": (lambda x: F.relu(x, inplace=True), None),
    "method": (lambda x: x.relu(), None),
    "clamp_min": (lambda x: torch.clamp_min(x, 0), None),
    "clamp": (lambda x: x.clamp(min=0.0), None),
    "threshold": (lambda x: F.threshold(x, 0.0, 0.0), None),
    "maximum": (lambda x: torch.maximum(x, torch.zeros_like(x)), None),
    "relu6": (lambda x: F.relu6(x), 6.0),
    "hardtanh": (lambda x: F.hardtanh(x, 0.0, 2.0), 2.0),
    "clamp_both": (lambda x: x.clamp(0, 1.5), 1.5),
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_of_a_site(form):
    function, bound = FORMS[form]
    model = nets.Fn(lambda m, x: function(m.c(x)), c=nn.Linear(3, 4))
    network = tp.capture(model, torch.randn(2, 3))
    (site,) = network.sites
    assert site.upper_bound == bound
    x = torch.randn(5, 3) * 5
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x))


def test_sites_know_shape_and_neurons():
    network, _ = nets.captured("conv2d")
    assert [s.shape for s in network.sites] == [(4, 8, 8), (6, 2, 2)]
    assert network.neurons == 4 * 64 + 6 * 4
    assert network.input_shape == (2, 8, 8)
    assert network.dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "affine"),
    [
        ("grouped", 0),
        ("dilated", 0),
        ("transposed", 0),
        ("linear", 0),
        ("conv1d", 0),
        ("conv3d", 0),
        ("batchnorm_kept", 1),
    ],
)
def test_batchnorm_is_folded_or_kept(name, affine):
    network, _ = nets.captured(name)
    assert sum(node.op == "affine" for node in network.nodes) == affine
    assert not any("batch_norm" in node.op for node in network.nodes)


def test_batchnorm_is_not_folded_where_the_convolution_has_another_reader():
    model = nets.Fn(
        lambda m, x: (lambda y: F.relu(m.b(y)) + F.relu(y))(m.c(x)),
        c=nn.Conv2d(2, 3, 1),
        b=nn.BatchNorm2d(3),
    )
    nets.settle_batchnorm(model, torch.randn(8, 2, 4, 4) * 3)
    network = tp.capture(model, torch.randn(2, 2, 4, 4))
    assert sum(node.op == "affine" for node in network.nodes) == 1
    x = torch.randn(3, 2, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-5)


def test_dropout_is_gone():
    network, _ = nets.captured("dropout")
    assert not any("dropout" in node.op for node in network.nodes)


def test_parametrized_weights_fold_to_constants():
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(27, 2),
    ).eval()
    network = tp.capture(model, torch.randn(2, 2, 5, 5))
    x = torch.randn(4, 2, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_example_of_any_batch_size(batch):
    network = tp.capture(nets.conv_net(), torch.randn(batch, 2, 8, 8))
    assert network(torch.randn(5, 2, 8, 8)).shape == (5, 5)


def test_output_mirrors_the_structure():
    network, _ = nets.captured("dict_head")
    out = network(torch.randn(3, 2, 8, 8, dtype=torch.float64))
    assert list(out) == ["a", "b"]
    assert isinstance(out["b"], tuple) and len(out["b"]) == 2


def test_to_gives_a_copy():
    network, _ = nets.captured("conv2d")
    single = network.to(dtype=torch.float32)
    assert single.dtype == torch.float32
    assert network.dtype == torch.float64
    assert single(torch.randn(2, 2, 8, 8)).dtype == torch.float32


def test_inspect_lists_sites_and_operations():
    report = tp.inspect(nets.conv_net(), torch.randn(2, 2, 8, 8))
    assert report.convertible and not report.refusals
    assert report.parameters == sum(p.numel() for p in nets.conv_net().parameters())
    macs = 4 * 18 * 64 + 6 * 36 * 4 + 24 * 5
    assert report.macs == macs
    assert report.tail_macs == 24 * 5
    text = str(report)
    for site in tp.capture(nets.conv_net(), torch.randn(2, 2, 8, 8)).sites:
        assert site.name in text


def test_inspect_never_raises_for_a_refused_operation():
    functions = nets.Fn(lambda m, x: torch.special.i0(x)), nets.Fn(lambda m, x: torch.special.i1(x))
    model = nn.Sequential(nn.Linear(3, 3), functions[0], nn.Linear(3, 3), functions[1])
    report = tp.inspect(model, torch.randn(2, 3))
    assert not report.convertible
    assert len(report.refusals) == 2
    assert "special_i0" in str(report) and "special_i1" in str(report)


def test_model_without_weights_in_float64():
    x = torch.randn(2, 3, dtype=torch.float64)
    network = tp.capture(nn.Sequential(nn.ReLU()), x)
    assert torch.equal(network(x), x.clamp(min=0))
