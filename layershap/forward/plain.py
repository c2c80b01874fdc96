"""The plain forward: the whole model with layers skipped, one mask at a time.

Always right, and what the fused one must equal.

Shapes: U masks of a sweep, S calibration sequences, B sequences of a block, T tokens, V vocabulary, L layers.
"""

from __future__ import annotations

import numpy as np

from layershap.forward.base import Forward
from layershap.forward.head import needs_dense, sequence_sums
from layershap.forward.settings import Progress, empty_sums
from layershap.model.io import token_logits
from layershap.protocols import FloatArray, MaskArray, Statistic


class PlainForward(Forward):
    """Measures masked models one by one, with players skipped; parameters as for `Forward`."""

    @property
    def state_bytes(self) -> int:
        """1: it holds no states between layers, so the memory budget is no limit."""
        return 1

    def layer_runs(self, masks_UL: MaskArray) -> int:
        """Layer runs that `run` needs for masks [U, L]: nothing is shared."""
        return int(masks_UL.sum())

    def run(self, masks_UL: MaskArray, progress: Progress, n_blocks: int | None = None) -> dict[Statistic, FloatArray]:
        """Statistics [U, S] of masks [U, L], on the first blocks or all."""
        blocks = self.tokens.blocks[:n_blocks]
        sums = empty_sums(self.statistics, len(masks_UL), sum(len(block.ids_BT) for block in blocks))
        for block in blocks:
            dense_BTV = token_logits(self.model, block.ids_BT, block.inputs) if needs_dense(self.statistics) else None
            for u, mask_L in enumerate(masks_UL):
                with self.stack.skip(np.flatnonzero(~mask_L)):
                    logits_BTV = token_logits(self.model, block.ids_BT, block.inputs)
                found = sequence_sums(logits_BTV, block.labels_BT, self.statistics, dense_BTV)
                del logits_BTV  # or they live on while the next are computed
                for name, value_B in found.items():
                    sums[name][u, block.rows] = value_B.cpu().numpy()
                progress((float(mask_L.sum()) + self.settings.head_cost) / len(blocks))
        return sums
