"""The method suite on one network: every target with its loss, ceiling and spikes; an ablation.

    python benchmarks/method_table.py --weights WEIGHTS
    python benchmarks/method_table.py --model vgg-cifar --weights zoo/vgg-cifar.safetensors

Every conversion and calibration seed is kept as results/methods/MODEL/NAME-sSEED.json when it is
done and is not run again; results/methods/MODEL.md is written from these files after each of them.
Calibration and tuning see training images only; nothing is chosen by test images. A tuned recipe is
chosen once per target, on its own draw of training images, kept as
results/methods/MODEL/recipes/TARGET-tT.json, and calibrated anew with every seed.

The same command started several times shares the work out, one process per conversion.
"""

from __future__ import annotations

import argparse
import copy
import fcntl
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
import method_rows
import method_text
import paired

import transpike as tp
from transpike.data import Dataset, open_data
from transpike.zoo.models import build_model

GROUPS = ("targets", "ablation", "parts", "codes", "spikes", "pooling")
_TUNING_DRAW = 1000  # seed of the training images that tuning sees, no calibration seed
_CALIBRATION_BATCH = 64
_INTERRUPTED = 130  # the shell's code for Ctrl-C
_SHIFT = 4  # pixels
_PAUSE = 2.0  # seconds between looks at what other processes are busy with


class Study:
    """One model and its data; conversions are made when they are needed."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.data: Dataset = open_data(args.data)
        self.model = build_model(args.model, args.weights).to(args.device)
        self.folder: Path = args.output / args.model
        self._networks: dict[str, tp.Network] = {}
        self._statistics: dict[tuple[str, int], tp.Calibration] = {}
        self.asked = {
            "model": args.model,
            "weights_sha256": hashlib.sha256(Path(args.weights).read_bytes()).hexdigest(),
            "test_images": len(self.test()),
            "test_draw": "all" if args.limit is None else f"random, seed {args.test_seed}",
            "calibration_images": args.calibration_size,
            **({"varied": True} if args.varied else {}),
        }

    def test(self) -> Any:
        """The test images, or a part of them."""
        test = self.data.test
        return (
            test if self.args.limit is None else test.subset(self.args.limit, self.args.test_seed)
        )

    def training(self, size: int, seed: int) -> list[Tensor]:
        """Batches of training images, without labels."""
        batches = [x for x, _ in self.data.train.subset(size, seed).batches(_CALIBRATION_BATCH)]
        if self.args.varied:
            generator = torch.Generator().manual_seed(seed)
            for x in batches:
                x[1::2] = shifted(x[1::2], generator)
        return [x.to(self.args.device) for x in batches]

    def network(self, pooling: str) -> tp.Network:
        """The captured model."""
        if pooling not in self._networks:
            model = self.model if pooling == "max" else averaged(self.model)
            self._networks[pooling] = tp.capture(model, self.training(2, 0)[0])
        return self._networks[pooling]

    def convert(self, recipe: tp.Recipe, pooling: str, seed: int) -> tp.SpikingNetwork:
        """A conversion with the training images of a seed."""
        network, images = self.network(pooling), self.training(self.args.calibration_size, seed)
        if (pooling, seed) not in self._statistics:
            self._statistics[pooling, seed] = tp.calibrate(network, images)
        return recipe.convert(network, images, calibration=self._statistics[pooling, seed])

    def recipe_file(self, row: method_rows.Row) -> Path:
        """Where the tuned recipe of a row is kept."""
        kind = "-refining" if row.refining else ""
        return self.folder / "recipes" / f"{row.target}{kind}-t{row.timesteps}.json"

    def tuned(self, row: method_rows.Row) -> tp.Recipe:
        """The recipe of a row that tuning chooses, chosen now or before."""
        file = self.recipe_file(row)
        if not file.exists():
            (wanted,) = [one for one in method_rows.TARGETS if one.name == row.target]
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
            part = file.with_name(f"{file.name}.{os.getpid()}.part")
            replace(result.recipe, found=found).save(part)
            part.replace(file)
        return tp.Recipe.load(file)


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) moved by up to 4 pixels and perhaps mirrored, as in training.

    What comes in from outside has the mean color, 0.
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
    """A copy with average pooling in place of max-pooling.

    Raises:
        ValueError: it has no max-pooling, or one with padding or dilation.
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
    """One conversion, evaluated."""
    start = time.perf_counter()
    snn = study.convert(recipe, pooling, seed)
    converted = time.perf_counter()
    batches = study.test().batches(study.args.batch_size)
    result = tp.evaluate(snn, batches, recipe.timesteps, metric=paired.Right())
    if result.interrupted:
        raise KeyboardInterrupt
    assert result.metric is not None
    right = result.metric[-1]  # at T; those of all other t would make the files large
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
    """Spikes in the binary code for one in the unit code."""
    x = x.to(snn.network.device)
    run = tp.simulate(snn, x, timesteps, record=tp.Record(output_at=[timesteps], totals=True))
    unit = sum(float(total.unit.double().sum()) for total in run.totals.values())
    return sum(float(total.binary.double().sum()) for total in run.totals.values()) / unit


