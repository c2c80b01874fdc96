"""Ledgers read, merged and fitted without their model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from layershap import LayerGame
from layershap.cli import main
from layershap.exceptions import LedgerError, LedgerFormatError, LedgerMismatchError
from layershap.fitting.from_ledger import fit_from_ledger
from layershap.ledger import merge_ledgers, read_ledger
from layershap.shapley import all_masks
from layershap.shapley.enumeration import exact_from_table
from layershap.utilities import KLDivergence, NegativeLogLikelihood


@pytest.fixture(scope="module")
def played(stories, stories_calibration, tmp_path_factory):
    """A ledger of all 32 coalitions, and the scores of its game."""
    path = tmp_path_factory.mktemp("ledgers") / "all.jsonl"
    with LayerGame(stories[0], stories_calibration, ledger=path) as game:
        return path, game(all_masks(5)), game.statistics(all_masks(5))


def part_of(path, out, rows):
    """A ledger of some rows, written by a game that was asked for these."""
    recorded = read_ledger(path)
    from layershap.ledger import Ledger, RowShape

    shape = RowShape(5, tuple(map(int, recorded.counts)), tuple(recorded.sums))
    with Ledger(out, recorded.fingerprint, shape) as ledger:
        ledger.append((recorded.masks[m], {"nll": recorded.sums["nll"][m]}) for m in rows)
    return out


def test_scores_are_those_of_the_game(played):
    path, scores, statistics = played
    recorded = read_ledger(path)
    order = [[tuple(mask) for mask in recorded.masks].index(tuple(mask)) for mask in all_masks(5)]
    assert np.array_equal(recorded.scores()[order], scores)
    assert np.array_equal(recorded.counts, statistics.counts)
    other = NegativeLogLikelihood()
    assert np.array_equal(recorded.scores(other)[order], other.score(statistics))
    with pytest.raises(LedgerError, match=r"KLDivergence reads .* doesn't hold \(it has \['nll'\]\)"):
        recorded.scores(KLDivergence())


def test_values_of_a_whole_game_are_exact(played):
    path, scores, _ = played
    found = fit_from_ledger(path)
    truth = exact_from_table(scores)
    assert np.corrcoef(found.values, truth)[0, 1] > 0.999
    masks = all_masks(5)
    for n_remove, layers in found.sets.items():
        of_size = (~masks).sum(axis=1) == n_remove
        best = masks[of_size][np.argmax(scores[of_size])]
        assert layers == np.flatnonzero(~best).tolist()
    assert "best evaluated set" in str(found)


def test_ledgers_are_merged_and_a_game_resumes_from_the_result(played, stories, stories_calibration, tmp_path):
    path, scores, _ = played
    first, second = part_of(path, tmp_path / "a", range(20)), part_of(path, tmp_path / "b", range(15, 32))
    part_of(path, tmp_path / "b.rank1", range(3))
    before = first.read_bytes(), second.read_bytes()
    found = merge_ledgers([first, second], tmp_path / "both")
    assert len(found.masks) == 32
    assert (first.read_bytes(), second.read_bytes()) == before
    with LayerGame(stories[0], stories_calibration, ledger=tmp_path / "both") as game:
        assert np.array_equal(game(all_masks(5)), scores)
        assert game.n_evaluated == 0


def test_what_does_not_belong_together_is_refused(played, stories, stories_calibration, tmp_path):
    path, _, _ = played
    other = tmp_path / "other"
    LayerGame(stories[0], stories_calibration, ledger=other, batch_tokens=64).close()
    with pytest.raises(LedgerMismatchError, match="batch_tokens"):
        merge_ledgers([path, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="out must be a new file"):
        merge_ledgers([path], other)
    with pytest.raises(ValueError, match="at least one"):
        merge_ledgers([], tmp_path / "out")
    assert len(read_ledger(other).masks) == 0
    with pytest.raises(LedgerError, match="keeps all layers"):
        read_ledger(other).scores()
    with pytest.raises(LedgerError, match="can't be read"):
        read_ledger(tmp_path / "none")
    (tmp_path / "note").write_text("hello\n")
    with pytest.raises(LedgerFormatError, match="no ledger of this version"):
        read_ledger(tmp_path / "note")
    few = part_of(path, tmp_path / "few", [31, 0])
    with pytest.raises(LedgerError, match="four masks"):
        fit_from_ledger(few)


def test_a_callables_scores(stories, stories_calibration, tmp_path):
    path = tmp_path / "l"
    with LayerGame(stories[0], stories_calibration, utility=lambda model: 1.5, ledger=path) as game:
        game(all_masks(5)[-2:])
    recorded = read_ledger(path)
    assert recorded.scores().tolist() == [1.5, 1.5]
    with pytest.raises(LedgerError, match="plain callable left one score"):
        _ = recorded.statistics


def test_the_command(played, tmp_path, capsys):
    path = played[0]
    assert main(["ledger", str(path), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["masks"] == 32
    assert told["best"][0] == {"removed": 0, "masks": 1, "score": 1.0, "layers": []}
    first, second = part_of(path, tmp_path / "a", range(20)), part_of(path, tmp_path / "b", range(20, 32))
    assert main(["ledger", str(first), str(second)]) == 2
    assert "give --merge OUT" in capsys.readouterr().err
    assert main(["ledger", str(first), str(second), "--merge", str(tmp_path / "both")]) == 0
    out = capsys.readouterr().out
    assert "masks: 32" in out
    assert "written:" in out
