"""One row of the architecture matrix: what removal does to one model type, measured without the library's own check."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

from layershap.calibration import as_calibration
from layershap.checkpoint import load_pruned, save_pruned
from layershap.exceptions import CheckpointWarning, UnsupportedModelError
from layershap.forward.engine import Engine
from layershap.forward.settings import EngineSettings
from layershap.masks import distinct
from layershap.model.io import token_logits
from layershap.model.split import find_sublayers
from layershap.model.stack import LayerStack, find_layers, skip_layers
from layershap.surgery import remove_layers, unremovable_layers

from .build import build, token_ids
from .compensation import refit_error, refittable, rescaled

# Exact in float32 up to the order of a few sums (rwkv: a layer norm's epsilon meets a rescaled state).
SKIP_TOLERANCE = 1e-6
RWKV_TOLERANCE = 1e-3
# A cache changes the order of sums, and a recurrent kernel replaces a parallel one.
CACHE_TOLERANCE = 1e-3
# A forward takes seconds in these (reference kernels), so few layers are measured.
FORWARD_TOLERANCE = 1e-5  # nats per token
REFIT_ERROR = 0.8  # share of the squared error that a refit leaves: 0.6 at most in random tiny models, mostly 0.03
SLOW_TYPES = {"kimi_linear": (0, 5), "longcat_flash": (0, 5)}
_GENERATE_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)


@dataclass
class Row:
    """The measurements of one type; layers are indices of single removals."""

    model_type: str
    path: str = ""
    n_layers: int = 0
    unsupported: str = ""
    protected: list[int] = field(default_factory=list)
    causal: bool = True
    forward: str = ""
    forward_note: str = ""
    forward_gap: float = 0.0
    sublayers: str = ""
    measured: list[int] = field(default_factory=list)
    skip_difference: float = 0.0
    intact_generates: bool = False
    generation_broken: list[int] = field(default_factory=list)
    warned: list[int] = field(default_factory=list)
    recipe_only: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    rescale: str = ""
    refit_layers: list[int] = field(default_factory=list)
    refit_reason: str = ""
    refit_error: float = 0.0

    @property
    def skip_is_delete(self) -> bool:
        """Skipping equals deleting for every removable layer measured."""
        allowed = RWKV_TOLERANCE if self.model_type == "rwkv" else SKIP_TOLERANCE
        return not self.unsupported and not self.errors and self.skip_difference <= allowed

    @property
    def refit(self) -> str:
        """Which layers can be refitted."""
        if not self.refit_layers:
            return ""
        some = len(self.refit_layers) < self.n_layers
        return f"refit {len(self.refit_layers)} of {self.n_layers}" if some else "refit"

    @property
    def refit_agrees(self) -> bool:
        """A refit brings the state after a gap nearer to what it was in the model."""
        return self.refit_error <= REFIT_ERROR

    @property
    def forward_agrees(self) -> bool:
        """Whatever forward serves, its scores are those of plain skipping."""
        return not self.unsupported and self.forward_gap <= FORWARD_TOLERANCE

    @property
    def generates(self) -> bool:
        """With a cache as without: the intact model, and after every removal measured."""
        return not self.unsupported and self.intact_generates and not self.generation_broken

    @property
    def silently_wrong(self) -> list[int]:
        """Layers whose removal reloads as another model though nothing warned of it."""
        return sorted(set(self.recipe_only + self.lost) - set(self.warned))


def logits(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return token_logits(model.eval(), token_ids()).clone()


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest value; non-finite places must agree."""
    if not torch.equal(torch.isfinite(a), torch.isfinite(b)):
        return float("inf")
    finite = torch.isfinite(a)
    return float((a[finite] - b[finite]).abs().max() / b[finite].abs().max())


def generates_with_cache(model: nn.Module) -> bool:
    """Whether greedy generation with the cache gives the same tokens and logits as without; False too if it raises.

    Logits too: equal tokens may be luck where the cache changes the mathematics.
    """
    ids = token_ids(rows=1)
    runs = []
    for use_cache in (True, False):
        try:
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=6,
                do_sample=False,
                use_cache=use_cache,
                return_dict_in_generate=True,
                output_logits=True,
            )
        except _GENERATE_ERRORS:
            return False
        runs.append((output.sequences, torch.stack(output.logits)))
    (tokens, cached), (other_tokens, uncached) = runs
    return torch.equal(tokens, other_tokens) and difference(cached, uncached) <= CACHE_TOLERANCE


