"""Ctrl-C keeps the finished work, and progress is printed in lines without a terminal."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

import transpike as tp
from transpike.cli import app
from transpike.cli.output import progress_bar
from transpike.measure.trials import Jury, Trial


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise KeyboardInterrupt in the trial after the first `count` trials."""
    real, done = Jury.trial, []

    def trial(self: Jury, recipe: tp.Recipe, size: int) -> Trial | None:
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(recipe)
        return real(self, recipe, size)

    monkeypatch.setattr(Jury, "trial", trial)


def tune(folder: Path) -> Result:
    command = ["tune", "test_interrupt:network", "--data", "digits", "-o", str(folder / "r.json"),
               "--timesteps", "2", "--signed", "--calibration-size", "104",
               "--json", str(folder / "t.json")]  # fmt: skip
    return CliRunner().invoke(app, command)


def test_an_interrupted_tune_keeps_the_best_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(3, monkeypatch)
    result = tune(tmp_path)
    assert result.exit_code == 130 and "best so far" in result.stdout
    assert f"interrupted after 3 recipes; {tmp_path / 'r.json'} holds the best one" in " ".join(
        result.stderr.split()
    )
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["interrupted"] is True and len(content["trials"]) == 3
    recipe = tp.Recipe.load(tmp_path / "r.json")
    assert recipe.found["interrupted"] is True
    divergences = [trial["divergence"] for trial in content["trials"]]
    assert recipe.found["divergence"] == min(divergences) == divergences[0]


def test_an_interrupt_before_the_first_trial_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(0, monkeypatch)
    result = tune(tmp_path)
    assert result.exit_code == 130 and list(tmp_path.iterdir()) == []
    assert "interrupted before there was a result; none was written." in result.stderr


def test_an_interrupt_in_a_later_round_keeps_the_round_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model, images = network().eval(), torch.rand(160, 1, 8, 8)
    steps: list[int] = []
    whole = tp.tune(
        model, [images], timesteps=2, signed=True, progress=lambda k, _: steps.append(k)
    )
    assert not whole.interrupted and "interrupted" not in whole.recipe.found
    first = sum(trial.n == 48 for trial in whole.trials)
    interrupt_after(len(steps) - 1, monkeypatch)  # This is during the last trial.
    stopped = tp.tune(model, [images], timesteps=2, signed=True)
    assert stopped.interrupted and stopped.trials[0].n > 48
    assert stopped.trials[0].recipe.name == stopped.recipe.name
    assert sum(trial.n == 48 for trial in stopped.trials) == first


@pytest.mark.parametrize("epochs", [0, 1])
def test_an_interrupted_training_says_where_its_checkpoint_is(
    epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*_: Any, **__: Any) -> None:
        if epochs:
            (tmp_path / "last.ckpt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("transpike.zoo.train.run", trained)
    command = ["train", "vgg-cifar", "--data", "cifar10:absent", "-o", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 130
    assert ("Continue with --resume." in result.stderr) == bool(epochs)


def test_progress_in_lines_where_stderr_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 5.0, 25.0, 30.0, 50.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    with progress_bar("tune", None) as progress:
        for done, total in ((1, 9), (2, 9), (3, 8), (4, None)):
            progress(done, total)
    assert capsys.readouterr().err == "tune: 2 of 9, 25 s\ntune: 4, 50 s\n"


def test_short_runs_are_quiet_where_stderr_is_no_terminal(capsys: Any) -> None:
    with progress_bar("tune", 2) as progress:
        progress(1, None)
    assert capsys.readouterr().err == ""
