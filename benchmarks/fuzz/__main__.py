"""Does everything agree with an independent oracle, on networks that nobody chose?

    python -m benchmarks.fuzz --networks 10000 --seed 0 --processes 1

For every seed it draws a network, captures it, and compares the captured network with the eager
module and with the oracle. It converts the network with neurons that are drawn too, and compares
the simulators, the quantized network, the cost and a saved copy with the oracle. It also compares
sparse convolutions bit for bit. `docs/promises.md` says what has to agree.

The seeds are worked off in shards. A shard that has a line in results/fuzz.jsonl is not repeated,
so an interrupted command can be started again. Every disagreement prints its seed and its network,
and the exit code is then 1. `--networks 1 --seed S` repeats one seed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import transpike
from benchmarks.fuzz.checks import Case, Tally, listed_once
from benchmarks.fuzz.convolutions import check_convolution
from transpike.study.records import Records

SHARD = 5  # seeds
_SHOWN = 3  # disagreements of one seed that are printed


def examined(seeds: range, instructions: int, simulations: int, weights: int) -> Tally:
    """Make all checks for some seeds. An error of any kind is a disagreement."""
    tally = Tally()
    for seed in seeds:
        try:
            Case(seed, tally, instructions).run(simulations, weights)
            check_convolution(seed, tally)
        except Exception:
            last = traceback.format_exc().strip().splitlines()
            tally.disagreements.append((seed, "error: " + "\n".join(last[-8:]), ""))
    return tally


def shown(tally: Tally) -> None:
    """Print the disagreements, a few of every seed."""
    printed: Counter[int] = Counter()
    for seed, what, program in tally.disagreements:
        if not printed[seed]:
            print(f"\nseed {seed}:\n{program}", flush=True)
        printed[seed] += 1
        if printed[seed] <= _SHOWN:
            print(f"  {what}", flush=True)


def shard(task: tuple[int, int, argparse.Namespace]) -> dict[str, Any]:
    """Work off the seeds from `low` to `high` - 1, and keep the result."""
    low, high, args = task
    asked = {
        "seeds": [low, high],
        "instructions": args.instructions,
        "simulations": args.simulations,
        "weights": args.weights,
    }
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of PyTorch, on modules that a user would avoid
    records = Records(args.output)
    with records.claimed(asked) as mine:
        for record in records.all():
            if record["asked"] == asked and record["version"] == transpike.__version__:
                return record
        if not mine:
            return {"asked": asked, "counts": {}, "disagreements": []}
        start = time.monotonic()
        with listed_once():
            tally = examined(range(low, high), args.instructions, args.simulations, args.weights)
        shown(tally)
        record = {
            "asked": asked,
            "version": transpike.__version__,
            "torch": str(torch.__version__),
            "counts": dict(sorted(tally.counts.items())),
            "disagreements": [[seed, what] for seed, what, _ in tally.disagreements],
            "seconds": round(time.monotonic() - start, 1),
        }
        records.append(record)
        return record


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--instructions", type=int, default=14, help="operations of a network")
    parser.add_argument("--simulations", type=int, default=2, help="conversions of a network")
    parser.add_argument("--weights", type=int, default=1, help="networks of one captured graph")
    parser.add_argument("--output", type=Path, default=Path("results/fuzz.jsonl"))
    return parser.parse_args()


def main() -> int:
    """Work off all shards, print the counts, and return the exit code."""
    args = parsed()
    seeds = -(-args.networks // args.weights)
    last = args.seed + seeds
    bounds = [(low, min(low + SHARD, last)) for low in range(args.seed, last, SHARD)]
    tasks = [(low, high, args) for low, high in bounds]
    counts: Counter[str] = Counter()
    disagreements = 0
    if args.processes == 1:
        found = map(shard, tasks)
    else:
        found = multiprocessing.get_context("spawn").Pool(args.processes).imap(shard, tasks)
    for record in found:
        counts.update(record["counts"])
        disagreements += len({seed for seed, _ in record["disagreements"]})
        done = record["asked"]["seeds"][1] - args.seed
        print(f"{done:,} of {seeds:,} seeds, {disagreements} disagree", flush=True)
    print()
    for name, number in sorted(counts.items()):
        print(f"{number:>14,}  {name}")
    print(f"{disagreements:>14,}  seeds with a disagreement")
    return 1 if disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
