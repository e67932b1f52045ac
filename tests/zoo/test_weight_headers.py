"""The header of a safetensors file is limited and checked before any tensor is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import transpike as tp
from transpike.zoo.models import build_model

EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def _file(file: Path, header: Any, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    file.write_bytes(size.to_bytes(8, "little") + text)
    return file


HEADERS: dict[str, tuple[Any, int | None, str]] = {
    "a length of 2^63": ({}, 2**63, "header of at most 4,194,304 bytes, got one of 9,223,372,"),
    "a length beyond the file": ({}, 1000, "cannot read '.*x.safetensors' as safetensors"),
    "a long name": ({"n" * 5_000_000: EMPTY}, None, "header of at most 4,194,304 bytes"),
    "100,000 tensors": ({f"t{k}": EMPTY for k in range(100_000)}, None, "header of at most"),
    "deep lists": (b"[" * 4_000_000, None, "as safetensors: .*(recursion|depth|invalid)"),
    "a huge shape": (
        {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}},
        None,
        "as safetensors: .*overflow",
    ),
    "a negative shape": ({"a": {**EMPTY, "shape": [-1]}}, None, "as safetensors"),
    "an unknown type": ({"a": {**EMPTY, "dtype": "F99"}}, None, "as safetensors"),
    "no JSON": (b"hello", None, "as safetensors"),
    "no text": (b"\xff" * 50, None, "as safetensors"),
    "a list": ([1, 2], None, "as safetensors"),
    "no header": (b"", 0, "as safetensors"),
    "a foreign name": ({"evil\x1b[31m" + "n" * 1000: EMPTY}, None, r"evil\\x1b\[31mn+\.\.\."),
    "a zero beside 2^40": ({"z": {**EMPTY, "shape": [2**40, 0]}}, None, "unexpected: z"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_hostile_header_is_a_file_error(kind: str, tmp_path: Path) -> None:
    header, length, message = HEADERS[kind]
    file = _file(tmp_path / "x.safetensors", header, length)
    with pytest.raises(tp.FileError, match=message) as raised:
        build_model("digits_cnn", str(file))
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize("cut", [0, 4, 8, 100, 5000])
def test_a_truncated_file_is_a_file_error(cut: int, tmp_path: Path) -> None:
    model = build_model("digits_cnn")
    save_file(model.state_dict(), tmp_path / "x.safetensors")
    whole = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(whole[:cut])
    with pytest.raises(tp.FileError, match="cannot read '.*x.safetensors' as safetensors"):
        build_model("digits_cnn", str(tmp_path / "x.safetensors"))
    (tmp_path / "x.safetensors").write_bytes(whole)
    build_model("digits_cnn", str(tmp_path / "x.safetensors"))


def test_the_limit_holds_for_saved_networks_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    tp.save(tp.convert(model, [torch.rand(8, 4)]), tmp_path / "n")
    assert tp.load(tmp_path / "n").network.neurons == 3
    monkeypatch.setattr("transpike.spiking.tensor_header.MOST_BYTES", 10)
    with pytest.raises(tp.FileError, match="needed a safetensors header of at most 10 bytes, got"):
        tp.load(tmp_path / "n")
