"""How much time and memory does a simulation take, compared with the analog network and peers?

    python -m benchmarks.timing.engine --weights WEIGHTS          # hours on two cores; resumable
    python -m benchmarks.timing.engine --weights WEIGHTS --quick  # about a minute
    python -m benchmarks.timing.engine --only-table               # write the tables again

Every contestant is a process of its own. The processes stay alive and are asked for one repetition
at a time, in turn, so that all of them meet the same conditions and have memory of their own. A
cell is one network, batch size and T. It is a line of results/engine.jsonl, and contestants that it
has are not run again: the last line of a cell counts. A contestant is left out of a cell, and
listed, if smaller cells predict more than --longest seconds or more than --memory-limit GiB.

What is timed is the simulation of all T timesteps of one batch of static images, with the mean
readout at T. The analog network is the user's model as it is: eval(), NCHW, BatchNorm unfused,
torch.inference_mode, float32. benchmarks/peers/README.md describes the peers. Memory is the peak
resident memory of the first run of a cell, minus what the process held before that run, after it
had simulated a batch of one. On CUDA it is allocated memory.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from pathlib import Path

from benchmarks.peers.networks import NETWORKS
from benchmarks.peers.processes import ROOT, Ended, Worker, machine
from transpike.study.records import Record, Records

CONTESTANTS = (
    "ann",
    "reference",
    "engine-exact",
    "engine-fast",
    "engine-split",
    "spikingjelly-single",
    "spikingjelly-multi",
    "braincog",
)
MULTI = "spikingjelly-multi"  # its memory grows with T
GIB = 2**30


class Field:
    """The processes of the contestants on one network. One that ended is started again."""

    def __init__(self, args: argparse.Namespace, network: str) -> None:
        self.args, self.network = args, network
        self.workers: dict[str, Worker] = {}
        self.unavailable: dict[str, str] = {}

    def ask(self, name: str, request: Record) -> Record:
        """The answer of a contestant. Without one, the key "failed" holds the reason."""
        if name in self.unavailable:
            return {"failed": self.unavailable[name]}
        try:
            if name not in self.workers:
                worker = Worker(self._setup(name))
                if not worker.ready:
                    self.unavailable[name] = worker.hello["reason"]
                    worker.close()
                    return {"failed": worker.hello["reason"]}
                self.workers[name] = worker
            return self.workers[name].ask(request)
        except Ended as error:
            self.workers.pop(name, None)
            return {"failed": str(error)}

    def _setup(self, name: str) -> Record:
        keys = ("weights", "data", "device", "threads", "calibration", "neuron")
        return {"contestant": name, "network": self.network} | {
            key: getattr(self.args, key) for key in keys
        }

    def hello(self, name: str) -> Record:
        return self.workers[name].hello if name in self.workers else {}

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def run_cell(field: Field, cell: Record, done: list[Record], records: Records) -> None:
    """Measure memory and interleaved repetitions of the contestants that a cell lacks."""
    args, batch, timesteps = field.args, cell["batch"], cell["timesteps"]
    results = cell["results"]
    missing = [name for name in args.contestants if not results.get(name, {}).get("seconds")]
    if not missing:
        return
    racing = []
    for name in dict.fromkeys(("ann", *missing)):
        why = forecast(args, name, cell, done)
        if why is not None:
            results[name] = {"skipped": why}
            continue
        answer = field.ask(name, {"do": "memory", "batch": batch, "timesteps": timesteps})
        if "failed" in answer:
            results[name] = answer
            continue
        results[name] = {"peak_bytes": answer["peak"], "base_bytes": answer["base"], "seconds": []}
        results[name] |= {key: field.hello(name)[key] for key in ("settings", "versions")}
        racing.append(name)
    for number in range(args.repetitions):
        turn = number % max(1, len(racing))
        for name in racing[turn:] + racing[:turn]:
            answer = field.ask(name, {"do": "time", "batch": batch, "timesteps": timesteps})
            if "failed" in answer:
                results[name]["failed"] = answer["failed"]
            else:
                results[name]["seconds"].append(answer["seconds"])
    # A contestant that is added later is compared with the analog network of its own rounds.
    for name in racing:
        results[name]["ann_seconds"] = results["ann"].get("seconds", [])
    records.append(cell)
    shown = {n: _short(result, 1 if n == "ann" else timesteps) for n, result in results.items()}
    print(f"{cell['network']} batch {batch} T={timesteps}: {shown}", flush=True)


def _short(result: Record, timesteps: int) -> str:
    ratio = ratio_of(result, timesteps)
    if ratio is None:
        return str(result.get("skipped") or result.get("failed"))[:40]
    return f"{ratio:.2f}x {result['peak_bytes'] / 2**20:.0f} MiB"


def forecast(args: argparse.Namespace, name: str, cell: Record, done: list[Record]) -> str | None:
    """Why the nearest smaller cell lets us leave out a contestant, or None."""
    smaller = [
        c
        for c in done
        if c["network"] == cell["network"]
        and c["batch"] <= cell["batch"]
        and c["timesteps"] <= cell["timesteps"]
        and c["results"].get(name, {}).get("seconds")
    ]
    if name == "ann" or not smaller:
        return None
    near = max(smaller, key=lambda c: (c["batch"], c["timesteps"]))
    result = near["results"][name]
    more = cell["batch"] / near["batch"]
    longer = cell["timesteps"] / near["timesteps"]
    seconds = statistics.median(result["seconds"]) * more * longer
    if seconds > args.longest:
        return f"about {seconds:.0f} s for one repetition, more than {args.longest:.0f}"
    memory = result["peak_bytes"] / GIB * more * (longer if name == MULTI else 1)
    if memory > args.memory_limit:
        return f"about {memory:.0f} GiB, more than {args.memory_limit:.0f}"
    return None


def ratio_of(result: Record, timesteps: int) -> float | None:
    """Time per timestep over the time of the analog network, both as medians of the same rounds."""
    if not result.get("seconds") or not result.get("ann_seconds"):
        return None
    each = statistics.median(result["seconds"]) / timesteps
    return each / statistics.median(result["ann_seconds"])


def run_accuracy(field: Field, facts: Record, records: Records) -> None:
    """Measure accuracy and spikes of the contestants on a trained network, apart from times."""
    args = field.args
    at = [t for t in args.timesteps if t <= args.accuracy_timesteps]
    asked = {"images": args.accuracy_images, "at": at, "batch": args.accuracy_batch}
    about = {"network": field.network, **facts, "asked": asked}
    for name in args.contestants:
        wanted = {**about, "contestant": name}.items()
        if any(wanted <= record.items() for record in records.all()):
            continue
        answer = field.ask(name, {"do": "accuracy", **asked, "part": 0, "parts": 1})
        if "n" in answer:
            records.append({**about, "contestant": name, **answer})
            shares = {t: round(100 * r / answer["n"], 1) for t, r in answer["right"].items()}
            print(f"{field.network} {name}: accuracy % {shares}, n={answer['n']}", flush=True)


def run(args: argparse.Namespace) -> None:
    records = Records(args.output)
    facts = {key: getattr(args, key) for key in ("threads", "device", "neuron")}
    facts["machine"] = machine(args.device)
    for network in args.networks:
        field, done = Field(args, network), []
        for batch in sorted(args.batches):
            for timesteps in sorted(args.timesteps):
                about = {"network": network, "batch": batch, "timesteps": timesteps, **facts}
                stored = [r for r in records.all() if about.items() <= r.items()]
                cell = {**about, "results": {}}
                if stored and not args.again:
                    cell = copy.deepcopy(stored[-1])
                run_cell(field, cell, done, records)
                done.append(cell)
        if NETWORKS[network].trained and args.accuracy_images:
            run_accuracy(field, facts, accuracies(args.output))
        field.close()


def accuracies(output: Path) -> Records:
    """The records of accuracies, in a file beside that of the times: engine-accuracy.jsonl."""
    return Records(output.with_name(f"{output.stem}-accuracy{output.suffix}"))


def document(cells: list[Record], accuracies: list[Record]) -> str:
    """A section for every combination of machine, device, threads and neuron."""
    sections: dict[str, list[list[Record]]] = {}
    for index, records in enumerate((cells, accuracies)):
        for record in records:
            facts = json.dumps([record[key] for key in ("device", "machine", "threads", "neuron")])
            sections.setdefault(facts, [[], []])[index].append(record)
    return "\n".join(table(*section) for section in sections.values() if section[0])


def table(records: list[Record], accuracies: list[Record]) -> str:
    """All cells of one section as Markdown. The last record of a cell counts."""
    order = {name: index for index, name in enumerate(NETWORKS)}
    latest = {(order[c["network"]], c["batch"], c["timesteps"]): c for c in records}
    cells = [latest[key] for key in sorted(latest)]
    lines = _head(cells)
    for network in dict.fromkeys(cell["network"] for cell in cells):
        mine = [cell for cell in cells if cell["network"] == network]
        lines += ["", f"## {network}", ""]
        lines += ["| batch | T | contestant | x ANN | ms per timestep | img/s | MiB | rounds |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for cell in mine:
            rows = [_row(cell, name) for name in CONTESTANTS if name in cell["results"]]
            lines += [row for row in rows if row is not None]
        lines += _left_out(mine)
        lines += _accuracy([one for one in accuracies if one["network"] == network])
    return "\n".join([*lines, ""])


def _head(cells: list[Record]) -> list[str]:
    first = cells[0]
    facts = first["machine"]
    flags = ", ".join(f"{f} {'yes' if has else 'no'}" for f, has in facts["flags"].items())
    versions = {
        k: v for c in cells for r in c["results"].values() for k, v in r.get("versions", {}).items()
    }
    return [
        f"# Simulation speed and memory ({first['device']})",
        "",
        f"Machine: {facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB; {flags}. "
        f"{facts.get('gpu', '')}".rstrip(),
        "",
        f"Every contestant has {first['threads']} threads. transpike uses the neuron "
        f"`{first['neuron']}`, with thresholds at the 99.9th percentile per channel. SpikingJelly "
        "has the same thresholds (channel_wise, half_threshold). BrainCog has gamma=5. Versions: "
        + ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))
        + ".",
        "",
        "The columns are:",
        "",
        "- x ANN: time per timestep over the time of one forward pass of the analog network on the "
        "same batch. Both are medians over interleaved rounds. The brackets hold the smallest "
        "and the largest ratio of a round.",
        "- img/s: images per second, for all T timesteps.",
        "- MiB: peak memory minus what the process held before.",
    ]


def _row(cell: Record, name: str) -> str | None:
    result, timesteps = cell["results"][name], cell["timesteps"]
    if not result.get("seconds"):
        return None
    steps = 1 if name == "ann" else timesteps
    each = [seconds / steps for seconds in result["seconds"]]
    analog = result["ann_seconds"]
    rounds = [a / b for a, b in zip(each, analog, strict=False)]
    ratio = statistics.median(each) / statistics.median(analog)
    rate = cell["batch"] / statistics.median(result["seconds"])
    return (
        f"| {cell['batch']} | {timesteps} | {name} | {ratio:.2f} [{min(rounds):.2f}, "
        f"{max(rounds):.2f}] | {1000 * statistics.median(each):.2f} | {rate:.3g} | "
        f"{result['peak_bytes'] / 2**20:.0f} | {len(each)} |"
    )


def _left_out(cells: list[Record]) -> list[str]:
    """A list of the contestants without a time, with the reasons."""
    notes: dict[str, list[str]] = {}
    for cell in cells:
        for name, result in cell["results"].items():
            why = result.get("skipped") or result.get("failed")
            if why:
                notes.setdefault(f"{name}: {why}", []).append(
                    f"batch {cell['batch']} T={cell['timesteps']}"
                )
    if not notes:
        return []
    lines = [f"- {why} ({', '.join(places)})" for why, places in notes.items()]
    return ["", "These contestants are left out:", "", *lines]


def _accuracy(records: list[Record]) -> list[str]:
    """A table of accuracies for every draw of test images."""
    lines: list[str] = []
    for asked in {json.dumps(record["asked"]): record["asked"] for record in records}.values():
        mine = [record for record in records if record["asked"] == asked]
        at = [str(t) for t in asked["at"]]
        n = max(record["n"] for record in mine)
        lines += [
            "",
            f"Accuracy in % on {n} test images after one calibration draw. In brackets: thousand "
            "spikes per image.",
            "",
            "| contestant | " + " | ".join(f"T={t}" for t in at) + " |",
            "|---" * (len(at) + 1) + "|",
        ]
        for record in mine:
            cells = [
                f"{100 * record['right'][t] / record['n']:.1f} "
                f"({record['spikes'][t] / record['n'] / 1000:.1f})"
                for t in at
            ]
            lines.append(f"| {record['contestant']} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="", help="file for ResNet-20, which needs it")
    parser.add_argument("--data", default="cifar10:.data/cifar10.npz")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS))
    parser.add_argument("--timesteps", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument(
        "--neuron", default="if", help="neuron of transpike, as for `transpike convert`"
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--longest", type=float, default=60, help="most seconds for one repetition")
    parser.add_argument("--memory-limit", type=float, default=8, help="most GiB over the base")
    parser.add_argument(
        "--accuracy-images", type=int, default=1000, help="test images; 0 for no accuracy"
    )
    parser.add_argument(
        "--accuracy-timesteps", type=int, default=32, help="largest T of the accuracy"
    )
    parser.add_argument("--accuracy-batch", type=int, default=50)
    parser.add_argument("--calibration", type=int, default=1024, help="training images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "results/engine.jsonl")
    parser.add_argument("--again", action="store_true", help="measure finished cells again")
    parser.add_argument(
        "--quick", action="store_true", help="only ResNet-20, batch 16, T=8, 3 rounds"
    )
    parser.add_argument("--only-table", action="store_true", help="measure nothing")
    args = parser.parse_args()
    if args.quick:
        args.networks, args.batches, args.timesteps = ["resnet20"], [16], [8]
        args.repetitions, args.accuracy_images = 3, 100
        args.output = args.output.with_name(f"{args.output.stem}-quick{args.output.suffix}")
    if "ann" not in args.contestants:
        args.contestants = ["ann", *args.contestants]
    if args.device == "cpu":
        args.contestants = [name for name in args.contestants if name != "engine-split"]
    if not args.only_table:
        run(args)
    text = document(Records(args.output).all(), accuracies(args.output).all())
    args.output.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
