"""Is there anything left to find? The default's sets against a search many times as wide, which starts elsewhere.

    python -m benchmarks.selection.search_limit [--model llama24] [--seed 0] [--rounds 5]

Random sets of the sizes searched, then rounds in which a surrogate of each size's neighbourhood proposes its best sets
and two-swap neighbours of the best three known. Prints by how much the best set known lies below greedy's and below
the default's. Shares its ledger with `selection.py`.

Shapes: L layers, C sets.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.common import markdown, provenance
from benchmarks.selection.methods import DEFAULT, GREEDY, methods
from benchmarks.selection.oracle import ledger_of, masks_of
from benchmarks.selection.problems import PROBLEMS
from layershap import LayerGame, PairwiseRidge
from layershap.fitting.removable_game import RemovableGame
from layershap.masks import swaps
from layershap.protocols import MaskArray
from layershap.selection.best import best_score
from layershap.selection.neighbourhoods import best_predicted, top

RANDOM_SETS, PROPOSALS, WIDTH = 24, 12, 256
"""Random sets of each size; sets of each kind that a round evaluates per size; beam width."""


def fresh(game: RemovableGame, masks_CL: MaskArray, at_most: int) -> list[MaskArray]:
    """The first of these sets that were not evaluated yet."""
    known = {mask.tobytes() for mask in game.masks}
    return [mask for mask in masks_CL if mask.tobytes() not in known][:at_most]


def propose(game: RemovableGame, free_L: MaskArray, size: int) -> list[MaskArray]:
    """What a surrogate of the sizes around `size` prefers, everywhere and two swaps from the best three."""
    removed = (~game.masks).sum(axis=1)
    rows = (np.abs(removed - size) <= 3) & game.masks[:, ~free_L].all(axis=1)
    rows &= game.scores >= np.quantile(game.scores[rows], 0.3)
    predict = PairwiseRidge().fit(game.masks[rows], game.scores[rows]).predict
    anywhere = fresh(game, best_predicted(predict, free_L, size, WIDTH)[size], PROPOSALS)
    of_size = np.flatnonzero(removed == size)
    best = game.masks[of_size[np.argsort(-game.scores[of_size])[:3]]]
    near = np.concatenate([swaps(once, free_L) for mask in best for once in top(predict, swaps(mask, free_L), 40)])
    return anywhere + fresh(game, top(predict, near, 2 * WIDTH), PROPOSALS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=PROBLEMS, default="llama24")
    parser.add_argument("--seed", type=int, choices=range(3), default=0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    problem = PROBLEMS[args.model]()
    n_layers, max_remove = problem.n_layers, problem.max_remove
    sizes = list(range(1, max_remove + 1))
    calibration, ledger = problem.calibrations[args.seed], ledger_of(problem, args.seed)
    made = methods(n_layers, max_remove, (), llama=False)
    fitted = {
        # The default has its text in parts, each with a ledger of its own.
        name: made[name](args.seed).set_params(ledger=own).fit(problem.model, calibration)
        for name, own in ((GREEDY, ledger), (DEFAULT, ledger.with_suffix(".parts.jsonl")))
    }
    with LayerGame(problem.model, calibration, ledger=ledger) as every:
        game = RemovableGame(every, np.ones(n_layers, dtype=bool), max_masks=2**n_layers)
        chosen = {name: game(masks_of(method, n_layers, max_remove)) for name, method in fitted.items()}
        alone = game(~np.eye(n_layers, dtype=bool))
        rng = np.random.default_rng(1)
        # Layers whose removal alone costs most are never removed here: nothing would be learnt from their sets.
        free = np.ones(n_layers, dtype=bool)
        free[np.argsort(alone)[: -(-n_layers // 8)]] = False
        drawn = np.ones((len(sizes) * RANDOM_SETS, n_layers), dtype=bool)
        for mask, size in zip(drawn, np.repeat(sizes, RANDOM_SETS)):
            mask[rng.choice(np.flatnonzero(free), size, replace=False)] = False
        game(drawn)
        for _ in range(args.rounds):
            for size in sizes[3::2]:
                game(np.array(propose(game, free, size), dtype=bool).reshape(-1, n_layers))
    best = np.array([best_score(game.masks, game.scores, size) for size in sizes])
    rows = [
        # The score is PPL_orig / PPL, so the ratio of perplexities is the inverse one of scores.
        [f"best of {len(game.masks):,} sets over {name}, %", *(f"{100 * (r - 1):.2f}" for r in chosen[name] / best)]
        for name in (GREEDY, DEFAULT)
    ]
    print(f"{provenance()}\n\n{problem.title}, calibration set {args.seed}\n")
    print(markdown(["removed", *map(str, sizes)], rows))


if __name__ == "__main__":
    main()
