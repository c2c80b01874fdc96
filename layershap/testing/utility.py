"""The contract of a `Utility`."""

from __future__ import annotations

from typing import Any

import numpy as np

from layershap.protocols import FloatArray, SequenceStatistics, Statistic, Utility
from layershap.testing.contract import check_copies, require, same

_MASKS = 7


def check_utility(utility: Any, *, n_sequences: int = 12) -> None:
    """Check that a utility keeps the contract of `layershap.protocols.Utility`.

    It names the statistics it needs; returns one finite float per mask for finite statistics; scores each mask on its
    own, whatever other masks are scored with it; gives NaN or infinity, not an error, where a masked model is broken,
    and leaves the other scores alone; changes nothing it is given; is deterministic; can be cloned and pickled.

    Parameters
    ----------
    utility : Utility
        The instance to check.
    n_sequences : int, default=12
        S of the synthetic statistics: for a utility made for a calibration set, that set's number of sequences.

    Raises
    ------
    AssertionError
        The first part of the contract that is broken.
    """
    name = type(utility).__name__
    require(isinstance(utility, Utility), f"{name} must have a property `statistics` and a method `score`")
    names = utility.statistics
    require(
        isinstance(names, tuple) and names and all(isinstance(item, str) for item in names),
        f"{name}.statistics must be a tuple with at least one statistic's name, got {names!r}",
    )
    require(len(set(names)) == len(names), f"{name}.statistics must name each statistic once, got {names!r}")
    given = _statistics(names, n_sequences)
    scores = np.asarray(utility.score(given))
    require(
        scores.shape == (_MASKS,) and np.issubdtype(scores.dtype, np.floating),
        f"{name}.score must return floats [M] = [{_MASKS}], got {scores.dtype} {scores.shape}",
    )
    require(np.isfinite(scores).all(), f"{name}.score must be finite for finite statistics, got {scores}")
    require(same(utility.score(given), scores), f"{name}.score must give the same scores for the same statistics")
    for subset in ([2], [5, 0, 3]):
        part = SequenceStatistics({k: v[subset] for k, v in given.sums.items()}, given.dense, given.counts)
        require(
            np.allclose(utility.score(part), scores[subset], rtol=1e-9, atol=1e-12),
            f"{name}.score must score each mask on its own; it gives other scores to masks {subset} scored alone",
        )
    _check_broken(utility, given)
    check_copies(utility)


def _check_broken(utility: Any, given: SequenceStatistics) -> None:
    """One masked model whose statistics are NaN."""
    name = type(utility).__name__
    scores = np.asarray(utility.score(given))
    broken = {key: value.copy() for key, value in given.sums.items()}
    for value in broken.values():
        value[1] = np.nan
    try:
        found = np.asarray(utility.score(SequenceStatistics(broken, given.dense, given.counts)))
    except Exception as error:
        raise AssertionError(
            f"{name}.score must not fail where a masked model is broken (NaN statistics); it raised "
            f"{type(error).__name__}: {error}"
        ) from error
    others = np.arange(_MASKS) != 1
    require(
        same(found[others], scores[others]), f"{name}.score must leave the other scores alone where one model is broken"
    )


def _statistics(names: tuple[Statistic, ...], n_sequences: int) -> SequenceStatistics:
    """Plausible sums of read-only arrays; the first mask is the dense model."""
    rng = np.random.default_rng(0)
    counts = rng.integers(3, 40, n_sequences).astype(np.float64)
    sums: dict[Statistic, FloatArray] = {}
    dense: dict[Statistic, FloatArray] = {}
    for name in names:
        if name == "hits":
            per_token = (rng.random((_MASKS, n_sequences)) < 0.5).astype(np.float64)
        elif name.startswith("kl"):
            per_token = rng.gamma(2.0, 0.5, (_MASKS, n_sequences))
            per_token[0] = 0.0
        else:
            per_token = rng.gamma(4.0, 1.0, (_MASKS, n_sequences))
        sums[name] = per_token * counts
        dense[name] = sums[name][0].copy()
    for array in (counts, *sums.values(), *dense.values()):
        array.flags.writeable = False
    return SequenceStatistics(sums, dense, counts)
