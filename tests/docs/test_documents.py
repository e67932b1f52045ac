"""The code in README and in the documentation runs, and prints what the documents show."""

import pytest

from documents import ROOT, blocks, form, run, written

DOCUMENTS = [
    "README.md",
    "docs/index.md",
    "docs/will-it-convert.md",
    *sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docs" / "tutorials").glob("*.md")),
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_code_of_a_document_runs_and_prints_what_it_shows(name):
    for block, printed in run(ROOT / name):
        if block.output is not None and not block.varies:
            assert form(printed) == form(block.output), (
                f"{name}:{block.line}: refresh it with `python tests/documents.py {name}`"
            )


def test_blocks_are_found_with_their_output_and_the_reason_for_leaving_one_out():
    code = "a\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n"
    text = code + "<!-- not run: no data -->\n```sh\nx\n```\n"
    first, second = blocks(text)
    assert (first.language, first.code, first.output) == ("python", "print(1)\n", "1\n")
    assert first.runs
    assert (second.language, second.runs) == ("sh", False)
    assert written(text, [(first, "2\n")]) == text.replace("\n1\n```", "\n2\n```")


def test_numbers_may_differ_and_words_may_not():
    assert form("ANN 99.20 % [97.96, 99.69]\n") == form("ANN 9 %   [1, 2]")
    assert form("ceiling") != form("quantized")
