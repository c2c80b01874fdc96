"""`Calibration`: blocks of tokens and which of them count.

Shapes: S sequences, T tokens in a sequence. Labels are aligned with the tokens they are (no shift): the score of
position t is how well the tokens before t predict ``labels[t]``, so position 0 never counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from layershap.calibration.batches import IGNORE, check_labels
from layershap.calibration.enough import warn_of_little
from layershap.calibration.packing import check_sizes, pack
from layershap.calibration.reading import read_batches
from layershap.calibration.sources import read_texts, source_of, text_tokenizer, token_ids
from layershap.escaping import one_line
from layershap.inputs import Inputs, add_inputs, check_inputs, input_rows, joined_inputs
from layershap.places import tokenizer_name
from layershap.tables import html_fields

BosPolicy = Literal["none", "text", "sequence"]

AUTO_SEQUENCES = 128
"""Sequences that texts become unless told, if they hold as many (docs/generalisation.md)."""


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """Token sequences on which masked models are scored.

    Attributes
    ----------
    ids_ST : Tensor [S, T] of int64
        Token ids. Padding, if there was any, is at the right end: under causal attention it can't reach a real token.
    labels_ST : Tensor [S, T] of int64
        Equal to `ids_ST` where the token is scored, `IGNORE` where it isn't.
    provenance : dict
        Origin of the tokens as plain JSON values: source, tokenizer, BOS policy, texts used.
    inputs : mapping of str to Tensor [S * k, ...]
        What the model takes beside the tokens, by the names of its forward's arguments (``pixel_values`` of images, the
        ``input_ids`` that an encoder reads): k rows for each sequence.
    """

    ids_ST: Tensor
    labels_ST: Tensor
    provenance: dict[str, Any] = field(default_factory=dict)
    inputs: Inputs = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids, labels = self.ids_ST, self.labels_ST
        if ids.dim() != 2 or ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"calibration token ids must be an integer tensor [S, T], got shape {tuple(ids.shape)} of {ids.dtype}"
            )
        if labels.shape != ids.shape:
            raise ValueError(f"labels must have the shape of the ids {tuple(ids.shape)}, got {tuple(labels.shape)}")
        if ids.shape[0] == 0 or ids.shape[1] < 2 or int(self.counts_S.sum()) == 0:
            raise ValueError(
                f"calibration needs at least one sequence with two tokens, the second of which counts; got "
                f"{ids.shape[0]} sequences of {ids.shape[1]} tokens, {int(self.counts_S.sum()) if ids.numel() else 0} "
                "of them scored. Give more text, or a smaller seq_len."
            )
        check_labels(ids, labels)
        check_inputs(self.inputs, len(ids))

    @property
    def n_sequences(self) -> int:
        """Number of sequences S."""
        return int(self.ids_ST.shape[0])

    @property
    def seq_len(self) -> int:
        """Number of tokens in a sequence T."""
        return int(self.ids_ST.shape[1])

    @property
    def counts_S(self) -> Tensor:
        """Scored tokens in each sequence [S]: position 0 has nothing before it and never counts."""
        return (self.labels_ST[:, 1:] != IGNORE).sum(dim=1)

    @property
    def lengths_S(self) -> Tensor:
        """Tokens of each sequence up to the last scored one [S]: what follows can't change its score."""
        scored_ST = self.labels_ST != IGNORE
        scored_ST[:, 0] = False
        positions_T = torch.arange(1, self.seq_len + 1, device=scored_ST.device)
        return (scored_ST * positions_T).amax(dim=1)

    def __repr__(self) -> str:
        origin = one_line(", ".join(f"{name} {value}" for name, value in self.provenance.items()))
        scored = f"{int(self.counts_S.sum()):,} scored{''.join(f', {name}' for name in self.inputs)}"
        return f"Calibration({self.n_sequences} x {self.seq_len} tokens, {scored}{'; ' if origin else ''}{origin})"

    def _repr_html_(self) -> str:
        rows = {
            "sequences": f"{self.n_sequences:,} of {self.seq_len:,} tokens",
            "scored tokens": f"{int(self.counts_S.sum()):,}",
            **{name: str(tuple(value.shape)) for name, value in self.inputs.items()},
            **self.provenance,
        }
        return html_fields("Calibration", rows)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ids, labels and inputs: part of the ledger's fingerprint."""
        sha = hashlib.sha256(json.dumps(list(self.ids_ST.shape)).encode())
        for tensor in (self.ids_ST, self.labels_ST):
            sha.update(tensor.to("cpu", torch.int64).contiguous().numpy().tobytes())
        add_inputs(sha.update, self.inputs)
        return sha.hexdigest()

    def take(self, rows: Tensor) -> Calibration:
        """Some of the sequences: those at `rows`, which are indices or a mask [S] of bool."""
        inputs = input_rows(self.inputs, rows, self.n_sequences)
        return Calibration(self.ids_ST[rows], self.labels_ST[rows], self.provenance, inputs)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        tokenizer: Any,
        *,
        seq_len: int = 128,
        n_sequences: int | Literal["auto"] | None = "auto",
        bos: BosPolicy = "none",
    ) -> Calibration:
        """Pack texts into full sequences without padding; tokens that don't fill a sequence are dropped.

        Parameters
        ----------
        texts : iterable of str
            Texts, joined in order into one stream of tokens.
        tokenizer : PreTrainedTokenizerBase
            The model's tokenizer, called with ``add_special_tokens=False``.
        seq_len : int, default=128
            Number of tokens per sequence T (the paper's 128).
        n_sequences : int, 'auto' or None, default='auto'
            Number of sequences S, taken at even distances over the stream. 'auto' takes up to 128 and warns where the
            texts hold fewer than 32; an int must be there (the paper's is 10); None takes all.
        bos : {'none', 'text', 'sequence'}, default='none'
            Place of a beginning-of-sequence token: none (the paper), before each text, or at the start of each
            sequence (as one of its T tokens). It is context and never scored at position 0.

        Raises
        ------
        ValueError
            Fewer tokens than one sequence, or than `n_sequences`; or a BOS asked of a tokenizer that has none.

        Warns
        -----
        CalibrationWarning
            'auto' found fewer than 32 sequences.
        """
        check_sizes(seq_len, n_sequences)
        tokenizer = text_tokenizer(tokenizer)
        if bos not in ("none", "text", "sequence"):
            raise ValueError(f"bos must be 'none', 'text' or 'sequence', got {bos!r}")
        bos_id: Any = getattr(tokenizer, "bos_token_id", None)
        if bos != "none" and bos_id is None:
            raise ValueError(f"bos={bos!r} needs a tokenizer with a bos_token; {type(tokenizer).__name__} has none")
        most = AUTO_SEQUENCES if n_sequences == "auto" else n_sequences
        found, stopped = read_texts(texts, None if most is None else most * seq_len)
        stream: list[int] = []
        for text in found:
            if bos == "text":
                stream.append(int(bos_id))
            stream.extend(token_ids(tokenizer, text))
        ids_ST = pack(
            stream,
            seq_len=seq_len,
            n_sequences=_affordable(len(stream), seq_len - (bos == "sequence"), n_sequences),
            first_token=int(bos_id) if bos == "sequence" else None,
            n_texts=len(found),
        )
        provenance = {
            "source": "texts",
            "n_texts": len(found),
            "n_tokens": len(stream),
            "tokenizer": tokenizer_name(tokenizer),
            "bos": bos,
        }
        return cls(ids_ST, ids_ST.clone(), provenance | stopped)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        tokenizer: Any,
        *,
        column: str | None = None,
        seq_len: int = 128,
        n_sequences: int | Literal["auto"] | None = "auto",
        bos: BosPolicy = "none",
    ) -> Calibration:
        """Pack a text `column` of a `datasets.Dataset`, by default the only one or the one named 'text'.

        Besides `dataset`, the parameters `tokenizer`, `seq_len`, `n_sequences` and `bos` are as in `from_texts`.
        Streams and iterables of rows are datasets too. A column ``input_ids`` is read as batches (`from_batches`)
        unless `column` is given.

        Raises
        ------
        ValueError
            No such column, or several text columns and none named 'text'.
        """
        source = source_of(dataset, column)
        if not source.of_text:
            return cls.from_batches(source.items, tokenizer)
        found = cls.from_texts(source.items, tokenizer, seq_len=seq_len, n_sequences=n_sequences, bos=bos)
        return cls(found.ids_ST, found.labels_ST, found.provenance | source.provenance)

    @classmethod
    def from_batches(cls, batches: Iterable[Any], tokenizer: Any = None, *, inputs: Sequence[str] = ()) -> Calibration:
        """Stack batches of token ids: mappings with `input_ids`, tensors or lists.

        Padding on either side is moved to the right end and never scored. Shorter rows are padded to the longest, empty
        ones left out (``empty_rows`` of the provenance counts them).

        Parameters
        ----------
        batches : iterable
            Mappings may have an `attention_mask`, 0 where padding is, and `labels`: equal to `input_ids`, `IGNORE`
            where a token isn't scored.
        tokenizer : PreTrainedTokenizerBase, optional
            Asked for its pad token, which tells padding where there is no attention mask. A processor's tokens that
            stand for images, videos or sound aren't scored.
        inputs : sequence of str, default=()
            Names of the fields that the model takes beside the tokens: ``("pixel_values",)`` of images, say. Those of
            the shape of the ids lose their padding as these do.

        Raises
        ------
        ValueError
            No batches, or without an end; an attention mask with holes; labels that aren't the token ids; several
            arrays without names, of which one may be the mask of another (a tuple, or what holds 0 and 1 only); images
            or sound that `inputs` doesn't name.
        """
        rows, stacked, provenance = read_batches(batches, tokenizer, tuple(inputs))
        return replace(cls.from_rows(rows, provenance), inputs=stacked)

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[Tensor, Tensor]], provenance: dict[str, Any]) -> Calibration:
        """Pad `rows` of (ids [t], labels [t]) on the right to the longest; `provenance` is kept as given."""
        length = max(len(ids) for ids, _ in rows)
        ids_ST = torch.zeros(len(rows), length, dtype=torch.int64, device="cpu")
        labels_ST = torch.full((len(rows), length), IGNORE, dtype=torch.int64, device="cpu")
        for index, (ids, labels) in enumerate(rows):
            ids_ST[index, : len(ids)] = ids
            labels_ST[index, : len(labels)] = labels
        return cls(ids_ST, labels_ST, provenance)

    @classmethod
    def concatenate(cls, parts: Sequence[Calibration]) -> Calibration:
        """The sequences of several calibrations (`parts`) in order, shorter ones padded on the right."""
        rows = [row for part in parts for row in zip(part.ids_ST, part.labels_ST, strict=True)]
        found = cls.from_rows(rows, {"source": "several", "parts": [part.provenance for part in parts]})
        return replace(found, inputs=joined_inputs([(part.n_sequences, part.inputs) for part in parts]))


def _affordable(n_tokens: int, body: int, n_sequences: int | Literal["auto"] | None) -> int | None:
    """How many sequences to make of so many tokens."""
    if n_sequences != "auto":
        return n_sequences
    if n_tokens < body:
        return None  # not one is filled: packing says so
    count = min(AUTO_SEQUENCES, n_tokens // body)
    found = f"the calibration texts fill only {count} sequences of {body} tokens"
    warn_of_little(count, n_sequences, found, "text of the kind that matters")
    return count
