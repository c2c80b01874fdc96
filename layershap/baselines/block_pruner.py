"""BlockPruner: remove attention and feed-forward parts one at a time, re-evaluating after each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

from layershap.baselines.base import DepthPruner, FitInput, Outcome
from layershap.baselines.perplexity import perplexity_game
from layershap.model.stack import LayersArgument
from layershap.model.sublayers import Granularity
from layershap.protocols import IntArray
from layershap.selection.greedy import greedy_order


class BlockPruner(DepthPruner):
    """Greedy elimination of sublayers, each time the one whose removal leaves the lowest perplexity.

    A sublayer is the attention (or other mixer) or the feed-forward part of a layer. Everything counts sublayers:
    `n_remove`, `protect`, the result of `removed_layers` (indices into ``layershap.find_sublayers(model).names``), and
    L.

    Parameters
    ----------
    n_remove : int or float, optional
        Number of sublayers that `transform` removes by default, or a fraction of all sublayers (0.25).
    max_remove : int, optional
        Number of steps that `fit` makes. By default as many as can be removed.
    protect : sequence of int, default=()
        Layers that are never removed. Layers that can't be removed alone are protected in any case.
    layers : str, sequence of nn.Module or LayerStack, optional
        Where the layers are, if the rule can't know (`layershap.find_layers`); or the layers, if found before.
    copy : bool, default=True
        True makes `transform` prune a deep copy; False, the model that it is given.
    ledger : path, optional
        Append-only file of evaluated masks, from which an interrupted fit resumes.

    Attributes
    ----------
    removal_order_ : ndarray [max_remove]
        Sublayers in the order in which they were removed.

    See Also
    --------
    SLEB : The same for whole layers.

    References
    ----------
    Zhong et al., BlockPruner: Fine-grained Pruning for Large Language Models, 2024, arXiv 2406.10594, section 3.
    Departure: one sublayer of each kind of mixer stays, without which `generate` can't run (`transform` says so).
    """

    _granularity: ClassVar[Granularity] = "sublayer"

    def __init__(
        self,
        n_remove: int | float | None = None,
        *,
        max_remove: int | None = None,
        protect: Sequence[int] = (),
        layers: LayersArgument = None,
        copy: bool = True,
        ledger: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(n_remove, protect=protect, layers=layers, copy=copy)
        self.max_remove = max_remove
        self.ledger = ledger

    def _fit(self, inputs: FitInput) -> Outcome:
        steps = inputs.checked_max_remove(self.max_remove)
        with perplexity_game(inputs, self.ledger) as game:
            self.removal_order_ = greedy_order(game, inputs.removable, steps)
            return Outcome(game.n_evaluated, game.layer_runs, steps)

    def _select(self, n_remove: int) -> IntArray:
        return self.removal_order_[:n_remove]
