"""A folder that was changed by hand is refused by name, even if all digests in it fit."""

import contextlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import tampered
import transpike as tp
from transpike.graph.structure import flat_values

SAVED = Path(__file__).parent / "saved"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tampered") / "net"
    snn, x = tampered.networks()["residual"]
    tp.save(snn, folder)
    return folder, json.loads((folder / "config.json").read_text()), x


def _node(config, op):
    return next(node for node in config["nodes"] if node["op"].startswith(op))


def _set(key, value):
    return lambda config: config.update({key: value})


def _of_node(op, key, value):
    return lambda config: _node(config, op).update({key: value})


def _of_site(key, value):
    return lambda config: config["sites"][0].update({key: value})


def _of_neuron(key, value):
    return lambda config: next(iter(config["neurons"].values())).update({key: value})


def _cycle(config):
    config["nodes"][0]["args"][0] = {"value": config["nodes"][1]["name"]}


def _swapped(config):
    config["nodes"][0], config["nodes"][1] = config["nodes"][1], config["nodes"][0]


def _square(config):
    add = _node(config, "aten.add.Tensor")
    add.update(op="aten.mul.Tensor")


def _twice(config):
    config["nodes"][1]["name"] = config["nodes"][0]["name"]


def _both_bounds(value):
    def change(config):
        config["sites"][1]["upper_bound"] = value
        config["nodes"] = [
            {**node, "kwargs": {"upper_bound": value}}
            if node["name"] == config["sites"][1]["node"]
            else node
            for node in config["nodes"]
        ]

    return change


