"""Accuracy and spikes per image against T, of peers and of ours, on the trained ResNet-20.

    python benchmarks/peers/curves.py --weights WEIGHTS --images 1000 \\
        --contestants spikingjelly-single:channel-half braincog:gamma5 engine-exact

One file per contestant, results/peers/NAME.json; finished parts are not run again. Test images are
a fixed draw; calibration uses training images only. Spikes are counted at the outputs of all
spiking neurons, a count of n as n spikes; input, pooling and readout are analog and not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from processes import ROOT, Worker

ALL = (
    "ann",
    *(f"spikingjelly-single:{v}" for v in ("max", "p99.9", "channel-half", "ltb")),
    *(f"braincog:{v}" for v in ("gamma5", "gamma5-p99", "gamma2")),
)
PARTS = 10


def curve(setup: dict[str, Any], images: int, at: list[int], batch: int, path: Path) -> None:
    """Run what is missing of one contestant, part by part."""
    asked = {"images": images, "at": at, "batch": batch}
    entry = json.loads(path.read_text()) if path.exists() else {}
    if entry.get("asked") != asked:
        entry = {"contestant": setup["contestant"], "asked": asked, "parts": {}}
    missing = [part for part in range(PARTS) if str(part) not in entry["parts"]]
    if missing:
        worker = Worker(setup)
        if not worker.ready:
            print(f"{setup['contestant']}: not available: {worker.hello['reason']}")
            return
        entry |= {"settings": worker.hello["settings"], "versions": worker.hello["versions"]}
        entry |= {"calibration_images": setup["calibration"], "network": setup["network"]}
        for part in missing:
            answer = worker.ask({"do": "accuracy", **asked, "part": part, "parts": PARTS})
            if "failed" in answer:
                print(f"{setup['contestant']}: {answer['failed']}")
                break
            entry["parts"][str(part)] = answer
            entry |= totals(list(entry["parts"].values()), at)
            path.write_text(json.dumps(entry, indent=1) + "\n")
        worker.close()
    shares = {t: round(100 * share, 2) for t, share in entry.get("accuracy", {}).items()}
    print(f"{setup['contestant']}: n={entry.get('n')} accuracy % {shares}", flush=True)


def totals(parts: list[dict[str, Any]], at: list[int]) -> dict[str, Any]:
    """n, accuracy and spikes per image over all parts."""
    n = sum(part["n"] for part in parts)
    return {
        "n": n,
        "accuracy": {str(t): sum(part["right"][str(t)] for part in parts) / n for t in at},
        "spikes_per_image": {str(t): sum(part["spikes"][str(t)] for part in parts) / n for t in at},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contestants", nargs="+", default=ALL)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", default="cifar10:.data/cifar10.npz")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--calibration", type=int, default=1024)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--neuron", default="if", help="of transpike's contestants")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "results/peers")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name in args.contestants:
        setup = {
            "contestant": name,
            **{key: getattr(args, key) for key in ("network", "weights", "data", "device")},
            **{key: getattr(args, key) for key in ("threads", "calibration", "neuron")},
        }
        path = args.output / f"{name.replace(':', '-')}.json"
        curve(setup, args.images, args.timesteps, args.batch, path)


if __name__ == "__main__":
    main()
