"""Masks of volumes are those of whole slices in any layout; bad volumes are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import transpike as tp
from nets import make_dyadic, make_steps_dyadic
from transpike.data import Normalization
from transpike.data.volumes import ArrayVolume, normalized, open_stack, read_mask
from transpike.report.pictures import (
    DIFFERENCE_COLORS,
    ERROR_COLORS,
    Shown,
    overview_figure,
    timesteps_figure,
)
from transpike.segment import PixelCounts, fitting_tile, resized, segment
from transpike.zoo.models import build_model

HALF = Normalization((0.5,), (0.5,))


def dense(outputs: int = 1) -> nn.Module:
    """Return a small network like a U-Net.

    Every weight is a multiple of 1/8, and about half of a mask is positive.
    """
    torch.manual_seed(3)
    model = make_dyadic(
        nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(4, outputs, 1),
        ).eval()
    )
    x = torch.randint(0, 2, (2, 1, 32, 32)).float() * 2 - 1
    with torch.no_grad():
        center = model(x).transpose(0, 1).flatten(1).median(dim=1).values
        model[-1].bias -= (center * 8).round() / 8
    return model


def bits(slices: int = 3, height: int = 40, width: int = 48) -> ArrayVolume:
    """Return slices of 0 and 1, which are normalized to -1 and 1, so that all sums are exact."""
    random = np.random.RandomState(0)
    return ArrayVolume(random.rand(slices, height, width) < 0.4, "bits")


def converted(model: nn.Module, tile: tuple[int, int], neuron: tp.Neuron) -> tp.SpikingNetwork:
    generator = torch.Generator().manual_seed(0)
    example = torch.randint(0, 2, (4, 1, *tile), generator=generator).float() * 2 - 1
    return make_steps_dyadic(tp.convert(model, [example], neuron=neuron))


@pytest.mark.parametrize("neuron", [tp.IF(), tp.Signed(2)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_masks_are_those_of_whole_slices(neuron: tp.Neuron, outputs: int) -> None:
    # Every t is a power of two, so no mean rounds, and outputs of 0 stay 0.
    model, volume = dense(outputs), bits()
    snn = converted(model, (16, 24), neuron)
    found = list(segment(snn, volume, 8, normalization=HALF, curve=[1]))
    whole = resized(snn, model, (40, 48))
    assert [one.index for one in found] == [0, 1, 2]
    assert [one.name for one in found] == ["0000", "0001", "0002"]
    assert [list(one.masks) for one in found] == [[8], [1, 2, 4, 8], [8]]
    for one in found:
        assert one.simulation.exact and one.simulation.tiles > 4
        x = torch.from_numpy(volume.array[one.index] * np.float32(2) - 1)[None, None]
        run = tp.simulate_reference(whole, x, 8)
        with torch.no_grad():
            np.testing.assert_array_equal(one.ann, _mask(model(x)))
        for t, mask in one.masks.items():
            np.testing.assert_array_equal(mask, _mask(run.output[t - 1]))
        assert 0 < one.ann.mean() < 1 and one.simulation.spikes_per_neuron > 0


def test_no_masks_before_the_last_layer_has_fired() -> None:
    snn = converted(dense(), (40, 48), tp.Staggered(2, lag=2))
    assert snn.first_output == 3
    (one,) = segment(snn, bits(1), 9, normalization=HALF, curve=[0])
    assert list(one.masks) == [4, 8, 9]


def _mask(output: torch.Tensor) -> NDArray[np.bool_]:
    """Return the mask of an output (1, C, H, W), as the documentation defines it."""
    if output.shape[1] == 1:
        return (output[0, 0] > 0).numpy()
    return (output[0, 1] > output[0, 0]).numpy()


def test_behind_a_sigmoid_a_mask_is_above_a_half() -> None:
    model, volume = dense(), bits(1)
    logits = converted(model, (40, 48), tp.Signed(2))
    behind = converted(nn.Sequential(model, nn.Sigmoid()), (40, 48), tp.Signed(2))
    (a,), (b,) = (list(segment(s, volume, 4, normalization=HALF)) for s in (logits, behind))
    assert a.ann.any() and not a.ann.all()
    np.testing.assert_array_equal(a.ann, b.ann)
    np.testing.assert_array_equal(a.masks[4], b.masks[4])


def test_slices_are_made_when_they_are_asked_for() -> None:
    class Counting(ArrayVolume):
        def read(self, index: int, rows: slice, columns: slice) -> NDArray[np.bool_]:
            seen.append(index)
            return super().read(index, rows, columns)

    seen: list[int] = []
    steps: list[tuple[int, int]] = []
    snn = converted(dense(), (16, 16), tp.IF())
    volume = Counting(bits().array, "bits")
    made = segment(
        snn, volume, 2, normalization=HALF, slices=[2, 0], progress=lambda *a: steps.append(a)
    )
    assert seen == []
    assert next(made).index == 2 and seen == [2]
    assert next(made).index == 0 and seen == [2, 0]
    assert steps[-1][0] == steps[-1][1] and [d for d, _ in steps] == sorted(d for d, _ in steps)


def test_sixteen_bits_are_read_by_their_own_maximum() -> None:
    random = np.random.RandomState(1)
    eight = random.randint(0, 256, (1, 24, 24)).astype(np.uint8)
    sixteen = eight.astype(np.uint16) * 257  # 255 becomes 65535
    volumes = ArrayVolume(eight, "8"), ArrayVolume(sixteen, "16")
    a, b = (normalized(v.array, v.maximum, HALF) for v in volumes)
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert a.min() >= -1 and a.max() <= 1 and a.dtype == np.float32
    snn = converted(dense(), (24, 24), tp.Signed(2))
    masks = [next(segment(snn, v, 4, normalization=HALF)).masks[4] for v in volumes]
    assert (masks[0] == masks[1]).mean() > 0.99


def test_counts_are_those_of_torchmetrics_and_add_up() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    random = np.random.RandomState(0)
    mask, truth = random.rand(3, 20, 30) < 0.3, random.rand(3, 20, 30) < 0.4
    counts = sum((PixelCounts.of(m, t) for m, t in zip(mask, truth, strict=True)), PixelCounts())
    assert counts == PixelCounts.of(mask, truth) and counts.n == mask.size
    a, b = torch.from_numpy(mask).int(), torch.from_numpy(truth).int()
    scores = counts.scores()
    assert scores["f1"] == pytest.approx(float(functional.binary_f1_score(a, b)))
    assert scores["jaccard"] == pytest.approx(float(functional.binary_jaccard_index(a, b)))
    assert scores["accuracy"] == pytest.approx(float(functional.binary_accuracy(a, b)))
    nothing = PixelCounts.of(np.zeros(4, bool), np.zeros(4, bool)).scores()
    assert nothing == {"f1": 0.0, "jaccard": 0.0, "accuracy": 1.0}


def test_tile_shrinks_to_small_slices_or_names_the_multiple() -> None:
    network = tp.capture(dense(), torch.randn(2, 1, 16, 16))
    assert fitting_tile(network, (40, 600), 32) == (32, 32)
    assert fitting_tile(network, (24, 600), 32) == (24, 32)
    with pytest.raises(tp.ArgumentError, match="slices of 25 .* axis 0.*multiple of 2.*24 or 26"):
        fitting_tile(network, (25, 600), 32)
    with pytest.raises(tp.ArgumentError, match="a tile of 31 pixels.*Give a tile of 30 or 32"):
        fitting_tile(network, (600, 600), 31)
    with pytest.raises(tp.ArgumentError, match="slices of 1 pixels.*to 2 pixels"):
        fitting_tile(network, (1, 600), 32)
    with pytest.raises(tp.ArgumentError, match="a tile of 8 .*too small.*at least (10|12) pixels"):
        fitting_tile(network, (600, 600), 8)
    assert fitting_tile(network, (600, 600), 12) == (12, 12)
    assert fitting_tile(network, (600, 600), 8, overlap=4) == (8, 8)


def test_a_tile_below_the_field_is_an_approximation() -> None:
    snn = converted(dense(), (8, 8), tp.IF())
    with pytest.raises(tp.ArgumentError, match="leave no step"):
        segment(snn, bits(), 2, normalization=HALF)
    (one,) = segment(snn, bits(1), 2, normalization=HALF, overlap=4)
    assert not one.simulation.exact


def test_resized_keeps_what_was_calibrated() -> None:
    model = dense()
    batches = [torch.randn(8, 1, 16, 16)]
    passes = [tp.BiasCorrection(), tp.MembraneCorrection()]
    snn = tp.convert(
        model, batches, neuron=tp.Signed(1), timesteps=4, passes=passes, threshold=tp.MaxAbs()
    )
    large = resized(snn, model, (24, 32))
    assert large.network.input_shape == (1, 24, 32) and large.settings == snn.settings
    for name in ("steps", "starts", "offsets"):
        for site, value in getattr(snn, name).items():
            assert torch.equal(getattr(large, name)[site], value)
    x = torch.randn(2, 1, 16, 16)
    back = resized(large, model, (16, 16))
    a, b = (tp.simulate(s, x, timesteps=4).output for s in (snn, back))
    assert torch.equal(a, b)
    with pytest.raises(tp.ArgumentError, match="other sites"):
        resized(snn, build_model("unet:1"), (32, 32))


@pytest.mark.parametrize(
    ("model", "tile", "message"),
    [
        (nn.Sequential(nn.Conv3d(1, 1, 3, padding=1), nn.ReLU()), (4, 8, 8), r"images \(1, H, W\)"),
        (dense(3), (16, 16), "one or two channels for a binary mask, got 3"),
        (nn.Sequential(nn.Conv2d(2, 1, 3, padding=1), nn.ReLU()), (16, 16), r"images \(1, H, W\)"),
    ],
)
def test_networks_without_a_binary_mask(
    model: nn.Module, tile: tuple[int, ...], message: str
) -> None:
    channels = 2 if getattr(model[0], "in_channels", 1) == 2 else 1
    snn = tp.convert(model.eval(), [torch.randn(4, channels, *tile)])
    with pytest.raises(tp.ArgumentError, match=message):
        segment(snn, bits(), 2, normalization=HALF)


def test_classifiers_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    snn = tp.convert(model.eval(), [torch.randn(4, 1, 16, 16)])
    with pytest.raises(tp.UnsupportedError, match="has not the size of the input"):
        segment(snn, bits(), 2, normalization=HALF)


def test_arguments_are_checked_before_the_first_slice() -> None:
    snn = converted(dense(), (16, 16), tp.IF())
    with pytest.raises(tp.ArgumentError, match=r"slices: needed 0\.\.2, got 3"):
        segment(snn, bits(), 2, normalization=HALF, slices=[0, 3])
    with pytest.raises(tp.ArgumentError, match="timesteps"):
        segment(snn, bits(), 0, normalization=HALF)
    with pytest.raises(tp.ArgumentError, match="normalization: needed one channel"):
        segment(snn, bits(), 2, normalization=Normalization((0.5,) * 3, (0.5,) * 3))
    with pytest.raises(tp.DataError, match="12 x 48 pixels are smaller than the network's tile"):
        segment(snn, bits(height=12), 2, normalization=HALF)


def _slices(folder: Path, stack: NDArray[np.generic]) -> Path:
    folder.mkdir()
    for index, pixels in enumerate(stack):
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    return folder


def test_every_layout_opens(tmp_path: Path) -> None:
    tifffile, zarr = pytest.importorskip("tifffile"), pytest.importorskip("zarr")
    stack = np.random.RandomState(0).randint(0, 256, (3, 20, 30)).astype(np.uint8)
    _slices(tmp_path / "slices", stack)
    tifffile.imwrite(tmp_path / "mapped.tif", stack, photometric="minisblack")
    tifffile.imwrite(tmp_path / "packed.tiff", stack, photometric="minisblack", compression="zlib")
    zarr.save_array(str(tmp_path / "array.zarr"), stack)
    group = zarr.open_group(str(tmp_path / "group.zarr"), mode="w")
    group.create_array("inner/images", data=stack)
    for name in ("slices", "mapped.tif", "packed.tiff", "array.zarr", "group.zarr/inner/images"):
        volume = open_stack(tmp_path / name)
        assert volume.shape == stack.shape and volume.maximum == 255
        assert volume.name(2) == ("002.png" if name == "slices" else "0002")
        read = [volume.read(index, slice(None), slice(None)) for index in range(3)]
        np.testing.assert_array_equal(np.stack(read), stack)
    for name, pixels in (("one.png", stack[1]), ("one.tif", stack[1])):
        Image.fromarray(pixels).save(tmp_path / name)
        single = open_stack(tmp_path / name)
        assert single.shape == (1, 20, 30)
        np.testing.assert_array_equal(single.read(0, slice(3, 9), slice(None)), pixels[3:9])


def test_sixteen_bit_files(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    stack = np.random.RandomState(0).randint(0, 65536, (2, 20, 30)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "v.tif", stack, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", stack, photometric="minisblack", byteorder=">")
    for name in ("v.tif", "b.tif"):
        volume = open_stack(tmp_path / name)
        assert volume.maximum == 65535
        got = normalized(volume.read(1, slice(None), slice(None)), volume.maximum, HALF)
        np.testing.assert_allclose(got, stack[1] / 65535 * 2 - 1, atol=1e-6)


def test_what_is_no_stack_of_gray_slices_is_refused(tmp_path: Path) -> None:
    tifffile, zarr = pytest.importorskip("tifffile"), pytest.importorskip("zarr")
    color = np.zeros((20, 30, 3), np.uint8)
    Image.fromarray(color).save(tmp_path / "rgb.png")
    tifffile.imwrite(tmp_path / "rgb.tif", color, photometric="rgb")
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((2, 20, 30), np.float32))
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as file:
        file.write(np.zeros((20, 30), np.uint8), photometric="minisblack")
        file.write(np.zeros((5, 7), np.uint8), photometric="minisblack")
    zarr.open_group(str(tmp_path / "group.zarr"), mode="w")
    (tmp_path / "notes.txt").write_text("no image")
    folder = _slices(tmp_path / "slices", np.zeros((4, 20, 30), np.uint8))
    (folder / "002.png").unlink()
    cases = {
        "rgb.png": (tp.DataError, "needed a grayscale slice of 8 or 16 bit, got mode RGB"),
        "rgb.tif": (tp.DataError, "It holds color: convert it to grayscale"),
        "float.tif": (tp.DataError, "needed unsigned integers, got float32"),
        "mixed.tif": (tp.DataError, "every page of one size and type"),
        "group.zarr": (tp.FileError, "needed an array, or NAME.zarr/ARRAY in a group"),
        "absent.zarr": (tp.FileError, "cannot read the array"),
        "notes.txt": (tp.DataError, "needed a .png or .tif file, a folder of slices"),
        "absent.png": (tp.FileError, "no file or folder"),
        "slices": (tp.DataError, "slice 2 is missing between 1 and 3"),
    }
    for name, (error, message) in cases.items():
        with pytest.raises(error, match=message):
            open_stack(tmp_path / name)


def test_masks_are_zero_and_one_or_zero_and_the_largest() -> None:
    wanted = np.random.RandomState(0).rand(1, 8, 8) < 0.5
    for array in (
        wanted,
        wanted.astype(np.uint8),
        wanted * np.uint8(255),
        wanted * np.uint16(65535),
    ):
        np.testing.assert_array_equal(read_mask(ArrayVolume(array, "m"), 0), wanted[0])
    with pytest.raises(tp.DataError, match="'m', slice 0: needed a binary mask of 0 and 1"):
        read_mask(ArrayVolume(wanted * np.uint8(7), "m"), 0)


def _shown(label: bool) -> list[Shown]:
    random = np.random.RandomState(0)
    masks = random.rand(2, 3, 24, 36) < 0.3
    return [
        Shown(
            f"00{5 * i}.png",
            random.randint(0, 256, (24, 36)).astype(np.uint8),
            a,
            s,
            t if label else None,
        )
        for i, (a, s, t) in enumerate(masks)
    ]


@pytest.mark.parametrize("label", [True, False])
def test_overview_shows_pixels_in_the_colors_of_its_legend(label: bool) -> None:
    shown = _shown(label)
    figure = overview_figure(shown)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(names) == (3 if label else 2)
    for name in (*DIFFERENCE_COLORS, *(ERROR_COLORS if label else ())):
        assert sum(name in one for one in names) == 1
    columns = 7 if label else 5
    assert len(figure.axes) == 2 * columns
    assert [a.get_ylabel() for a in figure.axes[::columns]] == ["slice 000.png", "slice 005.png"]
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), shown[0].snn)
    difference = np.asarray(figure.axes[3].images[0].get_array())
    gray = (difference[..., 0] == difference[..., 1]) & (difference[..., 1] == difference[..., 2])
    np.testing.assert_array_equal(gray, shown[0].snn == shown[0].ann)
    if label:
        errors = np.asarray(figure.axes[6].images[0].get_array())
        gray = (errors[..., 0] == errors[..., 1]) & (errors[..., 1] == errors[..., 2])
        np.testing.assert_array_equal(gray, ~(shown[0].snn | shown[0].label))


def test_a_difference_of_one_pixel_is_seen_in_a_large_slice() -> None:
    nothing = np.zeros((1100, 2000), bool)
    one = nothing.copy()
    one[577, 1201] = True
    pixels = np.zeros(nothing.shape, np.uint16)
    for ann, snn, color in (
        (nothing, one, DIFFERENCE_COLORS["SNN only"]),
        (one, nothing, DIFFERENCE_COLORS["ANN only"]),
    ):
        whole, part = overview_figure([Shown("000.png", pixels, ann, snn)]).axes[3:5]
        drawn = np.asarray(whole.images[0].get_array())
        found = np.argwhere(drawn.sum(axis=2) > 0)
        assert max(drawn.shape) < 700
        assert np.ptp(found, axis=0).tolist() == [6, 6]  # The pixel is a square of 7 dots.
        for place in found:
            np.testing.assert_allclose(drawn[tuple(place)] * 255, color)
        center = found.mean(axis=0) / drawn.shape[:2]
        np.testing.assert_allclose(center, (577 / 1100, 1201 / 2000), atol=0.01)
        assert whole.get_xlabel() == "differing pixels: 1, 0.00 %"
        # The enlarged part shows the pixel as one dot, and a frame marks this part in the slice.
        near = np.asarray(part.images[0].get_array())
        assert near.shape == (53, 96, 3) and len(np.argwhere(near.sum(axis=2) > 0)) == 1
        (frame,) = whole.patches
        (left, top), size = frame.get_xy(), (frame.get_width(), frame.get_height())
        assert left < found[:, 1].mean() < left + size[0]
        assert top < found[:, 0].mean() < top + size[1]


def test_a_drawn_difference_covers_no_other_one() -> None:
    nothing = np.zeros((600, 600), bool)
    ann, snn = nothing.copy(), nothing.copy()
    snn[300, 300] = True
    ann[300, 301] = True
    figure = overview_figure([Shown("a", np.zeros(nothing.shape, np.uint8), ann, snn)])
    drawn = np.asarray(figure.axes[3].images[0].get_array()) * 255
    np.testing.assert_allclose(drawn[300, 300], DIFFERENCE_COLORS["SNN only"])
    np.testing.assert_allclose(drawn[300, 301], DIFFERENCE_COLORS["ANN only"])
    same = overview_figure([Shown("a", np.zeros(nothing.shape, np.uint8), ann, ann)])
    assert same.axes[4].get_xlabel() == "rows 252 to 347, columns 252 to 347"


def test_timesteps_are_drawn_in_order_and_scored() -> None:
    one = _shown(True)[0]
    masks = {1: one.snn, 2: one.ann, 4: one.label}
    axes = timesteps_figure(masks, one.ann, one.label).axes
    assert [a.get_title() for a in axes] == ["T = 1", "T = 2", "T = 4", "ANN"]
    assert axes[2].get_xlabel() == "F1 1.0000"
    axes = timesteps_figure(masks, one.ann).axes
    assert axes[1].get_xlabel() == "100.00 % as the ANN"
    np.testing.assert_array_equal(axes[0].images[0].get_array(), one.snn)


def test_nothing_to_draw() -> None:
    with pytest.raises(tp.ArgumentError, match="at least one slice"):
        overview_figure([])
    with pytest.raises(tp.ArgumentError, match="at least one mask"):
        timesteps_figure({}, np.zeros((2, 2), bool))
