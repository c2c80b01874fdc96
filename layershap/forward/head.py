"""Per-token statistics from logits, summed per sequence, a few positions at a time.

Sums are taken in float64 from float32 log-probabilities, whatever the model's precision.

Shapes: N rows (states x sequences), T tokens, P positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from layershap.calibration import IGNORE
from layershap.protocols import Statistic

_CACHED_BYTES = 2**20
_GPU_BYTES = 64 * 2**20
"""Float32 logits that losses are taken from at once: on a CPU half of a core's usual second-level cache; elsewhere an
eighth of a GPU's chunk, which hasn't been timed."""


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
            value_NT = _by_position(logits_NTV, labels_NT, _nll)
        elif name == "hits":
            value_NT = _by_position(logits_NTV, labels_NT, _hits)
        else:
            top_k = _top_k(name)
            if dense_logits_NTV is None:
                raise ValueError(f"{name!r} needs the dense model's logits")
            value_NT = _divergence(dense_logits_NTV.float(), logits_NTV.float(), top_k)
        sums[name] = torch.where(scored_NT, value_NT, 0.0).double().sum(dim=1)
    return sums


def _by_position(logits_NTV: Tensor, labels_NT: Tensor, value: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A value [N, T] of each position's float32 logits and label, which is the same however many go at once.

    So few go that their float32 logits stay in a CPU's cache, or don't fill a GPU's memory: those of a chunk in half
    precision are twice as large as the chunk itself.
    """
    logits, labels = logits_NTV.flatten(0, 1), labels_NT.flatten()
    at_once = _CACHED_BYTES if logits.device.type == "cpu" else _GPU_BYTES
    size = max(1, at_once // (4 * logits.shape[1]))
    parts = [value(rows.float(), targets) for rows, targets in zip(logits.split(size), labels.split(size), strict=True)]
    return torch.cat(parts).view(labels_NT.shape)


def _nll(logits_PV: Tensor, labels_P: Tensor) -> Tensor:
    """Negative log-likelihood of each label [P]; 0 where there is none."""
    return functional.cross_entropy(logits_PV, labels_P, reduction="none", ignore_index=IGNORE)


def _hits(logits_PV: Tensor, labels_P: Tensor) -> Tensor:
    """1 where the label has the highest logit [P]; NaN is passed on: the model is broken there."""
    highest = logits_PV.max(dim=-1)
    return torch.where(highest.values.isnan(), torch.nan, (highest.indices == labels_P).float())


def needs_dense(statistics: Sequence[Statistic]) -> bool:
    """Whether one of the statistics compares with the dense model's logits."""
    return any(name.startswith("kl") for name in statistics)


def bytes_of_a_logit(statistics: Sequence[Statistic], precision: torch.dtype) -> int:
    """Bytes that a chunk holds for each logit of a model with weights of some precision.

    A divergence holds both models' logits and log-probabilities, and the dense model's probabilities, in float32; the
    other statistics hold the logits as the model gives them.
    """
    return 5 * 4 if needs_dense(statistics) else max(2, precision.itemsize)  # nothing computes in 8 bits


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
