"""`LayerPruner`: the method from top to bottom.

calibration -> masks -> scores (ledger) -> surrogate -> values -> which layers to drop -> surgery

Shapes: L layers, M masks. True in a mask = layer kept.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from sklearn.utils.validation import check_is_fitted
from torch import nn

from layershap.calibration import Calibration
from layershap.estimator import ModelPruner
from layershap.fitting.budget import Spending, spend
from layershap.fitting.evidence import diagnostics_of, gather
from layershap.fitting.expected import expected_cost
from layershap.fitting.halving import final_choice
from layershap.fitting.masks import check_parts, random_generator
from layershap.fitting.resampling import removal_probabilities
from layershap.fitting.values import Weights, check_weights, fit_surrogate, values_around
from layershap.forward.cost import CostEstimate
from layershap.game import LayerGame, UtilityLike
from layershap.model.inspection import inspect
from layershap.model.split import find_players
from layershap.model.stack import LayersArgument, check_layer_indices
from layershap.model.sublayers import Granularity, Players
from layershap.protocols import FloatArray, IntArray, Sampler, SelectionEvidence, Selector, Surrogate
from layershap.report import PruningReport
from layershap.report.environment import current_environment
from layershap.samplers import StratifiedSampler
from layershap.selection import ShapleyRanking, SurrogateSearch
from layershap.selection.validity import with_one_kept
from layershap.shapley import removal_order
from layershap.surrogates import PairwiseRidge, PaperMLP

_logger = logging.getLogger(__name__)


class LayerPruner(ModelPruner):
    """Prune whole layers of a causal language model by their Shapley values.

    Parameters
    ----------
    n_remove : int, optional
        Layers that `transform` removes if it isn't told. One `fit` serves every number.
    utility : Utility or callable, default=PerplexityRatio()
        What a masked model is worth; a callable is ``f(model) -> float``.
    sampler : Sampler, default=StratifiedSampler(leave_one_out=True)
        Which masks to evaluate.
    surrogate : Surrogate or 'auto', default=PairwiseRidge()
        Any regressor from masks to scores. 'auto' takes the best of `LinearRidge`, `PairwiseRidge` and `PaperMLP` on
        held-out masks.
    selector : Selector, default=SurrogateSearch()
        Which layers to remove. A selector that searches evaluates sets of its own in `fit`.
    max_remove : int, optional
        The most layers that a searching selector looks for, and `transform` can then be asked for. By default two
        thirds of the removable ones.
    weights : {'strata', 'shapley'}, default='strata'
        Values as marginal contributions averaged over the sampled numbers of kept layers (the paper), which rank
        better, or true Shapley values, averaged over all sizes.
    n_masks : int, optional
        The most masks to evaluate. By default 256, or four times the removable layers, for a selector that doesn't
        search; for one that does, what it can use: twice what greedy removal would need for the same `max_remove`, and
        160 more.
    search_sequences : int, optional
        Calibration sequences that a search evaluates its masks on, to spare time; on the others it makes the final
        choice among its best sets, by sequential halving. By default all: only then is the default selector never worse
        than greedy removal on the calibration data.
    budget : float, optional
        Layer runs x tokens to spend, which is what time goes with; an alternative to `n_masks` and `search_sequences`.
        Enough masks come first, then sequences (`layershap.fitting.budget`).
    n_marginals : int, default=80000
        Masks per layer from which the values of a surrogate without a closed form are averaged (the paper's Q).
    protect : sequence of int, default=()
        Layers never removed. Layers that can't be removed alone are protected by themselves.
    layers : str or sequence of nn.Module, optional
        Where the layers are, if the rule can't know (`layershap.find_layers`).
    granularity : {"layer", "sublayer"}, default="layer"
        "sublayer": values and removal of attention and feed-forward parts one by one. All that is said of the L layers
        here holds for the sublayers then, whose names `layershap.find_sublayers` gives.
    ledger : path, optional
        Append-only file of evaluated masks. A fit that was interrupted and is started again with the same ledger and
        an int `random_state` gives the uninterrupted result, bit for bit, without evaluating anything twice.
    batch_tokens, memory_budget : int or 'auto'
        Tokens per layer call; bytes for hidden states.
    random_state : int, RandomState, Generator or None
        Of everything random.
    verbose : int, default=0
        1 shows a progress bar of the planned work.
    copy : bool, default=True
        False lets `transform` prune its argument in place.

    Attributes
    ----------
    n_layers_in_ : int
        L.
    contributions_ : ndarray [L]
        Value of each layer, NaN for protected ones, which are no players.
    contributions_std_ : ndarray [L]
        Standard errors: jackknife over the masks and, where the surrogate is a ridge, bootstrap over the calibration
        sequences. `diagnostics_` has them apart.
    removal_probabilities_ : ndarray [N, L]
        N = `max_remove_`. Row n - 1: how often each layer is among the n removed when the calibration sequences of the
        search are resampled (a final choice on more is surer). NaN where they can't be.
    removal_order_ : ndarray [L]
        Layers by ascending value, protected ones last.
    removable_ : ndarray [L] of bool
        False for protected layers.
    masks_, scores_ : ndarray [M, L], [M]
        What was evaluated, by the sampler and then by the selector, also where the score is not finite.
    final_masks_ : ndarray [N, L] or None
        Row n - 1: the set of n layers chosen by sequential halving, if there was one; all True where no set of n
        layers was evaluated.
    max_remove_ : int
        The most layers that `transform` can be asked for.
    baseline_score_ : float
        Score of the model with all its layers.
    surrogate_ : Surrogate
        Fitted on the columns of the removable layers.
    diagnostics_ : dict
        ``held_out_r2``, ``held_out_spearman``, ``held_out_strata``, ``surrogate_choice``, ``mask_errors``,
        ``calibration_errors``, ``n_evaluated``, ``n_non_finite``, ``layer_runs`` (of this run), ``layer_run_tokens``
        (in all, what the ledger supplied included), ``final_sequences`` (behind the final choice, if there was one),
        ``path`` and ``path_note`` (fused or plain forward, and why), ``seconds``, ``calibration`` (provenance),
        ``protected``.
    predictions_ : ndarray [M]
        Held-out predictions of the scores; NaN where the score is not finite.
    fingerprint_ : dict
        What the scores depend on.
    inspection_, environment_ : ModelInspection, Environment
        The model's layers and sizes; versions and machine.
    report_ : PruningReport
        All of this as plain numbers: tables, JSON, HTML, model card.

    References
    ----------
    Pruning as a Cooperative Game: Surrogate-Assisted Layer Contribution Estimation for Large Language Models,
    ICLR 2026, arXiv 2602.07804.

    Examples
    --------
    >>> from layershap import LayerPruner
    >>> from layershap.datasets import load_calibration_text, load_tiny_gpt2
    >>> model, tokenizer = load_tiny_gpt2()
    >>> pruner = LayerPruner(n_masks=64, max_remove=4, random_state=0)
    >>> small = pruner.fit(model, load_calibration_text(), tokenizer=tokenizer).transform(model, n_remove=4)
    >>> small.config.n_layer
    8
    """

    def __init__(
        self,
        n_remove: int | None = None,
        *,
        utility: UtilityLike | None = None,
        sampler: Sampler | None = None,
        surrogate: Surrogate | Literal["auto"] | None = None,
        selector: Selector | None = None,
        max_remove: int | None = None,
        weights: Weights = "strata",
        n_masks: int | None = None,
        search_sequences: int | None = None,
        budget: float | None = None,
        n_marginals: int = 80_000,
        protect: Sequence[int] = (),
        layers: LayersArgument = None,
        granularity: Granularity = "layer",
        ledger: str | os.PathLike[str] | None = None,
        batch_tokens: int | str = "auto",
        memory_budget: int | str = "auto",
        random_state: Any = None,
        verbose: int = 0,
        copy: bool = True,
    ) -> None:
        self.n_remove = n_remove
        self.utility = utility
        self.sampler = sampler
        self.surrogate = surrogate
        self.selector = selector
        self.max_remove = max_remove
        self.weights = weights
        self.n_masks = n_masks
        self.search_sequences = search_sequences
        self.budget = budget
        self.n_marginals = n_marginals
        self.protect = protect
        self.layers = layers
        self.granularity = granularity
        self.ledger = ledger
        self.batch_tokens = batch_tokens
        self.memory_budget = memory_budget
        self.random_state = random_state
        self.verbose = verbose
        self.copy = copy

    @classmethod
    def paper(
        cls,
        n_remove: int | None = None,
        *,
        n_masks: int = 8000,
        random_state: Any = None,
        ledger: str | os.PathLike[str] | None = None,
        verbose: int = 0,
    ) -> LayerPruner:
        """The published method, to the letter: 8,000 independent masks over five strata, the two-layer network, the
        mean marginal contribution over 80,000 stratified masks, ascending order. Give it 10 x 128 tokens without BOS
        (the defaults for text). Other parameters can be changed with `set_params`.
        """
        return cls(
            n_remove,
            sampler=StratifiedSampler(replace=True),
            surrogate=PaperMLP(),
            selector=ShapleyRanking(),
            weights="strata",
            n_masks=n_masks,
            n_marginals=80_000,
            random_state=random_state,
            ledger=ledger,
            verbose=verbose,
        )

    def fit(self, model: nn.Module, calib_data: Any = None, *, tokenizer: Any = None) -> LayerPruner:
        """Estimate the layers' values. The model is only read, and not kept.

        Parameters
        ----------
        model : nn.Module
            Causal language model, on any device, in any precision.
        calib_data : Calibration, Tensor [S, T], texts, datasets.Dataset, DataLoader, iterable of batches or Task
            Text of the domain that matters, or a task (`layershap.tasks`), whose utility is then the default.
        tokenizer : PreTrainedTokenizerBase, optional
            For texts.

        Returns
        -------
        self
        """
        start = time.perf_counter()
        rng = random_generator(self.random_state)
        sampler = StratifiedSampler(leave_one_out=True) if self.sampler is None else self.sampler
        surrogate = PairwiseRidge() if self.surrogate is None else self.surrogate
        selector = SurrogateSearch() if self.selector is None else self.selector
        check_parts(sampler, surrogate, selector)
        check_weights(self.weights, self.n_marginals)
        spending = self._spending(model, calib_data, tokenizer, selector, self.budget)
        with self._game(model, spending.calib_data, tokenizer, self.ledger) as game:
            evidence = gather(
                game,
                sampler,
                surrogate,
                selector,
                protect=self.protect,
                n_masks=self.n_masks,
                max_layer_runs=spending.max_layer_runs,
                max_remove=self.max_remove,
                n_remove=self.n_remove,
                rng=rng,
            )
            final = final_choice(game, evidence, spending, lambda part: self._further_game(model, part))
            diagnostics = diagnostics_of(game, evidence) | final.diagnostics
            self.fingerprint_ = game.fingerprint
            self.keep_one_of_ = game.keep_one_of
            self.inspection_ = replace(
                inspect(model, self.layers, granularity=self.granularity, forward=False),
                forward=game.path,
                forward_note=game.path_note,
            )
        removable, finite = evidence.removable, evidence.finite
        fitted = fit_surrogate(
            surrogate,
            evidence.masks[finite][:, removable],
            evidence.scores[finite],
            evidence.resampled,
            weights=self.weights,
            strata=evidence.strata,
            n_marginals=self.n_marginals,
            rng=rng,
        )
        self.environment_ = current_environment(model)
        self.n_layers_in_ = len(removable)
        self.max_remove_ = evidence.max_remove
        self.removable_ = removable
        self.contributions_ = np.full(len(removable), np.nan)
        self.contributions_std_ = np.full(len(removable), np.nan)
        self.contributions_[removable] = fitted.values
        self.contributions_std_[removable] = fitted.standard_errors
        self.removal_order_ = removal_order(self.contributions_, removable)
        self.masks_, self.scores_ = evidence.masks, evidence.scores
        self.predictions_ = np.full(len(self.scores_), np.nan)
        self.predictions_[finite] = fitted.held_out.predictions
        self.final_masks_ = final.masks
        self.baseline_score_ = evidence.baseline
        self.surrogate_ = fitted.surrogate
        self.removal_probabilities_ = removal_probabilities(
            selector, self._evidence(), evidence.resampled, fitted.resampled_values, self.max_remove_
        )
        self.diagnostics_ = {**diagnostics, **fitted.diagnostics(), "seconds": time.perf_counter() - start}
        _logger.info(
            "%(n_evaluated)d masks evaluated in %(layer_runs)d layer runs (%(path)s forward), %(seconds).1f s; the "
            "surrogate's R2 on held-out masks: %(held_out_r2).3f",
            self.diagnostics_,
        )
        return self

    def estimate_cost(self, model: nn.Module, calib_data: Any = None, *, tokenizer: Any = None) -> CostEstimate:
        """About what `fit` will cost: layer runs, FLOPs, memory, and after a short timing seconds. Evaluates nothing.

        The sets that a selector will search aren't known yet: random ones of their sizes stand for them, in calls as
        small as a search makes. The final choice on further sequences is in ``final_choice`` and the totals. A
        `budget` is a cost itself and isn't looked at.
        """
        sampler = StratifiedSampler(leave_one_out=True) if self.sampler is None else self.sampler
        selector = SurrogateSearch() if self.selector is None else self.selector
        spending = self._spending(model, calib_data, tokenizer, selector, budget=None)
        with self._game(model, spending.calib_data, tokenizer, ledger=None) as game:
            return expected_cost(
                game,
                sampler,
                selector,
                spending,
                lambda part: self._game(model, part, None, ledger=None),
                protect=self.protect,
                n_masks=self.n_masks,
                max_remove=self.max_remove,
                rng=random_generator(self.random_state),
            )

    def contributions_at(self, n_remove: int, width: int = 1) -> FloatArray:
        """Values [L] at one depth: marginal contributions over masks that lack `n_remove` layers, give or take `width`.

        Read from the fitted surrogate; no model is run. NaN for protected layers.
        """
        check_is_fitted(self)
        rng = random_generator(self.random_state)
        return values_around(self.surrogate_, self.removable_, n_remove, width, self.n_marginals, rng)

    def _further_game(self, model: nn.Module, part: Calibration) -> LayerGame:
        """The game on further calibration data, which has a ledger of its own."""
        ledger = None if self.ledger is None else f"{os.fspath(self.ledger)}.{part.digest[:8]}"
        return self._game(model, part, None, ledger)

    def _game(self, model: nn.Module, calib_data: Any, tokenizer: Any, ledger: Any) -> LayerGame:
        return LayerGame(
            model,
            calib_data,
            utility=self.utility,
            layers=self.layers,
            granularity=self.granularity,
            tokenizer=tokenizer,
            ledger=ledger,
            batch_tokens=self.batch_tokens,
            memory_budget=self.memory_budget,
            verbose=self.verbose,
        )

    def _spending(
        self, model: nn.Module, calib_data: Any, tokenizer: Any, selector: Selector, budget: float | None
    ) -> Spending:
        n_layers = len(self._players(model))
        n_protected = len(check_layer_indices(self.protect, n_layers))
        data = (calib_data, tokenizer, self.utility)
        return spend(*data, budget, self.search_sequences, selector, n_layers, n_protected, self.max_remove)

    def _players(self, model: nn.Module) -> Players:
        return find_players(model, self.layers, self.granularity)

    def _choose(self, n_remove: int) -> IntArray:
        selector = SurrogateSearch() if self.selector is None else self.selector
        chosen = selector.select(self._evidence(), n_remove)
        # A selector of the user's need not know which sets a hybrid model can't lose.
        return with_one_kept(chosen, self.keep_one_of_, self.contributions_, self.removable_)

    def _evidence(self) -> SelectionEvidence:
        finite = np.isfinite(self.scores_)
        return SelectionEvidence(
            self.contributions_,
            self.removable_,
            self.surrogate_,
            self.masks_[finite],
            self.scores_[finite],
            self.keep_one_of_,
            self.final_masks_,
        )

    @property
    def report_(self) -> PruningReport:
        """What `fit` found, as plain numbers (`layershap.report.PruningReport`)."""
        check_is_fitted(self)
        return PruningReport.from_estimator(self)
