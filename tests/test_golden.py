"""Fits of the bundled models find what they found before, to the bit on the machine that wrote the files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from .golden import CASES, FOLDER, machine

FLOATS = {"scores", "contributions", "removal_scores"}


@pytest.mark.parametrize("name", CASES)
def test_nothing_has_changed(name):
    recorded = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = CASES[name]()
    finally:
        torch.set_num_threads(threads)
    assert set(found) == set(recorded) - {"machine", "layershap"}
    if recorded["machine"] == machine():
        assert found == {key: recorded[key] for key in found}
        return
    for key, value in found.items():
        if key in FLOATS:
            np.testing.assert_allclose(
                [float.fromhex(number) for number in value],
                [float.fromhex(number) for number in recorded[key]],
                rtol=1e-5,
                atol=1e-5,
            )
        elif key in ("sets", "masks", "n_ledgers", "veto_players", "removal_order"):
            assert value == recorded[key]
