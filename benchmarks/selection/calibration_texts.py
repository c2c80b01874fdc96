"""What text that fits the model gains: layers chosen on raw text, on chats, and on the model's own answers.

    python -m benchmarks.selection.calibration_texts run
    python -m benchmarks.selection.calibration_texts table --write benchmarks/results/calibration_texts.md

Each kind of text gives as many sequences; greedy elimination chooses on them which layers of SmolLM2-135M-Instruct go.
Chats are questions of PIQA and beginnings of HellaSwag with their right answers, half of the rows to calibrate on, half
to test on; the model's own answers are to the questions of the same halves. Tested are the perplexity of answers (the
dense model's own, and the right ones of the chats), of WikiText-2's raw test text and of C4, the accuracy on six
zero-shot tasks, and greedy answers of the models without their layers. A run that is interrupted goes on where it was:
masked models are kept in ledgers, what is finished in `benchmarks/cache/calibration_texts_MODEL.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import lzma
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import (
    CACHE,
    DATA,
    evenly,
    markdown,
    packed,
    print_or_write,
    provenance,
    sequences,
    wikitext_articles,
)
from benchmarks.records import append, read
from benchmarks.selection.generalisation import loaded
from benchmarks.selection.methods import greedy_pruner
from layershap import Calibration, GenerationCheck, LayerGame, Task, remove_layers
from layershap.calibration import chat_answers, mixed_texts, own_answers
from layershap.masks import without
from layershap.scoring.generation import generation_scores
from layershap.tasks import multiple_choice

CHATS = ("piqa", "hellaswag")
"""Sets whose questions and right answers become chats: their answers are sentences. Those of the others are a few words
each, which a chat model hardly ever says (ARC-easy's have a perplexity of 127 to the dense model, these 35 and 29)."""
TASKS = ("arc_easy", "copa", "hellaswag", "openbookqa", "piqa", "winogrande")
Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much text, how many questions and how long answers."""

    sequences: int
    rows: int
    prompts: int
    new_tokens: int
    depths: tuple[int, ...]


class Subject:
    """A chat model, the kinds of text to calibrate it on, and what it is tested on."""

    def __init__(self, model: str, sizes: Sizes) -> None:
        self.name, _, self.model, self.tokenizer = loaded(model)
        self.sizes = sizes
        self.n_layers = self.model.config.num_hidden_layers
        # Half of the rows of each set to calibrate on, the others to test on, in an order of their own.
        self.halves: dict[str, tuple[list[Row], list[Row]]] = {}
        with lzma.open(DATA / "tasks.jsonl.xz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        for task in TASKS:
            of_task = [row for row in rows if row["task"] == task]
            order = np.random.default_rng(0).permutation(len(of_task))
            shuffled = [of_task[index] for index in order]
            self.halves[task] = (shuffled[::2], shuffled[1::2])

    def chats(self, half: int, count: int) -> list[list[dict[str, str]]]:
        """Questions and right answers, of the sets in turn."""
        found = []
        for number in range(count):
            rows = self.halves[CHATS[number % len(CHATS)]][half]
            row = rows[number // len(CHATS)]
            question = row["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
            if row["task"] == "hellaswag":
                question = f"Continue this text: {question}"
            answer = row["choices"][row["gold"]]
            found.append([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
        return found

    def kinds(self, draw: int) -> dict[str, Callable[[], Calibration]]:
        """The calibration sets by name: each takes other text in each draw."""
        count, tokenizer = self.sizes.sequences, self.tokenizer
        chats = self.chats(0, (draw + 1) * 4 * count)[draw * 4 * count :]
        articles = wikitext_articles()[0]
        web = packed("c4-sample")[: len(packed("c4-sample")) // 2]
        texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]

        def drawn(text: Any) -> Calibration:
            stream = sequences(text, tokenizer, None)
            order = np.random.default_rng(draw).permutation(stream.n_sequences)[:count]
            return stream.take(torch.from_numpy(np.sort(order)))

        def own() -> Calibration:
            return own_answers(self.model, chats[:count], tokenizer, max_new_tokens=self.sizes.new_tokens)

        return {
            "WikiText-2": lambda: drawn(articles),
            "C4": lambda: drawn(web),
            "chats, packed, all tokens": lambda: sequences(texts, tokenizer, count),
            "chats, answers only": lambda: chat_answers(chats, tokenizer, n_sequences=count),
            "own answers": own,
            "C4 and own answers, 1 : 1": lambda: mixed_texts({"C4": drawn(web), "own": own()}, None, n_sequences=count),
        }

    def fitted(self, calibration: Calibration, ledger: Path) -> dict[int, list[int]]:
        """Greedy elimination's sets, by depth."""
        pruner = greedy_pruner(self.n_layers, max(self.sizes.depths), ledger)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner.fit(self.model, calibration)
        return {n: pruner.removed_layers(n) for n in self.sizes.depths}

    @cached_property
    def check(self) -> GenerationCheck:
        """The dense model's answers to questions that nothing was calibrated on."""
        prompts = self.chats(1, self.sizes.prompts)
        return GenerationCheck.from_model(self.model, prompts, self.tokenizer, max_new_tokens=self.sizes.new_tokens)

    def measures(self) -> dict[str, Callable[[], Calibration | Task]]:
        """What masked models are tested on, by name."""
        tokenizer, count = self.tokenizer, self.sizes.rows
        web = packed("c4-sample")
        web = web[len(web) // 2 :]

        def text(of: Any) -> Calibration:
            stream = sequences(of, tokenizer, None)
            return stream.take(torch.tensor(evenly(stream.n_sequences, count)))

        def task(name: str) -> Task:
            return multiple_choice(self.halves[name][1][:count], tokenizer, name=name)

        return {
            "own answers": lambda: own_answers(
                self.model, self.chats(1, count), tokenizer, max_new_tokens=self.sizes.new_tokens
            ),
            "chats' answers": lambda: chat_answers(self.chats(1, count), tokenizer, n_sequences=None),
            "WikiText-2": lambda: text(wikitext_articles()[1]),
            "C4": lambda: text(web),
            **{name: partial(task, name) for name in TASKS},
        }


def key_of(layers: list[int]) -> str:
    return " ".join(map(str, layers)) or "none"


def run(subject: Subject, draws: list[int], names: list[str] | None) -> None:
    record = CACHE / f"calibration_texts_{subject.name}.jsonl"
    CACHE.mkdir(exist_ok=True)
    sizes = subject.sizes
    for draw in draws:
        for kind, make in subject.kinds(draw).items():
            done = {tuple(row["fit"]) for row in read(record) if "fit" in row}
            key = (kind, draw, sizes.sequences, max(sizes.depths))
            if key in done or (names and kind not in names):
                continue
            calibration = make()
            slug = "".join(c if c.isalnum() else "_" for c in kind)
            ledger = CACHE / f"calibration_texts_{subject.name}_{slug}_{draw}_{sizes.sequences}.jsonl"
            cpu = time.process_time()
            row = {
                "fit": key,
                "sets": subject.fitted(calibration, ledger),
                "cpu_seconds": round(time.process_time() - cpu, 1),
                "scored_tokens": int(calibration.counts_S.sum()),
                "tokens": int(calibration.lengths_S.sum()),
                "source": calibration.provenance["source"],
            }
            append(record, row)
            print(json.dumps(row), flush=True)
    _test(subject, record)


def _test(subject: Subject, record: Path) -> None:
    """Every distinct set on every measure that it has not been tested on."""
    sets: dict[str, list[int]] = {"none": []}
    for row in read(record):
        if "fit" in row:
            sets |= {key_of(layers): layers for n, layers in row["sets"].items() if int(n) in subject.sizes.depths}
    size = [subject.sizes.rows, subject.sizes.new_tokens]
    for measure, make in subject.measures().items():
        done = {row["set"] for row in read(record) if row.get("measure") == measure and row["size"] == size}
        missing = {key: layers for key, layers in sets.items() if key not in done}
        if not missing:
            continue
        made = make()
        calibration = made if isinstance(made, Calibration) else made.calibration
        with LayerGame(subject.model, calibration) as game:
            # All at once, since the sets share their first layers.
            found = game.statistics(np.array([without(layers, subject.n_layers) for layers in missing.values()]))
        if isinstance(made, Calibration):
            values = found.sums["nll"].sum(axis=1) / found.counts.sum()
        else:
            values = made.metrics["acc"].score(found)
        for key, value in zip(missing, values):
            append(record, {"measure": measure, "size": size, "set": key, "value": float(value)})
        print(f"{measure}: {len(missing)} sets", flush=True)
    size = [subject.sizes.prompts, subject.sizes.new_tokens]
    done = {row["set"] for row in read(record) if row.get("measure") == "generation" and row["size"] == size}
    for key, layers in sets.items():
        if key in done:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = remove_layers(subject.model, layers) if layers else subject.model
        scores = generation_scores(model, subject.check, subject.tokenizer)
        values = {score.metric: score.value for score in scores}
        append(record, {"measure": "generation", "size": size, "set": key, "value": values})
        print(f"generation: {key}", flush=True)


def table(subject_name: str, sizes: Sizes) -> str:
    """Means over the draws by kind of text and depth, and the sets; NaN where a set's tests aren't finished."""
    rows = read(CACHE / f"calibration_texts_{subject_name}.jsonl")
    fits = [row for row in rows if "fit" in row and tuple(row["fit"][2:]) == (sizes.sequences, max(sizes.depths))]
    if not fits:
        raise SystemExit(f"nothing of this size was run for {subject_name} yet")
    tests: dict[tuple[str, str], Any] = {}
    for row in rows:
        if "measure" in row:
            wanted = sizes.prompts if row["measure"] == "generation" else sizes.rows
            if row["size"] == [wanted, sizes.new_tokens]:
                tests[row["measure"], row["set"]] = row["value"]
    kinds = list(dict.fromkeys(row["fit"][0] for row in fits))
    draws = sorted({row["fit"][1] for row in fits})

    def mean(kind: str, depth: int, value: Callable[[str], float]) -> float:
        return float(np.mean([value(key_of(f["sets"][str(depth)])) for f in fits if f["fit"][0] == kind]))

    def accuracy(layers: str) -> float:
        return 100 * float(np.mean([tests.get((task, layers), np.nan) for task in TASKS]))

    def perplexity(measure: str) -> Callable[[str], float]:
        return lambda layers: float(np.exp(np.minimum(tests.get((measure, layers), np.nan), 50.0)))

    def generated(metric: str) -> Callable[[str], float]:
        return lambda layers: float(tests.get(("generation", layers), {}).get(metric, np.nan))

    shown: list[tuple[str, Callable[[str], float], str]] = [
        (
            f"Perplexity of the dense model's own answers to {sizes.rows} other questions:",
            perplexity("own answers"),
            ".2f",
        ),
        (f"Perplexity of the right answers to {sizes.rows} other questions:", perplexity("chats' answers"), ".1f"),
        ("Perplexity of WikiText-2's raw test text (other articles):", perplexity("WikiText-2"), ".1f"),
        ("Perplexity of C4 (the other half):", perplexity("C4"), ".1f"),
        (f"Mean accuracy on six zero-shot tasks, {sizes.rows} rows each, in %:", accuracy, ".1f"),
        (
            f"Answers to {sizes.prompts} questions: share of runs of four tokens that repeat:",
            generated("repetition"),
            ".2f",
        ),
        ("The same answers: share of tokens that are the dense model's:", generated("equal_tokens"), ".2f"),
    ]
    head = ["calibrated on", *(f"{n} removed" for n in sizes.depths)]
    lines = [f"{sizes.sequences} sequences, draws {', '.join(map(str, draws))}; greedy elimination.", ""]
    for title, value, form in shown:
        body = [[kind, *(f"{mean(kind, n, value):{form}}" for n in sizes.depths)] for kind in kinds]
        body.append(["(no layer removed)", *[f"{value('none'):{form}}"] * len(sizes.depths)])
        lines += [title, "", markdown(head, body), ""]
    cost = [
        [
            kind,
            *(
                f"{np.mean([f[name] for f in fits if f['fit'][0] == kind]):,.0f}"
                for name in ("tokens", "scored_tokens", "cpu_seconds")
            ),
        ]
        for kind in kinds
    ]
    lines += [
        "Size of the text and cost of a fit:",
        "",
        markdown(["calibrated on", "tokens", "scored", "CPU s"], cost),
        "",
    ]
    removed = [
        [f["fit"][0], str(f["fit"][1]), *(key_of(f["sets"][str(n)]) for n in sizes.depths)]
        for f in sorted(fits, key=lambda f: (kinds.index(f["fit"][0]), f["fit"][1]))
    ]
    lines += ["Layers removed:", "", markdown(["calibrated on", "draw", *map(str, sizes.depths)], removed), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--model", default="smollm2", help="smollm2, or a folder with a chat model")
    parser.add_argument("--draws", type=int, nargs="+", default=[0])
    parser.add_argument("--sequences", type=int, default=32, help="of each kind of text")
    parser.add_argument("--rows", type=int, default=100, help="questions of each test, and sequences of each text")
    parser.add_argument("--prompts", type=int, default=16, help="questions answered by the models themselves")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--depths", type=int, nargs="+", default=[3, 6, 9, 12])
    parser.add_argument("--kinds", nargs="+", help="of calibration text; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a page; between its markers <!-- tables: begin --> and end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = Sizes(options.sequences, options.rows, options.prompts, options.new_tokens, tuple(options.depths))
    if options.action == "run":
        run(Subject(options.model, sizes), options.draws, options.kinds)
        return
    name = options.model if options.model == "smollm2" else Path(options.model).name
    print_or_write(f"{provenance()}\n\n{table(name, sizes)}", options.write)


if __name__ == "__main__":
    main()
