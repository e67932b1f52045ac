"""Dense networks for small volumes, and the command line that runs on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

SHAPE = (8, 32, 48)
MODEL = "volume_cases:dense"
SMALL = ["--neuron", "signed:2", "--timesteps", "3"]


def dense() -> nn.Module:
    """Return a small dense network, always the same; about half of its mask is positive."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(4, 1, 1),
        )
        with torch.no_grad():
            model[-1].bias -= model(2 * torch.rand(2, 1, 32, 32) - 1).median()
        return model


def loaded(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


class _Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = dense()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x) + x.mean(dim=(2, 3), keepdim=True)
        return out


def pooled() -> nn.Module:
    """Return a model in which every output pixel depends on the whole image."""
    return _Pooled()


def overlap_scores(mask: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Return F1 and the Jaccard index from sets of pixels."""
    both, either = int((mask & truth).sum()), int((mask | truth).sum())
    return 2 * both / (both + either), both / either


def make_older(saved: Path, folder: Path) -> Path:
    """Copy the saved network in the form of an older version, which stored only one size."""
    shutil.copytree(saved, folder)
    config = loaded(folder / "config.json")
    del config["sizes"]
    (folder / "config.json").write_text(json.dumps(config | {"schema": 2}))
    return folder
