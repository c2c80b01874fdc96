"""Whatever a user has -> `Calibration`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layershap.calibration.blocks import Calibration
from layershap.calibration.sources import source_of, text_tokenizer


def as_calibration(
    data: Any,
    tokenizer: Any = None,
    *,
    pack: Callable[[Iterable[str], Any], Calibration] = Calibration.from_texts,
) -> Calibration:
    """Convert any supported data to a `Calibration`, text with the defaults of `from_texts` (128 x 128 tokens, no BOS).

    Parameters
    ----------
    data : Calibration, Tensor [S, T], texts, datasets.Dataset, DataLoader or iterable of batches
        Data to convert; `Calibration.from_texts` and its like take other lengths, numbers or BOS policies.
    tokenizer : PreTrainedTokenizerBase, optional
        The model's tokenizer, which texts need; for tokens without an attention mask, its pad token tells padding. A
        processor serves as its tokenizer.
    pack : callable, default=Calibration.from_texts
        Function of the texts and the tokenizer, called if the data holds texts.

    Returns
    -------
    Calibration
        The token sequences.

    Raises
    ------
    TypeError
        Data of no supported kind.
    ValueError
        Text without a tokenizer, or too little of it; no column that is known to hold the text; padding that can't be
        told from text.
    """
    if isinstance(data, Calibration):
        return data
    if data is None:
        raise ValueError(
            "calibration data is required: fit(model, calib_data) takes texts with a tokenizer, a datasets.Dataset, "
            "a DataLoader or a token tensor [S, T]"
        )
    if isinstance(data, np.ndarray) and data.dtype.kind not in "OUS":
        data = torch.from_numpy(np.ascontiguousarray(data))
    if isinstance(data, Tensor):
        if data.dim() != 2 or data.is_floating_point() or data.is_complex() or data.dtype == torch.bool:
            raise ValueError(
                f"a calibration tensor must hold integer token ids [S, T], got shape {tuple(data.shape)} "
                f"of {data.dtype}"
            )
        if data.numel() == 0:
            return Calibration(data.long(), data.long())  # which says what is missing
        found = Calibration.from_batches([data], tokenizer)
        return replace(found, provenance=found.provenance | {"source": "tensor"})
    source = source_of(data)
    if not source.of_text:
        return Calibration.from_batches(source.items, tokenizer)
    found = pack(source.items, text_tokenizer(tokenizer))
    return replace(found, provenance=found.provenance | source.provenance)
