"""The estimator: its contract, scikit-learn's conventions, and bad input."""

from __future__ import annotations

import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from transformers import AutoModelForCausalLM

from layershap import (
    Calibration,
    LayerGame,
    LayerPruner,
    NonFiniteScoreWarning,
    PairwiseRidge,
    PaperMLP,
    ShapleyRanking,
    ShapleyValues,
    StratifiedSampler,
    StratifiedValues,
    SurrogateQualityWarning,
    UnsupportedModelError,
    shapley,
    utilities,
)
from layershap.datasets import load_calibration_text

from .helpers.texts import IDS


@pytest.fixture(scope="module")
def fitted(gpt2, gpt2_calibration):
    return LayerPruner(n_masks=128, random_state=0).fit(gpt2[0], gpt2_calibration)


@pytest.mark.filterwarnings("ignore::layershap.SurrogateQualityWarning")
def test_the_main_job_on_the_bundled_model(gpt2, tmp_path):
    model, tokenizer = gpt2
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calibration = Calibration.from_texts(load_calibration_text(), tokenizer, n_sequences=16)
    pruner = LayerPruner(n_masks=128, random_state=0).fit(model, calibration)
    small = pruner.transform(model, 4)
    small.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(100, 164)[None]
    with torch.inference_mode():
        assert torch.allclose(reloaded(ids).logits, small(ids).logits, atol=1e-5)
    assert reloaded.config.n_layer == len(reloaded.transformer.h) == 8
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert pruner.diagnostics_["held_out_r2"] > 0.7  # on the 30 masks drawn at random
    assert pruner.diagnostics_["path"] == "fused"
    assert pruner.diagnostics_["n_evaluated"] == len(pruner.masks_) + 1 <= 128 + 2
    assert pruner.diagnostics_["calibration"]["bos"] == "none"


def test_fitted_attributes(fitted):
    assert fitted.n_layers_in_ == 12
    assert fitted.contributions_.shape == fitted.contributions_std_.shape == (12,)
    assert sorted(fitted.removal_order_) == list(range(12))
    assert (np.diff(fitted.contributions_[fitted.removal_order_]) >= 0).all()
    assert fitted.masks_.shape == (len(fitted.scores_), 12)
    assert len(np.unique(fitted.masks_, axis=0)) == len(fitted.masks_) <= 128 + 1
    assert fitted.masks_.dtype == bool
    assert fitted.baseline_score_ == 1.0
    assert fitted.removal_order_[-1] == 0  # everyone's first layer matters most
    assert fitted.max_remove_ == 8
    assert list(fitted.get_support(3, indices=True)) == [i for i in range(12) if i not in fitted.removed_layers(3)]
    assert fitted.get_support(3).sum() == 9


def test_values_agree_with_enumeration(stories, stories_calibration):
    game = LayerGame(stories[0], stories_calibration)
    masks = shapley.all_masks(5)
    sampler = StratifiedSampler([0, 1, 2, 3, 4, 5])
    pruner = LayerPruner(
        n_masks=32,
        sampler=sampler,
        surrogate=PairwiseRidge([1e-6]),
        selector=ShapleyRanking(),
        values=ShapleyValues(keep_veto=False, unbiased=False),
        random_state=0,
    ).fit(stories[0], stories_calibration)
    exact = shapley.exact(game)
    assert len(pruner.masks_) == 32
    assert pruner.scores_ == pytest.approx(game(pruner.masks_), abs=1e-6)
    # The surrogate is fitted on all coalitions; what is left is what pairs can't express.
    best_pairwise = np.abs(pruner.surrogate_.predict(masks) - game(masks)).max()
    assert np.abs(pruner.contributions_ - exact).max() <= 2 * best_pairwise
    assert np.argmax(pruner.contributions_) == np.argmax(exact) == 0


def test_a_seed_gives_the_same_bits(tiny):
    runs = [
        LayerPruner(
            n_masks=20, surrogate=PaperMLP(epochs=30), values=StratifiedValues(n_marginals=500), random_state=seed
        ).fit(tiny, IDS)
        for seed in (3, 3, 4)
    ]
    assert np.array_equal(runs[0].contributions_, runs[1].contributions_)
    assert not np.array_equal(runs[0].contributions_, runs[2].contributions_)


