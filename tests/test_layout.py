"""Modules and functions stay short enough to be readable."""

import ast
from pathlib import Path

import transpike as tp

ROOT = Path(tp.__file__).parent
LONGEST_MODULE = 500
LONGEST_FUNCTION = 60
"""Lines without the docstring, which may document as much as it has to."""
# A Triton kernel is one function. A command declares every option of its own in its signature.
EXCEPTIONS = {"simulation/engine/scan_cuda.py:_kernel", "cli/segment.py:segment"}


def _lines(function):
    first = function.body[0]
    docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    documented = first.end_lineno - first.lineno + 1 if docstring else 0
    return function.end_lineno - function.lineno + 1 - documented


def test_no_module_is_too_long():
    lengths = {path: len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    assert not {path: n for path, n in lengths.items() if n > LONGEST_MODULE}


def test_no_function_is_too_long():
    long = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and _lines(node) >= LONGEST_FUNCTION:
                long[f"{path.relative_to(ROOT).as_posix()}:{node.name}"] = _lines(node)
    assert long.keys() == EXCEPTIONS, long
