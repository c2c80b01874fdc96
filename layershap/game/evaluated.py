"""The masks of a game, each run on the model once, with the ledger behind them.

Shapes: M masks, U distinct masks, L layers, S calibration sequences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from layershap.exceptions import PlainForwardWarning, ThreadsWarning
from layershap.forward.engine import Engine
from layershap.forward.plan import PrefixPlan, shards
from layershap.forward.threads import seconds_of_waiting
from layershap.game.progress import Progress
from layershap.ledger import LedgerOfRanks, MaskRow
from layershap.masks import distinct, is_among, mask_key
from layershap.model.io import evaluation_mode
from layershap.model.patching import first_said
from layershap.model.skeleton import refuse_skeleton
from layershap.protocols import FloatArray, MaskArray
from layershap.ranks.together import Ranks
from layershap.utilities.checks import checked_score
from layershap.warning import warn_user


@dataclass(frozen=True)
class _Shard:
    """What one rank did: a digest of all masks asked for, the rows of its own, and its layer runs."""

    asked: str
    rows: list[MaskRow]
    layer_runs: int


class EvaluatedMasks:
    """Evaluates masks and keeps what they gave.

    Parameters
    ----------
    engine : Engine
        Runs masked models.
    masked_score : callable or None
        ``f(model) -> float``, called on masked models in place of the engine's statistics.
    ledger : LedgerOfRanks, optional
        Where what is evaluated is kept, and found again.
    progress : Progress
        Is told of the work.
    ranks : Ranks
        The processes that share the work.

    Attributes
    ----------
    rows : dict of bytes to MaskRow
        What each mask gave: sums of statistics by sequence, or one score.
    n_evaluated : int
        Masks run on the model by any rank (not read from the ledger).
    layer_runs, layer_runs_in_all : int
        Layer runs on the whole text that this took, and that it would have taken had the ledger held nothing.
    """

    def __init__(
        self,
        engine: Engine,
        masked_score: Callable[[nn.Module], float] | None,
        ledger: LedgerOfRanks | None,
        progress: Progress,
        ranks: Ranks,
    ) -> None:
        self.engine = engine
        self._masked_score = masked_score
        self._ledger = ledger
        self.progress = progress
        self._ranks = ranks
        self.rows: dict[bytes, MaskRow] = {}
        self._warned = False
        self._threads_seen = False
        self.n_evaluated = 0
        self.layer_runs = 0
        self.layer_runs_in_all = 0

    @property
    def n_asked(self) -> int:
        """Masks asked for, those that the ledger supplied included."""
        return len(self.rows)

    def close(self) -> None:
        """Close the ledger's file and end the progress bar."""
        self.progress.close()
        if self._ledger is not None:
            self._ledger.close()

    def sums(self, masks_ML: MaskArray, name: str) -> FloatArray:
        """One statistic of masks that were evaluated [M, S]."""
        return np.array([self.rows[mask_key(mask_L)][name] for mask_L in masks_ML])

    def pending(self, masks_ML: MaskArray) -> MaskArray:
        """The distinct masks among these that were not evaluated yet [U, L]."""
        unique_UL = distinct(masks_ML)
        return unique_UL[~is_among(unique_UL, self.rows)]

    def evaluate(self, masks_ML: MaskArray) -> None:
        """Evaluate what was not seen yet; where several ranks do, each its shard, and all know the results."""
        pending_UL = self.pending(masks_ML)
        if not len(pending_UL):
            return
        refuse_skeleton(self.engine.model, "its layers can be inspected and their cost be estimated, but not scored")
        todo_UL = pending_UL[~self._known(pending_UL)]
        if len(todo_UL):
            self._share(todo_UL)
        if self._masked_score is None:
            sweeps = self.engine.plan(pending_UL).sweeps
            self.layer_runs_in_all += sum(self.engine.layer_runs(sweep.masks_UL) for sweep in sweeps)
        else:
            self.layer_runs_in_all += int(pending_UL.sum())

    def _share(self, todo_UL: MaskArray) -> None:
        """Evaluate this rank's shard, and take over what the others evaluated."""
        head_cost = self.engine.settings.head_cost
        own = shards(todo_UL, self._ranks.count, head_cost)[self._ranks.index]
        run = self._run_sweeps if self._masked_score is None else self._call_on_masked_models

        def work() -> _Shard:
            before = self.layer_runs
            run(todo_UL[own])
            rows = [self.rows[mask_key(mask_L)] for mask_L in todo_UL[own]]
            return _Shard(hashlib.sha256(todo_UL.tobytes()).hexdigest(), rows, self.layer_runs - before)

        found = self._ranks.together(work)
        self._ranks.raise_unless_same([shard.asked for shard in found], "masks to evaluate")
        for mask_L, row in zip(todo_UL, (row for shard in found for row in shard.rows), strict=True):
            self.rows[mask_key(mask_L)] = row
        self.n_evaluated += len(todo_UL)
        self.layer_runs += sum(shard.layer_runs for shard in found) - found[self._ranks.index].layer_runs

    def _run_sweeps(self, masks_UL: MaskArray) -> None:
        prefix_plan = self.engine.plan(masks_UL)
        work = prefix_plan.layer_runs + self.engine.settings.head_cost * prefix_plan.n_masks
        self.progress.plan(prefix_plan.n_masks, work)
        self._warn_of_plain_forward(prefix_plan)
        self._warn_of_waiting_threads(prefix_plan)
        for sweep in prefix_plan.sweeps:
            self._prepare_ledger()
            found = self.engine.run(sweep.masks_UL, self.progress.update)
            self._keep(sweep.masks_UL, [{name: sums[u] for name, sums in found.items()} for u in range(sweep.n_masks)])
            self.layer_runs += self.engine.layer_runs(sweep.masks_UL)

    def _warn_of_plain_forward(self, prefix_plan: PrefixPlan) -> None:
        """Once per game, and per fit that holds the model: a single mask shares nothing and costs no more."""
        if self._warned or prefix_plan.n_masks < 2 or self.engine.path != "plain":
            return
        self._warned = True
        model = self.engine.model
        if not first_said(model, PlainForwardWarning.__name__):
            return
        runs = sum(self.engine.layer_runs(sweep.masks_UL) for sweep in prefix_plan.sweeps)
        warn_user(
            f"masks of this {type(model).__name__} are run one at a time by the plain forward: {self.engine.note}. The "
            f"scores are right, the time is several times as long: {prefix_plan.n_masks} masks take {runs:,} layer "
            f"runs in small batches, where shared prefixes would need {prefix_plan.layer_runs:,} in large ones. "
            "LayerPruner.estimate_cost tells what a fit takes before it begins; fewer n_masks or less text make it "
            "shorter",
            PlainForwardWarning,
        )

    def _warn_of_waiting_threads(self, prefix_plan: PrefixPlan) -> None:
        """Once per game, and per fit that holds the model, as for the plain forward."""
        if self._threads_seen or prefix_plan.n_masks < 2 or self.engine.tokens.ids_ST.device.type != "cpu":
            return
        self._threads_seen = True
        if not first_said(self.engine.model, ThreadsWarning.__name__):
            return
        seconds = seconds_of_waiting()
        if seconds is not None:
            warn_user(
                f"torch's {torch.get_num_threads()} threads wait for each other: a small operation takes "
                f"{seconds * 1e3:.0f} ms on them and less than a hundredth of that on one, as other programs keep the "
                "cores busy. One thread may be ten times as fast here: torch.set_num_threads(1), or OMP_NUM_THREADS=1 "
                "before Python starts (a ledger goes on with the number of threads that it was begun with); where two "
                "cores are free, run two processes of one thread each",
                ThreadsWarning,
            )

    def _call_on_masked_models(self, masks_UL: MaskArray) -> None:
        model, masked_score = self.engine.model, self._masked_score
        assert masked_score is not None  # for the type checker
        self.progress.plan(len(masks_UL), len(masks_UL))
        for mask_L in masks_UL:
            self.progress.update(1)
            self._prepare_ledger()
            with evaluation_mode(model), torch.no_grad(), self.engine.stack.skip(np.flatnonzero(~mask_L)):
                score = checked_score(masked_score(model), masked_score)
            self._keep(mask_L[None], [{"score": np.array([score])}])
            self.layer_runs += int(mask_L.sum())

    def _known(self, masks_UL: MaskArray) -> MaskArray:
        """Which masks the ledger holds; they are taken over [U]."""
        if self._ledger is None:
            return np.zeros(len(masks_UL), dtype=bool)
        for mask_L in masks_UL:
            row = self._ledger.rows.get(mask_key(mask_L))
            if row is not None:
                self.rows[mask_key(mask_L)] = row
        return is_among(masks_UL, self.rows)

    def _prepare_ledger(self) -> None:
        """Fail before a mask is paid for rather than when it is to be kept."""
        if self._ledger is not None:
            self._ledger.check_writable()

    def _keep(self, masks_UL: MaskArray, rows: list[MaskRow]) -> None:
        for mask_L, row in zip(masks_UL, rows, strict=True):
            self.rows[mask_key(mask_L)] = row
        if self._ledger is not None:
            self._ledger.append(zip(masks_UL, rows, strict=True))
