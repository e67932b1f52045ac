"""Accuracy against timesteps in one run, beside the analog network and its quantised ceiling."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from transpike.calibrate import pairs_of
from transpike.convert import SpikingNetwork, quantized_ann
from transpike.errors import ArgumentError, DataError
from transpike.network import Network, Value, check_timesteps
from transpike.ops import packet
from transpike.reference import Simulation
from transpike.simulate import simulate

Interval = tuple[float, float]
Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


class Metric(Protocol):
    """What `evaluate` needs of a metric; every torchmetrics metric has it."""

    def update(self, preds: Tensor, target: Tensor) -> Any:
        """Take in one batch."""

    def compute(self) -> Any:
        """The value over everything taken in."""


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of a spiking network at every timestep, with everything needed to judge it.

    Attributes:
        timesteps: T, every pass counted.
        n: labelled predictions: samples, or pixels for dense prediction.
        samples: samples.
        accuracy: fraction correct after t = 1..T.
        accuracy_interval: Wilson 95 % intervals (for dense prediction the pixels of one image
            are not independent, so they are too narrow there).
        ann_accuracy: of the analog network on the same samples.
        ann_accuracy_interval: Wilson 95 % interval.
        loss: ann_accuracy - accuracy, a fraction.
        loss_interval: paired 95 % interval of the loss.
        agreement: fraction of predictions equal to the analog network's.
        spikes_per_neuron: sum of |count| up to t over all sites / neurons, mean over samples.
        ceiling: accuracy of the quantised analog network with K t levels, by t.
        max_count: K, largest count per timestep over all sites.
        neurons: neurons per sample.
        precision: arithmetic used.
        metric: value of the given metric after t = 1..T, or None.
        ann_metric: the same for the analog network.
        settings: how the network was made.
    """

    timesteps: int
    n: int
    samples: int
    accuracy: list[float]
    accuracy_interval: list[Interval]
    ann_accuracy: float
    ann_accuracy_interval: Interval
    loss: list[float]
    loss_interval: list[Interval]
    agreement: list[float]
    spikes_per_neuron: list[float]
    ceiling: dict[str, float]
    max_count: int
    neurons: int
    precision: str
    metric: list[Any] | None = None
    ann_metric: Any = None
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        """A table at t = 1, 2, 4, ... and T."""
        low, high = self.ann_accuracy_interval
        lines = [
            f"ANN {100 * self.ann_accuracy:.2f} % [{100 * low:.2f}, {100 * high:.2f}], "
            f"n={self.n}, K={self.max_count}, {self.neurons} neurons, {self.precision}",
            f"{'t':>4} {'SNN %':>7} {'95 %':>16} {'loss':>7} {'agree %':>8} {'ceiling %':>10} "
            f"{'spikes/neuron':>14}",
        ]
        for t in curve_points(self.timesteps):
            low, high = self.accuracy_interval[t - 1]
            lines.append(
                f"{t:>4} {100 * self.accuracy[t - 1]:7.2f} "
                f"{f'[{100 * low:.2f}, {100 * high:.2f}]':>16} {100 * self.loss[t - 1]:7.2f} "
                f"{100 * self.agreement[t - 1]:8.2f} {100 * self.ceiling[str(t)]:10.2f} "
                f"{self.spikes_per_neuron[t - 1]:14.3f}"
            )
        return "\n".join(lines)


def curve_points(timesteps: int) -> list[int]:
    """1, 2, 4, ... up to T, and T itself."""
    points = [2**power for power in range(timesteps.bit_length())]
    return [*points, timesteps] if timesteps not in points else points


