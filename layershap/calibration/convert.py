"""Whatever a user has -> `Calibration`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layershap.calibration.blocks import Calibration


def as_calibration(data: Any, tokenizer: Any = None) -> Calibration:
    """Turn whatever a user has into a `Calibration`, text with the defaults of `from_texts` (128 x 128 tokens, no BOS).

    Parameters
    ----------
    data : Calibration, Tensor [S, T], list of str, datasets.Dataset, DataLoader or iterable of batches
        Call `Calibration.from_texts` and its like for other lengths, counts or BOS handling.
    tokenizer : PreTrainedTokenizerBase, optional
        Needed for text.

    Raises
    ------
    TypeError
        Not one of the above.
    ValueError
        Text without a tokenizer, or too little of it.
    """
    if isinstance(data, Calibration):
        return data
    if data is None:
        raise ValueError(
            "calibration data is required: fit(model, calib_data) takes texts with a tokenizer, a datasets.Dataset, "
            "a DataLoader or a token tensor [S, T]"
        )
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(data)
    if isinstance(data, Tensor):
        if data.dim() != 2 or data.is_floating_point():
            raise ValueError(
                f"a calibration tensor must hold integer token ids [S, T], got shape {tuple(data.shape)} "
                f"of {data.dtype}"
            )
        ids_ST = data.cpu().long()
        return Calibration(ids_ST, ids_ST.clone(), {"source": "tensor", "bos": "as given"})
    if hasattr(data, "column_names") and hasattr(data, "features"):
        if "input_ids" in data.column_names:
            return Calibration.from_batches(iter(data))
        return Calibration.from_dataset(data, _require(tokenizer), seq_len=128)
    if isinstance(data, str) or (isinstance(data, Sequence) and len(data) > 0 and isinstance(data[0], str)):
        return Calibration.from_texts([data] if isinstance(data, str) else data, _require(tokenizer))
    if isinstance(data, Mapping) or hasattr(data, "input_ids"):
        return Calibration.from_batches([data])
    if isinstance(data, Iterable):
        return Calibration.from_batches(data)
    raise TypeError(
        f"calibration data must be texts, a datasets.Dataset, a DataLoader, batches or a token tensor [S, T], "
        f"got {type(data).__name__}"
    )


def _require(tokenizer: Any) -> Any:
    if tokenizer is None:
        raise ValueError(
            "calibration texts need a tokenizer: fit(model, texts, tokenizer=tokenizer), or "
            "fit(model, Calibration.from_texts(texts, tokenizer, seq_len=..., n_sequences=...))"
        )
    return tokenizer
