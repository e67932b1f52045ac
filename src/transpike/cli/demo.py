"""The command that runs the demo."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer

import transpike as tp
from transpike.cli.options import FolderOption, JsonOption, SeedOption, TimestepsOption
from transpike.cli.output import progress_bar, provenance, write_json
from transpike.cli.overwriting import check_outputs


def demo(
    output: FolderOption = Path("demo-output"),
    timesteps: TimestepsOption = 32,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Train a small network on digits, convert it, and show its accuracy at every timestep."""
    from transpike.zoo import demo as demonstration

    check_outputs({"--json": json_file}, [], {"-o": (output, ("accuracy.png",))})
    with progress_bar("train", None) as progress:
        model, data = demonstration.train(seed, progress)
    results: dict[str, tp.Evaluation] = {}
    for label, neuron in demonstration.neurons().items():
        snn = demonstration.convert(model, data, neuron, seed)
        with progress_bar(f"evaluate {label}", None) as progress:
            results[label] = tp.evaluate(
                snn, demonstration.evaluation_batches(data), timesteps, progress=progress
            )
        if label == demonstration.DEFAULT_LABEL:
            tp.save(snn, output / "network")
    typer.echo(demonstration.table(results))
    content = {
        "model": "digits_cnn",
        "data": "digits",
        "calibration": {"split": "train", "n": demonstration.CALIBRATION_SIZE, "seed": seed},
        "results": {label: result.to_dict() for label, result in results.items()},
        **provenance(seed),
    }
    figure = demonstration.draw(results, output / "accuracy.png")
    write_json(output / "accuracy.json", content)
    write_json(json_file, content)
    typer.echo(
        f"\nwritten: {output / 'network'}, {figure}, {output / 'accuracy.json'}\n"
        f"again:   transpike evaluate {shlex.quote(str(output / 'network'))} --data digits"
    )
