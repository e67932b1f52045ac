"""Converts a network of your own, measures it, saves it and loads it."""

import tempfile

import torch
from torch import nn

import transpike as tp
from transpike.data import open_data

digits = open_data("digits")  # images of 8 x 8 pixels, from scikit-learn
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(10):
    for x, y in digits.train.batches(64, torch.randperm(len(digits.train)).numpy()):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
model.eval()

calibration = digits.train.subset(512, seed=0)  # training images; labels are not used
snn = tp.convert(model, calibration.batches(64), neuron=tp.Signed(1))
print(tp.evaluate(snn, digits.test.batches(100), timesteps=16))

with tempfile.TemporaryDirectory() as folder:
    tp.save(snn, folder)  # config.json and a file of tensors
    loaded = tp.load(folder)
    x, labels = next(digits.test.batches(5))
    run = tp.simulate(loaded, x, timesteps=16)
    print("predicted", run.output[-1].argmax(1).tolist(), "labels", labels.tolist())
