"""Are the values right? The default's values against exact ones, or against direct Monte Carlo on the model.

    python -m benchmarks.values.values collect --model smollm2     # evaluates; half an hour on one core with AMX
    python -m benchmarks.values.values table --write benchmarks/results/values.md

`collect` stores the NLL of every mask on every calibration sequence (`data/values/MODEL.npz`): all coalitions of a
small model, else some 2,800 masks drawn uniformly within each size among layers without a veto. `table` subsamples
those for 24 seeds, as many masks for each as `fit` draws by default, and compares with the truth: by enumeration, or
from all stored masks, whose own error is stated. No model is run.

Shapes: M masks, L layers, F free players, S sequences.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.common import CACHE, DATA, LENGTH, MODELS, markdown, packed, print_or_write, provenance, sequences
from layershap.fitting.values import ValueSettings, fit_values
from layershap.fitting.veto import lost_without
from layershap.masks import mask_keys
from layershap.protocols import FloatArray, MaskArray, Surrogate
from layershap.samplers import StratifiedSampler, strata_sizes
from layershap.shapley import Semivalue, all_masks
from layershap.surrogates import HammingProcess, PairwiseRidge

STORED = DATA / "values"
NAMES = ["gpt2", "mamba2", "stories260k", "smollm2", "llama24", "llama32"]
"""Models with stored evaluations; the last two and Mamba-2 are made by `scripts/train_benchmark_models.py`."""
SEEDS = 24
PER_PLAYER = 9
"""Masks drawn for each layer by default (`layershap.fitting.masks`)."""


@dataclass(frozen=True)
class Stored:
    """Evaluations of one model.

    Attributes
    ----------
    title : str
        What was evaluated, and how.
    masks, scores : ndarray [M, F], [M]
        PPL_orig / PPL of masks over the free players, veto players kept.
    free : ndarray [F] of int
        Which layers the players are.
    enumerated : bool
        Whether all coalitions are there.
    """

    title: str
    masks: MaskArray
    scores: FloatArray
    free: np.ndarray
    enumerated: bool

    @property
    def strata(self) -> list[int]:
        return strata_sizes(None, self.masks.shape[1])

    @property
    def settings(self) -> ValueSettings:
        return ValueSettings(tuple(self.strata), 80_000, unbiased=True)

    @cached_property
    def _score_of(self) -> dict[bytes, float]:
        return dict(zip(mask_keys(self.masks), self.scores.tolist(), strict=True))

    def evaluate(self, masks: MaskArray) -> FloatArray:
        """Their scores [M]; each must be stored."""
        return np.array([self._score_of[key] for key in mask_keys(masks)])

    def truth(self) -> tuple[FloatArray, float]:
        """Values [F] and their root mean square standard error."""
        semivalue = Semivalue.of_strata(self.masks.shape[1], self.strata)
        if self.enumerated:
            return semivalue.of_table(self.masks, self.scores), 0.0
        fit = fit_values(HammingProcess(), self.masks, self.scores, self.settings, np.random.default_rng(0))
        return fit.values, float(np.sqrt(np.mean(fit.mask_errors**2)))

    def drawn(self, seed: int, n_masks: int) -> np.ndarray:
        """Rows of the leave-one-outs and of as many masks as the default sampler draws, of the same sizes."""
        rng = np.random.default_rng(seed)
        n_free = self.masks.shape[1]
        size_M = self.masks.sum(axis=1)
        sampler = StratifiedSampler(leave_one_out=True, neighbours=True)
        wanted = sampler.sample(n_free, n_masks + n_free, rng).sum(axis=1)
        rows = [np.flatnonzero(size_M >= n_free - 1)]
        for size in np.unique(wanted[wanted < n_free - 1]):
            of_size = np.flatnonzero(size_M == size)
            rows.append(rng.permutation(of_size)[: int((wanted == size).sum())])
        return np.concatenate(rows)


def stored_names() -> list[str]:
    """Models whose evaluations are stored."""
    return [name for name in NAMES if (STORED / f"{name}.npz").exists()]


def load(name: str) -> Stored:
    """The stored evaluations of a model."""
    with np.load(STORED / f"{name}.npz") as data:
        about = json.loads(str(data["about"]))
        masks = np.unpackbits(data["masks"], axis=1, count=about["n_layers"]).astype(bool)
        nll, counts = data["nll"].astype(np.float64), data["counts"]
    dense = nll[masks.all(axis=1)][0]
    scores = np.exp((dense.sum() - nll.sum(axis=1)) / counts.sum())
    value = {mask.tobytes(): score for mask, score in zip(masks, scores, strict=True)}
    n_layers = about["n_layers"]
    alone = np.array([value[mask.tobytes()] for mask in ~np.eye(n_layers, dtype=bool)])
    veto = lost_without(alone, 1.0, value[np.zeros(n_layers, dtype=bool).tobytes()])
    rows = masks[:, veto].all(axis=1)
    free = np.flatnonzero(~veto)
    return Stored(about["title"], masks[rows][:, free], scores[rows], free, int(rows.sum()) == 2 ** len(free))


@dataclass(frozen=True)
class Quality:
    """Of the values of many seeds against the truth."""

    n_masks: float
    error: float
    stated: float
    within_one: float
    within_two: float
    rank: float
    wrong_signs: int


def quality(stored: Stored, surrogate: Surrogate, n_masks: int, *, unbiased: bool = True) -> Quality:
    """Estimate the values for all seeds and compare."""
    truth, _ = stored.truth()
    settings = ValueSettings(tuple(stored.strata), 80_000, unbiased)
    values, errors, counts = [], [], []
    for seed in range(SEEDS):
        rows = stored.drawn(seed, n_masks)
        fit = fit_values(surrogate, stored.masks[rows], stored.scores[rows], settings, np.random.default_rng(seed))
        values.append(fit.values)
        errors.append(fit.mask_errors)
        counts.append(len(rows))
    off, stated = np.array(values) - truth, np.array(errors)
    wrong = (np.sign(values) != np.sign(truth)) & (np.abs(values) > 2 * stated + 1e-9)
    return Quality(
        n_masks=float(np.mean(counts)),
        error=float(np.sqrt((off**2).mean())),
        stated=float(np.sqrt((stated**2).mean())),
        within_one=float((np.abs(off) <= stated + 1e-9).mean()),
        within_two=float((np.abs(off) <= 2 * stated + 1e-9).mean()),
        rank=float(np.mean([spearmanr(found, truth).statistic for found in values])),
        wrong_signs=int(wrong.sum()),
    )


def table(names: list[str]) -> str:
    lines = []
    for name in names:
        stored = load(name)
        truth, error = stored.truth()
        n_free = len(stored.free)
        how = "enumeration" if stored.enumerated else f"{len(stored.scores):,} masks, standard error {error:.4f}"
        lines += [f"## {stored.title}", "", f"{n_free} free players; truth by {how}; {SEEDS} seeds.", ""]
        rows = []
        for label, surrogate, n_masks, unbiased in (
            ("**default**", HammingProcess(), PER_PLAYER * n_free, True),
            ("half as many masks", HammingProcess(), PER_PLAYER * n_free // 2, True),
            ("twice as many", HammingProcess(), 2 * PER_PLAYER * n_free, True),
            ("surrogate alone (`unbiased=False`)", HammingProcess(), PER_PLAYER * n_free, False),
            ("`PairwiseRidge`", PairwiseRidge(), PER_PLAYER * n_free, True),
            ("`PairwiseRidge` alone", PairwiseRidge(), PER_PLAYER * n_free, False),
        ):
            found = quality(stored, surrogate, n_masks, unbiased=unbiased)
            rows.append(
                [
                    label,
                    f"{found.n_masks:.0f}",
                    f"{found.error:.4f}",
                    f"{found.stated:.4f}",
                    f"{100 * found.within_one:.0f}",
                    f"{100 * found.within_two:.1f}",
                    f"{found.rank:.3f}",
                    str(found.wrong_signs),
                ]
            )
        header = [
            "",
            "masks",
            "RMS error",
            "stated",
            "within 1 SE, %",
            "within 2 SE, %",
            "rank correlation",
            "wrong sign",
        ]
        lines += [markdown(header, rows), "", "True values by layer:", ""]
        lines += [markdown([str(layer) for layer in stored.free], [[f"{value:.3f}" for value in truth]]), ""]
    return "\n".join(lines)


def collect(name: str) -> None:
    """Evaluate the masks of a model and store them."""
    import torch

    from layershap import LayerGame

    torch.set_num_threads(1)
    title, model, calibration = _model_and_text(name)
    n_layers = model.config.num_hidden_layers
    ledger = CACHE / f"values_{name}.jsonl"
    ledger.parent.mkdir(exist_ok=True)
    with LayerGame(model, calibration, ledger=ledger, verbose=1) as game:
        ends = np.array([[True] * n_layers, [False] * n_layers])
        first = np.concatenate([ends, ~np.eye(n_layers, dtype=bool)])
        scores = game(first)
        masks = all_masks(n_layers) if n_layers <= 12 else np.concatenate([first, _random(scores, n_layers)])
        statistics = game.statistics(masks)
    STORED.mkdir(parents=True, exist_ok=True)
    _store(name, title, masks, statistics.sums["nll"], statistics.counts)
    print(f"{len(masks)} masks of {LENGTH}-token sequences")


def _model_and_text(name: str) -> tuple[str, Any, Any]:
    """What the page calls it, the model, and 10 calibration sequences."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from layershap import Calibration
    from layershap.datasets import load_calibration_text, load_smollm2, load_tiny_gpt2

    if name == "smollm2":
        model, tokenizer = load_smollm2(MODELS / "smollm2")
        title = "SmolLM2-135M-Instruct, 30 layers, bfloat16, 10 x 128 tokens of WikiText-2 (validation)"
        return title, model, sequences(packed("wikitext2-valid"), tokenizer, 10)
    if name == "stories260k":
        folder = Path(__file__).parents[2] / "tests" / "data" / "stories260K"
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        # Short stories by this model itself, as its kind of text is not shipped.
        text = [tokenizer.decode(ids) for ids in _stories(model)]
        title = "stories260K, 5 Llama layers, 10 x 128 tokens that it wrote"
        return title, model, sequences(text, tokenizer, 10)
    if name == "gpt2":
        model, tokenizer = load_tiny_gpt2()
        title = "GPT-2, 12 layers (bundled)"
    else:
        folder = MODELS / name
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        steps = json.loads((folder / "training.json").read_text(encoding="utf-8"))["steps"]
        kind = "Mamba-2" if name == "mamba2" else "Llama"
        title = f"{kind}, {model.config.num_hidden_layers} layers, trained for {steps:,} steps"
    drawn = sequences(load_calibration_text(), tokenizer, 32)
    return (
        f"{title}, 10 x 128 tokens of Treasure Island",
        model.eval(),
        Calibration(drawn.ids_ST[:10], drawn.labels_ST[:10]),
    )


