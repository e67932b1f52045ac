"""The tables of `study.py`, from its records."""

from __future__ import annotations

import json
import statistics

from benchmarks.records import Record

Counts = list[int]  # true positives, false positives, true negatives, false negatives
# Of F1 after binarizing, of the original study's network at T = 256: 0.8866 to 0.8859 (its README).
STUDY_LOSS = 0.0007
STUDY_TIMESTEPS = 256


def f1(c: Counts) -> float:
    return 2 * c[0] / max(1, 2 * c[0] + c[1] + c[3])


def jaccard(c: Counts) -> float:
    return c[0] / max(1, c[0] + c[1] + c[3])


def accuracy(c: Counts) -> float:
    return (c[0] + c[2]) / sum(c)


def added(all_: list[Counts]) -> Counts:
    return [sum(column) for column in zip(*all_, strict=True)]


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} ± {deviation:.4f}"


def document(records: list[Record], causes: list[Record], recipes: list[Record]) -> str:
    """All settings as Markdown, first those of calibration seed 0.

    Args:
        records: of `study.measured`, one per setting and slice.
        causes: of `study.taken_apart`.
        recipes: what tuning has chosen, one per tuned setting.
    """
    chosen = {record["name"]: _chosen(record["recipe"]) for record in recipes}
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
        f"Lucchi++ test stack, every third slice: {about['slices']} slices of "
        f"{about['slice_shape'][0]} x {about['slice_shape'][1]} pixels, whole. Width "
        f"{first['asked']['width']}. Tuning sees another draw of training tiles than "
        "calibration. Every timestep is counted in T. F1, "
        "Jaccard and accuracy: all pixels of all slices together; in the last column F1 per "
        f"slice, mean ± standard deviation. transpike {about['transpike']}, torch "
        f"{about['torch']}.",
    ]


def _chosen(recipe: Record) -> str:
    """The quantity by which tuning chose a recipe."""
    if "reading" in recipe["found"]:
        return " Chosen by the divergence of the mask's probability."
    return " Chosen by the squared distance of logits, as tuning did at first."


def _setting(entry: Record, chosen: str) -> list[str]:
    slices = list(entry["slices"].values())
    recipe, points = entry["asked"]["recipe"], entry["asked"]["timesteps"]
    ann = added([one["ann"] for one in slices])
    varied = ", every second one varied" if entry["asked"].get("varied") else ""
    lines = [
        "",
        f"## {entry['name']}",
        "",
        f"{_described(recipe)}.{chosen} Calibration: {entry['asked']['calibration']}{varied}. n = "
        f"{len(slices)} slices, {sum(ann):,} pixels, "
        f"{slices[0]['neurons']:,} neurons. ANN: F1 {f1(ann):.4f}, Jaccard {jaccard(ann):.4f}, "
        f"accuracy {accuracy(ann):.4f}; per slice F1 {spread([f1(one['ann']) for one in slices])}.",
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


def _described(recipe: Record) -> str:
    neuron = ", ".join(f"{key} {value}" for key, value in recipe["neuron"].items())
    rule = ", ".join(f"{key} {value}" for key, value in recipe["threshold"].items())
    passes = (
        ", ".join(
            str(one.get("pass", one)) for one in recipe.get("passes", recipe.get("calibrate"))
        )
        or "none"
    )
    return (
        f"Neuron: {neuron}. Threshold: {rule}. Passes: {passes}. Converted for T = "
        f"{recipe['timesteps']}"
    )


def _first(entries: list[Record]) -> list[str]:
    """Where every setting first loses no more than the original study in the end."""
    lines = [
        "",
        f"## First T that loses no more F1 than the original study at T = {STUDY_TIMESTEPS} "
        f"({STUDY_LOSS})",
        "",
        "| setting | T | F1 loss | spikes per neuron |",
        "|---|---|---|---|",
    ]
    most = max((len(entry["slices"]) for entry in entries), default=0)
    for entry in entries:
        slices = list(entry["slices"].values())
        if len(slices) < most:
            lines.append(f"| {entry['name']} | only {len(slices)} of {most} slices yet | | |")
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
    "soft_dice_every_step_stretched": "sigmoid at every step, stretched, soft Dice (the study's)",
    "soft_dice_every_step": "sigmoid at every step, soft Dice",
    "soft_dice_once_stretched": "sigmoid of the mean, stretched, soft Dice",
    "soft_dice_once": "sigmoid of the mean, soft Dice",
    "every_step_stretched": "sigmoid at every step, stretched, F1 of > 0.5",
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
        "## The original study's numbers, taken apart",
        "",
        f"Burst neuron, K = 5, n = {len(first)} slices, spread over the stack (slices "
        f"{', '.join(map(str, entries[0]['slices']))} of the 55). Conversion: study: initial "
        "membrane 0, one "
        "99th percentile per layer; half a step: initial membrane of half a step; channels: 99.9th "
        "percentile per channel; both: both. Soft Dice: mean over slices. ANN: soft Dice "
        f"{dice:.4f}, stretched {wide:.4f}, F1 {f1(added([one['ann'] for one in first])):.4f}.",
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
