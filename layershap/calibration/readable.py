"""Whether a model can read calibration sequences."""

from __future__ import annotations

from torch import nn

from layershap.calibration.batches import IGNORE
from layershap.calibration.blocks import Calibration
from layershap.model.io import maximum_length, vocabulary_size


def check_readable(model: nn.Module, calibration: Calibration) -> None:
    """Refuse sequences that a model can't read; torch says "index out of range", or loses the GPU.

    Parameters
    ----------
    model : nn.Module
        The model; only its sizes are asked for.
    calibration : Calibration
        The sequences.

    Raises
    ------
    ValueError
        A token id, or a label that counts, is outside the model's vocabulary; or sequences are longer than its
        positions.
    """
    vocabulary, positions = vocabulary_size(model), maximum_length(model)
    low, high = int(calibration.ids_ST.min()), int(calibration.ids_ST.max())
    if low < 0 or (vocabulary is not None and high >= vocabulary):
        raise ValueError(
            f"calibration token ids must lie in [0, {vocabulary}), the model's vocabulary; they span [{low}, {high}]. "
            "Was another tokenizer used?"
        )
    scored = calibration.labels_ST[calibration.labels_ST != IGNORE]
    if len(scored) and (int(scored.min()) < 0 or (vocabulary is not None and int(scored.max()) >= vocabulary)):
        raise ValueError(
            f"calibration labels must be token ids in [0, {vocabulary}), the model's vocabulary, or {IGNORE} where "
            f"nothing is scored; they span [{int(scored.min())}, {int(scored.max())}]"
        )
    if positions is not None and calibration.seq_len > positions:
        raise ValueError(
            f"sequences must fit the model's {positions} positions, the longest has {calibration.seq_len} tokens; "
            "use a smaller seq_len, a perplexity protocol with shorter ones, or for a task a smaller max_length"
        )
