"""Turn an exported program into normalized nodes.

Behind this module every operation has one form only, and no variants of ATen are left.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from transpike.errors import Refusal
from transpike.graph import ops
from transpike.graph.example import written_line
from transpike.graph.fold import batch_norm_affine
from transpike.graph.network import INPUT, Batch, Kind, Node, Value, Weight, leaves, map_leaves
from transpike.graph.sizes import Size
from transpike.graph.structure import Structure
from transpike.graph.symbols import Symbols

# Operations that do nothing in evaluation mode, and operations that never do anything.
_DROPOUT = frozenset(
    {"dropout", "native_dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
)
_IDENTITY = frozenset(
    {
        "alias",
        "detach",
        "contiguous",
        "clone",
        "lift_fresh_copy",
        "identity",
        "_assert_tensor_metadata",
    }
)
_LIKE = {
    "zeros_like": ops.ZEROS,
    "new_zeros": ops.ZEROS,
    "ones_like": ops.ONES,
    "new_ones": ops.ONES,
}
MODEL = "model"
"""The name of the user's model in the module that is exported."""
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_BATCH_NORM = frozenset({"batch_norm", "_native_batch_norm_legit_no_training"})


@dataclass
class Draft:
    """Nodes under construction, and the operations that were refused.

    Attributes:
        sources: for each constant that was computed from others, the names of these.
        lines: the lines of the user's code, for operations without a module path, by node name.
    """

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    outputs: tuple[Any, ...] = ()
    output_spec: Structure = field(default_factory=Structure)
    site_names: dict[str, str] = field(default_factory=dict)
    not_floating: set[str] = field(default_factory=set)
    refusals: list[Refusal] = field(default_factory=list)


def normalize(program: ExportedProgram, example: Sequence[int], structure: Structure) -> Draft:
    """Walk the exported graph once and normalize every node.

    Args:
        program: a module that takes one tensor and hands it to the user's model, its `MODEL`.
        example: shape of the input it was exported with, (B, ...).
        structure: the structure of the model's output. The module returns its values in a tuple.
    """
    draft = _Walk(program, example).draft
    draft.output_spec = structure
    return draft


