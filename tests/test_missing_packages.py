"""Errors advise only packages that exist; transpike itself is in no package index."""

import ast
import re
from pathlib import Path

import transpike as tp
from transpike.errors import missing_package

SOURCE = Path(tp.__file__).parent
PROJECT = (SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")


def _named():
    """Find the literal names that the source passes to `missing_package`."""
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "missing_package":
                yield from (
                    one.value for one in ast.walk(node.args[0]) if isinstance(one, ast.Constant)
                )


def test_every_package_to_install_is_an_optional_dependency():
    optional = set(re.findall(r'"([a-z0-9-]+)(?:\[\w+\])?(?:>=[\w.]+)?"', PROJECT))
    found = {name for name in _named() if isinstance(name, str) and len(name) > 1}
    assert {"pillow", "scikit-learn", "tifffile", "torchmetrics"} <= found <= optional


def test_no_text_advises_to_install_transpike_by_name():
    for file in SOURCE.rglob("*.py"):
        assert "transpike[" not in file.read_text(encoding="utf-8"), file.name


def test_the_error_names_the_package():
    error = missing_package("pillow")
    assert isinstance(error, tp.ArgumentError)
    assert str(error) == "pillow is not installed: install it with pip install pillow."
