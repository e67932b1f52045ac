"""Measuring a network: its accuracy over time, its errors site by site, and its cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import transpike as tp
from transpike.cli.options import (
    BatchOption,
    CalibrationOption,
    Choices,
    ClassesOption,
    DataOption,
    DeviceOption,
    FigureOption,
    GranularityOption,
    JsonOption,
    LimitOption,
    MembraneOption,
    NeuronOption,
    PassesOption,
    RecipeOption,
    SavedOrModelArgument,
    SeedOption,
    SplitOption,
    ThresholdOption,
    TileOption,
    TimestepsOption,
    WeightsOption,
)
from transpike.cli.output import INTERRUPTED, plain, progress_bar, write_figure, write_json

_TOGETHER = 50  # images in a batch whose values are all kept


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|FOLDER", help="A model's name or a saved folder.")
    ],
    weights: WeightsOption = None,
    num_classes: ClassesOption = None,
    data: DataOption = "digits",
    tile: TileOption = None,
    split: SplitOption = None,
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
    limit: Annotated[
        int | None, typer.Option("--limit", help="Use a random part of the test images.")
    ] = None,
    seed: SeedOption = 0,
    batch_size: BatchOption = None,
    device: DeviceOption = "cpu",
    precision: Annotated[
        str,
        typer.Option("--precision", help="exact, fast (bfloat16 products) or split (on CUDA)."),
    ] = "exact",
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
    memory: Annotated[
        int | None, typer.Option("--memory", min=1, help="MiB for values and states.")
    ] = None,
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
    from transpike.cli.run import is_volumes, open_run, run_length
    from transpike.cli.samples import write_samples

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
    if samples is not None and early_stopping is not None:
        raise tp.ArgumentError(
            "--samples: records runs of full length, and --early-stopping stops them. Leave one "
            "of them out."
        )
    run = open_run(data, device, batch_size, seed, tile=tile, split=split)
    timesteps = run_length(timesteps, recipe)
    snn, used = run.loaded_or_converted(model, choices, timesteps, whole=True)
    test = run.test_images(snn.network, limit, strict=True)
    rule = run.stopping_rule(snn, early_stopping, timesteps, choices)
    metric = MaskScores(snn.network) if is_volumes(data) else None
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
    typer.echo(str(result))
    content = {
        **result.to_dict(),
        "limit": limit,
        "early_stopping": None if rule is None else asdict(rule),
    }
    if metric is not None:
        content["mask_agreement"] = against_ann(result)
        typer.echo(f"\n{mask_table(result, content['mask_agreement'])}")
    record = run.record(model, data, used, snn.network)
    write_json(json_file, {**content, **record})
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    if samples is not None:
        write_samples(samples, run, snn, test, timesteps, precision=precision, facts=record)


def diagnose(
    model: SavedOrModelArgument,
    weights: WeightsOption = None,
    num_classes: ClassesOption = None,
    data: DataOption = "digits",
    tile: TileOption = None,
    split: SplitOption = None,
    neuron: NeuronOption = None,
    threshold: ThresholdOption = None,
    granularity: GranularityOption = None,
    initial_membrane: MembraneOption = None,
    calibration_size: CalibrationOption = None,
    timesteps: TimestepsOption = 32,
    limit: LimitOption = 200,
    seed: SeedOption = 0,
    batch_size: BatchOption = None,
    device: DeviceOption = "cpu",
    figure: FigureOption = None,
    json_file: JsonOption = None,
) -> None:
    """Compare the spiking with the analog network site by site; name what is wrong."""
    from transpike.cli.run import open_run
    from transpike.report.figures import diagnosis_figure
    from transpike.zoo.models import build_model

    choices = Choices(
        weights, num_classes, neuron, threshold, granularity, initial_membrane, calibration_size
    )
    run = open_run(data, device, batch_size, seed, together=_TOGETHER, tile=tile, split=split)
    snn, used = run.loaded_or_converted(model, choices, timesteps)
    images = run.test_images(snn.network, limit)
    # Without a file of weights the model would be built anew with other random ones.
    original = build_model(model, weights, num_classes) if used and weights else None
    with progress_bar("diagnose", len(images)) as progress:
        result = tp.diagnose(snn, run.batches(images), timesteps, model=original, progress=progress)
    typer.echo(str(result))
    write_figure(figure, diagnosis_figure, result)
    write_json(
        json_file,
        {**plain(result.to_dict()), "limit": limit, **run.record(model, data, used, snn.network)},
    )


def cost(
    model: SavedOrModelArgument,
    weights: WeightsOption = None,
    num_classes: ClassesOption = None,
    data: DataOption = "digits",
    tile: TileOption = None,
    split: SplitOption = None,
    neuron: NeuronOption = None,
    threshold: ThresholdOption = None,
    granularity: GranularityOption = None,
    initial_membrane: MembraneOption = None,
    calibration_size: CalibrationOption = None,
    timesteps: TimestepsOption = 32,
    limit: LimitOption = 200,
    seed: SeedOption = 0,
    batch_size: BatchOption = None,
    device: DeviceOption = "cpu",
    figure: FigureOption = None,
    json_file: JsonOption = None,
) -> None:
    """Count spikes, operations and memory; estimate energy beside the analog network's."""
    from transpike.cli.run import open_run
    from transpike.report.figures import cost_figure

    choices = Choices(
        weights, num_classes, neuron, threshold, granularity, initial_membrane, calibration_size
    )
    run = open_run(data, device, batch_size, seed, together=_TOGETHER, tile=tile, split=split)
    snn, used = run.loaded_or_converted(model, choices, timesteps)
    images = run.test_images(snn.network, limit)
    with progress_bar("cost", len(images)) as progress:
        result = tp.measure_cost(snn, run.batches(images), timesteps, progress=progress)
    typer.echo(str(result))
    write_figure(figure, cost_figure, result)
    write_json(
        json_file,
        {**plain(result.to_dict()), "limit": limit, **run.record(model, data, used, snn.network)},
    )
