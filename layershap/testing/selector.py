"""The contract of a `Selector`."""

from __future__ import annotations

from typing import Any

import numpy as np

from layershap.protocols import SelectionEvidence, Selector
from layershap.surrogates import PairwiseRidge
from layershap.testing.contract import additive_game, check_copies, require, same

_PROTECTED = 2


def check_selector(selector: Any, *, n_layers: int = 10) -> None:
    """Check that a selector keeps the contract of `layershap.protocols.Selector`.

    For every number of layers, it returns that many distinct, sorted indices of removable layers; the same ones when
    asked again; changes nothing it is given; can be cloned and pickled.

    Parameters
    ----------
    selector : Selector
        The instance to check.
    n_layers : int, default=10
        L of the game, of which one layer is protected.

    Raises
    ------
    AssertionError
        The first part of the contract that is broken.
    """
    name = type(selector).__name__
    require(isinstance(selector, Selector), f"{name} must have a method `select(evidence, n_remove)`")
    check_copies(selector)
    evidence = _evidence(n_layers)
    for n_remove in range(1, n_layers - 1):
        chosen = selector.select(evidence, n_remove)
        indices = np.asarray(chosen)
        require(
            indices.ndim == 1 and np.issubdtype(indices.dtype, np.integer) and len(indices) == n_remove,
            f"{name}.select must return {n_remove} layer indices when asked for {n_remove}, got {chosen!r}",
        )
        require(
            (np.diff(indices) > 0).all(), f"{name}.select must return sorted, distinct layer indices, got {chosen!r}"
        )
        require(
            indices.min() >= 0 and indices.max() < n_layers and evidence.removable[indices].all(),
            f"{name}.select must return removable layers only; layer {_PROTECTED} is protected, got {chosen!r}",
        )
        require(
            same(selector.select(evidence, n_remove), indices),
            f"{name}.select must return the same layers for the same evidence",
        )


def _evidence(n_layers: int) -> SelectionEvidence:
    """Of an additive game with one protected layer; read-only."""
    removable = np.arange(n_layers) != _PROTECTED
    weights, scores, players = additive_game(n_layers - 1, np.random.default_rng(0))
    masks = np.ones((len(players), n_layers), dtype=bool)
    masks[:, removable] = players
    contributions = np.full(n_layers, np.nan)
    contributions[removable] = weights
    surrogate = PairwiseRidge().fit(players, scores)
    for array in (removable, contributions, masks, scores):
        array.flags.writeable = False
    return SelectionEvidence(contributions, removable, surrogate, masks, scores)
