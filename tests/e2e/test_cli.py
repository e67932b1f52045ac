from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import transpike as tp
from commands import ok, refused
from transpike.zoo.models import build_model

DIGITS = ["--data", "digits"]
SMALL = ["--calibration-size", "32", "--batch-size", "32"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    ok("convert", "digits_cnn", *DIGITS, "-o", tmp_path / "snn", *SMALL)
    return tmp_path / "snn"


def test_version() -> None:
    assert ok("--version").stdout.strip() == f"transpike {tp.__version__}"


def test_inspect_prints_sites_and_writes_json(tmp_path: Path) -> None:
    result = ok("inspect", "digits_cnn", "--json", tmp_path / "i.json")
    assert "block.relu" in result.stdout and "block.relu_1" in result.stdout
    content = json.loads((tmp_path / "i.json").read_text())
    assert content["input_shape"] == [1, 8, 8] and content["model"] == "digits_cnn"
    assert content["parameters"] > 0


def test_inspect_takes_the_shape_from_data_or_option() -> None:
    ok("inspect", "digits_cnn", "--data", "digits")
    ok("inspect", "digits_cnn", "--input-shape", "1x12x12")


def test_inspect_reports_what_is_refused_without_failing() -> None:
    assert "gelu" in ok("inspect", "torch.nn:GELU", "--input-shape", "8").stdout.lower()


def test_convert_refuses_an_unsupported_model(tmp_path: Path) -> None:
    message = refused("convert", "torch.nn:GELU", *DIGITS, "-o", tmp_path / "snn", *SMALL)
    assert "no activation" in message.lower() and not (tmp_path / "snn").exists()


def test_convert_saves_a_folder_that_loads(saved: Path) -> None:
    assert sorted(file.suffix for file in saved.iterdir()) == [".json", ".safetensors"]
    snn = tp.load(saved)
    assert tp.simulate(snn, torch.zeros(2, 1, 8, 8), timesteps=3).output.shape == (3, 2, 10)


def test_convert_overwrites_only_when_told(saved: Path) -> None:
    command = ["convert", "digits_cnn", *DIGITS, "-o", saved, "--neuron", "signed:3", *SMALL]
    assert "give --force to overwrite it" in refused(*command)
    assert tp.load(saved).max_count == 1
    ok(*command, "--force")
    assert tp.load(saved).max_count == 3


def test_convert_writes_json(tmp_path: Path) -> None:
    ok(
        "convert",
        "digits_cnn",
        *DIGITS,
        "-o",
        tmp_path / "a",
        "--json",
        tmp_path / "c.json",
        *SMALL,
    )
    content = json.loads((tmp_path / "c.json").read_text())
    assert [site["max_count"] for site in content["sites"]] == [1] * len(content["sites"])
    assert content["calibration"] == {"data": "digits", "split": "train", "n": 32, "seed": 0}


def test_evaluate_writes_the_promised_keys(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    ok(
        "evaluate",
        "digits_cnn",
        *DIGITS,
        "--neuron",
        "burst:5",
        "--timesteps",
        "4",
        "--limit",
        "40",
        "--seed",
        "3",
        "--json",
        file,
        *SMALL,
    )
    content = json.loads(file.read_text())
    assert content["n"] == 40 and content["max_count"] == 5 and content["precision"] == "exact"
    assert len(content["accuracy"]) == len(content["spikes_per_neuron"]) == 4
    assert all(0 <= value <= 1 for value in [content["ann_accuracy"], *content["accuracy"]])
    assert list(content["quantized"]) == ["1", "2", "4"]
    assert content["spikes_per_neuron"] == sorted(content["spikes_per_neuron"])
    assert content["seed"] == 3 and content["calibration"]["seed"] == 3
    assert set(content["versions"]) == {"transpike", "torch", "python"}
    assert {"command", "settings", "limit", "model", "data"} <= set(content)


def test_saved_folder_gives_the_same_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(build_model("digits_cnn").state_dict(), tmp_path / "w.pt")
    common = ["--timesteps", "3", "--limit", "30", "--json"]
    chosen = ["--weights", tmp_path / "w.pt", "--neuron", "signed:1", *SMALL]
    ok("evaluate", "digits_cnn", *DIGITS, *chosen, *common, tmp_path / "a.json")
    ok("convert", "digits_cnn", *DIGITS, *chosen, "-o", tmp_path / "snn")
    ok("evaluate", tmp_path / "snn", *DIGITS, "--batch-size", "32", *common, tmp_path / "b.json")
    a, b = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    for key in ("accuracy", "ann_accuracy", "quantized", "spikes_per_neuron", "n"):
        assert a[key] == b[key]


def test_diagnose_prints_draws_and_writes_json(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(build_model("digits_cnn").state_dict(), tmp_path / "w.pt")
    figure, file = tmp_path / "d.png", tmp_path / "d.json"
    result = ok(
        "diagnose",
        "digits_cnn",
        *DIGITS,
        "--weights",
        tmp_path / "w.pt",
        "--timesteps",
        "8",
        "--limit",
        "30",
        "-o",
        figure,
        "--json",
        file,
        *SMALL,
    )
    content = json.loads(file.read_text())
    assert content["n"] == 30 and content["timesteps"] == 8 and content["against"] == "the model"
    assert [site["name"] for site in content["sites"]][-1] == "block.relu_1"
    assert all(site["parts"]["weights"]["rms"] < 1e-4 for site in content["sites"])
    assert "block.relu_1" in result.stdout and "what would help most" in result.stdout
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert {"command", "seed", "versions", "calibration", "limit"} <= set(content)


def test_cost_of_a_saved_folder(saved: Path, tmp_path: Path) -> None:
    figure, file = tmp_path / "c.svg", tmp_path / "c.json"
    result = ok(
        "cost", saved, *DIGITS, "--timesteps", "4", "--limit", "20", "-o", figure, "--json", file
    )
    content = json.loads(file.read_text())
    assert content["n"] == 20 and content["timesteps"] == 4 and content["calibration"] is None
    assert content["total"]["accumulates"] > 0 and len(content["energy"]) == 2
    assert "45 nm int8" in result.stdout and "Not counted" in result.stdout
    assert "<svg" in figure.read_text()


def test_a_figure_that_cannot_be_written(saved: Path, tmp_path: Path) -> None:
    message = refused(
        "cost", saved, *DIGITS, "--timesteps", "1", "--limit", "4", "-o", tmp_path / "c.xyz"
    )
    assert "cannot write" in message


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tune a recipe; return the folder with the weights, the recipe and the results of `tune`."""
    folder = tmp_path_factory.mktemp("tuned")
    torch.manual_seed(0)
    torch.save(build_model("digits_cnn").state_dict(), folder / "w.pt")
    result = ok("tune", "digits_cnn", *DIGITS, "-o", folder / "r.json", "--timesteps", "3",
                "--signed", "--weights", folder / "w.pt", "--json", folder / "t.json", "--seed",
                "1", "--calibration-size", "104", "--batch-size", "52")  # fmt: skip
    (folder / "stdout.txt").write_text(result.stdout)
    return folder


def test_tune_writes_a_recipe_and_how_to_use_it(tuned: Path) -> None:
    recipe = tp.Recipe.load(tuned / "r.json")
    content = json.loads((tuned / "t.json").read_text())
    assert recipe.timesteps == 3 and recipe.neuron == tp.Signed(1) and recipe.found["seed"] == 1
    assert content["recipe"] == recipe.to_dict() and content["pareto"]
    assert {"command", "seed", "versions", "model", "data", "trials"} <= set(content)
    text = (tuned / "stdout.txt").read_text()
    assert f"best: {recipe.name}, T=3" in text and "Pareto front" in text
    command = text.splitlines()[-1].partition(": transpike ")[2].split()
    assert "--weights" in command
    assert "n=20" in ok(*command, "--limit", "20", *SMALL).stdout


def test_a_recipe_decides_evaluate_and_convert(tuned: Path, tmp_path: Path) -> None:
    given = ["--weights", tuned / "w.pt", "--recipe", tuned / "r.json", *SMALL]
    ok("evaluate", "digits_cnn", *DIGITS, *given, "--limit", "30", "--json", tmp_path / "a.json")
    ok("convert", "digits_cnn", *DIGITS, *given, "-o", tmp_path / "snn")
    ok(
        "evaluate",
        tmp_path / "snn",
        *DIGITS,
        "--batch-size",
        "32",
        "--timesteps",
        "3",
        "--limit",
        "30",
        "--json",
        tmp_path / "b.json",
    )
    a, b = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    recipe = tp.Recipe.load(tuned / "r.json")
    assert a["timesteps"] == 3  # The recipe sets T, because the command does not.
    assert a["settings"]["threshold"]["rule"] == type(recipe.threshold).__name__
    assert len(a["settings"].get("passes", [])) == len(recipe.passes)
    for key in ("accuracy", "ann_accuracy", "quantized", "spikes_per_neuron", "settings"):
        assert a[key] == b[key]
    longer = ok("evaluate", "digits_cnn", *DIGITS, *given, "--limit", "30", "--timesteps", "4")
    assert longer.stdout.splitlines()[-1].split()[0] == "4"


def test_a_recipe_cannot_be_changed(tuned: Path) -> None:
    message = refused(
        "evaluate",
        "digits_cnn",
        *DIGITS,
        "--recipe",
        tuned / "r.json",
        "--neuron",
        "if",
        "--passes",
        "bias",
    )
    assert "--neuron, --passes cannot change a recipe" in message
    assert "not a recipe" in refused(
        "evaluate", "digits_cnn", *DIGITS, "--recipe", tuned / "t.json"
    )


def test_tune_keeps_a_budget_or_refuses(tmp_path: Path) -> None:
    message = refused("tune", "digits_cnn", *DIGITS, "-o", tmp_path / "r.json", "--timesteps", "1",
                      "--spikes", "1e-9", "--unsigned", "--calibration-size", "104")  # fmt: skip
    assert "no candidate keeps 1e-09 spikes" in message and not (tmp_path / "r.json").exists()


def test_tune_refuses_too_few_images(tmp_path: Path) -> None:
    message = refused("tune", "digits_cnn", *DIGITS, "-o", tmp_path / "r.json", "--timesteps", "1",
                      "--calibration-size", "33")  # fmt: skip
    assert "needed at least 104 inputs, of which 35 are held out" in message
    assert "got 33" in message and "(--calibration-size 104)" in message


def test_passes_by_name_reach_the_network(tmp_path: Path) -> None:
    command = ["convert", "digits_cnn", *DIGITS, "-o", tmp_path / "snn", "--neuron", "signed:1",
               "--threshold", "gauss", *SMALL]  # fmt: skip
    passes = ["--passes", "search,bias, membrane,delay"]
    assert "Give --timesteps" in refused(*command, *passes)
    ok(*command, *passes, "--timesteps", "4", "--json", tmp_path / "c.json")
    done = ["SiteSearch", "BiasCorrection", "MembraneCorrection", "DelayedReadout"]
    content = json.loads((tmp_path / "c.json").read_text())
    snn = tp.load(tmp_path / "snn")
    assert [entry["pass"] for entry in snn.settings["passes"]] == done
    assert [entry["pass"] for entry in content["settings"]["passes"]] == done
    assert any(bool(offset.any()) for offset in snn.offsets.values())


def test_compare_prints_one_table(tuned: Path, tmp_path: Path) -> None:
    result = ok(
        "compare",
        "digits_cnn",
        *DIGITS,
        "--weights",
        tuned / "w.pt",
        "--timesteps",
        "2",
        "--limit",
        "20",
        "--recipe",
        tuned / "r.json",
        "--json",
        tmp_path / "c.json",
        *SMALL,
    )
    content = json.loads((tmp_path / "c.json").read_text())
    names = [*tp.methods(2), f"recipe {tuned / 'r.json'}"]
    assert [row["name"] for row in content["rows"]] == names
    assert all(row["evaluation"]["n"] == 20 for row in content["rows"])
    assert all(name in result.stdout for name in names)
    assert content["calibration"]["n"] == content["calibration_n"] == 32
    assert {"command", "seed", "versions", "limit"} <= set(content)


@pytest.mark.parametrize("neuron", ["if", "burst:3", "burst:4:resolution", "telescoped:2"])
@pytest.mark.parametrize("threshold", ["max", "lsq:8", "percentile:99"])
def test_every_neuron_meets_every_threshold(neuron: str, threshold: str) -> None:
    ok(
        "evaluate",
        "digits_cnn",
        *DIGITS,
        "--neuron",
        neuron,
        "--threshold",
        threshold,
        "--granularity",
        "layer",
        "--initial-membrane",
        "0",
        "--timesteps",
        "2",
        "--limit",
        "8",
        *SMALL,
    )


def test_lsq_takes_its_levels_from_the_timesteps() -> None:
    ok(
        "evaluate",
        "digits_cnn",
        *DIGITS,
        "--threshold",
        "lsq",
        "--timesteps",
        "2",
        "--limit",
        "8",
        *SMALL,
    )


def test_convert_with_lsq_needs_timesteps_and_works_with_them(tmp_path: Path) -> None:
    command = [
        "convert",
        "digits_cnn",
        *DIGITS,
        "-o",
        tmp_path / "snn",
        "--threshold",
        "lsq",
        *SMALL,
    ]
    assert "timesteps" in refused(*command)
    ok(*command, "--timesteps", "4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "resnet21", *DIGITS], "needed resnet20, "),
        (["evaluate", "digits_cnn", "--data", "mnist"], "needed digits, cifar10:PATH"),
        (["evaluate", "digits_cnn", "--data", "cifar10:absent.npz"], "no file 'absent.npz'"),
        (["evaluate", "digits_cnn", *DIGITS, "--weights", "absent.pt"], "no file 'absent.pt'"),
        (["evaluate", "digits_cnn", *DIGITS, "--neuron", "lif"], "needed a form like if"),
        (
            ["evaluate", "digits_cnn", *DIGITS, "--threshold", "mean"],
            "needed a form like percentile",
        ),
        (
            ["evaluate", "digits_cnn", *DIGITS, "--passes", "weights"],
            "needed forms like bias, membrane",
        ),
        (["evaluate", "digits_cnn", *DIGITS, "--recipe", "absent.json"], "cannot read the recipe"),
        (["evaluate", "digits_cnn", *DIGITS, "--granularity", "pixel"], "needed channel or layer"),
        (["evaluate", "digits_cnn", *DIGITS, "--initial-membrane", "2"], "initial_membrane"),
        (["evaluate", "digits_cnn", *DIGITS, "--timesteps", "0"], "timesteps"),
        (["evaluate", "digits_cnn", *DIGITS, "--limit", "501"], "needed 1..500 images, got 501"),
        (["evaluate", "digits_cnn", *DIGITS, "--limit", "0"], "needed 1..500 images, got 0"),
        (
            ["evaluate", "digits_cnn", *DIGITS, "--calibration-size", "9999"],
            "needed 1..1297 images",
        ),
        (["evaluate", "digits_cnn", *DIGITS, "--precision", "half"], "precision: needed one of"),
        (["evaluate", "digits_cnn", *DIGITS, "--device", "abacus"], "Use --device cpu"),
        (["inspect", "digits_cnn", "--input-shape", "3,4"], "needed a form like 3x224x224"),
        (["evaluate"], "Missing argument"),
        (["evaluate", "digits_cnn", *DIGITS, "--batch-size", "0"], "--batch-size"),
        (["simulate"], "No such command"),
    ],
)
def test_bad_input_ends_with_code_two_and_one_message(arguments: list[str], message: str) -> None:
    # Frames and line breaks of usage errors depend on the terminal's width.
    text = re.sub(r"[\s│]+", " ", refused(*arguments))
    assert message in text


def test_data_of_another_shape_than_the_model_takes(tmp_path: Path) -> None:
    arrays = {
        f"{kind}_{part}": np.zeros((4, 32, 32, 3) if kind == "x" else 4, np.uint8)
        for kind in "xy"
        for part in ("train", "test")
    }
    np.savez(tmp_path / "c.npz", **arrays)
    refused("evaluate", "digits_cnn", "--data", f"cifar10:{tmp_path / 'c.npz'}",
            "--calibration-size", "4")  # fmt: skip


def test_conversion_options_cannot_change_a_saved_network(saved: Path) -> None:
    message = refused("evaluate", saved, *DIGITS, "--neuron", "signed:1", "--calibration-size", "8")
    assert "--neuron, --calibration-size cannot change it" in message


def test_damaged_folder(saved: Path) -> None:
    (saved / "config.json").write_text("{")
    assert "config.json" in refused("evaluate", saved, *DIGITS)


def test_checkpoint_that_does_not_fit(tmp_path: Path) -> None:
    torch.save(build_model("resnet20").state_dict(), tmp_path / "w.pt")
    message = refused("evaluate", "digits_cnn", *DIGITS, "--weights", tmp_path / "w.pt")
    assert "missing: block.bn1.bias" in message and "unexpected: bn1.bias" in message


def test_json_that_cannot_be_written(tmp_path: Path) -> None:
    assert "cannot write" in refused("inspect", "digits_cnn", "--json", tmp_path)


def test_quiet_when_stderr_is_not_a_terminal(tuned: Path) -> None:
    command = [sys.executable, "-m", "transpike", "evaluate", "digits_cnn", *DIGITS, "--timesteps"]
    command += ["2", "--limit", "8", "--weights", str(tuned / "w.pt"), *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "" and "ANN" in done.stdout


def test_demo_makes_everything_it_names(tmp_path: Path) -> None:
    result = ok("demo", "-o", tmp_path / "out", "--timesteps", "8", "--json", tmp_path / "d.json")
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert content == json.loads((tmp_path / "d.json").read_text())
    results = content["results"]
    assert results["IF"]["ann_accuracy"] > 0.97 and results["signed K=1"]["accuracy"][7] > 0.95
    assert "transpike evaluate" in result.stdout
    ok("evaluate", tmp_path / "out" / "network", *DIGITS, "--timesteps", "2", "--limit", "10")
