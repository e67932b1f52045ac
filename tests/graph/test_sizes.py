"""A network captured at one size runs at the other sizes that its model takes."""

import functools
import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import nets
import tampered
import transpike as tp
from transpike.graph.sizes import Size, Sizes
from transpike.simulation.reference import simulate_reference
from transpike.zoo.models.resnet_cifar import CifarResNet
from transpike.zoo.models.unet import UNet

T = 6


class Padded(nn.Module):
    """A U-Net that pads its upsampled features to the size of the skip, so it takes every size."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        skip = F.relu(self.down(x))
        up = self.up(F.max_pool2d(skip, 2))
        tall, wide = skip.shape[2] - up.shape[2], skip.shape[3] - up.shape[3]
        up = F.pad(up, [wide // 2, wide - wide // 2, tall // 2, tall - tall // 2])
        return self.head(torch.cat([skip, up], 1))


class Branching(nn.Module):
    """A model whose computation depends on the height of its input."""

    def __init__(self, rule):
        super().__init__()
        self.conv, self.rule = nn.Conv2d(2, 4, 3, padding=1), rule

    def forward(self, x):
        return F.relu(self.conv(2 * x if self.rule(x.shape[2]) else x))


class Line(nn.Module):
    """A model with a linear layer along the columns, so that the number of columns is fixed."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x))).mean((1, 2))


def pooled_1d():
    return nn.Sequential(
        nn.Conv1d(2, 4, 5, stride=2), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(4, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def upsampled_3d():
    return nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.AvgPool3d(2), nn.Conv3d(3, 4, 3, padding=1),
        nn.ReLU(), nn.Upsample(scale_factor=2, mode="trilinear"), nn.Conv3d(4, 2, 1),
    )  # fmt: skip


def dense():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(4, 1, 1),
    )  # fmt: skip


def flattened():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    )


def settled(model, *shape):
    torch.manual_seed(1)
    return nets.settle_batchnorm(model, torch.randn(8, *shape))


def converted(model, shape, neuron=None):
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(2))
    network = tp.capture(model, x)
    return tp.convert(network, tp.calibrate(network, [x]), neuron=neuron or tp.Signed(1))


def with_network(snn, network):
    """Return the spiking network with the same thresholds and another capture of the model."""
    return tp.SpikingNetwork(
        network, snn.neurons, snn.steps, snn.settings, starts=snn.starts, offsets=snn.offsets
    )


CASES = {
    "unet": (lambda: settled(UNet(2), 1, 32, 32), (1, 32, 32), (1, 48, 64)),
    "resnet": (lambda: settled(CifarResNet(8), 3, 32, 32), (3, 32, 32), (3, 48, 48)),
    "padded": (Padded, (1, 16, 16), (1, 19, 26)),
    "1d": (lambda: settled(pooled_1d(), 2, 40), (2, 40), (2, 57)),
    "3d": (upsampled_3d, (1, 8, 8, 8), (1, 10, 14, 12)),
}


@functools.cache
def example(name):
    """Return the model of a case and its spiking network, converted at the first size."""
    build, small, _ = CASES[name]
    torch.manual_seed(0)
    model = build().eval()
    return model, converted(model, small)


@pytest.fixture(scope="module", params=CASES)
def pair(request):
    """Return a spiking network, the same network at a second size, and an input of that size."""
    model, snn = example(request.param)
    large = CASES[request.param][2]
    x = torch.randn(2, *large, generator=torch.Generator().manual_seed(3))
    return snn, with_network(snn, tp.capture(model, x)), x


def test_another_size_equals_a_capture_at_that_size(pair) -> None:
    snn, there, x = pair
    assert torch.equal(snn.network(x), there.network(x))
    nets.same_simulation(tp.simulate(snn, x, T), tp.simulate(there, x, T))
    nets.same_simulation(simulate_reference(snn, x, T), simulate_reference(there, x, T))
    derived = snn.at(x.shape[2:]).network
    assert derived.input_shape == there.network.input_shape and derived.sites == there.network.sites
    pairs = zip(derived.nodes, there.network.nodes, strict=True)
    assert all(
        (a.op, a.args, a.kwargs, a.shape) == (b.op, b.args, b.kwargs, b.shape) for a, b in pairs
    )