class _Walk:
    """One pass over an exported graph; `bound` maps graph nodes to our arguments."""

    def __init__(self, program: ExportedProgram, example: Sequence[int]) -> None:
        self.draft = Draft()
        self.symbols = Symbols((), example)
        self.bound: dict[fx.Node, Any] = {}
        self.signals: set[str] = {INPUT}
        self.zeros: set[str] = set()
        self.dtype: torch.dtype | None = None
        self.line = ""  # of the operation that is looked at, if it has no module path
        self._bind_inputs(program)
        for node in program.graph.nodes:
            if node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._output(node, program)

    def _bind_inputs(self, program: ExportedProgram) -> None:
        state = {**program.state_dict, **program.constants}
        placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
            if spec.kind is InputKind.USER_INPUT:
                self.bound[node] = Value(INPUT)
                self.dtype = node.meta["val"].dtype
                self.symbols = Symbols(node.meta["val"].shape, self.symbols.example)
            else:
                assert spec.target is not None
                name = _own_path(spec.target)
                self.draft.tensors[name] = state[spec.target].detach()
                self.bound[node] = Weight(name)

    def _output(self, node: fx.Node, program: ExportedProgram) -> None:
        flat = []
        self.line = ""
        for arg, spec in zip(
            leaves(self._argument(node.args[0])), program.graph_signature.output_specs, strict=True
        ):
            if spec.kind is OutputKind.USER_OUTPUT:
                flat.append(arg)
                if not isinstance(arg, Value):
                    reason = f"forward() returns {_described(arg)}, and an output must be a signal."
                    self._refuse("output", "", reason, ops.RETURN_TENSORS)
            elif spec.kind is not OutputKind.USER_INPUT_MUTATION:  # x.relu_() on the input
                self._refuse(
                    "state update",
                    _own_path(str(spec.target)),
                    "forward() changes a buffer of the model.",
                    "Remove the update from forward().",
                )
        self.draft.outputs = tuple(flat)

    def _refuse(self, op: str, place: str, reason: str, remedy: str) -> None:
        self.draft.refusals.append(Refusal(op, place or self.line, reason, remedy))

    def _argument(self, arg: Any) -> Any:
        """Translate one argument of a graph node; folded constants become Weight."""
        if isinstance(arg, fx.Node):
            return self.bound[arg]
        if isinstance(arg, list | tuple):
            return tuple(self._argument(item) for item in arg)
        if isinstance(arg, dict):
            return {key: self._argument(item) for key, item in arg.items()}
        if isinstance(arg, torch.SymInt):
            return self.symbols.number(arg)
        return arg

    def _call(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        op = _op_name(node.target)
        if isinstance(value, torch.SymInt | int) and self.symbols.understands(value):
            self.bound[node] = self.symbols.number(value)
            return
        if value is None or isinstance(value, torch.SymBool):  # assertions and guards on sizes
            return
        args = self._argument(node.args)
        kwargs = {k: self._argument(v) for k, v in node.kwargs.items() if k not in _DROPPED}
        place = _place(node)
        self.line = self.draft.lines[node.name] = "" if place else _user_line(node)
        reads = [leaf.name for leaf in leaves((args, kwargs)) if isinstance(leaf, Value)]
        if any(name in self.signals for name in reads):
            self._signal(node, op, args, kwargs, place)
        elif reads or any(isinstance(leaf, Batch | Size) for leaf in leaves((args, kwargs))):
            kwargs |= {"device": None} if "device" in node.kwargs else {}
            if op not in ops.KNOWN | ops.CONSTANT:
                self._refuse(op, place, *ops.UNKNOWN)
            self._emit(node, op, args, kwargs, "constant", place)
        else:
            self._constant(node, args)

    def _constant(self, node: fx.Node, args: Any) -> None:
        """Compute once what depends on weights only."""

        def concrete(leaf: Any) -> Any:
            return self.draft.tensors[leaf.name] if isinstance(leaf, Weight) else leaf

        function: Any = node.target
        if function is operator.getitem and isinstance(args[0], list):
            self.bound[node] = args[0][args[1]]
            return
        kwargs = {key: concrete(self._argument(value)) for key, value in node.kwargs.items()}
        result = function(*map_leaves(concrete, args), **kwargs)
        self.symbols.learn(node.meta["val"], result)
        if isinstance(result, Tensor):
            self.bound[node] = self._computed(f"{node.name}:constant", result.detach(), args)
        elif isinstance(result, int | float | complex):
            self.bound[node] = result
        else:
            self.bound[node] = [
                self._computed(f"{node.name}:{i}", tensor, args) for i, tensor in enumerate(result)
            ]

    def _computed(self, name: str, tensor: Tensor, args: Any) -> Weight:
        """Keep a constant that was computed from others."""
        self.draft.tensors[name] = tensor
        self.draft.sources[name] = tuple(
            leaf.name for leaf in leaves(args) if isinstance(leaf, Weight)
        )
        return Weight(name)

    def _emit(
        self,
        node: fx.Node,
        op: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        kind: Kind,
        place: str,
    ) -> None:
        shape = self.symbols.shape(node.meta["val"])
        self.draft.nodes.append(Node(node.name, op, tuple(args), kwargs, kind, place, shape))
        self.bound[node] = Value(node.name)
        if kind != "constant":
            self.signals.add(node.name)
        elif op == ops.ZEROS:
            self.zeros.add(node.name)

    def _signal(
        self, node: fx.Node, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], place: str
    ) -> None:
        """Normalize an operation on at least one signal, or refuse it."""
        name = ops.packet(op)
        if name in _LIKE:
            self._filled_like(node, _LIKE[name], place)
        elif _is_pair_of(node, args):
            self.bound[node] = args[0][0]
        elif name in _IDENTITY | _DROPOUT:
            if name in _DROPOUT and _trains(node):
                self._refuse(op, place, *ops.DROPOUT)
            self.bound[node] = (args[0],) if isinstance(node.meta["val"], tuple) else args[0]
        elif name in _BATCH_NORM:
            self._batch_norm(node, name, args, place)
        elif op in ops.SITE and self._site(node, op, args, place):
            pass
        elif op in ops.CUMULATIVE:
            self._cumulative(node, op, args, kwargs, place)
        elif op in ops.LINEAR and self._linear(node, op, args, kwargs, place):
            pass
        elif ops.is_function(op) or op in ops.READOUT:
            self._function(node, op, args, kwargs, place)
        else:
            self._refuse(op, place, *ops.REFUSALS.get(name, ops.UNKNOWN))
            self._emit(node, op, args, kwargs, "linear", place)

    def _function(
        self, node: fx.Node, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], place: str
    ) -> None:
        """Emit a function of signals; `fuse` decides what becomes of it."""
        value = node.meta["val"]
        if isinstance(value, Tensor) and value.dtype in _HALF and self.dtype not in _HALF:
            self._refuse(op, place, *ops.DTYPE)
        if ops.packet(op) == "scaled_dot_product_attention" and _argument(node, "dropout_p"):
            self._refuse(op, place, *ops.DROPOUT)
        kwargs.pop("memory_format", None)
        self._emit(node, op, args, kwargs, "function", place)
        self.draft.site_names[node.name] = _site_name(node, place, ops.packet(op))
        if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
            self.draft.not_floating.add(node.name)

    def _filled_like(self, node: fx.Node, op: str, place: str) -> None:
        """zeros_like and ones_like depend on the shape of a signal only."""
        size = tuple(self._argument(size) for size in node.meta["val"].shape)
        kwargs = {"device": None, "dtype": node.meta["val"].dtype}
        self._emit(node, op, (size,), kwargs, "constant", place)

    def _linear(
        self, node: fx.Node, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], place: str
    ) -> bool:
        """Emit an operation if it is linear in its signals and keeps their type."""
        rule = ops.OPERATIONS[op].signals
        where = [
            any(isinstance(leaf, Value) and leaf.name in self.signals for leaf in leaves(arg))
            for arg in args
        ]
        if rule == "first":
            wrong = any(where[1:])
        else:
            wrong = rule == "one" and sum(where) > 1
        value = node.meta["val"]
        cast = isinstance(value, Tensor) and value.dtype != self.dtype
        if (wrong or cast) and ops.is_function(op):
            return False
        if wrong:
            self._refuse(op, place, *ops.SIGNAL_PRODUCT)
        elif cast:
            self._refuse(op, place, *ops.DTYPE)
        kwargs.pop("memory_format", None)
        if op in ops.VIEWS:
            op = ops.RESHAPE  # copies and channels-last strides are not kept
        self._emit(node, op, args, kwargs, "linear", place)
        return True

    def _batch_norm(self, node: fx.Node, name: str, args: tuple[Any, ...], place: str) -> None:
        """Both forms begin with input, weight, bias, mean and variance; epsilon comes later."""
        training = name == "batch_norm" and bool(args[5])
        if training or not all(isinstance(leaf, Weight) for leaf in args[3:5]):
            self._refuse(_op_name(node.target), place, *ops.REFUSALS["_native_batch_norm_legit"])
            self._emit(node, _op_name(node.target), args, {}, "linear", place)
            return
        eps = args[7] if name == "batch_norm" else args[6]
        gamma, beta, mean, var = (
            self.draft.tensors[leaf.name] if leaf is not None else None for leaf in args[1:5]
        )
        assert mean is not None and var is not None
        scale, shift = batch_norm_affine(gamma, beta, mean, var, eps)
        weights = (
            self._computed(f"{node.name}:scale", scale, args[1:5]),
            self._computed(f"{node.name}:shift", shift, args[1:5]),
        )
        value = node.meta["val"]
        shape = self.symbols.shape(value if isinstance(value, Tensor) else value[0])
        self.draft.nodes.append(
            Node(node.name, "affine", (args[0], *weights), {}, "linear", place, shape)
        )
        self.signals.add(node.name)
        self.bound[node] = Value(node.name)
        if not isinstance(value, Tensor):
            self.bound[node] = (Value(node.name),)

    def _site(self, node: fx.Node, op: str, args: tuple[Any, ...], place: str) -> bool:
        """Emit a site if the operation is a clamp to [0, c]; otherwise refuse it."""
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        named = {argument.name: argument.default_value for argument in schema}
        named |= dict(zip((argument.name for argument in schema), args, strict=False))
        named |= {key: self._argument(value) for key, value in node.kwargs.items()}
        bounds = _clamp_bounds(ops.packet(op), named)
        if ops.packet(op) == "maximum" and any(
            self._is_zero(named[key]) for key in ("self", "other")
        ):
            bounds = (0.0, None)
        if bounds is None or bounds[0] != 0 or (bounds[1] is not None and bounds[1] <= 0):
            return False
        source = next(
            leaf for leaf in args if isinstance(leaf, Value) and leaf.name in self.signals
        )
        upper = None if bounds[1] is None or math.isinf(bounds[1]) else float(bounds[1])
        self._emit(node, ops.RELU, (source,), {"upper_bound": upper}, "site", place)
        self.draft.site_names[node.name] = _site_name(node, place, ops.packet(op))
        return True

    def _is_zero(self, leaf: Any) -> bool:
        if isinstance(leaf, Weight):
            return not bool(self.draft.tensors[leaf.name].any())
        return isinstance(leaf, Value) and leaf.name in self.zeros

    def _cumulative(
        self, node: fx.Node, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], place: str
    ) -> None:
        if not ops.OPERATIONS[op].indices:
            self._emit(node, op, args, kwargs, "cumulative", place)
            return
        used = {user.args[1] for user in node.users if user.target is operator.getitem}
        if used - {0}:
            self._refuse(op, place, *ops.INDICES)
        shape = self.symbols.shape(node.meta["val"][0])
        self.draft.nodes.append(Node(node.name, op, args, kwargs, "cumulative", place, shape))
        self.signals.add(node.name)
        self.bound[node] = (Value(node.name),)


