"""Models that transformers has read from a GGUF file: full weights, but the reader's quantiser stays attached."""

from __future__ import annotations

import logging

from torch import nn

from layershap.model.io import base_model, from_gguf, is_quantized

_logger = logging.getLogger(__name__)


def drop_gguf_quantizer(model: nn.Module) -> bool:
    """Detach the quantiser from a model that was read from a GGUF file as full weights, in place.

    transformers dequantises such a file while it reads it, and marks the model as quantised all the same, so that
    ``save_pretrained`` refuses what are plain floating-point weights. Without the mark it is an ordinary model. One
    whose weights stay packed keeps it.

    Parameters
    ----------
    model : nn.Module
        Any model, with or without PEFT adapters.

    Returns
    -------
    bool
        Whether there was one to detach.
    """
    base = base_model(model)
    if not from_gguf(base) or is_quantized(base):
        return False
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        vars(base).pop(name, None)
    if hasattr(getattr(base, "config", None), "quantization_config"):
        del base.config.quantization_config
    _logger.info(
        "%s was read from a GGUF file as full weights: it is no longer marked as quantised", type(base).__name__
    )
    return True
