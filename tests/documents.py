"""Run the code blocks of a Markdown document in order, as a reader would.

    python tests/documents.py README.md docs/tutorials/*.md

This command runs the blocks and writes what they print into the `text` blocks that follow them.

All Python blocks share one namespace, and shell blocks run with `bash -e`. A block after the
comment `<!-- not run: REASON -->` is not run. A `text` block right after a block holds what that
block prints. Numbers and spaces of this output may differ from run to run. After the comment
`<!-- varies: REASON -->`, its words may differ, too.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("zoo", "results")  # folders of a checkout that documents may read
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?"
    r"^```(?P<language>python|sh)\n(?P<code>.*?)^```$"
    r"(?:\n\n(?P<varies><!-- varies: [^\n]+ -->\n+)?^```text\n(?P<output>.*?)^```$)?",
    flags=re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code with its output and its place in the document."""

    language: str
    code: str
    output: str | None
    line: int
    span: tuple[int, int]  # place of the output in the document, in characters
    runs: bool
    varies: bool


def blocks(text: str) -> list[Block]:
    """Return the Python and shell blocks of a document."""
    return [
        Block(
            found["language"],
            found["code"],
            found["output"],
            text.count("\n", 0, found.start("code")) + 1,
            found.span("output"),
            found["reason"] is None,
            found["varies"] is not None,
        )
        for found in _BLOCK.finditer(text)
    ]


def run(document: Path) -> list[tuple[Block, str]]:
    """Run a document in a new temporary folder, and return what each block prints."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        for name in SHIPPED:
            Path(name).symlink_to(ROOT / name)
        return [
            (block, _printed(block, document, namespace))
            for block in blocks(document.read_text())
            if block.runs
        ]


@contextlib.contextmanager
def _inside(folder: str) -> Iterator[None]:
    """Work in the folder; `contextlib.chdir` would need Python 3.11."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _printed(block: Block, document: Path, namespace: dict[str, Any]) -> str:
    if block.language == "sh":
        return _shell(block.code)
    # Empty lines before the code let a traceback name the line of the document.
    code = compile("\n" * (block.line - 1) + block.code, str(document), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def _shell(code: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "COLUMNS": "100",
    }
    done = subprocess.run(
        ["bash", "-e", "-c", code], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{code}\nended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def form(printed: str) -> list[str]:
    """Return the lines with numbers and spaces replaced; these must be equal in every run."""
    lines = [re.sub(r"[-+]?\d[\d.,]*(?:e[-+]\d+)?", "#", line) for line in printed.splitlines()]
    return [" ".join(line.split()) for line in lines if line.strip()]


def written(text: str, printed: list[tuple[Block, str]]) -> str:
    """Return the document with what its blocks printed."""
    for block, output in reversed(printed):
        if block.output is not None:
            lines = [line.rstrip() for line in output.strip("\n").splitlines()]
            start, end = block.span
            text = text[:start] + "".join(f"{line}\n" for line in lines) + text[end:]
    return text


def main() -> None:
    """Refresh the outputs of the documents named on the command line."""
    for name in sys.argv[1:]:
        file = Path(name).resolve()
        text = file.read_text()
        file.write_text(written(text, run(file)))


if __name__ == "__main__":
    main()
