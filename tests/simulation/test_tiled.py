"""Tiled simulation equals that of the whole image; receptive fields are found by brute force."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transpike as tp
from nets import Fn, dyadic_input, make_dyadic, make_steps_dyadic
from transpike.graph.receptive_field import receptive_field
from transpike.spiking.spiking_network import SpikingNetwork

TIMESTEPS = 5


def conv(i, o, k=3, **kw):
    return nn.Conv2d(i, o, k, padding=kw.pop("padding", k // 2), **kw)


def _unet_forward(m, x):
    a = F.relu(m.a(x))
    b = F.relu(m.b(F.max_pool2d(a, 2)))
    return m.d(F.relu(m.c(torch.cat([a, m.up(b)], 1))))


def unet(channels=1):
    return Fn(
        _unet_forward,
        a=conv(channels, 3),
        b=conv(3, 4),
        up=nn.ConvTranspose2d(4, 2, 2, stride=2),
        c=conv(5, 3),
        d=nn.Conv2d(3, 2, 1),
    )


def unet3d():
    return Fn(
        lambda m, x: m.c(
            F.relu(m.b(F.interpolate(F.max_pool3d(F.relu(m.a(x)), 2), scale_factor=2)))
        ),
        a=nn.Conv3d(1, 2, 3, padding=1),
        b=nn.Conv3d(2, 2, 3, padding=1),
        c=nn.Conv3d(2, 1, 1),
    )


def pair(model, tile, whole, neuron=None):
    """Return a spiking network captured at the size of a tile and at the size of the image."""
    model = make_dyadic(model.eval())
    network = tp.capture(model, dyadic_input(2, *tile))
    calibration = tp.calibrate(network, [dyadic_input(8, *tile)])
    snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs())
    snn = make_steps_dyadic(snn)
    large = tp.capture(model, dyadic_input(2, *whole))
    return snn, SpikingNetwork(large, snn.neurons, snn.steps, {})


def untiled(snn, x, timesteps=TIMESTEPS):
    return (
        tp.simulate_reference(snn, x, timesteps, record=tp.Record(output_at=[timesteps]))
        .output[0]
        .numpy()
    )


NEURONS = {"if": tp.IF(), "signed": tp.Signed(2), "burst": tp.Burst(3)}


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("overlap", [None, 14, (16, 20)])
def test_equals_the_whole_image_exactly(neuron, overlap):
    snn, large = pair(unet(), (1, 24, 32), (1, 40, 64), NEURONS[neuron])
    image = dyadic_input(1, 1, 40, 64)
    result = tp.simulate_tiled(snn, image[0].numpy(), TIMESTEPS, tiling=tp.Tiling(overlap=overlap))
    assert result.exact and result.tiles > 4
    assert result.output.any()
    np.testing.assert_array_equal(result.output, untiled(large, image)[0])


@pytest.mark.parametrize("samples", [None, 2])
def test_readouts_at_several_timesteps_come_from_one_run(samples):
    # The timesteps are powers of two, so that no division rounds.
    snn, _ = pair(unet(), (1, 24, 32), (1, 40, 64))
    image = dyadic_input(samples or 1, 1, 40, 64)
    image = image if samples else image[0]
    kept = tp.simulate_tiled(snn, image, 8, output_at=[8, 1, 4])
    alone = [tp.simulate_tiled(snn, image, t) for t in (1, 4, 8)]
    np.testing.assert_array_equal(kept.output, np.stack([one.output for one in alone]))
    assert kept.spikes_per_neuron == alone[-1].spikes_per_neuron and kept.tiles == alone[-1].tiles
    into = np.ones((1, *alone[-1].output.shape), np.float32)
    tp.simulate_tiled(snn, image, 8, output_at=[8], output=into)
    np.testing.assert_array_equal(into[0], alone[-1].output)
    with pytest.raises(tp.ArgumentError, match=r"output shape: needed \(2, "):
        tp.simulate_tiled(snn, image, 8, output_at=[1, 2], output=into)
    for wrong in ([9], [1, 9], 5, [1, "8"], []):
        with pytest.raises(tp.ArgumentError, match="output_at: needed"):
            tp.simulate_tiled(snn, image, 8, output_at=wrong, output=into)
    with pytest.raises(tp.ArgumentError, match="timesteps"):
        tp.simulate_tiled(snn, image, 0, output=into)
    # The calls were refused before they changed the array.
    np.testing.assert_array_equal(into[0], alone[-1].output)


def test_overlap_below_the_field_is_exact_in_the_middle_of_tiles():
    snn, large = pair(unet(), (1, 32, 32), (1, 32, 56))
    image = dyadic_input(1, 1, 32, 56)
    result = tp.simulate_tiled(snn, image[0], TIMESTEPS, tiling=tp.Tiling(overlap=8))
    whole = untiled(large, image)[0]
    assert not result.exact and result.overlap == (0, 8)
    after = result.field.after[1]
    assert not np.array_equal(result.output, whole)
    np.testing.assert_array_equal(result.output[..., : 24 - after], whole[..., : 24 - after])


def test_size_off_the_alignment_is_not_called_exact():
    snn, _ = pair(unet(), (1, 24, 24), (1, 24, 24))
    result = tp.simulate_tiled(snn, dyadic_input(1, 24, 33), 2)
    assert not result.exact
    assert np.isfinite(result.output).all()


def test_volume_from_and_to_disk(tmp_path):
    snn, large = pair(unet3d(), (1, 12, 16, 12), (1, 12, 28, 20))
    volume = dyadic_input(2, 1, 12, 28, 20)
    source = np.memmap(tmp_path / "in", np.uint8, "w+", shape=(2, 12, 28, 20))
    source[:] = (volume[:, 0].numpy() + 8) * 16
    target = np.memmap(tmp_path / "out", np.float64, "w+", shape=(2, 1, 12, 28, 20))
    target[:] = 7
    seen = []
    result = tp.simulate_tiled(
        snn,
        source,
        TIMESTEPS,
        channels=False,
        output=target,
        prepare=lambda tile: torch.from_numpy(tile[None].astype(np.float32)) / 16 - 8,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert result.output is target and result.exact
    assert seen == [(n + 1, result.tiles) for n in range(result.tiles)]
    np.testing.assert_array_equal(np.asarray(target), untiled(large, volume))


def test_spikes_are_those_of_the_tiles():
    snn, _ = pair(unet(), (1, 24, 24), (1, 24, 24))
    image = dyadic_input(1, 24, 24)
    result = tp.simulate_tiled(snn, image, TIMESTEPS)
    alone = tp.simulate_reference(snn, image[None], TIMESTEPS)
    assert result.tiles == 1 and result.spikes_per_neuron == float(alone.spikes_per_neuron[-1])


def test_weights_sum_to_one_whatever_the_overlap():
    """A network that is the identity for positive inputs returns the image."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1))
    for layer in (model[0], model[2]):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    network = tp.capture(model.eval(), torch.zeros(2, 1, 9, 9))
    snn = tp.convert(network, tp.calibrate(network, [torch.ones(2, 1, 9, 9)]))
    snn = make_steps_dyadic(snn)
    for overlap in (0, 1, 4, 7, 8):
        result = tp.simulate_tiled(snn, torch.ones(1, 30, 23), 4, tiling=tp.Tiling(overlap=overlap))
        assert result.exact
        np.testing.assert_array_equal(result.output, np.ones((1, 30, 23)))


