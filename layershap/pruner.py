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
from layershap.fitting.contributions import fit_contributions, resampled_choice
from layershap.fitting.evidence import diagnostics_of, gather, removal_scores
from layershap.fitting.expected import expected_cost
from layershap.fitting.masks import check_n_remove, random_generator
from layershap.fitting.quality import warn_of_quality
from layershap.fitting.request import Request, calibration_text
from layershap.fitting.resampling import removal_probabilities
from layershap.fitting.text_game import TextGame
from layershap.forward.cost import CostEstimate
from layershap.game import LayerGame
from layershap.model.inspection import inspect
from layershap.model.io import check_is_model
from layershap.model.patching import claimed
from layershap.model.split import find_players
from layershap.model.stack import LayersArgument
from layershap.model.sublayers import Granularity, Players
from layershap.protocols import (
    FloatArray,
    IntArray,
    Sampler,
    Selector,
    Surrogate,
    Weights,
)
from layershap.report import PruningReport
from layershap.report.environment import current_environment
from layershap.samplers import StratifiedSampler
from layershap.selection import ShapleyRanking, SurrogateSearch
from layershap.selection.validity import select_layers
from layershap.shapley import removal_order
from layershap.surrogates import PaperMLP
from layershap.tasks.data import UtilityLike

_logger = logging.getLogger(__name__)


