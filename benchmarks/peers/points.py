"""Every measured method as points of loss against spikes, and which of them are the best."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

import transpike as tp
from benchmarks.methods import rows
from benchmarks.peers.curves import entries
from transpike.measure.evaluate import curve_points
from transpike.measure.intervals import Z95
from transpike.study import paired
from transpike.study.paired import Flags
from transpike.study.records import Record

ANALOG = "ann"  # the contestant that the peers are compared with
TEST_SEED = 0  # seed of the peers' draw of test images
NEURONS = 188_416  # of the spiking ResNet-20, per image


@dataclass(frozen=True)
class Point:
    """One method at one T.

    Attributes:
        name: the name of the recipe or of the peer.
        kind: the kind of transpike's neuron, or "" for a peer.
        t: the T.
        loss: in percentage points, the mean over the calibration seeds.
        error: the standard error of the loss, in percentage points. It is paired with the ANN for
            transpike, and for a peer if its records say which images were right.
        spikes: thousand spikes per image.
        n: number of test images.
        curve: whether the point is part of a curve over T.
        right: which test images were right, in the order of the test set, for each calibration
            seed. Empty if the records do not say so, or do not have all images.
    """

    name: str
    kind: str
    t: int
    loss: float
    error: float
    spikes: float
    n: int
    curve: bool
    right: tuple[Flags, ...] = field(default=(), repr=False)

    @property
    def ours(self) -> bool:
        """Whether transpike measured it."""
        return bool(self.kind)


def peers(records: list[Record]) -> list[Point]:
    """All peers at every T. Of two runs with the same T, the one with more images counts."""
    runs = sorted(
        ((entry["contestant"].replace(":", "-"), entry) for entry in entries(records)),
        key=lambda run: run[0],
    )
    analog = next((entry for name, entry in runs if name == ANALOG), None)
    if analog is None:
        raise SystemExit(
            "The peers have no record of the analog network. Run python -m benchmarks.peers.curves "
            "--contestants ann."
        )
    found: dict[tuple[str, int], Point] = {}
    for name, entry in runs:
        if name == ANALOG:
            continue
        for point in _of_peer(name, entry, analog):
            key = (point.name, point.t)
            before = found.get(key)
            if before is None or (before.n, len(before.right)) < (point.n, len(point.right)):
                found[key] = point
    return list(found.values())


def _of_peer(name: str, entry: Record, analog: Record) -> list[Point]:
    n, found = entry["n"], []
    # A peer that has not run all parts is compared with the ANN on the parts that it has.
    asked, whole = entry["asked"], analog["asked"]
    partly = min(n, analog["n"]) < asked["images"]
    if asked["images"] != whole["images"] or (partly and asked["batch"] != whole["batch"]):
        raise SystemExit(
            f"{name}: its images are not those of the ANN. Run both with the same --images "
            "and --batch."
        )
    parts = [analog["parts"][part]["right"] for part in entry["parts"]]
    right = sum(next(iter(part.values())) for part in parts) / n
    method, made_for = _made_for(name)
    own = which_right(analog, next(iter(analog["accuracy"])))
    for t, share in entry["accuracy"].items():
        if made_for not in (None, int(t)):
            continue
        flags = which_right(entry, t)
        # Without the images the error is not paired. It is too large then, as few images change.
        error = math.sqrt(max(share * (1 - share), 1e-9) / n)
        if flags and own:
            error = paired.paired_error(flags[0], own[0])
        losses, thousands = 100 * (right - share), entry["spikes_per_image"][t] / 1000
        found.append(Point(method, "", int(t), losses, 100 * error, thousands, n, True, flags))
    return found


def which_right(entry: Record, t: str) -> tuple[Flags, ...]:
    """Which test images a peer got right at t, in the order of the test set; () if unknown."""
    parts, asked = entry["parts"], entry["asked"]
    if entry["n"] != asked["images"] or not all("which" in part for part in parts.values()):
        return ()
    # The worker draws all images in a random order, and batch b belongs to part b mod parts.
    order = np.random.RandomState(TEST_SEED).permutation(entry["n"])
    number = np.arange(entry["n"]) // asked["batch"] % len(parts)
    flags = np.zeros(entry["n"], bool)
    for part, found in parts.items():
        flags[order[number == part]] = paired.unpacked(found["which"][t], found["n"])
    return (flags,)


def _made_for(name: str) -> tuple[str, int | None]:
    """A peer's method, and the T for which it is converted, or None if it serves every T."""
    found = re.fullmatch(r"(snn-calibration-(?:light|advanced))(\d+)", name)
    return (found[1], int(found[2])) if found else (name, None)


