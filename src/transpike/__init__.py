"""transpike: turn a trained PyTorch network into a spiking one that can be trusted."""

from transpike.calibrate import Calibration as Calibration
from transpike.calibrate import calibrate as calibrate
from transpike.capture import capture as capture
from transpike.convert import SpikingNetwork as SpikingNetwork
from transpike.convert import convert as convert
from transpike.convert import quantized_ann as quantized_ann
from transpike.cost import Cost as Cost
from transpike.cost import measure_cost as measure_cost
from transpike.diagnose import Diagnosis as Diagnosis
from transpike.diagnose import diagnose as diagnose
from transpike.errors import ArgumentError as ArgumentError
from transpike.errors import CheckpointError as CheckpointError
from transpike.errors import DataError as DataError
from transpike.errors import FileError as FileError
from transpike.errors import TranspikeError as TranspikeError
from transpike.errors import UnsupportedError as UnsupportedError
from transpike.evaluate import Evaluation as Evaluation
from transpike.evaluate import evaluate as evaluate
from transpike.network import Network as Network
from transpike.neuron import IF as IF
from transpike.neuron import Burst as Burst
from transpike.neuron import Differential as Differential
from transpike.neuron import MultiThreshold as MultiThreshold
from transpike.neuron import Neuron as Neuron
from transpike.neuron import Signed as Signed
from transpike.neuron import Telescoped as Telescoped
from transpike.preflight import Preflight as Preflight
from transpike.preflight import inspect as inspect
from transpike.reference import Simulation as Simulation
from transpike.reference import Totals as Totals
from transpike.reference import simulate_reference as simulate_reference
from transpike.simulate import simulate as simulate
from transpike.stopping import fit_until as fit_until
from transpike.store import load as load
from transpike.store import save as save
from transpike.thresholds import GaussianIteration as GaussianIteration
from transpike.thresholds import LeastSquares as LeastSquares
from transpike.thresholds import LocalThresholdBalancing as LocalThresholdBalancing
from transpike.thresholds import MaxAbs as MaxAbs
from transpike.thresholds import Percentile as Percentile
from transpike.tiled import TiledSimulation as TiledSimulation
from transpike.tiled import simulate_tiled as simulate_tiled
from transpike.until import Until as Until

__version__ = "0.1.0"
