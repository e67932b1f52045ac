"""Software faults of an early study, made on purpose, so that a reader sees the losses vanish.

    python -m benchmarks.study.artefacts MODEL --weights WEIGHTS

The study of residual networks at https://github.com/HeadLiuYun/Systems_Neuroscience found that
residual connections lose much accuracy, and that some networks collapse. This program simulates a
network with a small converter of its own, once without a fault and once with each of these:

- shared neuron: a ReLU module that the network calls twice becomes one neuron, whose membrane and
  threshold serve two places of the network.
- pooling windows: max-pooling takes every window for 2x2, as for the stem with windows of 3x3.
- no reset: the membranes keep what the batch before left in them.

The setting is that of the study: burst neurons with K = 5, a threshold per layer at the 99th
percentile, and an initial membrane of 0. transpike itself has no switch for faults.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transpike.data import open_data
from transpike.measure.intervals import wilson_interval
from transpike.zoo.models import build_model

MAX_COUNT = 5
PERCENTILE = 0.99
_CALIBRATION_BATCH = 64
_QUANTILE_VALUES = 2**24  # torch.quantile takes no more


@dataclass(frozen=True)
class Faults:
    """Which faults a simulation has."""

    shared_neuron: bool = False
    pooling_windows: bool = False
    no_reset: bool = False


FAULTS = {
    "none": Faults(),
    "shared neuron": Faults(shared_neuron=True),
    "pooling windows": Faults(pooling_windows=True),
    "no reset": Faults(no_reset=True),
}


class Neurons(nn.Module):
    """Burst neurons in the place of a ReLU module, with one membrane per call of the module.

    With `shared`, all calls use the membrane and the threshold of the first one.
    """

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.values: list[list[Tensor]] | None = []  # of each call, while calibration runs
        self.thresholds: list[float] = []
        self.membranes: dict[int, Tensor] = {}
        self.call = 0

    def forward(self, x: Tensor) -> Tensor:
        """The ReLU during calibration, and the spikes of one timestep after it."""
        index = 0 if self.shared else self.call
        self.call += 1
        if self.values is not None:
            if index == len(self.values):
                self.values.append([])
            self.values[index].append(F.relu(x).flatten())
            return F.relu(x)
        threshold = self.thresholds[index]
        membrane = self.membranes.get(index, torch.zeros_like(x)) + x / threshold
        count = membrane.floor().clamp(0, MAX_COUNT)
        self.membranes[index] = membrane - count
        return count * threshold

    def finish(self) -> None:
        """Set the thresholds from the values that were seen."""
        assert self.values is not None
        for values in self.values:
            every = torch.cat(values)
            kept = every[:: -(-len(every) // _QUANTILE_VALUES)]
            self.thresholds.append(max(float(torch.quantile(kept, PERCENTILE)), 1e-12))
        self.values = None


class Pooling(nn.Module):
    """Max-pooling of spikes: the increase of the pooled sum of all inputs so far.

    With `two_by_two`, what has been sent is taken from windows of 2x2, whatever the windows are.
    """

    def __init__(self, pool: nn.MaxPool2d, two_by_two: bool) -> None:
        super().__init__()
        self.pool, self.two_by_two = pool, two_by_two
        self.calibrates = True
        self.sum: Tensor | None = None
        self.sent: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """One timestep."""
        if self.calibrates:
            return self.pool(x)
        self.sum = x if self.sum is None else self.sum + x
        pooled = self.pool(self.sum)
        if self.two_by_two:
            self.sum = self.sum - F.interpolate(pooled, size=x.shape[2:], mode="nearest")
            return pooled
        out = pooled if self.sent is None else pooled - self.sent
        self.sent = pooled
        return out


class Simulation:
    """A network with spiking neurons and perhaps faults.

    Args:
        model: the trained network; it does not change.
        batches: images for the thresholds.
        faults: what is wrong.
    """

    def __init__(self, model: nn.Module, batches: Iterable[Tensor], faults: Faults) -> None:
        self.network = copy.deepcopy(model).eval()
        self.faults = faults
        self._replace(self.network)
        self.neurons = [m for m in self.network.modules() if isinstance(m, Neurons)]
        self.pools = [m for m in self.network.modules() if isinstance(m, Pooling)]
        for images in batches:
            self._step(images)
        for neurons in self.neurons:
            neurons.finish()
        for pool in self.pools:
            pool.calibrates = False

    def _replace(self, module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, Neurons(self.faults.shared_neuron))
            elif isinstance(child, nn.MaxPool2d):
                setattr(module, name, Pooling(child, self.faults.pooling_windows))
            else:
                self._replace(child)

    def _step(self, images: Tensor) -> Tensor:
        for neurons in self.neurons:
            neurons.call = 0
        with torch.inference_mode():
            found: Tensor = self.network(images)
        return found

    def reset(self) -> None:
        """Forget all membranes."""
        for neurons in self.neurons:
            neurons.membranes.clear()
        for pool in self.pools:
            pool.sum = pool.sent = None

    def output(self, images: Tensor, timesteps: int) -> Tensor:
        """The mean output over T timesteps, (B, classes)."""
        if not self.faults.no_reset:
            self.reset()
        return sum((self._step(images) for _ in range(timesteps)), torch.zeros(())) / timesteps


def accuracy(simulation: Simulation, batches: Iterable[tuple[Tensor, Tensor]], t: int) -> float:
    """Share of right predictions after T timesteps. All batches need the same size."""
    right = [simulation.output(x, t).argmax(dim=1) == y for x, y in batches]
    return float(torch.cat(right).float().mean())


def table(args: argparse.Namespace) -> list[str]:
    """One row per fault that the network can have."""
    data = open_data(args.data)
    model = build_model(args.model, args.weights, len(data.classes))
    train = data.train.subset(args.calibration_size, 0)
    images = [x for x, _ in train.batches(_CALIBRATION_BATCH)]
    tested = list(data.test.subset(args.limit, 0).batches(args.batch_size))
    with torch.inference_mode():
        ann = float(torch.cat([model(x).argmax(1) == y for x, y in tested]).float().mean())
    lines = [
        f"{args.model} on {data.name}: ANN {100 * ann:.2f} %, n = {args.limit}, T = "
        f"{args.timesteps}, burst K = {MAX_COUNT}, {args.calibration_size} calibration images",
        "",
        "| fault | SNN % | 95 % |",
        "|---|---|---|",
    ]
    for name, faults in FAULTS.items():
        found = accuracy(Simulation(model, images, faults), tested, args.timesteps)
        low, high = wilson_interval(found * args.limit, args.limit)
        lines.append(f"| {name} | {100 * found:.2f} | [{100 * low:.2f}, {100 * high:.2f}] |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Simulate with each fault, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="for example resnet18:16 or resnet18-7x7:16")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", default="cifar10:.data/cifar10.npz")
    parser.add_argument("--timesteps", type=int, default=64)
    parser.add_argument("--limit", type=int, default=1000, help="number of test images")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--calibration-size", type=int, default=512)
    args = parser.parse_args()
    if args.limit % args.batch_size:
        parser.error("--limit: needed a multiple of --batch-size, because no reset keeps batches.")
    print("\n".join(table(args)))


if __name__ == "__main__":
    main()
