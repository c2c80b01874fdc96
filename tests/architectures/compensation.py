"""What the compensations do in one model type: fold exactly, refit, or refuse with a reason."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from layershap import Calibration, find_layers, remove_layers
from layershap.compensation import LinearRefit, Removal, Rescale
from layershap.compensation.layerwise import quiet
from layershap.compensation.rescale import fold, multiplied
from layershap.exceptions import SurgeryCheckError, UnsupportedModelError
from layershap.model.stack import LayerStack

from .build import VOCABULARY, token_ids

FACTOR = 1.5
# Norms add epsilon to a mean square that the fold divides; in a random tiny model that is no small part of it.
FOLD_TOLERANCE = 1e-3


def text() -> Calibration:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(8, VOCABULARY, (8, 16), generator=generator)
    return Calibration(ids, ids.clone())


def rescaled(model: nn.Module, stack: LayerStack, layer: int) -> str:
    """'folds' if the scalar of a gap, here `FACTOR`, can be folded into the weights; else why not."""
    from .matrix import difference, logits

    try:
        measured = Rescale().measure(Removal(model, stack, (layer,), text()))
        small = remove_layers(model, [layer], stack=stack, check=False)
        found = find_layers(small, causal=False)
        factors = dict.fromkeys(measured.factors, FACTOR)
        with multiplied(found, factors):
            expected = logits(small)
        with quiet(small):
            fold(small, found, factors, measured.scalings)
    except (UnsupportedModelError, SurgeryCheckError) as error:
        return str(error)
    gap = difference(logits(small), expected)
    return "folds" if gap <= FOLD_TOLERANCE else f"wrong by {gap:.1g}"


def refitted(model: nn.Module, stack: LayerStack, layer: int) -> str:
    """'refits' if the layer before a gap can be refitted, and the result runs; else why not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            small = remove_layers(
                model, [layer], stack=stack, check=False, compensation=LinearRefit(ridges=(1.0,)), calibration=text()
            )
        except UnsupportedModelError as error:
            return str(error)
    with torch.inference_mode():
        return "refits" if bool(torch.isfinite(small(token_ids()).logits).all()) else "not finite"
