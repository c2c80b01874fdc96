"""Calling a language model: token ids in, logits out, whatever class it is.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from layershap.exceptions import UnsupportedModelError
from layershap.inputs import SENSES, Inputs
from layershap.model.patching import evaluation_mode as evaluation_mode
from layershap.model.skeleton import on_meta_device


def check_is_model(model: object) -> nn.Module:
    """Return `model` if it is a module that may map token ids to logits, else say what it is instead."""
    if not isinstance(model, nn.Module):
        hint = ""
        if isinstance(model, str):
            hint = " Load it first: AutoModelForCausalLM.from_pretrained(...)."
        elif isinstance(model, type):
            hint = " This is the class; pass an instance."
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.{hint}")
    return model


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether the model predicts target tokens (``decoder_input_ids``) from what its encoder reads."""
    takes = inspect.signature(type(base_model(model)).forward).parameters
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False)) and "decoder_input_ids" in takes


def base_model(model: nn.Module) -> Any:
    """The transformers model itself, without PEFT's wrapper."""
    getter = getattr(model, "get_base_model", None)
    return getter() if getter is not None and hasattr(model, "peft_config") else model


def holds_adapters(model: nn.Module) -> bool:
    """Whether PEFT has put adapters into the model, which its config does not speak of."""
    return hasattr(model, "peft_config") or any(hasattr(module, "base_layer") for module in model.modules())


def input_device(model: nn.Module) -> torch.device:
    """Where token ids must be: with the model's embeddings, or on its hooks' device if accelerate dispatched it."""
    hook_map = getattr(model, "hf_device_map", None)
    if hook_map:
        execution = next((d for d in hook_map.values() if d not in ("cpu", "disk")), None)
        if execution is not None:
            return torch.device(execution if isinstance(execution, str) else f"cuda:{execution}")
        return torch.device("cpu")
    tensor = next(model.parameters(), None)
    device = tensor.device if tensor is not None else torch.device("cpu")
    offloaded = device.type == "meta" and not on_meta_device(model)
    return torch.device("cpu") if offloaded else device


def part_of(model: nn.Module, getter: str) -> nn.Module | None:
    """What a transformers getter (``get_decoder``, ...) returns, None where the model lacks it or has no such part."""
    try:
        found = getattr(model, getter)()
    except (AttributeError, NotImplementedError):
        return None
    return found if isinstance(found, nn.Module) else None


def from_gguf(module: nn.Module) -> bool:
    """Whether transformers has read a model from a GGUF file, and still says so."""
    method: Any = getattr(module, "quantization_method", None)
    return getattr(method, "value", method) == "gguf"


def is_quantized(module: nn.Module) -> bool:
    """Whether a model was loaded quantised, or a module holds other weights than plain floating-point tensors."""
    # Set by transformers' quantisers; by that of GGUF files also where it has unpacked all weights.
    if getattr(module, "is_quantized", False) and not from_gguf(module):
        return True
    return any(not p.is_floating_point() or hasattr(p, "__tensor_flatten__") for p in module.parameters())


def weights_precision(model: nn.Module) -> torch.dtype:
    """Type of the model's first floating-point weights; float32 if it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def vocabulary_size(model: nn.Module) -> int | None:
    """Number of token ids the model accepts, or None if it does not say."""
    size = getattr(part_of(model, "get_input_embeddings"), "num_embeddings", None)
    if size is not None:
        return int(size)
    config = getattr(model, "config", None)
    if config is not None and getattr(config, "vocab_size", None):
        return int(config.vocab_size)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            return module.num_embeddings
    return None


def maximum_length(model: nn.Module) -> int | None:
    """Longest sequence the model's learned positions allow, or None if it does not say."""
    config = getattr(model, "config", None)
    value = getattr(text_config(config), "max_position_embeddings", None) if config is not None else None
    return int(value) if isinstance(value, int) and value > 0 else None


def text_config(config: Any) -> Any:
    """The part of a transformers config that describes the text decoder."""
    getter = getattr(config, "get_text_config", None)
    return getter(decoder=True) if getter is not None else config


