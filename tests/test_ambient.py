"""Settings of PyTorch that the caller has made do not change a number."""

from contextlib import contextmanager

import pytest
import torch

import nets
import transpike as tp
from transpike.measure.sums import ordered_sum

T = 5


@contextmanager
def _default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _matrix_products(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


AMBIENT = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64 by default": lambda: _default_dtype(torch.float64),
    "bfloat16 by default": lambda: _default_dtype(torch.bfloat16),
    "meta by default": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "gradients off": torch.no_grad,
    "gradients on": torch.enable_grad,
    "deterministic": _deterministic,
    "short products": lambda: _matrix_products("medium"),
}


@pytest.fixture(scope="module")
def setting():
    torch.manual_seed(0)
    model = nets.conv_net().eval()
    batches = [(torch.randn(8, 2, 8, 8), torch.arange(8) % 3) for _ in range(8)]
    snn = tp.convert(model, batches, neuron=tp.Signed(2))
    return model, batches, snn


DENSE = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.ReLU())
IMAGE = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
DENSE_SNN = tp.convert(DENSE, [IMAGE])


def _calibration(model, batches, snn):
    found = tp.calibrate(snn.network, batches)
    return [h.counts for h in found.histograms.values()] + [m.sums for m in found.moments.values()]


# Each entry returns what one public function computes, as tensors or as text.
ENTRY_POINTS = {
    "simulate": lambda m, b, s: tp.simulate(s, b[0][0], T).output,
    "simulate_reference": lambda m, b, s: tp.simulate_reference(s, b[0][0], T).output,
    "simulate_tiled": lambda m, b, s: torch.as_tensor(
        tp.simulate_tiled(DENSE_SNN, IMAGE[0].numpy(), T).output, device="cpu"
    ),
    "quantized_ann": lambda m, b, s: tp.quantized_ann(s, b[0][0], T),
    "network": lambda m, b, s: s.network(b[0][0]),
    "capture": lambda m, b, s: list(tp.capture(m, b[0][0]).tensors.values()),
    "inspect": lambda m, b, s: str(tp.inspect(m, b[0][0])),
    "calibrate": _calibration,
    "convert": lambda m, b, s: list(
        tp.convert(m, b, timesteps=T, passes=[tp.BiasCorrection()]).state_dict().values()
    ),
    "evaluate": lambda m, b, s: str(tp.evaluate(s, b, T)),
    "diagnose": lambda m, b, s: str(tp.diagnose(s, b, T)),
    "measure_cost": lambda m, b, s: str(tp.measure_cost(s, b, T)),
    "fit_early_stopping": lambda m, b, s: str(tp.fit_early_stopping(s, b, T)),
    "compare": lambda m, b, s: str(
        tp.compare(m, b, b, {"r": tp.Recipe(T, tp.Signed(1), tp.Percentile())})
    ),
}


@pytest.fixture(scope="module")
def expected(setting):
    return {name: function(*setting) for name, function in ENTRY_POINTS.items()}


@pytest.mark.parametrize("ambient", AMBIENT)
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_ambient_settings_change_nothing(name, ambient, setting, expected):
    with AMBIENT[ambient]():
        found = ENTRY_POINTS[name](*setting)
        kept = torch.get_default_dtype(), torch.get_float32_matmul_precision()
        assert kept == _settings(ambient)
    _equal(found, expected[name])


def _settings(ambient):
    """Return what the caller has set, which must still be set after a call."""
    with AMBIENT[ambient]():
        return torch.get_default_dtype(), torch.get_float32_matmul_precision()


def _equal(found, expected):
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _equal(one, other)
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and found.device == expected.device
        assert torch.equal(found, expected)
    else:
        assert found == expected


@contextmanager
def _threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["float64", "dyadic"])
def large(request):
    """A network and inputs that are so large that PyTorch splits the work among threads.

    Sums of dyadic numbers do not round in float32. Others are computed in float64 here.
    """
    torch.manual_seed(0)
    dyadic = request.param == "dyadic"
    dtype = torch.float32 if dyadic else torch.float64
    layers = (nets.conv(2, 8), torch.nn.ReLU(), nets.conv(8, 4), torch.nn.ReLU())
    head = (torch.nn.AvgPool2d(16), torch.nn.Flatten(), torch.nn.Linear(16, 3))
    model = torch.nn.Sequential(*layers, *head).to(dtype).eval()
    if dyadic:
        nets.make_dyadic(model, 2)
    inputs = [nets.dyadic_input(n, 2, 32, 32, bits=2, dtype=dtype) for n in (3, 5)]
    batches = [(x if dyadic else x * 1.1, torch.arange(len(x)) % 3) for x in inputs]
    snn = tp.convert(model, batches, neuron=tp.Signed(2))
    return model, batches, nets.make_steps_dyadic(snn) if dyadic else snn


# The other entry points only look at the graph, or call several of these.
THREADED = ("simulate", "simulate_reference", "quantized_ann", "network", "calibrate", "convert")
THREADED += ("evaluate", "diagnose", "measure_cost")
# Text rounds numbers, and a sum in another order moves the last digit only.
IN_FULL = {
    "evaluate": lambda m, b, s: str(vars(tp.evaluate(s, b, T))),
    "diagnose": lambda m, b, s: str(vars(tp.diagnose(s, b, T))),
}


@pytest.mark.parametrize("name", THREADED)
def test_the_number_of_threads_changes_nothing(name, large):
    function = (ENTRY_POINTS | IN_FULL)[name]
    with _threads(1):
        one = function(*large)
    with _threads(2):
        _equal(function(*large), one)


def test_long_sums_do_not_depend_on_the_number_of_threads():
    values = torch.randn(1_000_003, dtype=torch.float64)
    with _threads(1):
        one = ordered_sum(values)
    with _threads(2):
        assert ordered_sum(values) == one
    assert one == pytest.approx(float(values.sum()), abs=1e-6)
