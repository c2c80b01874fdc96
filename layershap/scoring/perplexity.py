"""Perplexity under named protocols, because figures under different ones can't be compared.

Shapes: S sequences.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from layershap.calibration.perplexity_protocol import PerplexityProtocol, resolve_protocol
from layershap.forward.unmasked import sequence_statistics


@dataclass(frozen=True)
class Perplexity:
    """A perplexity, with the figures that a comparison needs.

    Attributes
    ----------
    value : float
        ``exp(nll)``; `float()` of this object gives it.
    nll : float
        Mean negative log-likelihood of the scored tokens, in nats.
    std_error : float
        Standard error of `value`, from the spread of the sequences' means (delta method); NaN for a single sequence.
    n_tokens, n_sequences : int
        Numbers of scored tokens and of their sequences.
    protocol : str
        Name of the `PerplexityProtocol`.
    """

    value: float
    nll: float
    std_error: float
    n_tokens: int
    n_sequences: int
    protocol: str

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.protocol}, {self.n_sequences} sequences)"


def perplexity(
    model: nn.Module,
    texts: str | Iterable[str],
    tokenizer: Any,
    *,
    protocol: str | PerplexityProtocol = "seq128",
    n_sequences: int | None = None,
    batch_tokens: int | str = "auto",
) -> Perplexity:
    """Perplexity of a model on text, under a named protocol.

    Parameters
    ----------
    model : nn.Module
        Causal language model, pruned, quantised or neither.
    texts : str or iterable of str
        Held-out text.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    protocol : str or PerplexityProtocol, default='seq128'
        A name in `PERPLEXITY_PROTOCOLS`, or a protocol of your own.
    n_sequences : int, optional
        Number of sequences to evaluate, at even distances over the text. By default all.
    batch_tokens : int or 'auto', default='auto'
        Number of tokens of one forward.

    Returns
    -------
    Perplexity
        The perplexity with its standard error and protocol.

    Raises
    ------
    ValueError
        An unknown protocol, too little text, no BOS where the protocol wants one, sequences longer than the model's
        positions.

    See Also
    --------
    layershap.evaluate : Scores texts and tasks at once.

    Examples
    --------
    >>> from layershap import perplexity
    >>> from layershap.datasets import load_evaluation_text, load_tiny_gpt2
    >>> model, tokenizer = load_tiny_gpt2()
    >>> perplexity(model, load_evaluation_text(), tokenizer, n_sequences=8).protocol
    'seq128'
    """
    chosen = resolve_protocol(protocol)
    sequences = chosen.sequences(texts, tokenizer, n_sequences=n_sequences)
    statistics = sequence_statistics(model, sequences, ("nll",), batch_tokens=batch_tokens)
    nll = float(statistics.sums["nll"].sum() / statistics.counts.sum())
    means_S = statistics.sums["nll"][0] / statistics.counts
    spread = float(np.std(means_S, ddof=1)) / math.sqrt(len(means_S)) if len(means_S) > 1 else math.nan
    value = math.inf if nll > 700 else math.exp(nll)  # NaN stays NaN
    return Perplexity(value, nll, value * spread, int(statistics.counts.sum()), len(means_S), chosen.name)
