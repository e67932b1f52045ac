"""In which steps does the engine spend its time?

    python -m benchmarks.timing.profile_engine --networks resnet18

After a warm-up, one simulation is timed step by step: convolutions, neurons, pooling and readout.
The "rest" is time outside these steps: the loop, freeing memory, and collecting the results.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

import transpike as tp
from benchmarks.peers.networks import NETWORKS
from benchmarks.peers.worker import calibration
from transpike.conversion.specs import parse_neuron
from transpike.graph.ops import packet
from transpike.simulation.engine import run as engine_run
from transpike.simulation.engine.convolve import SparseConvolution

_PRODUCTS = ("conv", "linear", "addmm", "mm")


class Clock:
    """Seconds by kind of step, and numbers of sparse and dense convolutions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.sparse = self.dense = 0

    def timed(self, method: Callable[..., Any], kind: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            result = method(*args)
            self.seconds[kind(*args)] += time.perf_counter() - start
            return result

        return call


def profiled(snn: tp.SpikingNetwork, x: torch.Tensor, timesteps: int, precision: str) -> Clock:
    """Time one simulation, step by step."""
    clock, portion = Clock(), engine_run._Portion
    kept = {name: getattr(portion, name) for name in ("linear", "site", "cumulative", "read_chunk")}
    sparse = SparseConvolution.__call__

    def kind_of(_: Any, step: Any, *rest: Any) -> str:
        del rest
        name = packet(step.node.op)
        return "convolutions" if any(word in name for word in _PRODUCTS) else f"linear: {name}"

    def counted(self: SparseConvolution, values: Any, rows: int) -> Any:
        fallback, dense = self.fallback, []
        self.fallback = lambda *args: (dense.append(1), fallback(*args))[1]
        try:
            return sparse(self, values, rows)
        finally:
            self.fallback = fallback
            clock.dense += len(dense)
            clock.sparse += 1 - len(dense)

    portion.linear = clock.timed(kept["linear"], kind_of)
    portion.site = clock.timed(kept["site"], lambda *_: "neurons")
    portion.cumulative = clock.timed(kept["cumulative"], lambda *_: "pooling")
    portion.read_chunk = clock.timed(kept["read_chunk"], lambda *_: "readout")
    SparseConvolution.__call__ = counted
    try:
        start = time.perf_counter()
        tp.simulate(snn, x, timesteps, record=tp.Record(output_at=[timesteps]), precision=precision)
        clock.seconds["all"] = time.perf_counter() - start
    finally:
        SparseConvolution.__call__ = sparse
        for name, method in kept.items():
            setattr(portion, name, method)
    return clock


def main() -> None:
    """Print the shares of the steps for every network, batch size and precision."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=["resnet18"], choices=list(NETWORKS))
    parser.add_argument("--weights", default="", help="file for ResNet-20, which needs it")
    parser.add_argument("--data", default="cifar10:.data/cifar10.npz")
    parser.add_argument("--calibration", type=int, default=128, help="training images")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--timesteps", type=int, default=8)
    parser.add_argument("--neuron", default="if")
    parser.add_argument("--precisions", nargs="+", default=["exact", "fast"])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.networks:
        entry = NETWORKS[name]
        images = calibration({"data": args.data, "calibration": args.calibration}, entry)
        model = (entry.plain or entry.build)(args.weights)
        snn = tp.convert(model, list(images.split(64)), neuron=parse_neuron(args.neuron))
        for batch in args.batches:
            x = images.repeat(1 + batch // len(images), 1, 1, 1)[:batch]
            for precision in args.precisions:
                profiled(snn, x, args.timesteps, precision)
                clock = profiled(snn, x, args.timesteps, precision)
                total = clock.seconds.pop("all")
                clock.seconds["rest"] = total - sum(clock.seconds.values())
                shares = {
                    kind: f"{100 * seconds / total:.1f} %"
                    for kind, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1])
                }
                print(
                    f"{name} batch {batch} T={args.timesteps} {precision}: {1000 * total:.1f} ms, "
                    f"{clock.sparse} convolutions sparse, {clock.dense} dense: {shares}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
