"""Limits as users give them: one rule for integers, and one for how many layers can go."""

from __future__ import annotations

import numpy as np
import pytest

from layershap import LayerGame, LayerPruner
from layershap.limits import check_int, check_max_remove, check_n_remove, most_removable, resolved_max_remove


def test_numpy_integers_are_integers(stories, stories_calibration):
    settings = {"batch_tokens": np.int64(64), "memory_budget": np.int32(10**6)}
    game = LayerGame(stories[0], stories_calibration, **settings)
    assert (game.engine.settings.batch_tokens, game.engine.settings.memory_budget) == (64, 10**6)
    wrongs = ((0, ValueError), (np.int64(-1), ValueError), (2.0, TypeError), (True, TypeError), ("all", TypeError))
    for wrong, error in wrongs:
        with pytest.raises(error, match="batch_tokens must be an int of at least 1, or 'auto', got"):
            LayerGame(stories[0], stories_calibration, batch_tokens=wrong)
    with pytest.raises(TypeError, match=r"got the int 1; write \[1\]"):
        LayerPruner(protect=np.int64(1)).fit(stories[0], stories_calibration)


def test_one_check_of_ints_names_the_parameter_its_range_and_what_it_got():
    assert type(check_int("n", np.int32(3), 1, 3)) is int
    assert check_int("n", -7) == -7
    for wrong, error, message in (
        ((2.0,), TypeError, r"n must be an int, got 2\.0"),
        ((np.bool_(True), 0), TypeError, r"n must be an int of at least 0, got (np\.True_|True)"),
        ((None, 1, 4), TypeError, r"n must be an int in \[1, 4\], got None"),
        ((5, 1, 4), ValueError, r"n must be an int in \[1, 4\], got 5"),
        (("3", 1), TypeError, "n must be an int of at least 1, got '3'"),
    ):
        with pytest.raises(error, match=rf"^{message}$"):
            check_int("n", *wrong)
    with pytest.raises(ValueError, match=r"^n must be an int of at least 1, or 'auto' \(of tokens\), got 0$"):
        check_int("n", 0, 1, other="'auto'", meaning="of tokens")


def test_one_rule_for_how_many_layers_can_go():
    five_of_six = np.array([True, True, True, True, True, False])
    assert most_removable(6, 6) == 5  # one layer stays
    assert [resolved_max_remove(None, players, 6) for players in (1, 2, 4, 6)] == [1, 2, 3, 4]
    assert check_n_remove(0.5, five_of_six) == 3  # a fraction is one of all layers
    assert check_n_remove(0.01, five_of_six) == 1
    with pytest.raises(ValueError, match=r"n_remove must lie in \[1, 5\] .* 5 of them removable; got 6"):
        check_n_remove(6, five_of_six)
    with pytest.raises(ValueError, match=r"n_remove=5 exceeds max_remove=4, .* give max_remove=5"):
        check_max_remove(None, 5, five_of_six)
