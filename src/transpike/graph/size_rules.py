"""Find the sizes of the input that a captured network takes.

The graph is recorded at one size. The search looks for arguments that are right at other sizes too,
in three attempts:

1. The arguments stay as they are.
2. A pooling window that covers its whole input covers it at every size. A reshape that keeps the
   last axes keeps them at every size. A resize to the size of the input does so at every size.
3. The model is exported again with free sizes. This shows which arguments depend on the size.

An attempt counts only if the network equals the model at two other sizes. If no attempt counts, the
network takes one size, and the reason is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from transpike.errors import DataError, UnsupportedError
from transpike.graph.network import Network, Node, Value, Weight, concrete, leaves, map_leaves
from transpike.graph.ops import packet
from transpike.graph.sizes import Size, Sizes, axis_names
from transpike.graph.structure import flat_values

# The differences between two sizes that are tried, in pixels.
_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 48, 56, 64)
# A step is right only if all these multiples of it can be added. One alone may fit by chance.
_REPEATS = (1, 2, 3, 7)
_LARGE = 64  # Pixels. From here on the second size is smaller than the own one, not larger.
_SQUARE = 2  # Axes. With more, the doubled size of all axes could fill the memory.

_ANY_FAILURE = ("refused", "differs")

_Arguments = dict[str, tuple[tuple[Any, ...], dict[str, Any]]]
Compare = Callable[[Tensor, Tensor], str]
"""Describes how two outputs differ. The text is empty if they are equal up to rounding."""
Trace = Callable[[], Sequence[Node]]
"""Exports the model with free sizes and returns its nodes, with a `Size` for each such number."""


def with_sizes(
    network: Network, eager: nn.Module, example: Tensor, compare: Compare, trace: Trace
) -> Network:
    """Return the network with the sizes of the input that it takes.

    Args:
        network: the captured network. It equals the model at its own size.
        eager: the model.
        example: the input that the network was captured with, (B, C, ...).
        compare: describes how two outputs differ.
        trace: exports the model again. It is called at most once, and only if the model takes
            sizes that the network does not take without it.
    """
    if len(network.input_shape) < 2:
        return network
    search = _Search(network, eager, example, compare)
    found = search.sizes(Sizes(), larger_if=("refused",))
    if search.model_takes_more(found):
        windows = _whole_windows(network)
        local = windows | _kept_extents(network)
        if local:
            found = max(found, search.best(local), key=_freedom)
        if search.model_takes_more(found):
            found = max(found, search.traced(trace, windows), key=_freedom)
    return replace(network, sizes=found)


def _freedom(sizes: Sizes) -> float:
    """Return a number that is larger if more sizes are allowed. It is 0 for one size."""
    return sum(1 / step for step in sizes.steps if step)


class _OtherGraphError(Exception):
    """The graph with free sizes does not match the recorded graph."""


class _Search:
    """Tries sizes on the network and on the model."""

    def __init__(
        self, network: Network, eager: nn.Module, example: Tensor, compare: Compare
    ) -> None:
        self.network, self.eager, self.example, self.compare = network, eager, example, compare
        self.own = network.input_shape[1:]

    def best(self, arguments: _Arguments, larger_if: Collection[str] = ()) -> Sizes:
        """Find the sizes with these arguments, for each axis alone or else for all together."""
        start = Sizes(arguments=arguments)
        found = self.sizes(start, larger_if=larger_if)
        if found.vary:
            return found
        return self.sizes(replace(start, together=True), larger_if=larger_if)

    def traced(self, trace: Trace, windows: _Arguments) -> Sizes:
        """Find the sizes with the arguments of an export with free sizes."""
        try:
            arguments = windows | _arguments(self.network, trace())
        except (UnsupportedError, _OtherGraphError):
            return Sizes()
        return self.best(arguments, larger_if=_ANY_FAILURE)

    def sizes(self, start: Sizes, *, larger_if: Collection[str] = ()) -> Sizes:
        """Find the sizes that the network takes with these arguments, and check the model.

        Args:
            start: the arguments, and whether all axes change by the same number.
            larger_if: the results of the check after which larger steps are tried: "refused" if
                the model refused a size, "differs" if the network differs from it. A model may
                need larger multiples than its operations if it looks at the size itself.
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
        """Return the smallest step along these axes that all operations can take.

        It is 0 if there is none. The text names the operation that needs this step.
        """
        reason = ""
        for step in _STEPS:
            why = self.failure(network, axes, step)
            if not why:
                return step, reason
            reason = reason or why
        return 0, reason

    def failure(self, network: Network, axes: Sequence[int], step: int) -> str:
        """Name the operation that cannot take a size some steps away. Empty if all can."""
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
        """Compare the network with the model at two other sizes.

        Returns:
            "refused" if the model refused a size, "differs" if the outputs differ, or "", and a
            description.
        """
        near = self.moved(network, [1] * len(self.own))
        for size in (near, self.far(network)):
            x = self.random_input(size)
            expected, why = self.model_output(x)
            if expected is None:
                return "refused", why
            got = flat_values(network.at(size)(x))
            pairs = list(zip(got, expected, strict=False))
            details = [self.compare(*pair) for pair in pairs if isinstance(pair[0], Tensor)]
            if len(got) != len(expected) or any(details):
                detail = next(filter(None, details), "another number of outputs")
                where = f"at {_written(size)} the graph differs from the model"
                return "differs", f"{where}: {detail}"
        return "", ""

    def moved(self, network: Network, counts: Sequence[int]) -> tuple[int, ...]:
        """Return the own size plus so many steps along each axis.

        If the axes are independent, they get clearly different sizes.
        """
        sizes, result = network.sizes, []
        for axis, (own, step, count) in enumerate(zip(self.own, sizes.steps, counts, strict=True)):
            spread = own // 4 // step + 1 if step and not sizes.together else 0
            result.append(own + (count + axis * spread) * step)
        return tuple(result)

    def far(self, network: Network) -> tuple[int, ...]:
        """Return a size about half as large, or a larger one if the own size is small."""
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
        tried = []
        if not found.vary and len(self.own) <= _SQUARE:
            tried.append(tuple(2 * own for own in self.own))
        for axis, step in enumerate(found.steps):
            if step == 1:
                continue
            other = self.own[axis] + 1 if step else 2 * self.own[axis]
            tried.append((*self.own[:axis], other, *self.own[axis + 1 :]))
        return any(self.model_output(self.random_input(size))[0] is not None for size in tried)

    def random_input(self, size: Sequence[int]) -> Tensor:
        """Return one random sample with the mean and the spread of the example."""
        generator = torch.Generator(device="cpu").manual_seed(0)
        shape = (1, self.example.shape[1], *size)
        noise = torch.randn(shape, generator=generator, dtype=self.example.dtype)
        spread = self.example.std().clamp(min=0.1)
        return noise.to(self.example.device) * spread + self.example.mean()

    def model_output(self, x: Tensor) -> tuple[list[Any] | None, str]:
        """Return the outputs of the model, or None and the reason if it refuses x."""
        try:
            with torch.no_grad():
                return flat_values(self.eager(x.clone())), ""
        except Exception as error:  # The user's forward() may raise any error.
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            names = ", ".join(axis_names(len(self.own)))
            return None, f"the model itself refuses another {names}: {first}"


