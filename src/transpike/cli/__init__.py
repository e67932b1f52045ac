"""The command line.

Results go to stdout, progress and errors to stderr. Bad input ends with exit code 2.

The commands inspect and convert are in the module `convert`; evaluate, diagnose and cost are in
`measure`; tune and compare are in `methods`. Every other command has a module of its own name.

These modules import torch inside the commands, so that the help does not wait for it.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import transpike as tp
from transpike.cli import convert, demo, measure, methods, report, segment, study, train
from transpike.cli.output import interrupted

USER_ERROR = 2  # exit code, the same as for wrong options
_COMMANDS = (
    convert.inspect,
    convert.convert,
    measure.evaluate,
    measure.diagnose,
    measure.cost,
    methods.tune,
    methods.compare,
    segment.segment,
    report.report,
    train.train,
    demo.demo,
)


class _Commands(TyperGroup):
    """Turns the library's own errors and Ctrl-C into one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except tp.TranspikeError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(USER_ERROR) from None
        except KeyboardInterrupt:
            interrupted("before there was a result; none was written.")


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Convert trained PyTorch networks to spiking networks, and measure them.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"transpike {tp.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


for _command in _COMMANDS:
    app.command()(_command)
app.add_typer(study.study)


def main() -> None:
    """Runs the command line."""
    app(prog_name="transpike")
