from __future__ import annotations

import re
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

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


class Tied(nn.Module):
    """Two layers that share their weights, as an encoder and a decoder may."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight


def _prefixed(prefix: str, model: nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in model.state_dict().items()}


PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.",
            "model.", "net.", "model._orig_mod.", "backbone.model."]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_prefixes_of_wrappers(tmp_path: Path, prefix: str, suffix: str) -> None:
    source, target = _model(0), _model(1)
    file = tmp_path / f"w{suffix}"
    state = _prefixed(prefix, source)
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    load_weights(target, file)
    assert _equal(source, target)
    if not prefix.startswith(("model", "net", "backbone")):  # These can be names of a model.
        assert set(load_state_dict(file)) == set(source.state_dict())


@pytest.mark.parametrize(
    "wrapper",
    ["state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema", "ema",
     "ema_state_dict", "anything"],
)  # fmt: skip
def test_entries_of_checkpoints(tmp_path: Path, wrapper: str) -> None:
    source, target = _model(0), _model(1)
    optimizer = {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}
    content = {"epoch": 3, "optimizer": optimizer, wrapper: source.state_dict()}
    torch.save(content, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert _equal(source, target)
    assert set(load_state_dict(tmp_path / "w.pt")) == set(source.state_dict())


def _parallel_ema(source: nn.Module) -> object:
    return {f"module.{name}": v for name, v in AveragedModel(source).state_dict().items()}


def _profiled(source: nn.Module) -> object:
    counted = {f"{name}total_{kind}": torch.zeros(1, dtype=torch.float64)
               for name in ("", "0.", "3.") for kind in ("ops", "params")}  # fmt: skip
    return {**source.state_dict(), **counted}


FORMS: dict[str, Callable[[nn.Module], object]] = {
    "averaged": lambda source: AveragedModel(source).state_dict(),
    "averaged in an entry": lambda source: {"model_ema": AveragedModel(source).state_dict()},
    "averaged and parallel": _parallel_ema,
    "counted by thop": _profiled,
    "Lightning": lambda source: {
        "pytorch-lightning_version": "2.1.0",
        "state_dict": _prefixed("model.", source),
        "hyper_parameters": {"lr": 0.1},
        "loops": {"fit_loop": {}},
    },
    "options of a script": lambda source: {"model": source.state_dict(), "args": Namespace(lr=1)},
    "compiled inside": lambda source: {
        name.replace("0.", "0._orig_mod.", 1): value for name, value in source.state_dict().items()
    },
    "parallel inside": lambda source: {
        name.replace("3.", "3.module.", 1): value for name, value in source.state_dict().items()
    },
    "entry in an entry": lambda source: {"model": {"state_dict": source.state_dict(), "v": 1}},
}


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".pth.tar", ".pt.tar", ".bin"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_checkpoints(tmp_path: Path, form: str, suffix: str) -> None:
    source, target = _model(0), _model(1)
    torch.save(FORMS[form](source), tmp_path / f"w{suffix}")
    load_weights(target, tmp_path / f"w{suffix}")
    assert _equal(source, target)


def test_names_of_the_model_are_not_mistaken_for_wrappers(tmp_path: Path) -> None:
    source, target = (nn.ModuleDict({"module": nn.ModuleDict({"net": _model(i)})}) for i in (0, 1))
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert _equal(source, target)
    counter = nn.Linear(2, 2)
    counter.register_buffer("total_ops", torch.ones(1))
    torch.save(counter.state_dict(), tmp_path / "w.pt")
    other = nn.Linear(2, 2)
    other.register_buffer("total_ops", torch.zeros(1))
    load_weights(other, tmp_path / "w.pt")
    assert _equal(counter, other)


@pytest.mark.parametrize("wrapped", ["model", "state_dict"])
def test_two_sets_of_weights_are_not_guessed_between(tmp_path: Path, wrapped: str) -> None:
    file, averaged = tmp_path / "w.pt", f"{wrapped}_ema"
    both = {name: _model(seed).state_dict() for seed, name in enumerate((wrapped, averaged))}
    torch.save({**both, "epoch": 1}, file)
    target, before = _model(2), _model(2)
    with pytest.raises(CheckpointError, match=f"2 sets of weights that fit Sequential: {wrapped},"):
        load_weights(target, file)
    with pytest.raises(FileError, match=rf"Give .*w\.pt\?part={wrapped} or .*part={averaged}\."):
        load_state_dict(file)
    assert _equal(target, before)
    for seed, name in enumerate(both):
        load_weights(target, f"{file}?part={name}")
        assert _equal(target, _model(seed))
        assert torch.equal(load_state_dict(f"{file}?part={name}")["3.bias"], target[3].bias)


def test_the_entry_that_fits_is_taken(tmp_path: Path) -> None:
    parts = {"generator": _model(0), "discriminator": _model(0, outputs=1)}
    torch.save({name: part.state_dict() for name, part in parts.items()}, tmp_path / "w.pt")
    target = _model(1)
    load_weights(target, tmp_path / "w.pt")
    assert _equal(target, parts["generator"])


@pytest.mark.parametrize("prefix", ["encoder", "module.encoder_q", "ema_model.module"])
def test_a_part_under_a_prefix_has_to_be_chosen(tmp_path: Path, prefix: str) -> None:
    source, target = _model(0), _model(1)
    state = {**_prefixed(f"{prefix}.", source), "criterion.weight": torch.ones(3)}
    torch.save({"state_dict": state}, tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match="unexpected: criterion.weight") as caught:
        load_weights(target, tmp_path / "w.ckpt")
    assert f"Give {tmp_path / 'w.ckpt'}?part=state_dict.{prefix}." in str(caught.value)
    for part in (f"state_dict.{prefix}", prefix):
        target = _model(1)
        load_weights(target, f"{tmp_path / 'w.ckpt'}?part={part}")
        assert _equal(source, target)


def test_a_part_that_is_not_there(tmp_path: Path) -> None:
    torch.save({"model": _model().state_dict()}, tmp_path / "w.pt")
    with pytest.raises(FileError, match=r"one part with the name 'ema', got 0. The parts are mod"):
        load_state_dict(f"{tmp_path / 'w.pt'}?part=ema")
    (tmp_path / "w.pt").rename(tmp_path / "w?part=x.pt")  # A file is taken at its name.
    assert set(load_state_dict(tmp_path / "w?part=x.pt")) == set(_model().state_dict())


@pytest.mark.parametrize("missing", ["first.weight", "second.weight"])
def test_shared_tensors_that_are_written_once(tmp_path: Path, missing: str) -> None:
    source, target = Tied(0), Tied(1)
    save_model(source, tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert _equal(source, target)
    assert set(load_state_dict(tmp_path / "w.safetensors")) == set(source.state_dict())
    state = source.state_dict()
    del state[missing]
    torch.save(state, tmp_path / "w.pt")
    target = Tied(1)
    load_weights(target, tmp_path / "w.pt")
    assert _equal(source, target)


def test_shared_tensors_that_differ_in_the_file(tmp_path: Path) -> None:
    state = {**Tied(0).state_dict(), "second.weight": torch.zeros(4, 4)}
    torch.save(state, tmp_path / "w.pt")
    match = "different, but shared in the model: first.weight and second.weight. Build the model w"
    with pytest.raises(CheckpointError, match=match):
        load_weights(Tied(1), tmp_path / "w.pt")


UNFIT_TYPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "int8": lambda w: (w * 50).to(torch.int8),
    "uint8": lambda w: (w * 50).to(torch.uint8),
    "int64": lambda w: (w * 50).to(torch.int64),
    "complex64": lambda w: w.to(torch.complex64),
    "bool": lambda w: w > 0,
    "float8_e4m3fn": lambda w: w.to(torch.float8_e4m3fn),
    "float32 in the layout sparse_coo": lambda w: w.to_sparse(),
    "float32 in the layout sparse_csr": lambda w: w.to_sparse_csr(),
    "float32 without values (meta)": lambda w: w.to("meta"),
    "qint8": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")  # PyTorch calls sparse and quantized tensors unfinished.
@pytest.mark.parametrize("got", UNFIT_TYPES)
def test_types_that_do_not_fit_change_nothing(tmp_path: Path, got: str) -> None:
    state = _model(0).state_dict()
    torch.save({**state, "0.weight": UNFIT_TYPES[got](state["0.weight"])}, tmp_path / "w.pt")
    target, before = _model(1), _model(1)
    match = re.escape(f"of another type: 0.weight (needed float32, got {got}). Save the values as")
    with pytest.raises(CheckpointError, match=match):
        load_weights(target, tmp_path / "w.pt")
    assert _equal(target, before)


@pytest.mark.parametrize("name", ["0.weight", "1.running_mean", "1.running_var", "3.bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_values_that_are_not_finite_change_nothing(tmp_path: Path, name: str, value: float) -> None:
    state = _model(0).state_dict()
    state[name] = state[name].double()
    state[name].view(-1)[-1] = value
    torch.save(state, tmp_path / "w.pt")
    target, before = _model(1), _model(1)
    with pytest.raises(CheckpointError, match=f"NaN or infinite values: {name}. Use a checkpoint"):
        load_weights(target, tmp_path / "w.pt")
    assert _equal(target, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_converted(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save(_model(0).to(dtype).state_dict(), tmp_path / "w.pt")
    target = _model(1)
    load_weights(target, tmp_path / "w.pt")
    assert target[0].weight.dtype == torch.float32
    assert _equal(target, _model(0).to(dtype).float())


class Buffers(nn.Module):
    """Buffers that no real network computes with as they are."""

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([[fill, -float("inf")], [fill, fill]]))
        self.register_buffer("index", torch.tensor([int(fill)], dtype=torch.int32))
        self.register_buffer("wanted", torch.tensor([fill > 0]))
        self.register_buffer("phase", torch.tensor([complex(fill, fill)]))


def test_buffers_keep_their_own_kinds_of_value(tmp_path: Path) -> None:
    source, target = Buffers(3.0), Buffers(0.0)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert _equal(source, target)


@pytest.mark.parametrize(
    ("name", "value", "got"),
    [
        ("index", torch.tensor([2.0]), "needed int32, got float32"),
        ("index", torch.tensor([2**40]), "needed int32, got int64"),
        ("index", torch.tensor([True]), "needed int32, got bool"),
        ("wanted", torch.tensor([1], dtype=torch.uint8), "needed bool, got uint8"),
        ("phase", torch.tensor([1.0]), "needed complex64, got float32"),
        ("mask", torch.zeros(2, 2, dtype=torch.int64), "needed float32, got int64"),
    ],
)
def test_buffers_of_another_type(tmp_path: Path, name: str, value: torch.Tensor, got: str) -> None:
    torch.save({**Buffers(1.0).state_dict(), name: value}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=re.escape(f"{name} ({got})")):
        load_weights(Buffers(0.0), tmp_path / "w.pt")


@pytest.mark.parametrize("kind", ["lazy", "meta"])
def test_a_model_without_values(tmp_path: Path, kind: str) -> None:
    torch.save({"weight": torch.ones(3, 4), "bias": torch.ones(3)}, tmp_path / "w.pt")
    model = nn.LazyLinear(3) if kind == "lazy" else nn.Linear(4, 3, device="meta")
    with pytest.raises(CheckpointError, match=r"holds no values yet at weight.*Run lazy modules"):
        load_weights(model, tmp_path / "w.pt")


def test_refused_objects_are_named(tmp_path: Path) -> None:
    torch.save({"model": _model().state_dict(), "best": np.float64(3)}, tmp_path / "w.pt")
    with pytest.raises(FileError, match=r"namely numpy.*scalar, numpy.dtype. It would not be safe"):
        load_state_dict(tmp_path / "w.pt")


def test_a_program_of_torchscript_is_not_loaded_and_the_remedy_works(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls TorchScript deprecated.
        torch.jit.script(_model()).save(tmp_path / "w.pt")
        with pytest.raises(FileError, match=r"TorchScript program.*torch.jit.load\(path\)"):
            load_state_dict(tmp_path / "w.pt")
        torch.save(torch.jit.load(tmp_path / "w.pt").state_dict(), tmp_path / "o.pt")
    load_weights(_model(1), tmp_path / "o.pt")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_changed_bytes_end_in_a_file_error(tmp_path: Path, kind: str) -> None:
    file = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    state, random = _model(0).state_dict(), np.random.default_rng(0)
    if kind == "safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind == "zip")
    whole = np.frombuffer(file.read_bytes(), np.uint8)
    refusals = 0
    for _ in range(150):
        changed = whole.copy()
        changed[random.integers(len(changed), size=4)] = random.integers(256, size=4)
        file.write_bytes(changed.tobytes())
        try:
            load_weights(_model(1), file)
        except FileError:
            refusals += 1
    assert refusals > 30


def test_torch_does_not_look_at_checksums(tmp_path: Path) -> None:
    torch.save(_model(0).state_dict(), tmp_path / "w.pt")
    whole = bytearray((tmp_path / "w.pt").read_bytes())
    place = whole.index(_model(0).state_dict()["0.weight"].numpy().tobytes())
    whole[place] ^= 1
    (tmp_path / "w.pt").write_bytes(whole)
    with pytest.raises(FileError, match=r"is damaged: the checksum of .* does not fit. Copy or do"):
        load_state_dict(tmp_path / "w.pt")
