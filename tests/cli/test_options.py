"""Commands share groups of options."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import typer

from transpike.cli import app
from transpike.cli.options import Machine, Source, option_names, with_groups

COMMANDS = typer.main.get_command(app).commands


def test_a_command_gets_its_options_in_groups() -> None:
    got: dict[str, Any] = {}

    @with_groups("batch_size")
    def command(name: str, source: Source, machine: Machine, count: int = 3) -> None:
        got.update(name=name, source=source, machine=machine, count=count)

    names = list(inspect.signature(command).parameters)
    assert names[0] == "name" and names[-1] == "count"
    assert {"weights", "data", "tile", "seed", "device"} <= set(names)
    assert "batch_size" not in names and not {"source", "machine"} & set(names)
    options = {name: None for name in names if name in vars(Source())}
    command(**{**options, "data": "digits"}, name="n", seed=5, device="cpu", count=4)
    assert got == {
        "name": "n",
        "source": Source(data="digits"),
        "machine": Machine(seed=5),
        "count": 4,
    }


def test_options_by_the_names_that_users_write() -> None:
    assert option_names({"num_classes": 3, "weights": None}) == ["--num-classes"]


def test_arguments_open_the_same_model_and_data_again() -> None:
    source = Source(data="lucchi:a b", tile=16, calibration_size=4)
    assert source.arguments() == ["--data", "lucchi:a b", "--tile", "16"]


def test_no_option_is_described_in_two_ways() -> None:
    """An option has the same help text everywhere, unless some command gives it another meaning."""
    texts: dict[str, set[str]] = {}
    for command in COMMANDS.values():
        for parameter in command.params:
            if isinstance(parameter, typer.core.TyperOption):
                texts.setdefault(parameter.opts[0], set()).add(parameter.help or "")
    different = {name for name, found in texts.items() if len(found) > 1}
    own = {"-o", "--timesteps", "--limit", "--max-count", "--recipe", "--data", "--batch-size"}
    assert different <= own


@pytest.mark.parametrize("name", ["convert", "evaluate", "diagnose", "cost", "tune", "compare"])
def test_commands_that_open_data_share_their_options(name: str) -> None:
    options = {parameter.opts[0] for parameter in COMMANDS[name].params}
    assert {"--weights", "--data", "--tile", "--seed", "--device", "--batch-size"} <= options