_HALF = (torch.float16, torch.bfloat16)
# Modules that compute one activation or one normalization. Its site has the name of the module.
_NAMED_BY_MODULE = ("activation", "normalization", "instancenorm", "batchnorm")
_DROPPED = frozenset({"device", "layout", "pin_memory", "non_blocking"})


def _argument(node: fx.Node, name: str) -> Any:
    """An argument by name, or its default."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    for position, argument in enumerate(schema):
        if argument.name == name:
            given = node.args[position] if len(node.args) > position else argument.default_value
            return node.kwargs.get(name, given)
    return None


def _trains(node: fx.Node) -> bool:
    """Whether a dropout is active, as its third argument says."""
    return bool(node.args[2]) if len(node.args) > 2 else bool(node.kwargs.get("train", True))


def _is_pair_of(node: fx.Node, args: tuple[Any, ...]) -> bool:
    """Whether a getitem reads an operation that was already reduced to its first result."""
    return node.target is operator.getitem and isinstance(args[0], tuple)


def _op_name(target: Any) -> str:
    if target is operator.getitem:
        return "getitem"
    return str(target)


def _own_path(path: str) -> str:
    """The path in the user's model of a path in the module that is exported, which holds it."""
    return path.removeprefix(f"{MODEL}.")


def _stack(node: fx.Node) -> list[tuple[str, str]]:
    """The modules whose forward() calls an operation, outermost first, as (path, class)."""
    entries = list(node.meta.get("nn_module_stack", {}).values())[1:]
    named = [(path, str(cls)) for path, cls in entries if not path.startswith("_empty")]
    return [("" if path == MODEL else _own_path(path), cls) for path, cls in named]


