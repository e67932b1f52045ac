"""Measures the cells of a study. A run that is killed loses one shard, and repeats nothing."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from transpike.conversion.calibrate import Calibration, calibrate
from transpike.data import Dataset, open_data
from transpike.errors import ArgumentError, FileError
from transpike.graph.capture import capture
from transpike.graph.network import Network
from transpike.measure.evaluate import evaluate
from transpike.spiking.spiking_network import SpikingNetwork
from transpike.spiking.store import load, save
from transpike.study.cells import Cell, cells_of, tested_split
from transpike.study.config import Study
from transpike.study.paired import Right
from transpike.study.records import Record
from transpike.study.results import Results
from transpike.zoo.models import build_model

ATTEMPTS = 2
"""How often a run tries a cell that fails, and how often it starts a worker that died."""
TERMINATED = 143
"""Exit code after SIGTERM; shells use the same."""
_PAUSE = 0.2  # seconds to wait while others work on all that is left
_CALIBRATION_BATCH = 64
_CONVERTED = "converted"  # folder of the conversions of cells that are not complete
_CONVERSION = -1  # stands for the conversion among the numbers of the shards

Progress = Callable[[int, int | None], None]


def run_study(
    study: Study, folder: Path, *, workers: int = 1, progress: Progress | None = None
) -> list[Cell]:
    """Measure every cell that has no result yet.

    Several runs may work on one folder at the same time. Every worker computes with one thread, so
    that the results do not depend on the number of workers.

    Args:
        study: what to measure.
        folder: folder of the results.
        workers: number of processes. One worker is this process itself.
        progress: called with the number of finished shards and of all shards.

    Returns:
        The cells that have no complete result, because they failed.

    Raises:
        ArgumentError: `workers` is below 1, or the data or a model are unknown.
        FileError: weights or data are missing, or the folder cannot be written.
        SystemExit: the process received SIGTERM.
    """
    if workers < 1:
        raise ArgumentError(f"workers: needed at least 1, got {workers}.")
    data = open_data(study.data)
    cells = cells_of(study, data)
    results = Results(folder)
    results.write_plan(study, cells)
    run = uuid.uuid4().hex
    with _ends_on_sigterm():
        if workers == 1:
            _work(study, data, cells, results, run, progress)
        else:
            _in_processes(study, cells, results, run, workers, progress)
    incomplete = [cell for cell in cells if not results.is_complete(cell)]
    if not incomplete:
        shutil.rmtree(folder / _CONVERTED, ignore_errors=True)  # what killed processes left
    return incomplete


@contextmanager
def _ends_on_sigterm() -> Iterator[None]:
    """End with exit code 143 on SIGTERM. What is stored stays stored."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread, where nobody can set a handler
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _in_processes(
    study: Study,
    cells: Sequence[Cell],
    results: Results,
    run: str,
    workers: int,
    progress: Progress | None,
) -> None:
    """Share the cells among processes, and start a process again that died."""
    context = multiprocessing.get_context("spawn")
    arguments = (study, list(cells), results.folder, run, os.getpid())

    def started() -> multiprocessing.process.BaseProcess:
        process = context.Process(target=_worker, args=arguments, daemon=True)
        process.start()
        return process

    running = [started() for _ in range(workers)]
    restarts = ATTEMPTS * workers
    try:
        while running:
            running[0].join(_PAUSE)
            dead = [one for one in running if one.exitcode is not None]
            running = [one for one in running if one.exitcode is None]
            for process in dead:
                if process.exitcode and restarts and results.open_cells(cells, run, ATTEMPTS):
                    restarts -= 1
                    running.append(started())
            if progress is not None:
                progress(*results.counts(cells))
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()


def _worker(study: Study, cells: list[Cell], folder: Path, run: str, parent: int) -> None:
    """What a process does until nothing is left, or until its parent has ended."""

    def check_parent(done: int, of_all: int | None) -> None:
        if os.getppid() != parent:
            raise SystemExit(TERMINATED)

    _work(study, open_data(study.data), cells, Results(folder), run, check_parent)


