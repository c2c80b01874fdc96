"""The values' standard errors against the truth, on evaluations of real models that the repository keeps.

They are those of `docs/values.md`: `python -m benchmarks.values.values table` prints its figures from them.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from layershap import HammingProcess, PairwiseRidge
from layershap.fitting.values import fit_values
from layershap.shapley import SampledMasks


@pytest.fixture(scope="module")
def values():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        from benchmarks.values import values

        yield values


@pytest.fixture(scope="module")
def of_the_default(values):
    """The default's quality at its default masks, by the model's name."""

    @functools.cache
    def quality(name):
        stored = values.load(name)
        return values.quality(stored, HammingProcess(), 9 * len(stored.free))

    return quality


@pytest.mark.parametrize(
    ("name", "least_within_two", "least_rank"),
    [
        ("gpt2", 0.93, 0.95),
        ("mamba2", 0.92, 0.95),  # 0.93 was aimed at: the page says that it is missed
        ("smollm2", 0.93, 0.9),
        pytest.param("llama24", 0.93, 0.9, marks=pytest.mark.slow),
        pytest.param("llama32", 0.93, 0.9, marks=pytest.mark.slow),
    ],
)
def test_the_defaults_values_are_as_sure_as_they_say(of_the_default, name, least_within_two, least_rank):
    found = of_the_default(name)
    assert 0.6 <= found.within_one <= 0.76
    assert found.within_two >= least_within_two
    assert found.rank >= least_rank
    assert found.wrong_signs == 0


@pytest.mark.parametrize("name", ["gpt2", "smollm2"])
def test_the_default_surrogate_is_nearer_to_the_truth_than_a_pairwise_ridge(values, of_the_default, name):
    stored = values.load(name)
    assert of_the_default(name).error < values.quality(stored, PairwiseRidge(), 9 * len(stored.free)).error


def test_a_published_models_values_agree_with_direct_monte_carlo(values):
    """Of layers 7, 14, 26 and 10 an earlier version got the sign or the order wrong."""
    stored = values.load("smollm2")
    every = SampledMasks(stored.masks, stored.settings.semivalue(stored.masks.shape[1]))
    direct, direct_errors = every.values(stored.scores), every.standard_errors(stored.scores)
    rows = stored.drawn(0, 9 * len(stored.free))
    fit = fit_values(
        HammingProcess(), stored.masks[rows], stored.scores[rows], stored.settings, np.random.default_rng(0)
    )
    apart = np.abs(fit.values - direct) / np.hypot(fit.mask_errors, direct_errors)
    asked = np.isin(stored.free, [7, 14, 26, 10])
    assert asked.sum() == 4
    assert apart[asked].max() < 2
    assert (apart < 2).mean() > 0.9
    assert (direct[asked] > 2 * direct_errors[asked]).all()


@pytest.mark.parametrize("name", ["gpt2", "mamba2"])
def test_errors_by_few_masks_cover_or_are_unknown(values, name):
    """Sizes of which no mask was drawn are told from those that were: by two masks at random, but not by one."""
    stored = values.load(name)
    truth, _ = stored.truth()
    within = []
    for seed in range(16):
        rows = stored.drawn(seed, 3)
        sampled = SampledMasks(stored.masks[rows], stored.settings.semivalue(stored.masks.shape[1]))
        assert sampled.at_random.sum() == 2
        fewer = np.delete(rows, np.flatnonzero(sampled.at_random)[0])
        for n_random, drawn in ((2, rows), (1, fewer)):
            fit = fit_values(
                HammingProcess(),
                stored.masks[drawn],
                stored.scores[drawn],
                stored.settings,
                np.random.default_rng(seed),
            )
            assert fit.missing
            if n_random == 1:
                assert np.isnan(fit.mask_errors).all()
            else:
                within.append(np.abs(fit.values - truth) <= 2 * fit.mask_errors)
    assert np.mean(within) > 0.93


def test_errors_by_the_text_are_those_of_other_text(values):
    """The same masks of the bundled GPT-2 on twelve sets of 32 sequences, against all 384."""
    from benchmarks.values import text_errors

    off, stated = text_errors.coverage(32)
    assert off.shape == (12, 11)
    assert (np.abs(off) <= 2 * stated).mean() >= 0.93
    assert np.sqrt((off**2).mean()) == pytest.approx(np.sqrt((stated**2).mean()), rel=0.2)
