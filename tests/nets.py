"""Small networks and helpers used across the tests."""

import functools
import hashlib

import torch
import torch.nn.functional as F
from torch import nn

import transpike as tp
from transpike.simulation.engine.scan import Chunk, Constants, Population, scan


class Fn(nn.Module):
    """A module that computes a plain function of (module, x); the parts are its attributes."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


class OneSite(nn.Module):
    """A module with one site and nothing else, so that a test controls the current."""

    def __init__(self, activation=None):
        super().__init__()
        self.act = activation or nn.ReLU()
        self.register_buffer("one", torch.ones(1))

    def forward(self, x):
        return self.act(x * self.one)


def conv_net():
    """Return a small classifier with two convolutions, a max-pool and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 2 * 2, 5),
    )


CONV_NET_INPUT = (2, 8, 8)


def _split(m, x):
    a, b = torch.split(F.relu(m.c(x)), 2, dim=1)
    return m.d(F.relu(m.e(torch.cat([b, a], 1))))


def _chunk(m, x):
    a, b = F.relu(m.c(x)).chunk(2, dim=1)
    return m.d(F.relu(a - b))


def _sub(m, x):
    return F.relu(m.d(F.relu(m.c(x)) - 0.5 * F.relu(m.e(x))))


def _branches(m, x):
    """Compute two branches of the same depth whose sum is the current of a site."""
    x = m.a(x).relu()
    return F.relu(m.d(m.c(x).relu()) + m.f(m.e(x).relu()))


def _shuffle(m, x):
    x = F.relu(m.c(x))
    b, c, h, w = x.shape
    x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
    return m.d(x).relu().mean([2, 3])


def _unet(m, x):
    a = F.relu(m.c(x))
    b = F.relu(m.e(F.max_pool2d(a, 2)))
    up = F.interpolate(b, scale_factor=2, mode="nearest")
    return m.d(F.relu(m.f(torch.cat([a, up], 1))))


def _bilinear(m, x):
    a = F.relu(m.c(x))
    return m.d(F.relu(m.e(F.interpolate(a, size=(9, 11), mode="bilinear", align_corners=False))))


def _pad_slice(m, x):
    a = F.pad(F.relu(m.c(x)), (1, 2, 0, 1))
    return m.d(F.relu(m.e(a[:, :, ::2, 1:])))


def _permute(m, x):
    a = F.relu(m.c(x)).permute(0, 2, 3, 1)
    return F.relu(m.d(a)).mean(dim=(1, 2))


def _reused(m, x):
    return m.act(m.c(m.act(m.c(m.act(x)))))


def _inplace(m, x):
    y = m.c(x)
    y.relu_()
    y += m.e(x)
    return m.d(F.relu(y, inplace=True))


def conv(i=2, o=4, k=3, **kw):
    return nn.Conv2d(i, o, k, padding=kw.pop("padding", 1), **kw)


def pooled_residual():
    """Return a residual network with max-pooling and 32 channels, for inputs (B, 2, H, W)."""

    def forward(m, x):
        a = F.max_pool2d(F.relu(m.c(x)), 2)
        a = F.relu(m.e(F.relu(m.f(a))) + a)
        return m.d(a).mean([2, 3])

    return Fn(forward, c=conv(2, 32), d=conv(32, 8), e=conv(32, 32), f=conv(32, 32))


IMAGE = (2, 8, 8)