@pytest.mark.filterwarnings("ignore::layershap.SurrogateQualityWarning")
def test_paper_is_the_published_recipe(stories, stories_calibration):
    pruner = LayerPruner.paper(random_state=0)
    assert pruner.n_masks == 8000
    assert pruner.values.n_marginals == 80_000
    assert isinstance(pruner.sampler, StratifiedSampler)
    assert pruner.sampler.replace
    assert isinstance(pruner.surrogate, PaperMLP)
    network = pruner.surrogate.get_params()
    assert (network["epochs"], network["batch_size"], network["learning_rate"]) == (300, 300, 0.008)
    assert isinstance(pruner.selector, ShapleyRanking)
    pruner.set_params(n_masks=100, surrogate__epochs=20, values__n_marginals=1000)
    pruner.fit(stories[0], stories_calibration)
    assert pruner.masks_.shape == (100, 5)
    assert set(pruner.masks_.sum(axis=1)) == {5, 4, 3}
    assert pruner.diagnostics_["n_evaluated"] <= 16


def test_fit_never_depends_on_n_remove_and_keeps_no_model(tiny):
    a, b = (LayerPruner(n, n_masks=20, random_state=0).fit(tiny, IDS) for n in (1, 3))
    assert np.array_equal(a.contributions_, b.contributions_)
    assert len(pickle.dumps(a)) < 50_000
    assert not any(isinstance(value, torch.nn.Module) for value in vars(a).values())


def test_clone_params_pickle_and_html(fitted, gpt2):
    copy = clone(fitted)
    assert copy.get_params(deep=False) == fitted.get_params(deep=False)
    assert not hasattr(copy, "contributions_")
    nested = LayerPruner(sampler=StratifiedSampler()).set_params(sampler__replace=True, n_masks=9)
    assert nested.sampler.replace
    assert nested.n_masks == 9
    back = pickle.loads(pickle.dumps(fitted))
    assert back.removed_layers(5) == fitted.removed_layers(5)
    assert "LayerPruner" in fitted._repr_html_()
    assert "n_masks=128" in repr(fitted)


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_valid_tag_types,
        estimator_checks.check_mixin_order,
    ],
)
def test_named_scikit_learn_checks(check):
    check("LayerPruner", LayerPruner())


@pytest.mark.parametrize("estimator", [StratifiedSampler(), PairwiseRidge(), PaperMLP(), ShapleyRanking()])
@pytest.mark.parametrize(
    "check", [estimator_checks.check_get_params_invariance, estimator_checks.check_no_attributes_set_in_init]
)
def test_parts_follow_the_conventions_too(estimator, check):
    check(type(estimator).__name__, estimator)


def test_fit_checks_rewritten_for_models(tiny):
    """What check_dont_overwrite_attributes, check_dict_unchanged and check_fit_idempotent ask, with a model as X."""
    pruner = LayerPruner(n_masks=20, random_state=0)
    before = dict(vars(pruner))
    assert pruner.fit(tiny, IDS) is pruner
    public = [name for name in vars(pruner) if not name.startswith("_") and name not in before]
    assert all(name.endswith("_") for name in public)
    assert all(vars(pruner)[name] is value for name, value in before.items())
    state = {key: value for key, value in vars(pruner).items() if key != "diagnostics_"}
    pruner.transform(tiny, 2)
    assert all(vars(pruner)[key] is value for key, value in state.items())
    first = pruner.contributions_
    assert np.array_equal(pruner.fit(tiny, IDS).contributions_, first)


class Halver(TransformerMixin, BaseEstimator):
    """A next step of a compression pipeline."""

    def fit(self, model, y=None):
        return self

    def transform(self, model):
        return deepcopy(model).to(torch.bfloat16)

    def __sklearn_is_fitted__(self):
        return True


def test_pipeline_with_another_step_and_two_pruners_chained(tiny):
    small = make_pipeline(LayerPruner(2, n_masks=20, random_state=0), Halver()).fit_transform(tiny, IDS)
    assert len(small.transformer.h) == 3
    assert small.dtype == torch.bfloat16
    pipe = make_pipeline(LayerPruner(1, n_masks=20, random_state=0), LayerPruner(2, n_masks=10, random_state=0))
    twice = pipe.fit_transform(tiny, IDS)
    assert len(twice.transformer.h) == 2
    assert pipe[1].n_layers_in_ == 4
    assert len(tiny.transformer.h) == 5
    with torch.inference_mode():
        assert twice(IDS).logits.isfinite().all()
    assert twice.generate(IDS[:1, :4], max_new_tokens=4, do_sample=False).shape == (1, 8)


