"""Batches are unpacked once; batches of other forms are refused with a remedy that works."""

import pytest
import torch
from torch import nn

import transpike as tp
from transpike.graph.batches import Batches

X, Y = torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize("source", [X, [X], [(X, Y)], [[X, Y]], ((X, Y),), Batches([X])])
def test_inputs_of_every_form(source):
    batches = Batches(source)
    (only,) = batches.inputs()
    assert torch.equal(only, X) and torch.equal(batches.first(), X)
    assert torch.equal(batches.joined(), X)
    assert batches.count == 1 and batches.samples == 4


def test_targets_are_kept_where_there_are_some():
    assert [target for _, target in Batches([(X, Y), X, (X,)])] == [Y, None, None]


def test_a_loader_knows_its_samples():
    data = torch.utils.data.TensorDataset(X, Y)
    batches = Batches(torch.utils.data.DataLoader(data, batch_size=3))
    assert batches.samples == 4 and batches.count == 2
    assert torch.equal(batches.joined(), X)


def test_what_can_be_read_once_is_kept_for_the_second_time():
    batches = Batches(x for x in (X, X + 1)).repeatable()
    assert batches.count == 2
    assert torch.equal(batches.joined(), batches.joined())
    kept = [X]
    assert Batches(kept).repeatable().count == 1
    assert Batches(x for x in kept).count is None


@pytest.mark.parametrize("wrong", [3, None, {"image": X}])
def test_a_source_that_is_no_list_of_batches(wrong):
    with pytest.raises(tp.ArgumentError, match="batches: needed tensors"):
        Batches(wrong)


@pytest.mark.parametrize("wrong", ["image", [], (), [1, X]])
def test_a_batch_that_has_no_tensor(wrong):
    with pytest.raises(tp.DataError, match="batch: needed a tensor or a"):
        list(Batches([wrong]))


@pytest.mark.parametrize("method", ["first", "joined"])
def test_no_data(method):
    with pytest.raises(tp.DataError, match="needed at least one batch"):
        getattr(Batches([]), method)()


def test_batches_of_named_tensors_name_the_way_out():
    batches = [{"pixels": X, "labels": Y}]
    with pytest.raises(tp.DataError, match=r"batch\['pixels'\], batch\['labels'\]\)"):
        list(Batches(batches))
    pairs = [(batch["pixels"], batch["labels"]) for batch in batches]
    snn = tp.convert(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), pairs)
    assert tp.evaluate(snn, pairs, 2).n == 4


class _TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(2, 4), nn.Linear(1, 4)

    def forward(self, a, b):
        return torch.relu(self.left(a) + self.right(b))


class _OneInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = _TwoInputs()

    def forward(self, x):
        return self.model(x[:, :2], x[:, 2:])


def test_two_inputs_name_the_way_out():
    with pytest.raises(tp.DataError, match="got 2 input tensors. A network has one input"):
        tp.convert(_TwoInputs(), [((X[:, :2], X[:, 2:]), Y)])
    snn = tp.convert(_OneInput(), [(X, Y)])
    torch.testing.assert_close(
        tp.quantized_ann(snn, X, 4096), _expected(snn, X), rtol=0.01, atol=0.01
    )


def _expected(snn, x):
    with torch.inference_mode():
        return snn.network(x)
