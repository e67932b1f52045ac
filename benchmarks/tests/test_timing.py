"""The networks and the bookkeeping of the benchmarks are right; no peer has to be installed."""

import argparse

import pytest
import torch

from benchmarks import memory
from benchmarks.peers import networks, worker
from benchmarks.peers.contestants import Analog, Transpike, curve_of_steps
from benchmarks.timing import engine
from transpike.data import open_data
from transpike.study import paired
from transpike.study.records import Records
from transpike.zoo.models import resnet20


def test_module_form_of_resnet20_has_the_same_logits(tmp_path):
    model = resnet20().eval()
    path = tmp_path / "w.pth"
    torch.save(model.state_dict(), path)
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(networks.resnet20_of_modules(str(path))(x), model(x))


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet18", 11.2), ("vgg16_bn", 14.7), ("unet16", 1.9)]
)
def test_networks_have_the_published_size(name, millions):
    model = networks.NETWORKS[name].build("")
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_contestants_give_the_mean_readout_and_spikes():
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    model.eval()
    x = torch.randn(5, 4)
    exact = Transpike(model, [torch.randn(32, 4)], "if", "exact", "cpu")
    reference = Transpike(model, [torch.randn(32, 4)], "if", "reference", "cpu")
    reference.snn = exact.snn
    curve, slow = exact.curve(x, [2, 7]), reference.curve(x, [2, 7])
    assert torch.equal(curve.outputs[7], exact.run(x, 7))
    for t in (2, 7):
        torch.testing.assert_close(curve.outputs[t], slow.outputs[t])
        assert torch.equal(curve.spikes[t], slow.spikes[t]) and curve.spikes[t].sum() > 0
    assert bool((curve.spikes[2] <= curve.spikes[7]).all())
    assert torch.equal(Analog(model).run(x, 9), model(x))


def test_a_worker_says_which_images_were_right():
    desk = worker._Desk.__new__(worker._Desk)  # It needs no network of the benchmark.
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    desk.setup, desk.device, desk.contestant = {"data": "digits"}, "cpu", Analog(model)
    test = open_data("digits").test.subset(60, worker.TEST_SEED)
    x, labels = (torch.cat(column) for column in zip(*test.batches(10), strict=True))
    with torch.no_grad():
        right = (model(x).argmax(dim=1) == labels).numpy()
    for part in (0, 1):
        found = desk.accuracy(60, [3], 10, part, 2)
        mine = right.reshape(6, 10)[part::2].ravel()  # A part has every second batch.
        assert found["n"] == 30 and found["right"][3] == mine.sum()
        assert (paired.unpacked(found["which"][3], 30) == mine).all()


def test_peak_memory_sees_what_was_allocated_and_freed():
    base = memory.base_memory()
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    del block
    assert 60 * 2**20 < memory.peak_over(base) < 120 * 2**20


class _Field:
    """A stand-in for the processes: the analog network takes 0.5 seconds, and all others take 8."""

    def __init__(self, args):
        self.args, self.asked = args, []

    def ask(self, name, request):
        self.asked.append((name, request["do"]))
        if name == "braincog":
            return {"failed": "not here"}
        if request["do"] == "memory":
            return {"peak": 2**20, "base": 1, "seconds": 9.0}
        return {"seconds": 0.5 if name == "ann" else 8.0}

    def hello(self, name):
        return {"settings": {}, "versions": {"torch": "x"}}


@pytest.fixture
def cell():
    facts = {"cpu": "c", "cores": 1, "flags": {"avx2": True}, "memory_gib": 1}
    common = {"machine": facts, "threads": 1, "device": "cpu", "neuron": "if"}
    return {"network": "resnet18", "batch": 4, "timesteps": 8, "results": {}, **common}


def _args(**options):
    settings = {"repetitions": 3, "longest": 60.0, "memory_limit": 8.0}
    contestants = ["ann", "engine-exact", "spikingjelly-multi", "braincog"]
    return argparse.Namespace(**settings, contestants=contestants, **options)


def test_a_cell_is_interleaved_saved_and_not_run_twice(cell, tmp_path):
    field = _Field(_args())
    records = Records(tmp_path / "engine.jsonl")
    engine.run_cell(field, cell, [], records)
    timed = [name for name, what in field.asked if what == "time"]
    # Every round times each contestant once.
    assert all(len(set(timed[i : i + 3])) == 3 for i in (0, 3, 6))
    (record,) = records.all()
    result = record["results"]["engine-exact"]
    assert engine.ratio_of(result, 8) == 2.0  # A timestep takes 8 s / 8, and the ANN takes 0.5 s.
    field.asked.clear()
    field.args.contestants.remove("braincog")
    engine.run_cell(field, record, [], records)
    assert field.asked == []
    text = engine.document(records.all(), [])
    assert "| 4 | 8 | engine-exact | 2.00 [2.00, 2.00] | 1000.00 | 0.5 | 1 | 3 |" in text
    assert "braincog: not here (batch 4 T=8)" in text


def test_what_would_take_too_long_or_too_much_is_left_out(cell):
    cell["results"] = {
        name: {"seconds": [8.0], "peak_bytes": 2**30} for name in ("ann", engine.MULTI, "braincog")
    }
    larger = {**cell, "batch": 8, "timesteps": 64, "results": {}}
    args = _args()
    assert engine.forecast(args, "ann", larger, [cell]) is None
    assert "about 128 s" in engine.forecast(args, "braincog", larger, [cell])
    args.longest = 1000
    assert engine.forecast(args, "braincog", larger, [cell]) is None
    assert "about 16 GiB" in engine.forecast(args, engine.MULTI, larger, [cell])


def test_steps_of_a_peer_are_counted_and_averaged():
    spike = torch.nn.Threshold(0.0, 0.0)
    x = torch.tensor([[1.0, -2.0], [3.0, 1.0]])
    steps = iter((1.0, 2.0, 3.0))

    def step(x):
        return spike(x * next(steps)).sum(dim=1, keepdim=True)

    curve = curve_of_steps(step, x, [1, 3], [spike], lambda site, output: output + site.threshold)
    assert curve.outputs[1].tolist() == [[1.0], [4.0]]
    assert curve.outputs[3].tolist() == [[2.0], [8.0]]  # They are means of 1, 2, 3 and of 4, 8, 12.
    assert curve.spikes[1].tolist() == [1.0, 4.0] and curve.spikes[3].tolist() == [6.0, 24.0]
    spike(x)  # No hook counts this call.
    assert curve.spikes[3].tolist() == [6.0, 24.0]


def test_the_last_record_of_a_cell_counts_and_machines_are_apart(cell):
    ann = {"seconds": [1.0], "ann_seconds": [1.0], "peak_bytes": 2**20, "versions": {}}
    first = {**cell, "results": {"ann": ann}}
    again = {**cell, "results": {"ann": {**ann, "peak_bytes": 2**21}}}
    other = {**first, "threads": 2}
    text = engine.document([first, again, other], [])
    assert text.count("# Simulation speed and memory (cpu)") == 2
    one, two = text.split("\n# ")
    assert "| 2 | 1 |" in one and "| 1 | 1 |" not in one and "| 1 | 1 |" in two
