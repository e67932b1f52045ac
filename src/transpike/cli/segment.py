"""Segmenting a user's own slices."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

import transpike as tp
from transpike.cli.options import (
    CalibrationOption,
    Choices,
    ClassesOption,
    DeviceOption,
    GranularityOption,
    JsonOption,
    MembraneOption,
    NeuronOption,
    PassesOption,
    RecipeOption,
    SeedOption,
    ThresholdOption,
    WeightsOption,
)
from transpike.cli.output import (
    INTERRUPTED,
    plain,
    progress_bar,
    provenance,
    write_figure,
    write_json,
)
from transpike.cli.run import (
    is_saved,
    is_volumes,
    load_saved,
    open_device,
    open_run,
    run_length,
)
from transpike.data import Normalization
from transpike.data.volumes import Volume, open_stack, read_mask
from transpike.report.figures import blank_figure
from transpike.report.pictures import Shown, overview_figure, timesteps_figure
from transpike.segment import Mask, PixelCounts, Segmented, fitting_tile, resized
from transpike.segment import segment as segment_slices

_TILE = 512  # pixels
_MOST_SHOWN = 4  # slices in the overview
_WHITE = 255
_LARGE_TIFF = 2**32  # bytes that a TIFF with 32-bit offsets cannot hold


def segment(
    volume: Annotated[
        Path,
        typer.Argument(
            metavar="VOLUME",
            help="Grayscale, 8 or 16 bit: a .png or .tif image, a .tif of many pages, a folder of "
            "slices, or a .zarr array.",
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL|FOLDER", help="As of transpike evaluate.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for what it makes.")],
    weights: WeightsOption = None,
    num_classes: ClassesOption = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="lucchi:PATH to calibrate on; not for a saved folder."),
    ] = None,
    neuron: NeuronOption = None,
    threshold: ThresholdOption = None,
    granularity: GranularityOption = None,
    initial_membrane: MembraneOption = None,
    calibration_size: CalibrationOption = None,
    passes: PassesOption = None,
    recipe: RecipeOption = None,
    timesteps: Annotated[
        int | None,
        typer.Option("--timesteps", help="Length of the run (default: the recipe's, or 32)."),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option("--tile", min=1, help="Side in pixels (default 512, or that of a folder)."),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            "--overlap",
            min=0,
            help="Pixels that tiles share (default: what the network sees, and then masks are "
            "those of whole slices).",
        ),
    ] = None,
    slices: Annotated[
        str | None,
        typer.Option("--slices", help="Which, counted from 0: 7, START:STOP or START:STOP:STEP."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many of them, the first ones.")
    ] = None,
    show: Annotated[
        str | None,
        typer.Option("--show", help="Slices to draw, as 0,10 (default: four of them or fewer)."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="True masks, in any form VOLUME can have, to score against."),
    ] = None,
    tiff: Annotated[
        bool, typer.Option("--tiff", help="Write masks.tif instead of a folder of .png files.")
    ] = False,
    mean: Annotated[
        float, typer.Option("--mean", help="Taken from pixel values in 0..1, as in training.")
    ] = 0.5,
    std: Annotated[float, typer.Option("--std", help="What they are divided by then.")] = 0.5,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    precision: Annotated[
        str,
        typer.Option("--precision", help="exact, fast (bfloat16 products) or split (on CUDA)."),
    ] = "exact",
    memory: Annotated[
        int | None, typer.Option("--memory", min=1, help="MiB for values and states of a tile.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Make masks of your own slices, tile by tile, by the spiking and the analog network."""
    choices = Choices(
        weights,
        num_classes,
        neuron,
        threshold,
        granularity,
        initial_membrane,
        calibration_size,
        passes,
        recipe,
    )
    timesteps = run_length(timesteps, recipe)
    stack = open_stack(volume)
    truth = _labels(labels, stack)
    chosen = _chosen(slices, limit, stack.shape[0])
    drawn = _shown(show, chosen)
    _check_output(output)
    blank_figure((1, 1))  # where matplotlib is missing it says so now, not after the work
    source = _Source(model, choices, data, Normalization((mean,), (std,)), device, seed)
    snn, calibration = source.network(timesteps, stack.shape[1:], tile, overlap)
    tally = _Tally(truth, drawn)
    with (
        _mask_writer(output, tiff, stack, len(chosen)) as write,
        progress_bar("segment (tiles x timesteps)", None) as progress,
    ):
        made = segment_slices(
            snn,
            stack,
            timesteps,
            normalization=source.normalization,
            slices=chosen,
            curve=chosen if labels else drawn[:1],
            overlap=overlap,
            precision=precision,
            memory_budget=None if memory is None else memory * 2**20,
            progress=progress,
        )
        interrupted = _written(made, write, tally)
    content = {
        "volume": str(volume),
        "labels": None if labels is None else str(labels),
        "shape": list(stack.shape),
        "maximum": stack.maximum,
        "slices": chosen[: len(tally.slices)],
        "masks": "masks.tif" if tiff else "masks",
        "interrupted": interrupted,
        "model": model,
        "calibration": calibration,
        "normalization": source.normalization.to_dict(),
        "timesteps": timesteps,
        "max_count": snn.max_count,
        "settings": plain(dict(snn.settings)),
        "device": device,
        **tally.to_dict(),
        **provenance(seed),
    }
    name = f"{volume}: T = {timesteps}, K = {snn.max_count}"
    if tally.rows:  # an interrupt can come before the first slice to draw
        write_figure(output / "overview.png", lambda rows: overview_figure(rows, name), tally.rows)
    if tally.strip is not None:
        write_figure(output / "timesteps.png", lambda one: _strip(one, name), tally)
    write_json(output / "segment.json", content)
    write_json(json_file, content)
    typer.echo(f"{tally.text()}\nwritten: {output}")
    if interrupted:
        typer.echo(f"interrupted after {len(tally.slices)} of {len(chosen)} slices", err=True)
        raise typer.Exit(INTERRUPTED)


def _written(made: Iterator[Segmented], write: Callable[[str, Mask], None], tally: _Tally) -> bool:
    """Write and count every slice; whether the user interrupted it, after the first slice."""
    try:
        for one in made:
            with _undivided():
                write(one.name, one.masks[one.simulation.timesteps])
                tally.add(one)
    except KeyboardInterrupt:
        if tally.last is None:
            raise
        return True
    return False


@contextmanager
def _undivided() -> Iterator[None]:
    """Hold an interrupt from the keyboard back until the end of the block."""
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


@dataclass(frozen=True)
class _Source:
    """Where the spiking network comes from."""

    model: str
    choices: Choices
    data: str | None
    normalization: Normalization
    device: str
    seed: int

    def network(
        self, timesteps: int, size: Sequence[int], tile: int | None, overlap: int | None
    ) -> tuple[tp.SpikingNetwork, dict[str, Any] | None]:
        """The network for tiles of slices of this size, and what it was calibrated on, if now."""
        if is_saved(self.model):
            return self._saved(tile), None
        if self.data is None or not is_volumes(self.data):
            raise tp.ArgumentError(
                "segment: needed --data lucchi:PATH, whose training slices set the thresholds, or "
                f"a folder that transpike convert saved, got {self.data!r}."
            )
        run = open_run(self.data, self.device, None, self.seed, normalization=self.normalization)
        snn, model = run.convert(self.model, self.choices, timesteps)
        sides = fitting_tile(snn.network, size, tile or _TILE, overlap)
        if sides != snn.network.input_shape[1:]:
            snn = resized(snn, model, sides)
        calibration = run.record(self.model, self.data, self.choices, snn.network)["calibration"]
        return snn, calibration

    def _saved(self, tile: int | None) -> tp.SpikingNetwork:
        if self.data is not None:
            raise tp.ArgumentError(
                f"--data: {self.model!r} is a converted network and needs no calibration. Leave "
                "the option out."
            )
        snn = load_saved(self.model, self.choices, open_device(self.device))
        shape = snn.network.input_shape
        if tile is not None and shape[1:] != (tile, tile):
            raise tp.ArgumentError(
                f"--tile {tile}: the saved network takes inputs of {shape}. Leave the option out, "
                f"or convert again with --tile {tile}."
            )
        return snn


@dataclass
class _Tally:
    """What is kept of every slice: counts, not pictures, but of the slices to draw."""

    truth: Volume | None
    drawn: Sequence[int]
    rows: list[Shown] = field(default_factory=list)
    strip: tuple[dict[int, Mask], Shown] | None = None
    slices: list[dict[str, Any]] = field(default_factory=list)
    last: Segmented | None = None
    ann: PixelCounts = field(default_factory=PixelCounts)
    agreement: PixelCounts = field(default_factory=PixelCounts)
    snn: dict[int, PixelCounts] = field(default_factory=dict)

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
        """A short account."""
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


def _strip(tally: _Tally, name: str) -> Any:
    assert tally.strip is not None
    masks, shown = tally.strip
    return timesteps_figure(masks, shown.ann, shown.label, f"{name}, slice {shown.name}")


def _labels(place: Path | None, stack: Volume) -> Volume | None:
    if place is None:
        return None
    truth = open_stack(place)
    if truth.shape != stack.shape:
        raise tp.DataError(
            f"--labels {str(place)!r}: needed a mask of its own size for every slice, (slices, "
            f"height, width) = {stack.shape}, got {truth.shape}."
        )
    return truth


def _chosen(text: str | None, limit: int | None, count: int) -> list[int]:
    """The slices of `--slices`, at most `limit` of them."""
    found = list(range(count))
    if text is not None:
        try:
            parts = [int(part) if part else None for part in text.split(":")]
        except ValueError:
            parts = []
        if not 1 <= len(parts) <= 3 or parts == [None]:
            raise tp.ArgumentError(f"--slices {text!r}: needed a form like 7, 0:10 or 0:100:10.")
        if len(parts) == 1 and parts[0] is not None:
            found = [index for index in found if index == parts[0]]
        elif 0 not in parts[2:]:
            found = found[slice(*parts)]
        else:
            found = []
    if not found:
        raise tp.ArgumentError(
            f"--slices {text!r}: needed at least one of the volume's slices 0..{count - 1}."
        )
    return found[:limit]


def _shown(text: str | None, chosen: Sequence[int]) -> list[int]:
    """The slices of `--show`, or some spread over those chosen."""
    if text is None:
        count = min(_MOST_SHOWN, len(chosen))
        places = np.linspace(0, len(chosen) - 1, count).round().astype(int)
        return [chosen[place] for place in places]
    try:
        wanted = sorted({int(part) for part in text.split(",")})
    except ValueError:
        wanted = []
    if not 1 <= len(wanted) <= _MOST_SHOWN or not set(wanted) <= set(chosen):
        raise tp.ArgumentError(
            f"--show {text!r}: needed one to {_MOST_SHOWN} of the slices that are segmented, such "
            f"as {chosen[0]}."
        )
    return wanted


def _check_output(output: Path) -> None:
    """Refuse to mix masks with those of another run."""
    for place in (output / "masks", output / "masks.tif"):
        if place.exists():
            raise tp.ArgumentError(
                f"{str(place)!r} is there already. Choose another folder, or remove it."
            )


@contextmanager
def _many_png(folder: Path) -> Iterator[Callable[[str, Mask], None]]:
    from PIL import Image

    place = folder / "masks"
    place.mkdir(parents=True)
    try:
        yield lambda name, mask: Image.fromarray(_bytes(mask)).save(place / _mask_file(name))
    finally:
        if not any(place.iterdir()):
            place.rmdir()


@contextmanager
def _one_tiff(folder: Path, stack: Volume, count: int) -> Iterator[Callable[[str, Mask], None]]:
    import tifffile

    folder.mkdir(parents=True, exist_ok=True)
    place, written = folder / "masks.tif", False
    large = count * stack.shape[1] * stack.shape[2] > _LARGE_TIFF // 2

    def write(_: str, mask: Mask) -> None:
        nonlocal written
        opened.write(_bytes(mask), photometric="minisblack", contiguous=True)
        written = True

    try:
        with tifffile.TiffWriter(place, bigtiff=large) as opened:
            yield write
    finally:
        if not written:
            place.unlink(missing_ok=True)


@contextmanager
def _mask_writer(
    folder: Path, tiff: bool, stack: Volume, count: int
) -> Iterator[Callable[[str, Mask], None]]:
    """A function that writes the mask of a slice, as 0 and 255; without any, no place is left."""
    try:
        writer = _one_tiff(folder, stack, count) if tiff else _many_png(folder)
        with writer as write:
            yield write
    except ImportError as error:
        raise tp.ArgumentError(
            f"{error.name} is not installed: install it with pip install 'transpike[volumes]'."
        ) from error
    except OSError as error:
        raise tp.FileError(
            f"cannot write to {str(folder)!r}: {error.strerror or error}."
        ) from error


def _mask_file(name: str) -> str:
    """The mask of slice 003.tif is 003.png."""
    return f"{Path(name).stem}.png"


def _bytes(mask: Mask) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = mask.astype(np.uint8) * np.uint8(_WHITE)
    return pixels
