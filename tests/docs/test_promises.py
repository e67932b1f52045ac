"""Every promise of docs/promises.md names tests, and these tests exist."""

import ast
import re
from functools import cache

from documents import ROOT

PAGE = (ROOT / "docs" / "promises.md").read_text()
NAMED = re.compile(r"`((?:tests|benchmarks)/[\w/]+\.py)::(\w+)`")


@cache
def _functions(file):
    return {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef)
    }


def test_every_named_test_exists():
    named = NAMED.findall(PAGE)
    assert len(named) > 30
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).is_file() or name not in _functions(file)
    ]
    assert missing == []


def test_every_promise_names_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith(("| Promise", "| ---"))]
    assert len(promises) > 20
    assert [row for row in promises if not NAMED.search(row)] == []
