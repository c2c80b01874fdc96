"""The rows of the table, cheapest first, so that a table with fewer of them can be written at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import CACHE
from benchmarks.real_model.compensated import Compensated
from benchmarks.real_model.subject import MIXTURE, OWN_TEXT, Subject
from benchmarks.selection.methods import greedy_pruner
from layershap import LayerPruner
from layershap.baselines import SLEB, AngularDistance, RandomLayers, ShortenedLlama, ShortGPT, SliceGPT
from layershap.fitting.recipes import PAPER_RECIPES

FEW, MANY = 10, 128
"""Calibration sequences: the paper's number, and the default's."""
FEWER_MASKS = 2000
"""The paper's recipe at a part of its price, beside its own number of masks."""
N_RANDOM = 5
_SWEEP_BYTES = 2**29
"""Hidden states at once on a CPU while the paper's masks are evaluated: masks reach the ledger sweep by sweep."""


@dataclass(frozen=True)
class Row:
    """A method on some calibration text.

    Attributes
    ----------
    name : str
        As tables show it; the number of sequences is added.
    sequences : int
        Calibration sequences; 0 for what reads none.
    make : callable
        Makes the estimator, with `fit(model, calibration)`.
    text : str
        Kind of calibration text.
    ranked : str
        Name of a further row: the fitted values, ranked. '' for none.
    follows : str
        Key of the row whose ledger this one continues: it costs what both did.
    made : bool
        True if the models are made by `transform(model, n)` and aren't the whole model under a mask: a narrower one, or
        one whose kept layers were changed to compensate. They are tested one by one.
    compensates : str
        Key of the row whose sets are removed with a compensation, and taken from the record. '' for none.
    """

    name: str
    sequences: int
    make: Callable[[], Any]
    text: str = OWN_TEXT
    ranked: str = ""
    follows: str = ""
    made: bool = False
    compensates: str = ""

    @property
    def key(self) -> str:
        return key_of(self.name, self.sequences, self.text)

    @property
    def ranked_key(self) -> str:
        return key_of(self.ranked, self.sequences, self.text)


def key_of(name: str, sequences: int, text: str = OWN_TEXT) -> str:
    of = "" if text == OWN_TEXT else f" of {text}"
    return f"{name}, {sequences} sequences{of}" if sequences else name


DEFAULT, RANKED = "layershap, default", "the default's values, ranked"
GREEDY, RACED_SLEB, BLIND_SLEB = "greedy (SLEB without barriers), raced", "SLEB, raced", "SLEB"
DEFAULT_MANY = key_of(DEFAULT, MANY)
DEFAULT_REFIT = key_of(f"{DEFAULT} + LinearRefit", 2 * MANY, MIXTURE)
SLEB_REFIT = key_of(f"{RACED_SLEB} + LinearRefit", 2 * MANY, MIXTURE)


def rows(subject: Subject) -> list[Row]:
    """The rows on the model's own calibration text, in order of their cost."""
    deepest, is_llama = max(subject.depths), subject.model.config.model_type == "llama"
    found = []
    for suffix, ends in (("", False), (", ends protected", True)):
        found.append(Row(f"magnitude{suffix}", 0, partial(ShortenedLlama, criterion="magnitude", protect_ends=ends)))
    found += [Row("ShortGPT", MANY, ShortGPT), Row("angular distance", MANY, AngularDistance)]
    for suffix, ends in (("", False), (", ends protected", True)):
        found.append(Row(f"Taylor{suffix}", MANY, partial(ShortenedLlama, criterion="taylor", protect_ends=ends)))
    if is_llama:
        found.append(Row("SliceGPT (width, as many parameters)", MANY, SliceGPT, made=True))
    # On the paper's amount of text those that are set beside its recipe.
    found += [Row("ShortGPT", FEW, ShortGPT), _one_shot(subject, FEW, ends=False)]
    found += [Row(BLIND_SLEB, FEW, _sleb(subject, deepest, FEW)), _default(subject, deepest, FEW)]
    found += [_one_shot(subject, MANY, ends=False), _one_shot(subject, MANY, ends=True)]
    found += [_default(subject, deepest, MANY), *_raced(subject, deepest, MANY), *_compensated(subject)]
    found += [Row(f"random {seed}", 0, partial(RandomLayers, random_state=seed)) for seed in range(N_RANDOM)]
    found += [_paper(subject, FEWER_MASKS, ""), Row(BLIND_SLEB, MANY, _sleb(subject, deepest, MANY))]
    found.append(_paper(subject, PAPER_RECIPES[_recipe(subject)].n_masks, key_of(paper_name(FEWER_MASKS), FEW)))
    # Six layers at the ends are protected: of so few none is left.
    return [row for row in found if subject.n_layers > 7 or "ends protected" not in row.name]