def test_what_is_reported_follows_the_size(pair) -> None:
    snn, there, x = pair
    a, b = tp.simulate(snn, x, T), tp.simulate(there, x, T)
    assert a.neurons == b.neurons and torch.equal(a.spikes_per_neuron, b.spikes_per_neuron)
    if x.ndim < 5:
        assert tp.measure_cost(snn, [x], T).to_dict() == tp.measure_cost(there, [x], T).to_dict()
    assert tp.diagnose(snn, [x], T).to_dict() == tp.diagnose(there, [x], T).to_dict()


def test_saved_and_loaded(pair, tmp_path) -> None:
    snn, _, x = pair
    tp.save(snn, tmp_path)
    loaded = tp.load(tmp_path)
    assert loaded.network.sizes == snn.network.sizes
    nets.same_simulation(tp.simulate(loaded, x, T), tp.simulate(snn, x, T))


def test_the_way_back_is_the_network_itself(pair) -> None:
    snn, _, x = pair
    own = snn.network.input_shape[1:]
    back = snn.at(x.shape[2:]).at(own).network
    assert back.nodes == snn.network.nodes and back.sites == snn.network.sites
    assert snn.at(own) is snn


@pytest.mark.slow
def test_calibrated_at_256_and_run_at_768_by_1024() -> None:
    torch.manual_seed(0)
    model = settled(UNet(2), 1, 64, 64)
    snn = converted(model, (1, 256, 256))
    x = torch.randn(1, 1, 768, 1024)
    there = with_network(snn, tp.capture(model, x))
    nets.same_simulation(tp.simulate(snn, x, 3), tp.simulate(there, x, 3))


@pytest.fixture
def unet():
    return example("unet")[1]


def test_a_multiple_is_named_with_the_operation_that_needs_it(unet) -> None:
    message = (
        r"the height must be a multiple of 16, got 250 \(aten\.cat\.default at '<model>' needs it\)"
        r"\. Resize, crop or pad the input to 240 or 256\."
    )
    with pytest.raises(tp.DataError, match=message):
        tp.simulate(unet, torch.zeros(1, 1, 250, 256), T)
    assert unet.network(torch.zeros(1, 1, 240, 256)).shape == (1, 1, 240, 256)
    with pytest.raises(tp.DataError, match="Or another size: height a multiple of 16, width"):
        unet.network(torch.zeros(1, 2, 32, 32))
    with pytest.raises(tp.DataError, match="the width must be a multiple of 16, got 8"):
        unet.network(torch.zeros(1, 1, 16, 8))


def test_a_fixed_flatten_needs_one_size() -> None:
    torch.manual_seed(0)
    snn = converted(flattened(), (2, 8, 8))
    assert not snn.network.sizes.vary
    with pytest.raises(tp.DataError, match=r"the height must be 8, got 12 \(aten\.\w+\.\w+ at"):
        tp.simulate(snn, torch.zeros(1, 2, 12, 12), T)
    with pytest.raises(tp.DataError, match="Resize, crop or pad the input to 8"):
        snn.network(torch.zeros(1, 2, 8, 9))


def test_an_axis_can_be_fixed_alone() -> None:
    torch.manual_seed(0)
    network = tp.capture(Line(), torch.randn(2, 2, 6, 8))
    assert network.sizes.steps == (1, 0)
    assert network(torch.zeros(1, 2, 11, 8)).shape == (1, 3)
    with pytest.raises(tp.DataError, match="the width must be 8, got 9"):
        network(torch.zeros(1, 2, 11, 9))


def test_thresholds_of_single_positions_do_not_carry() -> None:
    class OverColumns(nn.Module):
        def forward(self, x):
            return F.relu(torch.matmul(x, torch.ones(8, 8)))

    x = torch.rand(2, 3, 8)
    network = tp.capture(OverColumns(), x)
    assert not network.sizes.vary
    site = nn.Sequential(nn.Flatten(1), nn.ReLU())
    network = tp.capture(site, torch.randn(2, 3, 8))
    assert network.sites[0].channels == 24
    with pytest.raises(tp.DataError, match="the length must be 8, got 9"):
        network(torch.zeros(1, 3, 9))


def test_a_site_with_a_threshold_for_each_position_is_named() -> None:
    class Tokens(nn.Module):
        """A model that uses positions as channels: (B, C, L) becomes (B, L, C) before the ReLU."""

        def forward(self, x):
            return F.relu(x.transpose(1, 2)).mean(2)

    network = tp.capture(Tokens(), torch.randn(2, 3, 8))
    with pytest.raises(
        tp.DataError, match=r"site 'relu' has one threshold for each of 8 positions"
    ):
        network(torch.zeros(1, 3, 9))


