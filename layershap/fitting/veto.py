"""Layers without which the model is lost: the game's veto players.

Shapes: L layers.
"""

from __future__ import annotations

import numpy as np

from layershap.protocols import FloatArray, MaskArray

_LEFT = 1 / 3


def lost_without(leave_one_outs: FloatArray, everyone: float, nobody: float) -> MaskArray:
    """Players with whose removal alone less than a third of the model's worth is left [L].

    The worth is measured from the empty coalition, so that no shift or scale of the utility matters: player i is one if
    ``v(all but i) < v(none) + (v(all) - v(none)) / 3``. Among sets that lack such a player all are about as bad, and
    tell nothing of the other players.

    Parameters
    ----------
    leave_one_outs : ndarray [L]
        Score without each player; NaN for what is not removable.
    everyone, nobody : float
        Scores of the whole model and of the empty coalition. Where the latter isn't finite, the worst leave-one-out
        stands for it.

    Returns
    -------
    ndarray [L] of bool
    """
    finite = np.isfinite(leave_one_outs)
    floor = nobody if np.isfinite(nobody) else leave_one_outs[finite].min(initial=everyone)
    if not everyone > floor:
        return np.zeros_like(finite)
    # A score that isn't finite, of a player that was removed, is that of a lost model.
    return ~np.isnan(leave_one_outs) & ~(leave_one_outs >= floor + _LEFT * (everyone - floor))


def veto_players(lost: MaskArray, removable: MaskArray) -> MaskArray:
    """Players that are kept in all masks drawn: those without which the model is lost.

    None are, where fewer than two others would be left.
    """
    return lost if int((removable & ~lost).sum()) >= 2 else np.zeros_like(lost)
