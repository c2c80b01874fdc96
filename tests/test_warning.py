"""Warnings: each at the line of the user's own code, and a slow forward is never silent."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline

import layershap
from layershap import (
    Calibration,
    CalibrationWarning,
    CheckpointWarning,
    LayerGame,
    LayerPruner,
    PlainForwardWarning,
    ShapleyRanking,
    TiedSelectionWarning,
    remove_sublayers,
)
from layershap.protocols import SelectionEvidence
from layershap.selection.best import select_best
from layershap.surrogates import PairwiseRidge

from .helpers.models import CarriesState
from .helpers.texts import STORY

PACKAGE = Path(layershap.__file__).parent
EIGHT_SEQUENCES = torch.randint(64, (8, 12), generator=torch.Generator().manual_seed(2))


def issued(call, category):
    """The warnings of a kind that a call issues, also those that Python shows once only."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [warning for warning in caught if issubclass(warning.category, category)]


def tied_evidence():
    return SelectionEvidence(
        contributions=np.array([0.2, 0.1, 0.1]),
        removable=np.ones(3, dtype=bool),
        surrogate=PairwiseRidge(),
        masks=~np.eye(3, dtype=bool),
        scores=np.array([0.5, 0.9, 0.9]),
    )


def few_masks():
    return LayerPruner(n_masks=12, selector=ShapleyRanking(), n_remove=1, random_state=0)


def little_text(stories, folder):
    Calibration.from_texts([STORY * 12], stories[1])


def little_text_of_a_fit(stories, folder):
    few_masks().fit(stories[0], [STORY * 12], tokenizer=stories[1])


def little_text_in_a_pipeline(stories, folder):
    make_pipeline(few_masks()).fit(stories[0], [STORY * 12], layerpruner__tokenizer=stories[1])


def deleted_ledger(stories, folder):
    with LayerGame(stories[0], torch.arange(20).reshape(2, 10), ledger=folder / "d") as game:
        (folder / "d").unlink()
        game(np.ones(5, dtype=bool))


def tied_sets(stories, folder):
    select_best(tied_evidence(), 1)


def tied_values(stories, folder):
    ShapleyRanking().select(tied_evidence(), 1)


def inexpressible(stories, folder):
    remove_sublayers(stories[0], [1])


@pytest.mark.parametrize(
    ("call", "category"),
    [
        (little_text, CalibrationWarning),
        (little_text_of_a_fit, CalibrationWarning),
        (little_text_in_a_pipeline, CalibrationWarning),
        (deleted_ledger, UserWarning),
        (tied_sets, TiedSelectionWarning),
        (tied_values, TiedSelectionWarning),
        (inexpressible, CheckpointWarning),
    ],
)
def test_a_warning_points_to_the_users_line(call, category, stories, tmp_path):
    found = issued(lambda: call(stories, tmp_path), category)
    assert found
    first = call.__code__.co_firstlineno
    last = max(line for *_, line in call.__code__.co_lines() if line)
    for warning in found:
        assert warning.filename == __file__, warning.message
        assert first < warning.lineno <= last, warning.message


def test_a_warning_in_a_callback_points_into_the_callback(stories):
    def utility(model):
        select_best(tied_evidence(), 1)  # the line
        return 1.0

    game = LayerGame(stories[0], EIGHT_SEQUENCES, utility=utility)
    (found,) = issued(lambda: game(np.ones(5, dtype=bool)), TiedSelectionWarning)
    assert (found.filename, found.lineno) == (__file__, utility.__code__.co_firstlineno + 1)


def test_no_room_counts_the_frames_to_the_user_by_hand():
    counted = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
    }
    assert counted == {"warning.py"}


def test_a_plain_forward_is_told_once_per_fit_with_its_reason_and_its_cost():
    model = CarriesState()
    pruner = LayerPruner(layers="blocks", n_masks=14, random_state=0)
    for _ in range(2):
        (found,) = issued(lambda: pruner.fit(model, EIGHT_SEQUENCES), PlainForwardWarning)
        assert found.filename == __file__
        message = str(found.message)
        assert "CarriesState" in message
        assert pruner.diagnostics_["path_note"] in message
        taken, shared = re.search(r"masks take (\d+) layer runs in .* would need (\d+)", message).groups()
        assert int(taken) > int(shared) > 0
    assert pruner.diagnostics_["path"] == "plain"


def test_the_cost_that_a_plain_forward_names_is_that_of_its_masks():
    masks = ~np.eye(4, dtype=bool)
    game = LayerGame(CarriesState(), EIGHT_SEQUENCES, layers="blocks")
    (found,) = issued(lambda: game(masks), PlainForwardWarning)
    # Sorted, the masks are 0111, 1011, 1101, 1110: 3 + 3 + 2 + 1 runs where prefixes are shared.
    assert "4 masks take 12 layer runs in small batches, where shared prefixes would need 9" in str(found.message)
    assert game.layer_runs == 12 + 4  # and the whole model, which the scores are relative to
    assert not issued(lambda: game(np.zeros(4, dtype=bool)), PlainForwardWarning)


def test_what_costs_no_more_is_not_told(stories):
    alone = LayerGame(CarriesState(), EIGHT_SEQUENCES, layers="blocks")
    assert not issued(lambda: alone(np.ones(4, dtype=bool)), PlainForwardWarning)
    fused = LayerGame(stories[0], EIGHT_SEQUENCES)
    assert not issued(lambda: fused(~np.eye(5, dtype=bool)), PlainForwardWarning)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_that_wait_for_each_other_are_told(threads):
    """Two threads on one core wait for its time slices, as they do on two cores that others keep busy."""
    code = f"""
import os, warnings
import numpy as np
import torch
from layershap import LayerGame
from layershap.datasets import tiny_random
model = tiny_random("gpt2", n_layers=2)
torch.set_num_threads({threads})
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])  # before the second thread is made
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    game = LayerGame(model, torch.randint(1, 60, (2, 8)))
    game(~np.eye(2, dtype=bool))
    game(np.zeros((1, 2), dtype=bool))
print([str(one.message) for one in caught if one.category.__name__ == "ThreadsWarning"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    assert len(said) == (0 if threads == 1 else 1)
    if said:
        assert "torch's 2 threads wait" in said[0]
        assert "torch.set_num_threads(1)" in said[0]
