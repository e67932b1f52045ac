"""Write operations in terms of simpler ones before the graph is read.

What is left are products, sums, copies, maxima, and indexing with constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Operations for which PyTorch has a rule that keeps the batch first.
_BY_PYTORCH = frozenset(
    "addcdiv addcmul baddbmm column_stack diag_embed diff fliplr flipud inner kron mv new_full "
    "repeat_interleave rot90 sum_to_size tensordot tile true_divide type_as zero".split()
)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return the rules by operation."""
    known: Any = torch.export.default_decompositions()
    rules = {
        operation: rule
        for operation, rule in known.items()
        if getattr(operation, "_schema", None) is not None
        and operation._schema.name.removeprefix("aten::") in _BY_PYTORCH
    }
    aten = torch.ops.aten
    return rules | {
        aten.addmm.default: _addmm,
        aten.lerp.Scalar: _lerp,
        aten.lerp.Tensor: _lerp,
        aten.einsum.default: _einsum,
        aten.unfold.default: _unfold,
        aten.hstack.default: _hstack,
        aten.copy.default: _copy,
        aten.fill.Scalar: _full_like,
        aten.fill.Tensor: _copy,
        aten.full_like.default: _full_like,
        aten.empty_like.default: torch.zeros_like,
        aten.instance_norm.default: _instance_norm,
        aten.max.dim: _max_along,
        aten.min.dim: _min_along,
        aten.amin.default: _amin,
        aten.max.other: torch.maximum,
        aten.min.other: torch.minimum,
        aten.topk.default: _topk,
    }


def _addmm(added: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    product: Tensor = torch.mm(a, b)
    if alpha != 1:
        product = product * alpha
    if beta == 0:
        return product
    scaled: Tensor = added if beta == 1 else added * beta
    return product + scaled


def _lerp(start: Tensor, end: Tensor, weight: Any) -> Tensor:
    moved: Tensor = start + (end - start) * weight
    return moved


def _einsum(equation: str, operands: Sequence[Tensor], *, path: Any = None) -> Any:
    """Write a product of two tensors as a matrix product that keeps the first output axis first.

    All other cases are left as they are.
    """
    inputs, _, output = equation.replace(" ", "").partition("->")
    names = inputs.split(",")
    if len(names) != 2 or not output or "." in equation:
        return NotImplemented
    pairs = list(zip(names, operands, strict=True))
    if output[0] not in names[0]:
        pairs.reverse()
    (left, a), (right, b) = pairs
    repeated = any(len(set(axes)) != len(axes) for axes in (left, right, output))
    lonely = set(left) ^ set(right)
    if repeated or output[0] in right or lonely - set(output):
        return NotImplemented
    common = [axis for axis in output if axis in left and axis in right]
    summed = [axis for axis in left if axis in right and axis not in output]
    rows = [axis for axis in output if axis in left and axis not in right]
    columns = [axis for axis in output if axis in right and axis not in left]
    sizes = dict(zip(left + right, (*a.shape, *b.shape), strict=False))
    sizes |= dict(zip(right, b.shape, strict=True))
    a = a.permute([left.index(axis) for axis in (*rows, *common, *summed)])
    b = b.permute([right.index(axis) for axis in (*common, *summed, *columns)])
    outer = [a.shape[position] for position in range(len(rows) + len(common))]
    inner = _product(sizes[axis] for axis in summed)
    width = _product(sizes[axis] for axis in columns)
    a = a.reshape([*outer, 1, inner])
    b = b.reshape([*(sizes[axis] for axis in common), inner, width])
    product = torch.matmul(a, b).reshape([*outer, *(sizes[axis] for axis in columns)])
    order = [*rows, *common, *columns]
    return product.permute([order.index(axis) for axis in output])


def _product(sizes: Any) -> Any:
    total = 1
    for size in sizes:
        total = total * size
    return total


def _unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    axis = dimension % x.ndim
    windows = (x.shape[axis] - size) // step + 1
    starts = torch.arange(windows, device=x.device) * step
    taps = starts[:, None] + torch.arange(size, device=x.device)
    picked = torch.index_select(x, axis, taps.reshape(-1))
    shape = [*x.shape[:axis], windows, size, *x.shape[axis + 1 :]]
    return picked.reshape(shape).movedim(axis + 1, -1)


def _hstack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(tuple(tensors), min(1, tensors[0].ndim - 1))


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    return source.to(target.dtype).expand(target.shape)


def _full_like(like: Tensor, value: Any, **options: Any) -> Tensor:
    dtype = options.get("dtype") or like.dtype
    return torch.full(like.shape, value, dtype=dtype, device=options.get("device") or like.device)


def _instance_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, by_sample: bool, *rest: Any
) -> Any:
    if by_sample:
        return NotImplemented
    momentum, eps = rest[0], rest[1]
    norm = torch.ops.aten._native_batch_norm_legit_no_training.default
    return norm(x, weight, bias, mean, var, momentum, eps)[0]


def _max_along(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return torch.amax(x, dim, keepdim), torch.argmax(x, dim, keepdim)


def _min_along(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return _amin(x, dim, keepdim), torch.argmin(x, dim, keepdim)


def _amin(x: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    return -torch.amax(-x, dim, keepdim)


def _topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    if k != 1:
        return NotImplemented
    return (_max_along if largest else _min_along)(x, dim, True)


__all__ = ["decompositions"]
