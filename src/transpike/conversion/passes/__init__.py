"""Calibration passes: correct a spiking network with training inputs. They need no labels.

Every pass has its own file. `apply` calls the function of a pass, and `sweep` contains what the
corrections share.
"""

from transpike.conversion.passes.allocate_counts import AllocateCounts as AllocateCounts
from transpike.conversion.passes.allocate_counts import mean_count as mean_count
from transpike.conversion.passes.apply import CalibrationPass as CalibrationPass
from transpike.conversion.passes.apply import apply_pass as apply_pass
from transpike.conversion.passes.bias_correction import BiasCorrection as BiasCorrection
from transpike.conversion.passes.delayed_readout import DelayedReadout as DelayedReadout
from transpike.conversion.passes.distillation import Distillation as Distillation
from transpike.conversion.passes.membrane_correction import MembraneCorrection as MembraneCorrection
from transpike.conversion.passes.site_search import SiteSearch as SiteSearch
