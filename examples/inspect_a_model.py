"""Asks whether a network converts, before any training or data is at hand."""

import torch
from torch import nn
from torchvision.models import squeezenet1_1

import transpike as tp

x = torch.zeros(2, 3, 64, 64)

# A network that converts: one line per operation, one line per site.
model = squeezenet1_1(weights=None).eval()
print(tp.inspect(model, x))

# A network that does not: every refusal says what to do instead.
model.classifier.insert(0, nn.GroupNorm(8, 512))
preflight = tp.inspect(model, x)
print(f"converts: {preflight.convertible}")
for refusal in preflight.refusals:
    print(f"- {refusal}")
