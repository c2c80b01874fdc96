"""What a model's own precision leaves open in the final choice, and close choices made in float32.

A model in half precision rounds after every operation. Two sets of layers share little of these roundings, so the lead
of one over the other has an error of its own, apart from that of the text. It is measured on a few sequences, in
float32 beside the model's precision; where it could turn the choice, the sets are scored in float32 on all of the text.

Shapes: C candidates, N numbers of layers removed, P pairs (the choice of one size and its runner-up), M their masks, K
sequences compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from layershap.exceptions import LayerShapError, RanksError
from layershap.fitting.final_choice import FinalChoice, chosen_among
from layershap.fitting.text_game import TextGame
from layershap.model.io import weights_precision
from layershap.model.upcast import is_narrow, why_not_float32
from layershap.protocols import FloatArray, IntArray, MaskArray, SequenceStatistics, Utility
from layershap.ranks.together import Ranks
from layershap.utilities.jackknife import jackknife_errors, left_out_scores, paired_differences

_COMPARED = 8
"""Sequences on which leads are compared in both precisions: those of a race's first two parts. With the runner-up and
the choice of 12 sizes, the spread is known to a twelfth of itself, at a twentieth of a fit's time."""

_NEAR = 2
"""Sizes on either side from which a size's rounding error is taken too: it grows with the number of layers removed."""

_CLOSE = 3.0
"""Rounding errors within which a choice is close: three, as they are measured on little text. On the bundled GPT-2 in
bfloat16 nine leads were moved by 1.7 and 2.4 times the error stated (root mean square; two processors, which round
differently), the worst by 3.3 and 4.2 times."""

_MOST_SETS = 8
"""Sets scored in float32 on all of the text: on a CPU with bfloat16 matrix units one takes as long as four to eight."""


@dataclass(frozen=True)
class PrecisionCheck:
    """How far the model's precision moves the lead of one set over another, on the score's scale.

    Attributes
    ----------
    dtype : str
        Precision of the model's weights.
    n_pairs, n_sequences : int
        Numbers of leads (of a size's choice over its runner-up) and of sequences that were compared with float32.
    per_sequence : float
        Standard deviation of a lead's rounding error from sequence to sequence, root mean square over the pairs; NaN
        where it was not measured.
    bias : float
        What a lead's rounding errors on all sequences have in common, root mean square over the pairs: more text does
        not lessen it. Measured on a few sequences, it is 0 where it is smaller than their scatter.
    of_choice : float
        Both together for a lead on all sequences that the choice was made on.
    of_text : float
        Standard error of the same leads by the text, root mean square.
    close : tuple of int
        Numbers of removed layers for which rounding might have turned the choice: it is within three rounding errors.
    settled, changed : tuple of int
        Those of `close` that were decided in float32, and for which another set was chosen then.
    layer_run_tokens : int
        Layer runs times tokens in float32.
    note : str
        Why it was not measured; '' if it was.
    """

    dtype: str
    n_pairs: int = 0
    n_sequences: int = 0
    per_sequence: float = float("nan")
    bias: float = float("nan")
    of_choice: float = float("nan")
    of_text: float = float("nan")
    close: tuple[int, ...] = ()
    settled: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()
    layer_run_tokens: int = 0
    note: str = ""


@dataclass(frozen=True)
class _Rounding:
    """A lead's rounding error: what all sequences have in common, and the standard deviation from one to another."""

    bias: float
    spread: float

    def of_mean(self, n_sequences: int) -> float:
        """The error on so many sequences."""
        return float(np.hypot(self.bias, self.spread / np.sqrt(n_sequences)))


@dataclass(frozen=True)
class _Size:
    """One number of removed layers.

    Attributes
    ----------
    n_remove : int
        The number.
    rows : ndarray
        Its candidates, greedy's first.
    chosen, second : int
        Places among `rows`; the second is the best of the others by the score on all text.
    """

    n_remove: int
    rows: IntArray
    chosen: int
    second: int


