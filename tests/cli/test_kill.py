"""A command that is killed and started again gives the files of a run that was not killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volume_cases import MODEL, SMALL

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Times, and the command with its folder, are those of each run.
_CHANGING = {"seconds", "command", "total_seconds", "ann_seconds", "snn_seconds"}

REFUSED = "is there already. Choose another folder"  # of `segment`, for the masks of a whole run


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    paths = [str(ROOT / "src"), str(HERE), str(ROOT / "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "transpike", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(arguments: list[str]) -> float:
    """Run a command to its end and return its seconds."""
    begun = time.monotonic()
    process = start(arguments)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return time.monotonic() - begun


def kill(arguments: list[str], after: float) -> bool:
    """Run a command and kill it after this time; return whether it was still running.

    A command can be killed when it is complete and Python ends. Then `segment` refuses to go on.
    """
    process = start(arguments)
    try:
        _, errors = process.communicate(timeout=after)
        assert process.returncode == 0 or REFUSED in errors, errors
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True


def steady(value: Any) -> Any:
    """JSON without what differs between runs."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if key not in _CHANGING}
    return [steady(item) for item in value] if isinstance(value, list) else value


def content(folder: Path) -> dict[str, Any]:
    """Every file of a folder: JSON without times, and other files by their bytes.

    Checkpoints of a training hold the path of their folder, so only their names are compared.
    """
    found: dict[str, Any] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if file.suffix == ".ckpt":
            found[str(file.relative_to(folder))] = None
            continue
        name = str(file.relative_to(folder))
        json_file = file.suffix == ".json"
        found[name] = steady(json.loads(file.read_text())) if json_file else file.read_bytes()
    return found


Command = Callable[[Path], list[str]]


def check(command: Command, folder: Path, kills: int, trials: int) -> None:
    """Kill a command at random times, `kills` times in a row, and then let it finish."""
    random_ = random.Random(0)
    whole = folder / "whole"
    seconds = finish(command(whole))
    expected = content(whole)
    for trial in range(trials):
        place = folder / f"trial{trial}"
        times = [random_.uniform(0.3, 1.0) * seconds for _ in range(kills)]
        killed = all(kill(command(place), after) for after in times)
        if place.exists():  # Whatever is there is complete: JSON can be read.
            for file in place.rglob("*.json"):
                json.loads(file.read_text())
        if killed:
            assert not kill(command(place), 300)
        left = content(place)
        assert {name for name in left if not name.endswith(".tmp")} == set(expected)
        for name, wanted in expected.items():
            assert left[name] == wanted, name


@pytest.fixture
def commands(root: Path, data: list[str], tmp_path: Path) -> dict[str, Command]:
    random_ = np.random.RandomState(0)
    sizes, images_ = {"train": 96, "test": 32}, tmp_path / "cifar10.npz"
    pixels = {f"x_{part}": random_.randint(0, 256, (n, 32, 32, 3)) for part, n in sizes.items()}
    classes = {f"y_{part}": random_.randint(0, 10, n) for part, n in sizes.items()}
    np.savez(images_, **{name: a.astype(np.uint8) for name, a in {**pixels, **classes}.items()})
    train = ["train", "resnet18:8", "--data", f"cifar10:{images_}", "--validation", "32",
             "--batch-size", "16", "--epochs", "8"]  # fmt: skip
    images, labels = root / "test" / "images", root / "test" / "labels"
    segment = ["segment", str(images), "--model", MODEL, *data, *SMALL, "--tile", "16",
               "--labels", str(labels)]  # fmt: skip
    digits = ["digits_cnn", "--data", "digits", "--calibration-size", "104", "--timesteps", "2"]
    return {
        "segment": lambda place: [*segment, "-o", str(place)],
        "segment --tiff": lambda place: [*segment, "--tiff", "-o", str(place)],
        "train": lambda place: [
            *train, "-o", str(place), *(["--resume"] if (place / "last.ckpt").is_file() else [])
        ],
        "tune": lambda place: ["tune", *digits, "--signed", "-o", str(place / "r.json"),
                               "--json", str(place / "t.json")],
        "compare": lambda place: ["compare", *digits, "--limit", "8", "--json",
                                  str(place / "c.json")],
    }  # fmt: skip


NAMES = ["segment", "segment --tiff", "train", "tune", "compare"]


@pytest.mark.parametrize("name", ["segment"])
def test_two_kills(name: str, commands: dict[str, Command], tmp_path: Path) -> None:
    check(commands[name], tmp_path, kills=2, trials=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_thirty_kills(name: str, commands: dict[str, Command], tmp_path: Path) -> None:
    check(commands[name], tmp_path, kills=3, trials=10)
