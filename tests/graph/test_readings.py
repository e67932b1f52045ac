"""Numbers that forward() reads from weights alone are known at capture."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transpike as tp


class Net(nn.Module):
    """A linear layer and a ReLU, and a function of (module, activation, input) behind them."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(5, 6)
        self.register_buffer("k", torch.tensor(3))
        self.register_buffer("w", torch.tensor([0.1, 0.7, 0.2, 0.3, 0.5, 0.6]))
        self.register_buffer("sizes", torch.tensor([1, 2, 3]))
        self.function = function

    def forward(self, x):
        return self.function(self, F.relu(self.a(x)), x)


def _branches(s, y, x):
    if (s.w > 0.65).any() and not s.k == 4:
        y = y * 2
    return y


def _copies(s, y, x):
    copied = s.w.clone()
    copied[0] = copied[1].item()
    copied.mul_(s.k)
    return y * copied.max().item()


KNOWN = {
    "item": lambda s, y, x: y * s.k.item() + s.w[1].item(),
    "item_of_a_weight": lambda s, y, x: y * s.a.weight[0, 0].item(),
    "argmax": lambda s, y, x: y * s.w[s.w.argmax()],
    "argmax_as_a_number": lambda s, y, x: y[:, int(s.w.argmax()) :],
    "pad": lambda s, y, x: F.pad(y, (0, s.k.item())),
    "roll": lambda s, y, x: torch.roll(y, s.k.item(), 1),
    "view": lambda s, y, x: y.view(-1, s.k, 2).flatten(1),
    "full": lambda s, y, x: y + torch.full((6,), s.w[1].item()),
    "tolist": lambda s, y, x: y * max(s.w.tolist()),
    "split": lambda s, y, x: torch.cat(torch.split(y, s.sizes.tolist(), 1)[::-1], 1),
    "range": lambda s, y, x: sum(y * i for i in range(s.k)),
    "float": lambda s, y, x: y * float(s.w[1]),
    "int": lambda s, y, x: y[:, : int(s.k)] * s.w[: s.k.item()],
    "bool": lambda s, y, x: y * 2 if bool(s.k > 2) else y,
    "branches": _branches,
    "equal": lambda s, y, x: y * (1 if torch.equal(s.w, s.w) and s.w[0] in s.w else 2),
    "format": lambda s, y, x: y * float(f"{s.w[1]:.3f}"),
    "numpy": lambda s, y, x: y * float(s.w.numpy()[1]),
    "nonzero": lambda s, y, x: y[:, (s.w > 0.3).nonzero().squeeze(1)],
    "where": lambda s, y, x: y[:, torch.where(s.w > 0.3)[0]],
    "mask": lambda s, y, x: y[:, s.w > 0.3],
    "mask_of_a_mask": lambda s, y, x: y[:, :3] * s.w[s.w > 0.3],
    "index": lambda s, y, x: y[:, s.k, None] * s.w,
    "slice": lambda s, y, x: y[:, : s.k],
    "masked_select": lambda s, y, x: y[:, :4] * torch.masked_select(s.w, s.w > 0.25),
    "in_place_on_a_copy": _copies,
    "reshape_of_a_constant": lambda s, y, x: y * s.w.reshape(s.k.item(), 2).flatten(),
}


@pytest.mark.parametrize("name", KNOWN)
def test_values_of_weights_are_known(name):
    x = torch.randn(4, 5)
    model = Net(KNOWN[name])
    network = tp.capture(model, x)
    for batch in (x, x[:1]):
        torch.testing.assert_close(network(batch), model(batch))


UNKNOWN = {
    "item": lambda s, y, x: y * x.sum().item(),
    "branch": lambda s, y, x: y * 2 if x.sum() > 0 else y,
    "mixed": lambda s, y, x: y * (x[0, 0] * s.w[0]).item(),
    "in_place": lambda s, y, x: y * s.w.clone().add_(x[0, 0])[0].item(),
    "through_a_view": lambda s, y, x: y * _written_through_a_view(s.w.clone(), x)[0].item(),
    "batch_size": lambda s, y, x: y * torch.ones(len(x)).sum().item(),
    "mask": lambda s, y, x: y[:, y[0] > 0].sum(1, keepdim=True),
}


def _written_through_a_view(copied, x):
    copied[:2].copy_(x[0, :2])
    return copied


@pytest.mark.parametrize("name", UNKNOWN)
def test_values_of_the_input_are_not(name):
    with pytest.raises(tp.UnsupportedError):
        tp.capture(Net(UNKNOWN[name]), torch.randn(4, 5))
