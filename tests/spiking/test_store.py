"""Saved networks load bit for bit, and anything else gives a clear error."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nets
import transpike as tp

FILES = ["config.json", "model-*.safetensors"]


def _file(folder, pattern):
    (file,) = folder.glob(pattern)
    return file


def _saved(tmp_path, name="conv2d", neuron=None, dtype=torch.float32):
    network, calibration = nets.captured(name, dtype)
    snn = tp.convert(network, calibration, neuron=neuron or tp.Signed(max_count=3))
    folder = tmp_path / "net"
    tp.save(snn, folder)
    return snn, folder


@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_round_trip_is_bit_equal(tmp_path, name):
    snn, folder = _saved(tmp_path, name)
    loaded = tp.load(folder)
    x = torch.randn(3, *nets.NETS[name][1])
    nets.same_simulation(tp.simulate(snn, x, 5), tp.simulate(loaded, x, 5))
    for a, b in zip(nets.leaves(snn.network(x)), nets.leaves(loaded.network(x)), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(
        nets.leaves(tp.quantized_ann(snn, x, 4)),
        nets.leaves(tp.quantized_ann(loaded, x, 4)),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "neuron",
    [
        tp.IF(initial_membrane=0.0),
        tp.Burst(max_count=5),
        tp.Burst(4, mode="resolution"),
        tp.Telescoped(max_count=2),
        tp.Refining(2, period=2),
        tp.Staggered(2, lag=2),
        tp.Cyclic(4, (1, 2, 4)),
    ],
    ids=["if", "range", "resolution", "telescoped", "refining", "staggered", "cyclic"],
)
def test_round_trip_of_every_neuron(tmp_path, neuron):
    snn, folder = _saved(tmp_path, neuron=neuron, dtype=torch.float64)
    loaded = tp.load(str(folder))
    assert loaded.neurons == snn.neurons
    assert loaded.settings == snn.settings
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    nets.same_simulation(tp.simulate(snn, x, 5), tp.simulate(loaded, x, 5))


def test_folder_holds_two_files_and_no_pickle(tmp_path):
    _, folder = _saved(tmp_path)
    config_file, tensors = sorted(p.name for p in folder.iterdir())
    digest = hashlib.sha256((folder / tensors).read_bytes()).hexdigest()
    assert (config_file, tensors) == ("config.json", f"model-{digest[:16]}.safetensors")
    config = json.loads((folder / "config.json").read_text())
    assert any("schema" in key for key in config)


def test_loads_without_the_model_code(tmp_path):
    """A new process loads the network with the library alone."""
    snn, folder = _saved(tmp_path)
    x = torch.ones(2, 2, 8, 8)
    expected = tp.simulate(snn, x, 3).output[-1].sum().item()
    code = (
        "import sys, torch, transpike as tp\n"
        "torch.set_num_threads(1)\n"
        "snn = tp.load(sys.argv[1])\n"
        "print(tp.simulate(snn, torch.ones(2, 2, 8, 8), 3).output[-1].sum().item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(expected, rel=1e-5)


def test_missing_folder(tmp_path):
    with pytest.raises(tp.FileError, match="nothing-here"):
        tp.load(tmp_path / "nothing-here")


@pytest.mark.parametrize("name", FILES)
def test_missing_file(tmp_path, name):
    _, folder = _saved(tmp_path)
    file = _file(folder, name)
    file.unlink()
    with pytest.raises(tp.FileError, match=file.name):
        tp.load(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
def test_truncated_file(tmp_path, name, keep):
    _, folder = _saved(tmp_path)
    file = _file(folder, name)
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(tp.FileError, match=file.name):
        tp.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_foreign_bytes(tmp_path, name):
    _, folder = _saved(tmp_path)
    file = _file(folder, name)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    with pytest.raises(tp.FileError, match=file.name):
        tp.load(folder)


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"name": "other"}'])
def test_foreign_json(tmp_path, text):
    _, folder = _saved(tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(tp.FileError, match="config.json|schema"):
        tp.load(folder)


def test_weights_of_another_network(tmp_path):
    _, folder = _saved(tmp_path)
    _, other = _saved(tmp_path / "other", "linear")
    shutil.copy(_file(other, FILES[1]), _file(folder, FILES[1]))
    with pytest.raises(tp.FileError, match="its SHA-256 is not the one in config.json"):
        tp.load(folder)


def test_other_schema_version(tmp_path):
    _, folder = _saved(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (key,) = [k for k in config if "schema" in k]
    config[key] = 999
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(tp.FileError, match="needed schema 2, 3 or 4, got 999"):
        tp.load(folder)


def test_flipped_weight_byte_is_noticed(tmp_path):
    """The damage lies within the weights, where the file format itself does not detect it."""
    _, folder = _saved(tmp_path)
    path = _file(folder, FILES[1])
    data = bytearray(path.read_bytes())
    data[-10] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(tp.FileError, match=path.name):
        tp.load(folder)


def test_save_onto_a_file_is_refused(tmp_path):
    network, calibration = nets.captured("linear", torch.float32)
    target = tmp_path / "taken"
    target.write_text("mine")
    with pytest.raises(tp.FileError, match="taken"):
        tp.save(tp.convert(network, calibration), target)
    assert target.read_text() == "mine"


def test_saving_twice_replaces(tmp_path):
    _, folder = _saved(tmp_path, "conv2d")
    snn, again = _saved(tmp_path, "linear")
    assert again == folder
    x = torch.randn(2, 7)
    nets.same_simulation(tp.simulate(snn, x, 3), tp.simulate(tp.load(folder), x, 3))


def test_saved_model_evaluates_without_anything_else(tmp_path):
    _, folder = _saved(tmp_path)
    x, y = torch.randn(6, 2, 8, 8), torch.zeros(6, dtype=torch.long)
    result = tp.evaluate(tp.load(folder), [(x, y)], timesteps=2)
    assert result.quantized and len(result.agreement) == 2


def test_a_folder_of_the_version_with_flat_fields_gives_equal_outputs():
    """Commit b8d493c saved this folder and computed these outputs."""
    snn = tp.load(Path(__file__).parent / "saved" / "staggered_b8d493c")
    assert {neuron.schedule for neuron in snn.neurons.values()} == {
        tp.Schedule(ratio=2, window=3, lag=2)
    }
    x = torch.tensor(
        [
            [0.9527381062507629, 0.036164820194244385, 0.1852310299873352],
            [0.37341737747192383, 0.3051000237464905, 0.9320003986358643],
        ]
    )
    assert torch.equal(
        tp.simulate(snn, x, 5).output,
        torch.tensor(
            [
                [
                    [-0.10075466334819794, 0.08755569905042648],
                    [-0.08059167861938477, 0.05290704965591431],
                ],
                [
                    [-0.11083615571260452, 0.10488002747297287],
                    [-0.08059167861938477, 0.05290704965591431],
                ],
                [
                    [-0.11083615571260452, 0.10488002747297287],
                    [-0.08059167861938477, 0.05290704965591431],
                ],
                [
                    [-0.11083615571260452, 0.10488002747297287],
                    [-0.08059167861938477, 0.05290704965591431],
                ],
                [
                    [-0.11083615571260452, 0.10488002747297287],
                    [-0.08059167861938477, 0.05290704965591431],
                ],
            ]
        ),
    )


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_both_files_get_the_permissions_of_the_umask(tmp_path, mask, mode):
    snn = tp.load(Path(__file__).parent / "saved" / "staggered_b8d493c")
    before = os.umask(mask)
    try:
        tp.save(snn, tmp_path / "net")
    finally:
        os.umask(before)
    files = sorted((tmp_path / "net").iterdir())
    assert [file.stat().st_mode & 0o777 for file in files] == [mode, mode]
