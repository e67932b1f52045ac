"""One contestant in a process of its own, which answers one JSON request per line.

`timing.engine` and `peers.curves` start it. The first line of standard input is its setup. Standard
output has only answers; what the libraries print goes to standard error.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from typing import Any

import torch
from torch import Tensor

import transpike as tp
from benchmarks.memory import base_memory, peak_over
from benchmarks.peers.networks import NETWORKS, Entry
from transpike.data import open_data
from transpike.study.paired import Right

SHORTEST = 0.3  # seconds; shorter runs are repeated until they take this long
CALIBRATION_SEED, TEST_SEED = 1, 0


def main() -> None:
    """Make the contestant, then answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    setup = json.loads(sys.stdin.readline())
    torch.set_num_threads(setup["threads"])
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    try:
        desk = _Desk(setup)
        reply = {"ready": True, "settings": desk.contestant.settings(), "versions": versions()}
    except Exception as error:  # the parent reports the contestant as not available
        reply = {"ready": False, "reason": f"{type(error).__name__}: {error}"}
    _say(answers, reply)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = getattr(desk, request.pop("do"))(**request)
        except Exception as error:
            reply = {"failed": f"{type(error).__name__}: {error}"}
        _say(answers, reply)


def _say(answers: Any, reply: dict[str, Any]) -> None:
    answers.write(json.dumps(reply) + "\n")
    answers.flush()


def versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3])), "transpike": tp.__version__}
    for package in ("torch", "torchvision", "spikingjelly", "braincog", "triton", "cupy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class _Desk:
    """The contestant and its data; its methods answer the requests of their names."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.setup, self.device = setup, setup["device"]
        self.entry: Entry = NETWORKS[setup["network"]]
        self.contestant = build(setup, self.entry)
        self._answer(
            self._images(1), 2
        )  # compiles kernels, which must not count as memory of a run

    def _images(self, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, *self.entry.shape, generator=generator).to(self.device)

    def _answer(self, x: Tensor, timesteps: int) -> Tensor:
        output = self.contestant.run(x, timesteps)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return output

    def memory(self, batch: int, timesteps: int) -> dict[str, Any]:
        """Peak memory over what is in use before, and the seconds of this first run."""
        x = self._images(batch)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            base = torch.cuda.memory_allocated()
        else:
            base = base_memory()
        start = time.perf_counter()
        self._answer(x, timesteps)
        seconds = time.perf_counter() - start
        on_cuda = self.device == "cuda"
        peak = torch.cuda.max_memory_allocated() - base if on_cuda else peak_over(base)
        return {"peak": peak, "base": base, "seconds": seconds}

    def time(self, batch: int, timesteps: int) -> dict[str, Any]:
        """Seconds of one simulation of T timesteps: the mean over `runs` simulations in a row."""
        x = self._images(batch)
        runs, start = 0, time.perf_counter()
        while runs == 0 or time.perf_counter() - start < SHORTEST:
            self._answer(x, timesteps)
            runs += 1
        return {"seconds": (time.perf_counter() - start) / runs, "runs": runs}

    def accuracy(
        self, images: int, at: list[int], batch: int, part: int, parts: int
    ) -> dict[str, Any]:
        """Which predictions are right, how many, and spikes at each t, on one part of a draw."""
        split = open_data(self.setup["data"]).test.subset(images, TEST_SEED)
        right, spikes, n = dict.fromkeys(at, 0), dict.fromkeys(at, 0.0), 0
        which = {t: Right() for t in at}
        for number, (x, target) in enumerate(split.batches(batch)):
            if number % parts != part:
                continue
            curve = self.contestant.curve(x.to(self.device), at)
            for t in at:
                output = curve.outputs[t].cpu()
                right[t] += int((output.argmax(dim=1) == target).sum())
                which[t].update(output, target)
                if curve.spikes:
                    spikes[t] += float(curve.spikes[t].sum())
            n += len(target)
        flags = {t: one.compute() for t, one in which.items()}
        return {"n": n, "right": right, "which": flags, "spikes": spikes}


def build(setup: dict[str, Any], entry: Entry) -> Any:
    """Make the contestant that the setup names.

    The names are ann, reference, engine-PRECISION, spikingjelly-MODE, braincog and snn-calibration.
    The variant of a peer follows a colon, as in "spikingjelly-single:ltb".
    """
    name, _, variant = setup["contestant"].partition(":")
    peers = ("spikingjelly", "braincog", "snn-calibration")
    make = entry.build if name.startswith(peers) else entry.plain
    model = (make or entry.build)(setup["weights"])
    images = calibration(setup, entry)
    if name.startswith("spikingjelly"):
        from benchmarks.peers.spikingjelly_adapter import SpikingJelly

        multi = name.endswith("multi")
        return SpikingJelly(model, images, variant or "channel-half", multi, setup["device"])
    if name == "braincog":
        from benchmarks.peers.braincog_adapter import BrainCog

        return BrainCog(model, images, variant or "gamma5", setup["device"])
    if name == "snn-calibration":
        from benchmarks.peers.snn_calibration_adapter import SnnCalibration

        return SnnCalibration(model, images, variant, setup["device"])
    from benchmarks.peers.contestants import Analog, Transpike

    if name == "ann":
        return Analog(model.to(setup["device"]))
    precision = name.removeprefix("engine-")
    batches = list(images.split(64))
    return Transpike(model, batches, setup["neuron"], precision, setup["device"])


def calibration(setup: dict[str, Any], entry: Entry) -> Tensor:
    """The same training images for all contestants; random images if the weights are random."""
    if entry.trained:
        split = open_data(setup["data"]).train.subset(setup["calibration"], CALIBRATION_SEED)
        return torch.cat([x for x, _ in split.batches(64)])
    count = 64 if entry.shape[-1] <= 32 else 2
    return torch.randn(count, *entry.shape, generator=torch.Generator().manual_seed(1))


if __name__ == "__main__":
    main()