FIELDS = {
    "unet": (unet, (1, 24, 24)),
    "dilated": (lambda: nn.Sequential(conv(1, 2, padding=2, dilation=2), nn.ReLU()), (1, 14, 14)),
    "one-sided": (
        lambda: Fn(lambda m, x: F.relu(m.c(F.pad(x, (2, 0, 0, 3)))), c=nn.Conv2d(1, 2, (4, 3))),
        (1, 12, 12),
    ),
    "strided": (
        lambda: nn.Sequential(
            conv(1, 2, stride=2), nn.ReLU(), nn.Upsample(scale_factor=2), conv(2, 1)
        ),
        (1, 16, 16),
    ),
    "bilinear": (
        lambda: nn.Sequential(
            nn.AvgPool2d(2),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(1, 1, 1),
        ),
        (1, 16, 16),
    ),
    "transposed": (
        lambda: nn.Sequential(
            nn.MaxPool2d(3, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(1, 2, 4, stride=2, padding=1),
            nn.ReLU(),
        ),
        (1, 20, 20),
    ),
    "shuffled": (
        lambda: Fn(
            lambda m, x: F.pixel_shuffle(F.relu(m.c(F.pixel_unshuffle(x, 2))), 2), c=conv(4, 4)
        ),
        (1, 16, 16),
    ),
    "sliced": (
        lambda: Fn(
            lambda m, x: F.interpolate(F.relu(m.c(x))[:, :, ::2, 1::2], scale_factor=2),
            c=conv(1, 2),
        ),
        (1, 16, 16),
    ),
    "line": (
        lambda: nn.Sequential(nn.Conv1d(1, 2, 5, padding="same"), nn.ReLU(), nn.Conv1d(2, 1, 1)),
        (1, 16),
    ),
    "volume": (unet3d, (1, 12, 12, 12)),
}


def dependence(model, shape, axis):
    """Change positions along an axis one by one, and find how far outputs look at most.

    Returns the largest distances (to lower positions, to higher positions).
    """
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(weights.abs() + 0.1)
    before = after = 0
    middle = [size // 2 for size in shape[1:]]
    x = torch.ones(1, *shape)
    base = model(x)
    for position in range(shape[1 + axis] // 4, 3 * shape[1 + axis] // 4):
        changed = x.clone()
        where = [slice(None)] * len(middle)
        where[axis] = position
        changed[(slice(None), slice(None), *where)] += 1
        with torch.no_grad():
            moved = (model(changed) - base).abs()
        dims = [d for d in range(moved.ndim) if d != axis + 2]
        touched = torch.nonzero(moved.amax(dim=dims) > 1e-6).flatten()
        if len(touched):
            before = max(before, int(touched.max()) - position)
            after = max(after, position - int(touched.min()))
    return before, after


@pytest.mark.parametrize("name", FIELDS)
def test_receptive_field_by_brute_force(name):
    factory, shape = FIELDS[name]
    model = factory().eval()
    field = receptive_field(tp.capture(model, torch.randn(2, *shape)))
    for axis in range(len(shape) - 1):
        found = dependence(model, shape, axis)
        bound = field.before[axis], field.after[axis]
        slack = 1 if name in ("bilinear", "transposed", "unet") else 0
        assert all(f <= b <= f + slack for f, b in zip(found, bound, strict=True)), (found, bound)


def test_alignment_is_the_total_stride():
    field = receptive_field(tp.capture(unet().eval(), torch.randn(2, 1, 24, 24)))
    assert field.alignment == (2, 2)


def _refused(model, shape, message):
    network = tp.capture(model.eval(), torch.randn(2, *shape))
    snn = tp.convert(network, tp.calibrate(network, [torch.randn(8, *shape)]))
    with pytest.raises(tp.UnsupportedError, match=message):
        tp.simulate_tiled(snn, torch.randn(shape[0], 64, 64), 2)


def test_refuses_a_classifier_by_name():
    model = nn.Sequential(conv(1, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    _refused(model, (1, 16, 16), "has not the size of the input")


def test_refuses_global_pooling_by_name():
    model = Fn(
        lambda m, x: m.d(F.relu(m.c(x)) + F.adaptive_avg_pool2d(F.relu(m.c(x)), 1)),
        c=conv(1, 2),
        d=conv(2, 1),
    )
    _refused(model, (1, 16, 16), "adaptive_avg_pool2d.*a share of the whole image")


def test_refuses_a_mean_over_the_image():
    model = Fn(
        lambda m, x: m.d(F.relu(m.c(x)) + F.relu(m.c(x)).mean((2, 3), keepdim=True)),
        c=conv(1, 2),
        d=conv(2, 1),
    )
    _refused(model, (1, 16, 16), "mean.*over the whole image")


def test_refuses_aligned_corners_and_the_remedy_works():
    def model(aligned):
        return nn.Sequential(
            nn.MaxPool2d(2),
            conv(1, 2),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=aligned),
        )

    _refused(model(True), (1, 16, 16), "align_corners=True makes every pixel depend")
    snn, _ = pair(model(False), (1, 16, 16), (1, 16, 16))
    assert tp.simulate_tiled(snn, dyadic_input(1, 16, 32), 2).exact


def test_refuses_a_constant_map():
    model = Fn(lambda m, x: F.relu(m.c(x) + m.place), c=conv(1, 2))
    model.place = nn.Parameter(torch.randn(1, 2, 16, 16))
    _refused(model, (1, 16, 16), "differs from pixel to pixel")


@pytest.fixture(scope="module")
def small():
    return pair(unet(), (1, 24, 24), (1, 24, 24))[0]


def test_tile_too_small_for_the_field_and_the_remedy_works():
    snn, _ = pair(unet(), (1, 8, 8), (1, 8, 8))
    with pytest.raises(tp.ArgumentError, match="leave no step of 2.*at least 12 pixels"):
        tp.simulate_tiled(snn, dyadic_input(1, 24, 24), 2)
    assert not tp.simulate_tiled(snn, dyadic_input(1, 24, 24), 2, tiling=tp.Tiling(overlap=6)).exact
    assert tp.simulate_tiled(snn.at((12, 12)), dyadic_input(1, 24, 24), 2).exact


@pytest.mark.parametrize("overlap", [-1, True, (4,), 2.5, "all"])
def test_overlap_is_checked(small, overlap):
    with pytest.raises(tp.ArgumentError, match="overlap: needed pixels >= 0"):
        tp.simulate_tiled(small, dyadic_input(1, 32, 32), 2, tiling=tp.Tiling(overlap=overlap))


def test_image_shape_is_checked_and_the_remedy_works(small):
    with pytest.raises(tp.DataError, match="image shape: needed .*channels=False"):
        tp.simulate_tiled(small, dyadic_input(5, 24, 24), 2)
    result = tp.simulate_tiled(small, dyadic_input(5, 24, 24), 2, channels=False)
    assert result.output.shape == (5, 2, 24, 24)


def test_image_smaller_than_a_tile(small):
    with pytest.raises(tp.DataError, match="image size: needed at least one tile"):
        tp.simulate_tiled(small, dyadic_input(1, 22, 32), 2)
    assert tp.simulate_tiled(small.at((22, 24)), dyadic_input(1, 22, 32), 2).exact


def test_integer_image_needs_prepare(small):
    image = np.zeros((1, 24, 24), np.uint8)
    with pytest.raises(tp.DataError, match="image dtype: needed torch.float32.*prepare="):
        tp.simulate_tiled(small, image, 2)
    result = tp.simulate_tiled(small, image, 2, prepare=lambda t: torch.from_numpy(t).float())
    assert result.exact
    with pytest.raises(tp.DataError, match="prepare: needed a tensor"):
        tp.simulate_tiled(small, image, 2, prepare=lambda t: torch.zeros(3))


def test_output_array_is_checked(small):
    image = dyadic_input(1, 24, 24)
    with pytest.raises(tp.ArgumentError, match=r"output shape: needed \(2, 24, 24\)"):
        tp.simulate_tiled(small, image, 2, output=np.zeros((1, 24, 24)))
    with pytest.raises(tp.ArgumentError, match="output dtype: needed float32 or float64"):
        tp.simulate_tiled(small, image, 2, output=np.zeros((2, 24, 24), np.uint8))


def test_not_an_array(small):
    with pytest.raises(tp.DataError, match="image: needed an array"):
        tp.simulate_tiled(small, [[0.0]], 2)


def test_memory_budget_reaches_the_engine(small):
    image = dyadic_input(1, 24, 24)
    whole = tp.simulate_tiled(small, image, 4)
    tight = tp.simulate_tiled(small, image, 4, tiling=tp.Tiling(memory_budget=2**20))
    np.testing.assert_array_equal(tight.output, whole.output)
    with pytest.raises(tp.ArgumentError, match="memory_budget: one sample of this network needs"):
        tp.simulate_tiled(small, image, 4, tiling=tp.Tiling(memory_budget=100))
