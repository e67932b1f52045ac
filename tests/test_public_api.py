"""The public names are pinned, and modules import each other in one direction only."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import transpike as tp

NAMES = [
    "AllocateCounts",
    "ArgumentError",
    "BiasCorrection",
    "Burst",
    "Calibration",
    "CheckpointError",
    "Comparison",
    "Cost",
    "Cyclic",
    "DataError",
    "DelayedReadout",
    "Diagnosis",
    "Differential",
    "Distillation",
    "EarlyStopping",
    "Evaluation",
    "FileError",
    "GaussianIteration",
    "IF",
    "LeastSquares",
    "LocalThresholdBalancing",
    "MaxAbs",
    "MembraneCorrection",
    "MultiThreshold",
    "Network",
    "Neuron",
    "Percentile",
    "Preflight",
    "Recipe",
    "Record",
    "Refining",
    "Schedule",
    "Signed",
    "Simulation",
    "SiteSearch",
    "SpikingNetwork",
    "Staggered",
    "Telescoped",
    "TiledSimulation",
    "Tiling",
    "Totals",
    "TranspikeError",
    "Tuning",
    "UnsupportedError",
    "UpperBound",
    "calibrate",
    "capture",
    "compare",
    "convert",
    "diagnose",
    "evaluate",
    "fit_early_stopping",
    "inspect",
    "load",
    "measure_cost",
    "methods",
    "quantized_ann",
    "save",
    "simulate",
    "simulate_reference",
    "simulate_tiled",
    "tune",
]

ORDER = [
    "errors",
    "files",
    "graph",
    "spiking",
    "simulation",
    "conversion",
    "measure",
    "data",
    "segment",
    "report",
    "zoo",
    "study",
    "cli",
]
ROOT = Path(tp.__file__).parent


def test_the_public_names_are_these():
    assert sorted(tp.__all__) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_name_is_public(name):
    assert getattr(tp, name).__doc__


def _for_type_checkers():
    """Return the module of every public name, as `__init__.py` shows it to type checkers."""
    found = {}
    for node in ast.walk(ast.parse((ROOT / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transpike."):
            for alias in node.names:
                assert alias.asname == alias.name  # This is an explicit re-export.
                found[alias.name] = node.module
    return found


def test_type_checkers_see_the_names_that_are_imported_on_use():
    found = _for_type_checkers()
    assert list(found) == tp.__all__
    for name, module in found.items():
        assert getattr(tp, name) is getattr(importlib.import_module(module), name)


def test_names_imported_on_use_are_listed():
    assert {*tp.__all__, "__version__"} <= set(dir(tp))
    starred = {}
    exec("from transpike import *", starred)
    assert set(tp.__all__) <= set(starred)


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'transpike' has no attribute 'nonsense'"):
        _ = tp.nonsense


def test_import_does_not_load_torch():
    code = "import sys, transpike; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_errors_form_one_tree():
    for name in ("ArgumentError", "DataError", "FileError", "UnsupportedError"):
        assert issubclass(getattr(tp, name), tp.TranspikeError)
    assert issubclass(tp.ArgumentError, ValueError)
    assert issubclass(tp.DataError, ValueError)


def _module_of(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def _imported(path):
    """Find the top-level modules of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names = [node.module or ""]
            if node.module == "transpike":
                names = [f"transpike.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "transpike" and len(parts) > 1:
                yield parts[1]


FILES = sorted(p for p in ROOT.rglob("*.py") if _module_of(p) not in ("__init__", "__main__"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    own = _module_of(path)
    assert own in ORDER, f"{own} has no place in the order of modules"
    for other in _imported(path):
        if other in ORDER and other != own:
            assert ORDER.index(other) < ORDER.index(own), f"{own} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_library_never_prints(path):
    if _module_of(path) == "cli":
        pytest.skip("the command line prints")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec"), path.name


def test_no_pickle():
    for path in FILES:
        text = path.read_text()
        assert "pickle.load" not in text and "pickle.dump" not in text
        if "torch.load(" in text:
            assert "weights_only=True" in text


def test_py_typed():
    assert (ROOT / "py.typed").exists()


def test_no_public_function_has_more_than_ten_parameters():
    """This is about functions of `tp`; commands have one parameter for each option."""
    for name in tp._MODULE_OF:
        value = getattr(tp, name)
        if not isinstance(value, type):
            assert len(inspect.signature(value).parameters) <= 10, name
