"""The neuron update of `scan` as one Triton kernel for CUDA.

This module is imported only if a population is on a CUDA device, because Triton comes with the CUDA
packages of PyTorch. Every operation is that of `transpike.spiking.neuron.fire` in the same order:
divisions are rounded correctly, and no multiplication is fused with an addition.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

# Neurons per program; each thread has four of them.
_BLOCK = 512


def run(
    *,
    current: Tensor,
    other: Tensor | None,
    offset: Tensor | None,
    step: Tensor,
    bound: Tensor | None,
    start: Tensor,
    membrane: Tensor,
    total: Tensor | None,
    out: Tensor,
    membranes: Tensor | None,
    first: int,
    max_count: int,
    levels: int,
    hysteresis: float,
    unit: int,
    shift: float,
    kind: int,
    binary: bool,
    limited: bool,
) -> Tensor:
    """Run a population through a chunk. The arguments are fields of `scan.Chunk` and `Constants`.

    Args:
        current: (L, B, N), or (1, B, N) if it is constant in time.
        other: a second current in one of these shapes, or None.
        offset: (N,) or None.
        step: (N,).
        bound: (N,) or None.
        start: (N,).
        membrane: (B, N), updated.
        total: (B, N), updated; needed with `limited` and for all kinds except unsigned.
        out: (L, B, N), filled; may be the memory of `current`.
        membranes: (L, B, N), filled, or None.
        first: timesteps done before.
        max_count: K.
        levels: number of levels in differential coding, or 0.
        hysteresis: steps below 0 before a count is taken back.
        unit: step of these timesteps in units of the state, a power of two.
        shift: (unit - 1) v0, so that a larger step is rounded around v0, too.
        kind: 0 unsigned, 1 signed, 2 telescoped.
        binary: whether a count is sent as the bits set in it.
        limited: whether the running total has a limit. That of a telescoped neuron always has one.

    Returns:
        Spikes of every sample and timestep, (L, B), float64.
    """
    length, batch, neurons = out.shape
    counts = torch.zeros(length, batch, dtype=torch.int64, device=out.device)
    stride = batch * neurons
    grid = (batch, triton.cdiv(neurons, _BLOCK))  # only the first may exceed 65,535
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        _kernel[grid](
            current,
            other,
            offset,
            step,
            bound,
            start,
            membrane,
            total,
            out,
            membranes,
            counts,
            length,
            batch,
            neurons,
            stride if len(current) > 1 else 0,
            stride if other is not None and len(other) > 1 else 0,
            first,
            max_count,
            levels,
            hysteresis=float(hysteresis),
            unit=unit,
            shift=float(shift),
            kind=kind,
            binary=binary,
            limited=limited,
            block=_BLOCK,
            num_warps=4,
            enable_fp_fusion=False,
        )
    return counts.double()


@triton.jit
def _minimum(a, b):  # type: ignore[no-untyped-def]
    """The smaller value; NaN if one of them is NaN, as in PyTorch."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _maximum(a, b):  # type: ignore[no-untyped-def]
    """The larger value; NaN if one of them is NaN, as in PyTorch."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


# Without this list, Triton would treat an integer argument of 1 as a constant without methods.
@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=[
        "length",
        "batch",
        "neurons",
        "current_stride",
        "other_stride",
        "first",
        "max_count",
        "levels",
    ]
)
def _kernel(  # type: ignore[no-untyped-def]
    current_at,
    other_at,
    offset_at,
    step_at,
    bound_at,
    start_at,
    membrane_at,
    total_at,
    out_at,
    membranes_at,
    counts_at,
    length,
    batch,
    neurons,
    current_stride,
    other_stride,
    first,
    max_count,
    levels,
    hysteresis: tl.constexpr,
    unit: tl.constexpr,
    shift: tl.constexpr,
    kind: tl.constexpr,
    binary: tl.constexpr,
    limited: tl.constexpr,
    block: tl.constexpr,
):
    """Run all timesteps of `block` neurons of one sample."""
    sample = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    here = columns < neurons
    at = sample * neurons + columns
    volume = batch.to(tl.int64) * neurons
    v = tl.load(membrane_at + at, mask=here, other=0.0)
    step = tl.load(step_at + columns, mask=here, other=1.0)
    dtype = v.dtype
    most_per_step = max_count.to(dtype)
    if offset_at is not None:
        offset = tl.load(offset_at + columns, mask=here, other=0.0)
    if kind != 0 or limited:
        total = tl.load(total_at + at, mask=here, other=0.0)
    if limited:
        start = tl.load(start_at + columns, mask=here, other=0.0)
        if bound_at is not None:
            bound = tl.load(bound_at + columns, mask=here, other=0.0)
    for index in range(length):
        t = (first + index + 1).to(dtype)
        drive = tl.load(current_at + index * current_stride.to(tl.int64) + at, mask=here, other=0.0)
        drive = drive.to(dtype)
        if other_at is not None:
            second = tl.load(
                other_at + index * other_stride.to(tl.int64) + at, mask=here, other=0.0
            )
            drive = drive + second.to(dtype)
        if dtype == tl.float32:
            drive = tl.div_rn(drive, step)
        else:
            drive = drive / step
        if offset_at is not None:
            drive = drive + offset
        v = v + drive
        steps = v
        if unit > 1:
            steps = (v + shift) / unit
        count = tl.floor(steps)
        if hysteresis > 0:
            negative = _minimum(tl.floor(steps + hysteresis), 0.0)
            count = tl.floor(_maximum(steps, 0.0)) + negative
        if limited or kind == 2:
            if levels > 0:
                limit = levels.to(dtype)
                scale = (t - t) + 1.0
            else:
                limit = most_per_step * t
                scale = t
            most = tl.zeros([block], dtype=dtype) + limit
            if limited and bound_at is not None:
                reach = tl.floor(bound * scale + start)
                most = _minimum(_maximum(reach, 0.0), most)
        if kind == 2:
            reached = _minimum(_maximum(count, 0.0), most)
            count = reached - total
            total = reached
        else:
            count = _minimum(count, most_per_step)
            if kind == 1:
                count = _maximum(_maximum(count, -most_per_step), -tl.floor(total / unit))
            else:
                count = _maximum(count, 0.0)
            if limited:
                count = _minimum(count, tl.floor((most - total) / unit))
            v = v - count * unit
            if kind != 0 or limited:
                total = total + count * unit
        to = out_at + index * volume + at
        tl.store(to, (count * unit * step).to(out_at.dtype.element_ty), mask=here)
        if membranes_at is not None:
            tl.store(membranes_at + index * volume + at, v, mask=here)
        sent = tl.where(here, tl.abs(count), 0.0).to(tl.int32)
        if binary:
            sent = sent - ((sent >> 1) & 0x55555555)
            sent = (sent & 0x33333333) + ((sent >> 2) & 0x33333333)
            sent = (sent + (sent >> 4)) & 0x0F0F0F0F
            sent = sent + (sent >> 8)
            sent = (sent + (sent >> 16)) & 0x3F
        summed = tl.sum(sent.to(tl.int64), axis=0)
        tl.atomic_add(counts_at + index * batch.to(tl.int64) + sample, summed, sem="relaxed")
    tl.store(membrane_at + at, v, mask=here)
    if kind != 0 or limited:
        tl.store(total_at + at, total, mask=here)


__all__ = ["run"]
