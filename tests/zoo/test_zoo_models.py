"""The VGG and the U-Net have the right shapes, names and parameters, and convert unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import transpike as tp
from transpike.errors import ArgumentError, CheckpointError
from transpike.zoo.models import build_model, load_state_dict
from transpike.zoo.models.unet import UNet, unet_width
from transpike.zoo.models.vgg_cifar import VGGCifar


def _settled(model: nn.Module, *shape: int) -> nn.Module:
    """Give BatchNorm the statistics of random inputs instead of zeros and ones."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    model.train()
    model(torch.randn(8, *shape))
    return model.eval()


def test_the_studys_network_has_31_million_parameters() -> None:
    # This is counted by hand from Ronneberger et al. 2015, figure 1, with BatchNorm and one class.
    assert sum(weight.numel() for weight in UNet(64).parameters()) == 31_042_369


def test_unet_has_the_names_of_the_studys_state_dict() -> None:
    """Stages conv1 to conv9 have two convolutions, 0 and 3, and two BatchNorms, 1 and 4."""
    names = set(UNet(4).state_dict())
    expected = {
        f"{layer}.{kind}" for layer in ("up6", "up9", "conv10") for kind in ("weight", "bias")
    }
    for stage in range(1, 10):
        expected |= {f"conv{stage}.conv.{place}.weight" for place in (0, 1, 3, 4)}
        expected |= {f"conv{stage}.conv.{place}.running_var" for place in (1, 4)}
    assert expected <= names
    assert not [name for name in names if "pool" in name]


def test_upsampled_channels_come_before_the_skip() -> None:
    """If the weights of the skip are zero, the output does not depend on the skip."""
    model = _settled(UNet(4), 1, 32, 32)
    first: Tensor = model.conv9.conv[0].weight  # type: ignore[union-attr,index,assignment]
    with torch.no_grad():
        first[:, 4:] = 0
    seen: list[Tensor] = []
    model.up9.register_forward_hook(lambda *call: seen.append(call[2]))  # type: ignore[union-attr]
    x = torch.randn(1, 1, 32, 32)
    out = model(x)
    alone = model.conv10(  # type: ignore[operator]
        model.conv9(torch.cat([seen[0], torch.randn(1, 4, 32, 32)], dim=1))  # type: ignore[operator]
    )
    assert torch.allclose(out, alone, atol=1e-6)


def test_the_studys_weights_load_by_width(tmp_path: Path) -> None:
    torch.save(UNet(4).state_dict(), tmp_path / "Unet.pth")
    state = load_state_dict(tmp_path / "Unet.pth")
    assert unet_width(state) == 4
    loaded = build_model(f"unet-sigmoid:{unet_width(state)}", tmp_path / "Unet.pth")
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(CheckpointError, match="of another shape"):
        build_model("unet:8", tmp_path / "Unet.pth")
    with pytest.raises(ArgumentError, match="not the weights of a U-Net"):
        unet_width(VGGCifar().state_dict())


def test_sigmoid_inside_is_the_sigmoid_of_the_logits() -> None:
    torch.manual_seed(0)
    outside = build_model("unet:4")
    inside = build_model("unet-sigmoid:4")
    inside.load_state_dict(outside.state_dict())
    x = torch.randn(2, 1, 32, 48)
    assert torch.allclose(inside(x), torch.sigmoid(outside(x)))
    assert outside(x).shape == (2, 1, 32, 48)


def test_names_and_widths() -> None:
    assert build_model("unet").conv1.conv[0].out_channels == 64  # type: ignore[union-attr,index]
    assert build_model("unet:3", num_classes=2)(torch.randn(1, 1, 16, 16)).shape == (1, 2, 16, 16)
    assert build_model("vgg-cifar", num_classes=7)(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(ArgumentError, match="needed a width in channels, as unet:16"):
        build_model("unet:wide")
    with pytest.raises(ArgumentError, match="UNet: needed width"):
        build_model("unet:0")
    with pytest.raises(ValueError, match="VGGCifar: needed three widths"):
        VGGCifar(widths=(8, 16))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (VGGCifar(widths=(4, 6, 8)), (3, 32, 32)),
        (UNet(2), (1, 32, 48)),
        (UNet(2, sigmoid=True), (1, 32, 32)),
    ],
    ids=["vgg", "unet", "unet-sigmoid"],
)
def test_it_converts_as_it_is(model: nn.Module, shape: tuple[int, ...]) -> None:
    """The telescoped form after T timesteps equals the network quantized to K T levels."""
    model = _settled(model, *shape).double()
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1)).double()
    network = tp.capture(model, x)
    calibration = tp.calibrate(network, [(x, torch.zeros(4))])
    snn = tp.convert(network, calibration, neuron=tp.Telescoped(max_count=2))
    run = tp.simulate_reference(snn, x, timesteps=4)
    quantized = tp.quantized_ann(snn, x, timesteps=4)
    assert torch.allclose(run.output[-1], quantized, atol=1e-9)


def test_weights_in_half_precision_load(tmp_path: Path) -> None:
    model = VGGCifar(widths=(4, 6, 8))
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()},
        tmp_path / "w.safetensors",
    )
    other = VGGCifar(widths=(4, 6, 8))
    from transpike.zoo.models import load_weights

    load_weights(other, tmp_path / "w.safetensors")
    for name, value in other.state_dict().items():
        assert value.dtype == model.state_dict()[name].dtype
        assert torch.allclose(value.float(), model.state_dict()[name].float(), atol=1e-3)


ZOO = Path(__file__).parents[2] / "zoo"


@pytest.mark.parametrize(
    ("name", "file", "shape"),
    [
        ("vgg-cifar", "vgg-cifar", (3, 32, 32)),
        ("unet:16", "unet-lucchi-w16", (1, 32, 32)),
        ("unet-sigmoid:16", "unet-lucchi-w16", (1, 32, 32)),
    ],
)
def test_the_zoo_loads_and_has_cards(name: str, file: str, shape: tuple[int, ...]) -> None:
    model = build_model(name, ZOO / f"{file}.safetensors")
    assert torch.isfinite(model(torch.randn(2, *shape))).all()
    card = (ZOO / f"{file}.md").read_text()
    assert "Apache-2.0" in card and "n = " in card and f"zoo/{file}.safetensors" in card