NETS = {
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, dilation=2),
            nn.BatchNorm1d(4),
            nn.ReLU(),
            nn.MaxPool1d(3, 2, 1),
            nn.Conv1d(4, 3, 2),
            nn.ReLU(),
        ),
        (2, 15),
    ),
    "conv2d": (conv_net, IMAGE),
    "conv3d": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 3, 3, padding=1),
            nn.BatchNorm3d(3),
            nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Conv3d(3, 2, 2),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
        ),
        (1, 6, 6, 6),
    ),
    "grouped": (
        lambda: nn.Sequential(
            conv(2, 4),
            nn.ReLU(),
            conv(4, 8, groups=2),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            conv(8, 8, groups=8),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 3, 1),
        ),
        IMAGE,
    ),
    "dilated": (
        lambda: nn.Sequential(
            conv(2, 4, dilation=2, padding=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 3, 3, padding="same", dilation=2),
            nn.ReLU(),
        ),
        IMAGE,
    ),
    "transposed": (
        lambda: nn.Sequential(
            conv(),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 2, 1),
        ),
        IMAGE,
    ),
    "linear": (
        lambda: nn.Sequential(
            nn.Linear(7, 12),
            nn.BatchNorm1d(12),
            nn.ReLU(),
            nn.Linear(12, 9),
            nn.ReLU(),
            nn.Linear(9, 4),
        ),
        (7,),
    ),
    "batchnorm_kept": (
        lambda: nn.Sequential(conv(), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 3)),
        IMAGE,
    ),
    "residual": (
        lambda: Fn(
            lambda m, x: F.relu(m.b(m.c(x).relu()) + m.e(x)),
            c=conv(),
            e=conv(),
            b=nn.Sequential(conv(4, 4), nn.BatchNorm2d(4)),
        ),
        IMAGE,
    ),
    "branches": (
        lambda: Fn(_branches, a=conv(), c=conv(4, 4), e=conv(4, 4), d=conv(4, 3), f=conv(4, 3)),
        IMAGE,
    ),
    "sub": (lambda: Fn(_sub, c=conv(), e=conv(), d=conv(4, 4)), IMAGE),
    "split": (lambda: Fn(_split, c=conv(), e=conv(4, 4), d=conv(4, 2)), IMAGE),
    "chunk": (lambda: Fn(_chunk, c=conv(), d=conv(2, 2)), IMAGE),
    "shuffle": (lambda: Fn(_shuffle, c=conv(), d=conv(4, 4)), IMAGE),
    "unet": (lambda: Fn(_unet, c=conv(), e=conv(4, 4), f=conv(8, 4), d=conv(4, 1)), IMAGE),
    "bilinear": (lambda: Fn(_bilinear, c=conv(), e=conv(4, 3), d=conv(3, 1)), IMAGE),
    "pad_slice": (lambda: Fn(_pad_slice, c=conv(), e=conv(4, 3), d=conv(3, 1)), IMAGE),
    "permute": (lambda: Fn(_permute, c=conv(), d=nn.Linear(4, 6)), IMAGE),
    "average": (
        lambda: nn.Sequential(
            conv(),
            nn.ReLU(),
            nn.AvgPool2d(3, 2, 1),
            conv(4, 5),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((2, 3)),
            nn.Flatten(),
            nn.Linear(30, 3),
        ),
        IMAGE,
    ),
    "adaptive_max": (
        lambda: nn.Sequential(
            conv(), nn.ReLU(), nn.AdaptiveMaxPool2d((3, 2)), conv(4, 3), nn.ReLU()
        ),
        IMAGE,
    ),
    "max_pool_odd": (
        lambda: nn.Sequential(
            conv(),
            nn.ReLU(),
            nn.MaxPool2d((3, 2), (2, 1), 1, 2, ceil_mode=True),
            conv(4, 3),
            nn.ReLU(),
        ),
        (2, 9, 7),
    ),
    "max_pool_signed": (
        lambda: nn.Sequential(
            conv(), nn.ReLU(), conv(4, 4), nn.MaxPool2d(3, 2, 1), nn.ReLU(), conv(4, 2)
        ),
        IMAGE,
    ),
    "relu6": (
        lambda: nn.Sequential(conv(), nn.ReLU6(), conv(4, 4), nn.Hardtanh(0.0, 0.75), conv(4, 2)),
        IMAGE,
    ),
    "clamp": (
        lambda: Fn(lambda m, x: m.d(m.c(x).clamp(min=0)).clamp(0, 0.5), c=conv(), d=conv(4, 3)),
        IMAGE,
    ),
    "reused": (lambda: Fn(_reused, act=nn.ReLU(), c=conv(2, 2)), IMAGE),
    "inplace": (lambda: Fn(_inplace, c=conv(), e=conv(), d=conv(4, 2)), IMAGE),
    "dropout": (
        lambda: nn.Sequential(
            conv(), nn.ReLU(), nn.Dropout2d(), conv(4, 2), nn.ReLU(), nn.Dropout()
        ),
        IMAGE,
    ),
    "sigmoid_head": (
        lambda: nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Sigmoid()),
        IMAGE,
    ),
    "dict_head": (
        lambda: Fn(
            lambda m, x: {"a": m.c(x).relu(), "b": (m.d(m.c(x).relu()), m.e(x))},
            c=conv(),
            d=conv(4, 1),
            e=conv(2, 3),
        ),
        IMAGE,
    ),
}