class LayerPruner(ModelPruner):
    """Prune whole layers of a causal language model by their Shapley values.

    Parameters
    ----------
    n_remove : int or float, optional
        Layers that `transform` removes if it isn't told, or a fraction of them (0.25). One `fit` serves every number.
    utility : Utility or callable, default=PerplexityRatio()
        What a masked model is worth; a callable is ``f(model) -> float``.
    sampler : Sampler, default=StratifiedSampler(leave_one_out=True, neighbours=True)
        Which masks to draw at random, for the values. The default draws from the paper's strata and their neighbours.
    surrogate : Surrogate or 'auto', default=HammingProcess()
        Any regressor from masks to scores. 'auto' takes the best of `LinearRidge`, `PairwiseRidge`, `HammingProcess`
        and `PaperMLP` on held-out masks.
    selector : Selector, default=SurrogateSearch()
        Which layers to remove. A selector that searches evaluates sets of its own in `fit`, apart from the values'
        masks.
    max_remove : int, optional
        The most layers that a searching selector looks for, and `transform` can then be asked for. By default two
        thirds of the removable ones.
    weights : {'strata', 'shapley'}, default='strata'
        Values as marginal contributions averaged over the sampled numbers of kept layers (the paper), which rank
        better, or true Shapley values, averaged over all sizes.
    n_masks : int, optional
        The most masks to evaluate, on however much of the text. By default 9 drawn at random for each removable layer,
        and, for a selector that searches, what it can use: twice what greedy removal would need for the same
        `max_remove`, and 80 more. Without a search at least 256.
    confidence : float, default=0.999
        A search scores its sets on a growing part of the calibration text; a set that is worse than the best of its
        size with this confidence (a paired t-test) is left where it stands. 1 scores all on all of it.
    keep_veto : bool, default=True
        Find the layers without which the model is lost (less than a third of its worth is left when one of them alone
        is removed), and keep them in the masks drawn for the values: what a layer is worth is then asked among models
        that still work. False draws from all layers alike, as the paper does.
    unbiased : bool, default=True
        Correct the surrogate's values by what it misses on the masks drawn at random; needs a sampler that is uniform
        within each size, as all of `layershap.samplers` are but `AllocatingSampler`. False reads the values off the
        surrogate alone, as the paper does.
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
        Standard errors: by the masks that were drawn and, where the surrogate can be refitted cheaply
        (`HammingProcess`, the ridges), by the calibration sequences. `diagnostics_` has them apart.
    veto_players_ : ndarray of int
        Layers without which the model is lost, kept in the masks drawn for the values. Their own values are what the
        coalitions of the others are worth with them less what they are worth without the one.
    interactions_ : ndarray [L, L] or None
        Pairwise interactions of the surrogate over the values' coalitions; NaN for protected layers and veto players.
    removal_probabilities_ : ndarray [N, L]
        N = `max_remove_`. Row n - 1: how often each layer is among the n removed when the calibration sequences are
        resampled and the choice among the best sets is made again. NaN where they can't be.
    removal_order_ : ndarray [L]
        Layers by ascending value, protected ones last.
    removable_ : ndarray [L] of bool
        False for protected layers.
    masks_, scores_ : ndarray [M, L], [M]
        What was evaluated: the leave-one-outs and the sampler's draws, then what only the selector asked for, also
        where the score is not finite. A score is of as much text as its mask was scored on.
    final_masks_ : ndarray [N, L] or None
        Row n - 1: the set of n layers chosen on text held back from the search, if there was any; all True where no set
        of n layers was evaluated.
    removal_scores_ : ndarray [N]
        Row n - 1: score of the set of n layers that `transform` removes: on the text held back, or where none was on
        all that was searched (then the best of many sets is a little lucky); NaN if it was not scored there.
    comparisons_ : list of SetComparison or None
        For each n what the text held back says of the set chosen: its score, and its lead over greedy's set and over
        the second best, with standard errors.
    max_remove_ : int
        The most layers that `transform` can be asked for.
    baseline_score_ : float
        Score of the model with all its layers, on the text that values are estimated on.
    surrogate_ : Surrogate
        Fitted on the columns of the removable layers.
    diagnostics_ : dict
        ``held_out_r2``, ``held_out_spearman``, ``held_out_strata`` (on the masks drawn at random),
        ``surrogate_choice``, ``mask_errors``, ``calibration_errors``, ``strata``, ``unbiased``, ``missing_sizes``,
        ``doubtful`` (layers whose value contradicts what they add to all others), ``n_evaluated``, ``n_drawn``,
        ``n_searched``, ``n_non_finite``, ``layer_runs`` (of this run, as on the whole text), ``layer_run_tokens`` (in
        all, what the ledger supplied included), ``path`` and ``path_note`` (fused or plain forward, and why),
        ``seconds``, ``calibration`` (provenance), ``protected``.
    predictions_ : ndarray [M]
        Held-out predictions of the scores; NaN for what was not drawn at random, and where the score is not finite.
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
    >>> text = " ".join(load_calibration_text())[:20_000]  # some 40 sequences; give all that you have
    >>> pruner = LayerPruner(max_remove=2, random_state=0).fit(model, text, tokenizer=tokenizer)
    >>> pruner.transform(model, n_remove=2).config.n_layer
    10
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
        confidence: float = 0.999,
        keep_veto: bool = True,
        unbiased: bool = True,
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
        self.confidence = confidence
        self.keep_veto = keep_veto
        self.unbiased = unbiased
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
        mean marginal contribution over 80,000 stratified masks, ascending order. Give it 10 x 128 tokens without BOS:
        ``Calibration.from_texts(texts, tokenizer, n_sequences=10)``. Other parameters can be changed with `set_params`.
        """
        return cls(
            n_remove,
            sampler=StratifiedSampler(replace=True),
            surrogate=PaperMLP(),
            selector=ShapleyRanking(),
            weights="strata",
            n_masks=n_masks,
            keep_veto=False,
            unbiased=False,
            n_marginals=80_000,
            random_state=random_state,
            ledger=ledger,
            verbose=verbose,
        )

    def fit(self, model: nn.Module, calib_data: Any = None, *, tokenizer: Any = None) -> LayerPruner:
        """Estimate the layers' values, and search for the best sets. The model is only read, and not kept.

        Parameters
        ----------
        model : nn.Module
            Causal language model, on any device, in any precision.
        calib_data : Calibration, Tensor [S, T], texts, datasets.Dataset, DataLoader, iterable of batches or Task
            Text of the domain that matters, or a task (`layershap.tasks`), whose utility is then the default. Texts
            become as many sequences of 128 tokens as they hold, up to 128 (`Calibration.from_texts`).
        tokenizer : PreTrainedTokenizerBase, optional
            For texts.

        Returns
        -------
        self
        """
        start = time.perf_counter()
        check_is_model(model)
        rng = random_generator(self.random_state)
        request = Request.of(self)
        text, utility = calibration_text(self, calib_data, tokenizer, request.selector)
        with (
            claimed(model.modules()),
            TextGame(text.parts, lambda part, index: self._game(model, part, utility, self.ledger, index)) as game,
        ):
            evidence = gather(game, text, request, rng)
            found = fit_contributions(game, text, evidence, request, rng)
            selection = found.for_selection(evidence, game.keep_one_of)
            among, resampled = resampled_choice(game, text, evidence, selection, rng)
            probabilities = removal_probabilities(
                request.selector, among, resampled, found.resampled_values, evidence.max_remove
            )
            diagnostics = diagnostics_of(game, text, evidence) | found.diagnostics()
            inspection = replace(
                inspect(model, self.layers, granularity=self.granularity, forward=False),
                forward=game.first.path,
                forward_note=game.first.path_note,
            )
            fingerprint = game.first.fingerprint
        self.fingerprint_, self.inspection_ = fingerprint, inspection
        self.environment_ = current_environment(model)
        self._found, self._selection = found, selection
        self.n_layers_in_ = len(evidence.removable)
        self.max_remove_ = evidence.max_remove
        self.removable_ = evidence.removable
        self.keep_one_of_ = selection.keep_one_of
        self.contributions_, self.contributions_std_ = found.values, found.standard_errors
        self.veto_players_ = np.flatnonzero(found.veto)
        self.removal_order_ = removal_order(found.values, evidence.removable)
        self.removal_probabilities_ = probabilities
        self.masks_, self.scores_, self.predictions_ = evidence.masks, evidence.scores, found.predictions
        self.final_masks_ = selection.final_masks
        self.comparisons_ = None if evidence.final is None else evidence.final.comparisons
        self.removal_scores_ = removal_scores(evidence, self._choose)
        self.baseline_score_ = evidence.baseline
        self.surrogate_ = found.surrogate
        self.diagnostics_ = {**diagnostics, "seconds": time.perf_counter() - start}
        warn_of_quality(found, stacklevel=2)
        _logger.info(
            "%(n_evaluated)d masks evaluated in %(layer_runs)d layer runs (%(path)s forward), %(seconds).1f s; the "
            "surrogate's R2 on held-out masks: %(held_out_r2).3f",
            self.diagnostics_,
        )
        return self

    def estimate_cost(self, model: nn.Module, calib_data: Any = None, *, tokenizer: Any = None) -> CostEstimate:
        """About what `fit` will cost: layer runs, FLOPs, memory, and after a short timing seconds. Evaluates nothing.

        The sets that a selector will search aren't known yet: random ones of their sizes stand for them, in calls as
        small as a search makes; of those that race, half are taken to drop out on each part of the text. What further
        parts of the text cost is in ``further`` and the totals.
        """
        request = Request.of(self)
        text, utility = calibration_text(self, calib_data, tokenizer, request.selector)
        with TextGame(text.parts, lambda part, index: self._game(model, part, utility, None, index)) as game:
            return expected_cost(game, text, request, random_generator(self.random_state))

    def contributions_at(
        self, n_remove: int, width: int = 1, *, return_std: bool = False
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Values [L] at one depth: marginal contributions over masks that lack `n_remove` layers, give or take `width`.

        Estimated like `contributions_`, from the masks drawn of those sizes and the surrogate; no model is run. NaN for
        protected layers and veto players.

        Parameters
        ----------
        n_remove : int
            The depth.
        width : int, default=1
            Sizes on either side that are averaged too.
        return_std : bool, default=False
            Give their standard errors [L] by the masks drawn as well; NaN where no mask of a needed size was drawn, and
            the surrogate alone is believed.
        """
        check_is_fitted(self)
        count = check_n_remove(n_remove, self.removable_)
        seed = int(random_generator(self.random_state).integers(2**31))
        values, errors, missing = self._found.at(count, width, seed)
        return (values, np.full_like(errors, np.nan) if missing else errors) if return_std else values

    def _game(self, model: nn.Module, part: Calibration, utility: Any, ledger: Any, index: int) -> LayerGame:
        """The game on a part of the text; parts after the first have ledgers of their own."""
        if ledger is not None and index > 0:
            ledger = f"{os.fspath(ledger)}.{part.digest[:8]}"
        return LayerGame(
            model,
            part,
            utility=utility,
            layers=self.layers,
            granularity=self.granularity,
            ledger=ledger,
            batch_tokens=self.batch_tokens,
            memory_budget=self.memory_budget,
            verbose=self.verbose,
        )

    def _players(self, model: nn.Module) -> Players:
        return find_players(model, self.layers, self.granularity)

    def _choose(self, n_remove: int) -> IntArray:
        selector = SurrogateSearch() if self.selector is None else self.selector
        return select_layers(selector, self._selection, n_remove)

    @property
    def interactions_(self) -> FloatArray | None:
        """Pairwise interactions [L, L]; computed when first asked for, which takes seconds on many layers."""
        check_is_fitted(self)
        return self._found.interactions

    @property
    def report_(self) -> PruningReport:
        """What `fit` found, as plain numbers (`layershap.report.PruningReport`)."""
        check_is_fitted(self)
        return PruningReport.from_estimator(self)