def check_precision(game: TextGame, choice: FinalChoice) -> tuple[FinalChoice, PrecisionCheck | None]:
    """Measure the rounding error of leads, and decide close choices in float32.

    Parameters
    ----------
    game : TextGame
        The game that the choice was made in.
    choice : FinalChoice
        Made in the model's precision.

    Returns
    -------
    choice : FinalChoice
        With other sets where float32 chooses others.
    check : PrecisionCheck or None
        None for a model in float32.
    """
    model, utility = game.found.model, game.utility
    if not is_narrow(model) or not isinstance(utility, Utility):
        return choice, None
    unknown = PrecisionCheck(str(weights_precision(model)).removeprefix("torch."))
    sizes = _sizes(choice, utility)
    note = why_not_float32(model) or ("" if sizes else "no two sets of a size were compared")
    if note:
        return choice, replace(unknown, note=note)
    try:
        with game.in_float32(_COMPARED) as wide:
            return _checked(wide, choice, utility, sizes, unknown)
    except RanksError as error:
        if not error.in_step:
            raise
        own = ""
    except (LayerShapError, OSError):
        raise
    except Exception as error:  # out of memory, an operation that float32 has not, a kernel that asserts its type
        own = f"{type(error).__name__}: {error}".partition("\n")[0]
    # Every rank says the same of it, and keeps its choice.
    reason = next(filter(None, Ranks.of(model).together(lambda: own)))
    return choice, replace(unknown, note=f"float32 failed ({reason})")


def _checked(
    wide: TextGame, choice: FinalChoice, utility: Utility, sizes: list[_Size], unknown: PrecisionCheck
) -> tuple[FinalChoice, PrecisionCheck]:
    pairs_2P = np.array([size.rows[size.second] for size in sizes] + [size.rows[size.chosen] for size in sizes])
    leads = choice.statistics.of_masks(pairs_2P)
    n_sequences = len(leads.counts)
    n_parts = next(count for count in range(1, wide.n_parts + 1) if wide.n_sequences(count) >= _COMPARED)
    n_compared = wide.n_sequences(n_parts)
    narrow = leads.resampled(np.arange(n_compared))
    errors_P, own_P = _errors(utility, narrow, wide.statistics(choice.candidates[pairs_2P], n_parts))
    n_searched = n_sequences - choice.n_sequences
    removed_P = np.array([size.n_remove for size in sizes])
    close = []
    for size in sizes:
        near = np.abs(removed_P - size.n_remove) <= _NEAR
        rounding = _rounding(errors_P[near], own_P[near], n_compared)
        places = _contenders(utility, choice.statistics.of_masks(size.rows), n_searched, size.chosen, rounding)
        if len(places):
            close.append((size, size.rows[places]))
    settled = _affordable(close)
    chosen = _chosen_in(wide, choice, utility, settled)
    masks_NL = choice.masks.copy()
    for n_remove, mask_L in chosen.items():
        masks_NL[n_remove - 1] = mask_L
    _, text_P = paired_differences(utility, leads)
    rounding = _rounding(errors_P, own_P, n_compared)
    check = replace(
        unknown,
        n_pairs=len(sizes),
        n_sequences=n_compared,
        per_sequence=rounding.spread,
        bias=rounding.bias,
        of_choice=rounding.of_mean(n_sequences),
        of_text=_root_mean_square(text_P),
        close=tuple(size.n_remove for size, _ in close),
        settled=tuple(chosen),
        changed=tuple(n for n, mask_L in chosen.items() if (mask_L != choice.masks[n - 1]).any()),
        layer_run_tokens=wide.layer_run_tokens,
    )
    return replace(choice, masks=masks_NL), check


