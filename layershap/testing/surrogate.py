"""The contract of a `Surrogate`."""

from __future__ import annotations

from typing import Any

import numpy as np

from layershap import shapley
from layershap.protocols import ClosedFormSurrogate, Surrogate
from layershap.testing.contract import additive_game, check_copies, require, same


def check_surrogate(surrogate: Any, *, n_layers: int = 8) -> None:
    """Check that a surrogate keeps the contract of `layershap.protocols.Surrogate`.

    It fits boolean masks [M, L] and scores [M]; predicts one finite float for each mask, each on its own; forgets an
    earlier fit; changes nothing it is given; beats the mean on a game in which each layer adds its own amount; can be
    cloned and pickled. One with `shapley_values` must give what enumeration of its own predictions gives, and accept
    strata.

    Parameters
    ----------
    surrogate : Surrogate
        The instance to check; it is fitted. Give it a `random_state` if it has one.
    n_layers : int, default=8
        L of the game.

    Raises
    ------
    AssertionError
        The first part of the contract that is broken.
    """
    name = type(surrogate).__name__
    require(isinstance(surrogate, Surrogate), f"{name} must have methods `fit(masks, scores)` and `predict(masks)`")
    check_copies(surrogate)
    rng = np.random.default_rng(0)
    _, scores, masks = additive_game(n_layers, rng)
    for array in (masks, scores):
        array.flags.writeable = False
    surrogate.fit(masks, scores)
    found = np.asarray(surrogate.predict(masks))
    require(
        found.shape == scores.shape and np.issubdtype(found.dtype, np.floating) and np.isfinite(found).all(),
        f"{name}.predict must return finite floats [M] = [{len(masks)}], got {found.dtype} {found.shape}",
    )
    require(same(surrogate.predict(masks), found), f"{name}.predict must give the same predictions for the same masks")
    require(
        np.allclose(surrogate.predict(masks[3:4]), found[3:4], rtol=1e-4, atol=1e-6),
        f"{name}.predict must predict each mask on its own; a single mask gets another prediction than among others",
    )
    residual = np.mean((found - scores) ** 2) / np.var(scores)
    require(
        residual < 1,
        f"{name} must fit an additive game better than its mean; its squared error is {residual:.2f} of the variance",
    )
    if isinstance(surrogate, ClosedFormSurrogate):
        _check_closed_form(surrogate, n_layers)
    surrogate.fit(masks, scores[::-1])
    surrogate.fit(masks, scores)
    again = np.mean((np.asarray(surrogate.predict(masks)) - scores) ** 2) / np.var(scores)
    require(again < 1, f"{name}.fit must forget what it was fitted on before")
    check_copies(surrogate)


def _check_closed_form(surrogate: ClosedFormSurrogate, n_layers: int) -> None:
    """`shapley_values` against enumeration of the surrogate's own predictions."""
    name = type(surrogate).__name__
    values = np.asarray(surrogate.shapley_values())
    require(
        values.shape == (n_layers,), f"{name}.shapley_values must return floats [L] = [{n_layers}], got {values.shape}"
    )
    exact = shapley.exact(lambda masks: np.asarray(surrogate.predict(masks), dtype=np.float64), n_layers)
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
