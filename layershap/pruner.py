"""`LayerPruner`: calibration -> masks -> scores (ledger) -> surrogate -> values -> which layers to drop -> surgery.

Shapes: L layers, M masks. True in a mask = layer kept.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from layershap.compensation import Compensation
from layershap.compensation.compensating import Compensating, skip_scales_of
from layershap.environment import current_environment
from layershap.fitting.contributions import estimate_contributions
from layershap.fitting.cost import expected_cost
from layershap.fitting.definitions import StratifiedValues
from layershap.fitting.diagnostics import diagnose, log_cost
from layershap.fitting.evidence import evaluate_masks
from layershap.fitting.fitted import FitResult, FittedPruner
from layershap.fitting.former import takes_former_parameters
from layershap.fitting.quality import doubts_of, warn_of_quality
from layershap.fitting.recipes import paper_recipe
from layershap.fitting.settings import FitSettings
from layershap.fitting.stability import removal_probabilities
from layershap.fitting.text import TextParts
from layershap.fitting.text_game import TextGame
from layershap.forward.cost import CostEstimate
from layershap.game import LayerGame
from layershap.game.players import GameModel
from layershap.inspection import inspect
from layershap.model.io import check_is_model
from layershap.model.patching import claimed
from layershap.model.sublayers import Granularity, PlayersArgument
from layershap.protocols import Sampler, Selector, Surrogate
from layershap.random_state import random_generator
from layershap.report import PruningReport
from layershap.report.curve import curve_of_pruner
from layershap.selection.validity import sets_by_size
from layershap.targets import RemovalCurve
from layershap.tasks.data import UtilityLike


class LayerPruner(FittedPruner):
    """Prune whole layers of a causal language model by their Shapley values.

    Parameters
    ----------
    n_remove : int or float, optional
        Number of layers that `transform` removes by default, or a fraction of all layers (0.25). One `fit` serves all.
    utility : Utility or callable, default=PerplexityRatio()
        Score of a masked model; a callable is ``f(model) -> float``. By default a task given to `fit` brings its own.
    sampler : Sampler, default=StratifiedSampler(leave_one_out=True, neighbours=True)
        Part that draws the masks from which the values are estimated.
    surrogate : Surrogate, default=HammingProcess()
        Regressor from masks to scores; `BestSurrogate()` takes the best of several on held-out masks.
    selector : Selector, default=SurrogateSearch()
        Part that chooses the layers to remove. A selector that searches evaluates sets of its own in `fit`.
    values : StratifiedValues or ShapleyValues, default=StratifiedValues()
        Definition of a layer's value, and how it is estimated.

        - StratifiedValues: marginal contribution averaged over the sampled coalition sizes (the paper); ranks better.
        - ShapleyValues: averaged over all coalition sizes; the Shapley value of the game with ``keep_veto=False``.
    max_remove : int, optional
        Largest number of layers that a search looks for and that `transform` then accepts. By default two thirds of
        the removable layers, rounded up.
    n_masks : int, optional
        Maximum number of masks to evaluate, beside the whole and the empty model. By default, for P removable layers,
        max(256, 10 P); with a search, 9 P + ``selector.n_useful(P, max_remove)``.
    confidence : float, default=0.999
        Confidence of the paired t-test by which a search drops a set that is worse than the best of its size on a part
        of the calibration text. 1 scores all sets on all of the text.
    compensation : Compensation, optional
        Change of the kept layers' weights by which `transform` makes up for the removed ones
        (`layershap.compensation`).
    protect : sequence of int, default=()
        Layers that are never removed. Layers that can't be removed alone are protected in any case.
    layers : str, sequence of nn.Module, LayerStack or SublayerStack, optional
        Where the layers are, if the rule can't know (`layershap.find_layers`); or the players, if found before.
    granularity : {"layer", "sublayer"}, default="layer"
        Players of the game: whole layers, or attention and feed-forward parts one by one. In the latter case the L
        layers of this page are the sublayers that `layershap.find_sublayers` names.
    ledger : path, optional
        Append-only file of evaluated masks. A fit that is interrupted and started again with the same ledger and an int
        `random_state` gives the uninterrupted result, bit for bit, without evaluating any mask twice.
    batch_tokens : int or 'auto', default='auto'
        Number of tokens in one call of a layer; 'auto' is 2,048 on a CPU and 16,384 on a GPU.
    memory_budget : int or 'auto', default='auto'
        Number of bytes that hidden states may take; 'auto' is a quarter of the device's total memory.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the sampler, the search, the folds and the bootstrap. An int makes `fit` reproducible.
    verbose : int, default=0
        1 shows a progress bar of the planned work.
    copy : bool, default=True
        True makes `transform` prune a deep copy; False, the model that it is given.

    Attributes
    ----------
    contributions_, contributions_std_ : ndarray [L]
        The layers' values and their standard errors; NaN for protected layers, which are no players. Of a veto player
        NaN where too few masks were drawn (`n_masks` too small), or where the score without it isn't finite.
    result_ : FitResult
        Everything that the fit found. Its parts are attributes too: `masks_`, `scores_`, `predictions_`, `surrogate_`,
        `diagnostics_`, `veto_players_`, `interactions_`, `removal_order_`, `removal_probabilities_`, `comparisons_`,
        `final_masks_`, `baseline_score_`, `fingerprint_`, `inspection_`, `environment_`.
    removal_scores_ : ndarray [N]
        Row n - 1: score of the set of n layers that `transform` removes, on the text held back from the search, or else
        on all text searched (the best of many sets is then a little lucky); NaN if not scored there.
    removable_ : ndarray [L] of bool
        False for protected layers.
    keep_one_of_ : tuple of tuple of int
        Groups of layers of which one always stays (the attention layers of a hybrid).
    n_layers_in_, max_remove_ : int
        Number of layers L, and the largest number of layers N that `transform` accepts.
    report_ : PruningReport
        All of this as plain numbers: tables, JSON, HTML, model card.
    removal_curve_ : RemovalCurve
        What every number of layers comes to: score, size, certainty. A table to choose from.

    See Also
    --------
    layershap.compare, layershap.LayerGame, layershap.remove_layers

    References
    ----------
    Pruning as a Cooperative Game, ICLR 2026, arXiv 2602.07804.

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

    @takes_former_parameters
    def __init__(
        self,
        n_remove: int | float | None = None,
        *,
        utility: UtilityLike | None = None,
        sampler: Sampler | None = None,
        surrogate: Surrogate | None = None,
        selector: Selector | None = None,
        values: StratifiedValues | None = None,
        max_remove: int | None = None,
        n_masks: int | None = None,
        confidence: float = 0.999,
        compensation: Compensation | None = None,
        protect: Sequence[int] = (),
        layers: PlayersArgument = None,
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
        self.values = values
        self.max_remove = max_remove
        self.n_masks = n_masks
        self.confidence = confidence
        self.compensation = compensation
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
        n_remove: int | float | None = None,
        *,
        model: str = "llama",
        n_masks: int | None = None,
        random_state: Any = None,
        ledger: str | os.PathLike[str] | None = None,
        verbose: int = 0,
    ) -> LayerPruner:
        """The published method, to the letter: 8,000 independent masks over five strata, the two-layer network, mean
        marginal contributions over 80,000 stratified masks, ascending order; `model` "mamba", "rwkv" or "gptq" takes
        the authors' settings for that kind (docs/method.md). `n_masks` is theirs by default, the others are as in
        `LayerPruner` (`n_remove`, `random_state`, `ledger`, `verbose`). Give it 10 x 128 tokens without BOS:
        ``Calibration.from_texts(texts, tokenizer, n_sequences=10)``.
        """
        settings = paper_recipe(model).settings(n_masks)
        return cls(n_remove, **settings, random_state=random_state, ledger=ledger, verbose=verbose)

    def fit(self, model: nn.Module, calib_data: Any = None, *, tokenizer: Any = None) -> LayerPruner:
        """Estimate the layers' values and search for the best sets; the model is only read, and not kept.

        Parameters
        ----------
        model : nn.Module
            Causal language model, on any device, in any precision.
        calib_data : Calibration, Tensor [S, T], texts, datasets.Dataset, DataLoader, iterable of batches or Task
            Text of the domain that matters, or a task (`layershap.tasks`), whose utility is then the default. Texts
            become as many sequences of 128 tokens as they hold, up to 128 (`Calibration.from_texts`).
        tokenizer : PreTrainedTokenizerBase, optional
            The model's tokenizer, which texts need.

        Returns
        -------
        self
        """
        start = time.perf_counter()
        check_is_model(model)
        rng = random_generator(self.random_state)
        settings = FitSettings.of(self)
        text, utility = settings.text(calib_data, tokenizer, self.utility)
        with claimed(model.modules()), self._open(model, text, utility, self.ledger) as game:
            evidence = evaluate_masks(game, settings, rng)
            contributions = estimate_contributions(game, evidence, settings, rng)
            probabilities = removal_probabilities(game, evidence, contributions, settings.selector, rng)
            selection = contributions.for_selection(evidence)
            doubts = doubts_of(contributions, settings)
            inspection = inspect(model, game.found.players, forward=False)
            self._keep(
                FitResult(
                    evidence=evidence,
                    contributions=contributions,
                    selection=selection,
                    sets=sets_by_size(settings.selector, selection, evidence.max_remove),
                    removal_probabilities=probabilities,
                    diagnostics=diagnose(game, evidence, contributions, doubts, time.perf_counter() - start),
                    fingerprint=game.first.fingerprint,
                    inspection=replace(inspection, forward=game.first.path, forward_note=game.first.path_note),
                    environment=current_environment(model),
                    calibration=settings.text_to_keep(calib_data, text),
                )
            )
        warn_of_quality(doubts)
        log_cost(self.diagnostics_)
        return self

    def estimate_cost(self, model: nn.Module, calib_data: Any = None, *, tokenizer: Any = None) -> CostEstimate:
        """Estimate what ``fit(model, calib_data, tokenizer=tokenizer)`` will cost, by a plan and a short timing.

        No mask is evaluated. Random sets stand for those that a search will choose, in calls as small as its own; half
        of a race is taken to drop out on each part of the text. Further parts are in ``further`` and the totals.
        """
        settings = FitSettings.of(self)
        text, utility = settings.text(calib_data, tokenizer, self.utility)
        with self._open(model, text, utility, None) as game:
            return expected_cost(game, settings, random_generator(self.random_state))

    def _open(self, model: nn.Module, text: TextParts, utility: UtilityLike, ledger: Any) -> TextGame:
        """The game on the text in parts; the only place where `fit` looks for the layers."""
        found = GameModel.of(model, self.layers, self.granularity, utility=utility)
        if self.compensation is not None:
            Compensating(self.compensation, text.given).check(model, found.players)
        first = LayerGame(
            found.scaled(skip_scales_of(self.compensation, model, found.players, text.given)),
            text.parts[0],
            utility=utility,
            ledger=ledger,
            batch_tokens=self.batch_tokens,
            memory_budget=self.memory_budget,
            verbose=self.verbose,
        )
        return TextGame(first, text, ledger)

    @property
    def report_(self) -> PruningReport:
        """What `fit` found, as plain numbers (`layershap.report.PruningReport`)."""
        return PruningReport.from_estimator(self)

    @property
    def removal_curve_(self) -> RemovalCurve:
        """Score, size and certainty for every number of layers, to choose one (`layershap.targets.RemovalCurve`)."""
        return curve_of_pruner(self)
