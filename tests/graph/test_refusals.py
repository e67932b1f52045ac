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


def _bessel(kind=0):
    """Return a module with a function that is not in the table."""
    function = getattr(torch.special, ("i0", "i1", "i0e", "i1e")[kind])
    return nets.Fn(lambda m, x: function(x))


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


# The values are a model, a pattern of its message, and the model after the remedy.
CASES = {
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
    "unknown_function": (
        lambda: _stack(nets.Fn(lambda m, x: torch.special.i0(x))),
        "special_i0",
        lambda: _stack(nn.Identity()),
    ),
    "mask_for_a_layer": (
        lambda: _stack(nets.Fn(lambda m, x: F.relu(x) + m.c((x > 0).to(x.dtype)), c=_conv(4, 4))),
        "batch|number|gt",
        lambda: _stack(nn.ReLU()),
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
    model = nn.Sequential(nn.Linear(4, 4), _bessel(), nn.Linear(4, 4), _bessel(1), nn.ReLU())
    with pytest.raises(tp.UnsupportedError) as caught:
        tp.capture(model, torch.randn(2, 4))
    text = str(caught.value)
    assert "special_i0" in text and "special_i1" in text
    assert [r.place for r in caught.value.refusals] == ["1", "3"]


def test_same_operation_twice_is_named_twice():
    model = nn.Sequential(nn.Linear(4, 4), _bessel(), nn.Linear(4, 4), _bessel(), nn.ReLU())
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
    dropout = nets.Fn(lambda m, x: F.dropout(x, training=True))
    model = nn.Sequential(*(_bessel() for _ in range(12)), nn.ReLU(), dropout, nn.ReLU())
    x = torch.randn(2, 4)
    with pytest.raises(tp.UnsupportedError, match=r"13 refused operations") as caught:
        tp.capture(model, x)
    assert len(caught.value.refusals) == 13
    expected = r"  - aten\.special_i0\.default x12 at '0', '1', '2' and 9 more: this operation .*"
    for text in (str(caught.value), str(tp.inspect(model, x))):
        lines = [line for line in text.splitlines() if line.startswith("  - ")]
        assert len(lines) == 2
        assert re.fullmatch(expected, lines[0])
        assert lines[1].startswith("  - aten.native_dropout.default at '13': ")


def test_refusals_for_one_reason_share_a_line():
    model = nn.Sequential(*(_bessel(kind) for kind in (0, 1, 2, 3, 1)), nn.ReLU())
    with pytest.raises(tp.UnsupportedError) as caught:
        tp.capture(model, torch.randn(2, 4))
    (line,) = str(caught.value).splitlines()[1:]
    assert re.match(
        r"  - aten\.special_i0\.default, aten\.special_i1\.default, "
        r"aten\.special_i0e\.default and 1 more x5 at '0', '1', '2' and 2 more: this operation",
        line,
    )


class Lines(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Linear(3, 3)

    def forward(self, x):
        y = F.relu(self.c(x))
        y = self.c(torch.special.i0(y))
        return F.relu(y.flip(0))


def test_the_place_is_a_line_of_code_where_no_module_has_a_name():
    line = Lines.forward.__code__.co_firstlineno
    with pytest.raises(tp.UnsupportedError) as caught:
        tp.capture(Lines(), torch.randn(2, 3))
    places = [refusal.place for refusal in caught.value.refusals]
    assert places[0] == f"test_refusals.py:{line + 2} in forward"  # special_i0
    assert places[1] == f"test_refusals.py:{line + 3} in forward"  # flip
    assert places[0] in str(caught.value)
    with pytest.raises(tp.UnsupportedError) as caught:
        tp.capture(nn.Sequential(Lines()), torch.randn(2, 3))
    assert {refusal.place for refusal in caught.value.refusals} == {"0"}


def test_the_remedy_for_batch_statistics_says_that_it_changes_the_network():
    with pytest.raises(tp.UnsupportedError, match="this changes its outputs"):
        tp.capture(_stack(nn.BatchNorm2d(4, track_running_stats=False)), torch.randn(2, 2, 8, 8))


UNKNOWN = {
    "lgamma": torch.lgamma,
    "cumulative_sum": lambda x: x.logcumsumexp(1),
    "special": torch.special.i0,
    "fourier": lambda x: torch.fft.fft(x).real,
    "renorm": lambda x: x.renorm(2, 0, 1.0),
    "number": lambda x: x * x.sum().item(),
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("middle", [nn.GELU, nn.ReLU, nn.Sigmoid])
def test_operations_outside_of_the_table_are_refused_in_any_graph(name, middle):
    unknown = nets.Fn(lambda m, x: UNKNOWN[name](x))
    model = nn.Sequential(nn.Linear(4, 4), middle(), unknown, nn.Linear(4, 4), middle())
    with pytest.raises(tp.UnsupportedError) as caught:
        tp.capture(model, torch.rand(2, 4))
    assert caught.value.refusals[0].place == "2"
    assert not tp.inspect(model, torch.rand(2, 4)).convertible
