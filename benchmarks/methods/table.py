"""Every conversion method on one network: loss, quantized ANN, spikes, and an ablation.

    python -m benchmarks.methods.table --weights WEIGHTS
    python -m benchmarks.methods.table --model vgg-cifar --weights zoo/vgg-cifar.safetensors

Every conversion with one calibration seed is a line of results/methods/MODEL.jsonl and is not run
again. results/methods/MODEL.md is written from these lines after each conversion. Calibration and
tuning see training images only, and no choice depends on test images. Tuning chooses one recipe per
target, on training images of its own. The recipe is a line of results/methods/MODEL-recipes.jsonl
and is calibrated again with every seed.

Start the same command several times to share the work: each process takes one conversion at a time.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import transpike as tp
from benchmarks.methods import rows, text
from transpike.data import Dataset, open_data
from transpike.study import paired
from transpike.study.records import Record, Records
from transpike.zoo.models import build_model

GROUPS = ("targets", "ablation", "parts", "codes", "spikes", "pooling")
_TUNING_DRAW = 1000  # seed of the images that tuning sees; calibration never uses it
_CALIBRATION_BATCH = 64
_INTERRUPTED = 130  # exit code that shells use for Ctrl-C
_SHIFT = 4  # pixels
_PAUSE = 2.0  # seconds to wait while other processes work on all that is left


class Study:
    """One model, its data, and what has been measured of it.

    Attributes:
        asked: the settings of this command that every record repeats.
        measurements: one record per conversion and calibration seed.
        recipes: one record per recipe that tuning has chosen.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.data: Dataset = open_data(args.data)
        self.model = build_model(args.model, args.weights).to(args.device)
        self.measurements = Records(args.output / f"{args.model}.jsonl")
        self.recipes = Records(args.output / f"{args.model}-recipes.jsonl")
        self._networks: dict[str, tp.Network] = {}
        self._statistics: dict[tuple[str, int], tp.Calibration] = {}
        self._parsed: list[tp.Recipe] = []
        self.asked = {
            "model": args.model,
            "weights_sha256": hashlib.sha256(Path(args.weights).read_bytes()).hexdigest(),
            "test_images": len(self.test()),
            "test_draw": "all" if args.limit is None else f"random, seed {args.test_seed}",
            "calibration_images": args.calibration_size,
            **({"varied": True} if args.varied else {}),
        }

    def test(self) -> Any:
        """The test images, or the random part of them that the command asks for."""
        test = self.data.test
        return (
            test if self.args.limit is None else test.subset(self.args.limit, self.args.test_seed)
        )

    def training(self, size: int, seed: int) -> list[Tensor]:
        """Batches of training images without labels."""
        batches = [x for x, _ in self.data.train.subset(size, seed).batches(_CALIBRATION_BATCH)]
        if self.args.varied:
            generator = torch.Generator().manual_seed(seed)
            for x in batches:
                x[1::2] = shifted(x[1::2], generator)
        return [x.to(self.args.device) for x in batches]

    def network(self, pooling: str) -> tp.Network:
        """The captured model, with its max-pooling or with average pooling in its place."""
        if pooling not in self._networks:
            model = self.model if pooling == "max" else averaged(self.model)
            self._networks[pooling] = tp.capture(model, self.training(2, 0)[0])
        return self._networks[pooling]

    def convert(self, recipe: tp.Recipe, pooling: str, seed: int) -> tp.SpikingNetwork:
        """Convert with the training images of a seed."""
        network, images = self.network(pooling), self.training(self.args.calibration_size, seed)
        if (pooling, seed) not in self._statistics:
            self._statistics[pooling, seed] = tp.calibrate(network, images)
        return recipe.convert(network, images, calibration=self._statistics[pooling, seed])

    def tuned(self, row: rows.Row) -> tp.Recipe | None:
        """The recipe that tuning has chosen for a row, or None."""
        wanted = self._tuning_key(row)
        for record in self.recipes.all():
            if all(record[key] == value for key, value in wanted.items()):
                return tp.Recipe.from_dict(record["recipe"])
        return None

    def tune(self, row: rows.Row) -> None:
        """Choose the recipe of a row by tuning, and keep it."""
        (wanted,) = [one for one in rows.TARGETS if one.name == row.target]
        start = time.perf_counter()
        result = tp.tune(
            self.network("max"),
            self.training(self.args.tuning_size, _TUNING_DRAW),
            timesteps=row.timesteps,
            max_count=wanted.neuron.max_count,
            signed=wanted.neuron.signed,
            refining=row.refining,
        )
        seconds = time.perf_counter() - start
        print(f"{row.name} T={row.timesteps} in {seconds:.0f} s\n{result}", flush=True)
        found = {**result.recipe.found, "seconds": round(seconds, 1)}
        recipe = replace(result.recipe, found=found)
        self.recipes.append({**self._tuning_key(row), "recipe": recipe.to_dict()})

    def _tuning_key(self, row: rows.Row) -> dict[str, Any]:
        return {
            "model": self.args.model,
            "weights_sha256": self.asked["weights_sha256"],
            "tuning_images": self.args.tuning_size,
            "varied": self.args.varied,
            "target": row.target,
            "refining": row.refining,
            "timesteps": row.timesteps,
        }

    def recipe(self, row: rows.Row) -> tp.Recipe | None:
        """The row's recipe, or None where tuning has not chosen it yet."""
        return self.tuned(row) if row.recipe is None else row.recipe

    def stored(self, recipe: tp.Recipe, pooling: str, asked: dict[str, Any]) -> list[Record]:
        """The records of one conversion, by seed."""
        records = self.measurements.all()
        for record in records[len(self._parsed) :]:
            self._parsed.append(tp.Recipe.from_dict({**record["recipe"], "found": {}}))
        bare = replace(recipe, found={})
        found = [
            record
            for record, own in zip(records, self._parsed, strict=True)
            if own == bare and record["pooling"] == pooling and record["asked"] == asked
        ]
        return sorted(found, key=lambda record: record["seed"])

    def all_asked(self) -> list[dict[str, Any]]:
        """The settings with which this model has been measured, the smallest calibration first."""
        found = {json.dumps(r["asked"]): r["asked"] for r in self.measurements.all()}
        mine = [a for a in found.values() if a["weights_sha256"] == self.asked["weights_sha256"]]
        return sorted(mine, key=lambda asked: (asked["calibration_images"], "varied" in asked))


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W), each moved by up to 4 pixels and perhaps mirrored, as in training.

    Pixels that come from outside the image are 0, the mean color.
    """
    batch, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (_SHIFT,) * 4)
    places = torch.randint(0, 2 * _SHIFT + 1, (batch, 2), generator=generator).tolist()
    mirrored = torch.rand(batch, generator=generator) < 0.5
    moved = torch.stack(
        [one[:, y : y + height, x : x + width] for one, (y, x) in zip(padded, places, strict=True)]
    )
    return torch.where(mirrored[:, None, None, None], moved.flip(-1), moved)


def averaged(model: nn.Module) -> nn.Module:
    """A copy of a model with average pooling in place of every max-pooling.

    Raises:
        ValueError: the model has no max-pooling, or one with padding or dilation.
    """
    model = copy.deepcopy(model)
    found = [name for name, part in model.named_modules() if isinstance(part, nn.MaxPool2d)]
    if not found:
        raise ValueError("averaged: the model has no nn.MaxPool2d.")
    for name in found:
        pool = model.get_submodule(name)
        assert isinstance(pool, nn.MaxPool2d)
        if (pool.padding, pool.dilation) != (0, 1):
            raise ValueError(f"averaged: {name} has padding or dilation.")
        parent, _, own = name.rpartition(".")
        average = nn.AvgPool2d(pool.kernel_size, pool.stride, ceil_mode=pool.ceil_mode)
        setattr(model.get_submodule(parent), own, average)
    return model


def measured(study: Study, recipe: tp.Recipe, pooling: str, seed: int) -> dict[str, Any]:
    """Convert once and evaluate; the record of it."""
    start = time.perf_counter()
    snn = study.convert(recipe, pooling, seed)
    converted = time.perf_counter()
    batches = study.test().batches(study.args.batch_size)
    result = tp.evaluate(snn, batches, recipe.timesteps, metric=paired.Right())
    if result.interrupted:
        raise KeyboardInterrupt
    assert result.metric is not None
    right = result.metric[-1]  # only at T, because all t would make the file large
    result = replace(result, metric=None, ann_metric=None)
    done = time.perf_counter()
    first, _ = next(iter(study.test().batches(study.args.batch_size)))
    counts = [neuron.max_count for neuron in snn.neurons.values()]
    return {
        "asked": study.asked,
        "seed": seed,
        "pooling": pooling,
        "recipe": {**recipe.to_dict(), "found": {}},
        "readout_start": snn.readout_start,
        "max_counts": counts if len(set(counts)) > 1 else counts[:1],
        "binary_to_unit_spikes": binary_share(snn, first, recipe.timesteps),
        "binary_on_images": len(first),
        "seconds": {"convert": round(converted - start, 1), "evaluate": round(done - converted, 1)},
        "versions": {
            "transpike": tp.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "device": study.args.device,
        "evaluation": result.to_dict(),
        "right": right,
    }


def binary_share(snn: tp.SpikingNetwork, x: Tensor, timesteps: int) -> float:
    """Spikes in the binary code divided by spikes in the unit code."""
    x = x.to(snn.network.device)
    run = tp.simulate(snn, x, timesteps, record=tp.Record(output_at=[timesteps], totals=True))
    unit = sum(float(total.unit.double().sum()) for total in run.totals.values())
    return sum(float(total.binary.double().sum()) for total in run.totals.values()) / unit


def possible_rows(study: Study) -> list[rows.Row]:
    """The rows of all groups that the model has."""
    pools = any(isinstance(part, nn.MaxPool2d) for part in study.model.modules())
    depth = max(study.network("max").depth.values())
    found = rows.rows(study.args.budget, depth)
    return rows.shared([row for row in found if pools or row.group != "pooling"])


def lines(study: Study, asked: dict[str, Any]) -> Iterator[text.Line]:
    """Every row that has been measured with some settings, with all its seeds."""
    for row in possible_rows(study):
        recipe = study.recipe(row)
        entries = [] if recipe is None else study.stored(recipe, row.pooling, asked)
        if recipe is not None and entries:
            yield text.Line(row, recipe, entries)


def fill(study: Study, row: rows.Row, seed: int) -> bool:
    """Measure a row with a seed; False where another process is at work on it."""
    if study.recipe(row) is None:
        with study.recipes.claimed(row.target, row.refining, row.timesteps) as mine:
            if mine and study.recipe(row) is None:
                study.tune(row)
    recipe = study.recipe(row)
    if recipe is None:
        return False
    with study.measurements.claimed(replace(recipe, found={}), row.pooling, seed) as mine:
        stored = study.stored(recipe, row.pooling, study.asked)
        if mine and all(record["seed"] != seed for record in stored):
            measure(study, row, recipe, seed)
        return mine


def measure(study: Study, row: rows.Row, recipe: tp.Recipe, seed: int) -> None:
    """Measure a conversion and keep it."""
    label = f"{row.group}: {row.name}, T={row.timesteps}, seed {seed}"
    try:
        entry = measured(study, recipe, row.pooling, seed)
    except tp.ArgumentError as error:
        print(f"{label}: refused: {error}", flush=True)
        return
    study.measurements.append(entry)
    loss = 100 * entry["evaluation"]["loss"][row.timesteps - 1]
    print(f"{label}: loss {loss:.2f}, {entry['seconds']}", flush=True)
    write_tables(study)


def write_tables(study: Study) -> None:
    """Write the tables of everything that has been measured of the model, all or nothing."""
    parts = [text.document(asked, list(lines(study, asked))) for asked in study.all_asked()]
    file = study.measurements.file.with_suffix(".md")
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text("\n".join(parts) or text.document(study.asked, []))
    part.replace(file)


def chosen(row: rows.Row, args: argparse.Namespace) -> bool:
    """Whether the command asks for this row."""
    named = not args.rows or any(word in row.name for word in args.rows)
    return named and (not args.timesteps or row.timesteps in args.timesteps)


def run(study: Study) -> int:
    """Measure what is missing, group by group and seed by seed. Returns the exit code."""
    args = study.args
    left = [
        (row, seed)
        for group in ([] if args.only_table else args.groups)
        for seed in args.seeds
        for row in possible_rows(study)
        if row.group == group and chosen(row, args)
    ]
    try:
        while left:
            missing = [(row, seed) for row, seed in left if not fill(study, row, seed)]
            if len(missing) == len(left):
                time.sleep(_PAUSE)
            left = missing
    except KeyboardInterrupt:
        print("Interrupted. The same command continues.", flush=True)
        return _INTERRUPTED
    write_tables(study)
    return 0


def main() -> int:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", default="cifar10:.data/cifar10.npz")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument(
        "--rows", nargs="+", default=[], help="only rows whose names contain one of these"
    )
    parser.add_argument(
        "--timesteps", type=int, nargs="+", default=[], help="only rows with one of these T"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--calibration-size", type=int, default=1024, help="training images")
    parser.add_argument(
        "--varied",
        action="store_true",
        help="move and perhaps mirror every second image of calibration and tuning, as in training",
    )
    parser.add_argument("--tuning-size", type=int, default=1024, help="training images")
    parser.add_argument(
        "--budget", type=float, default=1.5, help="spikes per neuron of allocated counts"
    )
    parser.add_argument("--limit", type=int, help="number of random test images (default: all)")
    parser.add_argument("--test-seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path, default=Path("results/methods"), help="folder")
    parser.add_argument("--only-table", action="store_true", help="measure nothing")
    return run(Study(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
