"""Text in parts: sets that drop out of a race, and the final choice on text that the search has not seen."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from layershap import Calibration, Exhaustive, Greedy, LayerGame, LayerPruner, SurrogateSearch
from layershap.fitting.final_choice import final_choice
from layershap.fitting.removable_game import RemovableGame
from layershap.fitting.stability import removal_probabilities
from layershap.fitting.text import TextParts, split_text
from layershap.fitting.text_game import TextGame
from layershap.protocols import SelectionEvidence, SequenceStatistics
from layershap.shapley import all_masks
from layershap.utilities import NegativeLogLikelihood, PerplexityRatio
from layershap.utilities.jackknife import paired_differences

from .helpers.texts import STORY


@pytest.fixture(scope="module")
def texts(stories):
    return Calibration.from_texts([STORY * 16], stories[1], seq_len=16, n_sequences=64)


def opened(stories, text):
    return TextGame(LayerGame(stories[0], text.parts[0]), text)


@pytest.mark.parametrize(
    ("n_sequences", "searched", "held_back"),
    [
        (1, [1], 0),
        (6, [4, 2], 0),
        (10, [4, 6], 0),
        (31, [4, 4, 8, 15], 0),
        (32, [4, 4, 8, 8], 8),
        (128, [4, 4, 8, 16, 32, 32], 32),
    ],
)
def test_text_in_parts(n_sequences, searched, held_back):
    ids = torch.arange(n_sequences * 4).reshape(n_sequences, 4)
    text = split_text(Calibration(ids, ids.clone()), races=True, held_back=0.25)
    assert [part.n_sequences for part in text.searched] == searched
    assert (text.held_back.n_sequences if text.held_back else 0) == held_back
    seen = torch.cat([part.ids_ST for part in text.parts])
    assert torch.equal(seen.sort(dim=0).values, ids)
    whole = split_text(Calibration(ids, ids.clone()), races=False, held_back=0.25)
    assert len(whole.searched) == 1


def test_scores_on_the_parts_are_those_on_the_whole(stories, texts):
    text = split_text(texts, races=True, held_back=0.25)
    together = Calibration.concatenate(text.searched)
    masks = all_masks(5)
    with opened(stories, text) as game, LayerGame(stories[0], together) as whole:
        assert game.scores(masks, len(text.searched)) == pytest.approx(whole(masks), abs=1e-6)
        assert game.n_sequences(2) == 8
        # The whole model by itself first, 5 layer runs, then the 30 that the other masks need.
        assert game.layer_run_tokens == 35 * 48 * 16


def test_the_error_of_a_paired_difference_is_that_of_a_mean():
    """For a utility that is linear in the sequences the jackknife gives the textbook error."""
    rng = np.random.default_rng(0)
    nll = rng.gamma(4.0, 1.0, (2, 40))
    statistics = SequenceStatistics({"nll": nll}, {"nll": nll[0]}, np.ones(40))
    ahead, errors = paired_differences(NegativeLogLikelihood(), statistics)
    difference = nll[0] - nll[1]
    assert ahead[0] == pytest.approx(difference.mean())
    assert errors[0] == pytest.approx(difference.std(ddof=1) / np.sqrt(40))
    lost = SequenceStatistics({"nll": np.where(np.arange(2)[:, None] == 0, np.nan, nll)}, {"nll": nll[0]}, np.ones(40))
    assert paired_differences(NegativeLogLikelihood(), lost)[0][0] == np.inf


@pytest.mark.parametrize("selector", [SurrogateSearch(held_back=0.0), Greedy(), Exhaustive()], ids=repr)
def test_a_race_finds_what_an_evaluation_of_everything_finds(stories, texts, selector):
    raced = LayerPruner(selector=selector, max_remove=3, random_state=0).fit(stories[0], texts)
    whole = LayerPruner(selector=selector, max_remove=3, random_state=0, confidence=1.0).fit(stories[0], texts)
    for n_remove in (1, 2, 3):
        assert raced.removed_layers(n_remove) == whole.removed_layers(n_remove)
    assert raced.diagnostics_["layer_run_tokens"] < 0.8 * whole.diagnostics_["layer_run_tokens"]


def test_what_drops_out_is_worse_on_all_of_the_text(stories, texts):
    text = split_text(texts, races=True)
    masks = all_masks(5)[1:-1]
    with opened(stories, text) as game:
        record = RemovableGame(game, np.ones(5, dtype=bool), 30, confidence=0.999, n_parts=len(text.searched))
        scores = record.race(masks)
        assert 4 <= record.complete.sum() < 30
        on_all = game.scores(record.masks, len(text.searched))
    sizes = record.masks.sum(axis=1)
    for size in range(1, 5):
        of_size = sizes == size
        assert record.complete[of_size][np.argmax(on_all[of_size])]
    assert scores[record.complete] == pytest.approx(on_all[record.complete])
    assert np.array_equal(record.race(masks), scores)  # nothing is evaluated again
    assert np.array_equal(record(masks), on_all)  # what dropped out is made up for, if asked for
    with pytest.raises(ValueError, match=r"keep within game\.n_left"):
        record.race(all_masks(5))


class Played:
    """What `final_choice` asks of a game, for statistics made up for the purpose."""

    utility = PerplexityRatio()
    n_parts = 2

    def __init__(self, nll, n_held_back=8):
        self.nll = nll
        ids = torch.zeros((32, 2), dtype=torch.long)
        searched, *held = (Calibration(part, part.clone()) for part in ids.split(32 - n_held_back))
        self.text = TextParts(searched, (searched,), *held or [None])

    def statistics(self, masks, n_parts):
        sums = np.array([self.nll[tuple(np.flatnonzero(~mask))] for mask in masks])
        return SequenceStatistics({"nll": sums}, {"nll": np.ones(32)}, np.ones(32))


def played(unseen, searched=0.9):
    """Greedy's set is layer 0; layer 1's is a little better on the searched text."""
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.normal(size=32)
    nll = {(layer,): 2.0 + noise for layer in range(4)}
    nll[(1,)] = nll[(1,)] - np.where(np.arange(32) < 24, 1 - searched, -unseen)
    return nll, ~np.eye(4, dtype=bool)


@pytest.mark.parametrize(("unseen", "chosen"), [(0.05, 0), (-0.05, 1)])
def test_a_set_that_merely_fits_the_searched_text_loses(unseen, chosen):
    nll, masks = played(unseen)
    # On the searched text greedy's path goes by layer 0 here: ties go to the lower layer, and 1 was found later.
    scores = np.array([0.40, 0.39, 0.38, 0.37])
    found = final_choice(Played(nll), masks, scores, 1)
    assert np.array_equal(np.flatnonzero(~found.masks[0]), [chosen])
    assert found.n_sequences == 8
    (comparison,) = found.comparisons
    # The score is of the text held back only.
    assert comparison.score == pytest.approx(np.exp(1 - nll[(chosen,)][24:].mean()), rel=1e-6)
    assert (comparison.over_greedy > 0) == (chosen == 1)
    assert (comparison.over_greedy_error > 0) == (chosen == 1)
    assert final_choice(Played(nll, n_held_back=0), masks, scores, 1) is None


def test_a_set_that_breaks_on_the_text_held_back_is_not_chosen():
    nll, masks = played(unseen=0.05)
    nll[(0,)][30] = np.nan  # greedy's, on one sequence: an overflow, say
    found = final_choice(Played(nll), masks, np.array([0.40, 0.39, 0.38, 0.37]), 1)
    assert np.flatnonzero(~found.masks[0])[0] in (1, 2, 3)
    assert np.isfinite(PerplexityRatio().score(found.statistics.of_masks(np.array([1]))))


def test_a_single_sequence_is_not_held_back(texts):
    assert split_text(texts, races=True, held_back=1 / 64).held_back is None
    assert split_text(texts, races=True, held_back=2 / 64).held_back.n_sequences == 2


@pytest.mark.parametrize(("unseen", "chosen"), [(0.05, 0), (-0.05, 1)])
def test_how_sure_a_choice_is_is_told_by_the_rule_that_made_it(unseen, chosen):
    """On whatever sequences layer 1 does better where the search looked; how it does elsewhere decides."""
    nll, masks = played(unseen)
    scores, removable = np.array([0.40, 0.39, 0.38, 0.37]), np.ones(4, dtype=bool)
    game = Played(nll)
    final = final_choice(game, masks, scores, 1)
    chooses_by = SelectionEvidence(np.zeros(4), removable, None, masks, scores, (), final.masks)
    evidence = SimpleNamespace(final=final, max_remove=1, removable=removable)
    contributions = SimpleNamespace(for_selection=lambda evidence: chooses_by, resampled_values=np.empty((0, 4)))
    found = removal_probabilities(game, evidence, contributions, SurrogateSearch(), np.random.default_rng(0))
    assert found.tolist() == [[float(layer == chosen) for layer in range(4)]]


def test_comparisons_of_a_fit(stories, texts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = LayerPruner(max_remove=3, random_state=0).fit(stories[0], texts)
    text = split_text(texts, races=True, held_back=0.25)
    assert pruner.diagnostics_["calibration"]["n_held_back"] == 16 == text.held_back.n_sequences
    with LayerGame(stories[0], text.held_back) as game:
        for n_remove, comparison in enumerate(pruner.comparisons_, start=1):
            mask = pruner.get_support(n_remove)
            assert np.array_equal(mask, pruner.final_masks_[n_remove - 1])
            assert comparison.score == pytest.approx(game(mask[None])[0], rel=0.1)
            assert pruner.removal_scores_[n_remove - 1] == comparison.score
            assert comparison.score_error > 0
    unseen = LayerPruner(selector=SurrogateSearch(held_back=0.0), max_remove=3, random_state=0).fit(stories[0], texts)
    assert unseen.comparisons_ is None
    assert unseen.final_masks_ is None
    assert np.isfinite(unseen.removal_scores_).all()
