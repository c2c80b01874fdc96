"""The contract of a `Utility`."""

from __future__ import annotations

from typing import Any

import numpy as np

from layershap.protocols import FloatArray, QuestionUtility, ResamplingUtility, SequenceStatistics, Statistic, Utility
from layershap.testing.contract import Contract, check_contract, check_copies, must_not_raise, only_if, require, same

_MASKS = 7


class UtilityContract(Contract):
    """Tests that a utility keeps the contract of `layershap.protocols.Utility`, for pytest: inherit and define `make`.

    It names the statistics it needs; returns one finite float per mask for finite statistics; scores each mask on its
    own, whatever other masks are scored with it; gives NaN or infinity, not an error, where a masked model is broken,
    and leaves the other scores alone; changes nothing it is given; is deterministic; can be cloned and pickled. One
    with `resample` draws sequences that exist, by the generator it is given; one with `per_question` scores the mean
    over the questions.

    Attributes
    ----------
    n_sequences : int, default=12
        S of the synthetic statistics: for a utility made for a calibration set, that set's number of sequences.
    """

    n_sequences = 12

    def test_it_is_a_utility(self) -> None:
        """It has the members, and survives copying."""
        utility = self.make()
        name = type(utility).__name__
        require(isinstance(utility, Utility), f"{name} must have a property `statistics` and a method `score`")
        check_copies(utility)

    def test_it_names_its_statistics(self) -> None:
        """A tuple of different names."""
        utility = self.make()
        name, names = type(utility).__name__, utility.statistics
        require(
            isinstance(names, tuple) and names and all(isinstance(item, str) for item in names),
            f"{name}.statistics must be a tuple with at least one statistic's name, got {names!r}",
        )
        require(len(set(names)) == len(names), f"{name}.statistics must name each statistic once, got {names!r}")

    def test_it_scores_each_mask_on_its_own(self) -> None:
        """Finite floats, the same for a mask in whatever company."""
        utility = self.make()
        name = type(utility).__name__
        given = self._statistics(utility)
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

    def test_it_lives_with_broken_models(self) -> None:
        """One masked model whose statistics are NaN."""
        utility = self.make()
        name = type(utility).__name__
        given = self._statistics(utility)
        scores = np.asarray(utility.score(given))
        broken = {key: value.copy() for key, value in given.sums.items()}
        for value in broken.values():
            value[1] = np.nan
        with must_not_raise(f"{name}.score must not fail where a masked model is broken (NaN statistics)"):
            found = np.asarray(utility.score(SequenceStatistics(broken, given.dense, given.counts)))
        others = np.arange(_MASKS) != 1
        require(
            same(found[others], scores[others]),
            f"{name}.score must leave the other scores alone where one model is broken",
        )

    def test_it_resamples_sequences_that_exist(self) -> None:
        """`resample`, where its sequences belong together."""
        utility = self.make()
        only_if(isinstance(utility, ResamplingUtility), "its sequences don't belong together")
        name, n_sequences = type(utility).__name__, self.n_sequences
        drawn = np.asarray(utility.resample(n_sequences, np.random.default_rng(0)))
        require(
            drawn.ndim == 1 and len(drawn) and np.issubdtype(drawn.dtype, np.integer),
            f"{name}.resample must return indices of sequences, ints [at least 1]; got {drawn.dtype} {drawn.shape}",
        )
        require(
            drawn.min() >= 0 and drawn.max() < n_sequences,
            f"{name}.resample must draw among the {n_sequences} sequences, got indices {drawn.min()} to {drawn.max()}",
        )
        require(
            same(utility.resample(n_sequences, np.random.default_rng(0)), drawn),
            f"{name}.resample must draw from the rng it is given: a seed repeats the draw",
        )
        scores = np.asarray(utility.score(self._statistics(utility).resampled(drawn)))
        require(
            scores.shape == (_MASKS,) and np.isfinite(scores).all(),
            f"{name}.score must be finite on the sequences that its resample draws, got {scores}",
        )

    def test_its_questions_average_to_its_score(self) -> None:
        """`per_question`, where its score is a mean over questions."""
        utility = self.make()
        only_if(isinstance(utility, QuestionUtility), "its score is no mean over questions")
        name = type(utility).__name__
        given = self._statistics(utility)
        values = np.asarray(utility.per_question(given))
        require(
            values.ndim == 2 and len(values) == _MASKS,
            f"{name}.per_question must return floats [M, Q] with M = {_MASKS}, got {values.shape}",
        )
        require(
            np.allclose(values.mean(axis=1), utility.score(given), rtol=1e-9, atol=1e-12),
            f"{name}.score must be the mean over the questions of per_question, whose errors are told by that",
        )

    def _statistics(self, utility: Utility) -> SequenceStatistics:
        return _statistics(utility.statistics, self.n_sequences)


def check_utility(utility: Any, *, n_sequences: int = 12) -> None:
    """Check one instance of a utility against `UtilityContract`, without pytest.

    Parameters
    ----------
    utility : Utility
        Instance to check.
    n_sequences : int, default=12
        Number of sequences of the synthetic statistics: for a utility made for a calibration set, that of the set.

    Raises
    ------
    AssertionError
        The first part of the contract that is broken.
    """

    class Given(UtilityContract):
        def make(self) -> Any:
            return utility

    Given.n_sequences = n_sequences
    check_contract(Given())


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