def settle_batchnorm(model, x):
    """Set BatchNorm statistics by one pass of x, and make zero-initialized weights nonzero."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        if norm.weight is not None and not norm.weight.detach().abs().sum():
            nn.init.uniform_(norm.weight, 0.5, 1.0)
    model.train()
    with torch.no_grad():
        model(x)
    return model.eval()


def build(name, dtype=torch.float64, seed=0):
    """Return a network of NETS in evaluation mode, with settled BatchNorm statistics."""
    torch.manual_seed(seed)
    factory, shape = NETS[name]
    model = factory()
    settle_batchnorm(model, torch.randn(16, *shape))
    return model.to(dtype).eval()


@functools.cache
def captured(name, dtype=torch.float64, seed=0, tail=()):
    """Return (network, calibration) of a network of NETS followed by the modules of `tail`.

    The result is cached, because capture is slow.
    """
    model = build(name, dtype, seed)
    if tail:
        model = nn.Sequential(model, *tail)
    shape = NETS[name][1]
    network = tp.capture(model, torch.randn(2, *shape, dtype=dtype))
    torch.manual_seed(seed + 1)
    return network, tp.calibrate(network, [torch.randn(8, *shape, dtype=dtype)])


@functools.cache
def deep(seed=0):
    """Return (network, calibration, inputs) of twelve random layers of ReLU6."""
    torch.manual_seed(seed)
    layers = []
    for depth in range(12):
        layers += [conv(2 if depth == 0 else 8, 8), nn.BatchNorm2d(8), nn.ReLU6()]
    x = torch.randn(4, 2, 8, 8)
    model = settle_batchnorm(nn.Sequential(*layers, nn.Conv2d(8, 4, 1)), x)
    x = x.double()
    network = tp.capture(model.double(), x)
    return network, tp.calibrate(network, [x]), x


def one_site(theta, activation=None, dtype=torch.float64):
    """Return (network, calibration) of one site whose maximum in each channel is theta."""
    theta = torch.as_tensor(theta, dtype=dtype)
    network = tp.capture(OneSite(activation).to(dtype), torch.zeros(2, len(theta), dtype=dtype))
    return network, tp.calibrate(network, [torch.stack([theta, theta / 2])])


def make_dyadic(model, bits=3):
    """Round every weight to a multiple of 2^-bits, so that float32 sums are exact."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((p * 2**bits).round() / 2**bits)
    return model


def make_steps_dyadic(snn):
    """Round every step to a power of two, in place."""
    with torch.no_grad():
        for step in snn.steps.values():
            step.copy_(2.0 ** torch.log2(step).round())
    return snn


def dyadic_input(*shape, bits=4, dtype=torch.float32):
    """Return random multiples of 2^-bits."""
    return (torch.randn(*shape) * 2**bits).round().to(dtype) / 2**bits


