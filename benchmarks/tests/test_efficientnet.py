"""The table of EfficientNet-Lite1 adds up the groups of images that were measured."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.efficientnet import table
from transpike.study.paired import packed
from transpike.study.records import Records

RESULTS = Path(__file__).resolve().parents[2] / "results"


def _flags(*values):
    return packed(np.array(values, dtype=bool))


def _group(right, agree, gap, spikes):
    return {
        "name": "one",
        "recipe": {"neuron": {"max_count": 8}},
        "n": 2,
        "at": [1, 2],
        "analog_right": _flags(1, 1),
        "right": [_flags(0, 0), right],
        "agree": [_flags(0, 0), agree],
        "gap": [4.0, gap],
        "size": 4.0,
        "quantized_right": _flags(1, 1),
        "quantized_agree": _flags(1, 0),
        "quantized_gap": 1.0,
        "spikes_per_neuron": [0.5, spikes],
    }


def test_groups_are_joined():
    records = [
        _group(_flags(1, 1), _flags(1, 0), 0.0, 1.0),
        _group(_flags(1, 0), _flags(1, 1), 2.0, 2.0),
    ]
    first, second = table.document(records).splitlines()[-2:]
    assert first == "| one | 8 | 1 | 4 | 100.00 | 0.00 | 0.0 | 1.000 | 0.50 | - | - | - |"
    assert second == (
        "| one | 8 | 2 | 4 | 25.00 | 25.00 | 75.0 | 0.500 | 1.50 | 0.00 | 50.0 | 0.500 |"
    )


def test_names_and_timesteps_of_the_settings():
    names = [setting.name for setting in table.SETTINGS]
    assert len(set(names)) == len(names)
    assert all(setting.recipe.timesteps in table._READ_AT for setting in table.SETTINGS)


def test_the_stored_page_is_that_of_its_records():
    records = Records(RESULTS / "efficientnet.jsonl").all()
    if not records:
        pytest.skip("nothing was measured yet")
    assert table.document(records) == (RESULTS / "efficientnet.md").read_text()
