"""The structure of an output as plain data."""

import collections
import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import nets
import transpike as tp
from transpike.graph.structure import Fields, Structure, flat_values, map_values, structure_of

Pair = collections.namedtuple("Pair", ["scores", "count"])


@dataclass
class Out:
    scores: object
    aux: object = None


a, b, c = (torch.full((2,), float(n)) for n in range(3))
VALUES = {
    "tensor": a,
    "tuple": (a, b),
    "list": [a, (b, [c])],
    "dict": {"x": a, 3: {"y": b}},
    "ordered dict": collections.OrderedDict(z=a, y=b),
    "none": (a, None, {"aux": None}),
    "named tuple": Pair(a, [b, c]),
    "dataclass": Out(a, Pair(b, c)),
    "dataclass with none": Out(a),
    "empty": (a, (), {}, []),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_are_arranged_as_they_were(value):
    structure = structure_of(value)
    flat = flat_values(value)
    assert structure.tensors == len(flat)
    again = structure.arrange(flat)
    assert structure_of(again) == structure
    assert all(x is y for x, y in zip(flat, flat_values(again), strict=True))
    doubled = map_values(lambda x, y: x + y, again, again)
    assert structure_of(doubled) == structure
    assert all(torch.equal(2 * x, y) for x, y in zip(flat, flat_values(doubled), strict=True))


def test_a_dict_with_another_order_of_keys_is_matched_by_key():
    mapped = map_values(lambda x, y: x - y, {"x": a, "y": b}, {"y": b, "x": a})
    assert not mapped["x"].any() and not mapped["y"].any()


def test_a_record_is_read_by_name_and_by_position():
    out = structure_of(Pair(a, b)).arrange([a, b])
    assert out.scores is out[0] is a and out.count is out[1] is b
    assert out._fields == ("scores", "count")
    scores, count = out
    assert scores is a and count is b
    for other in (copy.copy(out), copy.deepcopy(out), pickle.loads(pickle.dumps(out))):
        assert isinstance(other, Fields) and torch.equal(other.count, b)
    assert repr(Fields(("n",), (1,))) == "Fields(n=1)"


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: structure_of((a, 3)), "needed tensors in tuples, .*, got int"),
        (lambda: structure_of({(1, 2): a}), "needed different strings or integers"),
        (lambda: structure_of({True: a}), "needed different strings or integers"),
        (lambda: Structure("defaultdict"), "needed one of .*, got defaultdict"),
        (lambda: Structure("tuple", (), ("x",)), "a tuple cannot have 0 parts and the keys"),
        (lambda: Structure("tensor", (Structure(),)), "a tensor cannot have 1 parts"),
        (lambda: Structure("dict", (Structure(),)), "a dict cannot have 1 parts"),
        (lambda: Structure("dict", (Structure(),) * 2, ("x", "x")), "needed different strings"),
        (lambda: Structure("record", (Structure(),), ("_x",)), "needed different names"),
        (lambda: Structure("record", (Structure(),), ("x y",)), "needed different names"),
        (lambda: Structure("tuple", (Structure(),)).arrange([]), "needed 1 values, got 0"),
    ],
)
def test_what_is_no_structure_is_refused(make, match):
    with pytest.raises(tp.DataError, match=match):
        make()


class Arranged(nn.Module):
    def __init__(self, arrange):
        super().__init__()
        self.a, self.b, self.arrange = nn.Linear(3, 4), nn.Linear(4, 2), arrange

    def forward(self, x):
        hidden = torch.relu(self.a(x))
        return self.arrange(self.b(hidden), hidden)


OUTPUTS = {
    "tensor": lambda y, h: y,
    "tuple": lambda y, h: (y, h),
    "list": lambda y, h: [y, h],
    "nested": lambda y, h: {"out": y, "deep": [h, {0: y}]},
    "ordered dict": lambda y, h: collections.OrderedDict(out=y, aux=h),
    "none": lambda y, h: (y, {"aux": None}),
}


@pytest.mark.parametrize("arrange", OUTPUTS.values(), ids=OUTPUTS)
def test_captured_simulated_and_loaded_networks_keep_the_structure(tmp_path, arrange):
    torch.manual_seed(0)
    model, x = Arranged(arrange), torch.randn(4, 3)
    snn = tp.convert(model, [x])
    with torch.no_grad():
        wanted = model(x)
    expected = structure_of(wanted)
    tp.save(snn, tmp_path / "net")
    loaded = tp.load(tmp_path / "net")
    for network in (snn, loaded):
        assert structure_of(network.network(x)) == expected
        assert structure_of(tp.simulate(network, x, 3).output) == expected
        assert structure_of(tp.simulate_reference(network, x, 3).output) == expected
        assert structure_of(tp.quantized_ann(network, x, 3)) == expected
    before, after = (flat_values(tp.simulate(one, x, 3).output) for one in (snn, loaded))
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert nets.error(flat_values(snn.network(x)), flat_values(wanted)) < 1e-5
