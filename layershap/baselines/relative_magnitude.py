"""Relative magnitude: remove the layers that add least to the hidden state."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from layershap.baselines.activations import boundary_states
from layershap.baselines.base import FitInput, Outcome, RankingPruner
from layershap.protocols import FloatArray


class RelativeMagnitude(RankingPruner):
    """Remove the layers whose output is smallest beside the residual stream: mean of ``||f(x)|| / ||x + f(x)||``.

    ``f(x)`` is the layer's addition to its input x; the mean is over tokens.

    Parameters
    ----------
    n_remove : int or float, optional
        Number of layers that `transform` removes by default, or a fraction of all layers (0.25).
    protect : sequence of int, default=()
        Layers that are never removed. Layers that can't be removed alone are protected in any case.
    layers : str, sequence of nn.Module or LayerStack, optional
        Where the layers are, if the rule can't know (`layershap.find_layers`); or the layers, if found before.
    copy : bool, default=True
        True makes `transform` prune a deep copy; False, the model that it is given.
    compensation : Compensation, optional
        Change of the kept layers' weights by which `transform` makes up for the removed ones
        (`layershap.compensation`).

    Attributes
    ----------
    importance_ : ndarray [L]
        Relative magnitude; NaN for protected layers.

    See Also
    --------
    ShortGPT : Rates layers by the cosine between input and output.

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
