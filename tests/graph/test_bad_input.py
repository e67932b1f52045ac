"""Bad input gives an error that names what was needed and what was given."""

import pytest
import torch
from torch import nn

import nets
import transpike as tp


@pytest.fixture(scope="module")
def snn():
    torch.manual_seed(0)
    return tp.convert(nets.conv_net(), [torch.randn(4, 2, 8, 8)])


BOTH = pytest.mark.parametrize("simulate", [tp.simulate, tp.simulate_reference])


@BOTH
@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 2, 8, 9), (3, 1, 8, 8), (1, 3, 2, 8, 8)])
def test_wrong_shape(snn, simulate, shape):
    with pytest.raises(tp.DataError, match=r"\(2, 8, 8\)"):
        simulate(snn, torch.randn(*shape), 2)


@BOTH
def test_time_axis_without_time(snn, simulate):
    with pytest.raises(tp.DataError, match=r"\(T, B, ...\)"):
        simulate(snn, torch.randn(3, 2, 8, 8), 3, time_axis=True)


@BOTH
def test_empty_batch(snn, simulate):
    with pytest.raises(tp.DataError, match="empty"):
        simulate(snn, torch.randn(0, 2, 8, 8), 2)


@BOTH
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_or_infinite_data(snn, simulate, bad):
    x = torch.randn(2, 2, 8, 8)
    x[1, 0, 3, 3] = bad
    with pytest.raises(tp.DataError, match="NaN or inf"):
        simulate(snn, x, 2)


@BOTH
@pytest.mark.parametrize("bad", [0, -3, 1.5, "4", True, None])
def test_timesteps(snn, simulate, bad):
    with pytest.raises(tp.ArgumentError, match="timesteps"):
        simulate(snn, torch.randn(2, 2, 8, 8), bad)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8, torch.float16])
def test_dtype_mismatch(snn, simulate, dtype):
    with pytest.raises(tp.DataError, match=r"torch\.float32"):
        simulate(snn, torch.zeros(2, 2, 8, 8, dtype=dtype), 2)


def test_dtype_remedy_works(snn):
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    assert tp.simulate(snn, x.to(torch.float32), 2).output.dtype == torch.float32


@BOTH
def test_device_mismatch(snn, simulate):
    with pytest.raises(tp.DataError, match="meta"):
        simulate(snn, torch.zeros(2, 2, 8, 8, device="meta"), 2)


@BOTH
@pytest.mark.parametrize("bad", [None, [1.0], "x"])
def test_not_a_tensor(snn, simulate, bad):
    with pytest.raises(tp.DataError, match="tensor"):
        simulate(snn, bad, 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_or_infinite_weights(bad):
    model = nets.conv_net()
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = bad
    with pytest.raises(tp.DataError, match=r"(?i)(3\.weight.*(nan|inf)|(nan|inf).*3\.weight)"):
        tp.capture(model, torch.randn(2, 2, 8, 8))


def test_nan_in_batchnorm_statistics():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU()).eval()
    model[1].running_mean[0] = float("nan")
    with pytest.raises(tp.DataError, match="(?i)nan"):
        tp.capture(model, torch.randn(2, 2, 4, 4))


def test_example_of_the_wrong_shape():
    with pytest.raises(tp.TranspikeError):
        tp.capture(nets.conv_net(), torch.randn(2, 3, 8, 8))


def test_example_is_not_a_tensor():
    with pytest.raises(tp.TranspikeError, match="(?i)tensor"):
        tp.capture(nets.conv_net(), [1, 2])


def test_model_is_not_a_module():
    with pytest.raises(tp.TranspikeError, match="Module"):
        tp.capture(lambda x: x, torch.randn(2, 3))


def test_example_of_another_dtype():
    with pytest.raises(tp.TranspikeError, match=r"float64|dtype"):
        tp.capture(nets.conv_net(), torch.randn(2, 2, 8, 8, dtype=torch.float64))


@pytest.fixture(scope="module")
def network():
    return tp.capture(nets.conv_net(), torch.randn(2, 2, 8, 8))


class TestCalibration:
    """Calibration sets that are refused, and a tensor, which is one batch."""

    @pytest.mark.parametrize("batches", [[], (), iter(())])
    def test_empty(self, network, batches):
        with pytest.raises(tp.DataError, match="empty|at least one"):
            tp.calibrate(network, batches)

    def test_empty_in_the_one_liner(self):
        with pytest.raises(tp.DataError, match="empty|at least one"):
            tp.convert(nets.conv_net(), [])

    def test_nan(self, network):
        with pytest.raises(tp.DataError, match="NaN"):
            tp.calibrate(network, [torch.full((2, 2, 8, 8), float("nan"))])

    def test_wrong_shape(self, network):
        with pytest.raises(tp.DataError, match=r"\(2, 8, 8\)"):
            tp.calibrate(network, [torch.randn(2, 2, 9, 9)])

    def test_wrong_dtype(self, network):
        with pytest.raises(tp.DataError, match="dtype"):
            tp.calibrate(network, [torch.randn(2, 2, 8, 8).double()])

    def test_a_tensor_is_one_batch(self, network):
        assert tp.calibrate(network, torch.randn(4, 2, 8, 8)).n == 4

    def test_not_iterable(self, network):
        with pytest.raises(tp.TranspikeError):
            tp.calibrate(network, 3)

    def test_not_a_tensor(self, network):
        with pytest.raises(tp.DataError, match="tensor"):
            tp.calibrate(network, ["a"])


@pytest.mark.parametrize(
    ("key", "value"),
    [("neuron", "if"), ("threshold", 99.9), ("threshold", "max")],
)
def test_settings_of_the_wrong_kind(key, value):
    network, calibration = nets.captured("linear", torch.float32)
    with pytest.raises(tp.ArgumentError, match=key):
        tp.convert(network, calibration, **{key: value})


def test_evaluate_timesteps(snn):
    with pytest.raises(tp.ArgumentError, match="timesteps"):
        tp.evaluate(snn, [(torch.randn(2, 2, 8, 8), torch.zeros(2).long())], timesteps=0)


def test_evaluate_labels_of_another_length(snn):
    with pytest.raises(tp.DataError, match="3 inputs but 2"):
        tp.evaluate(snn, [(torch.randn(3, 2, 8, 8), torch.zeros(2).long())], timesteps=2)


def test_bad_input_leaves_nothing_behind(snn):
    x = torch.randn(2, 2, 8, 8)
    before = tp.simulate(snn, x, 3)
    with pytest.raises(tp.DataError):
        tp.simulate(snn, x[:, :1], 3)
    nets.same_simulation(before, tp.simulate(snn, x, 3))
