"""Mask arithmetic: against NumPy's own, which turns a Ctrl-C inside its sorting of rows into a TypeError."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import layershap
from layershap.masks import distinct, first_rows, groups


@pytest.mark.parametrize("shape", [(200, 6), (1, 6), (0, 6), (40, 1)])
def test_as_numpys_unique_rows(shape):
    masks = np.random.default_rng(0).random(shape) < 0.5
    unique, first, inverse = np.unique(masks, axis=0, return_index=True, return_inverse=True)
    assert np.array_equal(distinct(masks), unique)
    assert np.array_equal(first_rows(masks), np.sort(first))
    assert np.array_equal(groups(masks), inverse.reshape(-1))


def test_masks_of_no_layers_are_all_the_same():
    assert first_rows(np.empty((3, 0), dtype=bool)).tolist() == [0]
    assert groups(np.empty((3, 0), dtype=bool)).tolist() == [0, 0, 0]


def test_an_interrupt_can_not_become_another_error():
    """Ctrl-C while NumPy compares whole rows is a TypeError, which the command line would report as a failure."""
    package = Path(layershap.__file__).parent
    files = list(package.rglob("*.py"))
    assert len(files) > 100
    found = [
        f"{path.relative_to(package)}:{call.lineno}"
        for path in files
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in ("np.unique", "numpy.unique")
        and any(keyword.arg == "axis" for keyword in call.keywords)
    ]
    assert not found