def _whole_windows(network: Network) -> _Arguments:
    """Return the arguments of the pools whose window covers their whole input at every size.

    torch.export records the window of a pool as a plain number, even if forward() computes it from
    the shape of a tensor.
    """
    found: _Arguments = {}
    for node in network.nodes:
        if not packet(node.op).startswith(("avg_pool", "max_pool")):
            continue
        shape, window = _source_shape(network, node), node.args[1]
        if isinstance(window, tuple) and window == shape[2:] and len(shape) == len(window) + 2:
            sides = tuple(Size(("extent", node.reads[0], axis)) for axis in range(2, len(shape)))
            rest = (sides if argument == window else argument for argument in node.args[2:])
            found[node.name] = ((node.args[0], sides, *rest), dict(node.kwargs))
    return found


def _kept_extents(network: Network) -> _Arguments:
    """Return the arguments of reshapes that keep the last axes, and of resizes to the input's size.

    Channel shuffles and segmentation networks have them. Without this rule, the model would have to
    be exported again.
    """
    own = network.input_shape[1:]
    found: _Arguments = {}
    for node in network.nodes:
        if len(node.args) < 2 or not isinstance(node.args[1], tuple):
            continue
        shape, target, kept = _source_shape(network, node), node.args[1], len(own)
        first = (node.args[0], target)
        if packet(node.op) == "reshape" and len(target) > kept < len(shape) - 1:
            if target[-kept:] == shape[-kept:]:
                axes = range(len(shape) - kept, len(shape))
                extents = [Size(("extent", node.reads[0], axis)) for axis in axes]
                first = (node.args[0], (*target[:-kept], *extents))
        elif packet(node.op).startswith("upsample") and target == own:
            first = (node.args[0], tuple(Size(("size", axis)) for axis in range(kept)))
        if first[1] is not target:
            found[node.name] = ((*first, *node.args[2:]), dict(node.kwargs))
    return found


def _source_shape(network: Network, node: Node) -> tuple[int, ...]:
    """Return the shape of the first value that a node reads."""
    source = network.by_name.get(node.reads[0]) if node.reads else None
    if source is not None and source.shape is not None:
        return source.shape
    return (-1, *network.input_shape)


def _arguments(network: Network, nodes: Sequence[Node]) -> _Arguments:
    """Return the arguments of all nodes with arguments that depend on the size.

    Raises:
        _OtherGraphError: the nodes do not match those of the network.
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
