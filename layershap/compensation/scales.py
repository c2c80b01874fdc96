"""How much each layer scales the residual stream.

Shapes: L layers, T tokens, D hidden size.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from layershap.calibration import Calibration
from layershap.compensation.layerwise import in_blocks, quiet, real_tokens
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

    References
    ----------
    Prune&Comp, 2025, arXiv 2507.18212: magnitude compensation.
    """
    refuse_inputs(calibration.inputs, "a compensation")
    tokens = in_blocks(model, calibration)
    sums = np.zeros(len(stack) + 1)
    with quiet(model):
        for block, real_BT in zip(tokens.blocks, real_tokens(tokens, calibration), strict=True):
            for boundary, hidden in states_at(model, stack, block.ids_BT, range(len(stack) + 1)).items():
                magnitude = hidden.float().abs()
                if magnitude.shape[:2] == real_BT.shape:
                    magnitude = magnitude[real_BT.to(magnitude.device)]
                sums[boundary] += float(magnitude.sum(dtype=torch.float64))
    return sums[1:] / sums[:-1]
