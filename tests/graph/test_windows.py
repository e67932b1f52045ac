"""Windows of a max-pool that hold padding only are refused at every size."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nets
import transpike as tp

INF = float("inf")


def _net(axes, pool):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    torch.manual_seed(0)
    return nn.Sequential(conv(1, 2, 1), nn.ReLU(), pool, conv(2, 2, 1), nn.ReLU())


def _bordered(widths, pool):
    return nets.Fn(lambda m, x: pool(F.pad(x, widths, value=-INF)))


def _infinite(x):
    return torch.full((x.shape[0], 2, 4), -INF)


REFUSED = {
    "2d": (nn.MaxPool2d(2, 3, 1, dilation=2), (1, 1)),
    "1d": (nn.MaxPool1d(2, 3, 1, dilation=2), (1,)),
    "3d": (nn.MaxPool3d(2, 3, 1, dilation=2), (1, 1, 1)),
    "one_axis": (nn.MaxPool2d((1, 2), 1, (0, 1), dilation=(1, 2)), (4, 1)),
    "a_corner": (nn.MaxPool2d(2, 5, 1, dilation=4), (3, 3)),
    "with_indices": (
        nets.Fn(lambda m, x: F.max_pool2d(x, 2, 3, 1, 2, return_indices=True)[0]),
        (1, 1),
    ),
    "infinite_border": (_bordered((2, 0), nn.MaxPool1d(2)), (4,)),
    "infinite_border_and_padding": (_bordered((0, 0, 0, 1), nn.MaxPool2d(2, 2, 1)), (3, 3)),
    "infinite_constant": (
        nets.Fn(lambda m, x: torch.cat([x, _infinite(x)], 2).unflatten(2, (2, 4)).amax(3)),
        (4,),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_window_without_data_is_refused(name):
    pool, size = REFUSED[name]
    with pytest.raises(tp.UnsupportedError, match="a window holds padding only"):
        tp.capture(_net(len(size), pool), torch.randn(2, 1, *size))


ACCEPTED = {
    "remedy": (nn.MaxPool2d(2, 3, 1), (1, 1)),
    "larger_input": (nn.MaxPool2d(2, 3, 1, dilation=2), (2, 2)),
    "half_a_kernel": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (4, 6)),
    "same_padding": (_bordered((1, 1, 1, 1), nn.MaxPool2d(3, 1)), (4, 4)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_window_with_data_is_exact(name):
    pool, size = ACCEPTED[name]
    x = torch.rand(2, 1, *size, dtype=torch.float64)
    snn = tp.convert(_net(2, pool).double(), [x], neuron=tp.Neuron(telescoped=True))
    output = tp.simulate(snn, x, 5).output
    assert output.isfinite().all()
    torch.testing.assert_close(output[-1], tp.quantized_ann(snn, x, 5))


def test_another_size_with_such_a_window_is_refused():
    network = tp.capture(_net(2, nn.MaxPool2d(2, 4, 1, dilation=2)), torch.randn(2, 1, 9, 9))
    assert network.sizes.vary
    for size in ((1, 1), (1, 9), (9, 1)):
        with pytest.raises(tp.DataError, match="a window would hold padding only|must be"):
            network.at(size)
    for size in ((2, 2), (5, 13), (17, 6)):
        assert network.at(size)(torch.randn(1, 1, *size)).isfinite().all()
