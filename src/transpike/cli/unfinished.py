"""The finished slices of a run of `transpike segment` that was stopped, so that it can go on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import transpike as tp
from transpike.cli.output import plain
from transpike.data.volumes import Volume
from transpike.files import replacing, write_text
from transpike.graph.receptive_field import ReceptiveField
from transpike.segment import Segmented
from transpike.simulation.tiled import TiledSimulation

_FOLDER = "unfinished"
_SETTINGS = "settings.json"
_LEFT = re.compile(r"\.[0-9a-f]{16}\.tmp")  # what a killed process leaves of a file


def is_unfinished(output: Path) -> bool:
    """Whether a run into this folder was stopped before it was complete."""
    return (output / _FOLDER / _SETTINGS).is_file()


class Unfinished:
    """A folder beside the masks with one file for each finished slice, and the settings.

    Args:
        output: the folder of the run.
        settings: everything that the masks depend on, JSON-ready.

    Raises:
        ArgumentError: the folder holds slices that were made with other settings.
        FileError: the folder cannot be read or written.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self.output, self.folder = output, output / _FOLDER
        wanted = json.loads(json.dumps(plain(settings)))
        try:
            if is_unfinished(output):
                self._check(json.loads((self.folder / _SETTINGS).read_text("utf-8")), wanted)
                self._sweep()
            else:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_text(self.folder / _SETTINGS, json.dumps(wanted, indent=2) + "\n")
        except (OSError, ValueError) as error:
            if isinstance(error, tp.TranspikeError):
                raise
            raise tp.FileError(f"cannot use {str(self.folder)!r}: {error}. Remove it.") from error

    def done(self, chosen: Sequence[int]) -> int:
        """How many of the chosen slices are finished, from the first one on."""
        found = [self._file(index).is_file() for index in chosen]
        return found.index(False) if False in found else len(found)

    def finished(self, stack: Volume, chosen: Sequence[int]) -> Iterator[Segmented]:
        """The finished slices.

        Raises:
            ArgumentError: a slice of the volume has changed since then.
            FileError: a file is damaged.
        """
        for index in chosen[: self.done(chosen)]:
            one = self._read(self._file(index))
            if not np.array_equal(one.pixels, stack.read(index, slice(None), slice(None))):
                raise tp.ArgumentError(
                    f"slice {index} of the volume is not the one that {str(self.folder)!r} was "
                    "made from. Choose another folder with -o, or remove this one."
                )
            yield one

    def keep(self, one: Segmented) -> None:
        """Write a finished slice, unless it is there already."""
        file = self._file(one.index)
        if file.is_file():
            return
        run = one.simulation
        facts = {
            "index": one.index,
            "name": one.name,
            "ann_seconds": one.ann_seconds,
            "snn_seconds": one.snn_seconds,
            "field": asdict(run.field),
            "run": {
                key: getattr(run, key)
                for key in ("timesteps", "tiles", "tile", "overlap", "exact", "spikes_per_neuron",
                            "precision")
            },
        }  # fmt: skip
        with replacing(file) as opened:
            np.savez_compressed(
                opened,
                facts=np.array(json.dumps(facts)),
                pixels=one.pixels,
                ann=one.ann,
                times=np.array(list(one.masks)),
                masks=np.stack(list(one.masks.values())),
            )

    def remove(self) -> None:
        """Remove the folder, because the run is complete.

        The settings go last. If the process is killed before, the next run can still go on.
        """
        for file in self.folder.glob("*.npz"):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_if_empty(self) -> None:
        """Remove the folder if no slice is finished."""
        if not list(self.folder.glob("*.npz")):
            self.remove()

    def _file(self, index: int) -> Path:
        return self.folder / f"{index}.npz"

    def _check(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        other = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
        if other:
            raise tp.ArgumentError(
                f"{str(self.output)!r} holds the slices of a run that was stopped, with other "
                f"settings: {', '.join(sorted(other))}. Give the same settings to go on, choose "
                "another folder with -o, or remove this one."
            )

    def _sweep(self) -> None:
        """Remove half-written files of the run that was stopped."""
        for place in (self.output, self.output / "masks", self.folder):
            for file in place.iterdir() if place.is_dir() else ():
                if _LEFT.fullmatch(file.name):
                    with contextlib.suppress(OSError):
                        file.unlink()

    def _read(self, file: Path) -> Segmented:
        try:
            with file.open("rb") as raw, np.load(raw, allow_pickle=False) as content:
                facts = json.loads(str(content["facts"]))
                field = {key: tuple(value) for key, value in facts.pop("field").items()}
                run = facts.pop("run")
                tile, overlap = tuple(run.pop("tile")), tuple(run.pop("overlap"))
                simulation = TiledSimulation(
                    output=np.empty(0),
                    tile=tile,
                    overlap=overlap,
                    field=ReceptiveField(**field),
                    **run,
                )
                times = content["times"].tolist()
                masks = dict(zip(times, content["masks"], strict=True))
                pixels, ann = content["pixels"], content["ann"]
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise tp.FileError(
                f"{str(file)!r} is damaged: {error}. Remove it to segment this slice again."
            ) from error
        return Segmented(pixels=pixels, ann=ann, masks=masks, simulation=simulation, **facts)


def network_digest(snn: tp.SpikingNetwork) -> str:
    """The SHA-256 of all tensors and neurons of a network."""
    digest = hashlib.sha256()
    for name, tensor in sorted(snn.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for name, neuron in sorted(snn.neurons.items()):
        digest.update(f"{name} {neuron}".encode())
    digest.update(repr(snn.network.nodes).encode())
    return digest.hexdigest()
