"""A ReLU module that is called twice must be two populations of neurons."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

import faults
import nets
import transpike as tp


class Block(nn.Module):
    """A basic block of ResNet-18, with one ReLU module that is called twice or with two modules."""

    def __init__(self, channels, shared):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        if not shared:
            self.second = nn.ReLU()
        self.shared = shared

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y)) + x
        return self.relu(y) if self.shared else self.second(y)


def _network(shared, blocks=8):
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        *[Block(12, shared) for _ in range(blocks)],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )
    torch.manual_seed(1)
    for p in model.parameters():
        nn.init.normal_(p, std=0.1 if p.ndim < 2 else (2 / p[0].numel()) ** 0.5)
    return nets.settle_batchnorm(model, torch.randn(32, 3, 8, 8))


@functools.cache
def _captured(shared):
    torch.manual_seed(2)
    batch = torch.randn(16, 3, 8, 8)
    network = tp.capture(_network(shared), batch)
    return network, tp.calibrate(network, [batch])


def _converted(shared, neuron):
    return tp.convert(*_captured(shared), neuron=neuron, threshold=tp.MaxAbs())


def test_shared_module_equals_separate_modules_spike_for_spike():
    x = torch.randn(4, 3, 8, 8)
    for neuron in (tp.IF(), tp.Burst(max_count=5), tp.Signed(max_count=2)):
        one, two = _converted(True, neuron), _converted(False, neuron)
        a, b = tp.simulate(one, x, 16), tp.simulate(two, x, 16)
        assert torch.equal(a.output, b.output)
        assert len(a.spike_counts) == len(b.spike_counts) == 17
        for left, right in zip(a.spike_counts.values(), b.spike_counts.values(), strict=True):
            assert torch.equal(left, right)


def test_sites_of_a_shared_module_have_their_own_names_and_steps():
    snn = _converted(True, tp.IF())
    names = [site.name for site in snn.network.sites]
    assert names[1:3] == ["2.relu", "2.relu_1"]
    assert not torch.equal(snn.steps["2.relu"], snn.steps["2.relu_1"])


def _rms(found, ann):
    """Return the error relative to the variation over images; a constant output would give 1."""
    return float((found - ann).std() / ann.std(0).mean())


def test_shared_membrane_collapses_where_the_library_does_not():
    x = torch.randn(64, 3, 8, 8)
    snn = _converted(True, tp.Burst(max_count=5))
    ann = snn.network(x)
    timesteps = 256
    library = tp.simulate(snn, x, timesteps).output[-1]
    faulty = faults.simulate_by_module(snn, x, timesteps, share=True)
    assert _rms(library, ann) < 0.2
    assert _rms(faulty, ann) > 1


def test_the_fault_is_the_only_difference_of_the_helper():
    x = torch.randn(4, 3, 8, 8)
    snn = _converted(True, tp.Burst(max_count=5))
    library = tp.simulate(snn, x, 16).output[-1]
    helper = faults.simulate_by_module(snn, x, 16, share=False)
    assert _rms(helper, library) < 0.05


def test_module_called_twice_behind_batchnorm_gets_one_folded_copy_per_call():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    model = nets.Fn(
        lambda m, x: F.relu(m.b2(m.c(F.relu(m.b1(m.c(x)))))),
        c=conv,
        b1=nn.BatchNorm2d(2),
        b2=nn.BatchNorm2d(2),
    )
    nets.settle_batchnorm(model, torch.randn(8, 2, 6, 6))
    network = tp.capture(model, torch.randn(2, 2, 6, 6))
    x = torch.randn(3, 2, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-5)
    assert not any(node.op == "affine" for node in network.nodes)
