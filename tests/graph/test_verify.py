"""Models that do not keep the batch axis for one sample are refused with a remedy."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transpike as tp


class Net(nn.Module):
    """Layers for vectors and images, and a function of (module, input)."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 1), nn.Linear(4, 3)
        self.conv = nn.Conv2d(2, 4, 3)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def _pooled(s, x):
    return F.adaptive_avg_pool2d(F.relu(s.conv(x)), 1)


def _fails(s, x):
    return F.relu(s.a(x)).unsqueeze(1).squeeze().mean(1, keepdim=True)


# The function, the function after the remedy, and the shape of the input.
CASES = {
    "scores": (lambda s, x: s.b(F.relu(s.a(x))).squeeze(),
               lambda s, x: s.b(F.relu(s.a(x))).squeeze(1), (3, 5)),
    "in_a_dict": (lambda s, x: {"y": s.b(F.relu(s.a(x))).squeeze()},
                  lambda s, x: {"y": s.b(F.relu(s.a(x))).squeeze(1)}, (3, 5)),
    "one_of_two": (lambda s, x: (F.relu(s.a(x)), s.b(F.relu(s.a(x))).squeeze()),
                   lambda s, x: (F.relu(s.a(x)), s.b(F.relu(s.a(x))).squeeze(1)), (3, 5)),
    "fails": (_fails,
              lambda s, x: F.relu(s.a(x)).unsqueeze(1).squeeze(1).mean(1, keepdim=True), (3, 5)),
    "features": (lambda s, x: _pooled(s, x).squeeze(),
                 lambda s, x: _pooled(s, x).flatten(1), (3, 2, 5, 5)),
    "classifier": (lambda s, x: s.c(_pooled(s, x).squeeze()),
                   lambda s, x: s.c(_pooled(s, x).flatten(1)), (3, 2, 5, 5)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_model_that_loses_the_batch_and_the_remedy(name):
    function, remedied, shape = CASES[name]
    x = torch.randn(*shape)
    with pytest.raises(
        tp.UnsupportedError, match=r"batch of one.* Use flatten\(1\) or squeeze\(1\)"
    ):
        tp.capture(Net(function), x)
    tp.capture(Net(remedied), x)


def test_a_model_that_fails_for_one_sample_names_the_line():
    with pytest.raises(tp.UnsupportedError, match=r"test_verify\.py:\d+ in _fails.*IndexError"):
        tp.capture(Net(_fails), torch.randn(3, 5))


def test_squeeze_that_is_undone_is_accepted():
    model = Net(lambda s, x: s.c(_pooled(s, x).squeeze().view(x.shape[0], -1)))
    x = torch.randn(3, 2, 5, 5)
    torch.testing.assert_close(tp.capture(model, x)(x[:1]), model(x[:1]))