def _chosen_in(
    wide: TextGame, choice: FinalChoice, utility: Utility, settled: list[tuple[_Size, IntArray]]
) -> dict[int, MaskArray]:
    """The choice in float32 among the candidates given for each number of layers."""
    if not settled:
        return {}
    statistics = wide.statistics(choice.candidates[np.concatenate([rows for _, rows in settled])], wide.n_parts)
    n_searched = len(statistics.counts) - choice.n_sequences
    found: dict[int, MaskArray] = {}
    start = 0
    for size, rows in settled:
        of_size = statistics.of_masks(np.arange(start, start + len(rows)))
        start += len(rows)
        found[size.n_remove] = choice.candidates[rows[chosen_among(utility, of_size, n_searched)]]
    return found


def _sizes(choice: FinalChoice, utility: Utility) -> list[_Size]:
    """Numbers of layers of which two sets at least have a finite score."""
    scores = utility.score(choice.statistics)
    removed_C = (~choice.candidates).sum(axis=1)
    found = []
    for n_remove, mask in enumerate(choice.masks, start=1):
        rows = np.flatnonzero(removed_C == n_remove)
        if mask.all() or len(rows) < 2:
            continue
        chosen = int(np.flatnonzero((choice.candidates[rows] == mask).all(axis=1))[0])
        others = np.where(np.isfinite(scores[rows]), scores[rows], -np.inf)
        others[chosen] = -np.inf
        second = int(np.argmax(others))
        if np.isfinite(scores[rows[[chosen, second]]]).all() and second != chosen:
            found.append(_Size(n_remove, rows, chosen, second))
    return found


def _errors(utility: Utility, narrow: SequenceStatistics, wide: SequenceStatistics) -> tuple[FloatArray, FloatArray]:
    """Each lead's rounding error on the sequences compared [P], and the standard error of that [P]."""
    half = len(next(iter(narrow.sums.values()))) // 2
    ahead_P = [scores[half:] - scores[:half] for scores in (utility.score(narrow), utility.score(wide))]
    difference_KM = left_out_scores(utility, narrow) - left_out_scores(utility, wide)
    return ahead_P[0] - ahead_P[1], jackknife_errors(difference_KM[:, half:] - difference_KM[:, :half])


def _rounding(errors_P: FloatArray, own_P: FloatArray, n_compared: int) -> _Rounding:
    """What some leads' errors, with standard errors of their own, on so many sequences say of leads like them.

    One lead's errors on a few sequences say little, so that neighbouring sizes are taken together.
    """
    spread = _root_mean_square(own_P)
    # The mean of a few errors scatters by itself; what exceeds that is common to all sequences.
    bias = float(np.sqrt(max(_root_mean_square(errors_P) ** 2 - spread**2, 0.0)))
    return _Rounding(bias, spread * float(np.sqrt(n_compared)))


def _root_mean_square(values: FloatArray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(finite**2))) if len(finite) else float("nan")


def _contenders(
    utility: Utility, statistics: SequenceStatistics, n_searched: int, chosen: int, rounding: _Rounding
) -> IntArray:
    """Places of the sets that might be chosen but for rounding, with greedy's, by which all are judged.

    None where the choice is clear.
    """
    n_sequences = len(statistics.counts)
    total = utility.score(statistics)
    held = utility.score(statistics.resampled(np.arange(n_searched, n_sequences)))
    of_total = _CLOSE * rounding.of_mean(n_sequences)
    of_held = _CLOSE * rounding.of_mean(n_sequences - n_searched)
    with np.errstate(invalid="ignore"):
        falls = chosen != 0 and held[chosen] - held[0] < of_held
        if falls:  # whatever comes next would do
            able = np.isfinite(total)
        else:
            able = (total > total[chosen] - of_total) & ((held > held[0] - of_held) | (np.arange(len(total)) == 0))
    able[chosen] = True
    if able.sum() < 2:
        return np.empty(0, dtype=np.int64)
    able[0] = True
    return np.flatnonzero(able)


def _affordable(close: list[tuple[_Size, IntArray]]) -> list[tuple[_Size, IntArray]]:
    """What is decided in float32, the smallest sizes first."""
    found, spent = [], 0
    for size, rows in close:
        if spent + len(rows) <= _MOST_SETS:
            found.append((size, rows))
            spent += len(rows)
    return found
