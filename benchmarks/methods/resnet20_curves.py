"""How the accuracy of a pretrained ResNet-20 for CIFAR-10 grows with T, in nine settings.

    python -m benchmarks.methods.resnet20_curves --weights WEIGHTS

Every setting is a line of results/resnet20_curves.jsonl and is not run again. The table
results/resnet20_curves.md is written from these lines. Calibration uses training images only, and
no choice depends on test data.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch

import transpike as tp
from transpike.data import open_data
from transpike.study.records import Record, Records
from transpike.zoo.models import build_model

ANN = "ann"  # name of the record of the unchanged model on all test images
LAYER = tp.Percentile(99, granularity="layer")
CHANNEL = tp.Percentile(99.9)
# The first two settings are those of the original study's converter.
SETTINGS = {
    "if_layer_p99_v0": (tp.IF(initial_membrane=0.0), LAYER),
    "burst5_range_layer_p99_v0": (tp.Burst(5, initial_membrane=0.0), LAYER),
    "if_channel": (tp.IF(), CHANNEL),
    "burst5_range_channel": (tp.Burst(5), CHANNEL),
    "signed1_channel": (tp.Signed(1), CHANNEL),
    "burst4_resolution_channel": (tp.Burst(4, mode="resolution"), CHANNEL),
    "burst8_resolution_channel": (tp.Burst(8, mode="resolution"), CHANNEL),
    "signed4_channel": (tp.Signed(4), CHANNEL),
    "signed8_channel": (tp.Signed(8), CHANNEL),
}


def about(args: argparse.Namespace) -> dict[str, object]:
    """The settings of a command that every record repeats."""
    return {
        "seed": args.seed,
        "calibration": f"{args.calibration_size} training images, seed {args.seed}",
        "test": f"{args.limit} test images, seed {args.seed}",
        "timesteps": args.timesteps,
    }


def stored(records: Records, args: argparse.Namespace) -> dict[str, Record]:
    """The records that were measured with the settings of a command, by name."""
    wanted = about(args).items()
    return {record["name"]: record for record in records.all() if wanted <= record.items()}


def run(records: Records, args: argparse.Namespace) -> None:
    """Evaluate every setting that has no record yet, and keep the results."""
    missing = [name for name in SETTINGS if name not in stored(records, args)]
    if not missing:
        return
    data = open_data(args.data)
    model = build_model("resnet20", args.weights)
    calibration_batches = list(data.train.subset(args.calibration_size, args.seed).batches(64))
    network = tp.capture(model, calibration_batches[0][0])
    calibration = tp.calibrate(network, calibration_batches)
    tested = data.test.subset(args.limit, args.seed)
    for name in missing:
        neuron, threshold = SETTINGS[name]
        snn = tp.convert(network, calibration, neuron=neuron, threshold=threshold)
        result = tp.evaluate(snn, tested.batches(args.batch_size), args.timesteps)
        versions = {
            "transpike": tp.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        record = {"name": name, **about(args), "versions": versions, **result.to_dict()}
        records.append(record)
        print(f"{name}\n{result}", flush=True)


def ann_on_all(records: Records, args: argparse.Namespace) -> None:
    """Measure the unchanged model on the whole test set, unless there is a record of it."""
    if any(record["name"] == ANN for record in records.all()):
        return
    data = open_data(args.data)
    model = build_model("resnet20", args.weights).eval()
    right = 0
    with torch.inference_mode():
        for x, y in data.test.batches(100):
            right += int((model(x).argmax(dim=1) == y).sum())
    n = len(data.test)
    records.append({"name": ANN, "n": n, "accuracy": right / n})


def table(ann: Record, found: dict[str, Record]) -> str:
    """The page with the table.

    Args:
        ann: record of the unchanged model.
        found: records of the settings, by name.
    """
    entries = [found[name] for name in SETTINGS if name in found]
    points = [t for t in (1, 2, 4, 8, 16, 32, 64) if t <= entries[0]["timesteps"]]
    first = entries[0]
    low, high = (100 * bound for bound in first["ann_accuracy_interval"])
    lines = [
        "# ResNet-20 on CIFAR-10: accuracy against timesteps",
        "",
        "This page is written by `python -m benchmarks.methods.resnet20_curves --weights WEIGHTS` "
        "for a pretrained ResNet-20.",
        "",
        f"The unchanged ANN has an accuracy of {100 * ann['accuracy']:.2f} % on all {ann['n']} "
        f"test images, and of {100 * first['ann_accuracy']:.1f} % [{low:.1f}, {high:.1f}] on the "
        f"n = {first['n']} images below ({first['test']}). Calibration uses one draw "
        f"({first['calibration']}). The input is static, and the readout is the mean over the "
        f"timesteps 1..T. The precision is {first['precision']}, and the network has "
        f"{first['neurons']} neurons.",
        "",
        'The rows "quantized %" give the accuracy of the quantized ANN, which has K T levels '
        "and the same thresholds and start. Wilson 95 % intervals of an accuracy are about ±1.8 "
        "points at 90 % and ±3.1 points at 50 %. The loss is the ANN's accuracy minus that of the "
        "spiking network, in percentage points.",
        "",
        "| setting | K | "
        + " | ".join(f"T={t}" for t in points)
        + " | loss at the last T [95 %] |",
        "|---|---|" + "---|" * (len(points) + 1),
    ]
    for entry in entries:
        accuracy = " | ".join(f"{100 * entry['accuracy'][t - 1]:.1f}" for t in points)
        quantized = " | ".join(f"{100 * entry['quantized'][str(t)]:.1f}" for t in points)
        spikes = " | ".join(f"{entry['spikes_per_neuron'][t - 1]:.2f}" for t in points)
        agree = " | ".join(f"{100 * entry['agreement'][t - 1]:.1f}" for t in points)
        low, high = (100 * bound for bound in entry["loss_interval"][-1])
        loss = f"{100 * entry['loss'][-1]:.1f} [{low:.1f}, {high:.1f}]"
        lines += [
            f"| **{entry['name']}** accuracy % | {entry['max_count']} | {accuracy} | {loss} |",
            f"| quantized % | | {quantized} | |",
            f"| agreement with the ANN % | | {agree} | |",
            f"| spikes per neuron | | {spikes} | |",
        ]
    versions = ", ".join(f"{name} {value}" for name, value in first["versions"].items())
    return "\n".join([*lines, "", f"Versions: {versions}.", ""])


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", default="cifar10:.data/cifar10.npz")
    parser.add_argument("--timesteps", type=int, default=64)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--calibration-size", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--output", type=Path, default=Path("results/resnet20_curves.jsonl"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    records = Records(args.output)
    ann_on_all(records, args)
    run(records, args)
    (ann,) = [record for record in records.all() if record["name"] == ANN]
    args.output.with_suffix(".md").write_text(table(ann, stored(records, args)))


if __name__ == "__main__":
    main()
