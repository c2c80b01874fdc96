"""Values of players in a cooperative game. Knows nothing of models: a game is masks [M, L] -> scores [M].

True Shapley weights average a player's marginal contribution over all coalition sizes. The paper's average runs over a
few sizes only (its strata). Both are offered, under their own names.
"""

from layershap.shapley.draws import SampledValues
from layershap.shapley.enumeration import MAX_EXACT_PLAYERS, all_masks, exact, exact_from_table
from layershap.shapley.interactions import (
    Interactions,
    interactions,
    interactions_from_table,
    sampled_interactions,
)
from layershap.shapley.kernel import kernel
from layershap.shapley.ordering import removal_order
from layershap.shapley.permutations import permutation
from layershap.shapley.sampled import SampledMasks
from layershap.shapley.semivalues import Semivalue
from layershap.shapley.strata import sample_strata, strata_around, stratified_marginals

__all__ = [
    "MAX_EXACT_PLAYERS",
    "Interactions",
    "SampledMasks",
    "SampledValues",
    "Semivalue",
    "all_masks",
    "exact",
    "exact_from_table",
    "interactions",
    "interactions_from_table",
    "kernel",
    "permutation",
    "removal_order",
    "sample_strata",
    "sampled_interactions",
    "strata_around",
    "stratified_marginals",
]
