"""Every value of saved folders is replaced by hostile ones: a `FileError`, or an equal network.

Two kinds of folders are written. In the first, the digests in the folder stay as they were. Then
only a `FileError` or an equal network is allowed.

In the second, all digests are computed again, as somebody with the whole folder can do. A folder
then may also be a valid saved network that is another one, because the changed value is free: no
other value in the folder follows from it. FREE lists these values. Such a network must load again
bit for bit after it is saved, and simulating it gives outputs without NaN or an `ArgumentError`.
Only weights as large as 3e38, which overflow in the analog network too, may give NaN.
All other values end in a `FileError` or an equal network here too.

Equal means: the same structure of the output, and the same bits of the outputs of the simulation at
every timestep, of the analog network, and of the quantized ANN.
"""

import itertools
import json
import random
import re
import sys

import pytest
import torch

import tampered
import transpike as tp
from transpike.graph.structure import flat_values, structure_of

IN_CI = 100  # folders of each kind in the fast test
# Values on which no other value in the folder depends, and what they are.
FREE = {
    r"nodes\.\d+\.args(\.\d+)*": "an argument with which all shapes stay the same, such as a flag, "
    "a number that is added, a bias that is left out or a weight of the same shape",
    r"output_spec\.keys\.\d+": "a key of a dict",
    r"neurons\.[^.]+\.(max_count|signed|step|initial_membrane|telescoped|hysteresis|code)": "a "
    "setting of a neuron within its range",
    r"neurons\.[^.]+\.(levels|schedule(\.\w+)*)": "a setting of a neuron within its range",
    r"readout_start": "the first timestep of the average",
    r"sizes\.(steps|steps\.\d+|together)": "a rule for other sizes, which the own size does not "
    "have to follow",
    r"tensor .*": "finite weights, steps > 0, starts and offsets",
}
STEPS = 6


def _bits(snn, x):
    """Return everything that has to be equal."""
    run = tp.simulate(snn, x, max(STEPS, snn.first_output))
    outputs = run.output, snn.network(x), tp.quantized_ann(snn, x, STEPS)
    return [structure_of(one) for one in outputs], flat_values(outputs)


def _equal(one, other):
    pairs = zip(one[1], other[1], strict=False)
    same = one[0] == other[0] and len(one[1]) == len(other[1])
    return same and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        for a, b in pairs
    )


class Folder:
    """A saved network, every way to change it, and what a changed folder ends in."""

    def __init__(self, folder, snn, x):
        self.folder, self.x = folder, x
        tp.save(snn, folder)
        self.config = json.loads((folder / "config.json").read_text())
        self.tensors = tampered.read_tensors(folder)
        self.expected = _bits(tp.load(folder), x)

    def changes(self):
        """Return every path with every hostile value, and every tensor with six others."""
        for path in tampered.paths(self.config):
            values = dict(tampered.HOSTILE)
            if isinstance(path[-1], str):
                values["missing"] = tampered.MISSING
            yield from ((".".join(map(str, path)), path, value) for value in values.values())
        for name, tensor in self.tensors.items():
            for value in tampered.hostile_tensors(tensor).values():
                yield f"tensor {name}", name, value

    def write(self, path, value, rehashed):
        """Write the changed folder."""
        if isinstance(path, tuple):
            tampered.write(
                self.folder, tampered.changed(self.config, path, value), rehashed=rehashed
            )
        elif rehashed:
            tampered.with_tensors(self.folder, self.config, {**self.tensors, path: value})
        else:
            tampered.write(self.folder, self.config, rehashed=True)
            file = self.folder / f"model-{self.config['tensors'][:16]}.safetensors"
            kept = file.read_bytes()
            file.write_bytes(tampered.to_bytes({**self.tensors, path: value}))
            return lambda: file.write_bytes(kept)
        return lambda: None

    def outcome(self, place, path, value, rehashed):
        """Return "refused", "equal" or "another network", or fail."""
        restore = self.write(path, value, rehashed)
        try:
            snn = tp.load(self.folder)
        except tp.FileError:
            return "refused"
        finally:
            restore()
        try:
            found = _bits(snn, self.x)
        except tp.ArgumentError:
            found = None
        if found is not None and _equal(found, self.expected):
            return "equal"
        free = rehashed and any(re.fullmatch(pattern, place) for pattern in FREE)
        assert free, f"{place} = {value!r}: another network"
        if found is not None:
            analog = all(bool(one.isfinite().all()) for one in flat_values(snn.network(self.x)))
            wrong = analog and any(bool(one.isnan().any()) for one in found[1])
            assert not wrong, f"{place} = {value!r}: NaN"
            again = self.folder.parent / "again"
            tp.save(snn, again)
            assert _equal(_bits(tp.load(again), self.x), found), f"{place} = {value!r}: not saved"
        return "another network"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tampered.networks().items()
    return [Folder(tmp_path_factory.mktemp(name) / "net", *both) for name, both in made]


def _run(folders, chosen):
    """Count the outcomes. `sys.modules` shows whether a folder made Python import anything."""
    modules = set(sys.modules)
    counts = {"refused": 0, "equal": 0, "another network": 0}
    for folder, change, rehashed in chosen:
        counts[folder.outcome(*change, rehashed)] += 1
    new = {name for name in set(sys.modules) - modules if not name.startswith(("torch", "sympy"))}
    assert not new
    return counts


def _all(folders):
    pairs = [(folder, change) for folder in folders for change in folder.changes()]
    return [(*pair, rehashed) for pair, rehashed in itertools.product(pairs, (False, True))]


def test_a_sample_of_changed_folders(folders):
    draw = random.Random(0)
    every = _all(folders)
    kinds = ([one for one in every if one[2] == rehashed] for rehashed in (False, True))
    chosen = [one for kind in kinds for one in draw.sample(kind, IN_CI)]
    counts = _run(folders, chosen)
    assert sum(counts.values()) == 2 * IN_CI and counts["refused"] > IN_CI


@pytest.mark.slow
def test_every_changed_folder(folders):
    chosen = _all(folders)
    counts = _run(folders, chosen)
    print(len(chosen), counts)
    assert len(chosen) > 10_000 and counts["refused"] > 0.9 * len(chosen)
