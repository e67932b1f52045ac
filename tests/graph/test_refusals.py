"""Every refusal names the operation, its place and a remedy that works."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nets
import transpike as tp


def _conv(i=2, o=4):
    return nn.Conv2d(i, o, 3, padding=1)


def _stack(middle):
    """Return a network with the module under test in the middle."""
    model = nn.Sequential(_conv(), nn.ReLU())
    model.add_module("middle", middle)
    return model.extend([_conv(4, 4), nn.ReLU(), _conv(4, 2)])


class Gate(nn.Module):
    """A squeeze-and-excitation block; adding the scale in place of multiplying is the remedy."""

    def __init__(self, by):
        super().__init__()
        self.fc = nn.Conv2d(4, 4, 1)
        self.by = by

    def forward(self, x):
        s = self.fc(x.mean((2, 3), keepdim=True))
        return x * torch.sigmoid(s) if self.by == "product" else x + s


def _unpool(m, x):
    y, where = F.max_pool2d(F.relu(m.c(x)), 2, return_indices=True)
    return m.d(F.relu(F.max_unpool2d(y, where, 2)))


def _upsample(m, x):
    y = F.max_pool2d(F.relu(m.c(x)), 2)
    return m.d(F.relu(F.interpolate(y, scale_factor=2)))


def _branch(m, x):
    y = F.relu(m.c(x))
    if y.sum() > 0:
        y = y * 2
    return m.d(y)


def _attention(m, x):
    y = F.relu(m.c(x)).flatten(2)
    return m.d(torch.matmul(y, y.transpose(1, 2)).unsqueeze(1).expand(-1, 4, -1, -1))


# The values are a model, a pattern of its message, and the model after the remedy.
CASES = {
    "gate": (
        lambda: _stack(Gate("product")),
        r"sigmoid|mul",
        lambda: _stack(Gate("sum")),
    ),
    "hardswish": (lambda: _stack(nn.Hardswish()), "hardswish", lambda: _stack(nn.ReLU())),
    "hardsigmoid": (lambda: _stack(nn.Hardsigmoid()), "hardsigmoid", lambda: _stack(nn.ReLU6())),
    "silu": (lambda: _stack(nn.SiLU()), "silu", lambda: _stack(nn.ReLU())),
    "gelu": (lambda: _stack(nn.GELU()), "gelu", lambda: _stack(nn.ReLU6())),
    "leaky_relu": (lambda: _stack(nn.LeakyReLU()), "leaky_relu", lambda: _stack(nn.ReLU())),
    "elu": (lambda: _stack(nn.ELU()), "elu", lambda: _stack(nn.ReLU())),
    "tanh": (lambda: _stack(nn.Tanh()), "tanh", lambda: _stack(nn.ReLU())),
    "signed_hardtanh": (
        lambda: _stack(nn.Hardtanh()),
        "hardtanh",
        lambda: _stack(nn.Hardtanh(0.0, 1.0)),
    ),
    "layer_norm": (
        lambda: _stack(nn.LayerNorm([4, 8, 8])),
        "layer_norm",
        lambda: _stack(nn.BatchNorm2d(4)),
    ),
    "group_norm": (
        lambda: _stack(nn.GroupNorm(2, 4)),
        "group_norm",
        lambda: _stack(nn.BatchNorm2d(4)),
    ),
    "softmax_inside": (
        lambda: _stack(nn.Softmax(1)),
        "softmax",
        lambda: _stack(nn.Identity()).append(nn.Softmax(1)),
    ),
    "sigmoid_inside": (
        lambda: _stack(nn.Sigmoid()),
        "sigmoid",
        lambda: _stack(nn.Identity()).append(nn.Sigmoid()),
    ),
    "two_signal_matmul": (
        lambda: nets.Fn(_attention, c=_conv(), d=_conv(4, 2)),
        "matmul|bmm",
        lambda: nets.Fn(
            lambda m, x: m.d(F.relu(m.e(F.relu(m.c(x))))), c=_conv(), e=_conv(4, 4), d=_conv(4, 2)
        ),
    ),
    "x_times_mask": (
        lambda: _stack(nets.Fn(lambda m, x: x * (x > 0))),
        "gt|mul",
        lambda: _stack(nets.Fn(lambda m, x: torch.relu(x))),
    ),
    "pool_indices": (
        lambda: nets.Fn(_unpool, c=_conv(), d=_conv(4, 2)),
        "indices|unpool",
        lambda: nets.Fn(_upsample, c=_conv(), d=_conv(4, 2)),
    ),
    "no_activation": (
        lambda: nn.Sequential(_conv(), nn.MaxPool2d(2)),
        "activation",
        lambda: nn.Sequential(_conv(), nn.ReLU(), nn.MaxPool2d(2)),
    ),
    "mixes_samples": (
        lambda: _stack(nets.Fn(lambda m, x: x - x.mean(0))),
        "batch|sample",
        lambda: _stack(nn.BatchNorm2d(4)),
    ),
    "view_over_batch": (
        lambda: nets.Fn(
            lambda m, x: m.d(F.relu(m.c(x)).view(2, -1)), c=_conv(), d=nn.Linear(256, 3)
        ),
        "batch",
        lambda: nets.Fn(
            lambda m, x: m.d(F.relu(m.c(x)).flatten(1)), c=_conv(), d=nn.Linear(256, 3)
        ),
    ),
    "data_dependent_branch": (
        lambda: nets.Fn(_branch, c=_conv(), d=_conv(4, 2)),
        "data|branch|control",
        lambda: nets.Fn(lambda m, x: m.d(F.relu(m.c(x)) * 2), c=_conv(), d=_conv(4, 2)),
    ),
    "batch_statistics": (
        lambda: _stack(nn.BatchNorm2d(4, track_running_stats=False)),
        "batch_norm|BatchNorm",
        lambda: _stack(nn.BatchNorm2d(4, track_running_stats=True)),
    ),
    "exp_at_the_end": (
        lambda: _stack(nn.Identity()).append(nets.Fn(lambda m, x: x.exp())),
        "exp",
        lambda: _stack(nn.Identity()),
    ),
    "relu_of_a_shifted_threshold": (
        lambda: _stack(nn.Threshold(0.1, 0.0)),
        "threshold",
        lambda: _stack(nn.ReLU()),
    ),
    "quadratic": (
        lambda: _stack(nets.Fn(lambda m, x: x * x)),
        "mul",
        lambda: _stack(nn.Identity()),
    ),
    "power": (
        lambda: _stack(nets.Fn(lambda m, x: x.pow(2))),
        "pow",
        lambda: _stack(nn.Identity()),
    ),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_refusal_and_its_remedy(case):
    build, match, remedied = CASES[case]
    x = torch.randn(2, 2, 8, 8)
    with pytest.raises(tp.UnsupportedError, match=f"(?i){match}") as caught:
        tp.capture(build().eval(), x)
    assert caught.value.refusals
    for refusal in caught.value.refusals:
        assert len(str(refusal.remedy)) > 10
        assert refusal.op in str(caught.value)
    model = nets.settle_batchnorm(remedied(), torch.randn(8, 2, 8, 8))
    snn = tp.convert(model, [torch.randn(4, 2, 8, 8)])
    assert bool(tp.simulate(snn, x, 3).output.isfinite().all())


@pytest.mark.parametrize("case", sorted(CASES))
def test_one_liner_and_inspect_refuse_alike(case):
    build, match, _ = CASES[case]
    with pytest.raises(tp.UnsupportedError, match=f"(?i){match}"):
        tp.convert(build().eval(), [torch.randn(2, 2, 8, 8)])
    report = tp.inspect(build().eval(), torch.randn(2, 2, 8, 8))
    assert not report.convertible and report.refusals


def test_all_refusals_come_at_once_with_their_places():
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.SiLU(), nn.ReLU())
    with pytest.raises(tp.UnsupportedError) as caught:
        tp.capture(model, torch.randn(2, 4))
    text = str(caught.value)
    assert "gelu" in text and "silu" in text
    assert [r.place for r in caught.value.refusals] == ["1", "3"]


def test_same_operation_twice_is_named_twice():
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.GELU(), nn.ReLU())
    with pytest.raises(tp.UnsupportedError) as caught:
        tp.capture(model, torch.randn(2, 4))
    assert len(caught.value.refusals) == 2


def test_training_mode_batchnorm_is_not_a_reason_to_refuse():
    """The model is captured in evaluation mode and handed back in training mode."""
    model = nn.Sequential(_conv(), nn.BatchNorm2d(4), nn.ReLU()).train()
    tp.capture(model, torch.randn(2, 2, 8, 8))
    assert model.training


def test_shape_branch_on_the_batch_size_is_not_passed_silently():
    model = nets.Fn(
        lambda m, x: F.relu(m.c(x)) * (2.0 if x.shape[0] > 1 else 1.0), c=nn.Linear(3, 3)
    )
    with pytest.raises(tp.UnsupportedError, match="(?i)batch"):
        tp.capture(model, torch.randn(4, 3))


def test_equal_refusals_share_one_line_in_the_error_and_the_report():
    model = nn.Sequential(*(nn.GELU() for _ in range(12)), nn.ReLU(), nn.Sigmoid(), nn.ReLU())
    x = torch.randn(2, 4)
    with pytest.raises(tp.UnsupportedError, match=r"13 refused operations") as caught:
        tp.capture(model, x)
    assert len(caught.value.refusals) == 13
    expected = r"  - aten\.gelu\.default x12 at '0', '1', '2' and 9 more: this activation .*"
    for text in (str(caught.value), str(tp.inspect(model, x))):
        lines = [line for line in text.splitlines() if line.startswith("  - ")]
        assert len(lines) == 2
        assert re.fullmatch(expected, lines[0])
        assert lines[1].startswith("  - aten.sigmoid.default at '13': ")


def test_refusals_for_one_reason_share_a_line():
    model = nn.Sequential(nn.GELU(), nn.SiLU(), nn.Tanh(), nn.ELU(), nn.SiLU(), nn.ReLU())
    with pytest.raises(tp.UnsupportedError) as caught:
        tp.capture(model, torch.randn(2, 4))
    (line,) = str(caught.value).splitlines()[1:]
    assert re.match(
        r"  - aten\.gelu\.default, aten\.silu\.default, aten\.tanh\.default and 1 more x5 at "
        r"'0', '1', '2' and 2 more: this activation",
        line,
    )


class Lines(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Linear(3, 3)

    def forward(self, x):
        y = F.relu(self.c(x))
        y = self.c(F.gelu(y))
        return F.relu(y.flip(0))


def test_the_place_is_a_line_of_code_where_no_module_has_a_name():
    line = Lines.forward.__code__.co_firstlineno
    with pytest.raises(tp.UnsupportedError) as caught:
        tp.capture(Lines(), torch.randn(2, 3))
    places = [refusal.place for refusal in caught.value.refusals]
    assert places[0] == f"test_refusals.py:{line + 2} in forward"  # gelu
    assert places[1] == f"test_refusals.py:{line + 3} in forward"  # flip
    assert places[0] in str(caught.value)
    with pytest.raises(tp.UnsupportedError) as caught:
        tp.capture(nn.Sequential(Lines()), torch.randn(2, 3))
    assert {refusal.place for refusal in caught.value.refusals} == {"0"}


def test_the_remedy_for_batch_statistics_says_that_it_changes_the_network():
    with pytest.raises(tp.UnsupportedError, match="this changes its outputs"):
        tp.capture(_stack(nn.BatchNorm2d(4, track_running_stats=False)), torch.randn(2, 2, 8, 8))


def test_attention_is_refused_in_few_lines():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            y = F.relu(self.a(x))
            return F.relu(self.b(y, y, y, need_weights=False)[0])

    with pytest.raises(tp.UnsupportedError) as caught:
        tp.capture(Attention(), torch.randn(2, 5, 8))
    assert len(str(caught.value).splitlines()) <= 6
