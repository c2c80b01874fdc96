"""What a report holds: a tree of plain numbers, strings and tuples, which is also what its JSON file holds.

L layers, M evaluated masks, P removable layers (players).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LayerRecord:
    """One decoder layer, or one sublayer, and its value.

    Attributes
    ----------
    index : int
        Place of the layer in the model.
    name : str
        The index as text, or a sublayer's name ("3.mixer").
    mixer, feed_forward : str
        Kinds of its parts (`layershap.inspect`).
    n_parameters, n_bytes : int
        Size that removing the layer alone frees.
    removable : bool
        False for protected layers.
    reason : str
        Reason why the layer is protected; empty if it isn't.
    contribution, standard_error : float or None
        Value of the layer and its standard error, in the unit of the score; None for protected layers.
    removal_rank : int
        Rank by ascending value; 1 for the layer of least value.
    remark : str
        'veto player' for a layer without which the model is lost; 'in doubt' where the value contradicts the layer's
        leave-one-out; else empty.
    """

    index: int
    name: str
    mixer: str
    feed_forward: str
    n_parameters: int
    n_bytes: int
    removable: bool
    reason: str
    contribution: float | None
    standard_error: float | None
    removal_rank: int
    remark: str


@dataclass(frozen=True)
class ComparisonRecord:
    """What calibration text held back from the search says of a set, on the score's scale.

    Attributes
    ----------
    score_error : float
        Standard error of the set's score there.
    over_greedy, over_greedy_error : float
        Lead over greedy removal's set, and its standard error; 0 where they are the same.
    over_second, over_second_error : float
        The same over the second best set; NaN without one.
    """

    score_error: float
    over_greedy: float
    over_greedy_error: float
    over_second: float
    over_second_error: float


@dataclass(frozen=True)
class RemovalRecord:
    """Layers, score and size for the removal of `n_remove` layers.

    Attributes
    ----------
    n_remove : int
        Number of layers removed.
    layers : tuple of int
        Sorted indices of the layers removed.
    probabilities : tuple of float, or None
        For each of `layers`, how often it is among the n removed when the calibration sequences are resampled; None
        where they can't be.
    score : float or None
        Score of the final choice on the calibration text held back from the search, where there was any
        (`SetComparison`); else score of the masked model on the text searched.
    comparison : ComparisonRecord or None
        Certainty of the score and of the choice; None where no text was held back.
    predicted_score : float
        Score that the surrogate predicts.
    n_parameters, n_bytes : int
        Size of the pruned model.
    """

    n_remove: int
    layers: tuple[int, ...]
    probabilities: tuple[float, ...] | None
    score: float | None
    comparison: ComparisonRecord | None
    predicted_score: float
    n_parameters: int
    n_bytes: int


@dataclass(frozen=True)
class SurrogateRecord:
    """The surrogate and how well it predicts masks that it was not fitted on.

    Attributes
    ----------
    name : str
        As Python would construct it.
    held_out_r2, held_out_spearman : float
        Between `scores` and `predictions`.
    n_removed, scores, predictions : tuple [M]
        For each mask drawn at random with a finite score: layers removed, measured score, held-out prediction.
    interactions : tuple [P] of tuple [P], or None
        Pairwise interactions of the removable layers, for a surrogate that has them; NaN for veto players.
    """

    name: str
    held_out_r2: float
    held_out_spearman: float
    n_removed: tuple[int, ...]
    scores: tuple[float, ...]
    predictions: tuple[float, ...]
    interactions: tuple[tuple[float, ...], ...] | None


@dataclass(frozen=True)
class CalibrationRecord:
    """The text that masked models were scored on.

    Attributes
    ----------
    n_sequences, seq_len : int
        S sequences of T tokens.
    digest : str
        SHA-256 of the tokens.
    provenance : dict
        Source, tokenizer, BOS policy, texts used.
    final_sequences : int or None
        Number of sequences held back from the search for the final choice, if any were.
    """

    n_sequences: int
    seq_len: int
    digest: str
    provenance: dict[str, Any]
    final_sequences: int | None


@dataclass(frozen=True)
class CostRecord:
    """Cost of the fit.

    Attributes
    ----------
    n_masks : int
        Number of masks that draws and search asked for, as the parameter ``n_masks`` counts them: without the whole
        model, nor the empty one that veto players are judged by (which reports before format 4 counted).
    n_evaluated : int
        Number of distinct masks run on the model, as the log counts them: with the whole model and, where veto
        players are looked for, the empty one. Those read from a ledger don't count.
    layer_runs : int
        Number of layer runs on the sequences searched with.
    layer_run_tokens : float
        Layer runs x tokens in all, those of the final choice included.
    n_for_values : int
        Number of masks drawn for the values, among `n_masks`; a search asked for the others.
    value_run_tokens : float
        Layer runs x tokens of these, part of `layer_run_tokens`.
    seconds : float
        Wall-clock time of the fit.
    path, path_note : str
        Fused or plain forward, and the reason why it is not the fused one.
    """

    n_masks: int
    n_evaluated: int
    layer_runs: int
    layer_run_tokens: float
    n_for_values: int
    value_run_tokens: float
    seconds: float
    path: str
    path_note: str


@dataclass(frozen=True)
class FitRecord:
    """The fitted model and the settings behind the values.

    Attributes
    ----------
    model_name : str
        Last part of the model's name on the Hub, or of its folder; empty if it is unknown.
    model_class, layers_path, dtype : str
        Class, path of the layer list and precision of the fitted model.
    granularity : str
        Kind of the report's layers: "layer" or "sublayer".
    weights_digest : str
        SHA-256 of the weights (a sample of large tensors).
    n_parameters, n_bytes : int
        Size of the whole model.
    utility : str
        Name of the score.
    baseline_score : float
        Score of the model with all its layers.
    settings : dict of str to str
        The estimator's parameters, `random_state` among them, as Python would write them.
    """

    model_name: str
    model_class: str
    layers_path: str
    dtype: str
    granularity: str
    weights_digest: str
    n_parameters: int
    n_bytes: int
    utility: str
    baseline_score: float
    settings: dict[str, str]
