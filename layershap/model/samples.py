"""What probes give a model: token ids, and made-up images, sound or text where it reads these too.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from layershap.exceptions import UnsupportedModelError
from layershap.model.io import (
    base_model,
    input_device,
    is_encoder_decoder,
    logits_of,
    other_inputs,
    token_logits,
    weights_precision,
)

_IDS = "input_ids"
_TEXT_TOKENS = 8


def reads_tokens(model: nn.Module) -> bool:
    """Whether token ids are the model's own input: not of an image or sound classifier."""
    base = base_model(model)
    names = inspect.signature(type(base).forward).parameters
    return "input_ids" in names or is_encoder_decoder(model) or getattr(base, "main_input_name", _IDS) == _IDS


def unread_inputs(model: nn.Module) -> list[str]:
    """Arguments by which the model takes images or sound that no probe gives it."""
    base = base_model(model)
    read = () if reads_tokens(model) and not is_encoder_decoder(model) else (getattr(base, "main_input_name", _IDS),)
    return [name for name in other_inputs(base) if name not in read]


def sample_logits(model: nn.Module, ids_BT: Tensor) -> Tensor:
    """Logits of a probe: [B, T, V] of a model that predicts tokens, [B, ...] of any other.

    Encoders, and models that classify images or sound, get the same made-up input in every row.

    Raises
    ------
    UnsupportedModelError
        The model gives no logits, or what it reads can't be made up.
    """
    if is_encoder_decoder(model):
        return token_logits(model, ids_BT, sample_inputs(model, len(ids_BT)))
    caller: Any = model
    if reads_tokens(model):
        return logits_of(model, ids_BT, {})
    return _checked(model, caller(**sample_inputs(model, len(ids_BT))))


def _checked(model: nn.Module, output: Any) -> Tensor:
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise UnsupportedModelError(
            f"{type(model).__name__} must give an output with .logits, got {type(output).__name__}; pass the class "
            "with its head (ViTForImageClassification, say), not the bare encoder"
        )
    return logits


def sample_inputs(model: nn.Module, n_rows: int) -> dict[str, Tensor]:
    """The main input of an encoder, made up from the config: the same for every row."""
    base = base_model(model)
    name = str(getattr(base, "main_input_name", _IDS))
    device = input_device(model)
    if name == _IDS:
        ids_T = torch.arange(1, 1 + _TEXT_TOKENS, device="cpu")
        return {name: ids_T.expand(n_rows, -1).to(device)}
    shape = _shape(base, name)
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(shape, generator=generator, device="cpu").to(device, weights_precision(model))
    return {name: value.expand(n_rows, *shape)}


def _shape(base: Any, name: str) -> tuple[int, ...]:
    """Of one row of an image or of sound."""
    configs = [base.config, *(value for value in vars(base.config).values() if hasattr(value, "to_dict"))]
    for config in configs:
        size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
        if name == "pixel_values" and size is not None and channels is not None:
            height, width = (size, size) if isinstance(size, int) else size
            return channels, height, width
        bins, positions = getattr(config, "num_mel_bins", None), getattr(config, "max_source_positions", None)
        if name == "input_features" and bins is not None and positions is not None:
            return bins, 2 * positions  # two convolutions, the second of stride 2
    raise UnsupportedModelError(
        f"{type(base).__name__} reads {name}, and its config doesn't tell the shape of it: such a model can't be "
        "probed. Served are encoders of token ids, images (config.image_size) and log-mel features "
        "(config.num_mel_bins)"
    )