class Shuffled(nn.Module):
    """A channel shuffle, and a resize back to the size of the input."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3, stride=2), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        y = F.relu(self.conv(x))
        y = y.view(y.shape[0], 2, 2, *y.shape[2:]).transpose(1, 2).reshape(y.shape)
        return F.interpolate(self.head(y), size=x.shape[2:], mode="bilinear")


def test_kept_axes_need_no_second_export(monkeypatch) -> None:
    torch.manual_seed(0)
    exports = []
    export = torch.export.export
    monkeypatch.setattr(
        torch.export, "export", lambda *a, **k: exports.append(0) or export(*a, **k)
    )
    model = Shuffled().eval()
    network = tp.capture(model, torch.randn(2, 2, 12, 12))
    assert network.sizes.steps == (1, 1) and len(exports) == 1
    x = torch.randn(1, 2, 17, 26)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x))
    tp.capture(Padded(), torch.randn(2, 1, 8, 8))
    assert len(exports) == 3  # the padding follows from the size


def test_a_square_network_needs_equal_sides() -> None:
    torch.manual_seed(0)
    network = tp.capture(CifarResNet(8), torch.randn(2, 3, 32, 32))
    with pytest.raises(tp.DataError, match="the height and width must be equal"):
        network(torch.zeros(1, 3, 32, 48))


def test_a_model_that_looks_at_the_size_is_not_guessed() -> None:
    torch.manual_seed(0)
    even = tp.capture(Branching(lambda side: side % 2 == 1), torch.randn(2, 2, 10, 10))
    assert even.sizes.steps[0] % 2 == 0  # Odd sizes take the other branch.
    above = tp.capture(Branching(lambda side: side != 10), torch.randn(2, 2, 10, 10))
    assert not above.sizes.vary
    with pytest.raises(tp.DataError, match="the graph differs from the model"):
        above(torch.zeros(1, 2, 12, 12))


def test_batches_of_other_sizes(unet) -> None:
    x = torch.randn(2, 1, 48, 32)
    target = (torch.rand(2, 48, 32) > 0.5).long()
    found = tp.evaluate(unet, [(x, target), (x, target)], T)
    assert found.n == 2 * target.numel() and found.neurons == unet.at((48, 32)).network.neurons
    small = torch.randn(2, 1, 32, 32)
    for call in (
        lambda: tp.evaluate(unet, [(x, target), (small, target[:, :32])], T),
        lambda: tp.measure_cost(unet, [x, small], T),
        lambda: tp.diagnose(unet, [x, small], T),
    ):
        with pytest.raises(tp.DataError, match="input shape: needed"):
            call()


def test_calibration_and_passes_at_another_size(unet) -> None:
    network, x = unet.network, torch.randn(2, 1, 48, 32)
    calibration = tp.calibrate(network, [x])
    there = network.at((48, 32))
    again = tp.calibrate(there, [x])
    passes = [tp.BiasCorrection(), tp.Distillation(epochs=1)]
    options = {"neuron": tp.Signed(1), "timesteps": T, "passes": passes, "batches": [x]}
    a, b = (tp.convert(n, c, **options) for n, c in ((network, calibration), (there, again)))
    assert a.network.input_shape == (1, 32, 32)
    for kind in ("steps", "starts", "offsets"):
        one, other = getattr(a, kind), getattr(b, kind)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_tensors_are_shared_and_follow(unet) -> None:
    wide = unet.at((32, 48))
    assert all(wide.steps[name] is step for name, step in unet.steps.items())
    torch.manual_seed(0)
    doubled = converted(dense(), (1, 16, 16))
    doubled.at((16, 24))
    x = torch.randn(1, 1, 16, 24)
    before = tp.simulate(doubled, x, T).output
    doubled.double()
    assert tp.simulate(doubled, x.double(), T).output.dtype == torch.float64
    doubled.float()
    assert torch.equal(tp.simulate(doubled, x, T).output, before)
    name = next(iter(doubled.steps))
    doubled.steps[name].mul_(2)
    assert not torch.equal(tp.simulate(doubled, x, T).output, before)


def test_tiles_of_another_size() -> None:
    torch.manual_seed(0)
    snn = converted(dense(), (1, 16, 16)).double()
    image = torch.randn(1, 40, 56, dtype=torch.float64)
    tiled = tp.simulate_tiled(snn.at((24, 24)), image.numpy(), T)
    assert tiled.exact and tiled.tile == (24, 24) and tiled.tiles > 2
    whole = tp.simulate(snn, image[None], T).output[-1, 0]
    assert torch.equal(torch.from_numpy(tiled.output).float(), whole.float())


def test_time_axis_and_differential_coding() -> None:
    torch.manual_seed(0)
    model = dense().eval()
    snn = converted(model, (1, 16, 16), tp.Differential(4))
    x = torch.randn(T, 1, 1, 24, 16)
    there = tp.SpikingNetwork(
        tp.capture(model, x[0]), snn.neurons, snn.steps, snn.settings, starts=snn.starts,
        offsets=snn.offsets, coding=snn.coding,
    )  # fmt: skip
    a, b = (tp.simulate(one, x, T, time_axis=True) for one in (snn, there))
    nets.same_simulation(a, b)


def test_a_folder_of_an_older_version_has_one_size(tmp_path) -> None:
    saved = tampered.SAVED / "residual_a3ecc58"
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["sizes"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"schema": 2}))
    loaded = tp.load(tmp_path)
    x = torch.randn(1, 1, 4, 4)
    nets.same_simulation(tp.simulate(loaded, x, T), tp.simulate(tp.load(saved), x, T))
    with pytest.raises(tp.DataError, match="the height must be 4, got 8 .*older version"):
        tp.simulate(loaded, torch.zeros(1, 1, 8, 4), T)


@pytest.mark.parametrize(
    "damage",
    [
        {"steps": [16]},
        {"steps": [16, -16]},
        {"arguments": {"conv2d": [[{"size": ["size", 5]}], {}]}},
        {"arguments": {"conv2d": [[{"size": ["extent", "nothing", 2]}], {}]}},
        {"arguments": {"conv2d": [[{"size": ["open", 1, 2]}], {}]}},
    ],
)
def test_damaged_sizes_are_refused(unet, tmp_path, damage) -> None:
    tp.save(unet, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["sizes"] |= damage
    tampered.write(tmp_path, config, rehashed=True)
    with pytest.raises(tp.FileError, match="damaged: .*size"):
        tp.load(tmp_path)


def test_inspect_says_which_sizes_a_network_takes() -> None:
    torch.manual_seed(0)
    report = tp.inspect(UNet(2), torch.randn(2, 1, 32, 32))
    assert report.input_sizes == "height a multiple of 16, width a multiple of 16"
    assert "sizes of the input: height a multiple of 16" in str(report)
    assert tp.inspect(flattened(), torch.randn(2, 2, 8, 8)).input_sizes == "height 8, width 8"
    assert tp.inspect(Padded(), torch.randn(2, 1, 8, 8)).input_sizes == "height any, width any"


def test_formulas() -> None:
    half = Size(("//", ("+", ("size", 1), -1), 2))
    assert half.at((5, 9), {}) == 4
    assert Size(("extent", "relu", 3)).at((5, 9), {"relu": (-1, 4, 2, 7)}) == 7
    assert Size(("max", ("%", ("size", 0), 3), 1)).at((6,), {}) == 1
    assert "more than a multiple of 8" in Sizes((8,)).describe((12,))


@st.composite
def _networks(draw):
    """Draw a convolutional network and two sizes (C, H, W) that it takes.

    It may have strides, pooling and upsampling.
    """
    layers, channels, down = [], draw(st.integers(1, 2)), 1
    first = channels
    for _ in range(draw(st.integers(1, 3))):
        out = draw(st.integers(1, 3))
        kernel, stride = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 1, 2]))
        layers += [nn.Conv2d(channels, out, kernel, stride, kernel // 2), nn.ReLU()]
        channels, down = out, down * stride
        if draw(st.booleans()):
            layers.append(draw(st.sampled_from([nn.MaxPool2d(2), nn.AvgPool2d(3, 2, 1)])))
            down *= 2
    match draw(st.sampled_from(["map", "up", "pool", "flat"])):
        case "up":
            layers.append(nn.Upsample(scale_factor=2))
        case "pool":
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2)]
        case "flat":
            layers += [nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(6 * channels, 2)]
    side = st.integers(2, 5)
    small, large = ((first, draw(side) * down, draw(side) * down) for _ in range(2))
    return nn.Sequential(*layers), small, large


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(_networks(), st.integers(0, 100))
def test_random_networks(network, seed) -> None:
    model, small, large = network
    torch.manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    snn = converted(model, small)
    x = torch.randn(2, *large)
    there = with_network(snn, tp.capture(model, x))
    nets.same_simulation(tp.simulate(snn, x, T), tp.simulate(there, x, T))
