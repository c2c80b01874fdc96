"""Shapley values as a regression over sampled coalitions (KernelSHAP).

Shapes: L layers (players), M masks, G groups.
"""

from __future__ import annotations

import numpy as np

from layershap.limits import check_int
from layershap.protocols import FloatArray, Game, MaskArray
from layershap.shapley.draws import SampledValues, batched, player_count

_GROUPS = 10


def kernel(game: Game, n_masks: int, *, rng: np.random.Generator, n_players: int | None = None) -> SampledValues:
    """Shapley values by least squares on coalitions drawn from the Shapley kernel, each with its complement.

    ``min over phi of sum_S (v(S) - v(none) - sum_{i in S} phi_i)^2`` over draws with size probabilities proportional
    to ``1 / (s (L - s))``, subject to ``sum_i phi_i = v(all) - v(none)``.

    Parameters
    ----------
    game : callable
        Function from masks [M, L] to scores [M].
    n_masks : int
        Number of draws, rounded up to even; the empty and the full coalition come on top.
    rng : numpy.random.Generator
        Source of randomness for the coalitions.
    n_players : int, optional
        Number of players L. By default ``game.n_players``.

    Returns
    -------
    SampledValues
        Values with standard errors by a delete-a-group jackknife; `draws` holds the jackknife's pseudo-values [G, L].
        Both are NaN where the draws less one group don't determine the values.

    Raises
    ------
    ValueError
        Fewer draws than 2 L, draws that don't determine the values all the same, or less than two players.

    See Also
    --------
    permutation : Samples orders.
    exact : Enumerates all coalitions.

    References
    ----------
    Lundberg & Lee, A unified approach to interpreting model predictions, 2017. Covert & Lee, Improving KernelSHAP,
    2021 (paired draws).
    """
    n_layers = player_count(game, n_players)
    if n_layers < 2:
        raise ValueError(f"a kernel regression needs at least 2 players, got {n_layers}")
    check_int("n_masks", n_masks, 2 * n_layers, meaning=f"2 L, to determine {n_layers} values")
    masks_ML = _paired_draws(n_layers, -(-n_masks // 2), rng)
    if not _determines(masks_ML):
        # Drawing again until they do would favour some coalitions over others.
        raise ValueError(
            f"the coalitions drawn must determine {n_layers} values, these n_masks={n_masks} don't; chance decides at "
            f"so few: raise n_masks ({6 * n_layers} hardly ever fail)"
        )
    ends = np.stack([np.zeros(n_layers, dtype=bool), np.ones(n_layers, dtype=bool)])
    scores = batched(game, np.concatenate([ends, masks_ML]))
    total, rest_M = float(scores[1] - scores[0]), scores[2:] - scores[0]
    values = _constrained_fit(masks_ML, rest_M, total)
    # Pairs stay together: a coalition and its complement are no independent draws.
    groups_M = np.repeat(np.arange(len(masks_ML) // 2) % _GROUPS, 2)
    n_groups = min(_GROUPS, len(masks_ML) // 2)
    without_GL = np.full((n_groups, n_layers), np.nan)
    for g in range(n_groups):
        rest = groups_M != g
        if _determines(masks_ML[rest]):
            without_GL[g] = _constrained_fit(masks_ML[rest], rest_M[rest], total)
    pseudo_GL = n_groups * values - (n_groups - 1) * without_GL
    errors = np.sqrt((n_groups - 1) / n_groups * ((without_GL - without_GL.mean(axis=0)) ** 2).sum(axis=0))
    return SampledValues(values, errors, pseudo_GL)


def _paired_draws(n_layers: int, n_pairs: int, rng: np.random.Generator) -> MaskArray:
    sizes = np.arange(1, n_layers)
    weights = 1.0 / (sizes * (n_layers - sizes))
    drawn = rng.choice(sizes, size=n_pairs, p=weights / weights.sum())
    masks = rng.random((n_pairs, n_layers)).argsort(axis=1).argsort(axis=1) < drawn[:, None]
    return np.stack([masks, ~masks], axis=1).reshape(-1, n_layers)


def _determines(masks_ML: MaskArray) -> bool:
    """Whether only one phi has given sums over these coalitions and over all players."""
    n_layers = masks_ML.shape[1]
    rows = np.concatenate([masks_ML, np.ones((1, n_layers), dtype=bool)]).astype(np.float64)
    return int(np.linalg.matrix_rank(rows.T @ rows, hermitian=True)) == n_layers


def _constrained_fit(masks_ML: MaskArray, rest_M: FloatArray, total: float) -> FloatArray:
    """Least squares for ``masks @ phi = rest`` subject to ``sum(phi) = total``, through its normal equations."""
    design_ML = masks_ML.astype(np.float64)
    n_layers = design_ML.shape[1]
    system = np.ones((n_layers + 1, n_layers + 1))
    system[:n_layers, :n_layers] = design_ML.T @ design_ML / len(design_ML)
    system[n_layers, n_layers] = 0.0
    target = np.append(design_ML.T @ rest_M / len(design_ML), total)
    return np.linalg.lstsq(system, target, rcond=None)[0][:n_layers]
