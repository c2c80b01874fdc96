"""Which surrogate? Its predictions, the values that rest on it by number of masks, and the sets that a search finds.

    python -m benchmarks.values.surrogate_accuracy                # every model in data/values; some minutes
    python -m benchmarks.values.surrogate_accuracy --model gpt2 --write benchmarks/results/surrogate_accuracy.md

From the evaluations that `values.py` beside it stores; no model is run. *R2* is on the stored masks drawn at random
that the surrogate has not seen, *alone* the root mean square error of its own values, *corrected* that of the values
which `fit` makes of them. *Regret* is how much lower the score of the set found is than that of the best set of its
size, relative to it, mean over sizes up to two thirds of the layers, where all coalitions are known.

Shapes: M masks, F free players.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, clone

from benchmarks.common import markdown, print_or_write, provenance
from benchmarks.values.values import NAMES, Stored, load, stored_names
from layershap import LinearRidge, PairwiseRidge, SurrogateSearch
from layershap.fitting.removable_game import RemovableGame
from layershap.fitting.values import ValueSettings, fit_values, surrogate_values
from layershap.protocols import FloatArray, MaskArray, Surrogate
from layershap.selection.best import best_score, removable_sets
from layershap.surrogates import HammingProcess

SEEDS = 6
COUNTS = (100, 200, 400, 1000)
N_MARGINALS = 4000


class LogScores(RegressorMixin, BaseEstimator):
    """A surrogate of the logarithm of the score, as perplexities multiply: its values have no closed form."""

    def __init__(self, surrogate: Surrogate) -> None:
        self.surrogate = surrogate

    def fit(self, masks: MaskArray, scores: FloatArray) -> LogScores:
        self.fitted_ = clone(self.surrogate).fit(masks, np.log(np.maximum(scores, 1e-6)))
        return self

    def predict(self, masks: MaskArray) -> FloatArray:
        return np.exp(np.minimum(self.fitted_.predict(masks), 1.0))


class Optimistic(RegressorMixin, BaseEstimator):
    """The upper confidence bound of a Gaussian process: a search by it tries what is uncertain too."""

    def __init__(self, width: float = 1.0) -> None:
        self.width = width

    def fit(self, masks: MaskArray, scores: FloatArray) -> Optimistic:
        self.fitted_ = HammingProcess().fit(masks, scores)
        return self

    def predict(self, masks: MaskArray) -> FloatArray:
        return self.fitted_.predict(masks) + self.width * self.fitted_.predict_spread(masks)


SURROGATES: dict[str, Surrogate] = {
    "`HammingProcess`": HammingProcess(),
    "`HammingProcess`, log scores": LogScores(HammingProcess()),
    "`PairwiseRidge`": PairwiseRidge(),
    "`PairwiseRidge`, log scores": LogScores(PairwiseRidge()),
    "`LinearRidge`": LinearRidge(),
}
SEARCHED_BY: dict[str, Surrogate] = {
    "`HammingProcess`": HammingProcess(),
    "`HammingProcess`, mean + 1 posterior sd": Optimistic(1.0),
    "`HammingProcess`, log scores": LogScores(HammingProcess()),
    "`PairwiseRidge`": PairwiseRidge(),
    "`LinearRidge`": LinearRidge(),
}


def accuracy(stored: Stored, surrogate: Surrogate, n_masks: int) -> list[str]:
    """R2, errors of both kinds of values, seconds to fit and to read off the values."""
    truth, _ = stored.truth()
    n_free = stored.masks.shape[1]
    settings = ValueSettings(tuple(stored.strata), N_MARGINALS, unbiased=True)
    at_random = np.isin(stored.masks.sum(axis=1), stored.strata)
    r2, alone, corrected, seconds = [], [], [], []
    for seed in range(SEEDS):
        rows = stored.drawn(seed, n_masks - n_free - 1)
        masks, scores = stored.masks[rows], stored.scores[rows]
        start = time.perf_counter()
        model = clone(surrogate).fit(masks, scores)
        own, _ = surrogate_values(model, n_free, settings, np.random.default_rng(seed))
        seconds.append(time.perf_counter() - start)
        unseen = np.setdiff1d(np.flatnonzero(at_random), rows)
        if len(unseen):
            missed = model.predict(stored.masks[unseen]) - stored.scores[unseen]
            r2.append(1 - missed.var() / stored.scores[unseen].var())
        alone.append(((own - truth) ** 2).mean())
        found = fit_values(surrogate, masks, scores, settings, np.random.default_rng(seed))
        corrected.append(((found.values - truth) ** 2).mean())
    return [
        f"{np.mean(r2):.3f}" if r2 else "all seen",
        f"{np.sqrt(np.mean(alone)):.4f}",
        f"{np.sqrt(np.mean(corrected)):.4f}",
        f"{np.median(seconds):.1f}",
    ]


def regret(stored: Stored, surrogate: Surrogate, n_masks: int) -> float:
    """Of the sets that a search finds, all coalitions being known."""
    n_free = stored.masks.shape[1]
    most = 2 * n_free // 3
    lost = []
    for seed in range(SEEDS):
        game = RemovableGame(stored.evaluate, np.ones(n_free, dtype=bool), n_masks)
        SurrogateSearch().search(game, surrogate, most, np.random.default_rng(seed))
        for n_remove in range(1, most + 1):
            best = stored.scores[(~stored.masks).sum(axis=1) == n_remove].max()
            lost.append(1 - best_score(*removable_sets(game), n_remove) / best)
    return float(np.mean(lost))


def tables(names: list[str]) -> str:
    lines = ["## Which surrogate", ""]
    for name in names:
        stored = load(name)
        n_free = len(stored.free)
        counts = [count for count in COUNTS if n_free < count - n_free - 1 and count <= 0.8 * len(stored.scores)]
        rows = [
            [str(count), label, *accuracy(stored, surrogate, count)]
            for count in counts
            for label, surrogate in SURROGATES.items()
        ]
        header = ["masks", "surrogate", "R2, unseen masks", "RMS error alone", "RMS error corrected", "seconds"]
        lines += [f"{stored.title}; {SEEDS} seeds:", "", markdown(header, rows), ""]
        if stored.enumerated and n_free > 8:
            search = SurrogateSearch()
            required = search.n_required(n_free, 2 * n_free // 3)
            budgets = (required + 20, required + 80, search.n_useful(n_free, 2 * n_free // 3))
            rows = [
                [label, *(f"{100 * regret(stored, surrogate, budget):.3f}" for budget in budgets)]
                for label, surrogate in SEARCHED_BY.items()
            ]
            header = ["the search's surrogate", *(f"regret, %, of {budget} masks" for budget in budgets)]
            lines += [markdown(header, rows), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", nargs="+", default=[name for name in stored_names() if name != "stories260k"], choices=NAMES
    )
    parser.add_argument("--write", type=Path, help="a page; between its markers <!-- tables: begin --> and end")
    options = parser.parse_args()
    text = f"{provenance()}\n\n{tables(options.model)}"
    print_or_write(text, options.write)


if __name__ == "__main__":
    main()