def test_in_place(tiny):
    model = deepcopy(tiny)
    pruner = LayerPruner(2, n_masks=20, random_state=0, copy=False).fit(model, IDS)
    assert pruner.transform(model) is model
    assert len(model.transformer.h) == 3


def test_any_scikit_learn_regressor_and_any_object_with_the_methods(tiny):
    forest = RandomForestRegressor(20)
    pruner = LayerPruner(n_masks=25, surrogate=forest, values=StratifiedValues(n_marginals=200), random_state=0).fit(
        tiny, IDS
    )
    assert np.isfinite(pruner.contributions_).all()
    assert not hasattr(forest, "estimators_")

    class Pairs:
        def sample(self, n_layers, n_masks, rng):
            masks = np.ones((n_masks, n_layers), dtype=bool)
            for mask in masks:
                mask[rng.choice(n_layers, 2, replace=False)] = False
            return masks

    class Adaptive(Pairs):
        heard = ()

        def update(self, masks, scores):
            self.heard = (*self.heard, len(masks))

    class KeepEnds:
        def select(self, evidence, n_remove):
            return np.arange(1, 1 + n_remove)

    ranking = LayerPruner(
        n_masks=20, sampler=Pairs(), selector=ShapleyRanking(), values=StratifiedValues(keep_veto=False), random_state=0
    )
    assert ranking.fit(tiny, IDS).masks_.sum() == 60
    adaptive = Adaptive()
    ranking.set_params(sampler=adaptive).fit(tiny, IDS)
    assert adaptive.heard == (5, 10, 15, 20)
    chosen = LayerPruner(n_masks=20, selector=KeepEnds(), random_state=0).fit(tiny, IDS)
    assert chosen.removed_layers(2) == [1, 2]


@pytest.mark.parametrize("utility", [utilities.NegativeLogLikelihood(), utilities.KLDivergence()])
def test_other_utilities(tiny, utility):
    pruner = LayerPruner(n_masks=25, utility=utility, random_state=0).fit(tiny, IDS)
    assert pruner.diagnostics_["path"] == "fused"
    assert (pruner.scores_ <= 0).all()


def test_protected_layers_are_never_removed(tiny):
    pruner = LayerPruner(n_masks=20, protect=[0, 4], max_remove=3, random_state=0).fit(tiny, IDS)
    assert pruner.masks_[:, [0, 4]].all()
    assert np.isnan(pruner.contributions_[[0, 4]]).all()
    assert pruner.removed_layers(3) == [1, 2, 3]
    assert pruner.diagnostics_["protected"] == {0: "named in protect", 4: "named in protect"}
    with pytest.raises(ValueError, match=r"\[1, 3\]"):
        pruner.removed_layers(4)


def test_a_poor_surrogate_warns(tiny):
    with pytest.warns(SurrogateQualityWarning, match="held-out masks poorly"):
        LayerPruner(
            n_masks=20, surrogate=PaperMLP(epochs=1), values=StratifiedValues(n_marginals=100), random_state=0
        ).fit(tiny, IDS)


def test_non_finite_scores_stay_with_their_masks(tiny):
    """A model whose layer 2 overflows when layer 1 is missing: half of the masks have no finite score."""

    def utility(model):
        with torch.no_grad():
            seen = []
            hook = model.transformer.h[1].attn.register_forward_hook(lambda *args: seen.append(1))
            logits = model(IDS[:1]).logits
            hook.remove()
        return float(logits.mean()) if seen else float("nan")

    with pytest.warns(NonFiniteScoreWarning, match="no finite score"):
        pruner = LayerPruner(n_masks=20, utility=utility, random_state=0, values=StratifiedValues(keep_veto=False)).fit(
            tiny, IDS
        )
    assert np.array_equal(np.isnan(pruner.scores_), ~pruner.masks_[:, 1])
    assert pruner.diagnostics_["n_non_finite"] == np.isnan(pruner.scores_).sum() > 0
    assert np.isfinite(pruner.contributions_).all()
    # By default the layer without which there is no score is a veto player, and its value is not known.
    with pytest.warns(NonFiniteScoreWarning, match="no finite score"):
        kept = LayerPruner(n_masks=20, utility=utility, random_state=0).fit(tiny, IDS)
    assert 1 in kept.veto_players_
    assert np.isnan(kept.contributions_[1])
    assert 1 in kept.removal_order_[-len(kept.veto_players_) :]


