"""Relative magnitude: remove the layers that add least to the hidden state."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from layershap.baselines.activations import boundary_states
from layershap.baselines.base import FitInput, Outcome, RankingPruner
from layershap.protocols import FloatArray


class RelativeMagnitude(RankingPruner):
    """Mean over tokens of ``||f(x)|| / ||x + f(x)||``, f(x) being what the layer adds; the lowest are removed.

    Parameters and common attributes: see `DepthPruner`.

    Attributes
    ----------
    importance_ : ndarray [L]
        Relative magnitude.

    References
    ----------
    Samragh et al., Weight subcloning, 2023, arXiv 2312.09299; as a baseline in ShortGPT, arXiv 2403.03853.
    Departure: the ratio of norms, where the papers write the norm of a ratio of vectors.
    """

    def _importance(self, inputs: FitInput) -> tuple[FloatArray, Outcome]:
        sums_L, tokens = np.zeros(len(inputs.stack)), 0
        for states, counted_BT in boundary_states(inputs.model, inputs.stack, inputs.calibration):
            for index, (entering, leaving) in enumerate(pairwise(states)):
                added_BT = torch.linalg.vector_norm(leaving - entering, dim=-1)
                ratio_BT = added_BT / torch.linalg.vector_norm(leaving, dim=-1)
                sums_L[index] += float(ratio_BT[counted_BT].double().sum())
            tokens += int(counted_BT.sum())
        return sums_L / tokens, Outcome(layer_runs=len(inputs.stack))
