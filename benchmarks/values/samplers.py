"""Which masks tell the values best? Samplers by the error of the values made of their masks.

    python -m benchmarks.values.samplers                # four models' stored evaluations; minutes
    python -m benchmarks.values.samplers --write benchmarks/results/samplers.md

No model is run. GPT-2 and Mamba-2 are games of which every coalition is known (`values.py` beside this stores them).
The deeper two aren't: there the game is a Gaussian process fitted to all their stored masks, which has values in closed
form. It is as smooth as the default's surrogate expects: this tells shares apart, but hides what a surrogate misses,
against which the default's sizes beside the strata are drawn.

Values are the default's: strata's means of marginal contributions, the surrogate's corrected by what it misses where
the sampler is uniform within each size. The leave-one-outs are always there, as in `fit`, and count. Where a sampler
repeats masks, more are drawn until as many are distinct.

Shapes: M masks, F free players.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import KFold

from benchmarks.common import markdown, print_or_write, provenance
from benchmarks.values.values import load
from layershap import PairwiseRidge, StratifiedSampler
from layershap.fitting.masks import ROUNDS
from layershap.fitting.values import ValueSettings, fit_values
from layershap.masks import first_rows, is_among, leave_one_out_masks, mask_keys
from layershap.protocols import AdaptiveSampler, FloatArray, MaskArray, Sampler, UniformSampler
from layershap.samplers import strata_sizes
from layershap.samplers.distinct import draw_distinct
from layershap.shapley import Semivalue
from layershap.surrogates import HammingProcess

SEEDS = 12
COUNTS = (100, 300)
N_MARGINALS = 4000
SMALLEST_SHARE = 0.05
"""Of the largest error of a size: `NeymanSampler` still draws from a size that has held no surprise so far."""


class NeymanSampler(BaseEstimator):
    """Asked in rounds: more masks of the sizes that a ridge predicts badly, the values' weights in them."""

    leave_one_out = True
    uniform_within_sizes = True

    def sample(self, n_layers: int, n_masks: int, rng: np.random.Generator) -> MaskArray:
        semivalue = Semivalue.of_strata(n_layers, strata_sizes(None, n_layers))
        seen = getattr(self, "seen_", np.empty((0, n_layers), dtype=bool))
        misses = getattr(self, "misses_", {})
        largest = max(misses.values(), default=1.0)
        shares = {
            int(k): float(semivalue.spread[k]) * max(misses.get(int(k), largest), SMALLEST_SHARE * largest)
            for k in semivalue.sizes
        }
        alone = leave_one_out_masks(n_layers)
        first = alone[~is_among(alone, set(mask_keys(seen)))][:n_masks]
        rest = draw_distinct(n_layers, shares, n_masks - len(first), rng, np.concatenate([seen, first]))
        return np.concatenate([first, rest])

    def update(self, masks: MaskArray, scores: FloatArray) -> None:
        """Root mean square error by size, of masks that the ridge has not seen."""
        self.seen_ = masks
        errors = np.zeros(len(scores))
        for train, test in KFold(5, shuffle=True, random_state=0).split(masks):
            errors[test] = scores[test] - PairwiseRidge().fit(masks[train], scores[train]).predict(masks[test])
        kept = masks.sum(axis=1)
        self.misses_ = {int(k): float(np.sqrt((errors[kept == k] ** 2).mean())) for k in np.unique(kept)}


SAMPLERS: dict[str, Sampler] = {
    "the default's: also the sizes beside the strata, by their weight": StratifiedSampler(
        leave_one_out=True, neighbours=True
    ),
    "the strata alone, equal shares": StratifiedSampler(leave_one_out=True),
    "the paper's: equal shares, masks may repeat": StratifiedSampler(replace=True),
    "learned shares (Neyman's allocation)": NeymanSampler(),
}