CHANGES = {
    "no sites": (_set("sites", []), "sites: needed one for each node that is a site"),
    "sites of another type": (_set("sites", {}), r"sites: needed a list, got \{\}"),
    "outputs of another type": (_set("outputs", "x"), "outputs: needed a list, got 'x'"),
    "unknown output": (_set("outputs", [{"value": "x"}] * 3), "outputs: needed the values of"),
    "a number as output": (_set("outputs", [1, 2, 3]), "outputs: needed the values of nodes"),
    "too few outputs": (lambda c: c["outputs"].pop(), "outputs: needed 3 for the structure"),
    "a cycle": (_cycle, "is read before it is computed"),
    "another order": (_swapped, "is read before it is computed"),
    "two nodes of one name": (_twice, "needed a name of its own"),
    "unknown operation": (_of_node("relu", "op", "aten.exit"), "unknown operation 'aten.exit'"),
    "operation of another kind": (
        _of_node("aten.add.Tensor", "op", "aten.sigmoid.default"),
        "needed kind 'readout', got 'linear'",
    ),
    "a product of signals": (_square, "two signals are multiplied"),
    "kind": (_of_node("relu", "kind", "linear"), "needed kind 'site', got 'linear'"),
    "unknown kind": (_of_node("relu", "kind", "x"), r"kind: needed one of linear, .*, got 'x'"),
    "shape": (_of_node("aten.conv2d", "shape", [-1, 4, 9, 9]), "needed shape .* for 2 samples"),
    "shape without batch": (_of_node("aten.conv2d", "shape", [2, 4, 4, 4]), "for 3 samples"),
    "no arguments": (_of_node("aten.conv2d", "args", []), "needed kind 'constant', got 'linear'"),
    "a number as arguments": (_of_node("aten.conv2d", "args", 3), r"args: needed a list, got 3"),
    "an unknown mark": (_of_node("aten.conv2d", "args", [{"code": "x"}]), "needed an argument"),
    "an unknown keyword": (
        _of_node("aten.conv2d", "kwargs", {"other": 1}),
        "aten.conv2d.default refuses its arguments",
    ),
    "a missing weight": (
        lambda c: _node(c, "aten.conv2d")["args"].__setitem__(1, {"weight": "x"}),
        "tensor 'x' is missing",
    ),
    "negative dilation": (
        lambda c: _node(c, "aten.conv2d")["args"].__setitem__(
            slice(3, None), [[1, 1], [1, 1], [-1, -1]]
        ),
        r"needed dilation >= 1, got \(-1, -1\)",
    ),
    "scale of an enlargement": (
        lambda c: _node(c, "aten.upsample")["args"].__setitem__(-1, 1e-320),
        "needed scales from|refuses its arguments",
    ),
    "channel axis": (_of_site("channel_axis", -1), "needed Site.*channel_axis=1.*axis=-1"),
    "channel axis of width": (_of_site("channel_axis", 2), "needed Site.*axis=1.*axis=2"),
    "channels": (_of_site("channels", 3), "needed Site.*channels=4.*channels=3"),
    "shape of a site": (_of_site("shape", [4, 4]), r"needed Site.*shape=\(4, 4, 4\)"),
    "node of a site": (_of_site("node", "input"), "sites: needed one for each node"),
    "bound of a site": (_of_site("upper_bound", 2.0), "needed Site.*upper_bound=None"),
    "bound of zero": (_both_bounds(0), "needed upper_bound > 0 or none, got 0"),
    "bound below zero": (_both_bounds(-1.5), "needed upper_bound > 0 or none, got -1.5"),
    "bound that is true": (_both_bounds(True), r"sites.1..upper_bound: needed a number, got True"),
    "site of another name": (_of_site("name", "x"), "needed one for each site, and '.*' is miss"),
    "site with another key": (_of_site("lower", 1), "sites.0.: needed the keys"),
    "neuron with a text": (_of_neuron("max_count", "x"), "max_count: needed an integer, got 'x'"),
    "neuron with a huge number": (_of_neuron("max_count", 2**70), "needed an integer, got 118"),
    "neuron of true": (_of_neuron("max_count", True), "needed an integer, got True"),
    "neuron with one as flag": (_of_neuron("signed", 1), "signed: needed true or false, got 1"),
    "neuron out of range": (_of_neuron("initial_membrane", 1.5), "needed a fraction 0 <= v0 < 1"),
    "neuron with another key": (_of_neuron("import", "os"), "needed the keys"),
    "coding": (_set("coding", "x"), "coding: needed one of rate, differential, got 'x'"),
    "coding of other neurons": (_set("coding", "differential"), "needed neurons with levels"),
    "readout start": (_set("readout_start", -1), "readout_start: needed an integer >= 0, got -1"),
    "input shape": (_set("input_shape", [1, 4, 5]), "needed shape"),
    "input shape of zero": (_set("input_shape", [1, 0, 4]), "input_shape.1.: needed an integer >="),
    "settings": (_set("settings", []), r"settings: needed an object, got \[\]"),
    "another key": (_set("code", "x"), "needed the keys"),
    "structure": (_set("output_spec", "import os"), "output_spec: needed an object"),
    "structure of a class": (
        _set("output_spec", {"kind": "defaultdict", "parts": []}),
        "kind: needed one of tuple, list, dict, record, got 'defaultdict'",
    ),
    "fields of a record": (
        _set("output_spec", {"kind": "record", "parts": ["tensor"], "keys": ["__class__"]}),
        "needed different names as the keys of a record",
    ),
    "steps of sizes": (lambda c: c["sizes"].update(steps=[1]), "sizes: needed 2 steps"),
    "a formula": (
        lambda c: next(iter(c["sizes"]["arguments"].values()))[0].__setitem__(
            1, [{"size": ["size", 0]}, {"size": ["//", 1, 0]}]
        ),
        "size of '.*': integer division or modulo by zero",
    ),
    "sizes of an unknown node": (
        lambda c: c["sizes"]["arguments"].update(x=[[], {}]),
        "sizes: node 'x' is missing",
    ),
}


@pytest.mark.parametrize(("change", "match"), CHANGES.values(), ids=CHANGES)
def test_changed_value_is_refused(base, change, match):
    folder, config, _ = base
    config = json.loads(json.dumps(config))
    change(config)
    tampered.write(folder, config, rehashed=True)
    with pytest.raises(tp.FileError, match=match) as error:
        tp.load(folder)
    assert "config.json" in str(error.value)


