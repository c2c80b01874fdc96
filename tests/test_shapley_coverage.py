"""Standard errors cover what errors of their kind cover: over random games, one and two of them about the estimate.

Each run has a game and draws of its own, and counts once, by one player (or pair): those of one run depend on each
other, as values add up. The share of runs is held to that of Student's t for the errors' degrees of freedom, within
four binomial standard deviations.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from layershap import PairwiseRidge, StratifiedSampler, shapley
from layershap.fitting.values import ValueSettings, fit_values
from layershap.protocols import SequenceStatistics
from layershap.samplers.distinct import draw_distinct
from layershap.shapley import SampledMasks, Semivalue, all_masks
from layershap.utilities import PerplexityRatio
from layershap.utilities.jackknife import paired_differences

N_PLAYERS = 7
MASKS = all_masks(N_PLAYERS)
STRATA = [6, 3]


def check_coverage(distances: np.ndarray, freedom: int) -> None:
    """Distances from the truth in stated errors, one for each run."""
    assert np.isfinite(distances).all()
    for within in (1, 2):
        stated = student.cdf(within, freedom) - student.cdf(-within, freedom)
        chance = 4 * np.sqrt(stated * (1 - stated) / len(distances))
        assert np.mean(np.abs(distances) < within) == pytest.approx(stated, abs=chance), within


def run(seed: int):
    """A random game (a table and a function) and a generator."""
    rng = np.random.default_rng([seed, N_PLAYERS])
    table = rng.normal(size=len(MASKS))
    return table, lambda masks: table[np.asarray(masks) @ (1 << np.arange(N_PLAYERS))], rng


@pytest.mark.parametrize("antithetic", [True, False])
def test_of_permutations(antithetic):
    distances = []
    for seed in range(1000):
        table, game, rng = run(seed)
        found = shapley.permutation(game, 80, rng=rng, n_players=N_PLAYERS, antithetic=antithetic)
        distances.append((found.values[0] - shapley.exact_from_table(table)[0]) / found.standard_errors[0])
    check_coverage(np.array(distances), 39 if antithetic else 79)


def test_of_kernel_regression():
    distances = []
    for seed in range(1000):
        table, game, rng = run(seed)
        found = shapley.kernel(game, 200, rng=rng, n_players=N_PLAYERS)
        distances.append((found.values[0] - shapley.exact_from_table(table)[0]) / found.standard_errors[0])
    check_coverage(np.array(distances), len(found.draws) - 1)


def test_of_stratified_marginals():
    distances = []
    semivalue = Semivalue.of_strata(N_PLAYERS, STRATA)
    for seed in range(1000):
        table, game, rng = run(seed)
        found = shapley.stratified_marginals(game, N_PLAYERS, STRATA, 100, rng)
        distances.append((found.values[0] - semivalue.of_table(MASKS, table)[0]) / found.standard_errors[0])
    check_coverage(np.array(distances), 99)


def test_of_sampled_interactions():
    distances = []
    for seed in range(600):
        table, game, rng = run(seed)
        found = shapley.sampled_interactions(game, 60, rng=rng, n_players=N_PLAYERS)
        truth = shapley.interactions_from_table(table, "STII").pairs
        distances.append((found.pairs[0, 1] - truth[0, 1]) / found.pair_errors[0, 1])
    check_coverage(np.array(distances), 59)


@pytest.mark.parametrize("weights", ["shapley", "strata"])
@pytest.mark.parametrize("surrogate", [None, PairwiseRidge()], ids=["masks alone", "pairwise"])
def test_of_masks_drawn(weights, surrogate):
    """A third to a half of the masks of the sizes that enter, so that what is enumerated, or nearly, counts too."""
    semivalue = Semivalue.shapley(N_PLAYERS) if weights == "shapley" else Semivalue.of_strata(N_PLAYERS, STRATA)
    strata = None if weights == "shapley" else tuple(STRATA)
    shares = {int(size): float(semivalue.spread[size]) for size in semivalue.sizes}
    distances = []
    for seed in range(600 if surrogate is None else 150):
        table, game, rng = run(seed)
        if surrogate is None:
            masks = draw_distinct(N_PLAYERS, shares, 60, rng, MASKS[:0])
            sampled = SampledMasks(masks, semivalue)
            values, errors = sampled.values(game(masks)), sampled.standard_errors(game(masks))
        else:
            masks = StratifiedSampler(strata or "all", neighbours=True).sample(N_PLAYERS, 60, rng)
            found = fit_values(surrogate, masks, game(masks), ValueSettings(strata, 1, unbiased=True), rng)
            values, errors = found.values, found.mask_errors
        distances.append((values[0] - semivalue.of_table(MASKS, table)[0]) / errors[0])
    check_coverage(np.array(distances), 60)


def test_of_paired_differences_by_text():
    """The lead of one set of layers over another on 24 sequences, of which the text at large has any number."""
    rng = np.random.default_rng(0)
    distances = []
    tokens, dense, first, second = 100.0, 3.0, 0.30, 0.32  # nats per token; what both sets add to them in the mean
    utility = PerplexityRatio()
    for _ in range(800):
        common = rng.normal(0, 0.2, 24)
        sums = [tokens * (dense + common + added + rng.normal(0, 0.05, 24)) for added in (first, second)]
        found = SequenceStatistics(
            {"nll": np.array(sums)}, {"nll": tokens * (dense + common)}, np.full(24, tokens), None
        )
        ahead, error = paired_differences(utility, found)
        distances.append((ahead[0] - (np.exp(-second) - np.exp(-first))) / error[0])
    check_coverage(np.array(distances), 23)
