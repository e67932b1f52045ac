"""The tables of `table.py`, from its records."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import transpike as tp
from benchmarks.methods.rows import TARGETS, Row, rows
from transpike.measure.evaluate import Z95

HEAD = (
    "| {first} | T | K | loss | paired s.e. | seeds: s.d. | quantized loss | to quantized | "
    "agree % | spikes/neuron | binary | {last} |"
)
# Of a recipe file that does not say how outputs were read.
_EARLIER = " (chosen before distillation was among the candidates)"
_VARIED = ", every second one moved by up to 4 pixels and perhaps mirrored, as in training"


@dataclass(frozen=True)
class Line:
    """A row and its results, one per calibration seed."""

    row: Row
    recipe: tp.Recipe
    entries: list[dict[str, Any]]

    def values(self, key: str) -> list[float]:
        """A quantity at T, per seed; losses in points."""
        t = self.row.timesteps
        found = []
        for entry in self.entries:
            e = entry["evaluation"]
            low, high = e["loss_interval"][t - 1]
            found.append(
                {
                    "loss": 100 * e["loss"][t - 1],
                    "error": 100 * (high - low) / 2 / Z95,
                    "quantized": 100 * (e["ann_accuracy"] - e["quantized"][str(t)]),
                    "distance": 100 * (e["quantized"][str(t)] - e["accuracy"][t - 1]),
                    "agreement": 100 * e["agreement"][t - 1],
                    "spikes": e["spikes_per_neuron"][t - 1],
                    "ann": 100 * e["ann_accuracy"],
                    "accuracy": 100 * e["accuracy"][t - 1],
                }[key]
            )
        return found

    def mean(self, key: str) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values(key))

    @property
    def binary(self) -> float:
        """Spikes per neuron in the binary code; the share is that of the first batch at its T."""
        share = statistics.fmean(entry["binary_to_unit_spikes"] for entry in self.entries)
        return share * self.mean("spikes")


def cells(line: Line, name: str, last: str) -> str:
    """One line of a table."""
    losses = line.values("loss")
    spread = f"{statistics.stdev(losses):.2f}" if len(losses) > 1 else "-"
    counts = line.entries[0]["max_counts"]
    count = str(counts[0]) if len(counts) == 1 else f"{min(counts)}..{max(counts)}"
    return (
        f"| {name} | {line.row.timesteps} | {count} | {line.mean('loss'):.2f} | "
        f"{line.mean('error'):.2f} | {spread} | {line.mean('quantized'):.2f} | "
        f"{line.mean('distance'):.2f} | {line.mean('agreement'):.2f} | "
        f"{line.mean('spikes'):.2f} | {line.binary:.2f} | {last} |"
    )


def head(first: str, last: str) -> list[str]:
    """The first two lines of a table."""
    return [HEAD.format(first=first, last=last), "|---" * 12 + "|"]


def document(asked: dict[str, Any], found: list[Line]) -> str:
    """All tables."""
    if not found:
        return f"{_title(asked)}\n\nNothing measured yet.\n"
    first = next((line for line in found if line.row.pooling == "max"), found[0])
    seeds = sorted({entry["seed"] for line in found for entry in line.entries})
    versions = first.entries[0]["versions"]
    text = [
        _title(asked),
        "",
        f"ANN {first.mean('ann'):.2f} % on n = {asked['test_images']} test images "
        f"({asked['test_draw']}). Calibration: {asked['calibration_images']} training images"
        f"{_VARIED if asked.get('varied') else ''}; "
        f"seeds {', '.join(map(str, seeds))}; a row with fewer seeds says so. Static input, every "
        "timestep counted in T, K is the maximum in every layer. Written by "
        "`benchmarks/methods/table.py`.",
        "",
        "Loss: accuracy of the ANN minus that of the spiking network, in points, mean over the "
        "seeds. Paired s.e.: standard error of the loss over the same test images, mean over the "
        "seeds. Seeds: s.d.: standard deviation of the loss over calibration seeds. Quantized: the "
        "quantized ANN with K T levels and the same steps, starts and offsets, a reference and not "
        "an upper bound; to quantized: its accuracy minus that of the spiking network. Agree: "
        "predictions equal to the ANN's. Spikes per neuron over all T, counts of n as n spikes; "
        "binary: one per bit set, from the share on the first batch.",
    ]
    tables = {
        "Targets": _targets,
        "Ablation": _ablation,
        "Parts": _parts,
        "Codes": _codes,
        "Spikes": _codes,
        "Pooling": _pooling,
    }
    for title, table in tables.items():
        mine = [line for line in found if line.row.group == title.lower()]
        if mine:
            text += ["", f"## {title}", "", *table(mine)]
    text += ["", "Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".", ""]
    return "\n".join(text)


def _title(asked: dict[str, Any]) -> str:
    varied = ", half of them varied" if asked.get("varied") else ""
    return f"# {asked['model']}: methods, {asked['calibration_images']} calibration images{varied}"


def _seeds(line: Line) -> str:
    count = len(line.entries)
    return f"{count} seed" if count == 1 else f"{count} seeds"


def _targets(found: list[Line]) -> list[str]:
    text = head("setting and recipe", "at most, reached")
    for target in TARGETS:
        for t, most in target.most.items():
            for line in found:
                if (line.row.target, line.row.timesteps) == (target.name, t):
                    reached = "yes" if line.mean("loss") <= most else "no"
                    text.append(cells(line, line.row.name, f"{most}, {reached}, {_seeds(line)}"))
    text += ["", "Tuned, each chosen once on training images:", ""]
    text += [
        f"- {line.row.name}, T={line.row.timesteps}: {line.recipe.name}"
        + ("" if "reading" in line.recipe.found else _EARLIER)
        for line in found
        if line.row.recipe is None
    ]
    return text


def _ablation(found: list[Line]) -> list[str]:
    """Every part with what it adds to the line above, where both have the same seeds."""
    text: list[str] = []
    measured = {(line.row.target, line.row.timesteps, line.row.name): line for line in found}
    chain, above = "", None
    for row in [row for row in rows(1.0) if row.group == "ablation"]:
        line = measured.get((row.target, row.timesteps, row.name))
        title = f"{row.target}, T={row.timesteps}"
        before = None if title != chain else above
        chain, above = title, line
        if line is None:
            continue
        if f"### {title}" not in text:
            text += ["", f"### {title}", "", *head("part", "points gained")]
        gain = ""
        if before is not None and _seeds_of(before) == _seeds_of(line):
            gain = f"{before.mean('loss') - line.mean('loss'):+.2f}, "
        text.append(cells(line, line.row.name, gain + _seeds(line)))
    return text[1:]


def _seeds_of(line: Line) -> list[int]:
    return sorted(entry["seed"] for entry in line.entries)


def _parts(found: list[Line]) -> list[str]:
    text = [
        "One threshold rule or pass exchanged at a time; passes come after least squares. T=8: "
        "signed, K=1; T=32: integrate-and-fire.",
        "",
        *head("rule or pass", "seeds"),
    ]
    return [*text, *(cells(line, line.row.name, _seeds(line)) for line in found)]


def _codes(found: list[Line]) -> list[str]:
    text = head("neuron or code", "neuron, seeds")
    return [
        *text,
        *(
            cells(line, line.row.name, f"{line.recipe.neuron.name}, {_seeds(line)}")
            for line in found
        ),
    ]


def _pooling(found: list[Line]) -> list[str]:
    """Average pooling changes the ANN, so accuracies are what can be compared."""
    text = [
        "Max-pooling as trained and kept exactly, against average pooling put in its place before "
        "the conversion, which changes the ANN; signed, K=1, percentile 99.9 per channel. Loss is "
        "against the network's own ANN.",
        "",
        *head("pooling", "ANN %, SNN %, seeds"),
    ]
    for line in found:
        own = f"{line.mean('ann'):.2f}, {line.mean('accuracy'):.2f}, {_seeds(line)}"
        text.append(cells(line, line.row.name, own))
    return text
