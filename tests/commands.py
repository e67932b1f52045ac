"""Run a command of transpike in this process, as the tests of the command line need it."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner, Result

from transpike.cli import app


def run(*arguments: str | Path) -> Result:
    """Run a command and return what it printed and its exit code."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ok(*arguments: str | Path) -> Result:
    """Run a command that must succeed."""
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def refused(*arguments: str | Path) -> str:
    """Return the error message of a command that must end with code 2."""
    result = run(*arguments)
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert "Traceback" not in result.stderr
    return result.stderr


def refused_line(*arguments: str | Path) -> str:
    """Return the same message on one line, without the frame that Typer may draw around it."""
    return re.sub(r"[\s│]+", " ", refused(*arguments)).strip()