def on_other_text(subject: Subject, texts: list[str]) -> list[Row]:
    """The default on other kinds of calibration text."""
    deepest = max(subject.depths)
    return [_default(subject, deepest, MANY, text=text) for text in texts]


def shared_ledger(subject: Subject, count: int) -> Path:
    """That of `benchmarks.selection.generalisation`, whose draws and default these are."""
    return CACHE / f"generalisation_{subject.problem.name}_{subject.draw}_{count}.jsonl"


def _recipe(subject: Subject) -> str:
    """Which of the authors' recipes: that of the model's kind, or of its quantisation."""
    config = subject.model.config
    quantised = getattr(config, "quantization_config", None)
    method = quantised.get("quant_method") if isinstance(quantised, dict) else getattr(quantised, "quant_method", None)
    if method == "gptq":
        return "gptq"
    kind = str(getattr(config, "model_type", ""))
    return kind if kind in ("mamba", "rwkv") else "llama"


def paper_name(n_masks: int) -> str:
    return f"the paper's recipe, {n_masks:,} masks"


def _default(subject: Subject, deepest: int, count: int, text: str = OWN_TEXT) -> Row:
    ledger = shared_ledger(subject, count) if text == OWN_TEXT else subject.ledger(f"{text}_{count}")
    make = partial(LayerPruner, max_remove=deepest, random_state=0, ledger=ledger)
    return Row(DEFAULT, count, make, text=text, ranked=RANKED)


def _raced(subject: Subject, deepest: int, count: int) -> list[Row]:
    """Greedy elimination that drops candidates on a part of the text at 99.9% confidence, as the default does: it
    follows the default's ledger, and costs a fraction of SLEB's own on all of the text.
    """

    def make(*protect: int) -> LayerPruner:
        players = subject.n_layers - len(protect)
        return greedy_pruner(players, deepest, shared_ledger(subject, count), protect)

    return [Row(GREEDY, count, make), Row(RACED_SLEB, count, partial(make, 0, subject.n_layers - 1))]


def _compensated(subject: Subject) -> list[Row]:
    """Sets of rows above, compensated: the default's on its own calibration text, then on twice as much of two kinds,
    and SLEB's on the same.
    """
    found = []
    for name, method, count, text in (
        (DEFAULT, "Rescale", MANY, OWN_TEXT),
        (DEFAULT, "LinearRefit", MANY, OWN_TEXT),
        (DEFAULT, "LinearRefit", 2 * MANY, MIXTURE),
        (RACED_SLEB, "LinearRefit", 2 * MANY, MIXTURE),
    ):
        base = key_of(name, MANY)
        make = partial(Compensated, subject.record("fits"), base, method)
        found.append(Row(f"{name} + {method}", count, make, text=text, made=True, compensates=base))
    return found


def _one_shot(subject: Subject, count: int, *, ends: bool) -> Row:
    ledger = shared_ledger(subject, count).with_suffix(".oneshot.jsonl")
    make = partial(ShortenedLlama, ledger=ledger, protect_ends=ends)
    name = "one-shot perplexity"
    return Row(f"{name}, ends protected" if ends else name, count, make)


def _sleb(subject: Subject, deepest: int, count: int) -> Callable[[], Any]:
    return partial(SLEB, max_remove=deepest, ledger=subject.ledger(f"sleb_{count}"))


def _paper(subject: Subject, n_masks: int, follows: str) -> Row:
    """Its draws are the first of those of any larger number, which so continues the smaller one's ledger."""

    def make() -> LayerPruner:
        recipe, ledger = _recipe(subject), subject.ledger("paper")
        pruner = LayerPruner.paper(model=recipe, n_masks=n_masks, random_state=0, ledger=ledger)
        on_cpu = next(subject.model.parameters()).device.type == "cpu"
        return pruner.set_params(memory_budget=_SWEEP_BYTES) if on_cpu else pruner

    return Row(paper_name(n_masks), FEW, make, follows=follows)
