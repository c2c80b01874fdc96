"""Mask algebra against plain loops over sets."""

from __future__ import annotations

import ast
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import layershap
from layershap.masks import (
    allowed,
    distinct,
    first_rows,
    groups,
    is_among,
    leave_one_out_masks,
    mask_key,
    mask_keys,
    over_layers,
    subsets,
    without,
)


@pytest.fixture
def drawn():
    return np.random.default_rng(3).random((60, 5)) < 0.6


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


def test_functions_of_masks_take_none(drawn):
    none = drawn[:0]
    assert distinct(none).shape == (0, 5)
    assert first_rows(none).shape == groups(none).shape == (0,)
    assert mask_keys(none) == []
    assert is_among(none, {mask_key(drawn[0])}).shape == (0,)


def test_a_key_is_that_of_its_mask_alone():
    masks = subsets(np.ones(9, dtype=bool), 3)
    keys = mask_keys(masks)
    assert keys == [mask_key(mask) for mask in masks]
    assert len(set(keys)) == 84
    np.testing.assert_array_equal(is_among(masks, set(keys[10:12])), np.isin(np.arange(84), [10, 11]))


def test_subsets_of_each_size_the_empty_one_too():
    free = np.array([True, False, True, True])
    for size in range(4):
        expected = [[layer not in removed for layer in range(4)] for removed in combinations([0, 2, 3], size)]
        np.testing.assert_array_equal(subsets(free, size), expected)
    assert subsets(free, 4).shape == (0, 4)


def test_masks_over_players_and_over_layers():
    removable = np.array([True, False, True, True])
    np.testing.assert_array_equal(
        over_layers(leave_one_out_masks(3), removable), [without([layer], 4) for layer in (0, 2, 3)]
    )
    assert without({1: "why"}, 3).tolist() == [True, False, True]
    assert without(np.array([], dtype=np.int64), 3).all()


def test_a_model_can_lose_neither_all_layers_nor_a_whole_group():
    masks = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]], dtype=bool)
    assert allowed(masks, ()).tolist() == [True, True, False, True]
    assert allowed(masks, [(0, 1), (2, 3)]).tolist() == [True, True, False, False]
