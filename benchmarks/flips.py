"""How often the engine counts another spike than the reference, neuron by neuron and step by step.

    python benchmarks/flips.py --weights WEIGHTS
    python benchmarks/flips.py --model vgg-cifar --weights zoo/vgg-cifar.safetensors

With weights of few bits both are equal (see the tests). With trained float32 weights, sums in
another order may round otherwise, and a membrane next to its threshold may then fire a step earlier
or later; what follows from such a flip in later layers is counted too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import transpike as tp
from transpike.data import open_data
from transpike.models import build_model

NEURONS = {
    "if": tp.IF(),
    "signed:1": tp.Signed(1),
    "signed:8": tp.Signed(8),
    "burst:5": tp.Burst(5),
}


def differing(snn: tp.SpikingNetwork, x: torch.Tensor, timesteps: int) -> tuple[int, int]:
    """Counts (one per neuron and timestep) that differ, and all of them."""
    sites = list(snn.steps)
    slow = tp.simulate_reference(snn, x, timesteps, record=sites)
    fast = tp.simulate(snn, x, timesteps, record=sites)
    flips = values = 0
    for name in sites:
        one, other = slow.records[name].counts, fast.records[name].counts
        flips += int((one != other).sum())
        values += one.numel()
    return flips, values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", default="cifar10:.data/cifar10.npz")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--timesteps", type=int, default=32)
    parser.add_argument("--calibration-size", type=int, default=512)
    parser.add_argument("--output", type=Path, default=Path("results/flips"))
    args = parser.parse_args()
    data = open_data(args.data)
    training = [x for x, _ in data.train.subset(args.calibration_size, 0).batches(64)]
    network = tp.capture(build_model(args.model, args.weights), training[0])
    statistics = tp.calibrate(network, training)
    found = {}
    for name, neuron in NEURONS.items():
        snn = tp.convert(network, statistics, neuron=neuron)
        flips = values = 0
        for x, _ in data.test.subset(args.images, 0).batches(args.batch_size):
            pair = differing(snn, x, args.timesteps)
            flips, values = flips + pair[0], values + pair[1]
        found[name] = {"flips": flips, "values": values, "share": flips / values}
        print(f"{args.model} {name}: {flips} of {values:,} counts differ ({flips / values:.1e})")
    args.output.mkdir(parents=True, exist_ok=True)
    asked = {key: str(getattr(args, key)) for key in ("images", "timesteps", "calibration_size")}
    result = {"model": args.model, "asked": asked, "torch": str(torch.__version__), "found": found}
    (args.output / f"{args.model}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
