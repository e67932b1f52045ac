"""How much memory and time does a large image take when it is simulated tile by tile?

    python -m benchmarks.timing.tiled_unet

The U-Net has 31 M parameters. Its weights are random; trained weights give fewer spikes, which
takes less time. The image is read from a file and the output is written to one. Adds a line to
results/tiled_unet.jsonl.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import transpike as tp
from benchmarks.memory import base_memory, peak_over
from benchmarks.peers.networks import UNet
from transpike.segment import resized
from transpike.study.records import Records

CALIBRATION_TILE = 128  # pixels, enough for the thresholds of random images


def _converted(model: torch.nn.Module, tile: tuple[int, int]) -> tp.SpikingNetwork:
    """Calibrate on a small tile, and make the network for the large tile."""
    small = torch.randn(1, 1, CALIBRATION_TILE, CALIBRATION_TILE)
    network = tp.capture(model, small)
    snn = tp.convert(network, tp.calibrate(network, [small]))
    return resized(snn, model, tile)


def measured(snn: tp.SpikingNetwork, args: argparse.Namespace) -> dict[str, Any]:
    """Simulate a random image from file to file; time and memory of it."""
    with tempfile.TemporaryDirectory() as folder:
        image = np.memmap(Path(folder) / "in", np.float32, "w+", shape=(1, *args.size))
        image[:] = np.random.default_rng(0).normal(size=image.shape)
        output = np.memmap(Path(folder) / "out", np.float32, "w+", shape=(1, *args.size))
        base = base_memory()
        start, marks = time.perf_counter(), []

        def progress(done: int, total: int) -> None:
            marks.append(time.perf_counter() - start)
            gib = peak_over(base) / 2**30
            print(f"tile {done} of {total}, {marks[-1]:.0f} s, {gib:.2f} GiB", flush=True)

        run = tp.simulate_tiled(
            snn,
            image,
            args.timesteps,
            output=output,
            tiling=tp.Tiling(overlap=args.overlap, memory_budget=int(args.memory_budget * 2**30)),
            precision=args.precision,
            progress=progress,
        )
        peak = peak_over(base)
    return {
        "tiles": run.tiles,
        "overlap": run.overlap,
        "exact": run.exact,
        "receptive_field": asdict(run.field),
        "precision": run.precision,
        "seconds": marks[-1],
        "base_bytes": base,
        "peak_over_base_bytes": peak,
        "peak_bytes": base + peak,
    }


def main() -> None:
    """Measure once and keep the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--width", type=int, default=64, help="channels of the first level; 64 has 31 M parameters"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, default=(768, 1024), help="pixels of the image"
    )
    parser.add_argument("--tile", type=int, nargs=2, default=(512, 512), help="pixels of a tile")
    parser.add_argument("--overlap", type=int, help="pixels (default: the receptive field)")
    parser.add_argument("--timesteps", type=int, default=32)
    parser.add_argument("--memory-budget", type=float, default=1.6, help="most GiB for one tile")
    parser.add_argument("--precision", default="exact")
    parser.add_argument("--output", type=Path, default=Path("results/tiled_unet.jsonl"))
    args = parser.parse_args()
    torch.manual_seed(0)
    model = UNet(args.width).eval()
    parameters = sum(p.numel() for p in model.parameters())
    snn = _converted(model, args.tile)
    del model
    record = {
        "settings": {key: value for key, value in vars(args).items() if key != "output"},
        "parameters": parameters,
        **measured(snn, args),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transpike": tp.__version__,
        "machine": platform.machine(),
    }
    Records(args.output).append(record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
