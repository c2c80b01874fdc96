"""Is there anything left to find? The default's sets against a search many times as wide, which starts elsewhere.

    python benchmarks/search_limit.py [--model llama24] [--seed 0] [--rounds 5]

Random sets of the sizes searched, then rounds in which a surrogate of each size's neighbourhood proposes its best sets
and two-swap neighbours of the best three known. Prints by how much the best set known lies below greedy's and below
the default's. Shares its ledger with `selection.py`.

Shapes: L layers, N numbers of removed layers, C sets.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from common import markdown, provenance
from methods import DEFAULT, GREEDY, methods
from oracle import ledger_of
from problems import PROBLEMS
from selection import masks_of

from layershap import LayerGame, PairwiseRidge
from layershap.protocols import FloatArray, MaskArray
from layershap.selection.neighbourhoods import best_predicted, swaps, top

RANDOM_SETS, PROPOSALS, WIDTH = 24, 12, 256
"""Random sets of each size; sets of each kind that a round evaluates per size; beam width."""


class Known:
    """Every set evaluated so far, with its mean NLL per token."""

    def __init__(self, game: LayerGame) -> None:
        self.game = game
        self.masks = np.empty((0, game.n_players), dtype=bool)
        self.nll = np.empty(0)

    def add(self, masks_CL: MaskArray) -> None:
        held = {mask.tobytes() for mask in self.masks}
        new = np.array([mask for mask in np.unique(masks_CL, axis=0) if mask.tobytes() not in held])
        if len(new):
            statistics = self.game.statistics(new)
            self.masks = np.concatenate([self.masks, new])
            nll = statistics.sums["nll"].sum(axis=1) / statistics.counts.sum()
            self.nll = np.concatenate([self.nll, nll])

    def unknown(self, masks_CL: MaskArray, at_most: int) -> list[MaskArray]:
        held = {mask.tobytes() for mask in self.masks}
        return [mask for mask in masks_CL if mask.tobytes() not in held][:at_most]

    def best(self, sizes: list[int]) -> FloatArray:
        removed = (~self.masks).sum(axis=1)
        return np.array([self.nll[removed == size].min() for size in sizes])


def propose(known: Known, free_L: MaskArray, size: int) -> list[MaskArray]:
    """What a surrogate of the sizes around `size` prefers, everywhere and two swaps from the best three."""
    removed = (~known.masks).sum(axis=1)
    rows = (np.abs(removed - size) <= 3) & known.masks[:, ~free_L].all(axis=1)
    rows &= known.nll <= np.quantile(known.nll[rows], 0.7)
    predict = PairwiseRidge().fit(known.masks[rows], -known.nll[rows]).predict
    anywhere = known.unknown(best_predicted(predict, free_L, size, WIDTH)[size], PROPOSALS)
    of_size = np.flatnonzero(removed == size)
    best = known.masks[of_size[np.argsort(known.nll[of_size])[:3]]]
    near = np.concatenate([swaps(once, free_L) for mask in best for once in top(predict, swaps(mask, free_L), 40)])
    return anywhere + known.unknown(top(predict, near, 2 * WIDTH), PROPOSALS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=PROBLEMS, default="llama24")
    parser.add_argument("--seed", type=int, choices=range(3), default=0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    problem = PROBLEMS[args.model]()
    n_layers, max_remove = problem.n_layers, 2 * problem.n_layers // 3
    sizes = list(range(1, max_remove + 1))
    calibration, ledger = problem.calibrations[args.seed], ledger_of(problem, args.seed)
    made = methods(n_layers, max_remove, (), llama=False)
    fitted = {
        name: made[name](args.seed).set_params(ledger=ledger).fit(problem.model, calibration)
        for name in (GREEDY, DEFAULT)
    }
    chosen = {}
    with LayerGame(problem.model, calibration, ledger=ledger) as game:
        known = Known(game)
        for name, method in fitted.items():
            known.add(masks_of(method, n_layers, max_remove))
            chosen[name] = known.best(sizes)
        alone = ~np.eye(n_layers, dtype=bool)
        known.add(alone)
        rng = np.random.default_rng(1)
        # Layers whose removal alone costs most are never removed here: nothing would be learnt from their sets.
        free = np.ones(n_layers, dtype=bool)
        free[np.argsort(known.nll[-n_layers:])[-n_layers // 8 :]] = False
        drawn = np.ones((len(sizes) * RANDOM_SETS, n_layers), dtype=bool)
        for mask, size in zip(drawn, np.repeat(sizes, RANDOM_SETS)):
            mask[rng.choice(np.flatnonzero(free), size, replace=False)] = False
        known.add(drawn)
        for _ in range(args.rounds):
            for size in sizes[3::2]:
                known.add(np.array(propose(known, free, size)))
    rows = [
        [f"best of {len(known.nll):,} sets over {name}, %"]
        + [f"{100 * np.expm1(value):.2f}" for value in known.best(sizes) - chosen[name]]
        for name in (GREEDY, DEFAULT)
    ]
    print(f"{provenance()}\n\n{problem.title}, calibration set {args.seed}\n")
    print(markdown(["removed", *map(str, sizes)], rows))


if __name__ == "__main__":
    main()