def _work(
    study: Study,
    data: Dataset,
    cells: Sequence[Cell],
    results: Results,
    run: str,
    progress: Progress | None,
) -> None:
    """Measure shards one by one until every cell is complete or has failed too often."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = _Bench(study, data, results.folder / _CONVERTED)
    try:
        while still_open := results.open_cells(cells, run, ATTEMPTS):
            worked = False
            for cell in still_open:
                for part in (_CONVERSION, *range(cell.shards)):
                    if progress is not None:
                        progress(*results.counts(cells))
                    worked |= _do(bench, results, cell, part, run)
            if not worked:
                time.sleep(_PAUSE)
    finally:
        torch.set_num_threads(threads)


def _do(bench: _Bench, results: Results, cell: Cell, part: int, run: str) -> bool:
    """Convert, or measure one shard, unless it is done or another process works on it."""

    def is_over() -> bool:
        done = bench.is_converted(cell) if part == _CONVERSION else results.has(cell, part)
        waits = part != _CONVERSION and not bench.is_converted(cell)
        failed = results.failures(cell, run) >= ATTEMPTS
        return done or waits or failed or results.is_complete(cell)

    if is_over():
        return False
    with results.claimed(cell, part) as mine:
        if not mine or is_over():  # another process may have been faster
            return False
        try:
            if part == _CONVERSION:
                bench.convert(cell)
            else:
                results.add(cell, part, bench.measure(cell, part))
        except Exception as error:  # recorded, tried again and shown in the table
            results.add_failure(cell, part, error, run)
    if results.is_complete(cell):
        bench.forget(cell)
    return True


class _Bench:
    """Converts and measures. A conversion is stored, so that all workers measure the same one."""

    def __init__(self, study: Study, data: Dataset, folder: Path) -> None:
        self.study, self.data, self.folder = study, data, folder
        self.recipes = {
            (method.name, timesteps): method.recipe(timesteps)
            for method in study.methods
            for timesteps in method.timesteps or study.timesteps
        }
        self._loaded: tuple[str, SpikingNetwork] | None = None
        # The network and calibration of the last conversion, which the next cells often share.
        self._calibrated: tuple[object, Network, Calibration] | None = None

    def measure(self, cell: Cell, shard: int) -> Record:
        """Which test images of a shard the network gets right, and its spikes."""
        snn = self._converted(cell)
        test = tested_split(self.study, self.data)
        first = shard * cell.shard
        indices = np.arange(first, min(first + cell.shard, cell.n))
        t, n = cell.timesteps, len(indices)
        batches = test.batches(self.study.batch_size, indices)
        found = evaluate(snn, batches, t, metric=Right())
        if found.interrupted:
            raise KeyboardInterrupt
        assert found.metric is not None
        return {
            "n": n,
            "right": found.metric[-1],
            "ann_right": found.ann_metric,
            "quantized_right": round(found.quantized[str(t)] * n),
            "agree": round(found.agreement[-1] * n),
            "spikes_per_neuron": found.spikes_per_neuron[-1],
            "max_count": found.max_count,
            "neurons": found.neurons,
        }

    def forget(self, cell: Cell) -> None:
        """Remove the stored conversion of a cell."""
        shutil.rmtree(self.folder / cell.key, ignore_errors=True)

    def is_converted(self, cell: Cell) -> bool:
        """Whether the conversion of a cell is stored."""
        return (self.folder / cell.key).is_dir()

    def convert(self, cell: Cell) -> None:
        """Convert the network of a cell and store it. The folder appears whole or not at all."""
        images = self.data.train.subset(cell.calibration, cell.draw)
        batches = [x for x, _ in images.batches(_CALIBRATION_BATCH)]
        made_for = (cell.model, cell.weights, cell.draw)
        if self._calibrated is None or self._calibrated[0] != made_for:
            model = build_model(cell.model, cell.weights, len(self.data.classes))
            network = capture(model, batches[0])
            self._calibrated = (made_for, network, calibrate(network, batches))
        _, network, calibration = self._calibrated
        recipe = self.recipes[cell.method, cell.timesteps]
        snn = recipe.convert(network, batches, calibration=calibration)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            whole = Path(scratch) / cell.key
            save(snn, whole)
            whole.rename(self.folder / cell.key)

    def _converted(self, cell: Cell) -> SpikingNetwork:
        if self._loaded is None or self._loaded[0] != cell.key:
            try:
                self._loaded = (cell.key, load(self.folder / cell.key))
            except FileError:
                self.forget(cell)  # damaged, for example by a power cut; the next try makes it anew
                raise
        return self._loaded[1]


__all__ = ["ATTEMPTS", "TERMINATED", "run_study"]
