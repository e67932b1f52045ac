"""Dense networks for small volumes, and the command line that runs on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import transpike as tp
from transpike.graph.sizes import Sizes
from transpike.spiking.spiking_network import SpikingNetwork

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


def keep_one_size(saved: Path, folder: Path) -> Path:
    """Copy a saved network without the sizes that it takes, as older versions stored it."""
    snn = tp.load(saved)
    one = SpikingNetwork(
        replace(snn.network, sizes=Sizes()),
        snn.neurons,
        snn.steps,
        snn.settings,
        starts=snn.starts,
        offsets=snn.offsets,
        readout_start=snn.readout_start,
        coding=snn.coding,
    )
    tp.save(one, folder)
    return folder
