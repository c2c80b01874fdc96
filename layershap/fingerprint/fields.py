"""The fields of a fingerprint, which a ledger's header carries.

Shapes: T tokens, V vocabulary, L layers, P players.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from layershap.calibration import Calibration
from layershap.fingerprint.attributes import config_values, module_values
from layershap.fingerprint.weights import weights_digest
from layershap.inputs import input_rows
from layershap.model.io import evaluation_mode, input_device, logits_of
from layershap.model.samples import sample_logits
from layershap.model.sublayers import Players, SublayerStack

_ORDER = (
    "model",
    "weights",
    "config",
    "modules",
    "behaviour",
    "n_layers",
    "layers",
    "granularity",
    "dtype",
    "device",
    "calibration",
    "statistics",
    "batch_tokens",
    "threads",
    "matmul_precision",
    "torch",
    "transformers",
    "skip_scales",
)
"""In which the fields are written: the checks of a ledger's rows go by the header's bytes."""

_PROBE_TOKENS = 64
_PROBE_LOGITS = 16


def model_fields(model: nn.Module, stack: Players) -> dict[str, Any]:
    """The fields about the model and the machine: reads all weights once."""
    parameter = next(model.parameters(), None)
    device = parameter.device.type if parameter is not None else "none"
    return {
        "model": type(model).__name__,
        "weights": weights_digest(model),
        "config": config_values(model),
        "modules": module_values(model),
        "n_layers": len(stack.layers),
        "layers": stack.path,
        "granularity": "sublayer" if isinstance(stack, SublayerStack) else "layer",
        "dtype": str(parameter.dtype) if parameter is not None else "none",
        "device": device,
        "threads": torch.get_num_threads() if device == "cpu" else None,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        # Only where skipped layers scale the states: ledgers of plain games stay what they were.
        **({} if stack.skip_scales is None else {"skip_scales": list(stack.skip_scales)}),
    }


def fingerprint(
    of_model: Mapping[str, Any],
    calibration: Calibration,
    statistics: tuple[str, ...],
    batch_tokens: int,
    logits: list[list[float]],
) -> dict[str, Any]:
    """The whole fingerprint: `model_fields`, the calibration text and what is read on it, `logits` from `behaviour`.

    Memory limits are no part of it: they don't change what is computed, only how much of it at once.
    """
    fields = {
        **of_model,
        "behaviour": logits,
        "calibration": calibration.digest,
        "statistics": list(statistics),
        "batch_tokens": batch_tokens,
    }
    return {name: fields[name] for name in _ORDER if name in fields}


def behaviour(
    model: nn.Module, stack: Players, calibration: Calibration, always_kept: Collection[int]
) -> list[list[float]]:
    """Some logits after the first calibration tokens, with all players and with half of them: what no list of
    attributes can promise to hold.
    """
    device = input_device(model)
    first = input_rows(calibration.inputs, slice(0, 1), calibration.n_sequences)
    inputs = {name: value.to(device) for name, value in first.items()}
    # Where images stand for some of the tokens, none may go.
    ids_BT = calibration.ids_ST[:1, : None if inputs else _PROBE_TOKENS].to(device)
    skipped = np.flatnonzero(np.random.default_rng(0).permutation(len(stack)) % 2)
    found: list[list[float]] = []
    with evaluation_mode(model), torch.inference_mode():
        for players in ([], [int(player) for player in skipped if player not in always_kept]):
            try:
                with stack.skip(players):
                    logits = logits_of(model, ids_BT, inputs) if inputs else sample_logits(model, ids_BT)
                    logits_V = logits[0].reshape(-1, logits.shape[-1])[-1].double().cpu()
            except (TypeError, RuntimeError, IndexError, KeyError):
                found.append([])  # a model that can't do without some layer of this half
                continue
            index = torch.linspace(0, len(logits_V) - 1, _PROBE_LOGITS, device="cpu").long()
            found.append([*logits_V[index].tolist(), float(logits_V.mean()), float(logits_V.std())])
    return found
