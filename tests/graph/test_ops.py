"""The table of operations agrees with the schemas of PyTorch."""

import ast
from pathlib import Path

import pytest
import torch

import transpike as tp
from transpike.graph import ops

_TESTED = (ops.KNOWN | ops.CONSTANT) - ops.FUNCTION
ATEN = sorted(name for name in _TESTED if name.startswith("aten."))


def _schema(name):
    _, packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)._schema


@pytest.mark.parametrize("name", ATEN)
def test_positions_are_those_of_the_schema(name):
    operation = ops.OPERATIONS[name]
    arguments = [argument.name for argument in _schema(name).arguments]
    for position, wanted in (
        (operation.weight_at, "weight"),
        (operation.bias_at, "bias"),
        (operation.groups_at, "groups"),
        (operation.pad_value_at, "value"),
    ):
        assert position is None or arguments[position] == wanted


@pytest.mark.parametrize("name", ATEN)
def test_layers_are_all_operations_with_weight_and_bias(name):
    names = {argument.name for argument in _schema(name).arguments}
    layer = ops.OPERATIONS[name].role == "layer"
    assert layer == ({"weight", "bias"} <= names)


@pytest.mark.parametrize("name", ATEN)
def test_operations_with_indices_are_those_that_return_two_tensors(name):
    operation = ops.OPERATIONS[name]
    returned = len(_schema(name).returns)
    assert operation.indices == (operation.kind == "cumulative" and returned == 2)


def test_names_of_operations_stand_in_the_table_only():
    """Other modules read the table. A name written elsewhere would be forgotten in a change."""
    root = Path(tp.__file__).parent
    for path in root.rglob("*.py"):
        if path.name == "ops.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not node.value.startswith("aten."), (path, node.lineno)