def dyadic_snn(model, shape, neuron, dtype=torch.float32):
    """Convert a network so that every sum is exact in float32."""
    model = make_dyadic(model.to(dtype).eval())
    network = tp.capture(model, dyadic_input(2, *shape, dtype=dtype))
    calibration = tp.calibrate(network, [dyadic_input(8, *shape, dtype=dtype)])
    return make_steps_dyadic(tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs()))


def small_bounded():
    """Return a network with a ReLU6 before a max-pool, for inputs (B, 2, H, W)."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU6(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 3)
    )


SMALL = {"conv": conv_net, "pooled": pooled_residual, "bounded": small_bounded}


def corrected_dyadic_snn(kind, neuron):
    """Return (spiking network of SMALL with offsets and starts, inputs), with exact sums."""
    torch.manual_seed(3)
    x = dyadic_input(3, 2, 8, 8, dtype=torch.float64)
    snn = dyadic_snn(SMALL[kind](), (2, 8, 8), neuron, torch.float64)
    offsets = {name: torch.full_like(step, 0.125) for name, step in snn.steps.items()}
    starts = {name: torch.full_like(step, 0.75) for name, step in snn.steps.items()}
    return snn.changed(offsets=offsets, starts=starts), x


def scanned(neuron, values, d, bound, chunk):
    """Run one neuron of step d; return (sent, membranes, spikes), each of shape (T,)."""
    one = torch.ones(1, dtype=torch.float64)
    limit = None if bound is None else one * bound / d
    constants = Constants(neuron, one * d, one * neuron.initial_membrane, None, limit)
    population = Population.at_rest(constants, 1)
    series = torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1)
    out, kept = torch.empty_like(series), torch.empty_like(series)
    spikes = []
    for low in range(0, len(series), chunk):
        part = slice(low, low + chunk)
        current = Chunk(series[part], None, out[part], kept[part], low, low == 0)
        spikes.append(scan(constants, population, current))
    return out.flatten(), kept.flatten(), torch.cat(spikes).flatten()


def classifier():
    """Return (converted `conv_net`, the 24 images of its calibration), always the same."""
    torch.manual_seed(4)
    model = conv_net()
    x = torch.randn(24, 2, 8, 8)
    return tp.convert(model, [x], neuron=tp.Signed(2)), x


def state_hash(model):
    """Hash every parameter and buffer with its name."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def leaves(output):
    """Return the tensors of a nested output in order."""
    if isinstance(output, torch.Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [leaf for value in values for leaf in leaves(value)]


def error(found, expected):
    """Return the largest difference of two outputs, relative to the variation of the expected."""
    worst = 0.0
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        assert a.shape == b.shape
        spread = (b - b.mean(0, keepdim=True)).abs().max()
        worst = max(worst, float((a - b).abs().max() / spread.clamp_min(1e-12)))
    return worst


def same_simulation(a, b):
    """Assert that the outputs and counts of two simulations are equal bit for bit."""
    for x, y in zip(leaves(a.output), leaves(b.output), strict=True):
        assert torch.equal(x, y)
    assert a.spike_counts.keys() == b.spike_counts.keys()
    for name in a.spike_counts:
        assert torch.equal(a.spike_counts[name], b.spike_counts[name]), name


def same_counts(a, b):
    """Assert that two simulations have the same counts at every timestep."""
    assert a.spike_counts.keys() == b.spike_counts.keys()
    for name in a.spike_counts:
        assert torch.equal(a.spike_counts[name], b.spike_counts[name]), name
        assert torch.equal(a.counts_per_timestep[name], b.counts_per_timestep[name]), name


def same_observations(slow, fast):
    """Assert that records have equal counts, and equal membranes and totals up to rounding."""
    assert slow.records.keys() == fast.records.keys()
    for name in slow.records:
        one, other = slow.records[name], fast.records[name]
        assert torch.equal(one.counts, other.counts), name
        torch.testing.assert_close(one.membrane, other.membrane, rtol=1e-9, atol=1e-9)
        for field, value in vars(slow.totals[name]).items():
            torch.testing.assert_close(value, vars(fast.totals[name])[field])
