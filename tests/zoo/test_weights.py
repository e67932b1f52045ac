from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from transpike.errors import CheckpointError, FileError
from transpike.zoo.models import build_model, load_state_dict, load_weights


def _model(seed: int = 0, outputs: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, outputs))


def _equal(left: nn.Module, right: nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".PTH"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_wrapping_gives_the_same_weights(
    tmp_path: Path, suffix: str, wrapper: str | None, prefix: str
) -> None:
    source, target = _model(0), _model(1)
    state = {prefix + name: value for name, value in source.state_dict().items()}
    content = state if wrapper is None else {wrapper: state, "epoch": 3}
    torch.save(content, tmp_path / f"w{suffix}")
    load_weights(target, tmp_path / f"w{suffix}")
    assert _equal(source, target)


def test_safetensors(tmp_path: Path) -> None:
    source, target = _model(0), _model(1)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert _equal(source, target)


def test_build_model_reads_weights(tmp_path: Path) -> None:
    source = build_model("digits_cnn")
    torch.save(source.state_dict(), tmp_path / "w.pt")
    assert _equal(source, build_model("digits_cnn", weights=tmp_path / "w.pt"))


def test_old_checkpoints_lack_batch_counters(tmp_path: Path) -> None:
    state = _model(0).state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "w.pt")
    load_weights(_model(1), tmp_path / "w.pt")


def test_misfit_names_everything_and_changes_nothing(tmp_path: Path) -> None:
    state = _model(0, outputs=7).state_dict()
    state["head.weight"] = state.pop("0.weight")
    torch.save(state, tmp_path / "w.pt")
    target, before = _model(1), _model(1)
    with pytest.raises(CheckpointError) as caught:
        load_weights(target, tmp_path / "w.pt")
    text = str(caught.value)
    assert "missing: 0.weight" in text
    assert "unexpected: head.weight" in text
    assert "3.bias (needed (3,), got (7,))" in text
    assert _equal(target, before)


def test_long_lists_are_cut(tmp_path: Path) -> None:
    torch.save({f"x{i:02d}": torch.zeros(1) for i in range(30)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="x09 and 20 more"):
        load_weights(_model(), tmp_path / "w.pt")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no file .*nothing.pt"):
        load_state_dict(tmp_path / "nothing.pt")


def test_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(FileError, match=r"needed a file ending in \.safetensors, \.pt"):
        load_state_dict(tmp_path / "w.onnx")


def test_whole_model_is_not_unpickled_and_the_remedy_works(tmp_path: Path) -> None:
    torch.save(_model(), tmp_path / "w.pt")
    with pytest.raises(FileError, match=r"torch\.save\(model\.state_dict\(\), path\)"):
        load_state_dict(tmp_path / "w.pt")
    torch.save(_model().state_dict(), tmp_path / "w.pt")
    load_weights(_model(1), tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02garbage"])
def test_foreign_bytes(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    with pytest.raises(FileError, match=f"w{suffix}"):
        load_state_dict(file)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.95])
def test_truncated_files(tmp_path: Path, suffix: str, kept: float) -> None:
    file = tmp_path / f"w{suffix}"
    state = build_model("digits_cnn").state_dict()
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(FileError, match=f"w{suffix}"):
        load_state_dict(file)


@pytest.mark.parametrize("content", [[torch.zeros(1)], torch.zeros(2), {}, 3])
def test_torch_file_without_names(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(FileError, match="holds no weights"):
        load_state_dict(tmp_path / "w.pt")


def test_mapping_with_other_things(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1), "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(FileError, match="more than tensors: epoch"):
        load_state_dict(tmp_path / "w.pt")
