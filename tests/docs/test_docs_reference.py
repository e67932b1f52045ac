"""The reference pages list every public name once."""

import re
from collections import Counter
from pathlib import Path

import transpike as tp

PAGES = Path(__file__).resolve().parents[2] / "docs" / "reference"


def test_the_reference_lists_every_public_name_once():
    text = "\n".join(page.read_text() for page in sorted(PAGES.glob("*.md")))
    listed = Counter(re.findall(r"^::: transpike\.(\w+)$", text, flags=re.MULTILINE))
    assert set(listed) == set(tp.__all__)
    assert set(listed.values()) == {1}
