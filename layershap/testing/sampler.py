"""The contract of a `Sampler`."""

from __future__ import annotations

from typing import Any

import numpy as np

from layershap.protocols import AdaptiveSampler, Sampler, UniformSampler
from layershap.testing.contract import Contract, check_contract, check_copies, must_not_raise, only_if, require, same

_DRAWS = 300
_SIGMAS = 6.0


class SamplerContract(Contract):
    """Tests that a sampler keeps the contract of `layershap.protocols.Sampler`, for pytest: inherit and define `make`.

    It returns boolean masks [M, L] with 1 <= M <= n_masks; draws everything random from the generator it is given, so
    that a seed repeats the masks; leaves NumPy's global generator alone; can be cloned and pickled. An adaptive one
    also takes the scores of all masks so far, and goes on. One that says it is uniform within each size keeps every
    layer equally often.

    Attributes
    ----------
    n_layers : int, default=12
        L of the largest model tried; 5 layers are tried too, unless L is less.
    """

    n_layers = 12

    def test_it_is_a_sampler(self) -> None:
        """It has the method, and survives copying."""
        sampler = self.make()
        name = type(sampler).__name__
        require(isinstance(sampler, Sampler), f"{name} must have a method `sample(n_layers, n_masks, rng)`")
        check_copies(sampler)

    def test_it_returns_masks(self) -> None:
        """Booleans of the right shape, no more than were asked for."""
        sampler = self.make()
        name = type(sampler).__name__
        for layers, n_masks in self._cases():
            masks = sampler.sample(layers, n_masks, np.random.default_rng(0))
            require(
                isinstance(masks, np.ndarray)
                and masks.dtype == np.bool_
                and masks.ndim == 2
                and masks.shape[1] == layers,
                f"{name}.sample must return a boolean array [M, {layers}], True where a layer is kept; got "
                f"{np.asarray(masks).dtype} {np.shape(masks)}",
            )
            require(
                1 <= len(masks) <= n_masks,
                f"{name}.sample must return at least one mask and at most the {n_masks} asked for, got {len(masks)}",
            )

    def test_it_draws_from_the_generator_it_is_given(self) -> None:
        """A seed repeats the masks."""
        sampler = self.make()
        name = type(sampler).__name__
        for layers, n_masks in self._cases():
            before = _global_state()
            masks = sampler.sample(layers, n_masks, np.random.default_rng(0))
            require(
                same(before, _global_state()),
                f"{name}.sample must draw from the rng it is given, not from NumPy's global generator",
            )
            require(
                same(masks, sampler.sample(layers, n_masks, np.random.default_rng(0))),
                f"{name}.sample must return the same masks for the same seed",
            )

    def test_it_is_as_uniform_as_it_says(self) -> None:
        """Within a size no layer is kept more often than another, where it claims that."""
        sampler = self.make()
        uniform = isinstance(sampler, UniformSampler) and sampler.uniform_within_sizes
        only_if(uniform, "it doesn't say that it is uniform within sizes")
        n_layers = min(self.n_layers, 6)
        rng = np.random.default_rng(2)
        draws = [sampler.sample(n_layers, 2 * n_layers, rng) for _ in range(_DRAWS)]
        for size in range(1, n_layers):
            of_size = [masks[masks.sum(axis=1) == size] for masks in draws]
            # How often each layer is kept, less what it would be if all were kept alike, draw by draw.
            excess = np.array([masks.mean(axis=0) - size / n_layers for masks in of_size if len(masks)])
            if len(excess) < 2:
                continue
            error = excess.std(axis=0, ddof=1) / np.sqrt(len(excess))
            wrong = np.flatnonzero(np.abs(excess.mean(axis=0)) > _SIGMAS * error + 1e-9)
            require(
                not len(wrong),
                f"{type(sampler).__name__} says uniform_within_sizes, but among its masks that keep {size} of "
                f"{n_layers} layers it keeps layers {wrong.tolist()} more or less often than the others",
            )

    def test_it_goes_on_after_scores(self) -> None:
        """Scores of all masks so far, some not finite, then another round; where it is adaptive."""
        sampler = self.make()
        only_if(isinstance(sampler, AdaptiveSampler), "it is not adaptive")
        name = type(sampler).__name__
        rng = np.random.default_rng(1)
        masks = sampler.sample(self.n_layers, 3 * self.n_layers, rng)
        for _ in range(2):
            scores = masks.mean(axis=1)
            scores[0] = np.nan
            with must_not_raise(f"{name}.update must take masks [M, L] and scores [M], of which some may be NaN"):
                sampler.update(masks, scores)
            drawn = sampler.sample(self.n_layers, self.n_layers, rng)
            require(
                drawn.dtype == np.bool_ and drawn.shape[1:] == (self.n_layers,) and len(drawn) <= self.n_layers,
                f"{name}.sample must return boolean masks [M, {self.n_layers}] after `update` too, at most "
                f"{self.n_layers}; got {drawn.dtype} {drawn.shape}",
            )
            masks = np.concatenate([masks, drawn])

    def _cases(self) -> list[tuple[int, int]]:
        """Layers and masks to ask for."""
        return sorted({(self.n_layers, 8 * self.n_layers), (min(5, self.n_layers), 12), (self.n_layers, 1)})


def check_sampler(sampler: Any, *, n_layers: int = 12) -> None:
    """Check one instance of a sampler against `SamplerContract`, without pytest.

    Parameters
    ----------
    sampler : Sampler
        Instance to check.
    n_layers : int, default=12
        Number of layers of the largest model tried; a model of 5 layers is tried too, unless `n_layers` is less.

    Raises
    ------
    AssertionError
        The first part of the contract that is broken.
    """

    class Given(SamplerContract):
        def make(self) -> Any:
            return sampler

    Given.n_layers = n_layers
    check_contract(Given())


def _global_state() -> Any:
    """Of NumPy's global generator, which a sampler must not use."""
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return np.append(state["key"], state["pos"])