@dataclass(frozen=True)
class Known:
    """A game whose values [F] are known, over the layers that are no veto players."""

    title: str
    score: Callable[[MaskArray], FloatArray]
    truth: FloatArray

    @classmethod
    def of(cls, name: str) -> Known:
        """The stored evaluations of a model: all coalitions, or a Gaussian process fitted to those that are there."""
        stored = load(name)
        n_free = len(stored.free)
        if stored.enumerated:
            truth, _ = stored.truth()
            return cls(f"{stored.title}; all {len(stored.scores):,} coalitions", stored.evaluate, truth)
        process = HammingProcess().fit(stored.masks, stored.scores)
        settings = ValueSettings(tuple(strata_sizes(None, n_free)), N_MARGINALS, unbiased=False)
        fit = fit_values(HammingProcess(), stored.masks, stored.scores, settings, np.random.default_rng(0))
        return cls(
            f"{stored.title}; a Gaussian process of {len(stored.scores):,} coalitions", process.predict, fit.values
        )


def draw(sampler: Sampler, known: Known, n_masks: int, rng: np.random.Generator) -> MaskArray:
    """`n_masks` distinct masks, the whole one and the leave-one-outs among them; fewer if the sampler holds no more."""
    n_free = len(known.truth)
    everyone = np.ones((1, n_free), dtype=bool)
    sampler = clone(sampler)
    if isinstance(sampler, AdaptiveSampler):
        masks = np.empty((0, n_free), dtype=bool)
        for index in range(1, ROUNDS + 1):
            asked = (n_masks - 1) * index // ROUNDS - len(masks)
            masks = np.concatenate([masks, sampler.sample(n_free, asked, rng)])
            sampler.update(masks, known.score(masks))
        return np.concatenate([everyone, masks])
    first = np.concatenate([everyone, leave_one_out_masks(n_free)])
    asked = n_masks - 1
    while asked < 4 * n_masks:
        found = np.concatenate([first, sampler.sample(n_free, asked, rng)])
        found = found[first_rows(found)]  # in the order in which they were drawn
        if len(found) >= n_masks:
            return found[:n_masks]
        asked += n_masks - len(found)
    return found


def cells(sampler: Sampler, known: Known, n_masks: int) -> list[str]:
    """Root mean square error, the worst layer's, and the rank of the values: means over the seeds."""
    settings = ValueSettings(
        tuple(strata_sizes(None, len(known.truth))), N_MARGINALS, unbiased=isinstance(sampler, UniformSampler)
    )
    squares, worst, counts = [], [], []
    for seed in range(SEEDS):
        masks = draw(sampler, known, n_masks, np.random.default_rng(seed))
        fit = fit_values(HammingProcess(), masks, known.score(masks), settings, np.random.default_rng(seed))
        off = fit.values - known.truth
        squares.append((off**2).mean())
        worst.append(np.abs(off).max())
        counts.append(len(masks))
    rms = np.sqrt(np.mean(squares))
    error = np.std(np.sqrt(squares), ddof=1) / np.sqrt(SEEDS)
    return [f"{np.mean(counts):.0f}", f"{1000 * rms:.2f} ± {1000 * error:.2f}", f"{1000 * np.mean(worst):.1f}"]


def tables(names: list[str]) -> str:
    lines = ["## Which sampler", ""]
    for name in names:
        known = Known.of(name)
        counts = [count for count in COUNTS if count > 2 * len(known.truth) and count < 2 ** len(known.truth) / 2]
        rows = [
            [str(count), label, *cells(sampler, known, count)]
            for count in counts
            for label, sampler in SAMPLERS.items()
        ]
        header = ["masks", "sampler", "drawn", "RMS error x 1,000", "worst layer x 1,000"]
        lines += [f"{known.title}; {SEEDS} seeds:", "", markdown(header, rows), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = ["gpt2", "mamba2", "llama24", "smollm2"]
    parser.add_argument("--model", nargs="+", default=every, choices=every)
    parser.add_argument("--write", type=Path, help="a page; between its markers <!-- tables: begin --> and end")
    options = parser.parse_args()
    print_or_write(f"{provenance()}\n\n{tables(options.model)}", options.write)


if __name__ == "__main__":
    main()