@pytest.mark.parametrize("network", ["residual", "parts"])
def test_every_changed_tensor_is_refused_or_another_valid_one(tmp_path, network):
    """Another shape or type, NaN and an empty tensor never fit."""
    snn, x = tampered.networks()[network]
    tp.save(snn, tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    tensors = tampered.read_tensors(tmp_path / "net")
    for name, tensor in tensors.items():
        for kind, other in tampered.hostile_tensors(tensor).items():
            tampered.with_tensors(tmp_path / "net", config, {**tensors, name: other})
            if kind in ("negative", "huge") and not name.startswith("steps"):
                with contextlib.suppress(tp.TranspikeError):
                    loaded = tp.load(tmp_path / "net")
                    found = flat_values(tp.simulate(loaded, x, 6).output)
                    # Weights of 3e38 overflow in the analog network too.
                    analog = all(one.isfinite().all() for one in flat_values(loaded.network(x)))
                    assert not (analog and any(one.isnan().any() for one in found)), name
                continue
            if kind == "huge":
                continue  # Large steps are steps.
            with pytest.raises(tp.FileError, match="needed|refuses its arguments"):
                tp.load(tmp_path / "net")


@pytest.mark.parametrize("key", ["settings", "coding", "nodes", "sha256", "tensors"])
def test_any_change_without_a_new_digest_is_refused(base, key):
    folder, config, _ = base
    tampered.write(folder, {**config, key: "x"}, rehashed=False)
    with pytest.raises(tp.FileError, match=r"config.json' is damaged: its content does not have"):
        tp.load(folder)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"format": "transpike", "format": "transpike"}', "a key stands twice"),
        ('{"format": NaN}', "NaN is not JSON"),
        ('{"format": "\\ud800"}', "damaged"),
        ('{"format": ' + "9" * 10_000 + "}", "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"format": "transpike", "schema": true}', "needed schema 2, 3 or 4, got True"),
        ('{"format": "transpike", "schema": 4.5}', "needed schema 2, 3 or 4, got 4.5"),
        ('{"format": "transpike", "schema": [4]}', r"needed schema 2, 3 or 4, got \[4\]"),
        ('{"format": "transpike", "schema": 4}', "needed the key tensors"),
        ('{"format": "transpike", "schema": 3}', "needed the key sha256"),
    ],
)
def test_text_that_is_no_configuration_is_refused(tmp_path, text, match):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(tp.FileError, match=match):
        tp.load(tmp_path)


@pytest.mark.parametrize("name", ["../model", "0" * 63, "x", "0" * 16 + "/../../" + "0" * 41])
def test_the_name_of_the_tensors_leads_nowhere_else(base, name):
    folder, config, _ = base
    tampered.write(folder, {**config, "tensors": name}, rehashed=True)
    with pytest.raises(tp.FileError, match=f"needed a SHA-256, got '{name}'"):
        tp.load(folder)


def test_missing_tensors_are_named(base):
    folder, config, _ = base
    tampered.write(folder, {**config, "tensors": "0" * 64}, rehashed=True)
    with pytest.raises(tp.FileError, match="needed the file model-0000000000000000.safetensors"):
        tp.load(folder)


# The specification of PyTorch that schemas 2 and 3 hold, and what loading it did before.
LEAF = '{"type": null, "context": null, "children_spec": []}'
SPECIFICATIONS = {
    "default dict": f'[1, {{"type": "collections.defaultdict", "context": {{'
    '"default_factory_module": "module_that_runs", "default_factory_name": "call", '
    f'"dict_context": ["a"]}}, "children_spec": [{LEAF}]}}]',
    "named tuple": f'[1, {{"type": "collections.namedtuple", "context": "module_that_runs.N", '
    f'"children_spec": [{LEAF}]}}]',
    "a class": f'[1, {{"type": "module_that_runs.N", "context": null, "children_spec": [{LEAF}]}}]',
    "context of a tuple": f'[1, {{"type": "builtins.tuple", "context": "[1]", '
    f'"children_spec": [{LEAF}]}}]',
    "keys that do not fit": f'[1, {{"type": "builtins.dict", "context": "[1, 2]", '
    f'"children_spec": [{LEAF}]}}]',
    "keys that are lists": f'[1, {{"type": "builtins.dict", "context": "[[1]]", '
    f'"children_spec": [{LEAF}]}}]',
    "keys that are no list": f'[1, {{"type": "builtins.dict", "context": "1", '
    f'"children_spec": [{LEAF}]}}]',
    "keys that are no JSON": f'[1, {{"type": "builtins.dict", "context": "x", '
    f'"children_spec": [{LEAF}]}}]',
    "another version": f"[2, {LEAF}]",
    "another key": '[1, {"type": null, "context": null, "children_spec": [], "x": 1}]',
    "no JSON": "import os",
    "a number": "1",
    "deep": "[1, " + '{"type": "builtins.list", "context": "null", "children_spec": [' * 20_000,
}


