"""Models as people have them: in wrappers, with buffers of any kind, and hard to copy."""

import dataclasses
import functools
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

import transpike as tp


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))


class Holder(nn.Module):
    """Holds a network and an attribute."""

    def __init__(self, inner, attribute=None):
        super().__init__()
        self.inner, self.attribute = inner, attribute

    def forward(self, x):
        return self.inner(x)


class AnyArguments(Holder):
    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


class MoreArguments(Holder):
    def forward(self, x, scale=2.0, *, shift=None):
        return self.inner(x) * scale + (0 if shift is None else shift)


def _decorator(function):
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapped


class Decorated(Holder):
    @_decorator
    @torch.no_grad()
    def forward(self, x):
        return self.inner(x)


class CompiledForward(Holder):
    @torch.compile
    def forward(self, x):
        return self.inner(x)


class CompiledFunction(Holder):
    def __init__(self, inner):
        super().__init__(inner)
        self.act = torch.compile(torch.relu)

    def forward(self, x):
        return self.act(self.inner(x))


class OnlyHolds(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


def _compiled_in_place():
    model = net()
    model.compile()
    return model


def _hooked():
    model = nn.DataParallel(net())
    model.register_forward_hook(lambda module, args, output: output * 2)
    return model


WRAPPERS = {
    "DataParallel": (lambda: nn.DataParallel(net()), ["1"]),
    "DataParallel_with_a_hook": (_hooked, ["module.1"]),
    "AveragedModel": (lambda: AveragedModel(net()), ["1"]),
    "averaged_DataParallel": (lambda: AveragedModel(nn.DataParallel(net())), ["1"]),
    "torch.compile": (lambda: torch.compile(net()), ["1"]),
    "compiled_in_place": (_compiled_in_place, ["1"]),
    "compiled_DataParallel": (lambda: torch.compile(nn.DataParallel(net())), ["1"]),
    "wrapper_without_forward": (lambda: OnlyHolds(net()), ["1"]),
    "inner_DataParallel": (lambda: Holder(nn.DataParallel(net())), ["inner.1"]),
    "inner_torch.compile": (lambda: Holder(torch.compile(net())), ["inner.1"]),
    "compiled_forward": (lambda: CompiledForward(net()), ["inner.1"]),
    "compiled_function": (lambda: CompiledFunction(net()), ["inner.1", "relu"]),
    "any_arguments": (lambda: AnyArguments(net()), ["inner.1"]),
    "more_arguments": (lambda: MoreArguments(net()), ["inner.1"]),
    "decorated": (lambda: Decorated(net()), ["inner.1"]),
    "traced_by_fx": (lambda: torch.fx.symbolic_trace(net()), ["1"]),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_convert(name):
    build, sites = WRAPPERS[name]
    model, x = build().eval(), torch.randn(3, 5)
    network = tp.capture(model, x)
    assert [site.name for site in network.sites] == sites
    with torch.compiler.set_stance("force_eager"):
        own = model.module if isinstance(model, OnlyHolds) else model
        torch.testing.assert_close(network(x), own(x))


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_script_is_refused_and_the_remedy_works():
    x, script = torch.randn(3, 5), torch.jit.trace(net(), torch.randn(3, 5))
    with pytest.raises(tp.DataError, match="got TorchScript"):
        tp.capture(script, x)
    model = net()
    model.load_state_dict(script.state_dict())
    torch.testing.assert_close(tp.capture(model, x)(x), script(x))


INF = float("inf")
UNREAD = {
    "float64": torch.zeros(1, dtype=torch.float64),
    "float16": torch.zeros(3, dtype=torch.float16),
    "bfloat16": torch.zeros(3, dtype=torch.bfloat16),
    "complex": torch.zeros(3, dtype=torch.complex64),
    "mask": torch.full((3, 3), -INF).triu(1),
    "best_loss": torch.tensor(INF),
    "nan": torch.tensor(float("nan")),
    "elsewhere": torch.zeros(3, device="meta"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_the_graph_does_not_read_is_not_looked_at(name):
    model, x = net(), torch.randn(3, 5)
    model.register_buffer("unread", UNREAD[name])
    if UNREAD[name].is_floating_point():
        model.register_parameter("parameter", nn.Parameter(UNREAD[name].clone()))
    torch.testing.assert_close(tp.capture(model, x)(x), model(x))


class Reads(Holder):
    """Adds a function of a buffer to the input."""

    def __init__(self, buffer, function):
        super().__init__(net())
        self.register_buffer("buffer", buffer)
        self.function = function

    def forward(self, x):
        return self.inner(x + self.function(self.buffer))


@pytest.mark.parametrize(
    ("buffer", "function"),
    [
        (torch.tensor([INF, 0, 0, 1, 1]), lambda b: (b == INF).float()),
        (torch.tensor([-INF, 0, 0, 1, 1]), lambda b: b.softmax(0)),
        (torch.ones(5, dtype=torch.float16), lambda b: b.float()),
        (torch.ones(5, dtype=torch.float64), lambda b: b.float()),
        (torch.tensor([-INF, 0, 0, 1, 1]), torch.exp),
    ],
)
def test_a_buffer_whose_use_is_finite(buffer, function):
    model, x = Reads(buffer, function), torch.randn(3, 5)
    torch.testing.assert_close(tp.capture(model, x)(x), model(x))


@pytest.mark.parametrize(
    ("buffer", "function", "match"),
    [
        (torch.tensor([INF, 0, 0, 1, 1]), torch.clone, "'buffer' holds NaN or inf"),
        (torch.tensor([INF, 0, 0, 1, 1]), lambda b: b * 2, "'buffer' holds NaN or inf"),
        (torch.zeros(5), lambda b: 1 / b, r"computed from \['buffer'\] holds NaN or inf"),
    ],
)
def test_a_buffer_whose_use_is_not_finite(buffer, function, match):
    with pytest.raises(tp.DataError, match=match):
        tp.capture(Reads(buffer, function), torch.randn(3, 5))


def test_infinite_batchnorm_statistics():
    model = net().append(nn.BatchNorm1d(2)).eval()
    model[3].running_var[0] = INF
    with pytest.raises(tp.DataError, match=r"'3\.running_var' holds NaN or infinite"):
        tp.capture(model, torch.randn(3, 5))


def _generator():
    yield 1


UNCOPIED = {
    "lock": (lambda: Holder(net(), threading.Lock()), "attribute"),
    "event": (lambda: Holder(net(), threading.Event()), "attribute"),
    "inner_lock": (lambda: nn.Sequential(Holder(net(), [1, threading.RLock()])), r"0.attribute\[1"),
    "generator": (lambda: Holder(net(), _generator()), "attribute"),
    "file": (lambda: Holder(net(), {"log": Path(__file__).open()}), r"attribute\['log'"),
}


@pytest.mark.parametrize("name", UNCOPIED)
def test_the_attribute_that_cannot_be_copied_is_named(name):
    build, path = UNCOPIED[name]
    model, x = build(), torch.randn(3, 5)
    holder = model if isinstance(model, Holder) else model[0]
    with pytest.raises(tp.DataError, match=f"its attribute '{path}"):
        tp.capture(model, x)
    if isinstance(holder.attribute, dict):
        holder.attribute["log"].close()
    holder.attribute = None
    torch.testing.assert_close(tp.capture(model, x)(x), model(x))


def test_a_class_that_refuses_to_be_copied():
    class Single(Holder):
        def __deepcopy__(self, memo):
            raise ValueError("only one of these")

    with pytest.raises(tp.DataError, match="fails .ValueError: only one of these"):
        tp.capture(Single(net()), torch.randn(3, 5))


def _after_a_step(model):
    model(torch.randn(2, 5)).sum().backward()
    return model


def _keeps_its_output():
    model = Holder(net(), [])
    model.register_forward_hook(lambda module, args, output: module.attribute.append(output))
    return _after_a_step(model)


COPIED = {
    "weight_norm": lambda: _after_a_step(nn.Sequential(weight_norm(nn.Linear(5, 6)), nn.ReLU())),
    "spectral_norm": lambda: _after_a_step(
        nn.Sequential(spectral_norm(nn.Linear(5, 6)), nn.ReLU())
    ),
    "parametrized": lambda: _after_a_step(
        nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 6)), nn.ReLU())
    ),
    "kept_output": _keeps_its_output,
    "python_module": lambda: Holder(net(), torch),
}


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("name", COPIED)
def test_models_that_can_be_copied(name):
    model, x = COPIED[name]().eval(), torch.randn(3, 5)
    torch.testing.assert_close(tp.capture(model, x)(x), model(x))


@dataclasses.dataclass
class Output:
    logits: Any
    features: Any = None


class Pair(NamedTuple):
    logits: Any
    features: Any


OUTPUTS = {
    "dataclass": (lambda y, h: Output(y, h), lambda out: (out.logits, out.features)),
    "dataclass_with_none": (lambda y, h: Output(y), lambda out: (out.logits,)),
    "named_tuple": (lambda y, h: Pair(y, h), lambda out: (out.logits, out.features)),
    "tuple_with_none": (lambda y, h: (y, None), lambda out: out[:1]),
    "dict_with_none": (lambda y, h: {"y": y, "aux": None}, lambda out: (out["y"],)),
    "ordered_dict": (lambda y, h: OrderedDict(b=y, a=h), lambda out: (out["b"], out["a"])),
    "nested": (lambda y, h: [Pair(y, [None, h]), ()], lambda out: (out[0][0], out[0].features[1])),
    "twice": (lambda y, h: (y, y), tuple),
}


class Outputs(nn.Module):
    def __init__(self, arrange):
        super().__init__()
        self.net, self.arrange = net(), arrange

    def forward(self, x):
        return self.arrange(self.net(x), self.net[:2](x))


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_keep_their_structure(name):
    arrange, opened = OUTPUTS[name]
    model, x = Outputs(arrange), torch.randn(3, 5)
    snn = tp.convert(model, [x])
    for got, expected in zip(opened(snn.network(x)), opened(model(x)), strict=True):
        torch.testing.assert_close(got, expected)
    assert len(opened(tp.simulate(snn, x, 2).output)) == len(opened(model(x)))


@pytest.mark.parametrize(
    ("arrange", "what"),
    [
        (lambda y, h: (y, 3), r"3 \(int\)"),
        (lambda y, h: {"y": y, "name": "a"}, r"'a' \(str\)"),
        (lambda y, h: (y, y.shape[0]), "the batch size"),
        (lambda y, h: (y, torch.ones(2)), "the constant"),
        (lambda y, h: (y, torch.distributions.Normal(0, 1)), "got Normal"),
        (lambda y, h: {y.shape[1:]: y}, "keys of a dict"),
    ],
)
def test_an_output_that_is_no_tensor_is_refused_by_name(arrange, what):
    with pytest.raises(tp.UnsupportedError, match=f"{what}.*Return nothing but tensors"):
        tp.capture(Outputs(arrange), torch.randn(3, 5))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.net = nn.Embedding(10, 5), net()

    def forward(self, x):
        return self.net(self.embedding(x)).mean(1)


def test_token_ids_and_the_remedy():
    ids, model = torch.randint(0, 10, (3, 4)), Tokens()
    with pytest.raises(tp.DataError, match="behind its embedding, and give it the embedded tokens"):
        tp.capture(model, ids)
    tp.capture(model.net, model.embedding(ids))


def test_bytes_are_no_tokens():
    with pytest.raises(tp.DataError, match=r"got torch\.uint8. Convert and normalize the data"):
        tp.capture(net(), torch.zeros(3, 5, dtype=torch.uint8))
