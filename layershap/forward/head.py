"""Per-token statistics from logits, summed per sequence, without holding the logits of more than one chunk.

Sums are taken in float64 from float32 log-probabilities, whatever the model's precision.

Shapes: N rows (states x sequences), T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from layershap.calibration import IGNORE
from layershap.protocols import Statistic


def sequence_sums(
    logits_NTV: Tensor, labels_NT: Tensor, statistics: Sequence[Statistic], dense_logits_NTV: Tensor | None = None
) -> dict[Statistic, Tensor]:
    """Sums over each row's scored tokens.

    Parameters
    ----------
    logits_NTV : Tensor [N, T, V]
        Logits at positions t.
    labels_NT : Tensor [N, T]
        The token that follows each position, `IGNORE` where it isn't scored.
    statistics : sequence of {'nll', 'kl', 'hits'}
        What to compute.
    dense_logits_NTV : Tensor [N', T, V], optional
        The same of the model with all its layers, for 'kl'; N must be a multiple of N'.

    Returns
    -------
    dict of str to Tensor [N] of float64
        On the logits' device.
    """
    scored_NT = labels_NT != IGNORE
    sums: dict[Statistic, Tensor] = {}
    logits = logits_NTV.float()
    if "nll" in statistics:
        nll_NT = functional.cross_entropy(
            logits.flatten(0, 1), labels_NT.flatten(), reduction="none", ignore_index=IGNORE
        ).view(labels_NT.shape)
        sums["nll"] = nll_NT.double().sum(dim=1)
    if "hits" in statistics:
        sums["hits"] = ((logits.argmax(dim=-1) == labels_NT) & scored_NT).double().sum(dim=1)
    if "kl" in statistics:
        if dense_logits_NTV is None:
            raise ValueError("'kl' needs the dense model's logits")
        log_q = functional.log_softmax(logits, dim=-1)
        log_p = functional.log_softmax(dense_logits_NTV.float(), dim=-1)
        repeats = log_q.shape[0] // log_p.shape[0]
        log_q = log_q.view(repeats, *log_p.shape)
        p = log_p.exp()
        # Where p is 0 its term is 0, also when both logits are -inf.
        kl_NT = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=-1).flatten(0, 1)
        sums["kl"] = torch.where(scored_NT, kl_NT, 0.0).double().sum(dim=1)
    return sums


def shifted_labels(labels_ST: Tensor) -> Tensor:
    """Labels moved so that position t holds the token that follows it [S, T]; the last position has none."""
    ends = torch.full_like(labels_ST[:, :1], IGNORE)
    return torch.cat([labels_ST[:, 1:], ends], dim=1)
