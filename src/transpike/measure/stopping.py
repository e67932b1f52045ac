"""Choose the threshold of early stopping on training data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from transpike.errors import ArgumentError, DataError
from transpike.graph.ambient import isolated
from transpike.graph.batches import Batches
from transpike.simulation.early_stopping import EarlyStopping, clearness
from transpike.simulation.simulate import simulate
from transpike.spiking.spiking_network import SpikingNetwork


@isolated()
def fit_early_stopping(
    snn: SpikingNetwork,
    batches: Iterable[Any],
    timesteps: int,
    *,
    rule: Literal["margin", "entropy"] = "margin",
    most_changed: float = 0.005,
    least: int = 1,
) -> EarlyStopping:
    """Find the earliest stopping that changes few predictions of training samples.

    A sample stops at the first timestep at which its scores are clear enough. Its prediction has
    changed if it differs from the one at T. Labels are not needed.

    Args:
        snn: the converted network; its output must be class scores (B, C).
        batches: training data, as inputs or (input, target) pairs; never test data.
        timesteps: T.
        rule: how the clearness of scores is measured, see `EarlyStopping`.
        most_changed: largest fraction of predictions that may change.
        least: earliest timestep at which a sample may stop.

    Returns:
        Early stopping with the threshold that was found.

    Raises:
        ArgumentError: an argument is out of range.
        DataError: no data, or the output is not one row of scores per sample.
    """
    snn.check_timesteps(timesteps)
    if not 0 <= most_changed < 1:
        raise ArgumentError(f"most_changed: needed 0 <= fraction < 1, got {most_changed!r}.")
    EarlyStopping(rule, 1.0, least)  # checks the settings
    clear, guesses = [], []
    for x in Batches(batches).inputs():
        output = simulate(snn, x.to(snn.network.device), timesteps).output
        if not isinstance(output, Tensor):
            raise DataError("fit_early_stopping: needed a model whose output is one tensor.")
        clear.append(torch.stack([clearness(rule, scores) for scores in output]).cpu())
        guesses.append(output.argmax(dim=2).cpu())
    if not clear:
        raise DataError("fit_early_stopping: needed at least one batch of data, got none.")
    series = torch.cat(clear, dim=1).double()
    series[: max(least, snn.first_output) - 1] = -1
    wrong = torch.cat(guesses, dim=1)
    changed = wrong != wrong[-1]
    threshold = _laxest(series, changed, most_changed)
    return EarlyStopping(rule, threshold if rule == "margin" else 1 - threshold, least)


def _laxest(clear: Tensor, changed: Tensor, most_changed: float) -> float:
    """Find the smallest threshold of clearness that changes few enough predictions.

    Args:
        clear: clearness after each timestep, (T, B).
        changed: whether the prediction at that timestep differs from the one at T, (T, B).
        most_changed: largest fraction of samples that may change.
    """
    ordered = clear[clear >= 0].sort().values
    places = torch.linspace(0, len(ordered) - 1, min(513, len(ordered))).long()
    for threshold in sorted(set(ordered[places].tolist())):
        reached = clear >= threshold
        first = reached.int().argmax(dim=0)
        stops = reached.any(dim=0)
        moved = changed.gather(0, first[None])[0] & stops
        if float(moved.double().mean()) <= most_changed:
            return float(min(1.0, max(0.0, threshold)))
    return 1.0
