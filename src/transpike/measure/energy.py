"""The energy of counted operations under published tables of energy per operation."""

from __future__ import annotations

from dataclasses import dataclass

from transpike.measure.counts import Counts

_PICO_PER_MICRO = 1e6


@dataclass(frozen=True)
class EnergyTable:
    """Energy per arithmetic operation, in picojoule.

    A multiply-accumulate is one multiplication and one addition. A comparison costs as much as an
    addition. With an operand of b bits a multiplication costs b / operand_bits as much, because an
    array multiplier adds up one row of partial products per bit.

    Attributes:
        name: how the tables of results call it.
        multiply_pj: energy of one multiplication.
        add_pj: energy of one addition.
        operand_bits: bits of one operand of the multiplication (24: a float's mantissa).
        source: where the numbers are from.
    """

    name: str
    multiply_pj: float
    add_pj: float
    operand_bits: int
    source: str

    @property
    def mac_pj(self) -> float:
        """Energy of one multiply-accumulate."""
        return self.multiply_pj + self.add_pj


FP32_45NM = EnergyTable(
    "45 nm fp32", 3.7, 0.9, 24, "Horowitz 2014, ISSCC, fig. 1.1.9: FMult 32 bit, FAdd 32 bit"
)
INT8_45NM = EnergyTable(
    "45 nm int8", 0.2, 0.1, 8, "Horowitz 2014, ISSCC, fig. 1.1.9: Mult 8 bit, Add 32 bit"
)
TABLES = (FP32_45NM, INT8_45NM)


@dataclass(frozen=True)
class Energy:
    """Estimated energy of one inference of one sample under one table, in picojoule.

    Attributes:
        table: the table's name.
        snn_pj: the spiking network, with everything that follows from the static input computed
            once.
        snn_uncached_pj: the same with it computed again at every timestep.
        snn_unit_pj: as `snn_pj`, with every count of n sent as n spikes.
        snn_binary_pj: as `snn_pj`, with every count sent as its binary digits.
        ann_pj: the analog network in the table's arithmetic.
        quantized_ann_pj: the analog network whose activations have as many levels as those of the
            spiking network (K T); the input is not quantized.
        regions_pj: the part of `snn_pj` that regions take. An evaluation of a function counts as
            one multiply-accumulate: a table with linear interpolation.
    """

    table: str
    snn_pj: float
    snn_uncached_pj: float
    snn_unit_pj: float
    snn_binary_pj: float
    ann_pj: float
    quantized_ann_pj: float
    regions_pj: float = 0.0

    @property
    def region_line(self) -> str:
        """How much of the SNN's energy regions take, in microjoule."""
        whole, inside = self.snn_pj / _PICO_PER_MICRO, self.regions_pj / _PICO_PER_MICRO
        return (
            f"{self.table}: of the SNN's {whole:.3f} uJ, regions take {inside:.3f}, and "
            f"{whole - inside:.3f} are without them"
        )

    def __str__(self) -> str:
        """One row under `HEADER`, in microjoule."""
        cells = (self.snn_pj, self.snn_uncached_pj, self.ann_pj, self.quantized_ann_pj)
        snn, again, ann, quantized = (cell / _PICO_PER_MICRO for cell in cells)
        return (
            f"{self.table:<12} {snn:>10.3f} {again:>12.3f} {ann:>10.3f} {quantized:>12.3f} "
            f"{snn / ann:>8.2f} {snn / quantized:>11.2f}"
        )


HEADER = (
    f"{'energy, uJ':<12} {'SNN':>10} {'input again':>12} {'ANN':>10} {'bit-matched':>12} "
    f"{'SNN/ANN':>8} {'SNN/bit-m.':>11}"
)


def energy_under(table: EnergyTable, total: Counts, timesteps: int) -> Energy:
    """Estimate the energy of counted operations.

    Args:
        table: energy per operation.
        total: operations of one inference.
        timesteps: T.
    """
    macs = total.macs_input + total.macs_readout + total.macs_current
    regions = table.mac_pj * (total.macs_region + total.evaluations)
    regions += table.add_pj * total.additions_region
    fixed = regions + table.mac_pj * macs + table.add_pj * (total.additions + total.comparisons)
    again = table.mac_pj * total.macs_input * (timesteps - 1)
    other = table.add_pj * (total.ann_additions + total.ann_comparisons)
    other += table.mac_pj * total.ann_evaluations
    quantized = (
        table.mac_pj * (total.ann_macs - total.ann_quantized_macs)
        + table.multiply_pj * total.ann_bit_macs / table.operand_bits
        + table.add_pj * total.ann_quantized_macs
    )
    snn = fixed + table.add_pj * total.accumulates
    return Energy(
        table=table.name,
        snn_pj=snn,
        snn_uncached_pj=snn + again,
        snn_unit_pj=fixed + table.add_pj * total.accumulates_unit,
        snn_binary_pj=fixed + table.add_pj * total.accumulates_binary,
        ann_pj=table.mac_pj * total.ann_macs + other,
        quantized_ann_pj=quantized + other,
        regions_pj=regions,
    )


__all__ = ["FP32_45NM", "HEADER", "INT8_45NM", "TABLES", "Energy", "EnergyTable", "energy_under"]
