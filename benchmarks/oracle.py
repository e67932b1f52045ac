"""A slow and simple NumPy model, in float64, of everything that the library computes.

It shares no code with the library. Every rule is written as loops that follow the definitions.
All values are in activation units. T is the number of timesteps, B the size of the batch, and C
the number of channels.
"""

import itertools
import math

import numpy as np


def neuron(
    currents,
    delta,
    max_count,
    signed=False,
    initial_membrane=0.5,
    upper_bound=None,
    telescoped=False,
):
    """Return counts and membranes (T, ...) of a population; delta broadcasts to currents[0]."""
    currents = np.asarray(currents, dtype=np.float64)
    counts = np.zeros(currents.shape)
    membranes = np.zeros(currents.shape)
    deltas = np.broadcast_to(np.asarray(delta, dtype=np.float64), currents.shape[1:])
    for place in np.ndindex(*currents.shape[1:]):
        d = float(deltas[place])
        one = telescoped_neuron if telescoped else scalar_neuron
        n, v = one(
            [float(c) for c in currents[(slice(None), *place)]],
            d,
            max_count,
            signed,
            initial_membrane,
            upper_bound,
        )
        counts[(slice(None), *place)] = n
        membranes[(slice(None), *place)] = v
    return counts, membranes


def scalar_neuron(currents, delta, max_count, signed, initial_membrane, upper_bound):
    """Add the current of one neuron, count its spikes and subtract them, at every timestep."""
    v = initial_membrane * delta
    total = 0
    counts, membranes = [], []
    for t, current in enumerate(currents, start=1):
        v += current
        n = math.floor(v / delta)
        n = min(n, max_count)
        if signed:
            n = max(n, -max_count)
        else:
            n = max(n, 0)
        if upper_bound is not None:
            n = min(n, math.floor(upper_bound * t / delta + initial_membrane) - total)
        if signed:
            n = max(n, -total)
        v -= n * delta
        total += n
        counts.append(n)
        membranes.append(v)
    return counts, membranes


def telescoped_neuron(currents, delta, max_count, signed, initial_membrane, upper_bound):
    """Compute the reference neuron, which sends Q_t(cumulative input) minus its earlier counts."""
    del signed
    cumulative = initial_membrane * delta
    total = 0
    counts, membranes = [], []
    for t, current in enumerate(currents, start=1):
        cumulative += current
        limit = max_count * t
        if upper_bound is not None:
            limit = min(limit, math.floor(upper_bound * t / delta + initial_membrane))
        q = min(max(math.floor(cumulative / delta), 0), limit)
        counts.append(q - total)
        total = q
        membranes.append(cumulative - total * delta)
    return counts, membranes


def group_neuron(currents, theta, size, initial_membrane=0.5):
    """Count how many of the thresholds k * theta / size, k = 1..size, the membrane reaches."""
    delta = theta / size
    v = initial_membrane * delta
    counts = []
    for current in currents:
        v += current
        n = sum(1 for k in range(1, size + 1) if v >= k * theta / size)
        v -= n * delta
        counts.append(n)
    return counts


def cascade_neuron(currents, top, bits, initial_membrane=0.5):
    """Try the thresholds top / 2^i for i = 0..bits-1 in turn; count in units of the smallest."""
    smallest = top / 2 ** (bits - 1)
    v = initial_membrane * smallest
    counts = []
    for current in currents:
        v += current
        n = 0
        for i in range(bits):
            if v >= top / 2**i:
                v -= top / 2**i
                n += 2 ** (bits - 1 - i)
        counts.append(n)
    return counts


def quantized(z, delta, max_count, timesteps, initial_membrane=0.5, upper_bound=None):
    """Return delta/T * clamp(floor(T z / delta + v0), 0, K T), limited by a bound if given."""
    z = np.asarray(z, dtype=np.float64)
    level = np.floor(timesteps * z / delta + initial_membrane)
    limit = np.full_like(level, max_count * timesteps)
    if upper_bound is not None:
        bound = np.floor(timesteps * upper_bound / np.asarray(delta) + initial_membrane)
        limit = np.minimum(limit, bound)
    return delta / timesteps * np.minimum(np.maximum(level, 0), limit)