@pytest.mark.parametrize("text", SPECIFICATIONS.values(), ids=SPECIFICATIONS)
def test_no_code_runs_for_an_earlier_specification(tmp_path, text, monkeypatch):
    (tmp_path / "module_that_runs.py").write_text("raise SystemExit('the code ran')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "net"
    shutil.copytree(SAVED / "staggered_b8d493c", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "output_spec": text}))
    with pytest.raises(tp.FileError, match="output_spec|nested too deeply"):
        tp.load(folder)
    assert "module_that_runs" not in sys.modules


def test_a_folder_of_schema_3_gives_equal_outputs():
    """Commit a3ecc58 saved this folder and computed these outputs."""
    snn = tp.load(SAVED / "outputs_a3ecc58")
    out = tp.simulate(snn, torch.linspace(-2, 2, 16).reshape(1, 1, 4, 4), 3).output
    assert list(out) == ["out", "aux"] and isinstance(out["aux"], list)
    assert torch.equal(out["aux"][1][0], out["out"])
    expected = [
        [[0.2333047091960907, 1.1941691637039185, 0.916061520576477, 0.4367566704750061]],
        [[0.11665235459804535, 0.8956270217895508, 0.916061520576477, 0.32756751775741577]],
        [[0.19442057609558105, 0.9951410889625549, 0.916061520576477, 0.36396393179893494]],
    ]
    assert torch.equal(out["aux"][0], torch.tensor(expected))
    assert snn.network.sizes.vary


@pytest.mark.parametrize("name", ["staggered_b8d493c", "outputs_a3ecc58"])
def test_a_folder_of_an_earlier_schema_is_written_as_the_newest(tmp_path, name):
    folder = tmp_path / "net"
    shutil.copytree(SAVED / name, folder)
    (folder / "notes.txt").write_text("mine")
    snn = tp.load(folder)
    tp.save(snn, folder)
    assert len(list(folder.iterdir())) == 3 and not (folder / "model.safetensors").exists()
    again = tp.load(folder)
    x = torch.randn(2, *snn.network.input_shape)
    runs = [tp.simulate(one, x, 6) for one in (snn, again)]
    pairs = zip(*(flat_values(run.output) for run in runs), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_tensors_of_others_are_not_removed(tmp_path):
    """A folder may hold the weights of a model beside."""
    (tmp_path / "model.safetensors").write_text("mine")
    tp.save(tp.load(SAVED / "outputs_a3ecc58"), tmp_path)
    assert (tmp_path / "model.safetensors").read_text() == "mine"


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"settings": {"x": object()}}, "the settings cannot be written as JSON"),
        ({"steps": "negative"}, r"steps of '.*': needed 4 values > 0"),
        (
            {"steps": "double"},
            r"needed 4 values > 0 of torch.float32, got .* of torch.float64",
        ),
        ({"offsets": "missing"}, "offsets: needed one for each site"),
    ],
)
def test_save_refuses_what_load_would_refuse(tmp_path, values, match):
    snn = tp.load(SAVED / "outputs_a3ecc58")
    change = {
        "negative": lambda tensors: {name: -t for name, t in tensors.items()},
        "double": lambda tensors: {
            name: t.double() if i else t for i, (name, t) in enumerate(tensors.items())
        },
        "missing": lambda tensors: dict(list(tensors.items())[1:]),
    }
    values = {
        key: change[how](getattr(snn, key)) if isinstance(how, str) else how
        for key, how in values.items()
    }
    with pytest.raises(tp.ArgumentError, match=match):
        tp.save(snn.changed(**values), tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_settings_keep_numbers_that_json_does_not_have(tmp_path):
    snn = tp.load(SAVED / "outputs_a3ecc58")
    settings = {"loss": [float("inf"), -float("inf")], "note": "ü"}
    tp.save(snn.changed(settings={**settings, "nan": float("nan")}), tmp_path)
    found = tp.load(tmp_path).settings
    assert found.pop("nan") != 0 and found == settings
