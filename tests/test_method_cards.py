"""Every method has a card with all sections, working links, and forms that are understood."""

import re
from pathlib import Path
from typing import get_args

import pytest

import transpike as tp
from transpike.conversion.passes import CalibrationPass
from transpike.conversion.specs import parse_neuron, parse_passes, parse_threshold
from transpike.conversion.thresholds import ThresholdRule

ROOT = Path(tp.__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "methods"
REPOSITORY = "https://github.com/transpike/transpike/blob/main/"  # for files outside of the site
CARDS = {card.stem: card.read_text() for card in FOLDER.glob("*.md") if card.stem != "README"}
PRESETS = (
    *(tp.IF, tp.Burst, tp.Signed, tp.MultiThreshold),
    *(tp.Differential, tp.Refining, tp.Cyclic, tp.Staggered, tp.Telescoped),
)
METHODS = [one.__name__ for one in (*PRESETS, *get_args(ThresholdRule), *get_args(CalibrationPass))]
SECTIONS = ["When", "Equation", "Source", "Cost", "Needs", "Measured"]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_one_card_and_is_in_the_list(name):
    (card,) = [stem for stem, text in CARDS.items() if f"`{name}`" in text.splitlines()[0]]
    assert f"[`{name}`]({card}.md)" in (FOLDER / "README.md").read_text()


def test_no_card_without_a_method():
    assert len(CARDS) == len(METHODS) + 1  # There is one more card, for tune.


@pytest.mark.parametrize("stem", sorted(CARDS))
def test_a_card_has_every_section_filled(stem):
    parts = re.split(r"^## ", CARDS[stem], flags=re.MULTILINE)[1:]
    assert [part.splitlines()[0] for part in parts] == SECTIONS
    assert all(len(part.split("\n", 1)[1].strip()) > 10 for part in parts)


@pytest.mark.parametrize("stem", [*sorted(CARDS), "README"])
def test_links_lead_somewhere(stem):
    for target in re.findall(r"\]\(([^)#]+)\)", (FOLDER / f"{stem}.md").read_text()):
        inside = target.startswith(REPOSITORY)
        file = ROOT / target.removeprefix(REPOSITORY) if inside else FOLDER / target
        assert file.exists(), target


@pytest.mark.parametrize("stem", sorted(set(CARDS) - {"tune"}))
def test_forms_of_the_command_line_are_understood(stem):
    (forms,) = re.findall(r"On the command line: `([^`]+)`", CARDS[stem])
    words = {"ITERATIONS": "10", "LEVELS": "6", "SPIKES": "1.5", "BITS": "3", "K": "4"}
    words |= {"RATIO": "2", "PERIOD": "3", "WINDOW": "4", "LAG": "1", "DIVISORS": "1-4"}
    for form in forms.split(", "):
        text = ":".join(words.get(part, part) for part in form.split(":"))
        understood = 0
        for parse in (parse_neuron, parse_threshold, parse_passes):
            try:
                understood += bool(parse(text))
            except tp.ArgumentError:
                continue
        assert understood == 1, text
