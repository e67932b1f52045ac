"""Result files keep every record, with interrupted writes and with several processes."""

import json
import multiprocessing

import pytest

from transpike.errors import FileError
from transpike.study.records import Records


def test_records_come_back_in_order_and_equal(tmp_path):
    records = Records(tmp_path / "sub" / "one.jsonl")
    assert records.all() == []
    wanted = [{"a": 0.1 + 0.2}, {"b": [1, None, "x\n"]}, {"c": {"1": -0.0}}]
    for record in wanted:
        records.append(record)
    assert records.all() == wanted == Records(records.file).all()
    records.append({"d": 1})
    assert records.all() == [*wanted, {"d": 1}]


@pytest.mark.parametrize("kept", [0, 1, 2])
@pytest.mark.parametrize("size", [10, 200_000])
def test_an_incomplete_line_is_skipped_and_then_replaced(tmp_path, kept, size):
    records = Records(tmp_path / "one.jsonl")
    for number in range(kept):
        records.append({"number": number})
    whole = records.file.read_bytes() if kept else b""
    records.file.write_bytes(whole + b'{"number": "' + b"7" * size)
    before = [{"number": number} for number in range(kept)]
    assert records.all() == before
    records.append({"number": 9})
    assert records.all() == [*before, {"number": 9}] == Records(records.file).all()
    assert len(records.file.read_bytes().splitlines()) == kept + 1


def test_a_complete_line_without_a_line_break_is_kept(tmp_path):
    records = Records(tmp_path / "one.jsonl")
    records.file.write_text('{"number": 0}\n{"number": 1}')
    assert records.all() == [{"number": 0}, {"number": 1}]
    records.append({"number": 2})
    assert [one["number"] for one in records.all()] == [0, 1, 2]


@pytest.mark.parametrize("line", ['{"number": 1', "[1]", ""])
def test_a_broken_line_in_the_middle_is_refused(tmp_path, line):
    file = tmp_path / "one.jsonl"
    file.write_text('{"number": 0}\n' + line + '\n{"number": 2}\n')
    with pytest.raises(FileError, match=r"one\.jsonl, line 2: needed a JSON object, got"):
        Records(file).all()


def _add(file, writer):
    for number in range(40):
        Records(file).append({"writer": writer, "number": number, "text": "x" * 20_000})


def test_two_processes_that_append_lose_nothing(tmp_path):
    file = tmp_path / "one.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add, args=(file, writer)) for writer in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = [json.loads(line) for line in file.read_text().splitlines()]
    for writer in range(2):
        numbers = [one["number"] for one in found if one["writer"] == writer]
        assert numbers == list(range(40))


def test_what_is_claimed_is_measured_by_one(tmp_path):
    one, other = (Records(tmp_path / "one.jsonl") for _ in range(2))
    with one.claimed("a", 1) as mine, other.claimed("a", 1) as theirs, other.claimed("a", 2) as new:
        assert (mine, theirs, new) == (True, False, True)
    with other.claimed("a", 1) as theirs:
        assert theirs
    assert list(tmp_path.iterdir()) == []
