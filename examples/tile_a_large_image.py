"""Runs a network on an image that is larger than its input, tile by tile."""

import torch
from torch import nn

import transpike as tp

TILE, TIMESTEPS = 64, 4

torch.manual_seed(0)
model = nn.Sequential(  # its output has the size of its input, as tiles need it
    *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()),
    *(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1)),
).eval()
snn = tp.convert(model, [torch.rand(8, 1, TILE, TILE)], neuron=tp.Signed(1))

image = torch.rand(1, 200, 300).numpy()  # (C, H, W); a memory-mapped file works too
run = tp.simulate_tiled(snn, image, timesteps=TIMESTEPS)
print("output", run.output.shape, "tiles", run.tiles, "overlap", run.overlap)

# Tiles overlap by as much as the network sees, so the result is that of the whole image.
print("equal to the whole image:", run.exact)
