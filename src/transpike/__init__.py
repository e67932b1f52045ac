"""transpike: turn a trained PyTorch network into a spiking one that can be trusted.

A public name is imported when it is first used. Thus `import transpike` is quick, and the help of
the command line does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The module that defines each public name; the imports below tell type checkers the same.
_MODULE_OF = {
    "Calibration": "conversion.calibrate",
    "calibrate": "conversion.calibrate",
    "convert": "conversion.convert",
    "AllocateCounts": "conversion.passes",
    "BiasCorrection": "conversion.passes",
    "DelayedReadout": "conversion.passes",
    "MembraneCorrection": "conversion.passes",
    "SiteSearch": "conversion.passes",
    "Distillation": "conversion.passes.distillation",
    "Recipe": "conversion.recipe",
    "GaussianIteration": "conversion.thresholds",
    "LeastSquares": "conversion.thresholds",
    "LocalThresholdBalancing": "conversion.thresholds",
    "MaxAbs": "conversion.thresholds",
    "Percentile": "conversion.thresholds",
    "UpperBound": "conversion.thresholds",
    "ArgumentError": "errors",
    "CheckpointError": "errors",
    "DataError": "errors",
    "FileError": "errors",
    "TranspikeError": "errors",
    "UnsupportedError": "errors",
    "capture": "graph.capture",
    "Preflight": "graph.inspect",
    "inspect": "graph.inspect",
    "Network": "graph.network",
    "Comparison": "measure.compare",
    "compare": "measure.compare",
    "methods": "measure.compare",
    "Cost": "measure.cost",
    "measure_cost": "measure.cost",
    "Diagnosis": "measure.diagnose",
    "diagnose": "measure.diagnose",
    "Evaluation": "measure.evaluate",
    "evaluate": "measure.evaluate",
    "fit_early_stopping": "measure.stopping",
    "Tuning": "measure.tune",
    "tune": "measure.tune",
    "EarlyStopping": "simulation.early_stopping",
    "Record": "simulation.record",
    "simulate_reference": "simulation.reference",
    "Simulation": "simulation.result",
    "Totals": "simulation.result",
    "simulate": "simulation.simulate",
    "TiledSimulation": "simulation.tiled",
    "Tiling": "simulation.tiled",
    "simulate_tiled": "simulation.tiled",
    "Neuron": "spiking.neuron",
    "IF": "spiking.presets",
    "Burst": "spiking.presets",
    "Cyclic": "spiking.presets",
    "Differential": "spiking.presets",
    "MultiThreshold": "spiking.presets",
    "Refining": "spiking.presets",
    "Signed": "spiking.presets",
    "Staggered": "spiking.presets",
    "Telescoped": "spiking.presets",
    "Schedule": "spiking.schedule",
    "SpikingNetwork": "spiking.spiking_network",
    "quantized_ann": "spiking.spiking_network",
    "load": "spiking.store",
    "save": "spiking.store",
}

__all__ = [*_MODULE_OF]


def __dir__() -> list[str]:
    """The public names, and the names that every module has."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


if TYPE_CHECKING:
    from transpike.conversion.calibrate import Calibration as Calibration
    from transpike.conversion.calibrate import calibrate as calibrate
    from transpike.conversion.convert import convert as convert
    from transpike.conversion.passes import AllocateCounts as AllocateCounts
    from transpike.conversion.passes import BiasCorrection as BiasCorrection
    from transpike.conversion.passes import DelayedReadout as DelayedReadout
    from transpike.conversion.passes import MembraneCorrection as MembraneCorrection
    from transpike.conversion.passes import SiteSearch as SiteSearch
    from transpike.conversion.passes.distillation import Distillation as Distillation
    from transpike.conversion.recipe import Recipe as Recipe
    from transpike.conversion.thresholds import GaussianIteration as GaussianIteration
    from transpike.conversion.thresholds import LeastSquares as LeastSquares
    from transpike.conversion.thresholds import LocalThresholdBalancing as LocalThresholdBalancing
    from transpike.conversion.thresholds import MaxAbs as MaxAbs
    from transpike.conversion.thresholds import Percentile as Percentile
    from transpike.conversion.thresholds import UpperBound as UpperBound
    from transpike.errors import ArgumentError as ArgumentError
    from transpike.errors import CheckpointError as CheckpointError
    from transpike.errors import DataError as DataError
    from transpike.errors import FileError as FileError
    from transpike.errors import TranspikeError as TranspikeError
    from transpike.errors import UnsupportedError as UnsupportedError
    from transpike.graph.capture import capture as capture
    from transpike.graph.inspect import Preflight as Preflight
    from transpike.graph.inspect import inspect as inspect
    from transpike.graph.network import Network as Network
    from transpike.measure.compare import Comparison as Comparison
    from transpike.measure.compare import compare as compare
    from transpike.measure.compare import methods as methods
    from transpike.measure.cost import Cost as Cost
    from transpike.measure.cost import measure_cost as measure_cost
    from transpike.measure.diagnose import Diagnosis as Diagnosis
    from transpike.measure.diagnose import diagnose as diagnose
    from transpike.measure.evaluate import Evaluation as Evaluation
    from transpike.measure.evaluate import evaluate as evaluate
    from transpike.measure.stopping import fit_early_stopping as fit_early_stopping
    from transpike.measure.tune import Tuning as Tuning
    from transpike.measure.tune import tune as tune
    from transpike.simulation.early_stopping import EarlyStopping as EarlyStopping
    from transpike.simulation.record import Record as Record
    from transpike.simulation.reference import simulate_reference as simulate_reference
    from transpike.simulation.result import Simulation as Simulation
    from transpike.simulation.result import Totals as Totals
    from transpike.simulation.simulate import simulate as simulate
    from transpike.simulation.tiled import TiledSimulation as TiledSimulation
    from transpike.simulation.tiled import Tiling as Tiling
    from transpike.simulation.tiled import simulate_tiled as simulate_tiled
    from transpike.spiking.neuron import Neuron as Neuron
    from transpike.spiking.presets import IF as IF
    from transpike.spiking.presets import Burst as Burst
    from transpike.spiking.presets import Cyclic as Cyclic
    from transpike.spiking.presets import Differential as Differential
    from transpike.spiking.presets import MultiThreshold as MultiThreshold
    from transpike.spiking.presets import Refining as Refining
    from transpike.spiking.presets import Signed as Signed
    from transpike.spiking.presets import Staggered as Staggered
    from transpike.spiking.presets import Telescoped as Telescoped
    from transpike.spiking.schedule import Schedule as Schedule
    from transpike.spiking.spiking_network import SpikingNetwork as SpikingNetwork
    from transpike.spiking.spiking_network import quantized_ann as quantized_ann
    from transpike.spiking.store import load as load
    from transpike.spiking.store import save as save
else:

    def __getattr__(name: str) -> Any:
        """Imports a public name when it is first used."""
        if name in _MODULE_OF:
            return getattr(import_module(f"transpike.{_MODULE_OF[name]}"), name)
        raise AttributeError(f"module 'transpike' has no attribute {name!r}")
