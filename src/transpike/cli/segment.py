"""The command that segments a user's own slices."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from transpike.cli.completion import complete_model
from transpike.cli.options import (
    Conversion,
    FolderOption,
    JsonOption,
    Machine,
    RunLengthOption,
    Simulation,
    Source,
    with_groups,
)
from transpike.cli.output import (
    interrupted,
    plain,
    progress_bar,
    provenance,
    write_figure,
    write_json,
)
from transpike.cli.overwriting import check_outputs, reads_of

_WRITTEN = ("overview.png", "timesteps.png")  # beside segment.json, which --json may repeat

if TYPE_CHECKING:
    from transpike.cli.slices import Opened
    from transpike.cli.tally import Tally
    from transpike.cli.unfinished import Unfinished
    from transpike.data import Normalization
    from transpike.segment import Mask, Segmented
    from transpike.spiking.spiking_network import SpikingNetwork


@dataclass(frozen=True)
class Slices:
    """Which slices are segmented, how they are read, and what is written."""

    panel: ClassVar[str] = "Slices"

    slices: Annotated[
        str | None,
        typer.Option(
            "--slices",
            help="Slices to segment, counted from 0: 7, START:STOP or START:STOP:STEP. The "
            "default is all slices.",
        ),
    ] = None
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Segment only the first slices, at most this many."),
    ] = None
    show: Annotated[
        str | None,
        typer.Option(
            "--show",
            help="Slices to draw in overview.png, as in 0,10. The default is four slices that are "
            "spread over the volume.",
        ),
    ] = None
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="True masks to compare with. They can have every form that VOLUME can have.",
        ),
    ] = None
    overlap: Annotated[
        int | None,
        typer.Option(
            "--overlap",
            min=0,
            help="Number of pixels that neighboring tiles share. The default is the receptive "
            "field of the network, which makes the masks equal to those of whole slices.",
        ),
    ] = None
    tiff: Annotated[
        bool, typer.Option("--tiff", help="Write masks.tif instead of a folder of .png files.")
    ] = False
    voxel_size: Annotated[
        str | None,
        typer.Option(
            "--voxel-size",
            metavar="Z,Y,X",
            help="Size of a voxel in nanometers, or Y,X without the distance between slices. It is "
            "written into masks.tif. The default is what the TIFF files of VOLUME state.",
        ),
    ] = None
    mean: Annotated[
        float,
        typer.Option(
            "--mean", help="Mean that is subtracted from pixel values in 0..1, as in training."
        ),
    ] = 0.5
    std: Annotated[
        float,
        typer.Option(
            "--std", help="Standard deviation that pixel values are divided by after that."
        ),
    ] = 0.5


@with_groups("batch_size")
def segment(
    volume: Annotated[
        Path,
        typer.Argument(
            metavar="VOLUME",
            help="Grayscale slices with 8 or 16 bits: a .png or .tif image, a .tif with many "
            "pages, a folder of slices, or a .zarr array. Where a .tif or .zarr holds several "
            "stacks, choose one as in 'stack.tif?channel=1' (channel, time, z, series, level).",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="MODEL|FOLDER",
            autocompletion=complete_model,
            help="Name of a model, or a folder that transpike convert saved.",
        ),
    ],
    output: FolderOption,
    source: Source,
    conversion: Conversion,
    wanted: Slices,
    simulation: Simulation,
    machine: Machine,
    timesteps: RunLengthOption = None,
    json_file: JsonOption = None,
) -> None:
    """Segment your own slices with the spiking and the analog network, and compare their masks."""
    from transpike.cli.mask_files import check_output
    from transpike.cli.run import run_length
    from transpike.cli.slices import open_network, open_slices
    from transpike.cli.unfinished import Unfinished, network_digest
    from transpike.cli.untrained import heading, untrained_seed
    from transpike.data import Normalization
    from transpike.report.figures import blank_figure

    check_outputs(
        {"--json": json_file},
        [volume, wanted.labels, *reads_of(model, source, conversion)],
        {"-o": (output, _WRITTEN)},
    )
    timesteps = run_length(timesteps, conversion.recipe)
    opened = open_slices(volume, wanted)
    check_output(output)
    blank_figure((1, 1))  # a missing matplotlib is reported now, and not after the work
    normalization = Normalization((wanted.mean,), (wanted.std,))
    size = opened.stack.shape[1:]
    snn, calibration = open_network(
        model, source, conversion, machine, normalization, timesteps, size, wanted.overlap
    )
    made_with = {
        **opened.to_dict(),
        "slices": opened.chosen,
        "drawn": list(opened.drawn),
        "tiff": wanted.tiff,
        "overlap": wanted.overlap,
        "model": model,
        "network": network_digest(snn),
        "normalization": normalization.to_dict(),
        "timesteps": timesteps,
        "precision": simulation.precision,
        "memory_budget": simulation.memory_budget,
        "device": machine.device,
        "versions": provenance(machine.seed)["versions"],
    }
    unfinished = Unfinished(output, made_with)
    tally = _segmented(snn, opened, timesteps, normalization, simulation, unfinished)
    content = {
        **opened.to_dict(),
        "slices": opened.chosen[: len(tally.slices)],
        "masks": "masks.tif" if wanted.tiff else "masks",
        "interrupted": tally.interrupted,
        "model": model,
        "untrained": untrained_seed(snn) is not None,
        "calibration": calibration,
        "normalization": normalization.to_dict(),
        "timesteps": timesteps,
        "max_count": snn.max_count,
        "settings": plain(dict(snn.settings)),
        "device": machine.device,
        **tally.to_dict(),
        **provenance(machine.seed),
    }
    _draw(tally, output, f"{volume}: T = {timesteps}, K = {snn.max_count}")
    write_json(output / "segment.json", content)
    write_json(json_file, content)
    typer.echo(f"{heading(untrained_seed(snn))}{tally.text()}\nwritten: {output}")
    if tally.interrupted:
        done = f"{len(tally.slices)} of {len(opened.chosen)} slices"
        interrupted(
            f"after {done}; {output} holds those that were finished. The same command goes on."
        )
    unfinished.remove()


def _segmented(
    snn: SpikingNetwork,
    opened: Opened,
    timesteps: int,
    normalization: Normalization,
    simulation: Simulation,
    unfinished: Unfinished,
) -> Tally:
    """Segment the slices, write their masks, and count what they hold."""
    from transpike.cli.mask_files import mask_writer
    from transpike.cli.tally import Tally
    from transpike.segment import segment as segment_slices

    wanted, chosen, output = opened.wanted, opened.chosen, unfinished.output
    tally = Tally(opened.truth, opened.drawn)
    rest = chosen[unfinished.done(chosen) :]
    if len(rest) < len(chosen):
        done = f"{len(chosen) - len(rest)} of {len(chosen)} slices"
        typer.echo(f"goes on after the {done} that {output} holds", err=True)
    curve = chosen if wanted.labels else opened.drawn[:1]
    try:
        with (
            mask_writer(output, wanted.tiff, opened.stack, chosen, opened.voxel_size) as write,
            progress_bar("segment (tiles x timesteps)", None) as progress,
        ):
            made = unfinished.finished(opened.stack, chosen)
            if rest:
                new = segment_slices(
                    snn,
                    opened.stack,
                    timesteps,
                    normalization=normalization,
                    slices=rest,
                    curve=[index for index in curve if index in rest],
                    overlap=wanted.overlap,
                    precision=simulation.precision,
                    memory_budget=simulation.memory_budget,
                    progress=progress,
                )
                made = chain(made, new)
            _write(made, write, tally, unfinished)
    finally:
        unfinished.remove_if_empty()
    return tally


def _draw(tally: Tally, output: Path, title: str) -> None:
    """Draw the slices to show; an interrupt can come before the first of them."""
    from transpike.cli.tally import strip_figure
    from transpike.report.pictures import overview_figure

    if tally.rows:
        write_figure(output / "overview.png", lambda rows: overview_figure(rows, title), tally.rows)
    if tally.strip is not None:
        write_figure(output / "timesteps.png", lambda one: strip_figure(one, title), tally)


def _write(
    made: Iterator[Segmented],
    write: Callable[[str, Mask], None],
    tally: Tally,
    unfinished: Unfinished,
) -> None:
    """Write and count every slice, until the user interrupts it after the first one."""
    try:
        for one in made:
            with _undivided():
                write(one.name, one.masks[one.simulation.timesteps])
                unfinished.keep(one)
                tally.add(one)
    except KeyboardInterrupt:
        if tally.last is None:
            raise
        tally.interrupted = True


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
