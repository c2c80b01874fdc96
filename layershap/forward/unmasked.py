"""Statistics of a model as it is, by its own forward: for evaluation, where nothing is masked.

Shapes: S sequences, B rows of a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from layershap.calibration import Calibration
from layershap.calibration.readable import check_readable
from layershap.forward.head import sequence_sums, shifted_labels
from layershap.forward.settings import EngineSettings
from layershap.inputs import input_rows
from layershap.model.io import (
    check_is_model,
    check_takes,
    evaluation_mode,
    input_device,
    token_logits,
)
from layershap.model.skeleton import refuse_skeleton
from layershap.protocols import SequenceStatistics, Statistic


def sequence_statistics(
    model: nn.Module,
    calibration: Calibration,
    statistics: Sequence[Statistic],
    *,
    batch_tokens: int | str = "auto",
) -> SequenceStatistics:
    """Measure a model on token sequences: the statistics of one "mask" (M = 1) with every layer in place.

    Sequences of like length go together, cut after the last token that is scored, so that padding costs little.

    Parameters
    ----------
    model : nn.Module
        Maps token ids [B, T] to logits; nothing else is asked of it.
    calibration : Calibration
        What to score.
    statistics : sequence of {'nll', 'hits'}
        What to measure; 'kl' compares with a dense model and needs a `LayerGame`.
    batch_tokens : int or 'auto'
        Tokens of one forward (one sequence at least).

    Raises
    ------
    ValueError
        Token ids outside the vocabulary, or sequences longer than the model's positions.
    """
    check_is_model(model)
    refuse_skeleton(model, "it can't be evaluated")
    check_takes(model, calibration.inputs)
    check_readable(model, calibration)
    device = input_device(model)
    budget = EngineSettings.resolve(batch_tokens, "auto", device).batch_tokens
    labels_ST = shifted_labels(calibration.labels_ST)
    lengths_S = calibration.lengths_S.numpy()
    if calibration.inputs:  # a value for each token may be among them
        lengths_S = np.full_like(lengths_S, calibration.seq_len)
    order_S = np.argsort(-lengths_S, kind="stable")
    sums: dict[Statistic, np.ndarray] = {name: np.zeros((1, len(order_S))) for name in statistics}
    start = 0
    with torch.inference_mode(), evaluation_mode(model):
        while start < len(order_S):
            length = max(2, int(lengths_S[order_S[start]]))
            rows = order_S[start : start + max(1, budget // length)]
            own = input_rows(calibration.inputs, rows, len(order_S))
            inputs = {name: value.to(device) for name, value in own.items()}
            logits_BTV = token_logits(model, calibration.ids_ST[rows, :length].to(device), inputs)
            found = sequence_sums(logits_BTV, labels_ST[rows, :length].to(logits_BTV.device), statistics)
            del logits_BTV  # or they live on while the next are computed
            for name, value_B in found.items():
                sums[name][0, rows] = value_B.cpu().numpy()
            start += len(rows)
    return SequenceStatistics(
        sums=sums,
        dense={name: value[0] for name, value in sums.items()},
        counts=calibration.counts_S.numpy().astype(np.float64),
    )
