"""The reference pages list every public name once."""

import re
from collections import Counter
from inspect import ismodule
from pathlib import Path

import transpike as tp

PAGES = Path(__file__).resolve().parents[2] / "docs" / "reference"


def public_names():
    """What `import transpike` exports, modules apart."""
    return {
        name for name in dir(tp) if not name.startswith("_") and not ismodule(getattr(tp, name))
    }


def test_the_reference_lists_every_public_name_once():
    text = "\n".join(page.read_text() for page in sorted(PAGES.glob("*.md")))
    listed = Counter(re.findall(r"^::: transpike\.(\w+)$", text, flags=re.MULTILINE))
    assert set(listed) == public_names()
    assert set(listed.values()) == {1}
