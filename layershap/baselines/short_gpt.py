"""ShortGPT: remove the layers that turn the hidden state least."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from layershap.baselines.activations import boundary_states
from layershap.baselines.base import FitInput, Outcome, RankingPruner
from layershap.protocols import FloatArray


class ShortGPT(RankingPruner):
    """Remove the layers of the lowest Block Influence, ``BI_i = 1 - E[cos(x_i, x_{i+1})]`` over tokens.

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
        Block Influence, in [0, 2]; NaN for protected layers.

    See Also
    --------
    AngularDistance : Rates blocks of layers.
    RelativeMagnitude : Rates layers by the norm of their output.

    References
    ----------
    Men et al., ShortGPT: Layers in Large Language Models are More Redundant Than You Expect, 2024, arXiv 2403.03853,
    section 3.2. No departure but the calibration text (PG19 there).
    """

    def _importance(self, inputs: FitInput) -> tuple[FloatArray, Outcome]:
        sums_L, tokens = np.zeros(len(inputs.stack)), 0
        for states, counted_BT in boundary_states(inputs.model, inputs.stack, inputs.calibration):
            for index, (entering, leaving) in enumerate(pairwise(states)):
                cosine_BT = torch.cosine_similarity(entering, leaving, dim=-1)
                sums_L[index] += float(cosine_BT[counted_BT].double().sum())
            tokens += int(counted_BT.sum())
        return 1 - sums_L / tokens, Outcome(layer_runs=len(inputs.stack))
