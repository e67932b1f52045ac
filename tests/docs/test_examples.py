"""Every example runs alone and without a warning, and the list of examples names it."""

import os
import subprocess
import sys

import pytest

from documents import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_an_example_runs(script, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout


def test_every_example_is_in_the_list():
    text = (ROOT / "examples" / "README.md").read_text()
    assert all(f"| `{script.name}` |" in text for script in EXAMPLES)
