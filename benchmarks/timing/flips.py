"""How often does the engine count another spike than the reference?

    python -m benchmarks.timing.flips --weights WEIGHTS
    python -m benchmarks.timing.flips --model vgg-cifar --weights zoo/vgg-cifar.safetensors

With weights of few bits the two are equal, as the tests show. With trained float32 weights, sums in
another order may be rounded differently. A membrane close to its threshold may then fire a timestep
earlier or later. Such a flip changes the input of later layers, so two numbers are counted:

- flips: counts that differ although the image's earlier layers, up to that timestep, and the
  earlier timesteps of the neuron are equal;
- differing: all counts that differ, including those that follow from a flip.

Adds a line to results/flips.jsonl.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import transpike as tp
from transpike.data import open_data
from transpike.study.records import Records
from transpike.zoo.models import build_model

NEURONS = {
    "if": tp.IF(),
    "signed:1": tp.Signed(1),
    "signed:8": tp.Signed(8),
    "burst:5": tp.Burst(5),
}


@dataclass
class Found:
    """Numbers of compared values; a value is the spike count of a neuron at a timestep.

    Attributes:
        flips: values that differ although nothing before them does.
        clean: values before which nothing differs.
        differing: values that differ.
        values: all values.
    """

    flips: int = 0
    clean: int = 0
    differing: int = 0
    values: int = 0

    def add(self, snn: tp.SpikingNetwork, x: Tensor, timesteps: int) -> None:
        """Simulate a batch (B, ...) with engine and reference, and count."""
        sites = list(snn.steps)
        slow = tp.simulate_reference(snn, x, timesteps, record=tp.Record(sites=sites))
        fast = tp.simulate(snn, x, timesteps, record=tp.Record(sites=sites))
        # (T, B): whether an earlier layer differs at this or an earlier timestep.
        tainted = torch.zeros(timesteps, len(x), dtype=torch.bool)
        for name in sites:
            other = slow.records[name].counts != fast.records[name].counts
            other = other.flatten(2)  # (T, B, N)
            fresh = ~tainted.unsqueeze(2)
            again = other.cumsum(0) - other.int() > 0  # the neuron differed at an earlier timestep
            self.flips += int((other & fresh & ~again).sum())
            self.clean += int((fresh & ~again).sum())
            self.differing += int(other.sum())
            self.values += other.numel()
            tainted |= other.any(2).cummax(0).values


def main() -> None:
    """Count flips for several neurons, and keep the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", default="cifar10:.data/cifar10.npz")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--timesteps", type=int, default=32)
    parser.add_argument("--calibration-size", type=int, default=512)
    parser.add_argument("--output", type=Path, default=Path("results/flips.jsonl"))
    args = parser.parse_args()
    data = open_data(args.data)
    training = [x for x, _ in data.train.subset(args.calibration_size, 0).batches(64)]
    network = tp.capture(build_model(args.model, args.weights), training[0])
    statistics = tp.calibrate(network, training)
    found = {}
    for name, neuron in NEURONS.items():
        snn = tp.convert(network, statistics, neuron=neuron)
        tally = Found()
        for x, _ in data.test.subset(args.images, 0).batches(args.batch_size):
            tally.add(snn, x, args.timesteps)
        rate, share = tally.flips / tally.clean, tally.differing / tally.values
        found[name] = {**asdict(tally), "rate": rate, "share": share}
        print(
            f"{args.model} {name}: {tally.flips} flips of {tally.clean:,} ({rate:.1e}); with what "
            f"follows {tally.differing:,} of {tally.values:,} differ ({share:.1e})",
            flush=True,
        )
    asked = {key: str(getattr(args, key)) for key in ("images", "timesteps", "calibration_size")}
    result = {"model": args.model, "asked": asked, "torch": str(torch.__version__), "found": found}
    Records(args.output).append(result)


if __name__ == "__main__":
    main()
