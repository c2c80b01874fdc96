"""Rows and texts -> `Task`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from layershap.calibration import Calibration, PerplexityProtocol, resolve_protocol
from layershap.places import tokenizer_name
from layershap.tasks.encode import encode_pairs
from layershap.tasks.rows import Question, Rows, choice_question, last_word_question, read_rows
from layershap.tasks.task import Task
from layershap.utilities.choice import ChoiceAccuracy, ChoiceLogProbability, Normalisation, layout_of
from layershap.utilities.exact_match import ExactMatch
from layershap.utilities.language_modelling import NegativeLogLikelihood, PerplexityRatio
from layershap.utilities.mixture import OnSequences, WeightedSum


def multiple_choice(
    rows: Rows,
    tokenizer: Any,
    *,
    name: str = "multiple_choice",
    normalise: Normalisation = "none",
    delimiter: str = " ",
    max_length: int | None = None,
) -> Task:
    """Multiple-choice questions, scored as lm-evaluation-harness scores them.

    Parameters
    ----------
    rows : path, list of dict or datasets.Dataset
        Rows with ``query``, ``choices`` and ``gold``, or with ``context_options``, ``continuation`` and ``gold``.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer; its default special tokens are used, as by the harness.
    name : str, default='multiple_choice'
        Name of the task in tables.
    normalise : {'none', 'characters', 'bytes', 'tokens'}, default='none'
        Length normalisation of the utility that `fit` uses; see `ChoiceLogProbability`.
    delimiter : str, default=' '
        Text between context and continuation.
    max_length : int, optional
        Number of positions of the model; longer contexts lose their beginning, as in the harness.

    Returns
    -------
    Task
        Its utility is `ChoiceLogProbability`; its metrics are ``acc`` and, where the choices differ in more than their
        context, ``acc_norm`` (by characters).

    Raises
    ------
    ValueError
        A row without gold, without choices, with empty ones or with ones longer than `max_length`.

    See Also
    --------
    last_word : Questions without choices.
    mixture : Several tasks as one.
    """
    questions = [choice_question(row, index, delimiter) for index, row in enumerate(read_rows(rows))]
    calibration = _calibration(questions, tokenizer, name, max_length)
    indices, start = [], 0
    for question in questions:
        indices.append(range(start, start + len(question.contexts)))
        start += len(question.contexts)
    choices = [c.removeprefix(delimiter) for question in questions for c in question.continuations]
    layout = layout_of(
        indices, [q.gold for q in questions], [len(c) for c in choices], [len(c.encode("utf-8")) for c in choices]
    )
    metrics = {"acc": ChoiceAccuracy(layout)}
    if any(len(set(question.continuations)) > 1 for question in questions):
        metrics["acc_norm"] = ChoiceAccuracy(layout, "characters")
    return Task(name, calibration, ChoiceLogProbability(layout, normalise), metrics)


def last_word(rows: Rows, tokenizer: Any, *, name: str = "last_word", max_length: int | None = None) -> Task:
    """Prediction of a text's last word (LAMBADA): right if greedy decoding gives all of its tokens.

    Parameters
    ----------
    rows : path, list of dict or datasets.Dataset
        Rows with ``text``, or with ``context`` and ``continuation``.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    name : str, default='last_word'
        Name of the task in tables.
    max_length : int, optional
        Number of positions of the model; longer contexts lose their beginning.

    Returns
    -------
    Task
        Its utility is the `PerplexityRatio` of the last words, its metrics ``acc`` (`ExactMatch`) and
        ``log_likelihood`` (mean per token of the words, in nats).

    See Also
    --------
    multiple_choice : Questions with choices.
    mixture : Several tasks as one.
    """
    questions = [last_word_question(row, index) for index, row in enumerate(read_rows(rows))]
    calibration = _calibration(questions, tokenizer, name, max_length)
    return Task(name, calibration, PerplexityRatio(), {"acc": ExactMatch(), "log_likelihood": NegativeLogLikelihood()})


def text(
    texts: str | Iterable[str],
    tokenizer: Any,
    *,
    name: str = "text",
    protocol: str | PerplexityProtocol = "seq128",
    n_sequences: int | None = 10,
) -> Task:
    """Plain text as a task, to mix with others: sequences under a perplexity protocol, scored by `PerplexityRatio`.

    Parameters
    ----------
    texts : str or iterable of str
        Text to score.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    name : str, default='text'
        Name of the task in tables.
    protocol : str or PerplexityProtocol, default='seq128'
        How texts become sequences (`layershap.PERPLEXITY_PROTOCOLS`).
    n_sequences : int or None, default=10
        Number of sequences, taken at even distances; None takes all.

    Returns
    -------
    Task
        Its metric is ``log_likelihood`` (mean per token, in nats).

    See Also
    --------
    mixture : Several tasks as one.
    """
    calibration = resolve_protocol(protocol).sequences(texts, tokenizer, n_sequences=n_sequences)
    return Task(name, calibration, PerplexityRatio(), {"log_likelihood": NegativeLogLikelihood()})


def mixture(tasks: Sequence[Task], weights: Sequence[float] | None = None, *, name: str = "mixture") -> Task:
    """Several tasks as one: their sequences together, and the weighted sum of their utilities.

    Parameters
    ----------
    tasks : sequence of Task
        Tasks with different names.
    weights : sequence of float, optional
        Weights of the tasks' utilities, whose scales differ (a ratio, nats). By default equal weights that sum to 1.
    name : str, default='mixture'
        Name of the mixture in tables.

    Returns
    -------
    Task
        Its metrics are named ``task/metric``.

    See Also
    --------
    layershap.utilities.WeightedSum : The mixture's utility.
    layershap.calibration.mixed_texts : Several kinds of text under one utility.
    """
    if not tasks or len({task.name for task in tasks}) < len(tasks):
        raise ValueError(f"a mixture needs tasks with different names, got {[task.name for task in tasks]}")
    chosen = tuple(float(w) for w in weights) if weights is not None else (1.0 / len(tasks),) * len(tasks)
    parts, metrics, start = [], {}, 0
    for task in tasks:
        stop = start + task.calibration.n_sequences
        parts.append(OnSequences(task.utility, start, stop))
        for metric, utility in task.metrics.items():
            metrics[f"{task.name}/{metric}"] = OnSequences(utility, start, stop)
        start = stop
    calibration = Calibration.concatenate([task.calibration for task in tasks])
    return Task(name, calibration, WeightedSum(tuple(parts), chosen), metrics)


def _calibration(questions: Sequence[Question], tokenizer: Any, name: str, max_length: int | None) -> Calibration:
    pairs = [pair for q in questions for pair in zip(q.contexts, q.continuations, strict=True)]
    rows = [index for index, q in enumerate(questions) for _ in q.contexts]
    provenance = {
        "source": "task",
        "task": name,
        "n_rows": len(questions),
        "tokenizer": tokenizer_name(tokenizer),
        "bos": "the tokenizer's default",
    }
    return Calibration.from_rows(encode_pairs(pairs, tokenizer, max_length, rows), provenance)
