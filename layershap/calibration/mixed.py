"""Calibration text of several kinds, in given shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from layershap.calibration.blocks import AUTO_SEQUENCES, BosPolicy, Calibration
from layershap.calibration.packing import evenly
from layershap.limits import check_int


def mixed_texts(
    sources: Mapping[str, str | Iterable[str] | Calibration],
    tokenizer: Any,
    *,
    weights: Mapping[str, float] | None = None,
    seq_len: int = 128,
    n_sequences: int = AUTO_SEQUENCES,
    bos: BosPolicy = "none",
) -> Calibration:
    """Sequences of several kinds of text: a choice made on one kind alone is worth less on the others.

    Parameters
    ----------
    sources : mapping of str to str, iterable of str, or Calibration
        Texts of each kind, by name; or sequences that were made of them (`chat_answers`, `own_answers`), of which
        those at even distances are taken.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer, as for `Calibration.from_texts`; None where no source is text.
    weights : mapping of str to float, optional
        Shares of the sequences, relative to each other. By default the same for all. A utility that takes the mean
        over tokens weighs a kind by its scored tokens, which the provenance counts.
    seq_len : int, default=128
        Number of tokens per sequence T of texts.
    n_sequences : int, default=128
        Number of sequences S in all.
    bos : {'none', 'text', 'sequence'}, default='none'
        Place of a beginning-of-sequence token, as for `Calibration.from_texts`.

    Returns
    -------
    Calibration
        The kinds one after the other; its provenance names them with their numbers of sequences and scored tokens.

    Raises
    ------
    ValueError
        No source, weights that don't belong to the sources or aren't positive, fewer sequences than sources, or a
        source with too little text, or too few sequences, for its share.

    See Also
    --------
    layershap.tasks.mixture : Tasks with utilities of their own.

    Examples
    --------
    >>> from layershap.calibration import mixed_texts
    >>> from layershap.datasets import load_calibration_text, load_evaluation_text, load_tiny_gpt2
    >>> tokenizer = load_tiny_gpt2()[1]
    >>> sources = {"adventure": load_calibration_text(), "fantasy": load_evaluation_text()}
    >>> mixed_texts(sources, tokenizer, weights={"adventure": 3, "fantasy": 1}, n_sequences=32).n_sequences
    32
    """
    if not isinstance(sources, Mapping):
        raise TypeError(f"sources must name each kind of text, {{name: texts}}, got {type(sources).__name__}")
    if not sources:
        raise ValueError("sources must name at least one kind of text, got none")
    shares = dict.fromkeys(sources, 1.0) if weights is None else dict(weights)
    if set(shares) != set(sources) or not all(np.isfinite(w) and w > 0 for w in shares.values()):
        raise ValueError(f"weights must give each of {list(sources)} a positive number, got {shares}")
    check_int("n_sequences", n_sequences, len(sources), meaning="one for each source")
    bounds = np.cumsum([0.0, *(shares[name] for name in sources)]) / sum(shares.values())
    counts = np.maximum(np.diff((bounds * n_sequences).round().astype(int)), 1)
    counts[int(counts.argmax())] -= counts.sum() - n_sequences
    parts = []
    for (name, source), count in zip(sources.items(), counts, strict=True):
        try:
            if isinstance(source, Calibration):
                parts.append(_taken(source, int(count)))
            else:
                found = Calibration.from_texts(source, tokenizer, seq_len=seq_len, n_sequences=int(count), bos=bos)
                parts.append(found)
        except ValueError as error:
            raise ValueError(f"source {name!r}: {error}") from error
    joined = Calibration.concatenate(parts)
    provenance: dict[str, Any] = {
        "source": "mixture",
        "kinds": {name: part.n_sequences for name, part in zip(sources, parts, strict=True)},
        "scored_tokens": {name: int(part.counts_S.sum()) for name, part in zip(sources, parts, strict=True)},
    }
    if any(isinstance(source, Calibration) for source in sources.values()):
        provenance["parts"] = {name: part.provenance for name, part in zip(sources, parts, strict=True)}
    else:
        provenance = {**parts[0].provenance, **provenance}
        for key in ("n_texts", "n_tokens"):
            provenance[key] = sum(part.provenance[key] for part in parts)
    return Calibration(joined.ids_ST, joined.labels_ST, provenance)


def _taken(source: Calibration, count: int) -> Calibration:
    if source.n_sequences < count:
        raise ValueError(f"it has {source.n_sequences} sequences, its share is {count}; give more, or another weight")
    return source.take(torch.tensor(evenly(source.n_sequences, count), dtype=torch.int64))
