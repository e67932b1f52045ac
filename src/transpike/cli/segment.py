"""Segmenting a user's own slices."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transpike.cli.options import (
    Conversion,
    FolderOption,
    JsonOption,
    Machine,
    MemoryOption,
    PrecisionOption,
    RunLengthOption,
    Source,
    with_groups,
)
from transpike.cli.output import (
    INTERRUPTED,
    plain,
    progress_bar,
    provenance,
    write_figure,
    write_json,
)

if TYPE_CHECKING:
    from transpike.cli.tally import Tally
    from transpike.segment import Mask, Segmented


@with_groups("batch_size")
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
    output: FolderOption,
    source: Source,
    conversion: Conversion,
    machine: Machine,
    timesteps: RunLengthOption = None,
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
    voxel_size: Annotated[
        str | None,
        typer.Option(
            "--voxel-size",
            metavar="Z,Y,X",
            help="Size of a voxel in nanometers, or Y,X without the distance between slices. It is "
            "written into masks.tif (default: what the TIFF files of VOLUME state, if they do).",
        ),
    ] = None,
    mean: Annotated[
        float, typer.Option("--mean", help="Taken from pixel values in 0..1, as in training.")
    ] = 0.5,
    std: Annotated[float, typer.Option("--std", help="What they are divided by then.")] = 0.5,
    precision: PrecisionOption = "exact",
    memory: MemoryOption = None,
    json_file: JsonOption = None,
) -> None:
    """Make masks of your own slices, tile by tile, by the spiking and the analog network."""
    from transpike.cli.mask_files import check_output, mask_writer
    from transpike.cli.run import run_length
    from transpike.cli.slices import chosen_slices, open_labels, open_network, shown_slices
    from transpike.cli.tally import Tally, strip_figure
    from transpike.data import Normalization
    from transpike.data.volumes import open_stack
    from transpike.data.voxel_size import VoxelSize
    from transpike.report.figures import blank_figure
    from transpike.report.pictures import overview_figure
    from transpike.segment import segment as segment_slices

    timesteps = run_length(timesteps, conversion.recipe)
    stack = open_stack(volume)
    truth = open_labels(labels, stack)
    chosen = chosen_slices(slices, limit, stack.shape[0])
    drawn = shown_slices(show, chosen)
    size = stack.voxel_size if voxel_size is None else VoxelSize.parse(voxel_size)
    check_output(output)
    blank_figure((1, 1))  # where matplotlib is missing it says so now, not after the work
    normalization = Normalization((mean,), (std,))
    snn, calibration = open_network(
        model, source, conversion, machine, normalization, timesteps, stack.shape[1:], overlap
    )
    tally = Tally(truth, drawn)
    with (
        mask_writer(output, tiff, stack, chosen, size) as write,
        progress_bar("segment (tiles x timesteps)", None) as progress,
    ):
        made = segment_slices(
            snn,
            stack,
            timesteps,
            normalization=normalization,
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
        "voxel_size_nm": None if size is None else size.to_list(),
        "slices": chosen[: len(tally.slices)],
        "masks": "masks.tif" if tiff else "masks",
        "interrupted": interrupted,
        "model": model,
        "calibration": calibration,
        "normalization": normalization.to_dict(),
        "timesteps": timesteps,
        "max_count": snn.max_count,
        "settings": plain(dict(snn.settings)),
        "device": machine.device,
        **tally.to_dict(),
        **provenance(machine.seed),
    }
    name = f"{volume}: T = {timesteps}, K = {snn.max_count}"
    if tally.rows:  # an interrupt can come before the first slice to draw
        write_figure(output / "overview.png", lambda rows: overview_figure(rows, name), tally.rows)
    if tally.strip is not None:
        write_figure(output / "timesteps.png", lambda one: strip_figure(one, name), tally)
    write_json(output / "segment.json", content)
    write_json(json_file, content)
    typer.echo(f"{tally.text()}\nwritten: {output}")
    if interrupted:
        typer.echo(
            f"interrupted after {len(tally.slices)} of {len(chosen)} slices; {output} holds those "
            "that were finished.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED)


def _written(made: Iterator[Segmented], write: Callable[[str, Mask], None], tally: Tally) -> bool:
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
