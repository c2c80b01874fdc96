"""Angular distance: remove the contiguous block of layers whose input and output are most alike."""

from __future__ import annotations

import numpy as np
import torch

from layershap.baselines.activations import boundary_states
from layershap.baselines.base import DepthPruner, FitInput, Outcome, check_finite


class AngularDistance(DepthPruner):
    """Block of n consecutive layers whose input and output states have the smallest angular distance.

    For n layers it is the block l, ..., l + n - 1 with the least ``d = arccos(cos(x_l, x_{l+n})) / pi``, averaged over
    sequences, at each sequence's last token. The sets for growing n need not be nested.

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
    distances_ : ndarray [L + 1, L + 1]
        Mean angular distance, in [0, 1], between the states that enter layers l and l'; index L stands for the state
        that leaves the last layer.

    See Also
    --------
    ShortGPT : Rates single layers by the cosine.
    LastLayers : Removes the last block.

    References
    ----------
    Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers, ICLR 2025, arXiv 2403.17887, section 3.2.
    No healing by fine-tuning, as for all methods here. A block never spans a protected layer.
    """

    def _fit(self, inputs: FitInput) -> Outcome:
        n_states = len(inputs.stack) + 1
        sums, sequences = np.zeros((n_states, n_states)), 0
        for states, counted_BT in boundary_states(inputs.model, inputs.stack, inputs.calibration):
            positions_BT = torch.arange(counted_BT.shape[1], device=counted_BT.device).expand(counted_BT.shape)
            last_B = torch.where(counted_BT, positions_BT, 0).amax(dim=1)
            rows_B = torch.arange(len(last_B), device=last_B.device)
            ends_BLD = torch.stack([state[rows_B, last_B] for state in states], dim=1).double()
            unit_BLD = torch.nn.functional.normalize(ends_BLD, dim=-1)
            cosine_BLL = (unit_BLD @ unit_BLD.transpose(1, 2)).clamp(-1, 1)
            sums += (torch.arccos(cosine_BLL) / torch.pi).sum(dim=0).cpu().numpy()
            sequences += len(last_B)
        check_finite(sums)
        self.distances_ = sums / sequences
        np.fill_diagonal(self.distances_, 0.0)
        return Outcome(layer_runs=len(inputs.stack))

    def _select(self, n_remove: int) -> list[int]:
        starts = [
            start
            for start in range(self.n_layers_in_ - n_remove + 1)
            if self.removable_[start : start + n_remove].all()
        ]
        if not starts:
            raise ValueError(
                f"AngularDistance removes one contiguous block; no {n_remove} neighbouring layers are removable "
                f"(protected: {np.flatnonzero(~self.removable_).tolist()})"
            )
        best = min(starts, key=lambda start: self.distances_[start, start + n_remove])
        return list(range(best, best + n_remove))
