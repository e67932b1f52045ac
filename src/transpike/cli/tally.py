"""What `transpike segment` counts in the masks, and how it reports that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transpike.data.volumes import Volume, read_mask
from transpike.report.pictures import Shown, timesteps_figure
from transpike.segment import Mask, PixelCounts, Segmented


@dataclass
class Tally:
    """What is kept of the slices: counts of all of them, and pictures of those to draw."""

    truth: Volume | None
    drawn: Sequence[int]
    rows: list[Shown] = field(default_factory=list)
    strip: tuple[dict[int, Mask], Shown] | None = None
    slices: list[dict[str, Any]] = field(default_factory=list)
    last: Segmented | None = None
    ann: PixelCounts = field(default_factory=PixelCounts)
    agreement: PixelCounts = field(default_factory=PixelCounts)
    snn: dict[int, PixelCounts] = field(default_factory=dict)
    interrupted: bool = False

    def add(self, one: Segmented) -> None:
        """Counts a slice."""
        timesteps = one.simulation.timesteps
        label = None if self.truth is None else read_mask(self.truth, one.index)
        agreement = PixelCounts.of(one.masks[timesteps], one.ann)
        self.agreement += agreement
        row: dict[str, Any] = {
            "slice": one.index,
            "name": one.name,
            "positive": {
                "ann": int(one.ann.sum()),
                "snn": int(one.masks[timesteps].sum()),
            },
            "against_ann": agreement.scores(),
            "spikes_per_neuron": one.simulation.spikes_per_neuron,
            "seconds": {"ann": one.ann_seconds, "snn": one.snn_seconds},
        }
        if label is not None:
            self.ann += PixelCounts.of(one.ann, label)
            for t, mask in one.masks.items():
                self.snn[t] = self.snn.get(t, PixelCounts()) + PixelCounts.of(mask, label)
            row["snn"] = PixelCounts.of(one.masks[timesteps], label).scores()
            row["ann"] = PixelCounts.of(one.ann, label).scores()
        self.slices.append(row)
        self.last = one
        if one.index in self.drawn:
            shown = Shown(one.name, one.pixels, one.ann, one.masks[timesteps], label)
            self.rows.append(shown)
            if one.index == self.drawn[0]:
                self.strip = (one.masks, shown)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        assert self.last is not None
        run, n = self.last.simulation, len(self.slices)
        scores = None
        if self.truth is not None:
            scores = {
                "n": self.ann.n,
                "ann": self.ann.scores(),
                "snn": {str(t): counts.scores() for t, counts in self.snn.items()},
            }
        return {
            "tile": list(run.tile),
            "overlap": list(run.overlap),
            "tiles_per_slice": run.tiles,
            "receptive_field": {
                "before": list(run.field.before),
                "after": list(run.field.after),
                "alignment": list(run.field.alignment),
            },
            "exact": run.exact,
            "precision": run.precision,
            "spikes_per_neuron": sum(row["spikes_per_neuron"] for row in self.slices) / n,
            "seconds": {
                side: sum(row["seconds"][side] for row in self.slices) for side in ("ann", "snn")
            },
            "against_ann": {"n": self.agreement.n, **self.agreement.scores()},
            "scores": scores,
            "per_slice": self.slices,
        }

    def text(self) -> str:
        """The counts as text for the terminal."""
        facts, n = self.to_dict(), len(self.slices)
        height, width = facts["tile"]
        seconds = facts["seconds"]
        lines = [
            f"{_counted(n, 'slice')}, each cut into {_counted(facts['tiles_per_slice'], 'tile')} "
            f"of {height} x {width} pixels; the masks "
            + ("equal" if facts["exact"] else "approximate")
            + " those of whole slices",
            f"{facts['spikes_per_neuron']:.3f} spikes per neuron, mean over the slices",
            f"seconds: ANN {seconds['ann']:.1f}, SNN {seconds['snn']:.1f}",
            f"SNN mask against ANN mask: {_scores_text(facts['against_ann'])}",
        ]
        if facts["scores"] is not None:
            lines += [
                f"against labels, n={facts['scores']['n']} pixels:",
                f"   ANN  {_scores_text(facts['scores']['ann'])}",
            ]
            for t, scores in facts["scores"]["snn"].items():
                lines.append(f"{f't={t}':>6}  {_scores_text(scores)}")
        return "\n".join(lines)


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _scores_text(scores: dict[str, float]) -> str:
    return (
        f"F1 {scores['f1']:.4f}, Jaccard {scores['jaccard']:.4f}, "
        f"pixels {100 * scores['accuracy']:.2f} %"
    )


def strip_figure(tally: Tally, name: str) -> Any:
    """Draws the masks of the first drawn slice at t = 1, 2, 4, ... and T."""
    assert tally.strip is not None
    masks, shown = tally.strip
    return timesteps_figure(masks, shown.ann, shown.label, f"{name}, slice {shown.name}")