def conv(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Convolve x (B, C, *space) with weight (O, C/groups, *kernel) by loops."""
    x = np.asarray(x, dtype=np.float64)
    weight = np.asarray(weight, dtype=np.float64)
    rank = x.ndim - 2
    stride, padding, dilation = (_many(v, rank) for v in (stride, padding, dilation))
    x = np.pad(x, [(0, 0), (0, 0)] + [(p, p) for p in padding])
    kernel = weight.shape[2:]
    size = [
        (x.shape[2 + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(rank)
    ]
    out = np.zeros((x.shape[0], weight.shape[0], *size))
    per_group_in, per_group_out = weight.shape[1], weight.shape[0] // groups
    for o in range(weight.shape[0]):
        first = (o // per_group_out) * per_group_in
        for place in np.ndindex(*size):
            for tap in np.ndindex(*kernel):
                at = tuple(place[i] * stride[i] + tap[i] * dilation[i] for i in range(rank))
                patch = x[(slice(None), slice(first, first + per_group_in), *at)]
                out[(slice(None), o, *place)] += patch @ weight[(o, slice(None), *tap)]
    if bias is not None:
        out += np.asarray(bias, dtype=np.float64).reshape(1, -1, *[1] * rank)
    return out


def linear(x, weight, bias=None):
    """Return x (..., N) times the transpose of weight (O, N), plus the bias."""
    out = np.asarray(x, dtype=np.float64) @ np.asarray(weight, dtype=np.float64).T
    return out if bias is None else out + np.asarray(bias, dtype=np.float64)


def max_pool(x, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    """Pool x (B, C, *space) by explicit windows; padding counts as minus infinity."""
    x = np.asarray(x, dtype=np.float64)
    rank = x.ndim - 2
    kernel, padding, dilation = (_many(v, rank) for v in (kernel, padding, dilation))
    stride = kernel if stride is None else _many(stride, rank)
    size = [
        _pooled_size(x.shape[2 + i], kernel[i], stride[i], padding[i], dilation[i], ceil_mode)
        for i in range(rank)
    ]
    out = np.full((*x.shape[:2], *size), -np.inf)
    for place in np.ndindex(*size):
        for tap in np.ndindex(*kernel):
            at = [place[i] * stride[i] - padding[i] + tap[i] * dilation[i] for i in range(rank)]
            if all(0 <= at[i] < x.shape[2 + i] for i in range(rank)):
                here = (slice(None), slice(None), *place)
                there = (slice(None), slice(None), *at)
                out[here] = np.maximum(out[here], x[there])
    return out


def _pooled_size(size, kernel, stride, padding, dilation, ceil_mode):
    """Return the output length; the last window must start inside the input or its left padding."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    out = math.ceil(span / stride) + 1
    if (out - 1) * stride >= size + padding:
        out -= 1
    return out


def conv_transpose(
    x, weight, bias=None, stride=1, padding=0, output_padding=0, dilation=1, groups=1
):
    """Scatter x (B, C, *space) with weight (C, O/groups, *kernel) by loops."""
    x = np.asarray(x, dtype=np.float64)
    weight = np.asarray(weight, dtype=np.float64)
    rank = x.ndim - 2
    stride, padding, dilation, output_padding = (
        _many(v, rank) for v in (stride, padding, dilation, output_padding)
    )
    kernel, per_out = weight.shape[2:], weight.shape[1]
    size = [
        (x.shape[2 + i] - 1) * stride[i] - 2 * padding[i]
        + dilation[i] * (kernel[i] - 1) + output_padding[i] + 1
        for i in range(rank)
    ]  # fmt: skip
    out = np.zeros((x.shape[0], per_out * groups, *size))
    per_in = x.shape[1] // groups
    for place in np.ndindex(*x.shape[2:]):
        for tap in np.ndindex(*kernel):
            at = [place[i] * stride[i] - padding[i] + tap[i] * dilation[i] for i in range(rank)]
            if not all(0 <= at[i] < size[i] for i in range(rank)):
                continue
            for group in range(groups):
                some = slice(group * per_in, (group + 1) * per_in)
                to = slice(group * per_out, (group + 1) * per_out)
                sent = x[(slice(None), some, *place)] @ weight[(some, slice(None), *tap)]
                out[(slice(None), to, *at)] += sent
    if bias is not None:
        out += np.asarray(bias, dtype=np.float64).reshape(1, -1, *[1] * rank)
    return out


def pad(x, widths, mode="constant", value=0.0):
    """Pad x (B, C, *space) by (before, after) for each axis of space."""
    x = np.asarray(x, dtype=np.float64)
    for axis, (before, after) in enumerate(widths, start=2):
        size = x.shape[axis]
        at = np.arange(-before, size + after)
        inside = (at >= 0) & (at < size)
        if mode == "reflect":
            at = np.abs(at)
            at = np.where(at >= size, 2 * (size - 1) - at, at)
        elif mode == "circular":
            at = at % size
        else:
            at = np.clip(at, 0, size - 1)
        x = np.take(x, at, axis=axis)
        if mode == "constant":
            x = np.where(inside.reshape([-1] + [1] * (x.ndim - 1 - axis)), x, value)
    return x


def avg_pool(x, kernel, stride=None, padding=0, count_include_pad=True):
    """Return the averages over windows; padding holds zeros, which count or do not."""
    x = np.asarray(x, dtype=np.float64)
    rank = x.ndim - 2
    kernel, padding = _many(kernel, rank), _many(padding, rank)
    stride = kernel if stride is None else _many(stride, rank)
    size = [(x.shape[2 + i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(rank)]
    out = np.zeros((*x.shape[:2], *size))
    for place in np.ndindex(*size):
        inside = 0
        taps = list(itertools.product(*[range(k) for k in kernel]))
        for tap in taps:
            at = tuple(place[i] * stride[i] - padding[i] + tap[i] for i in range(rank))
            if all(0 <= at[i] < x.shape[2 + i] for i in range(rank)):
                inside += 1
                out[(slice(None), slice(None), *place)] += x[(slice(None), slice(None), *at)]
        out[(slice(None), slice(None), *place)] /= len(taps) if count_include_pad else inside
    return out


def adaptive_pool(x, size, kind):
    """Reduce x (B, C, *space) to a size; window i goes from floor(i n/m) to ceil((i+1) n/m)."""
    x = np.asarray(x, dtype=np.float64)
    rank = x.ndim - 2
    size = _many(size, rank)
    out = np.zeros((*x.shape[:2], *size))
    for place in np.ndindex(*size):
        window = tuple(
            slice(
                place[i] * x.shape[2 + i] // size[i],
                -(-(place[i] + 1) * x.shape[2 + i] // size[i]),
            )
            for i in range(rank)
        )
        some = x[(slice(None), slice(None), *window)].reshape(*x.shape[:2], -1)
        there = (slice(None), slice(None), *place)
        out[there] = some.max(axis=2) if kind == "max" else some.mean(axis=2)
    return out


def resize(x, size, mode, corners=False):
    """Interpolate x (B, C, *space) to a size, one axis after the other."""
    x = np.asarray(x, dtype=np.float64)
    for axis, new in enumerate(_many(size, x.ndim - 2), start=2):
        table = np.array([_taps(i, x.shape[axis], new, mode, corners) for i in range(new)])
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ table.T, -1, axis)
    return x


def _taps(i, old, new, mode, corners):
    """Return the weights of all old positions for new position i."""
    weights = np.zeros(old)
    if mode == "nearest":
        weights[i * old // new] = 1
        return weights
    if corners:
        at = i * (old - 1) / (new - 1) if new > 1 else 0.0
    else:
        at = (i + 0.5) * old / new - 0.5
    if mode == "bicubic":
        low = math.floor(at)
        for tap in range(low - 1, low + 3):
            weights[min(max(tap, 0), old - 1)] += _cubic(abs(at - tap))
        return weights
    at = max(at, 0.0)
    low = min(math.floor(at), old - 1)
    weights[low] += 1 - (at - low)
    weights[min(low + 1, old - 1)] += at - low
    return weights


def _cubic(distance, a=-0.75):
    """Return the kernel of Keys (1981) with the constant that PyTorch uses."""
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    if distance < 2:
        return a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return 0.0


def percentile(values, percent):
    """Return the exact percentile by sorting, with linear interpolation between neighbors."""
    ordered = sorted(float(v) for v in np.asarray(values).ravel())
    place = percent / 100 * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def wilson(successes, n, z=1.959963984540054):
    """Return the Wilson score interval by its closed form."""
    p = successes / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return center - half, center + half


def _many(value, rank):
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank
