"""The self-check: the pruned model must compute what the masked one does, with and without a cache.

Shapes: B rows, T tokens, V vocabulary, G generated tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layershap.exceptions import GenerationCacheWarning, LayerShapError, SurgeryCheckError
from layershap.model.agreement import MODEL_ERRORS, plain_logits, probe_ids, relative_difference, tolerance
from layershap.model.io import base_model, evaluation_mode, is_encoder_decoder, text_config
from layershap.model.samples import sample_inputs, sample_logits
from layershap.model.sublayers import Players
from layershap.warning import warn_user

Check = Literal["auto", True, False]

_GENERATED = 5

SMALL_MODEL_PARAMETERS = 100_000_000
"""Parameters of a model above which the generation check (some twenty forwards) is not worth its time."""


@dataclass(frozen=True)
class Depth:
    """How much to check: logits against the masked model; a rebuild from the config; cached generation."""

    logits: bool
    rebuild: bool
    generation: bool


def check_depth(model: nn.Module, check: Check) -> Depth:
    """Resolve the `check` argument of `remove_layers`."""
    if not isinstance(check, bool) and check != "auto":
        raise ValueError(f"check must be 'auto', True or False, got {check!r}")
    if check == "auto":
        small = sum(p.numel() for p in model.parameters()) <= SMALL_MODEL_PARAMETERS
        return Depth(logits=True, rebuild=True, generation=small)
    return Depth(logits=check, rebuild=check, generation=check)


def skipped_logits(model: nn.Module, players: Players, removed: Sequence[int]) -> Tensor:
    """Logits [B, T, V] of the probe with the players skipped, on the CPU."""
    with evaluation_mode(model), torch.inference_mode(), players.skip(removed):
        return sample_logits(model, probe_ids(model)).float().cpu().clone()


def check_logits(pruned: nn.Module, expected_BTV: Tensor, what: str) -> Tensor:
    """The pruned model's logits of the probe [B, T, V].

    Raises
    ------
    SurgeryCheckError
        They are not those of the masked model, or there are none; `what` names what was removed.
    """
    try:
        logits_BTV = plain_logits(pruned)
    except (LayerShapError, torch.OutOfMemoryError):
        raise
    except MODEL_ERRORS as error:
        raise SurgeryCheckError(
            f"{type(pruned).__name__} without {what} must run; it fails with {type(error).__name__}: {error}. Perhaps "
            "its head reads the states after certain layers and two of these are the same now: remove other layers; "
            "or it holds a weight for each layer (use_weighted_layer_sum), which a removal doesn't cut. "
            "check=False returns the model anyway."
        ) from error
    difference = relative_difference(logits_BTV, expected_BTV)
    allowed = tolerance(pruned)
    if not difference <= allowed:
        raise SurgeryCheckError(
            f"{type(pruned).__name__} without {what} must give the logits of the model that skips "
            f"them, they differ by {difference:.2g} of the largest logit (allowed: {allowed:.2g}). The surgery "
            "does not know something about this architecture, please report it. check=False returns the model anyway."
        )
    return logits_BTV


def cache_disagreement(model: nn.Module) -> float | None:
    """Relative difference between the logits of cached and uncached greedy generation.

    None if the model can't generate at all, infinite if it can only without a cache.
    """
    if not hasattr(model, "generate") or not hasattr(model, "generation_config"):
        return None
    uncached = _greedy_logits(model, use_cache=False)
    if uncached is None:
        return None
    cached = _greedy_logits(model, use_cache=True)
    if cached is None:
        return float("inf")
    worst = 0.0
    for (token_B, logits_BV), (other_B, other_BV) in zip(cached, uncached, strict=False):
        worst = max(worst, relative_difference(logits_BV, other_BV))
        if not torch.equal(token_B, other_B):
            break  # from here on the two read different texts
    return worst


def _greedy_logits(model: nn.Module, *, use_cache: bool) -> list[tuple[Tensor, Tensor]] | None:
    caller: Any = model
    ids_BT = probe_ids(model)
    prompt = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}
    try:
        with warnings.catch_warnings(), evaluation_mode(model), torch.inference_mode():
            warnings.simplefilter("ignore")
            if is_encoder_decoder(model):
                prompt = sample_inputs(model, len(ids_BT))
            output = caller.generate(
                **prompt,
                max_new_tokens=_GENERATED,
                min_new_tokens=_GENERATED,
                do_sample=False,
                num_beams=1,
                use_cache=use_cache,
                pad_token_id=0,
                return_dict_in_generate=True,
                output_logits=True,
            )
    except MODEL_ERRORS:
        return None
    tokens_BG = output.sequences[:, -len(output.logits) :]
    return [(tokens_BG[:, step].cpu(), logits.float().cpu()) for step, logits in enumerate(output.logits)]


def lacks_cache_slots(pruned: nn.Module, what: str) -> bool:
    """Whether an encoder-decoder model's cache has fewer slots than its decoder has layers, and warn of it.

    transformers 5.24 makes as many as the encoder has layers where the decoder's count is ``num_decoder_layers``.
    """
    config = getattr(base_model(pruned), "config", None)
    n_layers = vars(config).get("num_decoder_layers") if is_encoder_decoder(pruned) else None
    slots = getattr(text_config(config), "num_hidden_layers", None)
    if not isinstance(n_layers, int) or not isinstance(slots, int) or n_layers <= slots:
        return False
    warn_user(
        f"{type(pruned).__name__} without {what} has {n_layers} decoder layers, and transformers makes as many cache "
        f"slots as the encoder has layers, {slots}: it generates with use_cache=False only. Remove {n_layers - slots} "
        "layers of the decoder too, and the cache serves again.",
        GenerationCacheWarning,
    )
    return True


def check_generation(pruned: nn.Module, intact: float | None, what: str) -> None:
    """Raise `SurgeryCheckError` if cached generation broke: `intact` is the intact model's `cache_disagreement`."""
    allowed = 100 * tolerance(pruned)
    if intact is None or intact > allowed:
        return
    # Where activations are quantised too (bitsandbytes in 8 bits), the two differ by nature; a broken cache does more.
    allowed = max(allowed, 4 * intact)
    difference = cache_disagreement(pruned)
    if difference is None or not difference <= allowed:
        how = "generate fails" if difference in (None, float("inf")) else f"their logits differ by {difference:.2g}"
        raise SurgeryCheckError(
            f"{type(pruned).__name__} without {what} must generate with a cache what it generates "
            f"without one, as the intact model does; {how}. A layer that owns the cache's length may have been "
            "removed: keep the first layer. check=False returns the model anyway."
        )
