"""Recorded samples: predictions of both networks, and pictures of some samples.

They are stored in a folder with two files. `samples.json` holds `format`, `schema`, `timesteps`
(the recorded ones), `classes`, `n`, `facts` and `arrays`, the SHA-256 of the other file. That file
is `samples-<16 digits of the SHA-256>.npz` and holds these arrays:

    label   (N, ...)       class indices
    ann     (N, ...)       predictions of the analog network
    snn     (T', N, ...)   predictions of the spiking network at every recorded timestep
    image   (M, h, w) or (M, h, w, 3), uint8
    index   (M,)           the sample of each picture

Here (...) is (H, W) for masks and nothing for labels. For masks every image is kept as it is. For
labels at most 60 images are kept: the two networks differ on them, and those that differ latest
come first. Their longer side has at most 96 pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from transpike.data.decode import check_archive
from transpike.errors import ArgumentError, DataError, FileError
from transpike.files import data_file, write_head_and_data

# `evaluate` uses the same rule to predict, so a report and its pictures cannot disagree.
from transpike.graph.ambient import isolated
from transpike.graph.outputs import cut_of, prediction
from transpike.measure.evaluate import curve_points
from transpike.measure.targets import as_indices
from transpike.simulation.record import Record
from transpike.simulation.simulate import simulate
from transpike.spiking.spiking_network import SpikingNetwork

Indices = NDArray[Any]
"""Class indices or positions: whole numbers of any width."""
FORMAT = "transpike samples"
SCHEMA = 1
ARRAYS_FILE, FACTS_FILE = "samples.npz", "samples.json"
MOST_PICTURES = 60
_PICTURE_SIDE = 96  # longer side of the picture of a labeled image, in pixels
_EVERY = 32  # up to this T all timesteps are recorded; for a larger T 1, 2, 4, ... and T
_BYTE = 255
_ROUNDING = 1e-3  # rounding may put a pixel this far outside 0..1 after mean and std are undone
_ARRAYS = ("label", "ann", "snn", "image", "index")


@dataclass(frozen=True, eq=False)
class Samples:
    """Predictions of both networks on the same samples, and pictures of some of the samples.

    Attributes:
        timesteps: recorded timesteps, ascending; the first timestep is 1.
        label: class indices, (N, ...).
        ann: predictions of the analog network, (N, ...).
        snn: predictions of the spiking network, (T', N, ...).
        image: pictures, (M, h, w) or (M, h, w, 3), uint8.
        index: sample of each picture, (M,).
        classes: names of all classes.
        facts: model, data, settings and other facts for the reader, ready for JSON.

    Raises:
        DataError: shapes or values contradict each other.
    """

    timesteps: tuple[int, ...]
    label: Indices
    ann: Indices
    snn: Indices
    image: NDArray[np.uint8]
    index: Indices
    classes: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise DataError(f"samples: {problem}. Record them again with record_samples.")

    def __len__(self) -> int:
        return len(self.label)

    @property
    def kind(self) -> Literal["classification", "segmentation"]:
        """Classification has one label per sample, segmentation one per pixel."""
        return "classification" if self.label.ndim == 1 else "segmentation"

    def named(self, classes: Sequence[str]) -> Samples:
        """The same samples with other names of the classes.

        Raises:
            ArgumentError: the number of names is not the number of classes.
        """
        return replace(self, classes=_names(classes, len(self.classes)))

    def save(self, folder: str | Path) -> None:
        """Write both files into a folder, which is made if it does not exist.

        Raises:
            FileError: they cannot be written.
        """
        folder = Path(folder)
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        head = {
            "format": FORMAT,
            "schema": SCHEMA,
            "kind": self.kind,
            "timesteps": list(self.timesteps),
            "n": len(self),
            "classes": list(self.classes),
            "facts": dict(self.facts),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            packed = io.BytesIO()
            np.savez_compressed(packed, **arrays)
            write_head_and_data(
                folder / FACTS_FILE,
                lambda digest: json.dumps({**head, "arrays": digest}, indent=1) + "\n",
                folder / ARRAYS_FILE,
                packed.getvalue(),
            )
        except OSError as error:
            place = f"{str(folder)!r}: {error.strerror or error}"
            raise FileError(f"cannot write samples into {place}.") from error


@isolated()
def record_samples(
    snn: SpikingNetwork,
    x: Tensor,
    target: Tensor,
    timesteps: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    classes: Sequence[str] | None = None,
    recorded: Iterable[int] | None = None,
    precision: str = "exact",
    facts: Mapping[str, Any] | None = None,
) -> Samples:
    """Simulate samples and keep the predictions of both networks and pictures.

    Predictions follow the rule of `evaluate`. Record a large set batch by batch, and join the
    batches with `join_samples`.

    Args:
        snn: spiking network.
        x: input of the network, (B, C, H, W). Pictures need one or three channels. Labeled inputs
            with other channels are recorded without pictures.
        target: class indices (B,), or masks of 0 and 1, (B, H, W) or (B, 1, H, W).
        timesteps: T.
        mean: mean of each channel that was subtracted from pixel values in 0..1.
        std: standard deviation of each channel by which they were divided.
        classes: names of the classes; None means "0", "1", ...
        recorded: timesteps to keep, not before the first output. By default these are all
            timesteps up to T = 32; for a larger T they are 1, 2, 4, ... and T.
        precision: see `simulate`.
        facts: further facts for the reader, ready for JSON.

    Raises:
        ArgumentError: an argument is out of range, or mean and std do not give pixels in 0..1.
        DataError: targets do not fit the output, or masks have more than two classes.
    """
    snn.check_timesteps(timesteps)
    chosen = _chosen(snn.first_output, timesteps, recorded)
    network = snn.network
    x = x.to(network.device)
    cut = cut_of(network)
    with torch.inference_mode():
        output = _single(network(x))
    ann = prediction(output, cut)
    run = simulate(snn, x, timesteps, record=Record(output_at=chosen), precision=precision)
    count = max(2, output.shape[1])
    width = torch.uint8 if count <= _BYTE else torch.int32
    truth = _labels(target.to(x.device), ann, count)
    spiking = torch.stack([prediction(one, cut).to(width) for one in _single(run.output)])
    label, guess, guesses = (v.to(width).cpu().numpy() for v in (truth, ann, spiking))
    kept = np.arange(len(x)) if label.ndim > 1 else flipping(guess, guesses)
    image = _pictures(x, mean, std, kept, whole=label.ndim > 1)
    known = {**_known(snn, precision), **(facts or {})}
    names = _names(classes, count)
    return Samples(chosen, label, guess, guesses, image, kept[: len(image)], names, known)


def _known(snn: SpikingNetwork, precision: str) -> dict[str, Any]:
    """Facts that the network itself states."""
    return {"max_count": snn.max_count, "settings": dict(snn.settings), "precision": precision}


def join_samples(parts: Sequence[Samples]) -> Samples:
    """Join the batches of one run.

    Raises:
        ArgumentError: there is no batch, or the batches come from different runs.
    """
    if not parts:
        raise ArgumentError("join_samples: needed at least one part, got none.")
    first = parts[0]
    same = [(p.timesteps, p.classes, p.label.shape[1:], p.image.shape[1:]) for p in parts]
    if any(one != same[0] for one in same):
        raise ArgumentError(
            "join_samples: needed parts with the same timesteps, classes and sizes. Record all "
            "batches with the same arguments."
        )
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    ann = np.concatenate([part.ann for part in parts])
    snn = np.concatenate([part.snn for part in parts], axis=1)
    index = np.concatenate([part.index + start for part, start in zip(parts, starts, strict=True)])
    image = np.concatenate([part.image for part in parts])
    if first.kind == "classification":
        place = {sample: row for row, sample in enumerate(index.tolist())}
        wanted = [sample for sample in flipping(ann, snn).tolist() if sample in place]
        rows = np.asarray([place[sample] for sample in wanted], dtype=np.int64)
        index, image = index[rows], image[rows]
    label = np.concatenate([part.label for part in parts])
    return Samples(first.timesteps, label, ann, snn, image, index, first.classes, first.facts)


def read_samples(folder: str | Path) -> Samples:
    """Read the files that `Samples.save` wrote.

    Raises:
        FileError: a file is missing or damaged, or another version wrote it.
    """
    folder = Path(folder)
    try:
        head = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FileError(f"cannot read {str(folder / FACTS_FILE)!r}: {error}.") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise FileError(
            f'{str(folder / FACTS_FILE)!r}: needed "format": "{FORMAT}". Give a folder that '
            "`transpike evaluate --samples` wrote."
        )
    if head.get("schema") != SCHEMA:
        raise FileError(
            f"{str(folder / FACTS_FILE)!r}: needed schema {SCHEMA}, got {head.get('schema')!r}. "
            "Record the samples again, or use the version of transpike that wrote them."
        )
    try:
        with np.load(_arrays(folder, head), allow_pickle=False) as archive:
            found = {name: archive[name] for name in _ARRAYS}
        timesteps = tuple(int(t) for t in head["timesteps"])
        classes = tuple(str(name) for name in head["classes"])
        return Samples(timesteps, classes=classes, facts=dict(head["facts"]), **found)
    except FileError:
        raise
    except Exception as error:  # damaged bytes end in many kinds of errors
        raise FileError(
            f"the samples in {str(folder)!r} are damaged or incomplete ({error}): needed "
            f"the arrays beside {FACTS_FILE}. Record them again."
        ) from error


def _arrays(folder: Path, head: Mapping[str, Any]) -> io.BytesIO:
    """The file of the arrays. Earlier versions did not write a SHA-256."""
    place, digest = folder / ARRAYS_FILE, head.get("arrays")
    file = place if digest is None else data_file(place, str(digest))
    check_archive(file)
    packed = file.read_bytes()
    if digest not in (None, hashlib.sha256(packed).hexdigest()):
        raise ValueError("the arrays have another SHA-256")
    return io.BytesIO(packed)


def flipping(ann: Indices, snn: Indices) -> Indices:
    """At most 60 samples on which the networks differ at some timestep, the latest first.

    Args:
        ann: predictions of the analog network, (N,).
        snn: predictions of the spiking network, (T', N).
    """
    differs = snn != ann
    last = np.where(differs.any(axis=0), len(snn) - differs[::-1].argmax(axis=0), 0)
    order = np.argsort(-last, kind="stable")
    return order[last[order] > 0][:MOST_PICTURES]


def _problem(samples: Samples) -> str | None:
    """What contradicts each other in the samples, or None."""
    label, count = samples.label, len(samples.classes)
    steps = samples.timesteps
    if not steps or steps[0] < 1 or list(steps) != sorted(set(steps)):
        return f"needed ascending timesteps >= 1, got {list(steps)}"
    if label.ndim not in (1, 3) or not len(label):
        return f"needed labels (N,) or (N, H, W), got {label.shape}"
    if samples.ann.shape != label.shape or samples.snn.shape != (len(steps), *label.shape):
        return (
            f"needed predictions {label.shape} and {(len(steps), *label.shape)}, got "
            f"{samples.ann.shape} and {samples.snn.shape}"
        )
    if label.ndim == 3 and count != 2:
        return f"needed masks of two classes, got {count}"
    for values in (label, samples.ann, samples.snn):
        if values.dtype.kind not in "iu":
            return f"needed whole numbers, got {values.dtype}"
        if values.min() < 0 or values.max() >= count:
            return f"needed classes 0..{count - 1}, got {values.min()}..{values.max()}"
    image, index = samples.image, samples.index
    if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[3:] not in ((), (3,)):
        return f"needed pictures (M, h, w) or (M, h, w, 3) of bytes, got {image.shape}"
    if index.shape != image.shape[:1] or len(set(index.tolist())) != len(index):
        return f"needed one sample per picture, got {index.shape} for {len(image)} pictures"
    if len(index) and (index.min() < 0 or index.max() >= len(label)):
        return f"needed pictures of samples 0..{len(label) - 1}, got {index.min()}..{index.max()}"
    if label.ndim == 3 and (image.shape != label.shape or list(index) != list(range(len(label)))):
        return f"needed one grayscale image {label.shape[1:]} per mask, in order"
    return None


def _chosen(first: int, timesteps: int, recorded: Iterable[int] | None) -> tuple[int, ...]:
    """Timesteps to keep; none is before the first output."""
    if recorded is None:
        every = timesteps <= _EVERY
        return tuple(range(first, timesteps + 1) if every else curve_points(timesteps, first))
    chosen = tuple(sorted(set(recorded)))
    if not chosen or chosen[0] < first or chosen[-1] > timesteps:
        raise ArgumentError(
            f"recorded: needed timesteps in {first}..{timesteps}, got {list(chosen)}."
        )
    return chosen


def _single(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    raise ArgumentError(
        f"record_samples: needed a model with one output tensor, got {type(output).__name__}. "
        "Wrap the model to return one tensor."
    )


def _labels(target: Tensor, guess: Tensor, classes: int) -> Tensor:
    if target.ndim == guess.ndim + 1 and target.shape[1] == 1:
        target = target.squeeze(1)  # masks with a channel axis
    if target.shape != guess.shape:
        raise DataError(
            f"record_samples: needed targets {tuple(guess.shape)}, got {tuple(target.shape)}."
        )
    if guess.ndim not in (1, 3):
        raise DataError(
            "record_samples: needed one label per sample or per pixel of an image, got targets "
            f"{tuple(target.shape)}. Take single slices of volumes."
        )
    target = as_indices(target)
    if not bool(((target >= 0) & (target < classes) & (target == target.floor())).all()):
        raise DataError(
            f"record_samples: needed class indices 0..{classes - 1}, got values from "
            f"{target.min().item()} to {target.max().item()}."
        )
    return target.long()


def _names(classes: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if classes is None:
        return tuple(str(index) for index in range(count))
    if len(classes) != count:
        raise ArgumentError(f"classes: needed {count} names, got {len(classes)}.")
    return tuple(classes)


def _pictures(
    x: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    kept: Indices,
    *,
    whole: bool,
) -> NDArray[np.uint8]:
    """The chosen inputs as bytes: (M, h, w) for one channel, (M, h, w, 3) for three."""
    channels = x.shape[1] if x.ndim == 4 else 0
    if channels not in ((1,) if whole else (1, 3)):
        if whole:
            raise DataError(f"record_samples: needed grayscale images, got shape {tuple(x.shape)}.")
        return np.zeros((0, 1, 1), dtype=np.uint8)
    if len(mean) != channels or len(std) != channels:
        raise ArgumentError(
            f"mean, std: needed {channels} values each, got {len(mean)} and {len(std)}."
        )
    scale, shift = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (std, mean))
    values = x.double().cpu() * scale + shift
    if not (values.min() >= -_ROUNDING and values.max() <= 1 + _ROUNDING):
        raise ArgumentError(
            f"mean, std: needed the values that the data was normalized with, so that pixels are "
            f"in 0..1, got pixels in {values.min():.3g}..{values.max():.3g}. Give the mean and std "
            "of the data set."
        )
    values = values[torch.from_numpy(kept)]
    longest = max(values.shape[2:])
    if not whole and longest > _PICTURE_SIDE:
        size = [max(1, round(side * _PICTURE_SIDE / longest)) for side in values.shape[2:]]
        values = functional.interpolate(values, size, mode="area")
    pixels = (values.clamp(0, 1) * _BYTE).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    chosen: NDArray[np.uint8] = pixels[..., 0] if channels == 1 else pixels
    return chosen


__all__ = ["Samples", "join_samples", "read_samples", "record_samples"]
