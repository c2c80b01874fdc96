"""`compare`: fit several pruning methods on one model and set what they choose side by side.

Shapes: L layers, N numbers of removed layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from sklearn.base import clone
from torch import nn

from layershap.calibration import Calibration, PerplexityProtocol, as_calibration, resolve_protocol
from layershap.comparison.checks import check_kinds, check_numbers, checked_layers, is_fitted, whole_numbers
from layershap.comparison.compensated import (
    CompensatedMethod,
    OnText,
    Outcome,
    check_compensations,
    own_compensation,
    refuse_early,
)
from layershap.comparison.result import Choice, Cost, MethodComparison
from layershap.compensation import Compensation
from layershap.compensation.compensating import Compensating
from layershap.estimator import ModelPruner
from layershap.game import LayerGame
from layershap.game.players import GameModel
from layershap.masks import without
from layershap.model.stack import LayersArgument
from layershap.protocols import (
    ChoosesLayers,
    CountsLayers,
    DepthPruningMethod,
    FloatArray,
    NarrowingMethod,
    ReportsCosts,
    Utility,
)
from layershap.utilities import NegativeLogLikelihood

TaskLike: TypeAlias = "Callable[[nn.Module], float] | tuple[Utility, Any]"
"""A function of the masked model, or a utility with the data that it scores on."""


def compare(
    model: nn.Module,
    calib_data: Any,
    eval_data: Any,
    methods: Mapping[str, DepthPruningMethod | NarrowingMethod],
    n_removes: Sequence[int],
    *,
    tasks: Mapping[str, TaskLike] | None = None,
    compensations: Mapping[str, Compensation] | None = None,
    tokenizer: Any = None,
    protocol: str | PerplexityProtocol = "seq128",
    n_sequences: int | None = None,
    layers: LayersArgument = None,
) -> MethodComparison:
    """Fit each method on the same calibration data and measure its chosen sets on the same evaluation data.

    The chosen sets of all methods are evaluated together, as masks of one game: each distinct set once.

    Parameters
    ----------
    model : nn.Module
        Causal language model; only read.
    calib_data : Calibration, Tensor [S, T], texts, datasets.Dataset, DataLoader or iterable of batches
        Data that the methods are fitted on. It may be None if all of them are fitted.
    eval_data : Calibration, Tensor [S, T], texts, datasets.Dataset, DataLoader or iterable of batches
        Data that perplexities are measured on. Texts become sequences by `protocol`; tokens are measured as they are.
    methods : mapping of str to estimator
        Methods by the name that tables show. Unfitted methods are cloned and fitted; a fitted method is used as it is
        and must have been fitted on this model.
    n_removes : sequence of int
        Numbers of layers to remove.
    tasks : mapping of str to callable or (utility, data), optional
        Further scores of each choice: ``f(model) -> float``, called with the layers skipped, or a utility with its
        data.
    compensations : mapping of str to Compensation, optional
        Ways to make up for removed layers (`layershap.compensation`), by name: each method that removes layers is also
        shown with each, as ``"method + name"``. A method with a compensation of its own is first shown with that, and
        never without.
    tokenizer : PreTrainedTokenizerBase, optional
        The model's tokenizer, which texts need.
    protocol : str or PerplexityProtocol, default='seq128'
        How the texts of `eval_data` become sequences (`layershap.PERPLEXITY_PROTOCOLS`).
    n_sequences : int, optional
        Number of sequences of the texts of `eval_data`, at even distances. By default all.
    layers : str, sequence of nn.Module or LayerStack, optional
        Where the layers are, if the rule can't know; also for this library's methods whose own `layers` is None.

    Returns
    -------
    MethodComparison
        Choices, costs, tables and a picture.

    Raises
    ------
    ValueError
        No methods or no numbers; a number that no method can remove (with each method's reason); a method that chooses
        other layers than so many different ones; a task named like a column of the records; or a method that counts
        sublayers.
    TypeError
        `methods` or `tasks` without names, numbers that are no ints, or a `Task` in place of its parts.

    See Also
    --------
    layershap.evaluate : Scores one model on texts and tasks.

    Examples
    --------
    >>> from layershap import LayerPruner
    >>> from layershap.baselines import LastLayers, ShortGPT
    >>> from layershap.comparison import compare
    >>> from layershap.datasets import load_calibration_text, load_evaluation_text, load_tiny_gpt2
    >>> model, tokenizer = load_tiny_gpt2()
    >>> table = compare(
    ...     model, load_calibration_text(), load_evaluation_text(), {"ShortGPT": ShortGPT(), "last": LastLayers()},
    ...     n_removes=[1, 2], tokenizer=tokenizer, n_sequences=32,
    ... )
    >>> table["last", 2].layers
    (10, 11)
    """
    check_kinds(methods, {} if tasks is None else tasks, {"calib_data": calib_data, "eval_data": eval_data})
    check_compensations({} if compensations is None else compensations, methods, calib_data is not None)
    numbers = whole_numbers(n_removes)
    if not methods or not numbers:
        raise ValueError(f"compare needs a method and a number to remove, got {list(methods)} and {list(numbers)}")
    whole = GameModel.of(model, layers)
    n_layers = len(whole.players)
    check_numbers(numbers, whole)
    chosen_protocol = resolve_protocol(protocol)
    held_out = as_calibration(
        eval_data,
        tokenizer,
        pack=lambda texts, found: chosen_protocol.sequences(texts, found, n_sequences=n_sequences),
    )
    calibration = None
    if calib_data is not None or not all(map(is_fitted, methods.values())):
        calibration = as_calibration(calib_data, tokenizer)
        refuse_early(compensations or {}, calibration, whole)
    measure = partial(_measured, held_out=held_out, tasks=tasks or {})
    costs: dict[str, Cost] = {}
    chosen: dict[tuple[str, int], tuple[int, ...]] = {("", 0): ()}
    narrowed: list[Choice] = []
    compensated: list[CompensatedMethod] = []
    refused: dict[tuple[str, int], str] = {}
    for name, method in methods.items():
        fitted, costs[name] = _fitted(method, whole, calibration, tokenizer)
        if not isinstance(fitted, ChoosesLayers):
            for n in numbers:
                narrowed += measure(GameModel.of(fitted.transform(model, n)), {(name, n): ()})
            continue
        if (own := own_compensation(name, fitted)) is not None:
            compensated.append(own)
        if calibration is not None:
            compensated += [
                CompensatedMethod(f"{name} + {label}", name, Compensating(compensation, calibration))
                for label, compensation in (compensations or {}).items()
            ]
        n_players = fitted.n_layers_in_ if isinstance(fitted, CountsLayers) else n_layers
        if n_players != n_layers:
            raise ValueError(
                f"{name} chooses among {n_players} players, the model has {n_layers} layers; compare sets methods side "
                "by side that remove whole layers (or as many parameters)"
            )
        for n in numbers:
            try:
                removed = fitted.removed_layers(n)
            except ValueError as error:
                refused[name, n] = str(error)
            else:
                chosen[name, n] = checked_layers(name, removed, n, n_layers)
    unreached = [n for n in numbers if n not in {number for _, number in [*chosen, *_keys(narrowed)]}]
    if unreached:
        reasons = "".join(f"\n  {name}: {reason}" for (name, n), reason in refused.items() if n in unreached)
        raise ValueError(f"no method can remove {unreached} layers of this model:{reasons}")
    always = {variant.name for variant in compensated if variant.name == variant.chooser}
    dense, *found = measure(whole, {key: layers for key, layers in chosen.items() if key[0] not in always})
    made: dict[OnText, Outcome] = {}
    for variant in compensated:
        more, costs[variant.name] = variant.measured(whole, chosen, measure, costs[variant.chooser], made)
        found += more
    by_key = {(choice.method, choice.n_remove): choice for choice in [*found, *narrowed]}
    names = dict.fromkeys([*methods, *(variant.name for variant in compensated)])
    ordered = [by_key[name, n] for name in names for n in numbers if (name, n) in by_key]
    name = held_out.provenance.get("protocol", f"sequences of {held_out.seq_len} tokens as given")
    tokens = held_out.counts_S.numpy().astype(np.float64)
    return MethodComparison(n_layers, numbers, dense, tuple(ordered), costs, str(name), tokens)


def _fitted(method: Any, whole: GameModel, calibration: Calibration | None, tokenizer: Any) -> tuple[Any, Cost]:
    """A method, fitted now unless it is, and what its fit cost.

    One of this library whose `layers` is left open is given the layers that were found.
    """
    if is_fitted(method):
        seconds = _diagnostics(method).get("seconds")
    else:
        method = clone(method, safe=False)  # a deep copy of what is no scikit-learn estimator
        if isinstance(method, ModelPruner) and method.layers is None:
            method.set_params(layers=whole.players)
        start = time.perf_counter()
        method.fit(whole.model, calibration, tokenizer=tokenizer)
        seconds = time.perf_counter() - start
    diagnostics = _diagnostics(method)
    masks, runs = diagnostics.get("n_evaluated"), diagnostics.get("layer_runs")
    if "layer_run_tokens" in diagnostics:
        # A search runs on a part of the sequences: its tokens count, in runs on all.
        text = diagnostics["calibration"]
        runs = diagnostics["layer_run_tokens"] / (text.get("sequences_given", text["n_sequences"]) * text["seq_len"])
    return method, Cost(None if masks is None else int(masks), None if runs is None else round(runs), seconds)


def _diagnostics(method: object) -> Mapping[str, Any]:
    return method.diagnostics_ if isinstance(method, ReportsCosts) else {}


def _keys(choices: Sequence[Choice]) -> list[tuple[str, int]]:
    return [(choice.method, choice.n_remove) for choice in choices]


def _measured(
    whole: GameModel,
    chosen: Mapping[tuple[str, int], tuple[int, ...]],
    *,
    held_out: Calibration,
    tasks: Mapping[str, TaskLike],
) -> list[Choice]:
    """Perplexity and task scores of the model without the layers of each choice."""
    masks_ML = np.array([without(removed, len(whole.players)) for removed in chosen.values()])
    with LayerGame(whole, held_out, utility=NegativeLogLikelihood()) as game, np.errstate(over="ignore"):
        statistics = game.statistics(masks_ML)
        perplexity_M = np.exp(-game(masks_ML))
    scores: dict[str, FloatArray] = {}
    for name, task in tasks.items():
        # A game wants data even where a callable brings its own.
        utility, data = task if isinstance(task, tuple) else (task, held_out)
        with LayerGame(whole, data, utility=utility) as game:
            scores[name] = game(masks_ML)
    return [
        Choice(
            name,
            n,
            removed,
            float(perplexity_M[m]),
            {task: float(values[m]) for task, values in scores.items()},
            statistics.sums["nll"][m],
        )
        for m, ((name, n), removed) in enumerate(chosen.items())
    ]