def test_a_model_with_nan_weights_is_named(tiny):
    broken = deepcopy(tiny)
    with torch.no_grad():
        broken.transformer.ln_f.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the model with all its layers has no finite score on this text .*nan"):
        LayerPruner(n_masks=20, random_state=0).fit(broken, IDS)


@pytest.mark.parametrize(
    ("n_remove", "error", "message"),
    [
        (-1, ValueError, r"\[1, 11\]"),
        (0, ValueError, r"\[1, 11\]"),
        (12, ValueError, r"\[1, 11\]"),
        (2.0, TypeError, "must be an int"),
        (True, TypeError, "must be an int"),
        ([3, 99], TypeError, "remove_layers"),
        (None, ValueError, "how many layers"),
    ],
)
def test_bad_n_remove(fitted, gpt2, n_remove, error, message):
    with pytest.raises(error, match=message):
        fitted.transform(gpt2[0], n_remove)


def test_numpy_ints_are_ints(fitted):
    assert fitted.removed_layers(np.int64(2)) == fitted.removed_layers(2)


def test_bad_use(fitted, tiny, gpt2):
    with pytest.raises(NotFittedError):
        LayerPruner(2).transform(tiny)
    with pytest.raises(NotFittedError):
        LayerPruner(2).get_support()
    with pytest.raises(ValueError, match=r"fitted on a model of 12 players.*the model given has 5"):
        fitted.transform(tiny, 2)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        LayerPruner().fit(np.ones((3, 3)), IDS)
    with pytest.raises(ValueError, match="calibration data is required"):
        LayerPruner().fit(tiny)
    with pytest.raises(ValueError, match="n_masks must exceed"):
        LayerPruner(n_masks=5).fit(tiny, IDS)
    with pytest.raises(TypeError, match="n_masks must be an int"):
        LayerPruner(n_masks=5.5).fit(tiny, IDS)
    with pytest.raises(ValueError, match="protect"):
        LayerPruner(n_masks=20, protect=[0, 1, 2, 3]).fit(tiny, IDS)
    with pytest.raises(ValueError, match=r"\[0, 5\)"):
        LayerPruner(n_masks=20, protect=[7]).fit(tiny, IDS)
    with pytest.raises(TypeError, match=r"values must be StratifiedValues\(\) or ShapleyValues\(\), got 'banzhaf'"):
        LayerPruner(values="banzhaf").fit(tiny, IDS)
    with pytest.raises(UnsupportedModelError):
        LayerPruner().fit(torch.nn.Linear(3, 3), IDS)


def test_half_precision_model(gpt2, gpt2_calibration, fitted):
    model = deepcopy(gpt2[0]).to(torch.bfloat16)
    pruner = LayerPruner(n_masks=128, random_state=0).fit(model, gpt2_calibration)
    assert pruner.transform(model, 3).dtype == torch.bfloat16
    assert np.abs(pruner.contributions_ - fitted.contributions_).max() < 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_model_on_another_device(gpt2, gpt2_calibration, fitted):
    model = deepcopy(gpt2[0]).cuda()
    pruner = LayerPruner(n_masks=128, random_state=0).fit(model, gpt2_calibration)
    assert np.abs(pruner.contributions_ - fitted.contributions_).max() < 1e-2
    assert pruner.transform(model, 3).device.type == "cuda"


def test_former_parameters_are_taken_with_a_warning_that_names_the_new_spelling():
    with pytest.warns(FutureWarning, match=r"write values=ShapleyValues\(keep_veto=False\)"):
        pruner = LayerPruner(2, weights="shapley", keep_veto=False)
    assert isinstance(pruner.values, ShapleyValues)
    assert not pruner.values.keep_veto
    assert "weights" not in pruner.get_params()
    assert 16 <= len(pruner.get_params(deep=False)) <= 19
    with pytest.raises(TypeError, match="values says what"):
        LayerPruner(values=ShapleyValues(), n_marginals=10)
