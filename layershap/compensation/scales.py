"""How much each layer scales the residual stream.

Shapes: L layers, T tokens, D hidden size.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from layershap.calibration import Calibration
from layershap.calibration.readable import check_readable
from layershap.compensation.layerwise import in_blocks, quiet, real_tokens
from layershap.exceptions import UnsupportedModelError
from layershap.inputs import refuse_inputs
from layershap.model.stack import LayerStack
from layershap.model.states import states_at
from layershap.protocols import FloatArray


def layer_scales(model: nn.Module, stack: LayerStack, calibration: Calibration) -> FloatArray:
    """Ratio [L] of the mean absolute hidden state after each layer to that before it.

    The ratios of neighbouring layers multiply to that of their gap.

    Parameters
    ----------
    model : nn.Module
        The model with all its layers.
    stack : LayerStack
        Its layers.
    calibration : Calibration
        The text to measure on.

    Returns
    -------
    ndarray [L]
        Ratio of each layer.

    Raises
    ------
    UnsupportedModelError
        Some states hold NaN or infinity, or nothing but 0.
    ValueError
        Token ids outside the vocabulary, or sequences longer than the model's positions.

    References
    ----------
    Prune&Comp, 2025, arXiv 2507.18212: magnitude compensation.
    """
    refuse_inputs(calibration.inputs, "a compensation")
    check_readable(model, calibration)
    tokens = in_blocks(model, calibration)
    sums = np.zeros(len(stack) + 1)
    with quiet(model):
        for block, real_BT in zip(tokens.blocks, real_tokens(tokens, calibration), strict=True):
            for boundary, hidden in states_at(model, stack, block.ids_BT, range(len(stack) + 1)).items():
                magnitude = hidden.float().abs()
                if magnitude.shape[:2] == real_BT.shape:
                    magnitude = magnitude[real_BT.to(magnitude.device)]
                sums[boundary] += float(magnitude.sum(dtype=torch.float64))
    if not (np.isfinite(sums) & (sums > 0)).all():
        broken = int(np.flatnonzero(~np.isfinite(sums) | (sums <= 0))[0])
        raise UnsupportedModelError(
            f"the hidden states before layer {broken} must be finite and not all 0 for the layers' scales to be "
            f"measured, their absolute values sum to {sums[broken]:g}: is the model sound on this text, in this "
            "precision? (float16 overflows where bfloat16 doesn't)"
        )
    return sums[1:] / sums[:-1]
