"""`LayerGame`: masks -> scores, each distinct mask evaluated once, with the ledger behind it.

Shapes: M masks, L layers, S calibration sequences.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn

from layershap.calibration.readable import check_readable
from layershap.forward.cost import CostEstimate, estimate_cost
from layershap.forward.engine import Engine
from layershap.forward.plan import PrefixPlan
from layershap.forward.settings import EngineSettings
from layershap.game.evaluated import EvaluatedMasks
from layershap.game.fingerprinting import game_fingerprint
from layershap.game.players import GameModel
from layershap.game.progress import Progress
from layershap.ledger import LedgerOfRanks, RowShape
from layershap.masks import is_among
from layershap.model.io import check_takes
from layershap.model.sublayers import Granularity, Players, PlayersArgument
from layershap.protocols import FloatArray, MaskArray, SequenceStatistics, Utility
from layershap.ranks.together import Ranks
from layershap.tasks.data import UtilityLike, sequences_and_utility
from layershap.utilities.checks import checked_scores
from layershap.utilities.mixture import bootstrap_scores


class LayerGame:
    """Cooperative game whose players are the layers of a model, or their sublayers.

    ``game(masks [M, L])`` returns scores [M]. A mask is True where the layer runs; the empty coalition is allowed. Each
    distinct mask is evaluated once in the life of the game, and not at all if the ledger holds it.

    Parameters
    ----------
    model : nn.Module
        Causal language model, which is only read; or a `GameModel` with its players, to which `layers` and
        `granularity` don't apply.
    calib_data : Calibration, Tensor [S, T], texts, datasets.Dataset, DataLoader, iterable of batches or Task
        See `layershap.calibration.as_calibration`. A `Task` brings its own sequences and utility.
    utility : Utility or callable, default=PerplexityRatio()
        A callable ``f(model) -> float`` is called once per mask with the layers skipped (the slow path). To resume from
        a ledger its code, and all that it closes over or names as globals, attributes or defaults, must be the same.
    layers : str, sequence of nn.Module, LayerStack or SublayerStack, optional
        Where the layers are, if the rule can't know (`find_layers`); or the players, if they were found before.
    granularity : {"layer", "sublayer"}, default="layer"
        Whether the players are the L layers or their sublayers (`layershap.find_sublayers` names them).
    tokenizer : PreTrainedTokenizerBase, optional
        The model's tokenizer, which texts need.
    ledger : path, optional
        File that keeps every evaluated mask; a later game with the same fingerprint resumes from it.
    batch_tokens, memory_budget : int or 'auto', default='auto'
        Most tokens of a layer call, and number of bytes for hidden states (see `LayerPruner`). A score depends on the
        first in its last bits, on the second not at all.
    verbose : int, default=0
        1 shows a progress bar of the planned work.

    Attributes
    ----------
    found : GameModel
        The model with its players, and what is known of them.
    stack : LayerStack or SublayerStack
        The players.
    n_players : int
        Number of players: of layers L, or of sublayers P.
    unremovable : dict of int to str
        Players that can't be skipped alone, with the reason.
    keep_one_of : tuple of tuple of int
        Groups of players of which one must stay in a model that generates (`layershap.surgery.keep_one_of`); masks
        that keep none of a group are evaluated all the same.
    n_evaluated, n_asked, layer_runs, layer_runs_in_all : int
        Numbers of masks and of layer runs spent so far; those charged include what the ledger supplied.
    fingerprint : dict
        Everything that a score depends on, as plain JSON values; reads all weights when first asked for.

    Raises
    ------
    LedgerError
        The ledger can't be used (`LedgerMismatchError`, `LedgerFormatError` and `LedgerInUseError` say why).
    """

    def __init__(
        self,
        model: nn.Module | GameModel,
        calib_data: Any,
        *,
        utility: UtilityLike | None = None,
        layers: PlayersArgument = None,
        granularity: Granularity = "layer",
        tokenizer: Any = None,
        ledger: str | os.PathLike[str] | None = None,
        batch_tokens: int | str = "auto",
        memory_budget: int | str = "auto",
        verbose: int = 0,
    ) -> None:
        self.calibration, self.utility = sequences_and_utility(calib_data, tokenizer, utility)
        if isinstance(model, GameModel):
            self.found = model
        else:
            self.found = GameModel.of(model, layers, granularity, utility=self.utility)
        self.stack: Players = self.found.players
        check_readable(self.found.model, self.calibration)
        if isinstance(self.utility, Utility):
            check_takes(self.found.model, self.calibration.inputs)
        self._statistics = self.utility.statistics if isinstance(self.utility, Utility) else ()
        device = next((p.device for p in self.found.model.parameters()), torch.device("cpu"))
        self._asked = batch_tokens, memory_budget
        self._settings = EngineSettings.resolve(batch_tokens, memory_budget, device)
        self.unremovable = self.found.unremovable
        self.keep_one_of = self.found.keep_one_of
        self._ranks = Ranks.of(self.found.model)
        if self._ranks.count > 1:
            self._ranks.check_same(json.dumps(self.fingerprint), "model, text and settings")
        opened: LedgerOfRanks | None = None
        if ledger is not None:
            counts = tuple(self.calibration.counts_S.tolist()) if self._statistics else (1,)
            shape = RowShape(self.n_players, counts, self._statistics or ("score",))
            opened = LedgerOfRanks(ledger, self.fingerprint, shape, self._ranks)
        model = self.found.model
        self.engine = Engine(
            model, self.stack, self.calibration, self._statistics, self._settings, always_kept=self.unremovable
        )
        masked_score = None if isinstance(self.utility, Utility) else self.utility
        progress = Progress(shown=bool(verbose) and self._ranks.index == 0)
        self._evaluated = EvaluatedMasks(self.engine, masked_score, opened, progress, self._ranks)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that a score depends on, as plain JSON values."""
        return game_fingerprint(self.found, self.calibration, self.utility, self._settings.batch_tokens)

    def on(
        self, calib_data: Any, *, ledger: str | os.PathLike[str] | None = None, found: GameModel | None = None
    ) -> LayerGame:
        """The game on `calib_data` (a `Calibration`, token ids, or texts), with a `ledger` of its own.

        Players and limits stay the same; the layers aren't searched, nor weights read, again, unless the model has
        changed and `found` says what it is now.
        """
        return LayerGame(
            self.found if found is None else found,
            calib_data,
            utility=self.utility,
            ledger=ledger,
            batch_tokens=self._asked[0],
            memory_budget=self._asked[1],
        )

    @property
    def n_players(self) -> int:
        """Number of players: of layers L, or of sublayers P."""
        return len(self.stack)

    @property
    def path(self) -> str:
        """Forward that scores the masks: 'fused', 'plain', or 'callable' for a utility called on masked models."""
        return self.engine.path if self._statistics else "callable"

    @property
    def path_note(self) -> str:
        """Reason why the forward is not the fused one; '' if it is."""
        return self.engine.note if self._statistics else "the utility is a plain callable"

    def __enter__(self) -> LayerGame:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the ledger's file and end the progress bar."""
        self._evaluated.close()

    @property
    def progress(self) -> Progress:
        """Progress bar of the planned work."""
        return self._evaluated.progress

    @progress.setter
    def progress(self, progress: Progress) -> None:
        self._evaluated.progress = progress

    @property
    def n_evaluated(self) -> int:
        """Number of masks that this game ran on the model; masks read from the ledger don't count."""
        return self._evaluated.n_evaluated

    @property
    def n_asked(self) -> int:
        """Number of distinct masks asked for, including those read from the ledger."""
        return self._evaluated.n_asked

    @property
    def layer_runs(self) -> int:
        """Number of layer runs on the whole calibration set that this game spent."""
        return self._evaluated.layer_runs

    @property
    def layer_runs_in_all(self) -> int:
        """Layer runs including those read from the ledger: a resumed fit counts as one that was never interrupted."""
        return self._evaluated.layer_runs_in_all

    def __call__(self, masks: MaskArray) -> FloatArray:
        """Scores [M] of masks [M, L] (or one mask [L])."""
        masks_ML = self._checked(masks)
        if not len(masks_ML):
            return np.empty(0)
        self._evaluated.evaluate(masks_ML)
        if isinstance(self.utility, Utility):
            return checked_scores(self.utility.score(self.statistics(masks_ML)), len(masks_ML), self.utility)
        return self._evaluated.sums(masks_ML, "score")[:, 0]

    def statistics(self, masks: MaskArray) -> SequenceStatistics:
        """Per-sequence statistics of `masks` [M, L], for another utility or a bootstrap over sequences."""
        masks_ML = self._checked(masks)
        full_1L = np.ones((1, self.n_players), dtype=bool)
        self._evaluated.evaluate(full_1L)
        self._evaluated.evaluate(masks_ML)
        shape = len(masks_ML), len(self.calibration.ids_ST)
        return SequenceStatistics(
            sums={name: self._evaluated.sums(masks_ML, name).reshape(shape) for name in self._statistics},
            dense={name: self._evaluated.sums(full_1L, name)[0] for name in self._statistics},
            counts=self.calibration.counts_S.numpy().astype(np.float64),
        )

    def standard_errors(self, masks: MaskArray, *, n_resamples: int = 200, random_state: int = 0) -> FloatArray:
        """Standard errors [M] of the scores of `masks` [M, L]: how much the scores depend on the calibration sequences.

        They come from `n_resamples` bootstrap resamples of the sequences (of whole questions, for a task), drawn with
        the seed `random_state`; with 200, an error is known to a twentieth of itself. Masks that weren't evaluated yet
        are. Two masks see the same text, so their difference is surer than their two errors say.

        Raises
        ------
        ValueError
            A single sequence, or a utility that is a plain callable: nothing to resample.
        """
        n_sequences = self.calibration.n_sequences
        if not isinstance(self.utility, Utility) or n_sequences < 2:
            raise ValueError(
                "standard errors need a utility that reads statistics of sequences, and two sequences at least; got "
                f"{type(self.utility).__name__} on {n_sequences}"
            )
        rng = np.random.default_rng(random_state)
        with np.errstate(invalid="ignore"):
            return np.std(bootstrap_scores(self.utility, self.statistics(masks), n_resamples, rng), axis=0, ddof=1)

    def plan(self, masks: MaskArray) -> PrefixPlan:
        """Plan of the runs that `masks` [M, L] need beyond those that this game has done."""
        return self.engine.plan(self._evaluated.pending(self._checked(masks)))

    def estimate_cost(self, masks: MaskArray, *further: MaskArray) -> CostEstimate:
        """Estimate the cost of evaluating `masks` [M, L] by a plan and a short timing; nothing is evaluated.

        Arrays in `further` stand for further calls of the game, which share no layer runs.

        Raises
        ------
        ValueError
            The utility is a plain callable, whose cost can't be known.
        """
        if not self._statistics:
            raise ValueError("the cost of a utility that is a plain callable can't be known before it is called")
        calls = [self._checked(call_ML) for call_ML in (masks, *further)]
        new = [~is_among(call_ML, self._evaluated.rows) for call_ML in calls]
        return estimate_cost(self.engine, [call_ML[new_M] for call_ML, new_M in zip(calls, new, strict=True)])

    def _checked(self, masks: MaskArray) -> MaskArray:
        masks_ML = np.atleast_2d(np.asarray(masks))
        if masks_ML.dtype != np.bool_:
            if not np.isin(masks_ML, (0, 1)).all():
                raise ValueError(f"masks must be boolean (True = layer kept), got dtype {masks_ML.dtype}")
            masks_ML = masks_ML.astype(bool)
        if masks_ML.ndim != 2 or masks_ML.shape[1] != self.n_players:
            raise ValueError(f"masks must be [M, {self.n_players}], one column per layer, got {np.shape(masks)}")
        return masks_ML
