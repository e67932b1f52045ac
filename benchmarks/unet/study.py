"""How good are the masks of mitochondria of a converted U-Net, at every T?

    python -m benchmarks.unet.study                # hours on two cores; can be resumed
    python -m benchmarks.unet.study --causes       # explains the original study's numbers
    python -m benchmarks.unet.study --only-table
    python -m benchmarks.unet.study --seed 1 --settings signed4-mask signed8-mask

Every slice of every setting is a line of results/unet.jsonl (with --causes, of
results/unet-causes.jsonl), and results/unet.md is made from these lines. Thresholds and tuning see
tiles of the training slices only. The settings `study` and `...-tuned` were fixed before any test
slice had been seen. The others were added later, because one test slice clipped at the thresholds
of the first ones; read them with that in mind. The network sees whole slices of 768 x 1024 pixels.

For each slice and T, these are counted over all pixels: the mask (mean readout > 0) against the
label and against the analog network's mask, by torchmetrics; the spikes; and the mask of the
quantized ANN with K*T levels against the label.

The original study (github.com/HeadLiuYun/Systems_Neuroscience) applies the sigmoid at every
timestep and adds the results. It then rescales the sum so that the smallest pixel is 0 and the
largest 1. Its "accuracy" is the soft Dice of that map, (2 sum(p y) + 1) / (sum p + sum y + 1).
--causes computes this number and then changes one cause at a time. The library has no such readout.
The output of timestep t alone is recovered from the means m as t m_t - (t - 1) m_(t-1).
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_stat_scores

import transpike as tp
from benchmarks.unet import tables
from transpike.data.lucchi import VolumeDataset, open_lucchi
from transpike.measure.evaluate import curve_points
from transpike.segment import resized
from transpike.study.records import Record, Records
from transpike.zoo.models import build_model
from transpike.zoo.train.augment import vary_intensity

_TUNING_DRAW = 1000  # seed of the tiles that tuning sees; calibration never uses it
_STUDY = tp.Recipe(64, tp.Burst(5, initial_membrane=0.0), tp.Percentile(99, "layer"))
_CHANNELS = tp.Percentile(99.9)
_FINE = tp.Percentile(99.99)
MANY_TILES = 256  # for distillation, which overfits to a few tiles


@dataclass(frozen=True)
class Setting:
    """A way to convert.

    Attributes:
        name: how the setting is called in the tables.
        recipe: how to convert. If `tuned`, only its neuron and its T are used.
        tuned: whether tuning chooses the rest, for the T of the recipe.
        varied: whether every second tile of tuning and calibration is changed in contrast,
            brightness and noise, as in the training. This was added after a test slice had clipped
            at the thresholds of the unchanged tiles; it is noisier than all training slices.
        tiles: number of calibration tiles, or None for the number that the command gives.
    """

    name: str
    recipe: tp.Recipe
    tuned: bool = False
    varied: bool = False
    tiles: int | None = None


SETTINGS = (
    Setting("study", _STUDY),
    Setting("signed1-plain", tp.Recipe(64, tp.Signed(1), _CHANNELS)),
    Setting("signed1-tuned", tp.Recipe(8, tp.Signed(1), _CHANNELS), tuned=True),
    Setting("unsigned1-tuned", tp.Recipe(16, tp.IF(), _CHANNELS), tuned=True),
    Setting("signed4-tuned", tp.Recipe(2, tp.Signed(4), _CHANNELS), tuned=True),
    Setting("signed8-tuned", tp.Recipe(2, tp.Signed(8), _CHANNELS), tuned=True),
    Setting("signed1-varied", tp.Recipe(8, tp.Signed(1), _CHANNELS), tuned=True, varied=True),
    Setting(
        "signed4-varied",
        tp.Recipe(2, tp.Signed(4), _CHANNELS),
        tuned=True,
        varied=True,
        tiles=MANY_TILES,
    ),
    # benchmarks/unet/choice.py finds this rule the best by the mask on validation tiles.
    Setting("signed1-mask", tp.Recipe(8, tp.Signed(1), _CHANNELS), varied=True),
    Setting("signed4-mask", tp.Recipe(8, tp.Signed(4), _CHANNELS), varied=True),
    Setting("signed8-mask", tp.Recipe(8, tp.Signed(8), _CHANNELS), varied=True),
    # choice.py --distilled finds these rules the best by the divergence on validation tiles.
    Setting(
        "signed4-distilled",
        tp.Recipe(2, tp.Signed(4), _CHANNELS, (tp.Distillation(),)),
        varied=True,
        tiles=MANY_TILES,
    ),
    Setting(
        "signed8-distilled",
        tp.Recipe(2, tp.Signed(8), _FINE, (tp.Distillation(),)),
        varied=True,
        tiles=MANY_TILES,
    ),
    # choice.py --refining finds these rules the best by the divergence on validation tiles.
    Setting("refining4", tp.Recipe(8, tp.Refining(4), _FINE), varied=True),
    Setting("refining8", tp.Recipe(8, tp.Refining(8), _FINE), varied=True),
    Setting(
        "unsigned1-mask",
        tp.Recipe(16, tp.IF(), _CHANNELS, (tp.DelayedReadout(),)),
        varied=True,
    ),
)
# The original study's conversion, with one or both of its settings replaced by our defaults.
CAUSES = (
    Setting("study", _STUDY),
    Setting("half a step", replace(_STUDY, neuron=tp.Burst(5))),
    Setting("channels", replace(_STUDY, threshold=_CHANNELS)),
    Setting("both", replace(_STUDY, neuron=tp.Burst(5), threshold=_CHANNELS)),
)


class Study:
    """The trained network and its data."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.data: VolumeDataset = open_lucchi(args.data)
        self.model = build_model(f"unet:{args.width}", args.weights)
        self.tiles = self.data.train.with_tile(args.tile)
        self.network = tp.capture(self.model, next(iter(self.tiles.batches(2)))[0])
        self.asked = {
            "width": args.width,
            "weights_sha256": hashlib.sha256(Path(args.weights).read_bytes()).hexdigest(),
        }
        self.about = {
            "slices": len(self.data.test),
            "slice_shape": list(self.data.test.slice_shape),
            "torch": str(torch.__version__),
            "transpike": tp.__version__,
            "python": platform.python_version(),
        }

    def training(self, size: int, seed: int, varied: bool) -> list[Tensor]:
        """Batches of training tiles without masks."""
        batches = [x for x, _ in self.tiles.subset(size, seed).batches(8)]
        if varied:
            generator = torch.Generator().manual_seed(seed)
            for x in batches:
                x[1::2] = vary_intensity(x[1::2], generator)
        return batches

    def calibration(self, setting: Setting) -> tuple[int, str]:
        """How many tiles a setting's calibration sees, and all of it in words."""
        tiles = setting.tiles or self.args.calibration_size
        side = self.args.tile
        return (
            tiles,
            f"{tiles} tiles of {side} x {side} of the training slices, seed {self.args.seed}",
        )

    def recipe(self, setting: Setting) -> tp.Recipe:
        """The setting's recipe; tuning chooses it now if it has not before."""
        if not setting.tuned:
            return setting.recipe
        recipes = Records(beside(self.args.output, "recipes"))
        for record in recipes.all():
            if record["name"] == setting.name and self.asked.items() <= record.items():
                return tp.Recipe.from_dict(record["recipe"])
        start = time.perf_counter()
        neuron = setting.recipe.neuron
        result = tp.tune(
            self.network,
            self.training(self.args.tuning_size, _TUNING_DRAW, setting.varied),
            timesteps=setting.recipe.timesteps,
            max_count=neuron.max_count,
            signed=neuron.signed,
        )
        seconds = round(time.perf_counter() - start, 1)
        print(f"tuned {setting.name} in {seconds} s\n{result}", flush=True)
        recipe = replace(result.recipe, found={**result.recipe.found, "seconds": seconds})
        about = {"name": setting.name, **self.asked, "tuning_tiles": self.args.tuning_size}
        recipes.append({**about, "recipe": recipe.to_dict()})
        return recipe

    def convert(self, recipe: tp.Recipe, setting: Setting) -> tp.SpikingNetwork:
        """Convert with the calibration tiles, for whole slices."""
        size, _ = self.calibration(setting)
        tiles = self.training(size, self.args.seed, setting.varied)
        return resized(recipe.convert(self.network, tiles), self.model, self.data.test.slice_shape)

    def slice(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (1, 1, H, W) and mask (1, 1, H, W) of a test slice."""
        return next(iter(self.data.test.batches(1, [index])))


def counts(mask: Tensor, truth: Tensor) -> list[int]:
    """Numbers of true positives, false positives, true negatives and false negatives."""
    found: list[int] = binary_stat_scores(mask.int(), truth.int()).tolist()
    return found[:4]


def measured(snn: tp.SpikingNetwork, x: Tensor, label: Tensor, points: list[int]) -> dict[str, Any]:
    """Simulate one slice; what is counted at every T."""
    start = time.perf_counter()
    run = tp.simulate(snn, x, points[-1], record=tp.Record(output_at=points))
    seconds = time.perf_counter() - start
    with torch.inference_mode():
        analog = snn.network(x) > 0
        quantized = [counts(tp.quantized_ann(snn, x, t) > 0, label) for t in points]
    return {
        "ann": counts(analog, label),
        "snn": [counts(output > 0, label) for output in run.output],
        "against_ann": [counts(output > 0, analog) for output in run.output],
        "quantized": quantized,
        "spikes_per_neuron": [float(run.spikes_per_neuron[t - 1]) for t in points],
        "neurons": run.neurons,
        "seconds": round(seconds, 2),
    }


def soft_dice(map_: Tensor, label: Tensor) -> float:
    """The original study's measure of one map with values in 0..1."""
    both = float((map_ * label).sum(dtype=torch.float64))
    sizes = float(map_.sum(dtype=torch.float64) + label.sum(dtype=torch.float64))
    return (2 * both + 1) / (sizes + 1)


def rescaled(map_: Tensor) -> Tensor:
    """The map with 0 as its smallest and 1 as its largest pixel; all ones if all are equal."""
    low, high = map_.min(), map_.max()
    return torch.ones_like(map_) if bool(low == high) else (map_ - low) / (high - low)


def taken_apart(
    snn: tp.SpikingNetwork, x: Tensor, label: Tensor, points: list[int]
) -> dict[str, Any]:
    """Simulate one slice; the original study's measure at every T, and others beside it."""
    run = tp.simulate(snn, x, points[-1])
    with torch.inference_mode():
        analog = torch.sigmoid(snn.network(x))
    found: dict[str, Any] = {
        "ann": counts(analog > 0.5, label),
        "ann_soft_dice": soft_dice(analog, label),
        "ann_soft_dice_stretched": soft_dice(rescaled(analog), label),
        "at": [],
    }
    before, added = torch.zeros_like(run.output[0]), torch.zeros_like(run.output[0])
    for t, mean in enumerate(run.output, start=1):
        total = t * mean
        added += torch.sigmoid(total - before)
        before = total
        if t not in points:
            continue
        once = torch.sigmoid(mean)
        found["at"].append(
            {
                "soft_dice_every_step_stretched": soft_dice(rescaled(added), label),
                "soft_dice_every_step": soft_dice(added / t, label),
                "soft_dice_once_stretched": soft_dice(rescaled(once), label),
                "soft_dice_once": soft_dice(once, label),
                "every_step_stretched": counts(rescaled(added) > 0.5, label),
                "every_step": counts(added / t > 0.5, label),
                "once": counts(mean > 0, label),
            }
        )
    found["spikes_per_neuron"] = [float(run.spikes_per_neuron[t - 1]) for t in points]
    return found


Measure = Callable[[tp.SpikingNetwork, Tensor, Tensor, list[int]], dict[str, Any]]


def fill(
    study: Study,
    records: Records,
    setting: Setting,
    slices: list[int],
    longest: int,
    measure: Measure,
) -> None:
    """Measure the slices of a setting that have no record yet."""
    points = curve_points(longest)
    recipe = study.recipe(setting)
    asked = {
        **study.asked,
        "calibration": study.calibration(setting)[1],
        **({"varied": True} if setting.varied else {}),
        "recipe": {**recipe.to_dict(), "found": {}},
        "timesteps": points,
    }
    done = {
        record["slice"]
        for record in records.all()
        if record["name"] == setting.name and comparable(record["asked"]) == comparable(asked)
    }
    missing = [index for index in slices if index not in done]
    if not missing:
        return
    about = {"name": setting.name, "seed": study.args.seed}
    snn = study.convert(recipe, setting)
    for index in missing:
        found = measure(snn, *study.slice(index), points)
        record = {**about, "slice": index, "asked": asked, "about": study.about, "measured": found}
        records.append(record)
        print(f"{setting.name}: slice {index} done", flush=True)


def comparable(asked: Record) -> Record:
    """The settings with the recipe as a value, because older versions wrote fewer of its fields."""
    return {**asked, "recipe": tp.Recipe.from_dict(asked["recipe"])}


def beside(output: Path, what: str) -> Path:
    """The path of a further file of results: unet-WHAT.jsonl beside unet.jsonl."""
    return output.with_name(f"{output.stem}-{what}{output.suffix}")


def spread_out(total: int, wanted: int) -> list[int]:
    """The indices of `wanted` slices, spread evenly from the first to the last."""
    if wanted >= total:
        return list(range(total))
    return sorted({round(i * (total - 1) / max(1, wanted - 1)) for i in range(wanted)})


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the network and its data."""
    parser.add_argument("--data", default=".data/lucchi_pp", help="folder of Lucchi++")
    parser.add_argument("--weights", default="zoo/unet-lucchi-w16.safetensors")
    parser.add_argument("--width", type=int, default=16, help="channels of the first level")
    parser.add_argument("--tile", type=int, default=256, help="side of training tiles, in pixels")


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_source(parser)
    parser.add_argument("--settings", nargs="+", default=[one.name for one in SETTINGS])
    parser.add_argument("--timesteps", type=int, default=64, help="largest T")
    parser.add_argument(
        "--slices", type=int, default=55, help="number of test slices, spread evenly"
    )
    parser.add_argument("--calibration-size", type=int, default=32, help="training tiles")
    parser.add_argument("--tuning-size", type=int, default=104, help="training tiles, at least 104")
    parser.add_argument("--seed", type=int, default=0, help="seed of the calibration tiles")
    parser.add_argument("--causes", action="store_true", help="5 slices, T up to 256")
    parser.add_argument("--output", type=Path, default=Path("results/unet.jsonl"))
    parser.add_argument("--only-table", action="store_true", help="measure nothing")
    args = parser.parse_args()
    records, causes = Records(args.output), Records(beside(args.output, "causes"))
    if not args.only_table:
        study = Study(args)
        total = len(study.data.test)
        if args.causes:
            for setting in CAUSES:
                fill(study, causes, setting, spread_out(total, 5), 256, taken_apart)
        else:
            slices = spread_out(total, args.slices)
            for setting in SETTINGS:
                if setting.name in args.settings:
                    fill(study, records, setting, slices, args.timesteps, measured)
    recipes = Records(beside(args.output, "recipes"))
    document = tables.document(records.all(), causes.all(), recipes.all())
    args.output.with_suffix(".md").write_text(document)


if __name__ == "__main__":
    main()