def read(file: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """A result, or None where there is none; another test set or model ends the program."""
    if not file.exists():
        return None
    entry: dict[str, Any] = json.loads(file.read_text())
    if entry["asked"] != asked:
        raise SystemExit(
            f"{file} was made for {entry['asked']}, this run is for {asked}. Remove it, or choose "
            "another --output."
        )
    return entry


def write(file: Path, content: str) -> None:
    """Write all or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text(content)
    part.replace(file)


@contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Whether this process is the one to write a file; a lock that ends with the process."""
    file.parent.mkdir(parents=True, exist_ok=True)
    busy = file.with_name(file.name + ".busy")
    with busy.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            busy.unlink(missing_ok=True)


def possible_rows(study: Study) -> list[method_rows.Row]:
    """The rows of all groups that the model has."""
    pools = any(isinstance(part, nn.MaxPool2d) for part in study.model.modules())
    depth = max(study.network("max").depth.values())
    found = method_rows.rows(study.args.budget, depth)
    return method_rows.shared([row for row in found if pools or row.group != "pooling"])


def recipe_of(study: Study, row: method_rows.Row) -> tp.Recipe | None:
    """The row's recipe; a tuned one where it has been chosen."""
    if row.recipe is not None:
        return row.recipe
    file = study.recipe_file(row)
    return tp.Recipe.load(file) if file.exists() else None


def lines(study: Study) -> Iterator[method_text.Line]:
    """What the files hold of every row, with every seed that is there."""
    for row in possible_rows(study):
        recipe = recipe_of(study, row)
        if recipe is None:
            continue
        files = sorted(study.folder.glob(f"{method_rows.key(recipe, row.pooling)}-s*.json"))
        entries = [entry for file in files if (entry := read(file, study.asked)) is not None]
        if entries:
            yield method_text.Line(row, recipe, entries)


def fill(study: Study, row: method_rows.Row, seed: int) -> bool:
    """Measure a row with a seed; False where another process is at it."""
    recipe = recipe_of(study, row)
    if recipe is None:
        with claimed(study.recipe_file(row)) as mine:
            if not mine:
                return False
            recipe = study.tuned(row)
    file = study.folder / f"{method_rows.key(recipe, row.pooling)}-s{seed}.json"
    with claimed(file) as mine:
        if mine and read(file, study.asked) is None:
            measure(study, row, recipe, seed, file)
        return mine


def measure(study: Study, row: method_rows.Row, recipe: tp.Recipe, seed: int, file: Path) -> None:
    """Measure a conversion and keep it."""
    label = f"{row.group}: {row.name}, T={row.timesteps}, seed {seed}"
    try:
        entry = measured(study, recipe, row.pooling, seed)
    except tp.ArgumentError as error:
        print(f"{label}: refused: {error}", flush=True)
        return
    write(file, json.dumps(entry) + "\n")
    loss = 100 * entry["evaluation"]["loss"][row.timesteps - 1]
    print(f"{label}: loss {loss:.2f}, {entry['seconds']}", flush=True)
    table(study)


def table(study: Study) -> None:
    """Write the table of everything that is there."""
    write(study.folder.with_suffix(".md"), method_text.document(study.asked, list(lines(study))))


def chosen(row: method_rows.Row, args: argparse.Namespace) -> bool:
    """Whether the command asks for a row."""
    named = not args.rows or any(word in row.name for word in args.rows)
    return named and (not args.timesteps or row.timesteps in args.timesteps)


def run(study: Study) -> int:
    """What is missing, group by group and seed by seed; the exit code."""
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
        print("interrupted; the same command goes on", flush=True)
        return _INTERRUPTED
    table(study)
    return 0


def main() -> int:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", default="cifar10:.data/cifar10.npz")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--rows", nargs="+", default=[], help="only rows whose names hold a word")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[], help="only rows of these T")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--calibration-size", type=int, default=1024)
    parser.add_argument(
        "--varied",
        action="store_true",
        help="every second image of calibration and tuning moved, perhaps mirrored, as in training",
    )
    parser.add_argument("--tuning-size", type=int, default=1024)
    parser.add_argument("--budget", type=float, default=1.5, help="spikes of allocated counts")
    parser.add_argument("--limit", type=int, help="random test images instead of all")
    parser.add_argument("--test-seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path, default=Path("results/methods"))
    parser.add_argument("--only-table", action="store_true", help="run nothing")
    return run(Study(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
