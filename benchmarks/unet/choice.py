"""Which conversion keeps the mask best on validation tiles, with and without noise?

    python -m benchmarks.unet.choice
    python -m benchmarks.unet.choice --distilled      # half an hour on one core
    python -m benchmarks.unet.choice --refining

Calibration uses training tiles, and every second one is varied as in the training. The program
prints two numbers for the validation tiles as they are and two for the tiles with the noise of the
training. The first is the F1 of the spiking network's mask against the analog network's mask. The
second, in brackets, is the divergence of the mask's probability in nats per thousand pixels, which
differs less between draws of tiles. The settings `mask` of study.py are those with the best F1. The
settings `distilled` and `refining` are those with the least sum of both divergences.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import transpike as tp
from benchmarks.unet import study as unet
from benchmarks.unet import tables
from transpike.graph.outputs import divergence
from transpike.zoo.train import augment

_TILES, _SEED, _NOISE_SEED = 24, 5, 9
_MEMBRANE, _BIAS, _DELAY = tp.MembraneCorrection(), tp.BiasCorrection(), tp.DelayedReadout()
_RULES = (tp.LeastSquares(), tp.Percentile(99.9), tp.Percentile(99.99), tp.MaxAbs())
RECIPES = [
    *(
        tp.Recipe(t, neuron, rule, passes)
        for neuron, t in (
            (tp.Signed(4), 2),
            (tp.Signed(8), 2),
            (tp.Signed(1), 4),
            (tp.Signed(1), 8),
        )
        for rule in _RULES
        for passes in ((), (_MEMBRANE,))
    ),
    *(
        tp.Recipe(16, tp.IF(), rule, passes)
        for rule, passes in (
            (tp.LeastSquares(granularity="layer"), (_BIAS,)),
            (_RULES[1], ()),
            (_RULES[1], (_BIAS,)),
            (_RULES[1], (tp.SiteSearch(),)),
            (_RULES[1], (tp.SiteSearch(), _BIAS)),
            (_RULES[1], (_DELAY,)),
        )
    ),
]
# Recipes with and without distillation, which needs many more tiles.
DISTILLED = [
    tp.Recipe(t, neuron, tp.Percentile(percentile), passes)
    for neuron, t in ((tp.Signed(8), 2), (tp.Signed(4), 2))
    for percentile in (99.9, 99.99)
    for passes in ((), (tp.Distillation(),))
]
# Neurons whose step shrinks, with the ratio and levels that were best for a classifier.
REFINING = [
    tp.Recipe(2, neuron, rule, passes)
    for neuron in (tp.Refining(4), tp.Refining(8))
    for rule in _RULES[:3]
    for passes in ((), (_BIAS,))
]


def score(mask: Tensor, other: Tensor) -> float:
    """The F1 of one mask against another."""
    return tables.f1(unet.counts(mask, other))


def main() -> None:
    """Convert with every recipe, and print how well each keeps the mask."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    unet.add_source(parser)
    parser.add_argument(
        "--calibration-size", type=int, help="training tiles (default: 32, with --distilled 256)"
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--distilled", action="store_true", help="recipes with and without distillation"
    )
    other.add_argument("--refining", action="store_true", help="neurons whose step shrinks")
    parser.add_argument("--seed", type=int, default=0)
    study = unet.Study(args := parser.parse_args())
    count = args.calibration_size or (unet.MANY_TILES if args.distilled else 32)
    images = study.training(count, args.seed, varied=True)
    statistics = tp.calibrate(study.network, images)
    tiles = study.data.validation.with_tile(study.args.tile).subset(_TILES, _SEED)
    clean = torch.cat([x for x, _ in tiles.batches(8)])
    grain = torch.randn(clean.shape, generator=torch.Generator().manual_seed(_NOISE_SEED))
    sets = {"as they are": clean, "with noise": clean + augment.NOISE * grain}
    with torch.inference_mode():
        analog = {k: torch.cat([study.network(p) for p in x.split(4)]) for k, x in sets.items()}
    for recipe in DISTILLED if args.distilled else REFINING if args.refining else RECIPES:
        snn = recipe.convert(study.network, images, calibration=statistics)
        found = []
        for name, x in sets.items():
            runs = [tp.simulate(snn, p, recipe.timesteps).output[-1] for p in x.split(4)]
            spiking, wanted = torch.cat(runs), analog[name]
            gap = 1000 * float(divergence(wanted, spiking, 0.0).mean())
            found.append(f"{name} {score(spiking > 0, wanted > 0):.4f} ({gap:.3f})")
        name = f"{recipe.name} {getattr(recipe.threshold, 'percentile', '')}".rstrip()
        print(f"{name}, T={recipe.timesteps}: {', '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
