"""The model and the example input as capture takes them: checked, unwrapped and copied."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from transpike.errors import DataError
from transpike.graph.batches import ONE_INPUT
from transpike.graph.limits import check_dense
from transpike.graph.network import leaves

_FLOATS = (torch.float32, torch.float64)
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def prepared(model: nn.Module, example_input: Tensor) -> tuple[nn.Module, Tensor]:
    """Return a copy of the model in evaluation mode, and an example of at least two samples.

    A wrapper such as DataParallel, AveragedModel or the module that torch.compile returns is taken
    off, so the names of sites and weights are those of the module inside.

    Raises:
        DataError: the model or the example is of the wrong kind, or the model cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise DataError(f"model: needed a torch.nn.Module, got {type(model).__name__}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise DataError(
            "model: needed a torch.nn.Module with its code, got TorchScript. Build the module that "
            "was scripted or traced, and load the weights of this one with load_state_dict."
        )
    if not isinstance(example_input, Tensor):
        raise DataError(_wrong_example(example_input))
    check_dense("example_input", example_input, "(B, ...)")
    if example_input.ndim < 2 or 0 in example_input.shape:
        raise DataError(
            "example_input: needed shape (B, ...) with at least one sample, got "
            f"{tuple(example_input.shape)}."
        )
    if not example_input.is_floating_point():
        embeds = any(isinstance(module, nn.Embedding) for module in model.modules())
        remedy = (
            "Capture the part of the model behind its embedding, and give it the embedded tokens."
            if embeds
            else "Convert and normalize the data as in training."
        )
        raise DataError(
            f"example_input: needed floating-point values, got {example_input.dtype}. {remedy}"
        )
    if example_input.dtype not in _FLOATS:
        raise DataError(
            f"example_input: needed float32 or float64, got {example_input.dtype}. Capture "
            "model.float() with x.float()."
        )
    if not bool(torch.isfinite(example_input).all()):
        raise DataError("example_input holds NaN or infinite values; clean the data first.")
    for name, tensor in _named_weights(model):
        if nn.parameter.is_lazy(tensor):
            raise DataError(f"weights: '{name}' is not initialized; run the model once first.")
    eager = _copied(_unwrapped(model)).eval()
    for module in list(eager.modules()):
        for name, child in list(module.named_children()):
            if _unwrapped(child) is not child:
                setattr(module, name, _unwrapped(child))
    if len(example_input) < 2:
        example_input = torch.cat([example_input, example_input])
    return eager, example_input.detach().clone()


def does_not_run(model: nn.Module, example: Tensor, failure: Exception) -> DataError:
    """Say why the model does not run on the example, after its forward() has failed.

    Args:
        model: the model.
        example: the example input, (B, ...).
        failure: the error of its forward().
    """
    if re.search("type|device", str(failure)):
        for name, tensor in _named_weights(model):
            if tensor.is_floating_point() and tensor.dtype not in _FLOATS:
                return DataError(
                    f"dtype: needed weights in float32 or float64, and '{name}' is "
                    f"{tensor.dtype}. Convert the model with model.float(), and give it float32 "
                    "inputs."
                )
            if tensor.is_floating_point() and tensor.dtype != example.dtype:
                return DataError(
                    f"dtype: '{name}' is {tensor.dtype} but the input is {example.dtype}. "
                    f"Convert the input with x.to({tensor.dtype})."
                )
            if tensor.device != example.device:
                return DataError(
                    f"device: '{name}' is on {tensor.device} but the input is on "
                    f"{example.device}. Move the input with x.to('{tensor.device}')."
                )
    missing = isinstance(failure, TypeError) and "missing" in str(failure)
    return DataError(
        f"the model does not accept the example input of shape {tuple(example.shape)}: "
        f"{first_line(failure)}{f'. {ONE_INPUT}' if missing else ''}"
    )


def first_line(error: Exception) -> str:
    """Return the type of an error and the first line of its text."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"


def user_line(error: BaseException) -> str:
    """Return the innermost line of user code in a traceback, such as 'name.py:12 in forward'."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place = written_line(code.co_filename, trace.tb_lineno, code.co_name) or place
        trace = trace.tb_next
    return place


def written_line(path: str, line: int | str, function: str) -> str:
    """Write a line of code as 'name.py:12 in forward'. Empty for a file that is not the user's."""
    path = path.replace("\\", "/")
    if any(part in path for part in ("/torch/", "/transpike/", "<")):
        return ""
    return f"{path.rsplit('/', 1)[-1]}:{line} in {function}"


def _wrong_example(example_input: Any) -> str:
    """Why this is no example, and what to give in its place."""
    needed = f"example_input: needed a tensor, got {type(example_input).__name__}."
    if isinstance(example_input, Mapping) and example_input:
        keys = [str(key) for key in example_input]
        return (
            f"{needed} Give the tensor of one key, such as example_input[{keys[0]!r}], and wrap "
            "the model in a module that takes this tensor."
        )
    return f"{needed} {ONE_INPUT}"


def _named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside of wrappers that compute nothing themselves."""
    while not (model._forward_hooks or model._forward_pre_hooks):
        compiled = getattr(model, "_orig_mod", None)  # The module that torch.compile was given.
        inner = getattr(model, "module", None)
        if isinstance(compiled, nn.Module):
            model = compiled
        elif isinstance(inner, nn.Module) and (
            isinstance(model, _PARALLEL) or type(model).forward is nn.Module.forward
        ):
            model = inner
        else:
            break
    return model


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy that shares nothing with the model.

    Raises:
        DataError: an attribute cannot be copied. The error names it.
    """
    memo = _prepared_copies(model)
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception as error:  # An attribute of any type may raise any error.
        own = {id(module): module for module in model.modules()}
        for path, module in model.named_modules():
            for name, value in vars(module).items():
                found = _uncopied(value, f"{path}.{name}" if path else name, memo | own)
                if found:
                    raise DataError(
                        f"model: needed a model that can be copied, but its attribute '{found}' "
                        f"cannot ({first_line(error)}). Set the attribute to None before capture, "
                        "and make the object where it is used."
                    ) from error
        raise DataError(
            f"model: needed a model that can be copied, but copy.deepcopy(model) fails "
            f"({first_line(error)}). Build the model again and load its weights into it."
        ) from error


def _prepared_copies(model: nn.Module) -> dict[int, Any]:
    """Copies of what copy.deepcopy refuses although it can be copied, by identity.

    Some modules keep a tensor with its gradient function from the last forward(), such as weights
    or features. Some keep a reference to a Python module, which is never copied.
    """
    copies: dict[int, Any] = {}
    for module in model.modules():
        for value in leaves(list(vars(module).values())):
            if isinstance(value, Tensor) and not value.is_leaf:
                copies[id(value)] = value.detach().clone()
            elif isinstance(value, ModuleType):
                copies[id(value)] = value
    return copies


def _uncopied(value: Any, path: str, memo: dict[int, Any]) -> str:
    """Return the path of the innermost value that cannot be copied; empty if all can."""
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:  # An attribute of any type may raise any error.
        parts: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, Mapping) else ()
        if isinstance(value, list | tuple):
            parts = enumerate(value)
        inner = (_uncopied(part, f"{path}[{key!r}]", memo) for key, part in parts)
        return next(filter(None, inner), path)
    return ""


__all__ = ["does_not_run", "first_line", "prepared", "user_line", "written_line"]