def evaluate(
    snn: SpikingNetwork,
    batches: Iterable[Any],
    timesteps: int,
    *,
    metric: Metric | None = None,
    precision: str = "exact",
    progress: Callable[[int, int | None], None] | None = None,
) -> Evaluation:
    """Evaluate a whole accuracy-against-timesteps curve in one run.

    Predictions are the largest output along axis 1; where there is one channel, output > 0
    (logits), or > 0.5 behind a sigmoid. Targets are class indices of the remaining shape.

    Args:
        snn: the converted network; its output must be one tensor.
        batches: (input, target) pairs, such as a DataLoader of test data.
        timesteps: T.
        metric: a torchmetrics-style metric; copies of it get (output, target) at every t, and
            the analog network's.
        precision: see `simulate`.
        progress: called with (samples done, samples in all or None).

    Returns:
        The curve with intervals, agreement, spikes and ceiling.

    Raises:
        DataError: no data, no targets, or shapes that do not fit.
    """
    check_timesteps(timesteps)
    tally = _Tally(snn, timesteps, metric)
    total = _sample_count(batches)
    for x, target in pairs_of(batches):
        if target is None:
            raise DataError("evaluate: needed (input, target) pairs, got inputs without targets.")
        if not isinstance(target, Tensor):
            raise DataError(f"evaluate: needed targets as a tensor, got {type(target).__name__}.")
        count = len(target) if target.ndim else 0
        if count != len(x):
            raise DataError(f"evaluate: got {len(x)} inputs but {count} targets.")
        tally.add(x.to(snn.network.device), target.to(snn.network.device), precision)
        if progress is not None:
            progress(tally.samples, total)
    return tally.result()


def _sample_count(batches: Iterable[Any]) -> int | None:
    if isinstance(batches, list | tuple):
        return sum(len(pair[0]) for pair in batches if isinstance(pair, tuple | list))
    dataset = getattr(batches, "dataset", None)
    return len(dataset) if dataset is not None and hasattr(dataset, "__len__") else None


class _Tally:
    """Running sums over batches."""

    def __init__(self, snn: SpikingNetwork, timesteps: int, metric: Metric | None) -> None:
        self.snn, self.timesteps = snn, timesteps
        self.cut = _cut(snn.network)
        self.samples = self.n = 0
        self.correct = torch.zeros(timesteps, dtype=torch.int64)
        self.agree = torch.zeros(timesteps, dtype=torch.int64)
        # Pairs where only the ANN is right, and where only the SNN is.
        self.lost = torch.zeros(timesteps, dtype=torch.int64)
        self.won = torch.zeros(timesteps, dtype=torch.int64)
        self.ann_correct = 0
        self.spikes = torch.zeros(timesteps, dtype=torch.float64)
        self.ceiling = dict.fromkeys(curve_points(timesteps), 0)
        self.precision = ""
        self.metrics = None
        if metric is not None:
            self.metrics = [copy.deepcopy(metric) for _ in range(timesteps + 1)]

    def add(self, x: Tensor, target: Tensor, precision: str) -> None:
        run = simulate(self.snn, x, self.timesteps, precision=precision)
        self.precision = run.precision
        with torch.inference_mode():
            ann = _single(self.snn.network(x))
        ann_guess = _prediction(ann, self.cut)
        if ann.shape[1] == 1 and target.shape == ann.shape:
            target = target.squeeze(1)  # masks with a channel axis
        if ann_guess.shape != target.shape:
            raise DataError(
                f"target shape: needed {tuple(ann_guess.shape)} for an output of shape "
                f"{tuple(ann.shape)}, got {tuple(target.shape)}."
            )
        classes = max(2, ann.shape[1])
        if not bool(((target >= 0) & (target < classes) & (target == target.floor())).all()):
            raise DataError(
                f"target: needed class indices 0..{classes - 1}, got values from "
                f"{target.min().item()} to {target.max().item()}."
            )
        self._count(run, ann_guess, target)
        for t in self.ceiling:
            guess = _prediction(_single(quantized_ann(self.snn, x, t)), self.cut)
            self.ceiling[t] += int((guess == target).sum())
        if self.metrics is not None:
            for metric, output in zip(self.metrics, [*_single(run.output), ann], strict=True):
                metric.update(output.squeeze(1) if ann.shape[1] == 1 else output, target)

    def _count(self, run: Simulation, ann_guess: Tensor, target: Tensor) -> None:
        self.samples += len(target)
        self.n += target.numel()
        ann_right = ann_guess == target
        self.ann_correct += int(ann_right.sum())
        for index, output in enumerate(_single(run.output)):
            guess = _prediction(output, self.cut)
            right = guess == target
            self.correct[index] += int(right.sum())
            self.agree[index] += int((guess == ann_guess).sum())
            self.lost[index] += int((ann_right & ~right).sum())
            self.won[index] += int((right & ~ann_right).sum())
        self.spikes += run.spikes_per_neuron.cpu() * len(target)

    def result(self) -> Evaluation:
        if self.n == 0:
            raise DataError("evaluate: needed at least one batch of data, got none.")
        n = self.n
        accuracy = [int(c) / n for c in self.correct]
        ann = self.ann_correct / n
        *values, ann_value = [_plain(m.compute()) for m in self.metrics] if self.metrics else [None]
        return Evaluation(
            timesteps=self.timesteps,
            n=n,
            samples=self.samples,
            accuracy=accuracy,
            accuracy_interval=[wilson_interval(int(c), n) for c in self.correct],
            ann_accuracy=ann,
            ann_accuracy_interval=wilson_interval(self.ann_correct, n),
            loss=[ann - value for value in accuracy],
            loss_interval=[
                paired_interval(int(lost), int(won), n)
                for lost, won in zip(self.lost, self.won, strict=True)
            ],
            agreement=[int(a) / n for a in self.agree],
            spikes_per_neuron=[float(s) / self.samples for s in self.spikes],
            ceiling={str(t): right / n for t, right in self.ceiling.items()},
            max_count=self.snn.max_count,
            neurons=self.snn.network.neurons,
            precision=self.precision,
            metric=values if self.metrics else None,
            ann_metric=ann_value,
            settings=dict(self.snn.settings),
        )


