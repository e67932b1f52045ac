"""Commands that measure a network: its accuracy at every timestep, its errors, and its cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

import transpike as tp
from transpike.cli.options import (
    Conversion,
    FigureOption,
    JsonOption,
    Machine,
    Part,
    RunLengthOption,
    SavedOrModelArgument,
    Simulation,
    Source,
    TimestepsOption,
    with_groups,
)
from transpike.cli.output import INTERRUPTED, plain, progress_bar, write_figure, write_json
from transpike.cli.overwriting import check_outputs, reads_of

if TYPE_CHECKING:
    from transpike.cli.run import Run

_TOGETHER = 50  # images in a batch of which all values are kept
_FEW = 200  # images that are enough for sums over sites


@dataclass(frozen=True)
class Extra:
    """What `evaluate` does beside the measurement."""

    panel: ClassVar[str] = "Measurement"

    compare_exact: Annotated[
        bool,
        typer.Option(
            "--compare-exact",
            help="Also run with --precision exact, and say how many predictions agree.",
        ),
    ] = False
    early_stopping: Annotated[
        str | None,
        typer.Option(
            "--early-stopping",
            help="Stop the simulation of an image when its prediction is sure enough: margin:0.9 "
            "or entropy:0.1. For margin or entropy alone, the threshold is fitted on the "
            "calibration images.",
        ),
    ] = None
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples",
            help="Folder for predictions and pictures, which transpike report can show. They are "
            "recorded in a second simulation.",
        ),
    ] = None

    def check(self) -> None:
        """Refuses options that do not go together."""
        if self.samples is not None and self.early_stopping is not None:
            raise tp.ArgumentError(
                "--samples: needed runs of full length, and --early-stopping shortens them. Leave "
                "one of them out."
            )


@with_groups()
def evaluate(
    model: SavedOrModelArgument,
    source: Source,
    conversion: Conversion,
    part: Part,
    simulation: Simulation,
    extra: Extra,
    machine: Machine,
    timesteps: RunLengthOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure the accuracy at every timestep, of a model converted now or of a saved network."""
    from transpike.cli.mask_scores import MaskScores, against_ann, mask_table
    from transpike.cli.run import open_run, run_length
    from transpike.cli.samples import write_samples
    from transpike.data import VolumeSplit

    extra.check()
    written = {"--samples": (extra.samples, ("samples.npz", "samples.json"))}
    check_outputs({"--json": json_file}, reads_of(model, source, conversion), written)
    run = open_run(source, machine, part)
    timesteps = run_length(timesteps, conversion.recipe)
    snn, _ = run.loaded_or_converted(model, conversion, timesteps, whole=True)
    test = run.test_images(snn.network, part.limit, strict=True)
    rule = run.stopping_rule(snn, extra.early_stopping, timesteps)
    metric = MaskScores(snn.network) if isinstance(test, VolumeSplit) else None
    with progress_bar("evaluate (images x timesteps)", len(test) * timesteps) as progress:
        result = tp.evaluate(
            snn,
            run.batches(test),
            timesteps,
            metric=metric,
            precision=simulation.precision,
            compare_exact=extra.compare_exact,
            early_stopping=rule,
            memory_budget=simulation.memory_budget,
            progress=progress,
        )
    typer.echo(f"{run.heading(model, snn)}{result}")
    content = {
        **result.to_dict(),
        "limit": part.limit,
        "early_stopping": None if rule is None else asdict(rule),
    }
    if metric is not None:
        content["mask_agreement"] = against_ann(result)
        typer.echo(f"\n{mask_table(result, content['mask_agreement'])}")
    record = run.record(model, snn)
    write_json(json_file, {**content, **record})
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    if extra.samples is not None:
        precision = simulation.precision
        write_samples(extra.samples, run, snn, test, timesteps, precision=precision, facts=record)


@with_groups()
def diagnose(
    model: SavedOrModelArgument,
    source: Source,
    conversion: Conversion,
    part: Part,
    machine: Machine,
    timesteps: TimestepsOption = 32,
    figure: FigureOption = None,
    json_file: JsonOption = None,
) -> None:
    """Compare the spiking network with the analog network and name what is wrong.

    They are compared site by site. A site is a place where spiking neurons replace an activation.
    """
    from transpike.cli.run import open_run
    from transpike.report.figures import diagnosis_figure

    check_outputs({"-o": figure, "--json": json_file}, reads_of(model, source, conversion))
    run = open_run(source, machine, part, together=_TOGETHER)
    snn, built = run.loaded_or_converted(model, conversion, timesteps)
    images = run.test_images(snn.network, _few(part))
    with progress_bar("diagnose", len(images)) as progress:
        result = tp.diagnose(snn, run.batches(images), timesteps, model=built, progress=progress)
    write_figure(figure, diagnosis_figure, result)
    _tell(run, model, snn, result, _few(part), json_file)


@with_groups()
def cost(
    model: SavedOrModelArgument,
    source: Source,
    conversion: Conversion,
    part: Part,
    machine: Machine,
    timesteps: TimestepsOption = 32,
    figure: FigureOption = None,
    json_file: JsonOption = None,
) -> None:
    """Count spikes, operations and memory, and estimate the energy of both networks."""
    from transpike.cli.run import open_run
    from transpike.report.figures import cost_figure

    check_outputs({"-o": figure, "--json": json_file}, reads_of(model, source, conversion))
    run = open_run(source, machine, part, together=_TOGETHER)
    snn, _ = run.loaded_or_converted(model, conversion, timesteps)
    images = run.test_images(snn.network, _few(part))
    with progress_bar("cost", len(images)) as progress:
        result = tp.measure_cost(snn, run.batches(images), timesteps, progress=progress)
    write_figure(figure, cost_figure, result)
    _tell(run, model, snn, result, _few(part), json_file)


def _few(part: Part) -> int:
    """How many images are measured, at most."""
    return _FEW if part.limit is None else part.limit


def _tell(
    run: Run, model: str, snn: tp.SpikingNetwork, result: Any, limit: int, json_file: Path | None
) -> None:
    """Print a result, and write it where the user wants it."""
    typer.echo(f"{run.heading(model, snn)}{result}")
    record = run.record(model, snn)
    write_json(json_file, {**plain(result.to_dict()), "limit": limit, **record})
