"""Find the sizes of input that a captured network takes, by comparison with the model.

The graph is recorded at one size. First it is followed at other sizes as it is; where it does not
fit, the model is exported once more with free sizes, which gives the arguments that change with
them. Either result counts only if the network equals the model at two further sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from transpike.errors import DataError, UnsupportedError
from transpike.graph.network import Network, Node, Value, Weight, concrete, leaves, map_leaves
from transpike.graph.ops import packet
from transpike.graph.sizes import Size, Sizes, axis_names

# Differences between two sizes that are tried, smallest first.
_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 48, 56, 64)
# A step holds only if this many of it can be added, or the size fits by chance.
_REPEATS = (1, 2, 3, 7)
_LARGE = 64  # pixels from which on the network is compared at a smaller size, not at a larger one

_ANY_FAILURE = ("refused", "differs")

_Arguments = dict[str, tuple[tuple[Any, ...], dict[str, Any]]]
Compare = Callable[[Tensor, Tensor], str]
"""The difference of two outputs in words; empty where they are equal up to rounding."""
Trace = Callable[[], Sequence[Node]]
"""The nodes of the model exported with free sizes, with a `Size` for each number of theirs."""


def with_sizes(
    network: Network, eager: nn.Module, example: Tensor, compare: Compare, trace: Trace
) -> Network:
    """The network, with the sizes of input that it takes.

    Args:
        network: as captured, equal to the model at its own size.
        eager: the model.
        example: the input it was captured with, (B, C, ...).
        compare: tells how outputs differ.
        trace: called at most once, where arguments have to change with the size.
    """
    if len(network.input_shape) < 2:
        return network
    search = _Search(network, eager, example, compare)
    found = search.sizes(Sizes(), larger_if=("refused",))
    if search.model_takes_more(found):
        windows = _whole_windows(network)
        if windows:
            found = max(found, search.best(windows), key=_freedom)
        if search.model_takes_more(found):
            found = max(found, search.traced(trace, windows), key=_freedom)
    return replace(network, sizes=found)


def _freedom(sizes: Sizes) -> float:
    """How many sizes there are, up to a common factor; 0 for one size."""
    return sum(1 / step for step in sizes.steps if step)


class _OtherGraphError(Exception):
    """The graph with free sizes does not match the recorded one."""


class _Search:
    """Tries sizes on the network and on the model."""

    def __init__(
        self, network: Network, eager: nn.Module, example: Tensor, compare: Compare
    ) -> None:
        self.network, self.eager, self.example, self.compare = network, eager, example, compare
        self.own = network.input_shape[1:]

    def best(self, arguments: _Arguments, larger_if: Collection[str] = ()) -> Sizes:
        """The sizes with these arguments: of every axis by itself, or else of all together."""
        start = Sizes(arguments=arguments)
        found = self.sizes(start, larger_if=larger_if)
        if found.vary:
            return found
        return self.sizes(replace(start, together=True), larger_if=larger_if)

    def traced(self, trace: Trace, windows: _Arguments) -> Sizes:
        """The sizes with the arguments of an export with free sizes; none where it fails."""
        try:
            arguments = windows | _arguments(self.network, trace())
        except (UnsupportedError, _OtherGraphError):
            return Sizes()
        return self.best(arguments, larger_if=_ANY_FAILURE)

    def sizes(self, start: Sizes, *, larger_if: Collection[str] = ()) -> Sizes:
        """The sizes that the network takes with these arguments, checked against the model.

        Args:
            start: the arguments, and whether all axes change by the same number.
            larger_if: try larger steps where the model "refused" a size, or the network "differs"
                from it. A model may look at the size itself, and need larger multiples than its
                operations.
        """
        network = replace(self.network, sizes=start)
        axes = range(len(self.own))
        steps, reason = [], ""
        for group in [tuple(axes)] if start.together else [(axis,) for axis in axes]:
            step, why = self.step_of(network, group)
            steps += [step] * len(group)
            reason = reason or why
        while any(steps) and max(steps) <= max(_STEPS):
            found = replace(start, steps=tuple(steps), reason=reason)
            kind, detail = self.difference(replace(network, sizes=found))
            if not kind:
                return found
            reason = detail
            if kind not in larger_if:
                break
            steps = [2 * step for step in steps]
        return replace(start, steps=(0,) * len(self.own), reason=reason)

    def step_of(self, network: Network, axes: Sequence[int]) -> tuple[int, str]:
        """The smallest step along these axes that the graph can be followed for, and what needs it.

        0 where no step can.
        """
        reason = ""
        for step in _STEPS:
            why = self.failure(network, axes, step)
            if not why:
                return step, reason
            reason = reason or why
        return 0, reason

    def failure(self, network: Network, axes: Sequence[int], step: int) -> str:
        """Which operation cannot take the size plus multiples of a step; empty where all can."""
        for repeat in _REPEATS:
            size = list(self.own)
            for axis in axes:
                size[axis] += repeat * step
            try:
                network.followed(tuple(size))
            except DataError as error:
                return f"{str(error).partition(' cannot take this size')[0]} needs it"
        return ""

    def difference(self, network: Network) -> tuple[str, str]:
        """Whether the model "refused" one of two other sizes or the network "differs", and how.

        Empty where both agree.
        """
        near = self.moved(network, [1] * len(self.own))
        for size in (near, self.far(network)):
            x = self.random_input(size)
            expected, why = self.model_output(x)
            if expected is None:
                return "refused", why
            got = pytree.tree_leaves(network.at(size)(x))
            pairs = list(zip(got, expected, strict=False))
            details = [self.compare(*pair) for pair in pairs if isinstance(pair[0], Tensor)]
            if len(got) != len(expected) or any(details):
                detail = next(filter(None, details), "another number of outputs")
                where = f"at {_written(size)} the graph differs from the model"
                return "differs", f"{where}: {detail}"
        return "", ""

    def moved(self, network: Network, counts: Sequence[int]) -> tuple[int, ...]:
        """The size plus so many steps along each axis.

        Axes that are free of each other get clearly different sizes.
        """
        sizes, result = network.sizes, []
        for axis, (own, step, count) in enumerate(zip(self.own, sizes.steps, counts, strict=True)):
            spread = own // 4 // step + 1 if step and not sizes.together else 0
            result.append(own + (count + axis * spread) * step)
        return tuple(result)

    def far(self, network: Network) -> tuple[int, ...]:
        """A size about half as large, or half as large again where that is small."""
        steps = network.sizes.steps
        halves = [
            own // 2 // step if step else 0 for own, step in zip(self.own, steps, strict=True)
        ]
        if network.sizes.together:
            halves = [min(halves)] * len(halves)
        if min(self.own) >= _LARGE:
            smaller = self.moved(network, [-half for half in halves])
            try:
                network.at(smaller)
            except DataError:
                pass
            else:
                return smaller
        return self.moved(network, [half + 3 for half in halves])

    def model_takes_more(self, found: Sizes) -> bool:
        """Whether the model runs at a size that the network does not take so far."""
        tried = [tuple(2 * own for own in self.own)] if not found.vary else []
        for axis, step in enumerate(found.steps):
            if step == 1:
                continue
            other = self.own[axis] + 1 if step else 2 * self.own[axis]
            tried.append((*self.own[:axis], other, *self.own[axis + 1 :]))
        return any(self.model_output(self.random_input(size))[0] is not None for size in tried)

    def random_input(self, size: Sequence[int]) -> Tensor:
        """One sample with the mean and spread of the example."""
        generator = torch.Generator(device="cpu").manual_seed(0)
        shape = (1, self.example.shape[1], *size)
        noise = torch.randn(shape, generator=generator, dtype=self.example.dtype)
        spread = self.example.std().clamp(min=0.1)
        return noise.to(self.example.device) * spread + self.example.mean()

    def model_output(self, x: Tensor) -> tuple[list[Any] | None, str]:
        """What the model makes of x, or None and why it does not take it."""
        try:
            with torch.no_grad():
                return list(pytree.tree_leaves(self.eager(x.clone()))), ""
        except Exception as error:  # forward() is the user's and may raise anything
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            names = ", ".join(axis_names(len(self.own)))
            return None, f"the model itself refuses another {names}: {first}"


def _whole_windows(network: Network) -> _Arguments:
    """Arguments of the pools whose window is as large as their input, with a window that stays so.

    torch.export takes the window of a pool as a plain number, also where forward() computes it
    from the shape of a tensor.
    """
    found: _Arguments = {}
    for node in network.nodes:
        if not packet(node.op).startswith(("avg_pool", "max_pool")):
            continue
        shape = network.by_name[node.reads[0]].shape if node.reads[0] in network.by_name else None
        shape = shape or (-1, *network.input_shape)
        window = node.args[1]
        if isinstance(window, tuple) and window == shape[2:] and len(shape) == len(window) + 2:
            sides = tuple(Size(("extent", node.reads[0], axis)) for axis in range(2, len(shape)))
            rest = (sides if argument == window else argument for argument in node.args[2:])
            found[node.name] = ((node.args[0], sides, *rest), dict(node.kwargs))
    return found


def _arguments(network: Network, nodes: Sequence[Node]) -> _Arguments:
    """The arguments that follow from the size, for the nodes that have any.

    Raises:
        _OtherGraphError: the nodes are not those of the network.
    """
    own = network.input_shape[1:]
    if len(nodes) != len(network.nodes):
        raise _OtherGraphError("the graph has other operations at other sizes")
    names: dict[str, str] = {}
    found: _Arguments = {}
    for traced, node in zip(nodes, network.nodes, strict=True):
        names[traced.name] = node.name
        sized = any(isinstance(leaf, Size) for leaf in leaves((traced.args, traced.kwargs)))
        args, kwargs = map_leaves(_renamer(names, traced, node), (traced.args, dict(traced.kwargs)))
        here = concrete((args, kwargs), own, {})
        if traced.op != node.op or traced.kind != node.kind or here != _plain(node):
            raise _OtherGraphError(f"{node.op} at '{node.place}' is another one at other sizes")
        if sized:
            found[node.name] = (args, kwargs)
    return found


def _plain(node: Node) -> Any:
    return map_leaves(lambda leaf: leaf, (node.args, dict(node.kwargs)))


def _renamer(names: dict[str, str], traced: Node, node: Node) -> Callable[[Any], Any]:
    def renamed(leaf: Any) -> Any:
        if isinstance(leaf, Value):
            return Value(names.get(leaf.name, leaf.name))
        if isinstance(leaf, Weight) and leaf.name.startswith(f"{traced.name}:"):
            return Weight(node.name + leaf.name.removeprefix(traced.name))
        return leaf

    return renamed


def _written(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


__all__ = ["with_sizes"]
