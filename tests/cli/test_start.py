"""The command line starts without torch if a command computes nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer

import transpike as tp
from transpike.cli import app

HELP = """
import sys
from transpike.cli import app
try:
    app(sys.argv[1:], prog_name="transpike")
except SystemExit as end:
    assert not end.code
assert "torch" not in sys.modules, "torch was imported"
"""
COMMANDS = sorted(typer.main.get_command(app).commands)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_does_not_wait_for_torch(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP, *command, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: transpike" in done.stdout


def test_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "transpike", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"transpike {tp.__version__}"


def test_shells_can_complete() -> None:
    command = [sys.executable, "-m", "transpike", "--show-completion", "bash"]
    # Without this, Typer looks for a shell among the parents of the process.
    named = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=named)
    assert "_TRANSPIKE_COMPLETE" in done.stdout
