"""Which of several vectors add up to another, and with which weights.

Shapes: N values, K candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def summands(
    written_N: Tensor, entered_N: Tensor, candidates: Sequence[tuple[str, Tensor]], *, half: bool
) -> tuple[tuple[str, float], ...] | None:
    """The candidates whose weighted sum is what a layer wrote, by least squares.

    Parameters
    ----------
    written_N, entered_N : Tensor [N] of float64
        What the layer added to its input, and the input, which may be no part of the sum. All are on the CPU.
    candidates : sequence of (str, Tensor [N])
        What the layer's modules gave back, by their names.
    half : bool
        Whether all was computed in half precision.

    Returns
    -------
    tuple of (str, float) or None
        Names and weights in the order of the candidates; None if there is no such sum.
    """
    tolerance = 3e-2 if half else 1e-3
    scale = written_N.square().mean().sqrt()
    names = [name for name, _ in candidates]
    columns_NK = torch.stack([*(output_N for _, output_N in candidates), entered_N], dim=1)
    weights_K = _least_squares(columns_NK, written_N)
    share_K = weights_K.abs() * columns_NK.square().mean(dim=0).sqrt() / scale
    # Weights are means over many values: surer than the values, which half precision rounds.
    chosen = [k for k in range(len(names)) if share_K[k] > tolerance / 6]
    if share_K[-1] > tolerance or not chosen or len({names[k] for k in chosen}) < len(chosen):
        return None
    weights = _least_squares(columns_NK[:, chosen], written_N)
    if half:
        # An output much like a written one (a norm's of the state after it) takes a hundredth of its weight in the
        # roundings. No layer weighs its writes so unevenly.
        chosen = [k for k, weight in zip(chosen, weights.abs(), strict=True) if weight > 1e-2 * weights.abs().amax()]
        weights = _least_squares(columns_NK[:, chosen], written_N)
    missed = (written_N - columns_NK[:, chosen] @ weights).square().mean().sqrt()
    if missed > tolerance * scale:
        return None
    return tuple(
        (names[k], 1.0 if abs(float(weight) - 1) < tolerance else float(weight))
        for k, weight in zip(chosen, weights, strict=True)
    )


def _least_squares(columns_NK: Tensor, target_N: Tensor) -> Tensor:
    return torch.linalg.lstsq(columns_NK, target_N[:, None], driver="gelsd").solution[:, 0]
