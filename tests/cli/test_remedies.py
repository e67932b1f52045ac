"""The remedies in the messages about refused models and batches work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import transpike as tp
from transpike.cli import app

SETTINGS = ["--data", "digits", "--timesteps", "2", "--limit", "8", "--calibration-size", "32"]
X = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8)


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def half() -> nn.Module:
    return plain().half()


def not_half() -> nn.Module:
    return half().float()


class Two(nn.Module):
    """A model with two inputs, each half of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.relu = nn.Linear(32, 10), nn.Linear(32, 10), nn.ReLU()

    def forward(self, top: Tensor, bottom: Tensor) -> Tensor:
        return self.relu(self.left(top.flatten(1))) + self.relu(self.right(bottom.flatten(1)))


class Joined(nn.Module):
    """The same model with one input, as the message advises."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Two()

    def forward(self, x: Tensor) -> Any:
        top, bottom = x.chunk(2, dim=2)
        return self.model(top, bottom)


class Dictionary(nn.Module):
    """A model with a dictionary as output."""

    def __init__(self) -> None:
        super().__init__()
        self.model = plain()

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(pixel_values)}


class OneTensor(nn.Module):
    """The same model with one tensor as output, as the message advises."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Dictionary()

    def forward(self, x: Tensor) -> Any:
        return self.model(x)["logits"]


@pytest.mark.parametrize(
    ("bad", "message", "good"),
    [
        ("half", "Convert the model with model.float(), and give it float32 inputs.", "not_half"),
        ("Two", "join several tensors into one tensor, and split it again", "Joined"),
        ("Dictionary", "or wrap the model to return one tensor.", "OneTensor"),
    ],
)
def test_a_model_is_refused_and_the_remedy_works(bad: str, message: str, good: str) -> None:
    runner = CliRunner()
    result = runner.invoke(app, ["evaluate", f"test_remedies:{bad}", *SETTINGS])
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())
    result = runner.invoke(app, ["evaluate", f"test_remedies:{good}", *SETTINGS])
    assert result.exit_code == 0, result.stderr


def test_a_half_precision_model_is_refused_with_a_remedy_that_works() -> None:
    with pytest.raises(tp.DataError, match=r"float32 or float64.*model\.float\(\)"):
        tp.capture(half(), X)
    network = tp.capture(half().float(), X)
    snn = tp.convert(network, tp.calibrate(network, [X]))
    assert tp.evaluate(snn, [(X, LABELS)], 2).n == 8


def test_a_dictionary_as_batch_is_refused_with_a_remedy_that_works() -> None:
    batch = {"pixel_values": X, "labels": LABELS}
    model = plain()
    with pytest.raises(tp.DataError, match=r"such as example_input\['pixel_values'\]"):
        tp.capture(model, batch)  # type: ignore[arg-type]
    network = tp.capture(model, batch["pixel_values"])
    with pytest.raises(tp.DataError, match=r"Give pairs, for example \[\(batch\['pixel_values'\]"):
        tp.calibrate(network, [batch])
    batches = [(batch["pixel_values"], batch["labels"]) for batch in [batch]]
    snn = tp.convert(network, tp.calibrate(network, batches))
    assert tp.evaluate(snn, batches, 2).n == 8


def test_two_inputs_are_refused_with_a_remedy_that_works() -> None:
    top, bottom = X.chunk(2, dim=2)
    with pytest.raises(tp.DataError, match="got tuple. A network has one input: join"):
        tp.capture(Two(), (top, bottom))  # type: ignore[arg-type]
    with pytest.raises(tp.DataError, match="missing 1 required.*A network has one input: join"):
        tp.capture(Two(), top)
    network = tp.capture(Joined(), torch.cat([top, bottom], dim=2))
    with pytest.raises(tp.DataError, match="got 2 input tensors. A network has one input: join"):
        tp.calibrate(network, [((top, bottom), LABELS)])
    joined = [(torch.cat([top, bottom], dim=2), LABELS)]
    snn = tp.convert(network, tp.calibrate(network, joined))
    assert tp.evaluate(snn, joined, 2).n == 8


def test_data_of_another_shape_name_the_option(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", "resnet20", *SETTINGS])
    message = " ".join(result.stderr.split())
    assert result.exit_code == 2
    assert "--data digits: the model does not accept the example input" in message
