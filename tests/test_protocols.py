"""The protocols: each member says when it is called, and the package's own parts are what they are taken for."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from layershap import (
    BestSurrogate,
    BootstrapEnsemble,
    HammingProcess,
    LayerGame,
    LayerPruner,
    LinearRidge,
    PairwiseRidge,
    PaperMLP,
    StratifiedSampler,
    protocols,
    selection,
    shapley,
    utilities,
)
from layershap.baselines import ShortGPT, SliceGPT
from layershap.compensation import Compensation, RefusesEarly, ScalesSkippedLayers
from layershap.surrogates.fresh import fresh_surrogate
from layershap.utilities import ChoiceAccuracy
from layershap.utilities.choice import layout_of
from tests.helpers.samplers import SpreadSampler

HOOKS = [
    value for value in vars(protocols).values() if inspect.isclass(value) and getattr(value, "_is_protocol", False)
]
PROTOCOLS = [*HOOKS, Compensation, RefusesEarly, ScalesSkippedLayers]


def members(protocol):
    """What a protocol itself asks for."""
    return {
        name: value.fget if isinstance(value, property) else value
        for name, value in vars(protocol).items()
        if isinstance(value, property) or (inspect.isfunction(value) and name not in ("__init__", "__subclasshook__"))
    }


def test_the_hooks_are_protocols():
    assert {protocol.__name__ for protocol in HOOKS} <= set(protocols.__all__)
    hooks = {name for protocol in PROTOCOLS for name in members(protocol)}
    assert hooks >= {"resample", "per_question", "strata", "leave_one_out", "interaction_values", "random_state"}
    assert hooks >= {"held_back", "uniform_within_sizes", "shapley_values", "refitted_values", "n_players"}


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.__name__)
def test_every_member_says_when_it_is_called(protocol):
    for name, member in members(protocol).items():
        lines = [line.strip() for line in inspect.getdoc(member).splitlines()]
        said = [line for line in lines if line.startswith(("Called when ", "Read when "))]
        assert len(said) == 1, f"{protocol.__name__}.{name}"
        assert lines[lines.index(said[0]) - 1] == "", f"{protocol.__name__}.{name}: a paragraph of its own"


def choice():
    return ChoiceAccuracy(layout_of([[0, 1]], [0], [1, 1], [1, 1]))


@pytest.mark.parametrize(
    ("part", "kinds", "others"),
    [
        (choice(), {"ResamplingUtility", "QuestionUtility"}, set()),
        (utilities.ExactMatch(), {"QuestionUtility"}, {"ResamplingUtility"}),
        (utilities.PerplexityRatio(), {"Utility"}, {"ResamplingUtility", "QuestionUtility"}),
        (StratifiedSampler(), {"StrataSampler", "LeaveOneOutSampler", "UniformSampler"}, {"AdaptiveSampler"}),
        (SpreadSampler(), {"StrataSampler", "AdaptiveSampler"}, {"LeaveOneOutSampler", "UniformSampler"}),
        (
            HammingProcess(),
            {"ClosedFormSurrogate", "InteractionSurrogate", "RefittableSurrogate", "Parametrised"},
            {"Seeded"},
        ),
        (PaperMLP(), {"Surrogate", "Seeded"}, {"ClosedFormSurrogate", "InteractionSurrogate", "RefittableSurrogate"}),
        (BootstrapEnsemble(), {"Surrogate", "Seeded"}, {"ClosedFormSurrogate"}),
        (LinearRegression(), {"Surrogate", "Parametrised"}, {"Seeded", "ClosedFormSurrogate"}),
        (selection.SurrogateSearch(), {"SearchingSelector", "HoldsBack"}, set()),
        (selection.Greedy(), {"SearchingSelector"}, {"HoldsBack"}),
        (selection.ShapleyRanking(), {"Selector"}, {"SearchingSelector", "HoldsBack"}),
        (LayerPruner(), {"DepthPruningMethod", "NarrowingMethod"}, {"ReportsCosts", "CountsLayers"}),
        (ShortGPT(), {"DepthPruningMethod"}, {"ReportsCosts", "CountsLayers"}),
        (SliceGPT(), {"NarrowingMethod"}, {"DepthPruningMethod"}),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, set) else "",
)
def test_the_packages_parts_are_what_they_are_taken_for(part, kinds, others):
    for kind in kinds:
        assert isinstance(part, getattr(protocols, kind)), kind
    for kind in others:
        assert not isinstance(part, getattr(protocols, kind)), kind


def test_the_best_surrogate_can_do_what_the_chosen_one_can():
    masks = np.random.default_rng(0).random((60, 6)) < 0.7
    scores = masks @ np.arange(1.0, 7.0)
    best = BestSurrogate([LinearRidge(), PairwiseRidge()], random_state=0).fit(masks, scores)
    assert isinstance(best, protocols.ClosedFormSurrogate)
    assert isinstance(best, protocols.RefittableSurrogate)
    assert isinstance(best, protocols.InteractionSurrogate)
    best.set_params(candidates=[PaperMLP(epochs=2)]).fit(masks, scores)
    assert not isinstance(best, protocols.ClosedFormSurrogate)
    assert not isinstance(best, protocols.RefittableSurrogate)
    assert not isinstance(best, protocols.InteractionSurrogate)


def test_a_seed_is_set_only_where_there_is_none():
    assert fresh_surrogate(PaperMLP(), 7).random_state == 7
    assert fresh_surrogate(PaperMLP(random_state=3), 7).random_state == 3
    assert "random_state" not in fresh_surrogate(LinearRegression(), 7).get_params()

    class Plain:
        """No estimator: copied as it is, its own seed included."""

        random_state = None

        def fit(self, masks, scores):
            return self

        def predict(self, masks):
            return np.zeros(len(masks))

    plain = Plain()
    fresh = fresh_surrogate(plain, 7)
    assert fresh is not plain
    assert fresh.random_state is None


def test_a_game_that_counts_its_players_need_not_be_told(stories):
    def additive(masks):
        return masks @ np.array([1.0, 2.0, 4.0])

    with pytest.raises(ValueError, match="n_players is needed"):
        shapley.exact(additive)
    additive.n_players = 3
    assert shapley.exact(additive) == pytest.approx([1, 2, 4])
    assert isinstance(LayerGame(stories[0], np.arange(20).reshape(2, 10)), protocols.CountedGame)
