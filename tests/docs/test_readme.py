"""README shows numbers from results/, and its links also work outside of a checkout."""

import re

import pytest

from documents import ROOT

README = (ROOT / "README.md").read_text()
TABLE = (ROOT / "results" / "methods" / "resnet20.md").read_text()
HERE = "https://github.com/transpike/transpike/blob/main/"
PICTURES = "https://raw.githubusercontent.com/transpike/transpike/main/"
# A row of README is found by its neuron and T, and a row of the stored table by its name.
ROWS = {
    ("`IF()`", "32"): "unsigned1 plain",
    ("`Signed(1)`", "32"): "signed1 plain",
    ("`Signed(1)`", "16"): "signed1 lsq-bias",
    ("`Staggered(1, window=6)`", "24"): "staggered, 1 count, window 6",
    ("`Refining(4)`", "4"): "signed4 refining lsq-bias",
}


def rows(text):
    return [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


@pytest.mark.parametrize(("key", "name"), ROWS.items())
def test_a_result_is_that_of_the_table(key, name):
    (shown,) = [row for row in rows(README) if (row[0], row[2:3]) == (key[0], [key[1]])]
    stored = {tuple(row[:9]) for row in rows(TABLE) if row[0] == name and row[1] == key[1]}
    ((_, t, k, loss, _, deviation, quantized, *_),) = stored
    ((spikes,),) = {tuple(row[9:10]) for row in rows(TABLE) if row[:2] == [name, t]}
    assert shown[2:] == [t, k, f"{loss} ± {deviation}", quantized, spikes]


def test_every_row_of_results_is_checked():
    assert sum("±" in " ".join(row) for row in rows(README)) == len(ROWS)


def test_links_are_absolute_and_lead_to_files():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith((HERE, PICTURES)), target
        assert (ROOT / target.removeprefix(HERE).removeprefix(PICTURES)).exists(), target