def _single(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    raise ArgumentError(
        f"evaluate: needed a model with one output tensor, got {type(output).__name__}. Use "
        "transpike.simulate and your own metric, or wrap the model to return one tensor."
    )


def _cut(network: Network) -> float:
    """Where a one-channel output becomes positive: 0 for logits, 0.5 behind a sigmoid."""
    name = network.outputs[0].name if isinstance(network.outputs[0], Value) else ""
    node = network.by_name.get(name)
    while node is not None and packet(node.op) in ("reshape", "getitem", "squeeze", "unsqueeze"):
        node = network.by_name.get(node.reads[0])
    return 0.5 if node is not None and packet(node.op) == "sigmoid" else 0.0


def _prediction(output: Tensor, cut: float) -> Tensor:
    if output.ndim < 2:
        raise ArgumentError(
            f"evaluate: needed an output (B, C, ...), got shape {tuple(output.shape)}."
        )
    if output.shape[1] == 1:
        return (output > cut).squeeze(1).long()
    return output.argmax(dim=1)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def wilson_interval(successes: int, n: int) -> Interval:
    """Wilson's 95 % score interval of a fraction.

    Source: Wilson 1927.
    """
    p = successes / n
    centre = p + Z95**2 / (2 * n)
    spread = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def paired_interval(lost: int, won: int, n: int) -> Interval:
    """95 % interval of a paired difference of two fractions, (lost - won) / n.

    Args:
        lost: pairs where only the first is right.
        won: pairs where only the second is right.
        n: all pairs.

    Source: Agresti & Min 2005: half a pair is added to each of the four cells, so that the interval
    does not vanish where the two never differ.
    """
    b, c, m = lost + 0.5, won + 0.5, n + 2
    difference = (b - c) / m
    spread = Z95 * math.sqrt((b + c) / m - difference**2) / math.sqrt(m)
    return difference - spread, difference + spread
