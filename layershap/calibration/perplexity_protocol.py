"""From text to the sequences whose perplexity is reported, under named protocols.

Shapes: S sequences, T tokens in a sequence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from layershap.calibration.blocks import Calibration
from layershap.calibration.packing import check_sizes, pack
from layershap.calibration.sources import read_texts, text_tokenizer, token_ids
from layershap.places import tokenizer_name


@dataclass(frozen=True)
class PerplexityProtocol:
    """How text becomes the sequences whose perplexity is reported.

    The texts are joined by a blank line and cut into consecutive sequences; a rest that fills none is dropped. The
    perplexity is the exponential, taken once, of the mean negative log-likelihood of all tokens but the first of each
    sequence.

    Attributes
    ----------
    name : str
        Name that a reported figure must carry.
    seq_len : int
        Tokens of text in a sequence.
    bos : {'stream', 'sequence'}
        'stream': one beginning-of-sequence token before the whole stream, if the tokenizer has one, and none before
        its sequences. 'sequence': one before each sequence, in addition to its `seq_len` tokens, all of which then
        count.

    References
    ----------
    Pruning as a Cooperative Game, arXiv 2602.07804, and its published code, ``evaluate/dataset.py``, which has the
    first two protocols.
    """

    name: str
    seq_len: int
    bos: Literal["stream", "sequence"]

    def __post_init__(self) -> None:
        check_sizes(self.seq_len + (self.bos == "sequence"), None)
        if self.bos not in ("stream", "sequence"):
            raise ValueError(f"bos must be 'stream' or 'sequence', got {self.bos!r}")

    def sequences(self, texts: str | Iterable[str], tokenizer: Any, *, n_sequences: int | None = None) -> Calibration:
        """Token sequences of some text, which may also serve `LayerPruner.fit` as calibration data.

        Parameters
        ----------
        texts : str or iterable of str
            Text to cut; a whole corpus is usual.
        tokenizer : PreTrainedTokenizerBase
            The model's tokenizer, called with ``add_special_tokens=False``.
        n_sequences : int, optional
            Number of sequences S, taken at even distances. By default all.

        Returns
        -------
        Calibration
            S sequences of T tokens.

        Raises
        ------
        ValueError
            Too little text, or a BOS asked of a tokenizer that has none.
        """
        check_sizes(self.seq_len + (self.bos == "sequence"), n_sequences)
        tokenizer = text_tokenizer(tokenizer, f"perplexity under protocol {self.name!r} needs a tokenizer")
        bos_id = getattr(tokenizer, "bos_token_id", None)
        if self.bos == "sequence" and bos_id is None:
            raise ValueError(
                f"protocol {self.name!r} begins each sequence with a bos_token and {type(tokenizer).__name__} has "
                "none; use a protocol without ('seq128'), or set tokenizer.bos_token to the one the model was "
                "trained with"
            )
        parts, stopped = read_texts(texts, None if n_sequences is None else n_sequences * self.seq_len)
        stream = token_ids(tokenizer, "\n\n".join(parts))
        per_sequence = self.bos == "sequence"
        if not per_sequence and bos_id is not None:
            stream.insert(0, int(bos_id))
        ids_ST = pack(
            stream,
            seq_len=self.seq_len + per_sequence,
            n_sequences=n_sequences,
            first_token=int(bos_id) if per_sequence and bos_id is not None else None,
            n_texts=len(parts),
        )
        provenance = {
            "source": "texts",
            "protocol": self.name,
            "n_texts": len(parts),
            "n_tokens": len(stream),
            "tokenizer": tokenizer_name(tokenizer),
            "bos": self.bos,
        }
        return Calibration(ids_ST, ids_ST.clone(), provenance | stopped)


PERPLEXITY_PROTOCOLS: dict[str, PerplexityProtocol] = {
    protocol.name: protocol
    for protocol in (
        PerplexityProtocol("seq128", 128, "stream"),
        PerplexityProtocol("seq128-bos", 128, "sequence"),
        PerplexityProtocol("seq2048", 2048, "stream"),
    )
}
"""``seq128``: the paper's, one BOS before the whole text. ``seq128-bos``: one before each sequence. ``seq2048``: what
most papers on pruning and quantisation report, one BOS before the whole text."""


def resolve_protocol(protocol: str | PerplexityProtocol) -> PerplexityProtocol:
    """A protocol by its name, or itself."""
    if isinstance(protocol, PerplexityProtocol):
        return protocol
    if protocol not in PERPLEXITY_PROTOCOLS:
        raise ValueError(
            f"protocol must be one of {sorted(PERPLEXITY_PROTOCOLS)} or a PerplexityProtocol, got {protocol!r}"
        )
    return PERPLEXITY_PROTOCOLS[protocol]
