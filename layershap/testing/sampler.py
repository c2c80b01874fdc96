"""The contract of a `Sampler`."""

from __future__ import annotations

from typing import Any

import numpy as np

from layershap.protocols import AdaptiveSampler, Sampler
from layershap.testing.contract import check_copies, require, same


def check_sampler(sampler: Any, *, n_layers: int = 12) -> None:
    """Check that a sampler keeps the contract of `layershap.protocols.Sampler`.

    It returns boolean masks [M, L] with 1 <= M <= n_masks; draws everything random from the generator it is given, so
    that a seed repeats the masks; leaves NumPy's global generator alone; can be cloned and pickled. An adaptive one
    also takes the scores of all masks so far, and goes on.

    Parameters
    ----------
    sampler : Sampler
        The instance to check.
    n_layers : int, default=12
        L of the largest model tried; 5 layers are tried too, unless L is less.

    Raises
    ------
    AssertionError
        The first part of the contract that is broken.
    """
    name = type(sampler).__name__
    require(isinstance(sampler, Sampler), f"{name} must have a method `sample(n_layers, n_masks, rng)`")
    check_copies(sampler)
    for layers, n_masks in sorted({(n_layers, 8 * n_layers), (min(5, n_layers), 12), (n_layers, 1)}):
        before = _global_state()
        masks = sampler.sample(layers, n_masks, np.random.default_rng(0))
        require(
            same(before, _global_state()),
            f"{name}.sample must draw from the rng it is given, not from NumPy's global generator",
        )
        require(
            isinstance(masks, np.ndarray) and masks.dtype == np.bool_ and masks.ndim == 2 and masks.shape[1] == layers,
            f"{name}.sample must return a boolean array [M, {layers}], True where a layer is kept; got "
            f"{getattr(masks, 'dtype', type(masks).__name__)} {np.shape(masks)}",
        )
        require(
            1 <= len(masks) <= n_masks,
            f"{name}.sample must return at least one mask and at most the {n_masks} asked for, got {len(masks)}",
        )
        require(
            same(masks, sampler.sample(layers, n_masks, np.random.default_rng(0))),
            f"{name}.sample must return the same masks for the same seed",
        )
    if isinstance(sampler, AdaptiveSampler):
        _check_rounds(sampler, n_layers)


def _check_rounds(sampler: AdaptiveSampler, n_layers: int) -> None:
    """Scores of all masks so far, some not finite, then another round."""
    name = type(sampler).__name__
    rng = np.random.default_rng(1)
    masks = sampler.sample(n_layers, 3 * n_layers, rng)
    for _ in range(2):
        scores = masks.mean(axis=1)
        scores[0] = np.nan
        try:
            sampler.update(masks, scores)
        except Exception as error:
            raise AssertionError(
                f"{name}.update must take masks [M, L] and scores [M], of which some may be NaN; it raised "
                f"{type(error).__name__}: {error}"
            ) from error
        drawn = sampler.sample(n_layers, n_layers, rng)
        require(
            drawn.dtype == np.bool_ and drawn.shape[1:] == (n_layers,) and len(drawn) <= n_layers,
            f"{name}.sample must return boolean masks [M, {n_layers}] after `update` too, at most {n_layers}; got "
            f"{drawn.dtype} {drawn.shape}",
        )
        masks = np.concatenate([masks, drawn])


def _global_state() -> Any:
    """Of NumPy's global generator, which a sampler must not use."""
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return np.append(state["key"], state["pos"])
