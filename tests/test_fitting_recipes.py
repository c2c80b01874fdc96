"""The authors' recipes: their strata on their own models' depths, their fractions on others, and one real fit."""

from __future__ import annotations

import numpy as np
import pytest

from layershap import LayerPruner
from layershap.fitting.recipes import PAPER_RECIPES
from layershap.samplers import PAPER_FRACTIONS, strata_sizes
from layershap.surrogates import PaperMLP


@pytest.mark.parametrize("model", PAPER_RECIPES)
def test_the_strata_are_the_authors_on_the_depth_of_their_model(model):
    recipe = PAPER_RECIPES[model]
    pruner = LayerPruner.paper(model=model)
    assert strata_sizes(pruner.sampler.strata, recipe.n_layers) == list(recipe.kept)
    masks = pruner.sampler.sample(recipe.n_layers, 10 * len(recipe.kept), np.random.default_rng(0))
    sizes, counts = np.unique(masks.sum(axis=1), return_counts=True)
    assert sizes.tolist() == sorted(recipe.kept)
    assert set(counts) == {10}


@pytest.mark.parametrize(
    ("model", "n_masks", "epochs", "decay_every", "n_marginals"),
    [
        ("llama", 8_000, 300, 100, 80_000),
        ("mamba", 10_000, 300, 100, 150_000),
        ("rwkv", 12_000, 200, None, 80_000),
        ("gptq", 8_000, 300, 100, 80_000),
    ],
)
def test_masks_epochs_and_marginals_are_the_scripts(model, n_masks, epochs, decay_every, n_marginals):
    pruner = LayerPruner.paper(model=model)
    assert pruner.n_masks == n_masks
    assert pruner.surrogate.get_params() == PaperMLP(epochs=epochs, decay_every=decay_every).get_params()
    assert pruner.values.n_marginals == n_marginals
    assert pruner.sampler.replace
    assert LayerPruner.paper(model=model, n_masks=7).n_masks == 7


def test_llama_is_the_default_and_has_the_papers_fractions():
    one, other = (LayerPruner.paper(3, random_state=1, **chosen) for chosen in ({}, {"model": "llama"}))
    assert repr(one) == repr(other)
    assert one.sampler.strata is None
    assert PAPER_RECIPES["llama"].fractions == PAPER_FRACTIONS
    assert PAPER_RECIPES["rwkv"].fractions == PAPER_FRACTIONS[:4]


def test_an_unknown_model_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"\['gptq', 'llama', 'mamba', 'rwkv'\], got 'gpt2'"):
        LayerPruner.paper(model="gpt2")


@pytest.mark.filterwarnings("ignore::layershap.SurrogateQualityWarning", "ignore::layershap.ValueQualityWarning")
def test_a_fit_draws_from_the_recipes_fractions_of_another_depth(gpt2, gpt2_calibration):
    pruner = LayerPruner.paper(model="mamba", n_masks=56, random_state=0)
    pruner.set_params(surrogate__epochs=20, values__n_marginals=500)
    pruner.fit(gpt2[0], gpt2_calibration)
    sizes, counts = np.unique(pruner.masks_.sum(axis=1), return_counts=True)
    # Of 12 layers the fractions 60/64 and 56/64 keep 11 both.
    assert dict(zip(sizes.tolist(), counts.tolist(), strict=True)) == {6: 8, 7: 8, 8: 8, 9: 8, 10: 8, 11: 16}
    assert pruner.transform(gpt2[0], n_remove=4).config.n_layer == 8
