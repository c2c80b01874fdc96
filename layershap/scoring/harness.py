"""lm-evaluation-harness through its Python API (extra ``eval``)."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from layershap.calibration.sources import text_tokenizer
from layershap.extras import require
from layershap.model.io import evaluation_mode
from layershap.scoring.scores import Score

_BATCH_SIZE = 8
_PURPOSE = "evaluating lm-evaluation-harness tasks"


def task_manager(tasks: Sequence[str]) -> Any:
    """The harness's manager of tasks, after a look whether it knows all of these (`harness_scores`).

    Raises
    ------
    ValueError
        It knows no task of a name; the message holds similar ones. Or no task files in a folder.
    FileNotFoundError
        No such task file.
    MissingExtraError
        The harness is not installed.
    """
    require("lm_eval", "layershap[eval]", _PURPOSE)
    tasks_module = require("lm_eval.tasks", "layershap[eval]", _PURPOSE)
    names = _resolve(tasks)
    files = [name for name in names if _is_file(name)]
    # Reading the harness's own thousands of task files takes seconds.
    manager = tasks_module.TaskManager(include_defaults=len(files) < len(names))
    for name in names:
        if name not in files and name not in manager.all_tasks:
            similar = get_close_matches(name, manager.all_tasks, n=3) or ["layershap.PAPER_TASKS names eight"]
            raise ValueError(
                f"task {name!r} must be a .jsonl file, or a task (file) of lm-evaluation-harness, which knows none of "
                f"this name. Similar: {', '.join(similar)}"
            )
    return manager


def harness_tokenizer(model: nn.Module, tokenizer: Any) -> Any:
    """The tokenizer for the harness, after a look whether it can run the model.

    Raises
    ------
    TypeError
        The model is not one of transformers.
    ValueError
        No tokenizer.
    """
    if not hasattr(model, "config"):
        raise TypeError(f"lm-evaluation-harness needs a transformers model, got {type(model).__name__}")
    return text_tokenizer(tokenizer, "lm-evaluation-harness tasks need the model's tokenizer")


def harness_scores(
    model: nn.Module,
    tokenizer: Any,
    tasks: Sequence[str],
    manager: Any,
    *,
    limit: int | None = None,
    num_fewshot: int = 0,
) -> list[Score]:
    """Run harness tasks and return a score for each task and metric.

    The model's training flags, the tokenizer and the random states are afterwards as they were before.

    Parameters
    ----------
    model : PreTrainedModel
        A transformers model, which is used as it is.
    tokenizer : PreTrainedTokenizerBase
        The model's.
    tasks : sequence of str
        Names of the harness, YAML files, or folders of YAML files (those whose names begin with an underscore, which
        others include, are left out).
    manager : lm_eval.tasks.TaskManager
        From `task_manager`, which has looked for the tasks.
    limit : int, optional
        Questions of each task.
    num_fewshot : int, default=0
        Worked examples before each question.
    """
    lm_eval = require("lm_eval", "layershap[eval]", _PURPOSE)
    huggingface = require("lm_eval.models.huggingface", "layershap[eval]", _PURPOSE)
    tokenizer = harness_tokenizer(model, tokenizer)
    with evaluation_mode(model), _random_states_kept():
        output = lm_eval.simple_evaluate(
            # A copy, because the harness sets the pad token.
            model=huggingface.HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=_BATCH_SIZE),
            tasks=_resolve(tasks),
            num_fewshot=num_fewshot,
            limit=limit,
            task_manager=manager,
            bootstrap_iters=1000,
            log_samples=False,
        )
    scores = []
    for task, found in output["results"].items():
        for key, value in found.items():
            metric, _, variant = key.partition(",")
            if not variant or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = found.get(f"{metric}_stderr,{variant}")
            scores.append(
                Score(
                    task=task,
                    metric=metric if variant == "none" else f"{metric} ({variant})",
                    value=float(value),
                    std_error=float(error) if isinstance(error, int | float) else math.nan,
                    n=int(output["n-samples"].get(task, {}).get("effective", 0)),
                    higher_is_better=bool(output["higher_is_better"].get(task, {}).get(metric, True)),
                    protocol=f"lm-eval {lm_eval.__version__}, {num_fewshot}-shot",
                )
            )
    return scores


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """The harness seeds every generator that there is."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state that the harness sets
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


def _is_file(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml")


def _resolve(tasks: Sequence[str]) -> list[str]:
    """Names and files, folders spelt out."""
    names: list[str] = []
    for task in tasks:
        path = Path(task)
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml") and not p.name.startswith("_"))
            if not files:
                raise ValueError(f"no task files (*.yaml) in folder {task!r}")
            names.extend(map(str, files))
        elif path.suffix in (".yaml", ".yml", ".json") and not path.is_file():
            raise FileNotFoundError(f"no task file {task!r}")
        else:
            names.append(task)
    return names