def _place(node: fx.Node) -> str:
    stack = _stack(node)
    return stack[-1][0] if stack else ""


def _user_line(node: fx.Node) -> str:
    """The innermost line of the user's code that calls an operation, as torch.export records it."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    lines = [written_line(*frame) for frame in frames]
    return next(filter(None, reversed(lines)), "")


def _described(argument: Any) -> str:
    """What an output is that is no signal."""
    if isinstance(argument, Batch):
        return "the batch size"
    if isinstance(argument, Weight):
        return f"the constant '{argument.name}'"
    return f"{argument!r} ({type(argument).__name__})"


def _site_name(node: fx.Node, place: str, packet: str) -> str:
    """Name a site by the path of its module, or of the module whose forward() calls it."""
    stack = _stack(node)
    module = stack[-1][1] if stack else ""
    if any(f"torch.nn.modules.{kind}" in module for kind in _NAMED_BY_MODULE):
        return place
    return f"{place}.{packet}" if place else packet


def _clamp_bounds(packet: str, named: dict[str, Any]) -> tuple[float | None, float | None] | None:
    """Bounds (lower, upper) of a clamp with constant bounds; None for anything else."""
    if packet == "relu":
        return 0.0, None
    if packet == "relu6":
        return 0.0, 6.0
    if packet == "hardtanh":
        return named["min_val"], named["max_val"]
    if packet in ("clamp", "clamp_min"):
        return named.get("min"), named.get("max")
    if packet == "threshold":
        return (0.0, None) if named["threshold"] == 0 == named["value"] else None
    return None
