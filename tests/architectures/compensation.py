"""What the compensations do in one model type: fold exactly, refit, or refuse with a reason."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from layershap import Calibration, find_layers, remove_layers
from layershap.compensation import LinearRefit, Removal, Rescale
from layershap.compensation.held_out import split
from layershap.compensation.layerwise import quiet
from layershap.compensation.rescale import fold, multiplied
from layershap.compensation.served import linear_writes
from layershap.compensation.writes import WriteFinder
from layershap.exceptions import CalibrationWarning, SurgeryCheckError, UnsupportedModelError
from layershap.model.stack import LayerStack
from layershap.model.states import states_at

from .build import VOCABULARY

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


class Unjudged(LinearRefit):
    """Keeps what the regression gives, whatever that does to a random model's loss."""

    def _strength(self, linear, regression, loss_of, loss):
        linear.set(linear.snapshot(), regression.change(self.ridges[0]).float())
        return self.ridges[0], loss


def refittable(model: nn.Module, stack: LayerStack) -> tuple[list[int], str]:
    """The layers whose last write can be refitted, and why the first of the others can't be."""
    try:
        with quiet(model):
            found, left_alone = linear_writes(WriteFinder(model, stack), model, stack, range(len(stack)))
    except UnsupportedModelError as error:
        return [], str(error)
    return list(found), left_alone[0].partition(" is left alone: ")[2] if left_alone else ""


def refit_error(model: nn.Module, stack: LayerStack, layer: int) -> float:
    """What a refit of `layer` leaves of the error that the state after the next layer has without that one."""
    refit = Unjudged(ridges=(0.01,))
    fitted = split(text(), refit.held_out).fitted.ids_ST
    with torch.no_grad():
        wanted_BTD = states_at(model, stack, fitted, [layer + 2])[layer + 2]
    plain = remove_layers(model, [layer + 1], stack=stack, check=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        made = remove_layers(model, [layer + 1], stack=stack, check=False, compensation=refit, calibration=text())
    before, after = (_error(small, layer + 1, fitted, wanted_BTD) for small in (plain, made))
    return after / before


def _error(model: nn.Module, boundary: int, ids_BT: Tensor, wanted_BTD: Tensor) -> float:
    """By the weights of the tokens that `LinearRefit` gives them."""
    with torch.no_grad():
        found_BTD = states_at(model, find_layers(model, causal=False), ids_BT, [boundary])[boundary]
    return float(((found_BTD - wanted_BTD).square().mean(dim=-1) / wanted_BTD.square().mean(dim=-1)).sum())
