"""A recipe: all settings of a conversion, as a value and as a small JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from torch import nn

from transpike.conversion.calibrate import Calibration
from transpike.conversion.convert import convert
from transpike.conversion.passes import CalibrationPass
from transpike.conversion.settings import check_settings
from transpike.conversion.thresholds import ThresholdRule
from transpike.errors import ArgumentError, FileError
from transpike.files import write_text
from transpike.graph.network import Network, check_timesteps
from transpike.spiking.neuron import Neuron
from transpike.spiking.spiking_network import SpikingNetwork

FORMAT = "transpike recipe"
SCHEMA = 2
_READ = (1, SCHEMA)  # the schemas that this version reads
_OLD_PASSES_KEY = "calibrate"  # schema 1 has the passes under this key or under "passes"
_RULES = {rule.__name__: rule for rule in get_args(ThresholdRule)}
_PASSES = {one.__name__: one for one in get_args(CalibrationPass)}


@dataclass(frozen=True)
class Recipe:
    """All settings of a conversion. Only the model and the data are missing.

    Attributes:
        timesteps: T, the number of timesteps to optimize for, >= 1. The network can still run
            longer or shorter.
        neuron: the neuron at every site, before passes change it.
        threshold: the threshold rule.
        passes: calibration passes, in the order in which they are applied.
        found: how the recipe was found, JSON-ready, or empty. It does not count in comparisons.

    Raises:
        ArgumentError: a setting is out of range or of the wrong kind.
    """

    timesteps: int
    neuron: Neuron
    threshold: ThresholdRule
    passes: tuple[CalibrationPass, ...] = ()
    found: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        check_timesteps(self.timesteps)
        object.__setattr__(self, "passes", tuple(self.passes))
        check_settings(self.neuron, self.threshold, self.passes)

    @property
    def name(self) -> str:
        """Name of this recipe in tables."""
        rule = type(self.threshold).__name__
        if self.threshold.granularity == "layer":
            rule += " per layer"
        parts = [self.neuron.name, rule, *(type(one).__name__ for one in self.passes)]
        return " + ".join(parts)

    def convert(
        self,
        model: nn.Module | Network,
        batches: Iterable[Any],
        *,
        calibration: Calibration | None = None,
    ) -> SpikingNetwork:
        """Convert a model with this recipe.

        Args:
            model: a captured network, or a module if `calibration` is None.
            batches: training data for the thresholds and the passes, as in `convert`.
            calibration: statistics of these batches, if they exist already.

        Returns:
            The spiking network. The model does not change.

        Raises:
            UnsupportedError, DataError, ArgumentError: as in `convert`.
        """
        return convert(
            model,
            batches if calibration is None else calibration,
            neuron=self.neuron,
            threshold=self.threshold,
            timesteps=self.timesteps,
            passes=self.passes,
            batches=None if calibration is None else batches,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "format": FORMAT,
            "schema": SCHEMA,
            "timesteps": self.timesteps,
            "neuron": self.neuron.to_dict(),
            "threshold": {"rule": type(self.threshold).__name__, **asdict(self.threshold)},
            "passes": [{"pass": type(one).__name__, **asdict(one)} for one in self.passes],
            "found": dict(self.found),
        }

    def save(self, file: str | Path) -> None:
        """Write the recipe as JSON.

        Args:
            file: where to write. Its folder is created if it does not exist.

        Raises:
            FileError: the file cannot be written.
        """
        file = Path(file)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(self.to_dict(), indent=1) + "\n")
        except OSError as error:
            raise FileError(f"cannot write {str(file)!r}: {error.strerror or error}.") from error

    @classmethod
    def load(cls, file: str | Path) -> Recipe:
        """Read a recipe that `save` wrote, in schema 1 or 2.

        Raises:
            FileError: the file cannot be read, is damaged, or is not a recipe in these schemas.
        """
        file = Path(file)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise FileError(f"cannot read the recipe {str(file)!r}: {error}.") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise FileError(f'{str(file)!r} is not a recipe: needed "format": "{FORMAT}".')
        if content.get("schema") not in _READ:
            raise FileError(
                f"{str(file)!r}: needed schema {' or '.join(map(str, _READ))}, got "
                f"{content.get('schema')!r}. Tune again, or use the version of transpike that "
                "wrote the recipe."
            )
        try:
            return cls.from_dict(content)
        except (KeyError, TypeError, AttributeError, ArgumentError) as error:
            raise FileError(
                f"the recipe {str(file)!r} is damaged: {type(error).__name__}: {error}."
            ) from error

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Recipe:
        """The recipe from the values that `to_dict` gave.

        Raises:
            KeyError, TypeError, AttributeError: the values are not those of a recipe.
            ArgumentError: a value is out of range.
        """
        rule = dict(content["threshold"])
        written = content["passes"] if "passes" in content else content[_OLD_PASSES_KEY]
        passes = [dict(entry) for entry in written]
        return cls(
            timesteps=content["timesteps"],
            neuron=Neuron.from_dict(content["neuron"]),
            threshold=_RULES[rule.pop("rule")](**rule),
            passes=tuple(_PASSES[entry.pop("pass")](**entry) for entry in passes),
            found=content["found"],
        )
