"""Values that can't be trusted are said to be so: made-up games of a model's layers, one for each doubt."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from layershap import LayerPruner, ShapleyRanking, StratifiedValues
from layershap.datasets import tiny_random
from layershap.display import ContributionDisplay
from layershap.exceptions import ValueQualityWarning

from .helpers.texts import IDS

ALL_PLAY = StratifiedValues(keep_veto=False)


def game_of(score):
    """A utility: what `score` makes of which layers a model of GPT-2's kind runs, [L] of bool."""

    def utility(model):
        layers = model.transformer.h
        runs = np.zeros(len(layers), dtype=bool)
        hooks = [
            layer.attn.register_forward_hook(lambda *_, index=index: runs.__setitem__(index, True))
            for index, layer in enumerate(layers)
        ]
        with torch.no_grad():
            model(IDS[:1])
        for hook in hooks:
            hook.remove()
        return float(score(runs))

    return utility


def doubts_of(model, score, **parameters):
    """A fit, and what its warnings said."""
    pruner = LayerPruner(utility=game_of(score), random_state=0, **parameters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pruner.fit(model, IDS)
    said = [str(warning.message) for warning in caught]
    return pruner, " | ".join(said)


def test_a_model_that_any_layer_s_removal_loses_is_named(tiny):
    pruner, said = doubts_of(tiny, lambda kept: 1.0 if kept.all() else 0.2 * kept.mean(), n_masks=60)
    assert "lost without any one of 5 of its 5 removable layers" in said
    assert len(pruner.veto_players_) == 0
    _, said = doubts_of(tiny, lambda kept: 1 / (6 - kept.sum()), n_masks=60)
    assert "lost without" not in said


def test_veto_players_whose_value_is_unknown_are_named():
    """Nine of twelve layers: eighty masks leave a handful for the values."""
    model = tiny_random("gpt2", n_layers=12)
    pruner, said = doubts_of(model, lambda kept: (1.0 if kept[:9].all() else 0.05) * (1 + kept.mean()), n_masks=80)
    assert pruner.veto_players_.tolist() == list(range(9))
    assert np.isnan(pruner.contributions_[:9]).all()
    assert "the values of the veto players [0, 1, 2, 3, 4, 5, 6, 7, 8] are unknown" in said


def test_with_few_masks_the_errors_are_unknown_not_zero(tiny):
    """The leave-one-outs and a search: nothing is left for masks drawn at random."""
    pruner, said = doubts_of(tiny, lambda kept: kept.mean(), n_masks=6, selector=ShapleyRanking(), values=ALL_PLAY)
    assert "of which no mask was drawn" in said
    assert np.isnan(pruner.contributions_std_).all()
    assert np.isfinite(pruner.contributions_).all()
    assert "nan" not in str(pruner.report_).lower()


def test_masks_without_a_finite_score_bias_the_values_and_are_counted(tiny):
    pruner, said = doubts_of(
        tiny, lambda kept: kept.mean() if kept.sum() != 3 or kept[1] else np.nan, n_masks=30, values=ALL_PLAY
    )
    drawn = pruner.masks_[: pruner.diagnostics_["n_drawn"]]
    lost = int((~np.isfinite(pruner.scores_[: len(drawn)])).sum())
    assert lost > 0
    assert f"{lost} of the masks drawn for the values have no finite score and are left out" in said


def test_values_that_noise_drowns_are_not_told_apart(tiny):
    rng = np.random.default_rng(0)
    scores = {}
    _, said = doubts_of(
        tiny, lambda kept: scores.setdefault(kept.tobytes(), rng.normal()), n_masks=18, values=ALL_PLAY, max_remove=2
    )
    assert "don't tell the layers' values apart" in said


def test_a_value_of_another_sign_than_the_leave_one_out_is_in_doubt_everywhere():
    """Layer 2 helps all others together, and is a burden to any fewer."""
    pruner, said = doubts_of(
        tiny_random("gpt2", n_layers=9),
        lambda kept: kept.mean() + (0.1 if kept.all() else -0.5 * kept[2] + 0.1 * (kept[0] ^ kept[3])),
        n_masks=90,
        values=ALL_PLAY,
    )
    assert pruner.contributions_[2] < 0
    assert "the values of layers [2] have another sign" in said
    assert pruner.diagnostics_["doubtful"] == [2]
    report = pruner.report_
    assert [layer.remark for layer in report.layers].count("in doubt") == 1
    assert "in doubt" in str(report)
    display = ContributionDisplay.from_report(report)
    assert np.flatnonzero(display.in_doubt).tolist() == [2]


def test_values_of_all_coalitions_are_not_doubted(tiny):
    """Two removable layers: the surrogate that four masks leave is poor, and not needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ValueQualityWarning)
        pruner, said = doubts_of(tiny, lambda kept: (kept[3] ^ kept[4]) + kept[3] + 2 * kept[0], protect=[0, 1, 2])
    assert "held-out masks poorly" not in said
    assert np.isfinite(pruner.contributions_[3:]).all()