def accepts_argument(model: nn.Module, name: str) -> bool:
    """Whether the model's forward names this argument, or (as transformers' own do) passes keywords on."""
    parameters = inspect.signature(type(model).forward).parameters
    passes_on = hasattr(model, "config") and any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return name in parameters or passes_on


def other_inputs(model: nn.Module) -> list[str]:
    """Arguments by which the model takes images or sound beside token ids."""
    return [name for name in SENSES if name in inspect.signature(type(model).forward).parameters]


def _check_takes_text_alone(model: nn.Module, error: Exception) -> None:
    """Say so if a forward on token ids failed for want of an image or of sound."""
    senses = ("pixel", "image", "video", "audio", "input_features", "input_values")
    names = [name for name in inspect.signature(type(model).forward).parameters if any(s in name for s in senses)]
    missing = [name for name in names if name in str(error)]
    if missing:
        raise UnsupportedModelError(
            f"{type(model).__name__} can't run on token ids alone, it needs {missing[0]}. Pass its language model "
            "(often model.language_model), if that is a causal model with a head"
        ) from error


_NOTHING: Inputs = MappingProxyType({})


def check_takes(model: nn.Module, inputs: Inputs) -> None:
    """Raise unless the model takes these inputs beside tokens, and needs no others.

    Raises
    ------
    UnsupportedModelError
        An encoder-decoder model without its encoder's input; or a name that no module of the model takes, which
        transformers' forwards would pass on and drop.
    """
    if is_encoder_decoder(model) and not inputs:
        raise UnsupportedModelError(
            f"{type(model).__name__} is an encoder-decoder model: target tokens are scored given what its encoder "
            "reads. Give both (layershap.calibration.from_targets), or pass the decoder's causal class (as "
            "BartForCausalLM)"
        )
    kinds = {type(module) for module in model.modules()} if inputs else set()
    unknown = sorted(set(inputs) - {name for kind in kinds for name in inspect.signature(kind.forward).parameters})
    if unknown:
        raise UnsupportedModelError(
            f"calibration inputs must be arguments of the model's forward; {type(model).__name__} takes no {unknown}. "
            "Leave them out of the batches"
        )


def logits_of(model: nn.Module, ids_BT: Tensor, inputs: Inputs = _NOTHING) -> Tensor:
    """Run the model's own forward, without a cache, and return its logits, [B, T, V] or not.

    Parameters
    ----------
    model : nn.Module
        Any module that takes token ids.
    ids_BT : Tensor [B, T]
        Token ids on its device: the decoder's of an encoder-decoder model.
    inputs : mapping of str to Tensor
        Its forward's other arguments.
    """
    if is_encoder_decoder(model):
        if not inputs:
            check_takes(model, inputs)  # which says what is missing
        arguments: dict[str, Any] = {**inputs, "decoder_input_ids": ids_BT, "use_cache": False}
        output = model(**arguments)
    elif hasattr(model, "config") and accepts_argument(model, "input_ids"):
        arguments = {"input_ids": ids_BT, **inputs}
        if accepts_argument(model, "use_cache"):
            arguments["use_cache"] = False
        try:
            output = model(**arguments)
        except (TypeError, ValueError) as error:
            _check_takes_text_alone(model, error)
            raise
    else:
        output = model(ids_BT, **inputs)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise _no_logits(model, type(output).__name__, ids_BT)
    return logits


def token_logits(model: nn.Module, ids_BT: Tensor, inputs: Inputs = _NOTHING) -> Tensor:
    """`logits_of` a model that predicts tokens [B, T, V].

    Raises
    ------
    UnsupportedModelError
        It predicts something else, or can't run on these inputs.
    """
    logits = logits_of(model, ids_BT, inputs)
    if logits.dim() != 3 or logits.shape[:2] != ids_BT.shape:
        raise _no_logits(model, f"a tensor of shape {tuple(logits.shape)}", ids_BT)
    return logits


def _no_logits(model: nn.Module, got: str, ids_BT: Tensor) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{type(model).__name__} must map token ids [B, T] to logits [B, T, V] (a tensor, or an output with "
        f".logits), got {got} for ids of shape {tuple(ids_BT.shape)}. "
        "Pass a causal language model (AutoModelForCausalLM), not a bare encoder, decoder or classifier."
    )
