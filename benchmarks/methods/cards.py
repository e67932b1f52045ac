"""Writes the rows of every method in results/methods/resnet20.md into a file beside its card.

    python -m benchmarks.methods.cards

The cards are the files of docs/methods/. A card names its rows in a sentence such as "Rows
`bias` and `membrane` of the table". The rows of docs/methods/NAME.md are written to
docs/methods/tables/NAME.md, which the card includes. The cards themselves are never changed.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("T", "K", "loss", "paired s.e.", "s.d. over seeds", "quantized loss", "agree %")
SPIKES = "spikes/neuron"


def first_part(text: str) -> str:
    """The part of a document with the smallest calibration size; the others follow it."""
    return text.split("\n# ")[0]


def rows_of(table: str) -> dict[str, list[dict[str, str]]]:
    """The rows of all tables by name, in order. Equal rows appear once."""
    found: dict[str, list[dict[str, str]]] = {}
    heads: list[str] = []
    neuron = ""
    for line in table.splitlines():
        if line.startswith("#"):
            heads, neuron = [], line.lstrip("# ")
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or set(line) <= set("|- "):
            continue
        if not heads:
            heads = cells
            continue
        row = dict(zip(heads, cells, strict=True)) | {"under": neuron}
        name = cells[0]
        if not any(_numbers(one) == _numbers(row) for one in found.get(name, [])):
            found.setdefault(name, []).append(row)
    return found


def _numbers(row: dict[str, str]) -> list[str]:
    return [row[key] for key in (*COLUMNS, SPIKES)]


def named(card: str) -> list[str]:
    """The names of the rows that a card asks for."""
    sentences = re.findall(
        r"Rows? ((?:`[^`]+`(?:, | and )?)+) of the table", " ".join(card.split())
    )
    return [name for sentence in sentences for name in re.findall(r"`([^`]+)`", sentence)]


def rows_table(card: str, found: dict[str, list[dict[str, str]]]) -> str:
    """The rows of a card as Markdown; empty if the table has none of them."""
    rows = [(name, row) for name in named(card) for row in found.get(name, [])]
    if not rows:
        return ""
    heads = ["row", "table", *COLUMNS, SPIKES]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, row in rows:
        cells = [name, row["under"], *(row[key] for key in heads[2:])]
        lines.append("| " + " | ".join(cells) + " |")
    before = (
        "ResNet-20 on 10,000 CIFAR-10 test images. The loss is in percentage points, the mean "
        'over calibration seeds; "-" marks rows with one seed.'
    )
    at = {row["T"] for _, row in rows if row["under"] == "Parts"}
    kinds = [f"{kind} at T = {t}" for t, kind in (("8", "signed"), ("32", "unsigned")) if t in at]
    if kinds:
        before += f' In the rows of "Parts" the neuron is {" and ".join(kinds)}.'
    return "\n".join([before, "", *lines, ""])


def main() -> None:
    """Fill in all cards."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, default=ROOT / "results/methods/resnet20.md")
    parser.add_argument("--cards", type=Path, default=ROOT / "docs/methods")
    args = parser.parse_args()
    found = rows_of(first_part(args.table.read_text()))
    for file in sorted(args.cards.glob("*.md")):
        table = rows_table(file.read_text(), found)
        if table:
            (args.cards / "tables" / file.name).write_text(table)


if __name__ == "__main__":
    main()
