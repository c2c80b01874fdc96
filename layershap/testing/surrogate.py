"""The contract of a `Surrogate`."""

from __future__ import annotations

from typing import Any

import numpy as np

from layershap import shapley
from layershap.protocols import (
    ClosedFormSurrogate,
    FloatArray,
    InteractionSurrogate,
    MaskArray,
    RefittableSurrogate,
    Surrogate,
)
from layershap.testing.contract import Contract, additive_game, check_contract, check_copies, only_if, require, same


class SurrogateContract(Contract):
    """Tests that a surrogate keeps the contract of `layershap.protocols.Surrogate`, for pytest: inherit, define `make`.

    It fits boolean masks [M, L] and scores [M]; predicts one finite float for each mask, each on its own; forgets an
    earlier fit; changes nothing it is given; beats the mean on a game in which each layer adds its own amount; can be
    cloned and pickled. One with `shapley_values` or `interaction_values` must give what enumeration of its own
    predictions gives, and accept strata; one with `refitted_values` what it gives itself for the scores it was fitted
    on. Let `make` set `random_state` if it has one.

    Attributes
    ----------
    n_layers : int, default=8
        L of the game.
    """

    n_layers = 8

    def test_it_is_a_surrogate(self) -> None:
        """It has the methods, and survives copying before and after its fit."""
        surrogate = self.make()
        name = type(surrogate).__name__
        require(isinstance(surrogate, Surrogate), f"{name} must have methods `fit(masks, scores)` and `predict(masks)`")
        check_copies(surrogate)
        surrogate.fit(*self._game())
        check_copies(surrogate)

    def test_it_predicts_each_mask_on_its_own(self) -> None:
        """Finite floats, the same for a mask in whatever company."""
        surrogate, masks, scores = self._fitted()
        name = type(surrogate).__name__
        found = np.asarray(surrogate.predict(masks))
        require(
            found.shape == scores.shape and np.issubdtype(found.dtype, np.floating) and np.isfinite(found).all(),
            f"{name}.predict must return finite floats [M] = [{len(masks)}], got {found.dtype} {found.shape}",
        )
        require(
            same(surrogate.predict(masks), found), f"{name}.predict must give the same predictions for the same masks"
        )
        require(
            np.allclose(surrogate.predict(masks[3:4]), found[3:4], rtol=1e-4, atol=1e-6),
            f"{name}.predict must predict each mask on its own; a mask alone gets another prediction than among others",
        )

    def test_it_learns(self) -> None:
        """A game in which each layer adds its own amount, better than the mean does."""
        surrogate, masks, scores = self._fitted()
        residual = _residual(surrogate, masks, scores)
        require(
            residual < 1,
            f"{type(surrogate).__name__} must fit an additive game better than its mean; its squared error is "
            f"{residual:.2f} of the variance",
        )

    def test_it_forgets_an_earlier_fit(self) -> None:
        """Fitted again, it goes by the new scores."""
        surrogate, masks, scores = self._fitted()
        surrogate.fit(masks, scores[::-1])
        surrogate.fit(masks, scores)
        require(
            _residual(surrogate, masks, scores) < 1,
            f"{type(surrogate).__name__}.fit must forget what it was fitted on before",
        )

    def test_its_values_are_those_of_its_predictions(self) -> None:
        """`shapley_values` against enumeration, where it has them."""
        surrogate, *_ = self._fitted()
        only_if(isinstance(surrogate, ClosedFormSurrogate), "it has no values in closed form")
        name, n_layers = type(surrogate).__name__, self.n_layers
        values = np.asarray(surrogate.shapley_values())
        require(
            values.shape == (n_layers,),
            f"{name}.shapley_values must return floats [L] = [{n_layers}], got {values.shape}",
        )
        exact = shapley.exact(_predictions(surrogate), n_layers)
        gap = float(np.abs(values - exact).max())
        require(
            gap <= 1e-6 * max(1.0, float(np.abs(exact).max())),
            f"{name}.shapley_values must be the Shapley values of its predictions; they differ by {gap:.1e}",
        )
        stratum = np.asarray(surrogate.shapley_values([n_layers - 2]))
        require(
            stratum.shape == (n_layers,) and np.isfinite(stratum).all(),
            f"{name}.shapley_values(strata) must return finite floats [L] = [{n_layers}], got {stratum}",
        )

    def test_its_interactions_are_those_of_its_predictions(self) -> None:
        """`interaction_values` against enumeration, where it has them."""
        surrogate, *_ = self._fitted()
        only_if(isinstance(surrogate, InteractionSurrogate), "it knows no interactions")
        name, n_layers = type(surrogate).__name__, self.n_layers
        for strata in (None, [n_layers - 2]):
            pairs = np.asarray(surrogate.interaction_values(strata))
            require(
                pairs.shape == (n_layers, n_layers) and np.isfinite(pairs).all() and np.allclose(pairs, pairs.T),
                f"{name}.interaction_values must return finite, symmetric floats [L, L] = [{n_layers}, {n_layers}], "
                f"got {pairs}",
            )
        exact = shapley.interactions(_predictions(surrogate), n_layers).pairs
        others = ~np.eye(n_layers, dtype=bool)
        gap = float(np.abs(np.asarray(surrogate.interaction_values()) - exact)[others].max())
        require(
            gap <= 1e-6 * max(1.0, float(np.abs(exact[others]).max())),
            f"{name}.interaction_values must be the Shapley interactions of its predictions; they differ by {gap:.1e}",
        )

    def test_refitted_to_its_own_scores_it_says_the_same(self) -> None:
        """`refitted_values` against its own values, where it has them."""
        surrogate, masks, scores = self._fitted()
        only_if(isinstance(surrogate, RefittableSurrogate), "it can't be refitted cheaply")
        name, n_layers = type(surrogate).__name__, self.n_layers
        found = np.asarray(surrogate.refitted_values(masks, np.stack([scores, scores[::-1]])))
        require(
            found.shape == (2, n_layers) and np.isfinite(found).all(),
            f"{name}.refitted_values must return finite floats [B, L] = [2, {n_layers}], got {found.shape}",
        )
        own = shapley.exact(_predictions(surrogate), n_layers)
        gap = float(np.abs(found[0] - own).max())
        require(
            gap <= 1e-5 * max(1.0, float(np.abs(own).max())),
            f"{name}.refitted_values must give, for the scores that it was fitted on, the values of its predictions; "
            f"they differ by {gap:.1e}",
        )

    def _game(self) -> tuple[MaskArray, FloatArray]:
        """Masks [M, L] and scores [M], read-only."""
        _, scores, masks = additive_game(self.n_layers, np.random.default_rng(0))
        for array in (masks, scores):
            array.flags.writeable = False
        return masks, scores

    def _fitted(self) -> tuple[Any, MaskArray, FloatArray]:
        surrogate = self.make()
        masks, scores = self._game()
        surrogate.fit(masks, scores)
        return surrogate, masks, scores


def check_surrogate(surrogate: Any, *, n_layers: int = 8) -> None:
    """Check one instance of a surrogate against `SurrogateContract`, without pytest.

    Parameters
    ----------
    surrogate : Surrogate
        Instance to check; it is fitted. Give it a `random_state` if it has one.
    n_layers : int, default=8
        Number of layers of the game.

    Raises
    ------
    AssertionError
        The first part of the contract that is broken.
    """

    class Given(SurrogateContract):
        def make(self) -> Any:
            return surrogate

    Given.n_layers = n_layers
    check_contract(Given())


def _predictions(surrogate: Any) -> Any:
    """Of a fitted surrogate, as a game."""
    return lambda masks: np.asarray(surrogate.predict(masks), dtype=np.float64)


def _residual(surrogate: Any, masks: MaskArray, scores: FloatArray) -> float:
    """Squared error over the variance."""
    return float(np.mean((np.asarray(surrogate.predict(masks)) - scores) ** 2) / np.var(scores))
