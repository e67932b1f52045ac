"""Scales of consecutive layers do not matter where every channel has its own threshold."""

import copy

import pytest
import torch

import nets
import transpike as tp

RULES = [
    tp.MaxAbs(),
    tp.Percentile(99.9),
    tp.LeastSquares(),
    tp.GaussianIteration(),
    tp.LocalThresholdBalancing(50),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("neuron", [tp.Signed(2), tp.Cyclic(4)], ids=lambda neuron: neuron.name)
def test_balancing_the_ranges_of_channels_changes_no_spike(rule, neuron):
    """Scaling a channel up and its readers down is exact for ReLU, and the thresholds follow."""
    torch.manual_seed(2)
    model = nets.conv_net().double().eval()
    balanced = copy.deepcopy(model)
    scale = 2.0 ** torch.tensor([3, -4, 0, 1], dtype=torch.float64)
    with torch.no_grad():
        balanced[0].weight.mul_(scale.view(-1, 1, 1, 1))
        balanced[0].bias.mul_(scale)
        balanced[3].weight.div_(scale.view(1, -1, 1, 1))
    x = torch.randn(8, *nets.CONV_NET_INPUT, dtype=torch.float64)
    runs = []
    for one in (model, balanced):
        snn = tp.convert(
            one, [x], neuron=neuron, threshold=rule, timesteps=5, passes=[tp.BiasCorrection()]
        )
        runs.append(tp.simulate(snn, x, 5))
    assert float(runs[0].spikes_per_neuron[-1]) > 0
    nets.same_simulation(*runs)
