"""Operations that are written in terms of simpler ones keep their values."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transpike as tp

torch.manual_seed(0)
W = torch.randn(6, 6, dtype=torch.float64)
GROUPED = torch.randn(2, 3, 4, dtype=torch.float64)


def _changed(change):
    def changed(y):
        y = y.clone()
        change(y)
        return y

    return changed


def _assign(y):
    y[:, 0] = 0


def _assign_slice(y):
    y[:, 1] = y[:, 0]


def _add_in_place(y):
    y[:, 1:3] += y[:, 3:5]


LINEAR = {
    "einsum": lambda y: torch.einsum("bi,io->bo", y, W),
    "einsum_weight_first": lambda y: torch.einsum("oi,bi->bo", W, y),
    "einsum_groups": lambda y: torch.einsum("bhi,hio->bho", y.view(-1, 2, 3), GROUPED),
    "einsum_outer": lambda y: torch.einsum("bi,o->bio", y, W[0]),
    "einsum_order": lambda y: torch.einsum("bhi,hio->bho", y.view(-1, 2, 3), GROUPED[:, :, :2]),
    "addmm": lambda y: torch.addmm(y, y, W, beta=0.5, alpha=2),
    "baddbmm": lambda y: torch.baddbmm(y[:, None], y[:, None], W.expand(y.shape[0], 6, 6)),
    "tensordot": lambda y: torch.tensordot(y, W, dims=([1], [0])),
    "inner": lambda y: torch.inner(y, W),
    "mv": lambda y: torch.mv(y, W[0])[:, None],
    "repeat_interleave": lambda y: y.repeat_interleave(2, 1),
    "tile": lambda y: y.tile(1, 2),
    "unfold": lambda y: y.unfold(1, 3, 2),
    "lerp": lambda y: torch.lerp(y, y.flip(1), 0.3),
    "lerp_by_a_weight": lambda y: torch.lerp(y, y.flip(1), W[0]),
    "diff": lambda y: y.diff(dim=1),
    "addcmul": lambda y: torch.addcmul(y, y, W[0], value=0.5),
    "hstack": lambda y: torch.hstack([y, y.fliplr()]),
    "rot90": lambda y: torch.rot90(y.view(-1, 2, 3), 1, (1, 2)),
    "true_divide": lambda y: torch.true_divide(y, 3).type_as(W),
    "assign": _changed(_assign),
    "assign_slice": _changed(_assign_slice),
    "add_in_place": _changed(_add_in_place),
    "fill": _changed(lambda y: y[:, 2:4].fill_(1.0)),
    "zero": _changed(lambda y: y[:, 2:4].zero_()),
    "copy": _changed(lambda y: y[:, 2:4].copy_(y[:, :2])),
    "full_like": lambda y: y + torch.full_like(y, 0.4) + y.new_full((y.shape[0], 6), 0.1),
    "empty_like": lambda y: y + torch.empty_like(y).fill_(1.0),
}
MAXIMA = {
    "max_along": lambda y: y.view(-1, 2, 3).max(2)[0],
    "max_values": lambda y: y.max(1, keepdim=True).values,
    "topk": lambda y: y.topk(1)[0],
    "min_along": lambda y: y.view(-1, 2, 3).min(2)[0],
    "amin": lambda y: y.view(-1, 2, 3).amin(2),
}
CASES = LINEAR | MAXIMA


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.function = nn.Linear(5, 6).double(), function
        self.b = nn.Linear(function(torch.zeros(1, 6).double()).numel(), 3).double()

    def forward(self, x):
        return F.relu(self.b(self.function(F.relu(self.a(x))).flatten(1)))


@pytest.mark.parametrize("name", CASES)
def test_the_network_is_exact(name):
    model, x = Net(CASES[name]), torch.randn(3, 5, dtype=torch.float64)
    network = tp.capture(model, x)
    torch.testing.assert_close(network(x), model(x))
    kinds = [node.kind for node in network.nodes]
    assert kinds.count("cumulative") == (name in MAXIMA) and kinds.count("site") == 2
    snn = tp.convert(network, tp.calibrate(network, [x]), neuron=tp.Neuron(telescoped=True))
    output = tp.simulate_reference(snn, x, 5).output[-1]
    torch.testing.assert_close(output, tp.quantized_ann(snn, x, 5))


@pytest.mark.parametrize("function", [torch.max, torch.min, torch.fmax])
def test_maxima_of_two_signals_are_functions(function):
    model, x = Net(lambda y: function(y - 0.2, y.flip(1))), torch.randn(3, 5, dtype=torch.float64)
    network = tp.capture(model, x)
    torch.testing.assert_close(network(x), model(x))
    assert "function" in {node.kind for node in network.nodes}


def test_instance_norm_with_tracked_statistics():
    norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.ReLU()).eval()
    x = torch.randn(3, 2, 6, 6)
    torch.testing.assert_close(tp.capture(model, x)(x), model(x), rtol=1e-4, atol=1e-5)
