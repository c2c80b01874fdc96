"""Per-token statistics from logits, summed per sequence, without holding the logits of more than two chunks.

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

_CACHED_BYTES = 2**20
"""Float32 logits that are worked on at once on a CPU; half of a core's usual second-level cache."""


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
    statistics : sequence of Statistic
        What to compute (`layershap.protocols.Statistic`).
    dense_logits_NTV : Tensor [N', T, V], optional
        The same of the model with all its layers, for 'kl'; N must be a multiple of N'.

    Returns
    -------
    dict of str to Tensor [N] of float64
        On the logits' device.
    """
    scored_NT = labels_NT != IGNORE
    sums: dict[Statistic, Tensor] = {}
    for name in statistics:
        if name == "nll":
            value_NT = _token_nll(logits_NTV, labels_NT)
        elif name == "hits":
            highest = logits_NTV.float().max(dim=-1)
            # NaN is passed on: the model is broken there.
            value_NT = torch.where(highest.values.isnan(), torch.nan, (highest.indices == labels_NT).float())
        else:
            top_k = _top_k(name)
            if dense_logits_NTV is None:
                raise ValueError(f"{name!r} needs the dense model's logits")
            value_NT = _divergence(dense_logits_NTV.float(), logits_NTV.float(), top_k)
        sums[name] = torch.where(scored_NT, value_NT, 0.0).double().sum(dim=1)
    return sums


def _token_nll(logits_NTV: Tensor, labels_NT: Tensor) -> Tensor:
    """Negative log-likelihood of each label [N, T]; 0 where there is none.

    On a CPU a few positions at a time, whose float32 logits stay in its cache: three times as fast, to the same bits.
    """
    logits, labels = logits_NTV.flatten(0, 1), labels_NT.flatten()
    block = max(1, _CACHED_BYTES // (4 * logits.shape[1])) if logits.device.type == "cpu" else len(labels)
    parts = [
        functional.cross_entropy(rows.float(), targets, reduction="none", ignore_index=IGNORE)
        for rows, targets in zip(logits.split(block), labels.split(block), strict=True)
    ]
    return torch.cat(parts).view(labels_NT.shape)


def needs_dense(statistics: Sequence[Statistic]) -> bool:
    """Whether one of the statistics compares with the dense model's logits."""
    return any(name.startswith("kl") for name in statistics)


def head_copies(statistics: Sequence[Statistic]) -> int:
    """Into how many parts the memory for logits goes.

    A divergence holds both models' logits and log-probabilities, and the dense model's probabilities.
    """
    return 5 if needs_dense(statistics) else 1


def _top_k(name: Statistic) -> int | None:
    """The number in ``kl_top20``; None for ``kl``."""
    if name == "kl":
        return None
    number = name.removeprefix("kl_top")
    if not name.startswith("kl_top") or not number.isdecimal() or int(number) < 1:
        raise ValueError(f"a statistic must be 'nll', 'hits', 'kl' or 'kl_top' and a number, got {name!r}")
    return int(number)


def _divergence(dense_NTV: Tensor, logits_NTV: Tensor, top_k: int | None) -> Tensor:
    """KL(dense || model) at each position [N, T], in nats; the dense logits are repeated to N rows."""
    log_p = functional.log_softmax(dense_NTV, dim=-1)
    log_q = functional.log_softmax(logits_NTV, dim=-1).view(-1, *log_p.shape)
    if top_k is not None and top_k < log_p.shape[-1]:
        kept = log_p.topk(top_k, dim=-1).indices
        log_p, log_q = _with_rest(log_p, kept), _with_rest(log_q, kept.expand(len(log_q), *kept.shape))
    p = log_p.exp()
    # In place, to hold one array as large as the logits less. Where p is 0 its term is 0, also when both logits are
    # -inf; where p is NaN, so is its term.
    terms = log_q.neg_().add_(log_p).mul_(p)
    return terms.masked_fill_(p == 0, 0.0).sum(dim=-1).flatten(0, 1)


def _with_rest(log_probs: Tensor, kept: Tensor) -> Tensor:
    """Log-probabilities of some tokens, and of all others together [..., k + 1]."""
    rest = log_probs.scatter(-1, kept, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat([log_probs.gather(-1, kept), rest], dim=-1)


def shifted_labels(labels_ST: Tensor) -> Tensor:
    """Labels moved so that position t holds the token that follows it [S, T]; the last position has none."""
    ends = torch.full_like(labels_ST[:, :1], IGNORE)
    return torch.cat([labels_ST[:, 1:], ends], dim=1)
