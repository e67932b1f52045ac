"""Accuracy at every timestep in one run, beside the analog and the quantized network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from transpike.errors import ArgumentError, DataError
from transpike.graph.ambient import isolated
from transpike.graph.batches import Batches
from transpike.graph.outputs import cut_of, prediction
from transpike.measure.intervals import (
    ImageCounts,
    Interval,
    paired_interval,
    wilson_interval,
)
from transpike.measure.targets import as_indices, target_problem, without_channel
from transpike.simulation.early_stopping import EarlyStopping
from transpike.simulation.engine.engine import Engine
from transpike.simulation.engine.prepared import prepared
from transpike.simulation.engine.request import Outcome, Request
from transpike.simulation.engine.run import run
from transpike.simulation.record import OUTPUT_ONLY
from transpike.simulation.simulate import check_portion
from transpike.spiking.spiking_network import SpikingNetwork, quantized_ann

_TOGETHER = 16  # samples of a pass through the analog network on a CPU


class Metric(Protocol):
    """What `evaluate` needs from a metric; every torchmetrics metric has it."""

    def update(self, preds: Tensor, target: Tensor) -> Any:
        """Add one batch."""

    def compute(self) -> Any:
        """The value over all batches."""


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of a spiking network at every timestep, with everything needed to judge it.

    Attributes:
        timesteps: T, every pass counted.
        n: number of predictions: samples, or pixels for dense prediction.
        samples: number of samples.
        accuracy: fraction of correct predictions after t = 1..T.
        accuracy_interval: 95 % interval after t = 1..T. For one prediction per sample it is
            Wilson's. For dense prediction it is an interval over images, because the pixels of one
            image are not independent, see `image_interval`.
        ann_accuracy: accuracy of the analog network on the same samples.
        ann_accuracy_interval: its 95 % interval of the same kind.
        loss: ann_accuracy - accuracy after t = 1..T, a fraction.
        loss_interval: paired 95 % interval of the loss, over images for dense prediction.
        intervals_over: "samples" or "images": what the intervals take for independent.
        agreement: fraction of predictions equal to the analog network's after t = 1..T.
        spikes_per_neuron: sum of |count| up to t over all sites, divided by the number of neurons,
            mean over samples.
        quantized: accuracy of the quantized ANN with K t levels, by t: 1, 2, 4, ... and T, from the
            first output on.
        max_count: K, largest count per timestep over all sites.
        neurons: number of neurons per sample.
        precision: arithmetic used.
        metric: value of the given metric after t = 1..T, or None.
        ann_metric: value of that metric for the analog network.
        exact_agreement: if asked for, fraction of predictions after t = 1..T that are equal to
            those of precision "exact".
        decided_timesteps: with early stopping, the timestep at which a sample is decided, or t if
            that is earlier; mean over samples, for t = 1..T. Compare `accuracy` at t with it.
        computed_timesteps: with early stopping, timesteps computed per sample, mean over samples.
        interrupted: whether the run was stopped from the keyboard. Then everything holds for the
            first `samples` samples.
        first_output: first timestep at which every layer can have fired. Earlier outputs contain
            only the biases.
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
    quantized: dict[str, float]
    max_count: int
    neurons: int
    precision: str
    metric: list[Any] | None = None
    ann_metric: Any = None
    exact_agreement: list[float] | None = None
    decided_timesteps: list[float] | None = None
    computed_timesteps: float | None = None
    interrupted: bool = False
    first_output: int = 1
    intervals_over: str = "samples"
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        """A table at t = 1, 2, 4, ... and T, from the first output on."""
        low, high = self.ann_accuracy_interval
        lines = [
            f"ANN {100 * self.ann_accuracy:.2f} % [{100 * low:.2f}, {100 * high:.2f}], "
            f"n={self.n}, K={self.max_count}, {self.neurons} neurons, {self.precision}"
            + (", interrupted" if self.interrupted else ""),
            f"{'t':>4} {'SNN %':>7} {'95 %':>16} {'loss':>7} {'agree %':>8} {'quantized %':>12} "
            f"{'spikes/neuron':>14}",
        ]
        if self.first_output > 1:
            lines.append(f"no output before t={self.first_output}: not every layer has fired")
        for t in map(int, self.quantized):
            low, high = self.accuracy_interval[t - 1]
            lines.append(
                f"{t:>4} {100 * self.accuracy[t - 1]:7.2f} "
                f"{f'[{100 * low:.2f}, {100 * high:.2f}]':>16} {100 * self.loss[t - 1]:7.2f} "
                f"{100 * self.agreement[t - 1]:8.2f} {100 * self.quantized[str(t)]:12.2f} "
                f"{self.spikes_per_neuron[t - 1]:14.3f}"
            )
        if self.decided_timesteps is not None:
            lines.append(
                f"early stopping: {self.decided_timesteps[-1]:.2f} timesteps to the decision, "
                f"{self.computed_timesteps:.2f} computed, mean over samples"
            )
        if self.exact_agreement is not None:
            lines.append(
                f"predictions equal to precision 'exact': {100 * self.exact_agreement[-1]:.2f} % "
                f"at t={self.timesteps}, at least {100 * min(self.exact_agreement):.2f} %"
            )
        return "\n".join(lines)


def curve_points(timesteps: int, first: int = 1) -> list[int]:
    """List the timesteps of a table: 1, 2, 4, ... and T, without those before `first`.

    Args:
        timesteps: T.
        first: first timestep with an output.
    """
    points = [2**power for power in range(timesteps.bit_length()) if 2**power >= first]
    return [*points, timesteps] if timesteps not in points else points


@isolated()
def evaluate(
    snn: SpikingNetwork,
    batches: Iterable[Any],
    timesteps: int,
    *,
    metric: Metric | None = None,
    precision: str = "exact",
    compare_exact: bool = False,
    early_stopping: EarlyStopping | None = None,
    memory_budget: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Evaluation:
    """Evaluate a whole accuracy-against-timesteps curve in one run.

    The prediction is the largest output along axis 1. With one channel, it is whether the output is
    > 0 (logits) or, behind a sigmoid, > 0.5. Targets are class indices of the shape that remains,
    or boolean masks. Outputs are counted as they are computed, so the memory does not grow with T.
    If the run is interrupted from the keyboard, the result holds for the batches that were
    finished.

    Args:
        snn: the converted network; its output must be one tensor.
        batches: (input, target) pairs, such as a DataLoader of test data.
        timesteps: T.
        metric: a torchmetrics-style metric. Copies of it receive (output, target) at every t, and
            those of the analog network. A batch may arrive in several portions. Boolean targets
            arrive as int64.
        precision: see `simulate`.
        compare_exact: also run precision "exact" and report how many predictions agree.
        early_stopping: when to stop a sample; its last output is held until T.
        memory_budget: see `simulate`.
        progress: called with (timesteps x samples done, the same in all or None if unknown).

    Returns:
        Accuracy at every timestep with intervals, agreement, spikes and the quantized ANN.

    Raises:
        ArgumentError: an argument is out of range.
        DataError: no data, no targets, or shapes that do not fit.
        KeyboardInterrupt: interrupted before the first batch was finished.
    """
    snn.check_timesteps(timesteps)
    check_portion(None, memory_budget)
    data = Batches(batches)
    every = tuple(range(1, timesteps + 1))
    request = Request(
        timesteps, every, OUTPUT_ONLY, early_stopping=early_stopping, memory_budget=memory_budget
    )
    tally = _Tally(snn, request, metric, precision, compare_exact)
    tally.report_to(progress, data.samples)
    interrupted = False
    try:
        for x, target in data:
            tally.add(*_checked_pair(snn, x, target))
    except KeyboardInterrupt:
        if not tally.samples:
            raise
        interrupted = True
    return tally.result(interrupted)


def _checked_pair(snn: SpikingNetwork, x: Tensor, target: Any) -> tuple[Tensor, Tensor]:
    if target is None:
        raise DataError(
            "evaluate: needed (input, target) pairs, got inputs without targets. Give batches such "
            "as [(images, labels)], or use transpike.simulate, which needs no targets."
        )
    if not isinstance(target, Tensor):
        raise DataError(
            f"evaluate: needed targets as a tensor, got {type(target).__name__}. Convert them with "
            "torch.as_tensor."
        )
    count = len(target) if target.ndim else 0
    if count != len(x):
        raise DataError(
            f"evaluate: needed one target per input, got {len(x)} inputs but {count} targets. Give "
            "each batch with its own targets."
        )
    device = snn.network.device
    return _moved(x, device), _moved(target, device)


def _moved(x: Tensor, device: torch.device) -> Tensor:
    """Copy to a device, without waiting for it if that is a CUDA device."""
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


class _Tally:
    """Sums over batches; a batch that is interrupted is not counted."""

    def __init__(
        self,
        snn: SpikingNetwork,
        request: Request,
        metric: Metric | None,
        precision: str,
        compare_exact: bool,
    ) -> None:
        self.snn, self.timesteps = snn, request.timesteps
        self.request = replace(request, progress=self._report)
        self.progress: Callable[[int, int | None], None] | None = None
        self.expected: int | None = None
        self.engine = prepared(snn, precision)
        self.exact: Engine | None = None
        self.compare_exact = compare_exact
        self.precision = precision
        self.cut = cut_of(snn.network)
        self.samples = self.n = 0
        self.images = ImageCounts()
        self.sums: dict[str, Tensor] = {}
        self.quantized = dict.fromkeys(curve_points(self.timesteps, snn.first_output), 0)
        self.metrics = None
        if metric is not None:
            self.metrics = [copy.deepcopy(metric) for _ in range(self.timesteps + 1)]

    def report_to(
        self, progress: Callable[[int, int | None], None] | None, samples: int | None
    ) -> None:
        """Report progress to a function, with the number of samples in all if it is known."""
        self.progress, self.expected = progress, samples

    def _report(self, done: int, _: int) -> None:
        if self.progress is not None:
            in_all = None if self.expected is None else self.expected * self.timesteps
            self.progress(self.samples * self.timesteps + done, in_all)

    def add(self, x: Tensor, target: Tensor) -> None:
        if not self.samples:
            self._take_size_of(x)
        self.snn.network.check_input(x)
        ann = self._analog(x)
        ann_guess = prediction(ann, self.cut)
        target = as_indices(without_channel(target, ann))
        problem = target_problem(target, ann)
        if problem is not None:
            raise DataError(problem)
        quantized = {t: self._quantized_right(x, target, t) for t in self.quantized}
        metrics = copy.deepcopy(self.metrics)
        images = ImageCounts.of(ann_guess == target, self.timesteps)
        found = self._simulated(x, target, ann_guess, metrics, images)
        found["ann_correct"] = (ann_guess == target).sum().reshape(1)
        for name, value in found.items():
            before = self.sums.get(name)
            self.sums[name] = value.cpu() if before is None else before + value.cpu()
        for t, right in quantized.items():
            self.quantized[t] += right
        self.images.extend(images)
        self.samples += len(target)
        self.n += target.numel()
        if metrics is not None:
            metrics[-1].update(_squeezed(ann), target)
            self.metrics = metrics

    def _take_size_of(self, x: Tensor) -> None:
        """The first batch decides on the size of all inputs."""
        whole = self.snn
        self.snn = whole.sized_for(x)
        size = self.snn.network.input_shape[1:]
        self.engine = prepared(whole, self.precision, size)
        self.exact = Engine(self.snn, "exact") if self.compare_exact else None

    def _analog(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat([_single(self.snn.network(part)) for part in _cached_parts(x)])

    def _quantized_right(self, x: Tensor, target: Tensor, t: int) -> int:
        """Number of correct predictions of the quantized ANN with K t levels."""
        pairs = zip(_cached_parts(x), _cached_parts(target), strict=True)
        guesses = (
            (prediction(_single(quantized_ann(self.snn, part, t)), self.cut), truth)
            for part, truth in pairs
        )
        return sum(int((guess == truth).sum()) for guess, truth in guesses)

    def _simulated(
        self,
        x: Tensor,
        target: Tensor,
        ann_guess: Tensor,
        metrics: list[Metric] | None,
        images: ImageCounts,
    ) -> dict[str, Tensor]:
        """Simulate one batch and sum up correct and equal predictions and spikes, each (T,)."""
        names = ("correct", "agree", "lost", "won")
        sums = {
            name: torch.zeros(self.timesteps, dtype=torch.int64, device=x.device) for name in names
        }
        guesses: dict[int, Tensor] = {}
        ann_right = ann_guess == target

        def count(rows: slice | Tensor, t: int, outputs: list[Tensor]) -> None:
            output = _single(self.engine.network.structured(outputs))
            guess = prediction(output, self.cut)
            right, truth = guess == target[rows], ann_right[rows]
            sums["correct"][t - 1] += right.sum()
            sums["agree"][t - 1] += (guess == ann_guess[rows]).sum()
            # Predictions where only the ANN is right, and where only the SNN is.
            sums["lost"][t - 1] += (truth & ~right).sum()
            sums["won"][t - 1] += (right & ~truth).sum()
            images.count(rows, t, right)
            if metrics is not None:
                metrics[t - 1].update(_squeezed(output), target[rows])
            if self.exact is not None:
                guesses.setdefault(t, torch.empty_like(target, dtype=guess.dtype))[rows] = guess

        outcome = run(self.engine, x, self.request, count)
        sums["spikes"] = torch.stack([c.sum(dim=1) for c in outcome.counts.values()]).sum(dim=0)
        if self.request.early_stopping is not None:
            sums |= _stopped(outcome, self.timesteps)
        if self.exact is not None:
            sums["exact"] = self._agreement_with_exact(x, guesses)
        return sums

    def _agreement_with_exact(self, x: Tensor, guesses: dict[int, Tensor]) -> Tensor:
        assert self.exact is not None
        equal = torch.zeros(self.timesteps, dtype=torch.int64, device=x.device)

        def count(rows: slice | Tensor, t: int, outputs: list[Tensor]) -> None:
            exact = prediction(outputs[0], self.cut)
            equal[t - 1] += (exact == guesses[t][rows]).sum()

        run(self.exact, x, replace(self.request, progress=None), count)
        return equal

    def result(self, interrupted: bool) -> Evaluation:
        if self.n == 0:
            raise DataError("evaluate: needed at least one batch of data, got none.")
        n, sums = self.n, self.sums
        accuracy = [int(c) / n for c in sums["correct"]]
        ann = int(sums["ann_correct"]) / n
        *values, ann_value = [_plain(m.compute()) for m in self.metrics] if self.metrics else [None]
        decided = sums.get("decided")
        return Evaluation(
            timesteps=self.timesteps,
            n=n,
            samples=self.samples,
            accuracy=accuracy,
            ann_accuracy=ann,
            loss=[ann - value for value in accuracy],
            agreement=[int(a) / n for a in sums["agree"]],
            spikes_per_neuron=(
                sums["spikes"].cumsum(0) / (self.samples * self.engine.network.neurons)
            ).tolist(),
            quantized={str(t): right / n for t, right in self.quantized.items()},
            max_count=self.snn.max_count,
            neurons=self.engine.network.neurons,
            precision=self.precision,
            metric=values if self.metrics else None,
            ann_metric=ann_value,
            exact_agreement=[int(e) / n for e in sums["exact"]] if "exact" in sums else None,
            decided_timesteps=None if decided is None else (decided / self.samples).tolist(),
            computed_timesteps=(None if decided is None else int(sums["computed"]) / self.samples),
            interrupted=interrupted,
            first_output=self.snn.first_output,
            settings=dict(self.snn.settings),
            **self._intervals(),
        )

    def _intervals(self) -> dict[str, Any]:
        """Intervals over images if there are several predictions per image, else over samples."""
        if self.n > self.samples:
            return {
                "accuracy_interval": self.images.accuracy_intervals(),
                "ann_accuracy_interval": self.images.ann_interval(),
                "loss_interval": self.images.loss_intervals(),
                "intervals_over": "images",
            }
        n, sums = self.n, self.sums
        pairs = zip(sums["lost"], sums["won"], strict=True)
        return {
            "accuracy_interval": [wilson_interval(int(c), n) for c in sums["correct"]],
            "ann_accuracy_interval": wilson_interval(int(sums["ann_correct"]), n),
            "loss_interval": [paired_interval(int(lost), int(won), n) for lost, won in pairs],
            "intervals_over": "samples",
        }


def _cached_parts(x: Tensor) -> tuple[Tensor, ...]:
    """Split samples into parts whose values fit into the caches of a CPU."""
    return torch.split(x, _TOGETHER) if x.device.type == "cpu" else (x,)


def _stopped(outcome: Outcome, timesteps: int) -> dict[str, Tensor]:
    """Sum over samples: the timestep of the decision, at most t = 1..T, and timesteps computed."""
    every = torch.arange(1, timesteps + 1, device=outcome.decided_at.device)
    decided = torch.minimum(outcome.decided_at[:, None], every).sum(dim=0)
    return {"decided": decided, "computed": outcome.computed.sum().reshape(1)}


def _squeezed(output: Tensor) -> Tensor:
    """The output as a metric receives it: without the channel axis if there is one channel."""
    return output.squeeze(1) if output.shape[1] == 1 else output


def _single(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    raise ArgumentError(
        f"evaluate: needed a model with one output tensor, got {type(output).__name__}. Use "
        "transpike.simulate and your own metric, or wrap the model to return one tensor."
    )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value
