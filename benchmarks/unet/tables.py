"""The Markdown that `study.py` makes of its records."""

from __future__ import annotations

import json
import statistics

from transpike.study.records import Record

Counts = list[int]  # true positives, false positives, true negatives, false negatives
# Loss of F1 of the original study's network at T = 256, from 0.8866 to 0.8859 (its README).
STUDY_LOSS = 0.0007
STUDY_TIMESTEPS = 256


def f1(c: Counts) -> float:
    """F1 score, which is also called the Dice coefficient of two masks."""
    return 2 * c[0] / max(1, 2 * c[0] + c[1] + c[3])


def jaccard(c: Counts) -> float:
    """Jaccard index, the intersection of two masks over their union."""
    return c[0] / max(1, c[0] + c[1] + c[3])


def accuracy(c: Counts) -> float:
    """Share of the pixels that are right."""
    return (c[0] + c[2]) / sum(c)


def added(all_: list[Counts]) -> Counts:
    """The counts over several slices."""
    return [sum(column) for column in zip(*all_, strict=True)]


def spread(values: list[float]) -> str:
    """Mean and standard deviation as text."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} ± {deviation:.4f}"


def document(records: list[Record], causes: list[Record], recipes: list[Record]) -> str:
    """All settings as Markdown, those of calibration seed 0 first.

    Args:
        records: results of `study.measured`, one record per setting and slice.
        causes: results of `study.taken_apart`, one record per conversion and slice.
        recipes: what tuning has chosen, one record per tuned setting.
    """
    chosen = {record["name"]: _chosen(record) for record in recipes}
    lines: list[str] = []
    for seed in sorted({record["seed"] for record in records}):
        entries = _entries([record for record in records if record["seed"] == seed])
        lines += [*_head(entries[0], seed)]
        for entry in entries:
            lines += _setting(entry, chosen.get(entry["name"], ""))
        lines += _first(entries)
        if seed == 0 and causes:
            lines += _causes(_entries(causes))
        lines.append("")
    return "\n".join(lines)


def _entries(records: list[Record]) -> list[Record]:
    """One entry per setting with all its slices, by name."""
    found: dict[str, Record] = {}
    for record in records:
        key = json.dumps([record["name"], record["asked"]])
        entry = found.setdefault(
            key, {**{one: record[one] for one in ("name", "asked", "about")}, "slices": {}}
        )
        entry["slices"][record["slice"]] = record["measured"]
    return sorted(found.values(), key=lambda entry: entry["name"])


def _head(first: Record, seed: int) -> list[str]:
    about = first["about"]
    return [
        "# U-Net on mitochondria, converted" + (f": calibration seed {seed}" if seed else ""),
        "",
        f"The test images are every third slice of the Lucchi++ test stack: {about['slices']} "
        f"slices of {about['slice_shape'][0]} x {about['slice_shape'][1]} pixels, each simulated "
        f"whole. The U-Net has width {first['asked']['width']}. Tuning and calibration see "
        "different draws of training tiles. Every timestep counts towards T. F1, Jaccard and "
        "accuracy are over the pixels of all slices together. The loss is the F1 of the ANN minus "
        "that of the spiking network. The quantized F1 is that of the quantized ANN with K T "
        "levels. The last column is the mean of F1 over the slices ± its standard deviation. "
        f"Versions: transpike {about['transpike']}, torch {about['torch']}.",
    ]


def _chosen(record: Record) -> str:
    """A sentence about how tuning chose a recipe."""
    distance = "the squared distance of the logits, as it did at first"
    if "reading" in record["recipe"]["found"]:
        distance = "the divergence of the mask's probability"
    return f"Tuning chose this recipe on {record['tuning_tiles']} tiles by {distance}. "


def _setting(entry: Record, chosen: str) -> list[str]:
    slices = list(entry["slices"].values())
    recipe, points = entry["asked"]["recipe"], entry["asked"]["timesteps"]
    ann = added([one["ann"] for one in slices])
    varied = ", every second one varied" if entry["asked"].get("varied") else ""
    lines = [
        "",
        f"## {entry['name']}",
        "",
        *_described(recipe),
        f"- calibration: {entry['asked']['calibration']}{varied}",
        "",
        f"{chosen}The counts are over n = {len(slices)} slices with {sum(ann):,} pixels. The "
        f"spiking network has {slices[0]['neurons']:,} neurons. The ANN has an F1 of "
        f"{f1(ann):.4f}, a Jaccard index of {jaccard(ann):.4f} and an accuracy of "
        f"{accuracy(ann):.4f}. Its F1 per slice is {spread([f1(one['ann']) for one in slices])}.",
        "",
        "| T | F1 | loss | Jaccard | accuracy | F1 against the ANN's mask | quantized F1 | "
        "spikes per neuron | F1 per slice |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for index, t in enumerate(points):
        snn, against, quantized = (
            added([one[key][index] for one in slices])
            for key in ("snn", "against_ann", "quantized")
        )
        spikes = statistics.fmean(one["spikes_per_neuron"][index] for one in slices)
        lines.append(
            f"| {t} | {f1(snn):.4f} | {f1(ann) - f1(snn):.4f} | {jaccard(snn):.4f} | "
            f"{accuracy(snn):.4f} | {f1(against):.4f} | {f1(quantized):.4f} | {spikes:.3f} | "
            f"{spread([f1(one['snn'][index]) for one in slices])} |"
        )
    return lines


def _described(recipe: Record) -> list[str]:
    """A recipe as a list."""
    neuron = ", ".join(f"{key} {value}" for key, value in recipe["neuron"].items())
    rule = ", ".join(f"{key} {value}" for key, value in recipe["threshold"].items())
    written = recipe.get("passes", recipe.get("calibrate"))  # the key of earlier versions
    passes = ", ".join(str(one.get("pass", one)) for one in written) or "none"
    return [
        f"- neuron: {neuron}",
        f"- threshold: {rule}",
        f"- passes: {passes}",
        f"- converted for T = {recipe['timesteps']}",
    ]


def _first(entries: list[Record]) -> list[str]:
    """Where every setting first loses no more than the original study does in the end."""
    lines = [
        "",
        "## The first T that loses no more F1 than the original study",
        "",
        f"The original study loses {STUDY_LOSS} of F1 at T = {STUDY_TIMESTEPS}.",
        "",
        "| setting | T | F1 loss | spikes per neuron |",
        "|---|---|---|---|",
    ]
    most = max((len(entry["slices"]) for entry in entries), default=0)
    for entry in entries:
        slices = list(entry["slices"].values())
        if len(slices) < most:
            lines.append(f"| {entry['name']} | only {len(slices)} of {most} slices measured | | |")
            continue
        ann = f1(added([one["ann"] for one in slices]))
        row = f"| {entry['name']} | not up to T = {entry['asked']['timesteps'][-1]} | | |"
        for index, t in enumerate(entry["asked"]["timesteps"]):
            loss = ann - f1(added([one["snn"][index] for one in slices]))
            if loss <= STUDY_LOSS:
                spikes = statistics.fmean(one["spikes_per_neuron"][index] for one in slices)
                row = f"| {entry['name']} | {t} | {loss:.4f} | {spikes:.3f} |"
                break
        lines.append(row)
    return lines


_MEASURES = {
    "soft_dice_every_step_stretched": "sigmoid at every step, rescaled, soft Dice (the study's)",
    "soft_dice_every_step": "sigmoid at every step, soft Dice",
    "soft_dice_once_stretched": "sigmoid of the mean, rescaled, soft Dice",
    "soft_dice_once": "sigmoid of the mean, soft Dice",
    "every_step_stretched": "sigmoid at every step, rescaled, F1 of > 0.5",
    "every_step": "sigmoid at every step, F1 of > 0.5",
    "once": "mean readout > 0, F1",
}


def _causes(entries: list[Record]) -> list[str]:
    order = {"study": 0, "half a step": 1, "channels": 2, "both": 3}
    entries = sorted(entries, key=lambda entry: order[entry["name"]])
    points, first = entries[0]["asked"]["timesteps"], list(entries[0]["slices"].values())
    dice = statistics.fmean(one["ann_soft_dice"] for one in first)
    wide = statistics.fmean(one["ann_soft_dice_stretched"] for one in first)
    lines = [
        "",
        "## Where the original study's numbers come from",
        "",
        f"The neuron is a burst neuron with K = 5. n = {len(first)} slices are spread over the "
        f"stack: slices {', '.join(map(str, entries[0]['slices']))} of the 55. The conversions "
        "are:",
        "",
        "- study: the initial membrane is 0, and a layer has one threshold, the 99th percentile.",
        "- half a step: as study, but the initial membrane is half a step.",
        "- channels: as study, but each channel has a threshold, the 99.9th percentile.",
        "- both: half a step and channels together.",
        "",
        "A rescaled map has 0 as its smallest and 1 as its largest pixel. The soft Dice is the "
        f"mean over the slices. The ANN has a soft Dice of {dice:.4f}, a soft Dice of {wide:.4f} "
        f"after rescaling, and an F1 of {f1(added([one['ann'] for one in first])):.4f}.",
        "",
        "| conversion | measure | " + " | ".join(f"T={t}" for t in points) + " |",
        "|---" * (len(points) + 2) + "|",
    ]
    for entry in entries:
        slices = list(entry["slices"].values())
        for key, name in _MEASURES.items():
            values = []
            for index in range(len(points)):
                column = [one["at"][index][key] for one in slices]
                soft = key.startswith("soft")
                values.append(statistics.fmean(column) if soft else f1(added(column)))
            shown = " | ".join(f"{value:.4f}" for value in values)
            lines.append(f"| {entry['name']} | {name} | {shown} |")
        rates = [
            statistics.fmean(one["spikes_per_neuron"][i] for one in slices)
            for i in range(len(points))
        ]
        shown = " | ".join(f"{rate:.3f}" for rate in rates)
        lines.append(f"| {entry['name']} | spikes per neuron | {shown} |")
    return lines
