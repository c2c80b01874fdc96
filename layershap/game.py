"""`LayerGame`: masks -> scores, each distinct mask evaluated once, with the ledger behind it.

Shapes: M masks, L layers, S calibration sequences.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn

from layershap.calibration import Calibration, as_calibration
from layershap.exceptions import LedgerError, PlainForwardWarning
from layershap.fingerprint import fingerprint
from layershap.fingerprint.describe import IndescribableError, digest_of
from layershap.forward.cost import CostEstimate, estimate_cost
from layershap.forward.engine import Engine
from layershap.forward.plan import PrefixPlan, distinct
from layershap.forward.settings import EngineSettings
from layershap.ledger import Ledger, MaskRow, RowShape, mask_key
from layershap.model.io import evaluation_mode, maximum_length, vocabulary_size
from layershap.model.patching import first_said
from layershap.model.skeleton import refuse_skeleton
from layershap.model.split import find_players
from layershap.model.stack import LayersArgument
from layershap.model.sublayers import Granularity, Players
from layershap.progress import Progress
from layershap.protocols import FloatArray, MaskArray, SequenceStatistics, Utility
from layershap.surgery import keep_one_of, unremovable_players
from layershap.tasks import Task
from layershap.utilities import PerplexityRatio
from layershap.warning import warn_user

UtilityLike = Utility | Callable[[nn.Module], float]


class LayerGame:
    """The cooperative game whose players are the layers of a model, or their sublayers.

    ``game(masks [M, L]) -> scores [M]``. A mask is True where the layer runs; the empty coalition is allowed. Each
    distinct mask is evaluated once in the life of the game, and not at all if the ledger holds it.

    Parameters
    ----------
    model : nn.Module
        Causal language model. Only read; never changed.
    calib_data : Calibration, Tensor [S, T], texts, datasets.Dataset, DataLoader, iterable of batches or Task
        See `layershap.calibration.as_calibration`. A `Task` brings its own sequences and utility.
    utility : Utility or callable, default=PerplexityRatio()
        A callable ``f(model) -> float`` is called once per mask with the layers skipped (the slow path). With a ledger,
        its code and all that it closes over, has as attributes or defaults, or names as globals must be the same when
        the ledger is resumed.
    layers : str or sequence of nn.Module, optional
        Where the layers are, if the rule can't know (`find_layers`).
    granularity : {"layer", "sublayer"}, default="layer"
        Whether the players are the L layers or their sublayers (`layershap.find_sublayers` names them).
    tokenizer : PreTrainedTokenizerBase, optional
        For texts.
    ledger : path, optional
        File that keeps every evaluated mask; a later game with the same fingerprint resumes from it.
    batch_tokens, memory_budget : int or 'auto'
        Tokens per layer call; bytes for hidden states. With 'auto', a game that resumes from a ledger takes over the
        ledger's memory budget where this machine's memory allows it, so that it computes the same bits.
    verbose : int, default=0
        1 shows a progress bar of the planned work.

    Attributes
    ----------
    stack : LayerStack or SublayerStack
        The players.
    n_players : int
        L, or the number of sublayers P.
    unremovable : dict of int to str
        Players that can't be skipped alone, with the reason.
    keep_one_of : tuple of tuple of int
        Groups of players of which one must stay in a model that generates (`layershap.surgery.keep_one_of`); masks
        without any are evaluated all the same.
    n_evaluated : int
        Masks run on the model by this game (not read from the ledger).
    layer_runs : int
        Layer runs on the whole calibration set that this took.
    layer_runs_charged : int
        The same had the ledger held nothing: what a budget counts, so that a fit which is resumed spends as one that
        was never interrupted.
    fingerprint : dict
        Everything that a score depends on, as plain JSON values. Computed when first asked for, which reads all
        weights; a ledger asks at once.

    Raises
    ------
    LedgerError
        The ledger can't be used (`LedgerMismatchError`, `LedgerFormatError` and `LedgerInUseError` say why).
    """

    def __init__(
        self,
        model: nn.Module,
        calib_data: Any,
        *,
        utility: UtilityLike | None = None,
        layers: LayersArgument = None,
        granularity: Granularity = "layer",
        tokenizer: Any = None,
        ledger: str | os.PathLike[str] | None = None,
        batch_tokens: int | str = "auto",
        memory_budget: int | str = "auto",
        verbose: int = 0,
    ) -> None:
        self.stack: Players = find_players(model, layers, granularity)
        if isinstance(calib_data, Task):
            utility = calib_data.utility if utility is None else utility
            calib_data = calib_data.calibration
        self.calibration: Calibration = as_calibration(calib_data, tokenizer)
        self.calibration.check_vocabulary(vocabulary_size(model))
        limit = maximum_length(model)
        if limit is not None and self.calibration.seq_len > limit:
            raise ValueError(
                f"calibration sequences must fit the model's {limit} positions, they have {self.calibration.seq_len} "
                "tokens; use a smaller seq_len (for a task, max_length)"
            )
        self.utility: UtilityLike = PerplexityRatio() if utility is None else utility
        is_utility = isinstance(self.utility, Utility)
        if not is_utility and not callable(self.utility):
            raise TypeError(
                "utility must have `statistics` and `score` (the Utility protocol) or be a callable f(model) -> float, "
                f"got {type(self.utility).__name__}"
            )
        self._model = model
        self._statistics = self.utility.statistics if isinstance(self.utility, Utility) else ()
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._settings = EngineSettings.resolve(batch_tokens, memory_budget, device)
        self.unremovable = unremovable_players(model, self.stack)
        self.keep_one_of = keep_one_of(model, self.stack)
        self.progress = Progress(shown=bool(verbose))
        self.n_evaluated = 0
        self.layer_runs = 0
        self.layer_runs_charged = 0
        self._rows: dict[bytes, MaskRow] = {}
        self._warned = False
        self._ledger = None if ledger is None else self._opened(ledger, pinned=memory_budget == "auto")
        self.engine = Engine(
            model, self.stack, self.calibration, self._statistics, self._settings, always_kept=self.unremovable
        )

    def _opened(self, path: str | os.PathLike[str], pinned: bool) -> Ledger:
        """The ledger; if `pinned`, with its memory budget, on which the last bits of further scores depend."""
        own = self._settings
        shape = RowShape(
            self.n_players, len(self.calibration.ids_ST) if self._statistics else 1, self._statistics or ("score",)
        )
        ledger = Ledger(path, self.fingerprint, shape, {"memory_budget": own.memory_budget})
        budget = ledger.settings.get("memory_budget")
        if budget != own.memory_budget:
            if pinned and isinstance(budget, int) and 0 < budget <= 2 * own.memory_budget:
                self._settings = replace(own, memory_budget=budget)
            else:
                warn_user(
                    f"the ledger {ledger.path} was written with a memory budget of {budget} bytes, here it is "
                    f"{own.memory_budget}: further scores may differ from those of an uninterrupted run in their last "
                    "bits"
                )
        return ledger

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that a score depends on, as plain JSON values."""
        found = fingerprint(
            self._model,
            self.stack,
            self.calibration,
            self._statistics or ("score",),
            self._settings.batch_tokens,
            self.unremovable,
        )
        if not isinstance(self.utility, Utility):
            name = getattr(self.utility, "__qualname__", type(self.utility).__qualname__)
            try:
                found["utility"] = f"{name} {digest_of(self.utility, 'the utility')}"
            except IndescribableError as error:
                raise LedgerError(
                    f"a ledger must know the utility {name} again, and can't: {error}. Let it hold plain values "
                    "(numbers, texts, tensors), or fit without ledger"
                ) from error
        return found

    @property
    def n_players(self) -> int:
        """L, or the number of sublayers P."""
        return len(self.stack)

    @property
    def path(self) -> str:
        """Which forward serves: 'fused', 'plain', or 'callable' for a utility that is called on masked models."""
        return self.engine.path if self._statistics else "callable"

    @property
    def path_note(self) -> str:
        """Why it is not the fused one; '' if it is."""
        return self.engine.note if self._statistics else "the utility is a plain callable"

    def __enter__(self) -> LayerGame:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the ledger's file and end the progress bar."""
        self.progress.close()
        if self._ledger is not None:
            self._ledger.close()

    def __call__(self, masks: MaskArray) -> FloatArray:
        """Scores [M] of masks [M, L] (or one mask [L])."""
        masks_ML = self._checked(masks)
        if not len(masks_ML):
            return np.empty(0)
        self._evaluate(masks_ML)
        if not isinstance(self.utility, Utility):
            return np.array([self._rows[mask_key(m)]["score"][0] for m in masks_ML])
        return self.utility.score(self.statistics(masks_ML))

    def statistics(self, masks: MaskArray) -> SequenceStatistics:
        """Per-sequence statistics of masks [M, L], for another utility or a bootstrap over sequences."""
        masks_ML = self._checked(masks)
        full_1L = np.ones((1, self.n_players), dtype=bool)
        self._evaluate(full_1L)
        self._evaluate(masks_ML)
        full = self._rows[mask_key(full_1L[0])]
        return SequenceStatistics(
            sums={
                name: np.array([self._rows[mask_key(m)][name] for m in masks_ML]).reshape(
                    len(masks_ML), len(self.calibration.ids_ST)
                )
                for name in self._statistics
            },
            dense={name: full[name] for name in self._statistics},
            counts=self.calibration.counts_S.numpy().astype(np.float64),
        )

    def _sums(self, masks_ML: MaskArray, name: str) -> FloatArray:
        rows = [self._rows[mask_key(mask_L)][name] for mask_L in masks_ML]
        return np.array(rows, dtype=np.float64).reshape(len(masks_ML), len(self.calibration.ids_ST))

    def plan(self, masks: MaskArray) -> PrefixPlan:
        """What evaluating these masks would run, beyond those this game has evaluated."""
        return self.engine.plan(self._pending(self._checked(masks)))

    def charge(self, masks: MaskArray) -> int:
        """By how much evaluating these masks would raise `layer_runs_charged`."""
        if not self._statistics:
            return int(self._pending(self._checked(masks)).sum())
        return sum(self.engine.layer_runs(sweep.masks_UL) for sweep in self.plan(masks).sweeps)

    def estimate_cost(self, masks: MaskArray, *further: MaskArray) -> CostEstimate:
        """What evaluating masks [M, L] will cost, from their plan and a short timing; nothing is evaluated.

        Further arrays stand for further calls of the game, which share no layer runs.

        Raises
        ------
        ValueError
            The utility is a plain callable, whose cost can't be known.
        """
        if not self._statistics:
            raise ValueError("the cost of a utility that is a plain callable can't be known before it is called")
        calls = [self._checked(call_ML) for call_ML in (masks, *further)]
        new = [np.array([mask_key(mask_L) not in self._rows for mask_L in call_ML], dtype=bool) for call_ML in calls]
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

    def _pending(self, masks_ML: MaskArray) -> MaskArray:
        unique_UL = distinct(masks_ML)
        return unique_UL[[mask_key(m) not in self._rows for m in unique_UL]] if len(unique_UL) else unique_UL

    def _evaluate(self, masks_ML: MaskArray) -> None:
        """Evaluate what this game has not seen.

        The sweeps are planned without regard to the ledger, which only decides which of them are already done: so an
        interrupted run that is started again computes the same sweeps, to the last bit, as one never interrupted.
        """
        pending_UL = self._pending(masks_ML)
        if not len(pending_UL):
            return
        refuse_skeleton(self._model, "its layers can be inspected and their cost be estimated, but not scored")
        if not self._statistics:
            self._call_on_masked_models(pending_UL)
            return
        prefix_plan = self.engine.plan(pending_UL)
        head_cost = self.engine.settings.head_cost
        work = prefix_plan.layer_runs + head_cost * prefix_plan.n_masks
        self.progress.plan(prefix_plan.n_masks, work)
        self._warn_of_plain_forward(prefix_plan)
        for sweep in prefix_plan.sweeps:
            self.layer_runs_charged += self.engine.layer_runs(sweep.masks_UL)
            known = self._known(sweep.masks_UL)
            todo_UL = sweep.masks_UL[~known]
            if len(todo_UL):
                self._prepare_ledger()
                found = self.engine.run(todo_UL, self.progress.update)
                rows: list[MaskRow] = [{name: sums[u] for name, sums in found.items()} for u in range(len(todo_UL))]
                self._keep(todo_UL, rows)
                self.layer_runs += self.engine.layer_runs(todo_UL)
            if known.any():
                self.progress.update(sweep.layer_runs * float(known.mean()) + head_cost * float(known.sum()))

    def _warn_of_plain_forward(self, prefix_plan: PrefixPlan) -> None:
        """Once per game, and per fit that holds the model: a single mask shares nothing and costs no more."""
        if self._warned or prefix_plan.n_masks < 2 or self.path != "plain":
            return
        self._warned = True
        if not first_said(self._model, PlainForwardWarning.__name__):
            return
        runs = sum(self.engine.layer_runs(sweep.masks_UL) for sweep in prefix_plan.sweeps)
        warn_user(
            f"masks of this {type(self._model).__name__} are run one at a time by the plain forward: {self.path_note}. "
            f"The scores are right, the time is several times as long: {prefix_plan.n_masks} masks take {runs:,} layer "
            f"runs in small batches, where shared prefixes would need {prefix_plan.layer_runs:,} in large ones. "
            "LayerPruner.estimate_cost tells what a fit takes before it begins; fewer n_masks or less text make it "
            "shorter",
            PlainForwardWarning,
        )

    def _call_on_masked_models(self, masks_UL: MaskArray) -> None:
        utility = self.utility
        assert not isinstance(utility, Utility)
        self.progress.plan(len(masks_UL), len(masks_UL))
        for mask_L in masks_UL:
            self.progress.update(1)
            self.layer_runs_charged += int(mask_L.sum())
            if self._known(mask_L[None])[0]:
                continue
            self._prepare_ledger()
            with (
                evaluation_mode(self._model),
                torch.no_grad(),
                self.stack.skip(np.flatnonzero(~mask_L)),
            ):
                score = float(utility(self._model))
            self._keep(mask_L[None], [{"score": np.array([score])}])
            self.layer_runs += int(mask_L.sum())

    def _known(self, masks_UL: MaskArray) -> MaskArray:
        """Which masks the ledger holds; they are taken over [U]."""
        if self._ledger is None:
            return np.zeros(len(masks_UL), dtype=bool)
        for mask_L in masks_UL:
            row = self._ledger.rows.get(mask_key(mask_L))
            if row is not None:
                self._rows[mask_key(mask_L)] = row
        return np.array([mask_key(m) in self._rows for m in masks_UL], dtype=bool)

    def _prepare_ledger(self) -> None:
        """Fail before a mask is paid for rather than when it is to be kept."""
        if self._ledger is not None:
            self._ledger.check_writable()

    def _keep(self, masks_UL: MaskArray, rows: list[MaskRow]) -> None:
        for mask_L, row in zip(masks_UL, rows, strict=True):
            self._rows[mask_key(mask_L)] = row
        if self._ledger is not None:
            self._ledger.append(zip(masks_UL, rows, strict=True))
        self.n_evaluated += len(masks_UL)
