"""`remove_layers` and `remove_sublayers`: leave a model that knows nothing of what was removed, and prove it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import nn

from layershap.calibration import Calibration
from layershap.compensation.compensating import Compensating, forget_record
from layershap.compensation.protocol import Compensation
from layershap.exceptions import CheckpointWarning, UncheckedInputWarning
from layershap.model.agreement import plain_logits
from layershap.model.gguf import drop_gguf_quantizer
from layershap.model.io import base_model, check_is_model, holds_adapters
from layershap.model.samples import unread_inputs
from layershap.model.skeleton import refuse_skeleton
from layershap.model.split import find_sublayers
from layershap.model.stack import LayersArgument, check_layer_indices, find_layers
from layershap.model.sublayers import Players, PlayersArgument, Sublayer, SublayerStack
from layershap.surgery.check import (
    Check,
    cache_disagreement,
    check_depth,
    check_generation,
    check_logits,
    lacks_cache_slots,
    skipped_logits,
)
from layershap.surgery.operation import copy_with, delete_layers, delete_sublayers, kept_modules, locate
from layershap.surgery.recipe import PruningRecipe, keep_recipe, pruning_recipe
from layershap.surgery.reload import reload_problem
from layershap.surgery.removable import refuse_unremovable
from layershap.warning import warn_user

_SLOW_FORWARD_SECONDS = 2.0


def remove_layers(
    model: nn.Module,
    layers: Iterable[int],
    *,
    copy: bool = True,
    stack: LayersArgument = None,
    check: Check = "auto",
    compensation: Compensation | None = None,
    calibration: Calibration | None = None,
) -> nn.Module:
    """Physically remove decoder layers.

    The layers are deleted, the indices of the others renumbered, the config (layer count, per-layer lists, index lists)
    and stale attributes brought in step; then the result is checked against the masked model. A model that was read
    from a GGUF file as full weights is no longer marked as quantised, so that it can be saved.

    Parameters
    ----------
    model : nn.Module
        Causal language model: any of transformers, or any module that maps token ids [B, T] to logits [B, T, V].
    layers : iterable of int
        Indices in [0, L) of the layers to remove (negative ones count from the end); at least one, and not all.
    copy : bool, default=True
        Whether the model stays as it is.

        - True: returns a deep copy that shares nothing with `model` and never holds the removed layers.
        - False: prunes `model` itself, its config object included, and returns it.
    stack : LayerStack, str or sequence of nn.Module, optional
        The layers if already known, or their dotted path. By default they are found by rule (`find_layers`).
    check : {"auto", True, False}, default="auto"
        Checks of the result on a probe of text; the effect of images is not checked.

        - True: the pruned logits must be the masked ones, the config must rebuild the model, and cached generation must
          agree with uncached generation (if it does in the intact model).
        - "auto": as True, but generation only up to 100 M parameters; if one short forward takes seconds, the logits
          and the structure only.
        - False: no check.
    compensation : Compensation, optional
        Change of the kept layers' weights that makes up for the removed ones: `layershap.compensation.LinearRefit` or
        `Rescale`. The checks come first. By default the kept layers stay as they are.
    calibration : Calibration, optional
        Text that the compensation is measured on, which it needs.

    Returns
    -------
    nn.Module
        The pruned model.

    Raises
    ------
    ValueError
        No layer or every layer named, an index out of range or named twice; or a compensation without calibration, or
        of a model that was compensated before.
    LayerNotRemovableError
        A layer that others depend on; the message names the rule.
    UnsupportedModelError
        No list that holds the layers is found in the model, or the compensation can't serve it; the message says why.
    SurgeryCheckError
        The pruned model is not the masked model. With ``copy=False`` the model given has been changed all the same.

    Warns
    -----
    CheckpointWarning
        The config can't express the result: save it with `layershap.checkpoint.save_pruned`.
    GenerationCacheWarning
        An encoder has fewer layers left than its decoder, in families whose cache is made by the encoder's count (t5).
    UncheckedInputWarning
        The model takes images or sound too, which the self-check doesn't.

    See Also
    --------
    remove_sublayers : Removes attention or feed-forward parts.
    layershap.skip_layers : Runs the model without some layers, removing nothing.
    layershap.save_pruned : Saves the result.

    Examples
    --------
    >>> from layershap.datasets import load_tiny_gpt2
    >>> from layershap import remove_layers
    >>> model, tokenizer = load_tiny_gpt2()
    >>> small = remove_layers(model, [3, 7])
    >>> model.config.n_layer - small.config.n_layer
    2
    """
    check_is_model(model)
    if isinstance(stack, SublayerStack):
        raise TypeError("remove_layers takes a LayerStack; remove_sublayers removes the players of a SublayerStack")
    found = find_layers(model, stack, causal=False)
    if compensation is None and calibration is not None:
        raise ValueError("calibration is the text of a compensation: give one, such as compensation=LinearRefit()")
    compensated = None if compensation is None else Compensating(compensation, calibration)
    return remove_players(model, layers, found, copy=copy, check=check, compensating=compensated)


def remove_sublayers(
    model: nn.Module,
    sublayers: Iterable[int],
    *,
    copy: bool = True,
    stack: PlayersArgument = None,
    check: Check = "auto",
) -> nn.Module:
    """Physically remove sublayers: the mixer (attention, mamba, ...) or the feed-forward part of decoder layers.

    A module that holds no weights and computes nothing takes a removed sublayer's place. A layer that loses all its
    sublayers is removed as by `remove_layers`. Generation with a cache works.

    Parameters
    ----------
    model : nn.Module
        Causal language model whose layers `layershap.find_sublayers` can split.
    sublayers : iterable of int
        Indices into ``find_sublayers(model).names``; negative ones count from the end.
    copy : bool, default=True
        As in `remove_layers`.
    stack : SublayerStack, str or sequence of nn.Module, optional
        The sublayers if already known, or the place of the layers. By default they are found by rule.
    check : {"auto", True, False}, default="auto"
        As in `remove_layers`.

    Returns
    -------
    nn.Module
        The pruned model.

    Raises
    ------
    ValueError, LayerNotRemovableError, UnsupportedModelError, SurgeryCheckError
        As `remove_layers`. Of the mixers of each kind (full attention, sliding attention, mamba, ...) one must stay in
        the layers that stay: generation reads the cache's length from it.

    Warns
    -----
    CheckpointWarning
        Always, unless whole layers only were removed: no config of transformers 5.23 can express a missing sublayer
        (its ``per_layer_config`` has a field ``skip``, which no modeling code reads).

    See Also
    --------
    remove_layers : Removes whole layers.
    layershap.skip_sublayers : Runs the model without some sublayers, removing nothing.
    """
    check_is_model(model)
    found = stack if isinstance(stack, SublayerStack) else find_sublayers(model, stack, causal=False)
    return remove_players(model, sublayers, found, copy=copy, check=check)


def remove_players(
    model: nn.Module,
    named: Iterable[int],
    players: Players,
    *,
    copy: bool = True,
    check: Check = "auto",
    compensating: Compensating | None = None,
    share: bool = False,
) -> nn.Module:
    """`remove_layers` or `remove_sublayers`, by what `players` are.

    With `share` the copy's weights are those of `model`: it costs no memory, and is only to be run.
    """
    depth = check_depth(model, check)
    if depth.logits:
        refuse_skeleton(model, "no check can compare it with the pruned one; check=False prunes the skeleton")
    removed = check_layer_indices(named, len(players))
    whole, parts = split_removed(players, removed)
    if not removed:
        raise ValueError("layers must name at least one layer to remove, got an empty list")
    if len(whole) == len(players.layers):
        raise ValueError(f"layers must leave at least one of the {len(players.layers)} layers, got all of them")
    refuse_unremovable(model, players, removed)
    stack = players.stack if isinstance(players, SublayerStack) else players
    site = locate(model, stack)
    measured = None if compensating is None else compensating.measure(model, players, removed)

    started = time.perf_counter()
    expected_BTV = skipped_logits(model, players, removed) if depth.logits else None
    if check == "auto" and time.perf_counter() - started > _SLOW_FORWARD_SECONDS:
        depth = replace(depth, rebuild=False, generation=False)
    intact = cache_disagreement(model) if depth.generation else None
    if copy:
        empty: dict[nn.Module, nn.Module] = {stack.layers[i]: nn.Identity() for i in whole}
        empty |= {part.module: nn.Identity() for sublayer in parts for part in sublayer.parts}
    pruned = copy_with(model, empty, share) if copy else model
    drop_gguf_quantizer(pruned)
    if parts:
        delete_sublayers(pruned, site, parts)
    if whole:
        delete_layers(pruned, site, whole)
    what = f"layers {removed}" if not isinstance(players, SublayerStack) else _names(players, removed)
    logits_BTV = check_logits(pruned, expected_BTV, what) if expected_BTV is not None else None
    if logits_BTV is not None and unread_inputs(model):
        warn_user(
            f"{type(base_model(model)).__name__} takes {', '.join(unread_inputs(model))} beside text; the "
            "self-check of the removal read text only. Compare the pruned model's output on such an input with that of "
            "layershap.skip_layers.",
            UncheckedInputWarning,
        )
    if not lacks_cache_slots(pruned, what) and depth.generation:
        check_generation(pruned, intact, what)
    if compensating is None:
        forget_record(pruned)
    else:
        compensating.apply(pruned, kept_modules(pruned, site, whole), measured)
        logits_BTV = None if logits_BTV is None else plain_logits(pruned)
    recipe = pruning_recipe(pruned)
    if recipe is not None and recipe.sublayers:
        _warn(pruned, recipe, "it has no word for a missing sublayer")
    elif recipe is not None and depth.logits:
        problem = reload_problem(pruned, recipe.path, logits_BTV if depth.rebuild else None)
        if recipe.stale_patterns:
            problem = f"its quantization_config names other layers now by {list(recipe.stale_patterns)}; rewrite these"
        keep_recipe(pruned, replace(recipe, plain=problem is None))
        if problem is not None:
            _warn(pruned, recipe, problem)
    return pruned


def split_removed(players: Players, removed: Sequence[int]) -> tuple[list[int], list[Sublayer]]:
    """Layers that go altogether, and sublayers that go from layers that stay."""
    if not isinstance(players, SublayerStack):
        return list(removed), []
    whole = players.whole_layers(removed)
    return whole, [players.sublayers[i] for i in removed if players.layer_of(i) not in whole]


def _names(players: SublayerStack, removed: Sequence[int]) -> str:
    return f"sublayers {[players.names[i] for i in removed]}"


def _warn(model: nn.Module, recipe: PruningRecipe, problem: str) -> None:
    remedy = "save it with layershap.checkpoint.save_pruned and load it with load_pruned"
    if holds_adapters(model):
        remedy = (
            "save the adapters alone (save_pretrained) and load them into the pruned base, or merge them "
            f"(merge_and_unload) and then {remedy}"
        )
    warn_user(
        f"{recipe.model_class}'s config can't express this pruned model: {problem}. A plain from_pretrained of it "
        f"would give another model; {remedy}.",
        CheckpointWarning,
    )
