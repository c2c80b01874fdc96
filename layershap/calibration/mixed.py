"""Calibration text of several kinds, in given shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from layershap.calibration.blocks import AUTO_SEQUENCES, BosPolicy, Calibration
from layershap.limits import check_int


def mixed_texts(
    sources: Mapping[str, str | Iterable[str]],
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
    sources : mapping of str to str or iterable of str
        Texts of each kind, by name.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer, as for `Calibration.from_texts`.
    weights : mapping of str to float, optional
        Shares of the sequences, relative to each other. By default the same for all.
    seq_len : int, default=128
        Number of tokens per sequence T.
    n_sequences : int, default=128
        Number of sequences S in all.
    bos : {'none', 'text', 'sequence'}, default='none'
        Place of a beginning-of-sequence token, as for `Calibration.from_texts`.

    Returns
    -------
    Calibration
        The kinds one after the other; its provenance names them with their numbers of sequences.

    Raises
    ------
    ValueError
        No source, weights that don't belong to the sources or aren't positive, fewer sequences than sources, or a
        source with too little text for its share.

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
    for (name, texts), count in zip(sources.items(), counts, strict=True):
        try:
            parts.append(Calibration.from_texts(texts, tokenizer, seq_len=seq_len, n_sequences=int(count), bos=bos))
        except ValueError as error:
            raise ValueError(f"source {name!r}: {error}") from error
    joined = Calibration.concatenate(parts)
    kinds = {name: int(count) for name, count in zip(sources, counts, strict=True)}
    provenance = {**parts[0].provenance, "source": "mixture", "kinds": kinds}
    for key in ("n_texts", "n_tokens"):
        provenance[key] = sum(part.provenance[key] for part in parts)
    return Calibration(joined.ids_ST, joined.labels_ST, provenance)
