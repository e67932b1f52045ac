"""Measuring a network: its accuracy over time, its errors site by site, and its cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import transpike as tp
from transpike.cli.options import (
    Conversion,
    FigureOption,
    JsonOption,
    Machine,
    MemoryOption,
    Part,
    PrecisionOption,
    RunLengthOption,
    SavedOrModelArgument,
    Source,
    TimestepsOption,
    with_groups,
)
from transpike.cli.output import INTERRUPTED, plain, progress_bar, write_figure, write_json

_TOGETHER = 50  # images in a batch whose values are all kept
_FEW = 200  # images that are enough for sums over sites


@with_groups()
def evaluate(
    model: SavedOrModelArgument,
    source: Source,
    conversion: Conversion,
    part: Part,
    machine: Machine,
    timesteps: RunLengthOption = None,
    precision: PrecisionOption = "exact",
    compare_exact: Annotated[
        bool,
        typer.Option("--compare-exact", help="Also run exact and say how many predictions agree."),
    ] = False,
    early_stopping: Annotated[
        str | None,
        typer.Option(
            "--early-stopping",
            help="Stop a settled image: margin:0.9 or entropy:0.1; margin or entropy alone take "
            "their threshold from the calibration images.",
        ),
    ] = None,
    memory: MemoryOption = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples",
            help="Also simulate again and write predictions and pictures for transpike report into "
            "this folder.",
        ),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure accuracy at every timestep of a model, converted now, or of a saved folder."""
    from transpike.cli.masks import MaskScores, against_ann, mask_table
    from transpike.cli.run import open_run, run_length
    from transpike.cli.samples import write_samples
    from transpike.data import VolumeSplit

    if samples is not None and early_stopping is not None:
        raise tp.ArgumentError(
            "--samples: records runs of full length, and --early-stopping stops them. Leave one "
            "of them out."
        )
    run = open_run(source, machine, part)
    timesteps = run_length(timesteps, conversion.recipe)
    snn, built = run.loaded_or_converted(model, conversion, timesteps, whole=True)
    test = run.test_images(snn.network, part.limit, strict=True)
    rule = run.stopping_rule(snn, early_stopping, timesteps)
    metric = MaskScores(snn.network) if isinstance(test, VolumeSplit) else None
    with progress_bar("evaluate (images x timesteps)", len(test) * timesteps) as progress:
        result = tp.evaluate(
            snn,
            run.batches(test),
            timesteps,
            metric=metric,
            precision=precision,
            compare_exact=compare_exact,
            early_stopping=rule,
            memory_budget=None if memory is None else memory * 2**20,
            progress=progress,
        )
    typer.echo(f"{run.heading(model)}{result}")
    content = {
        **result.to_dict(),
        "limit": part.limit,
        "early_stopping": None if rule is None else asdict(rule),
    }
    if metric is not None:
        content["mask_agreement"] = against_ann(result)
        typer.echo(f"\n{mask_table(result, content['mask_agreement'])}")
    record = run.record(model, snn.network, converted=built is not None)
    write_json(json_file, {**content, **record})
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    if samples is not None:
        write_samples(samples, run, snn, test, timesteps, precision=precision, facts=record)


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
    """Compare the spiking with the analog network site by site; name what is wrong."""
    from transpike.cli.run import open_run
    from transpike.report.figures import diagnosis_figure

    run = open_run(source, machine, part, together=_TOGETHER)
    snn, built = run.loaded_or_converted(model, conversion, timesteps)
    limit = _FEW if part.limit is None else part.limit
    images = run.test_images(snn.network, limit)
    with progress_bar("diagnose", len(images)) as progress:
        result = tp.diagnose(snn, run.batches(images), timesteps, model=built, progress=progress)
    typer.echo(f"{run.heading(model)}{result}")
    write_figure(figure, diagnosis_figure, result)
    record = run.record(model, snn.network, converted=built is not None)
    write_json(json_file, {**plain(result.to_dict()), "limit": limit, **record})


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
    """Count spikes, operations and memory; estimate energy beside the analog network's."""
    from transpike.cli.run import open_run
    from transpike.report.figures import cost_figure

    run = open_run(source, machine, part, together=_TOGETHER)
    snn, built = run.loaded_or_converted(model, conversion, timesteps)
    limit = _FEW if part.limit is None else part.limit
    images = run.test_images(snn.network, limit)
    with progress_bar("cost", len(images)) as progress:
        result = tp.measure_cost(snn, run.batches(images), timesteps, progress=progress)
    typer.echo(f"{run.heading(model)}{result}")
    write_figure(figure, cost_figure, result)
    record = run.record(model, snn.network, converted=built is not None)
    write_json(json_file, {**plain(result.to_dict()), "limit": limit, **record})