def _stories(model: Any) -> Any:
    """12 x 160 tokens, sampled."""
    import torch

    torch.manual_seed(0)
    start = torch.full((12, 1), model.config.bos_token_id)
    with torch.no_grad():
        return model.eval().generate(start, do_sample=True, max_new_tokens=160, min_new_tokens=160)


def _random(scores: FloatArray, n_layers: int) -> MaskArray:
    """All pairs of free players, and masks of 3 to 14 removed or more, uniform within a size."""
    veto = lost_without(scores[2:], float(scores[0]), float(scores[1]))
    free = np.flatnonzero(~veto)
    rng = np.random.default_rng(0)
    sets = [free[list(pair)] for pair in combinations(range(len(free)), 2)]
    deepest = len(free) - min(strata_sizes(None, len(free))) + 1
    for size in range(3, max(14, deepest) + 1):
        chosen: set[tuple[int, ...]] = set()
        while len(chosen) < (280 if size <= 8 else 170):
            chosen.add(tuple(sorted(rng.choice(free, size, replace=False))))
        sets += [np.array(removed) for removed in sorted(chosen)]
    return np.array([~np.isin(np.arange(n_layers), removed) for removed in sets])


def _store(name: str, title: str, masks: MaskArray, nll: FloatArray, counts: FloatArray) -> None:
    about: dict[str, Any] = {"title": title, "n_layers": masks.shape[1]}
    np.savez_compressed(
        STORED / f"{name}.npz",
        about=json.dumps(about),
        masks=np.packbits(masks, axis=1),
        nll=nll.astype(np.float32),
        counts=counts,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["collect", "table"])
    parser.add_argument("--model", nargs="+", choices=NAMES, help="default: all, of the table those that are stored")
    parser.add_argument("--write", type=Path, help="a page; between its markers <!-- tables: begin --> and end")
    options = parser.parse_args()
    if options.action == "collect":
        for name in options.model or NAMES:
            collect(name)
        return
    text = f"{provenance()}\n\n{table(options.model or stored_names())}"
    print_or_write(text, options.write)


if __name__ == "__main__":
    main()
