"""The contract of a `Selector`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from layershap.fitting.removable_game import RemovableGame
from layershap.masks import leave_one_out_masks
from layershap.protocols import FloatArray, HoldsBack, MaskArray, SearchingSelector, SelectionEvidence, Selector
from layershap.surrogates import PairwiseRidge
from layershap.testing.contract import Contract, additive_game, check_contract, check_copies, only_if, require, same

_PROTECTED = 2


class SelectorContract(Contract):
    """Tests that a selector keeps the contract of `layershap.protocols.Selector`, for pytest: inherit, define `make`.

    For every number of layers, it returns that many distinct, sorted indices of removable layers; the same ones when
    asked again; changes nothing it is given; can be cloned and pickled. One that searches (`SearchingSelector`) also
    keeps within the masks that it may evaluate, given the number that it says it requires; does without those that are
    known already; draws everything random from the generator it is given; and leaves the surrogate it gets unfitted.

    Attributes
    ----------
    n_layers : int, default=10
        L of the game, of which one layer is protected.
    """

    n_layers = 10

    def test_it_is_a_selector(self) -> None:
        """It has the method, survives copying, and holds back a share if any."""
        selector = self.make()
        name = type(selector).__name__
        require(isinstance(selector, Selector), f"{name} must have a method `select(evidence, n_remove)`")
        check_copies(selector)
        if isinstance(selector, HoldsBack):
            share = selector.held_back
            require(0 <= share < 1, f"{name}.held_back must be a share of the sequences in [0, 1), got {share!r}")

    def test_it_searches_within_its_masks(self) -> None:
        """The same masks for the same seed, within the smallest budget it accepts; where it searches."""
        selector = self.make()
        only_if(isinstance(selector, SearchingSelector), "it doesn't search")
        evidence = _evidence(self.n_layers)
        first, second = (_searched(selector, evidence, self.n_layers // 2) for _ in range(2))
        require(
            same(first.masks, second.masks),
            f"{type(selector).__name__}.search must evaluate the same masks for the same seed and game",
        )

    def test_it_selects_removable_layers(self) -> None:
        """As many as asked for, sorted, for every number."""
        selector = self.make()
        name, n_layers = type(selector).__name__, self.n_layers
        most, evidence = n_layers - 2, _evidence(n_layers)
        if isinstance(selector, SearchingSelector):
            most = n_layers // 2
            evidence = _searched(selector, evidence, most)
        for n_remove in range(1, most + 1):
            chosen = selector.select(evidence, n_remove)
            indices = np.asarray(chosen)
            require(
                indices.ndim == 1 and np.issubdtype(indices.dtype, np.integer) and len(indices) == n_remove,
                f"{name}.select must return {n_remove} layer indices when asked for {n_remove}, got {chosen!r}",
            )
            require(
                (np.diff(indices) > 0).all(),
                f"{name}.select must return sorted, distinct layer indices, got {chosen!r}",
            )
            require(
                indices.min() >= 0 and indices.max() < n_layers and evidence.removable[indices].all(),
                f"{name}.select must return removable layers only; layer {_PROTECTED} is protected, got {chosen!r}",
            )
            require(
                same(selector.select(evidence, n_remove), indices),
                f"{name}.select must return the same layers for the same evidence",
            )


def check_selector(selector: Any, *, n_layers: int = 10) -> None:
    """Check one instance of a selector against `SelectorContract`, without pytest.

    Parameters
    ----------
    selector : Selector
        Instance to check.
    n_layers : int, default=10
        Number of layers of the game, one of which is protected.

    Raises
    ------
    AssertionError
        The first part of the contract that is broken.
    """

    class Given(SelectorContract):
        def make(self) -> Any:
            return selector

    Given.n_layers = n_layers
    check_contract(Given())


def _evidence(n_layers: int) -> SelectionEvidence:
    """Of an additive game with one protected layer; read-only."""
    removable = np.arange(n_layers) != _PROTECTED
    weights, scores, players = additive_game(n_layers - 1, np.random.default_rng(0))
    masks = np.ones((len(players), n_layers), dtype=bool)
    masks[:, removable] = players
    contributions = np.full(n_layers, np.nan)
    contributions[removable] = weights
    surrogate = PairwiseRidge().fit(players, scores)
    return _read_only(SelectionEvidence(contributions, removable, surrogate, masks, scores))


def _searched(selector: SearchingSelector, evidence: SelectionEvidence, max_remove: int) -> SelectionEvidence:
    """The evidence after a search within the smallest budget that the selector accepts."""
    name = type(selector).__name__
    removable = evidence.removable
    n_players = int(removable.sum())
    required = selector.n_required(n_players, max_remove)
    require(
        isinstance(required, int) and required >= 0,
        f"{name}.n_required must return a number of masks, got {required!r}",
    )
    useful = selector.n_useful(n_players, max_remove)
    require(
        isinstance(useful, int) and useful >= required,
        f"{name}.n_useful must return at least the {required} masks of n_required, got {useful!r}",
    )
    weights = np.where(removable, evidence.contributions, 0.0)

    def score(masks_ML: MaskArray) -> FloatArray:
        return masks_ML @ weights - 0.05 * (~masks_ML[:, 0] & ~masks_ML[:, 1])

    surrogate = PairwiseRidge()
    # What fit samples first: the masks that lack one layer.
    record = RemovableGame(score, removable, n_players + required)
    record(leave_one_out_masks(n_players))
    try:
        selector.search(record, surrogate, max_remove, np.random.default_rng(0))
    except ValueError as error:
        raise AssertionError(
            f"{name}.search must do with the {required} new masks that n_required asks for: {error}"
        ) from error
    require(not hasattr(surrogate, "main_effects_"), f"{name}.search must fit a clone of the surrogate it is given")
    return _read_only(replace(evidence, masks=record.widened(record.masks), scores=record.scores))


def _read_only(evidence: SelectionEvidence) -> SelectionEvidence:
    for array in (evidence.removable, evidence.contributions, evidence.masks, evidence.scores):
        array.flags.writeable = False
    return evidence