def measure(model_type: str, layers: Iterable[int] | None = None) -> Row:
    """Measure single removals of `layers` (all removable ones by default)."""
    model = build(model_type)
    row = Row(model_type)
    try:
        # xlnet and cpmant are not causal as called here; removing their layers works all the same.
        stack = find_layers(model, causal=False)
    except UnsupportedModelError as error:
        row.unsupported = str(error)
        return row
    row.path, row.n_layers = stack.path, len(stack)
    row.causal = _is_causal(model)
    row.protected = sorted(unremovable_layers(model, stack))
    row.sublayers = _split(model)
    _measure_forward(row, model, stack)
    row.intact_generates = generates_with_cache(model)
    wanted = SLOW_TYPES.get(model_type, tuple(range(len(stack)))) if layers is None else tuple(layers)
    row.measured = [index for index in wanted if index not in row.protected]
    for index in row.measured:
        _measure_layer(row, model, stack, index)
    free = [index for index in range(len(stack)) if index not in row.protected]
    row.rescale = rescaled(model, stack, next(index for index in free if 0 < index < len(stack) - 1))
    row.refit_layers, row.refit_reason = refittable(model, stack)
    before_gap = next((index for index in row.refit_layers if index + 1 in free), None)
    row.refit_error = 0.0 if before_gap is None else refit_error(model, stack, before_gap)
    return row


def _is_causal(model: nn.Module) -> bool:
    try:
        find_layers(model)
    except UnsupportedModelError as error:
        if "not causal" not in str(error):
            raise
        return False
    return True


def _split(model: nn.Module) -> str:
    """How many layers split into two sublayers, or why none does."""
    try:
        found = find_sublayers(model, causal=False)
    except UnsupportedModelError as error:
        return str(error)
    return str(sum(sublayer.kind == "mixer" for sublayer in found.sublayers))


def _measure_forward(row: Row, model: nn.Module, stack: LayerStack) -> None:
    """Which forward serves, and its largest difference from plain skipping in nats per token."""
    ids = token_ids(rows=3)
    settings = EngineSettings.resolve("auto", "auto", ids.device)
    engine = Engine(model, stack, as_calibration(ids, None), ("nll",), settings, always_kept=row.protected)
    n_masks = 2 if row.model_type in SLOW_TYPES else 5
    masks = np.random.default_rng(0).random((n_masks, len(stack))) < 0.6
    masks[:, row.protected] = True
    masks = distinct(masks)
    found = engine.run(masks, lambda work: None)["nll"]
    row.forward, row.forward_note = engine.path, engine.note
    for mask, nll_S in zip(masks, found, strict=True):
        with torch.inference_mode(), skip_layers(model, np.flatnonzero(~mask), stack=stack):
            predictions = token_logits(model, ids)[:, :-1]
        expected_S = nn.functional.cross_entropy(predictions.mT, ids[:, 1:], reduction="none").sum(dim=1)
        gap = np.abs(nll_S - expected_S.numpy()).max() / (ids.shape[1] - 1)
        row.forward_gap = max(row.forward_gap, float(gap))


def _measure_layer(row: Row, model: nn.Module, stack: LayerStack, index: int) -> None:
    with skip_layers(model, [index], stack=stack):
        expected = logits(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            pruned = remove_layers(model, [index], stack=stack)
        except RuntimeError as error:
            row.errors.append(f"layer {index}: {error}")
            return
    if any(issubclass(entry.category, CheckpointWarning) for entry in caught):
        row.warned.append(index)
    actual = logits(pruned)
    row.skip_difference = max(row.skip_difference, difference(actual, expected))
    if row.intact_generates and not generates_with_cache(pruned):
        row.generation_broken.append(index)
    if not _reloads_plainly(pruned, actual):
        (row.recipe_only if _reloads_by_recipe(pruned, actual) else row.lost).append(index)


def _reloads_plainly(pruned: nn.Module, expected: Tensor) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            pruned.save_pretrained(folder)
            # A few text parts (mllama) have no entry of their own in the auto class, intact or pruned.
            known = type(pruned.config) in MODEL_FOR_CAUSAL_LM_MAPPING
            again = (AutoModelForCausalLM if known else type(pruned)).from_pretrained(folder)
            return difference(logits(again), expected) <= SKIP_TOLERANCE
        except (*_GENERATE_ERRORS, OSError):
            return False


def _reloads_by_recipe(pruned: nn.Module, expected: Tensor) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        return difference(logits(load_pruned(save_pruned(pruned, folder))), expected) <= SKIP_TOLERANCE