def ours(records: list[Record], calibration_images: int) -> list[Point]:
    """Every measured recipe of transpike: at its T, or at every t if it does not depend on T."""
    by_recipe: dict[tp.Recipe, list[Record]] = defaultdict(list)
    for record in records:
        asked = record["asked"]
        same = asked["calibration_images"] == calibration_images and not asked.get("varied")
        if record["pooling"] == "max" and same:
            by_recipe[tp.Recipe.from_dict({**record["recipe"], "found": {}})].append(record)
    alike = Counter((recipe.name, recipe.timesteps) for recipe in by_recipe)
    found = []
    for recipe, seeds in by_recipe.items():
        curve = not rows.needs_timesteps(recipe)
        points = curve_points(recipe.timesteps) if curve else [recipe.timesteps]
        name = recipe.name
        if alike[name, recipe.timesteps] > 1:
            name += f", start {recipe.neuron.initial_membrane:g}"
        found += [_point(name, recipe, seeds, t, curve) for t in points]
    return found


def _point(name: str, recipe: tp.Recipe, entries: list[Record], t: int, curve: bool) -> Point:
    losses, errors, spikes = [], [], []
    for entry in entries:
        e = entry["evaluation"]
        low, high = e["loss_interval"][t - 1]
        losses.append(100 * e["loss"][t - 1])
        errors.append(100 * (high - low) / 2 / Z95)
        spikes.append(e["spikes_per_neuron"][t - 1] * NEURONS / 1000)
    n = entries[0]["evaluation"]["samples"]
    right: tuple[Flags, ...] = ()
    whole = all("right" in e and e["asked"]["test_draw"] == "all" for e in entries)
    if t == recipe.timesteps and whole:
        right = tuple(paired.unpacked(entry["right"], n) for entry in entries)
    loss, error, thousands = (statistics.fmean(values) for values in (losses, errors, spikes))
    kind = re.split(r" K=|,| L=", recipe.neuron.name)[0]
    return Point(name, kind, t, loss, error, thousands, n, curve, right)


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other beats in loss with the same or fewer spikes, by spikes."""
    best, kept = math.inf, []
    for point in sorted(points, key=lambda p: (p.spikes, p.loss)):
        if point.loss < best:
            best = point.loss
            kept.append(point)
    return kept


def mixed(points: list[Point], spikes: float) -> float:
    """The least loss at `spikes` spikes on average, if one of two settings is drawn per image.

    Args:
        points: of transpike.
        spikes: thousand spikes per image.
    """
    kept = front(points)
    best = min((p.loss for p in kept if p.spikes <= spikes), default=math.inf)
    for few in kept:
        for many in kept:
            if few.spikes <= spikes < many.spikes:
                share = (spikes - few.spikes) / (many.spikes - few.spikes)
                best = min(best, few.loss + share * (many.loss - few.loss))
    return best


@dataclass(frozen=True)
class Meeting:
    """A point of a peer and the best point of transpike with the same or fewer spikes.

    Attributes:
        peer: the point of the peer.
        mine: the point of transpike.
        error: the standard error of the difference of the losses, in percentage points.
        paired: whether the error is over the same images. Otherwise it follows from the two errors
            as if they were independent.
        mixed: the least loss of transpike, in percentage points, at the peer's number of spikes, if
            one of two settings is drawn at random for every image.
    """

    peer: Point
    mine: Point
    error: float
    paired: bool
    mixed: float

    @property
    def behind(self) -> float:
        """Percentage points by which transpike loses more than the peer."""
        return self.mine.loss - self.peer.loss


def meetings(points: list[Point]) -> list[Meeting]:
    """Every point of a peer that has at least the spikes of some point of transpike."""
    mine = [p for p in points if p.ours]
    found = []
    for peer in (p for p in points if not p.ours):
        cheaper = [p for p in mine if p.spikes <= peer.spikes]
        if not cheaper:
            continue
        best = min(cheaper, key=lambda p: p.loss)
        same = bool(peer.right and best.right)
        error = math.hypot(peer.error, best.error)
        if same:
            pairs = [paired.paired_error(one, peer.right[0]) for one in best.right]
            error = 100 * statistics.fmean(pairs)
        found.append(Meeting(peer, best, error, same, mixed(mine, peer.spikes)))
    return found


def least_spikes(points: list[Point], loss: float) -> dict[str, tuple[float, float]]:
    """T and thousand spikes at which each method first has a loss, if it does.

    Between two T of a curve, T and the logarithm of the spikes are interpolated linearly.
    """
    found = {}
    for name in sorted({p.name for p in points}):
        series = sorted((p for p in points if p.name == name), key=lambda p: p.spikes)
        for before, now in zip([None, *series], series, strict=False):
            if now.loss > loss:
                continue
            if before is None or before.loss <= loss or not now.curve:
                found[name] = (float(now.t), now.spikes)
            else:
                part = (before.loss - loss) / (before.loss - now.loss)
                logs = [math.log(p.spikes) for p in (before, now)]
                t = before.t + part * (now.t - before.t)
                found[name] = (t, math.exp(logs[0] + part * (logs[1] - logs[0])))
            break
    return found
