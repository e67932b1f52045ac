"""Which accuracy do other libraries and transpike reach on ResNet-20, with how many spikes?

    python -m benchmarks.peers.curves --weights WEIGHTS --images 1000 \\
        --contestants spikingjelly-single:channel-half braincog:gamma5 engine-exact

Every part of a contestant's test images is a line of results/peers.jsonl and is not run again. The
test images are a fixed draw, and calibration uses training images only. Spikes are counted at the
outputs of all spiking neurons, a count of n as n spikes. Input, pooling and readout are analog and
are not counted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.peers.processes import ROOT, Worker
from transpike.study.records import Record, Records

ALL = (
    "ann",
    *(f"spikingjelly-single:{v}" for v in ("max", "p99.9", "channel-half", "ltb")),
    *(f"braincog:{v}" for v in ("gamma5", "gamma5-p99", "gamma2")),
)
PARTS = 10


def curve(setup: dict[str, Any], asked: dict[str, Any], records: Records) -> None:
    """Run the parts of one contestant that have no record yet."""
    about = {
        "contestant": setup["contestant"],
        "network": setup["network"],
        "calibration_images": setup["calibration"],
        "asked": asked,
    }
    stored = [record for record in records.all() if about.items() <= record.items()]
    missing = set(range(PARTS)) - {record["part"] for record in stored}
    if missing:
        worker = Worker(setup)
        if not worker.ready:
            print(f"{setup['contestant']}: not available: {worker.hello['reason']}")
            return
        made = {key: worker.hello[key] for key in ("settings", "versions")}
        for part in sorted(missing):
            answer = worker.ask({"do": "accuracy", **asked, "part": part, "parts": PARTS})
            if "failed" in answer:
                print(f"{setup['contestant']}: {answer['failed']}")
                break
            records.append({**about, "part": part, **answer, **made})
        worker.close()
    for entry in entries([record for record in records.all() if about.items() <= record.items()]):
        shares = {t: round(100 * share, 2) for t, share in entry["accuracy"].items()}
        print(f"{setup['contestant']}: n={entry['n']} accuracy % {shares}", flush=True)


def entries(records: list[Record]) -> list[Record]:
    """One entry per contestant and settings, with its parts and their totals."""
    found: dict[str, Record] = {}
    for record in records:
        about = {key: record[key] for key in ("contestant", "network", "calibration_images")}
        about["asked"] = record["asked"]
        entry = found.setdefault(json.dumps(about), {**about, "parts": {}})
        entry["parts"][record["part"]] = record
    return [
        entry | totals(list(entry["parts"].values()), entry["asked"]["at"])
        for entry in found.values()
    ]


def totals(parts: list[Record], at: list[int]) -> Record:
    """The n, accuracy and spikes per image over all parts."""
    n = sum(part["n"] for part in parts)
    return {
        "n": n,
        "accuracy": {str(t): sum(part["right"][str(t)] for part in parts) / n for t in at},
        "spikes_per_image": {str(t): sum(part["spikes"][str(t)] for part in parts) / n for t in at},
    }


def main() -> None:
    """Measure what is missing of every contestant."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contestants", nargs="+", default=ALL)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", default="cifar10:.data/cifar10.npz")
    parser.add_argument("--images", type=int, default=1000, help="test images")
    parser.add_argument("--calibration", type=int, default=1024, help="training images")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--neuron", default="if", help="neuron of transpike's contestants")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "results/peers.jsonl")
    args = parser.parse_args()
    records = Records(args.output)
    asked = {"images": args.images, "at": args.timesteps, "batch": args.batch}
    for name in args.contestants:
        setup = {
            "contestant": name,
            **{key: getattr(args, key) for key in ("network", "weights", "data", "device")},
            **{key: getattr(args, key) for key in ("threads", "calibration", "neuron")},
        }
        curve(setup, asked, records)


if __name__ == "__main__":
    main()
