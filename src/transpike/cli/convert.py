"""Commands that show what a conversion would do, and that convert."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

import transpike as tp
from transpike.cli.options import (
    Conversion,
    JsonOption,
    Machine,
    ModelArgument,
    Source,
    with_groups,
)
from transpike.cli.output import plain, write_json
from transpike.cli.overwriting import NETWORK_FILES, check_outputs, reads_of

_DEFAULT_SHAPES: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"), (3, 32, 32)),
    "vgg-cifar": (3, 32, 32),
    **dict.fromkeys(
        ("resnet18", "plainnet18", "resnet50", "resnet101", "resnet101-basic", "vgg18"), (3, 32, 32)
    ),
    "unet": (1, 256, 256),
    "unet-sigmoid": (1, 256, 256),
    "digits_cnn": (1, 8, 8),
}
_IMAGENET_SHAPE = (3, 224, 224)


@with_groups("calibration_size")
def inspect(
    model: ModelArgument,
    source: Source,
    input_shape: Annotated[
        str | None, typer.Option("--input-shape", help="Shape of one input, as 3x224x224.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Show what a conversion would do, without doing it.

    It lists the sites, which are the places where spiking neurons replace an activation, and says
    what becomes of each operation and which operations are refused.
    """
    import torch

    from transpike.cli.run import data_shape
    from transpike.conversion.specs import parse_shape
    from transpike.zoo.models import build_model

    check_outputs({"--json": json_file}, reads_of(model, source))
    if source.tile is not None and (source.data is None or input_shape is not None):
        raise tp.ArgumentError("--tile: for volumes only. Give it with --data lucchi:PATH alone.")
    if input_shape is not None:
        shape = parse_shape(input_shape)
    elif source.data is not None:
        shape = data_shape(source)
    else:
        shape = _DEFAULT_SHAPES.get(model.partition(":")[0], _IMAGENET_SHAPE)
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    report = tp.inspect(
        build_model(model, source.weights, source.num_classes, pretrained=bool(source.pretrained)),
        example,
    )
    typer.echo(str(report))
    write_json(json_file, {"model": model, "input_shape": list(shape), **report.to_dict()})


@with_groups()
def convert(
    model: ModelArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder that the spiking network is saved in.")
    ],
    source: Source,
    conversion: Conversion,
    machine: Machine,
    timesteps: Annotated[
        int | None,
        typer.Option(
            "--timesteps",
            help="T, the number of timesteps that the network is "
            "converted for. --threshold lsq, --threshold gauss and --passes need it.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a folder that exists already.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Convert a model and save the spiking network in a folder."""
    from transpike.cli.run import open_run, required_data

    if output.exists() and not force:
        raise tp.ArgumentError(
            f"-o {str(output)!r}: needed a folder that does not exist yet, and it does. Choose "
            "another one, or give --force to overwrite it."
        )
    check_outputs(
        {"--json": json_file},
        reads_of(model, source, conversion),
        {"-o": (output, NETWORK_FILES)},
    )
    run = open_run(source, machine)
    snn, _ = run.convert(model, conversion, timesteps)
    tp.save(snn, output)
    typer.echo(
        f"saved {output}: {len(snn.network.sites)} sites, {snn.network.neurons} neurons\n"
        f"evaluate it with: transpike evaluate {shlex.quote(str(output))} --data "
        f"{shlex.quote(required_data(source))}"
    )
    sites = [
        {
            "name": site.name,
            "shape": list(site.shape),
            "max_count": snn.neurons[site.name].max_count,
        }
        for site in snn.network.sites
    ]
    content = {
        "folder": str(output),
        "sites": sites,
        "neurons": snn.network.neurons,
        "settings": plain(dict(snn.settings)),
        **run.record(model, snn),
    }
    write_json(json_file, content)
