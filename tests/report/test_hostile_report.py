"""Names and strings in results are text in the report, and damaged results are refused by name."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_page import page_of, segmentation_content, write

import transpike as tp
from transpike.report import read_results, read_samples, write_report

HOSTILE = [
    '<img src=x onerror="alert(1)">',
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "'\"><svg/onload=alert(1)>",
    "]]></style><iframe src=javascript:alert(1)>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "a\u0000\x1b[31m\u202e",
]
ALL = " ".join(HOSTILE)
Path_ = tuple[Any, ...]


def _leaves(content: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every value that is no list and no object, with the keys that lead to it."""
    pairs: Any = ()
    if isinstance(content, dict):
        pairs = content.items()
    elif isinstance(content, list):
        pairs = enumerate(content)
    else:
        yield path, content
    for key, value in pairs:
        yield from _leaves(value, (*path, key))


def _changed(content: Any, path: Path_, value: Any) -> Any:
    changed = copy.deepcopy(content)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def _reads(file: Path, content: Any) -> bool:
    write(file, content)
    try:
        read_results([file])
    except tp.FileError:
        return False
    return True


def _contents(folder: Path) -> dict[str, Any]:
    names = ("evaluate", "diagnose", "cost", "compare")
    found = {name: json.loads((folder / f"{name}.json").read_text()) for name in names}
    return {**found, "segment": segmentation_content()}


def _tags(page: Any) -> list[tuple[str, list[str]]]:
    """The tags with the names of their attributes; files are in the order of their names."""
    return sorted((tag, sorted(attributes)) for tag, attributes in page.tags)


@pytest.mark.parametrize("name", ["evaluate", "diagnose", "cost", "compare", "segment"])
def test_every_string_of_a_result_is_text(name: str, folder: Path, tmp_path: Path) -> None:
    """No string adds a tag or an attribute to the page, nor an address that it would load."""
    content = _contents(folder)[name]
    file = tmp_path / f"{name}.json"
    strings = [path for path, value in _leaves(content) if isinstance(value, str)]
    free = [path for path in strings if _reads(file, _changed(content, path, HOSTILE[0]))]
    assert len(free) >= 3
    plain = copy.deepcopy(content)
    for path in free:
        plain = _changed(plain, path, "plain text")
    wanted = _tags(page_of(tmp_path, write(file, plain)))
    assert _tags(page_of(tmp_path, write(file, _with(plain, ALL)))) == wanted
    page = (tmp_path / "sub" / "report.html").read_text(encoding="utf-8")
    assert "<svg/" not in page and "<iframe" not in page and 'onerror="alert' not in page


def _with(content: Any, text: str) -> Any:
    """The same content with a text in place of every plain one."""
    changed = content
    for path, value in _leaves(content):
        if value == "plain text":
            changed = _changed(changed, path, text)
    return changed


def test_names_of_files_and_folders_are_text(folder: Path, tmp_path: Path) -> None:
    name = ALL.replace("/", "\u2215").replace("\u0000", "")
    (tmp_path / name).mkdir()
    for file in folder.iterdir():
        if file.is_file():
            plain = file.name if file.stem.startswith("samples") else f"{name}{file.name}"
            shutil.copy(file, tmp_path / name / plain)
    page = page_of(tmp_path, tmp_path / name)
    (tmp_path / "plain").mkdir()
    for file in (tmp_path / name).iterdir():
        shutil.copy(file, tmp_path / "plain" / file.name.replace(name, ""))
    assert _tags(page) == _tags(page_of(tmp_path, tmp_path / "plain"))


def test_the_names_of_classes_are_text(folder: Path, tmp_path: Path) -> None:
    samples = read_samples(folder)
    for number, classes in enumerate(
        ([f"class {k}" for k in range(10)], [ALL + str(k) for k in range(10)])
    ):
        samples.named(classes).save(tmp_path / f"{number}" / "s")
    pages = [page_of(tmp_path, tmp_path / f"{number}" / "s") for number in range(2)]
    assert _tags(pages[0]) == _tags(pages[1])


VALUES: tuple[Any, ...] = (None, "x", -1, float("nan"), 10**30, [], {"a": 1})


@pytest.mark.parametrize("name", ["evaluate", "diagnose", "cost", "compare", "segment"])
def test_a_damaged_result_is_refused_or_shown(name: str, folder: Path, tmp_path: Path) -> None:
    """Every value of every result, by hostile ones: a page, or a FileError with the name."""
    content = _contents(folder)[name]
    paths = {
        tuple("*" if isinstance(key, int) else key for key in path): path
        for path, _ in _leaves(content)
    }
    random = np.random.RandomState(0)
    chosen = [list(paths.values())[k] for k in random.permutation(len(paths))[:3]]
    for path in chosen:
        for value in VALUES:
            file = write(tmp_path / "damaged.json", _changed(content, path, value))
            try:
                results = read_results([file])
            except tp.FileError as error:
                assert "damaged.json" in str(error)
                continue
            try:
                write_report(results, tmp_path / "r.html")
            except tp.FileError as error:
                assert "damaged.json" in str(error), (path, value)
            except Exception as error:
                raise AssertionError((path, value)) from error


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "9" * 5000, "{", '{"a": \ud800}', "\x00", "null", "[]", "7"]
)
def test_a_file_that_is_no_result_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(tp.FileError, match="no.json"):
        read_results([tmp_path / "no.json"])


def _plain_samples(folder: Path, place: Path) -> bytes:
    """Samples as earlier versions wrote them, whose arrays have no digest; returns the arrays."""
    head = json.loads((folder / "samples.json").read_text())
    head.pop("arrays", None)
    write(place / "samples.json", head)
    (file,) = folder.glob("samples*.npz")
    shutil.copy(file, place / "samples.npz")
    return file.read_bytes()


def test_damaged_samples_are_refused(folder: Path, tmp_path: Path) -> None:
    whole = _plain_samples(folder, tmp_path)
    for share in (0.0, 0.1, 0.5, 0.9, 0.99):
        (tmp_path / "samples.npz").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(tp.FileError, match="samples"):
            read_samples(tmp_path)
    random = np.random.RandomState(0)
    for _ in range(60):
        data = np.frombuffer(whole, np.uint8).copy()
        data[random.randint(0, len(data), 3)] = random.randint(0, 256, 3)
        (tmp_path / "samples.npz").write_bytes(data.tobytes())
        try:
            read_samples(tmp_path)
        except (tp.FileError, tp.DataError) as error:
            assert "samples" in str(error)


def test_an_archive_that_is_a_bomb_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plain_samples(folder, tmp_path)
    assert len(read_samples(tmp_path))
    monkeypatch.setattr("transpike.data.decode._MOST_BYTES", 100)
    with pytest.raises(tp.FileError, match="samples.npz': needed arrays of at most 100 bytes, got"):
        read_samples(tmp_path)
