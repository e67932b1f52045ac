"""The Markdown that `table.py` makes of its records."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import transpike as tp
from benchmarks.methods.rows import TARGETS, Row, rows
from transpike.measure.intervals import Z95

HEAD = (
    "| {first} | T | K | loss | paired s.e. | s.d. over seeds | quantized loss | "
    "quantized - SNN | "
    "agree % | spikes/neuron | binary | {last} |"
)
# For a recipe that was chosen before distillation existed: its record does not say `reading`.
_EARLIER = " (chosen before distillation was among the candidates)"
_VARIED = (
    " Every second one is moved by up to 4 pixels and perhaps mirrored, as in the ANN's training."
)
_COLUMNS = """\
- loss: accuracy of the ANN minus accuracy of the spiking network (SNN), in percentage points, mean
  over the seeds.
- paired s.e.: standard error of the loss over the same test images, mean over the seeds.
- s.d. over seeds: standard deviation of the loss over the calibration seeds.
- quantized loss: loss of the quantized ANN, which has K T levels and the same steps, starts and
  offsets. It is a reference and not an upper bound.
- quantized - SNN: accuracy of the quantized ANN minus accuracy of the SNN, in percentage points.
- agree %: share of the predictions that equal the ANN's.
- spikes/neuron: spikes over all T timesteps; a count of n is n spikes.
- binary: spikes per neuron if a count is sent as a binary number, with one spike per bit that is
  set. It is computed from the share in the first batch."""


@dataclass(frozen=True)
class Line:
    """A row and its records, one per calibration seed."""

    row: Row
    recipe: tp.Recipe
    entries: list[dict[str, Any]]

    def values(self, key: str) -> list[float]:
        """One quantity at T, for each seed. Losses are in percentage points."""
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
        """The mean of a quantity over the seeds."""
        return statistics.fmean(self.values(key))

    @property
    def binary(self) -> float:
        """Spikes per neuron in the binary code, from the share in the first batch at its T."""
        share = statistics.fmean(entry["binary_to_unit_spikes"] for entry in self.entries)
        return share * self.mean("spikes")


def cells(line: Line, name: str, last: str) -> str:
    """One row of a table as Markdown."""
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
    """All tables of the records that were measured with the same settings."""
    if not found:
        return f"{_title(asked)}\n\nNothing has been measured yet.\n"
    first = next((line for line in found if line.row.pooling == "max"), found[0])
    seeds = sorted({entry["seed"] for line in found for entry in line.entries})
    versions = first.entries[0]["versions"]
    text = [
        _title(asked),
        "",
        f"The ANN has an accuracy of {first.mean('ann'):.2f} % on n = {asked['test_images']} test "
        f"images ({asked['test_draw']}). Calibration uses {asked['calibration_images']} training "
        f"images.{_VARIED if asked.get('varied') else ''} The calibration seeds are "
        f"{', '.join(map(str, seeds))}, and each row says how many of them it has. The input is "
        "static, and every timestep counts towards T. K is the largest spike count per timestep; "
        "a range such as 2..8 means that layers differ in K. This page is written by "
        "`benchmarks/methods/table.py`.",
        "",
        "The columns are:",
        "",
        _COLUMNS,
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
    images = f"{asked['calibration_images']} calibration images{varied}"
    return f"# {asked['model']}: conversion methods, {images}"


def _seeds(line: Line) -> str:
    count = len(line.entries)
    return f"{count} seed" if count == 1 else f"{count} seeds"


def _targets(found: list[Line]) -> list[str]:
    text = [
        "A target is a neuron with the loss that it may have at a T. The last column says which "
        "loss is allowed, whether the recipe reaches it, and how many seeds were measured.",
        "",
        *head("target and recipe", "allowed, reached, seeds"),
    ]
    for target in TARGETS:
        for t, most in target.most.items():
            for line in found:
                if (line.row.target, line.row.timesteps) == (target.name, t):
                    reached = "yes" if line.mean("loss") <= most else "no"
                    text.append(cells(line, line.row.name, f"{most}, {reached}, {_seeds(line)}"))
    text += ["", "Tuning chose these recipes, each of them once, on training images:", ""]
    text += [
        f"- {line.row.name}, T={line.row.timesteps}: {line.recipe.name}"
        + ("" if "reading" in line.recipe.found else _EARLIER)
        for line in found
        if line.row.recipe is None
    ]
    return text


def _ablation(found: list[Line]) -> list[str]:
    """Every part with what it gains over the row above, where both have the same seeds."""
    text = [
        "Every row changes one part of the row above. The last column says how many percentage "
        "points of accuracy this gains, and how many seeds were measured.",
    ]
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
            text += ["", f"### {title}", "", *head("part", "points gained, seeds")]
        gain = ""
        if before is not None and _seeds_of(before) == _seeds_of(line):
            gain = f"{before.mean('loss') - line.mean('loss'):+.2f}, "
        text.append(cells(line, line.row.name, gain + _seeds(line)))
    return text


def _seeds_of(line: Line) -> list[int]:
    return sorted(entry["seed"] for entry in line.entries)


def _parts(found: list[Line]) -> list[str]:
    text = [
        "Every row has another threshold rule or other calibration passes. The passes follow the "
        "least-squares rule. The neuron is signed with K=1 at T=8, and integrate-and-fire at T=32.",
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
    """Average pooling changes the ANN, so only the accuracies can be compared."""
    text = [
        "The network either keeps the max-pooling that it was trained with, which is converted "
        "exactly, or has average pooling in its place before the conversion. Average pooling "
        "changes the ANN, so compare the accuracies: each loss is against the network's own ANN. "
        "The neuron is signed with K=1, and thresholds are the 99.9th percentile per channel.",
        "",
        *head("pooling", "ANN %, SNN %, seeds"),
    ]
    for line in found:
        own = f"{line.mean('ann'):.2f}, {line.mean('accuracy'):.2f}, {_seeds(line)}"
        text.append(cells(line, line.row.name, own))
    return text
