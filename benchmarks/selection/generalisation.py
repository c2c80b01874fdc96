"""What a choice made on some calibration text is worth on other text, by how much text there was.

    python -m benchmarks.selection.generalisation run --model smollm2 --draws 0 1 2 3 4
    python -m benchmarks.selection.generalisation table --model smollm2
        --write benchmarks/results/generalisation_smollm2.md

Under `torchrun --standalone --nproc-per-node 2 -m benchmarks.selection.generalisation run ...` two processes share the
masks; the record then says so.

Each draw takes other sequences of every second article of WikiText-2's raw test text (of a novel for the bundled
GPT-2 and for the trained models, `--model benchmarks/models/llama24`, which know no other text); test text is the
articles between them and C4 (the rest of the novel, and two other novels). Every method reads the same sequences. A run
that is interrupted goes on where it was: masked models are kept in ledgers, finished fits in
`benchmarks/cache/generalisation_MODEL.jsonl`. Greedy elimination here drops candidates on a part of the text at 99.9%
confidence, like the default: on all of the text its path is the same, at several times the price.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.common import (
    CACHE,
    MODELS,
    evenly,
    packed,
    print_or_write,
    provenance,
    sequences,
    wikitext_articles,
)
from benchmarks.records import append, made_on, read
from benchmarks.selection.generalisation_tables import table
from benchmarks.selection.methods import greedy_pruner
from layershap import Calibration, LayerGame, LayerPruner
from layershap.baselines import AngularDistance, ShortenedLlama, ShortGPT
from layershap.calibration.blocks import AUTO_SEQUENCES
from layershap.datasets import load_calibration_text, load_evaluation_text, load_smollm2, load_tiny_gpt2
from layershap.model.io import text_config
from layershap.ranks.launched import is_first_rank
from layershap.ranks.together import Ranks

TESTED = 128
"""Sequences that a choice is tested on, at even distances in each of the two texts."""
NAMED = ("smollm2", "gpt2")
"""Models that need no folder."""


@dataclass(frozen=True)
class Problem:
    """A model, a stream of sequences to calibrate on, and test sequences of the same kind of text and of another."""

    name: str
    title: str
    model: Any
    stream: Calibration
    same: Calibration
    other: Calibration
    depths: tuple[int, ...]

    def calibration(self, draw: int, n_sequences: int) -> Calibration:
        """The first sequences of one draw: more of them hold fewer."""
        order = np.random.default_rng(draw).permutation(self.stream.n_sequences)
        if n_sequences > len(order):
            raise ValueError(f"{self.name}'s text has {len(order)} sequences, {n_sequences} are asked for")
        rows = torch.from_numpy(np.sort(order[:n_sequences]))
        return self.stream.take(rows)


def of_wikitext(name: str, title: str, model: Any, tokenizer: Any) -> Problem:
    stream, same = (sequences(articles, tokenizer, None) for articles in wikitext_articles())
    other = sequences(packed("c4-sample"), tokenizer, None)
    same, other = (text.take(torch.tensor(evenly(text.n_sequences, TESTED))) for text in (same, other))
    n_layers = text_config(model.config).num_hidden_layers
    depths = tuple(sorted({max(1, round(n_layers * share)) for share in (0.1, 0.2, 0.3, 0.4)}))
    return Problem(name, title, model, stream, same, other, depths)


def name_of(model: str) -> str:
    """What records and ledgers call a model: as it is named, or as its folder is, unless a named one is called so."""
    if model in NAMED:
        return model
    folder = Path(os.path.abspath(model))
    return f"{folder.parent.name}_{folder.name}" if folder.name in NAMED else folder.name


def loaded(model: str, dtype: str = "auto") -> tuple[str, str, Any, Any]:
    """Name, title, model and tokenizer of `smollm2`, `gpt2`, a folder with a checkpoint, or a GGUF file; with weights
    of this type, or as they are stored (those of a GGUF file in bfloat16). Nothing but SmolLM2 is fetched.
    """
    name, path = name_of(model), Path(model)
    given: Any = {} if dtype == "auto" else {"dtype": getattr(torch, dtype)}
    if model == "gpt2":
        found, tokenizer = load_tiny_gpt2()
        return name, "GPT-2, 12 layers (bundled)", found.to(**given) if given else found, tokenizer
    try:
        if model == "smollm2":
            title = "SmolLM2-135M-Instruct, 30 Llama layers, bfloat16"
            return name, title, *load_smollm2(MODELS / "smollm2", **given)
        if path.suffix == ".gguf":
            return name, name, *load_smollm2(path, **given)
        if not path.is_dir():
            reason = "that is a file, but no GGUF file" if path.exists() else "there is no such folder"
            raise FileNotFoundError(f"{reason}, and no model is fetched from a hub; give the folder that holds it")
        if not (path / "config.json").is_file():
            instead = "; to read a GGUF file in it, give that file" if any(path.glob("*.gguf")) else ""
            raise FileNotFoundError(f"the folder has no config.json{instead}")
        tokenizer = tokenizer_in(path)
        found = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, **({"dtype": "auto"} | given)).eval()
        return name, name, found, tokenizer
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SystemExit(
            f"the model must be {', '.join(NAMED)}, a folder with a checkpoint and its tokenizer, or a GGUF file; "
            f"{model!r} can't be loaded: {reason}"
        ) from error


def tokenizer_in(folder: Path) -> Any:
    """Read before the weights, which may take minutes. Of a folder without one transformers makes one that knows no
    more than its special tokens.
    """
    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"transformers can read no tokenizer in it ({' '.join(str(error).split())})") from error
    if len(found) <= len(set(found.all_special_tokens)):
        raise ValueError("it has no tokenizer; put the model's tokenizer.json or tokenizer.model into it")
    return found


def problem_with(name: str, title: str, model: Any, tokenizer: Any) -> Problem:
    """The bundled GPT-2 and the models that are trained here are calibrated on a novel, all others on WikiText-2."""
    if name != "gpt2" and not (MODELS / name / "training.json").exists():
        return of_wikitext(name, title, model, tokenizer)
    text = sequences(load_calibration_text(), tokenizer, None)
    rows = torch.from_numpy(np.random.default_rng(99).permutation(text.n_sequences))
    same, stream = (Calibration(text.ids_ST[part], text.ids_ST[part].clone()) for part in (rows[:128], rows[128:]))
    other = sequences(load_evaluation_text(), tokenizer, 128)
    deepest = 2 * model.config.num_hidden_layers // 3
    return Problem(name, title, model, stream, same, other, tuple(range(deepest // 8, deepest + 1, deepest // 8)))


def problem_of(model: str) -> Problem:
    return problem_with(*loaded(model))


def methods(problem: Problem, ledger: Path) -> dict[str, Callable[[], Any]]:
    """Each reads the same sequences; those that evaluate masks share a ledger."""
    n_layers, deepest = problem.model.config.num_hidden_layers, max(problem.depths)
    # The one-shot scores need every layer on all of the text, in one part; greedy's parts are the search's.
    return {
        "layershap, default": lambda: LayerPruner(max_remove=deepest, random_state=0, ledger=ledger),
        "greedy (SLEB without barriers)": partial(greedy_pruner, n_layers, deepest, ledger),
        "one-shot perplexity": lambda: ShortenedLlama(ledger=ledger.with_suffix(".oneshot.jsonl")),
        "Taylor": partial(ShortenedLlama, criterion="taylor"),
        "ShortGPT": ShortGPT,
        "angular distance": AngularDistance,
        "the paper's recipe, 500 masks": lambda: LayerPruner.paper(
            n_masks=500, random_state=0, ledger=ledger.with_suffix(".paper.jsonl")
        ),
    }


def run(problem: Problem, draws: list[int], counts: list[int], names: list[str] | None) -> None:
    record = CACHE / f"generalisation_{problem.name}.jsonl"
    CACHE.mkdir(exist_ok=True)
    done = {(row["draw"], row["sequences"], row["method"]) for row in read(record)}
    ranks = Ranks.of(problem.model)
    for draw in draws:
        for count in counts:
            calibration = problem.calibration(draw, count)
            ledger = CACHE / f"generalisation_{problem.name}_{draw}_{count}.jsonl"
            for name, make in methods(problem, ledger).items():
                if (draw, count, name) in done or (names and name not in names):
                    continue
                start, cpu = time.perf_counter(), sum(ranks.together(time.process_time))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    fitted = make().fit(problem.model, calibration)
                    sets = {n: fitted.removed_layers(n) for n in problem.depths}
                seconds = time.perf_counter() - start
                row = {
                    "draw": draw,
                    "sequences": count,
                    "method": name,
                    "seconds": seconds,
                    "cpu_seconds": sum(ranks.together(time.process_time)) - cpu,
                    "processes": ranks.count,
                    "sets": sets,
                    "same": tested(problem, sets, "same"),
                    "other": tested(problem, sets, "other"),
                }
                if is_first_rank():
                    append(record, row)
                    print(json.dumps(row), flush=True)


def tested(problem: Problem, sets: dict[int, list[int]], text: str) -> dict[int, float]:
    """Test perplexities of the sets."""
    n_layers = problem.model.config.num_hidden_layers
    masks = np.array([~np.isin(np.arange(n_layers), layers) for layers in sets.values()])
    # A ledger is one process's: draws may run side by side.
    with LayerGame(problem.model, getattr(problem, text)) as game:
        found = game.statistics(masks)
    with np.errstate(over="ignore"):
        return dict(zip(sets, np.exp(found.sums["nll"].sum(axis=1) / found.counts.sum()).tolist()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--model", default="smollm2", help="smollm2, gpt2, or a folder with a checkpoint")
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sequences", type=int, nargs="+", default=[AUTO_SEQUENCES])
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a page; between its markers <!-- tables: begin --> and end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.action == "run":
        run(problem_of(options.model), options.draws, options.sequences, options.methods)
        return
    rows = read(CACHE / f"generalisation_{name_of(options.model)}.jsonl")
    text = f"{provenance()}\n\n{made_on(rows)}\n\n{table(rows)}"
    print_or_write(text, options.write)


if __name__ == "__main__":
    main()
