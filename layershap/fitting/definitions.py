"""What a layer's value is, and how it is estimated: a part of `LayerPruner`."""

from __future__ import annotations

from typing import Any, ClassVar

from sklearn.base import BaseEstimator

from layershap.limits import check_int
from layershap.protocols import Weights

_MOST_MARGINALS = 2_000_000


class StratifiedValues(BaseEstimator):
    """Marginal contributions averaged over the numbers of kept layers that the sampler draws: the paper's values.

    These values answer the question at the depths that matter, and rank layers better for removal than true Shapley
    values.

    Parameters
    ----------
    keep_veto : bool, default=True
        Whether veto players are kept in all masks drawn for the values. A veto player is a layer without which the
        model is lost: removing it alone leaves less than a third of the model's worth.

        - True: the value of a layer is estimated among models that still work.
        - False: masks are drawn from all layers alike, as in the paper.
    unbiased : bool, default=True
        Whether the surrogate's values are corrected by its errors on the masks drawn at random. The correction needs a
        sampler that is uniform within each size, as `StratifiedSampler` is.

        - True: the values are unbiased whatever the surrogate, and their standard errors hold.
        - False: the values are read off the surrogate alone, as in the paper.
    n_marginals : int, default=80000
        Number of masks per layer over which the values of a surrogate without a closed form are averaged (the paper's
        Q).

    See Also
    --------
    ShapleyValues : Averages over all coalition sizes.

    References
    ----------
    Pruning as a Cooperative Game, arXiv 2602.07804, section 3.
    """

    weights: ClassVar[Weights] = "strata"

    def __init__(self, *, keep_veto: bool = True, unbiased: bool = True, n_marginals: int = 80_000) -> None:
        self.keep_veto = keep_veto
        self.unbiased = unbiased
        self.n_marginals = n_marginals

    def check(self) -> None:
        """Raise a ValueError unless the parameters are valid; `fit` checks them before it evaluates any mask."""
        held = "the paper's is 80000; their masks are held in memory"
        check_int("n_marginals", self.n_marginals, 1, _MOST_MARGINALS, meaning=held)


class ShapleyValues(StratifiedValues):
    """Shapley values of the layers: marginal contributions averaged over all coalition sizes alike.

    With ``keep_veto=False``, or where there are no veto players, these are the Shapley values of the whole game, which
    sum up to what the whole model is worth above the empty one. Otherwise the other layers' values are Shapley values
    among coalitions that keep the veto players, a veto player's is what such coalitions are worth with it less what
    they are worth without, and the sum is another. The default sampler draws masks of all sizes.

    Parameters
    ----------
    keep_veto, unbiased : bool, default=True
        As in `StratifiedValues`.
    n_marginals : int, default=80000
        Forty times the number of random orders in which the layers join, over which the values of a surrogate without a
        closed form are averaged: 2,000 orders by default. For `contributions_at`, the number of masks per layer.

    See Also
    --------
    StratifiedValues : Averages over the sampler's strata only, as the paper does.
    """

    weights: ClassVar[Weights] = "shapley"


def check_values(values: Any) -> StratifiedValues:
    """The definition, checked.

    Raises
    ------
    TypeError
        Neither of the two.
    """
    if not isinstance(values, StratifiedValues):
        raise TypeError(f"values must be StratifiedValues() or ShapleyValues(), got {values!r}")
    values.check()
    return values
