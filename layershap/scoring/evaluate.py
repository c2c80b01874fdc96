"""`evaluate`: perplexities, task scores and answers of a model, to be set beside those of another."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from layershap.calibration import PerplexityProtocol
from layershap.forward.unmasked import sequence_statistics
from layershap.limits import check_int
from layershap.model.io import maximum_length
from layershap.protocols import QuestionUtility
from layershap.scoring.generation import GenerationCheck, generation_scores
from layershap.scoring.harness import harness_scores, harness_tokenizer, task_manager
from layershap.scoring.perplexity import perplexity
from layershap.scoring.scores import Evaluation, EvaluationTable, Score, side_by_side
from layershap.tasks import Task, last_word, multiple_choice, read_rows

__all__ = ["PAPER_TASKS", "Evaluation", "EvaluationTable", "Score", "evaluate", "side_by_side", "task_scores"]

PAPER_TASKS = (
    "boolq",
    "piqa",
    "hellaswag",
    "winogrande",
    "arc_easy",
    "arc_challenge",
    "openbookqa",
    "lambada_openai",
)
"""The eight zero-shot tasks of the paper (arXiv 2602.07804), by lm-evaluation-harness's names. The first seven are
those of its published ``evaluate/quantize_eval.sh``; the eighth is the one that its ``evaluate/eval_acc.sh`` runs."""

Texts = str | Iterable[str]


def evaluate(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    texts: Texts | Mapping[str, Texts] | None = None,
    tasks: Sequence[Task | str | os.PathLike[str]] = (),
    protocol: str | PerplexityProtocol = "seq128",
    n_sequences: int | None = None,
    limit: int | None = None,
    num_fewshot: int = 0,
    generation: Any = None,
    dense: nn.Module | None = None,
    max_new_tokens: int = 64,
    batch_tokens: int | str = "auto",
) -> Evaluation:
    """Score a model on held-out text, on tasks, and by what it answers to prompts.

    Parameters
    ----------
    model : nn.Module
        Causal language model: dense, pruned, quantised or healed.
    tokenizer : PreTrainedTokenizerBase, optional
        The model's tokenizer, which everything needs but `Task` objects: they hold tokens already.
    texts : str, iterable of str, or dict of name to these, optional
        Text for perplexity.
    tasks : sequence, optional
        Tasks, each of one of these kinds:

        - `Task` (`layershap.tasks`), scored here, offline.
        - path of a JSONL file of rows, scored here, offline.
        - path of an lm-evaluation-harness YAML file or of a folder of them, scored by the harness (extra ``eval``).
        - the harness's name of a task (`PAPER_TASKS`), scored by the harness (extra ``eval``).
    protocol : str or PerplexityProtocol, default='seq128'
        How `texts` become sequences; every score carries the protocol's name.
    n_sequences : int, optional
        Number of sequences of each text, at even distances. By default all.
    limit : int, optional
        Number of questions of each task file or harness task, the first ones. By default all.
    num_fewshot : int, default=0
        Number of worked examples before each question, for harness tasks.
    generation : GenerationCheck, or prompts, optional
        Prompts for greedy answers, with the dense model's answers where they are compared; prompts are of the kinds
        that `GenerationCheck.from_model` takes. Scores of answers have the task 'generation': ``equal_answers`` and
        ``equal_tokens`` (shares of the answers, and of their tokens place by place, that are the dense model's),
        ``first_divergence`` (number of tokens before the first that isn't), ``log_likelihood`` (of the dense model's
        answers, in nats per token), ``repetition`` (share of four-token runs that occurred before in the answer),
        ``length`` (in tokens), ``exact_match`` (share of the rows with a right answer that have it).
    dense : nn.Module, optional
        Model to compare the answers with, where `generation` holds prompts only. By default they are compared with
        none.
    max_new_tokens : int, default=64
        Number of tokens of an answer to prompts, at most; a `GenerationCheck` has its own.
    batch_tokens : int or 'auto', default='auto'
        Number of tokens of one forward.

    Returns
    -------
    Evaluation
        The scores; `side_by_side` makes a table of several evaluations.

    Raises
    ------
    ValueError
        Nothing to evaluate, bad rows, a name that is no task, no tokenizer where one is needed, a `limit` below 1,
        a dense model for which there are no prompts.
    TypeError
        A `limit` or `num_fewshot` that is no int: a share of the questions isn't taken. What is no prompt.
    MissingExtraError
        Harness tasks without lm-eval; the message holds the pip command.

    See Also
    --------
    layershap.perplexity : Perplexity alone.
    layershap.GenerationCheck : The dense model's answers, generated once for several models.
    layershap.compare : Scores the choices of several methods.
    """
    if texts is None and not tasks and generation is None:
        raise ValueError("nothing to evaluate: give texts, tasks or generation, or several of them")
    if dense is not None and (generation is None or isinstance(generation, GenerationCheck)):
        raise ValueError("dense answers prompts: give generation=prompts with it (a GenerationCheck has its answers)")
    tasks = [tasks] if isinstance(tasks, str | os.PathLike | Task) else list(tasks)
    if limit is not None:
        limit = check_int("limit", limit, 1, other="None for all", meaning="the number of questions of each task")
    num_fewshot = check_int("num_fewshot", num_fewshot, 0, meaning="the number of worked examples before each question")
    here = [task for task in tasks if isinstance(task, Task) or Path(task).suffix == ".jsonl"]
    names = [os.fspath(task) for task in tasks if not isinstance(task, Task) and Path(task).suffix != ".jsonl"]
    manager = None
    if names:
        # Before anything is scored: a name that the harness doesn't know must not cost the other figures.
        harness_tokenizer(model, tokenizer)
        manager = task_manager(names)
    check = _checked(model if dense is None else dense, generation, tokenizer, max_new_tokens)
    scores: list[Score] = []
    if texts is not None:
        named = texts if isinstance(texts, Mapping) else {"text": texts}
        for name, part in named.items():
            found = perplexity(
                model, part, tokenizer, protocol=protocol, n_sequences=n_sequences, batch_tokens=batch_tokens
            )
            scores.append(
                Score(name, "perplexity", found.value, found.std_error, found.n_sequences, False, found.protocol)
            )
    for task in here:
        bound = task if isinstance(task, Task) else _from_file(Path(task), tokenizer, maximum_length(model), limit)
        scores.extend(task_scores(model, bound, batch_tokens=batch_tokens))
    if check is not None:
        alone = check is not generation and dense is None
        scores.extend(
            generation_scores(
                model,
                check,
                tokenizer,
                answers=check.answers if alone else None,
                compared=not alone,
                batch_tokens=batch_tokens,
            )
        )
    if names:
        scores.extend(harness_scores(model, tokenizer, names, manager, limit=limit, num_fewshot=num_fewshot))
    return Evaluation(tuple(scores))


def _checked(model: nn.Module, generation: Any, tokenizer: Any, max_new_tokens: int) -> GenerationCheck | None:
    if generation is None or isinstance(generation, GenerationCheck):
        return generation
    return GenerationCheck.from_model(model, generation, tokenizer, max_new_tokens=max_new_tokens)


def task_scores(model: nn.Module, task: Task, *, batch_tokens: int | str = "auto") -> list[Score]:
    """Every metric of a task for one model."""
    needed = tuple(sorted({name for utility in task.metrics.values() for name in utility.statistics}))
    statistics = sequence_statistics(model, task.calibration, needed, batch_tokens=batch_tokens)
    scores = []
    for metric, utility in task.metrics.items():
        error, n = math.nan, task.calibration.n_sequences
        if isinstance(utility, QuestionUtility):
            values = utility.per_question(statistics)[0]
            n = len(values)
            error = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        scores.append(Score(task.name, metric, float(utility.score(statistics)[0]), error, n, True, "rows"))
    return scores


def _from_file(path: Path, tokenizer: Any, max_length: int | None, limit: int | None) -> Task:
    rows = read_rows(path)[:limit]
    build = multiple_choice if "gold" in rows[0] or "choices" in rows[0] else last_word
    return build(rows, tokenizer, name=path.stem, max_length=max_length)
