"""Whether a model's answers have collapsed, and whether its perplexity says so, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable

from layershap.scoring.generation import TASK
from layershap.scoring.scores import Score

REPETITION_RISE = 0.2
"""Share of four-token runs that repeat, by which it rises where answers go round in circles."""

LENGTH_FACTOR = 2.0
"""How many times longer or shorter the answers are where they don't end, or end at once."""

LIKELIHOOD_FALL = 1.0
"""Nats per token of the dense model's answers: each of their tokens has become 2.7 times less likely."""

EXACT_MATCH_SHARE = 0.5
"""Share of the right answers that are left."""

CALM_PERPLEXITY = 1.5
"""Factor up to which a rise of perplexity is called small: it doesn't tell what has become of the answers."""


def collapse(before: Iterable[Score], after: Iterable[Score]) -> str:
    """What of the answers has collapsed, and what perplexity says of it; empty if nothing has.

    Parameters
    ----------
    before, after : iterable of Score
        Scores of the dense model and of the pruned one, on the same texts and prompts (`layershap.evaluate`). Without
        perplexities among them, the answers are judged alone.
    """
    old, new = _by_name(before), _by_name(after)
    faults = _faults(_answers(old), _answers(new))
    if not faults:
        return ""
    # No perplexity is below 1; a file may say otherwise.
    ratios = {key[0]: new[key].value / max(old[key].value, 1.0) for key in old if key[1] == "perplexity" and key in new}
    return f"Warning: the answers of the pruned model have collapsed{_perplexities(ratios)}: {'; '.join(faults)}."


def _perplexities(ratios: dict[str, float]) -> str:
    """What perplexity, as a ratio to the dense model's for each text, says beside a collapse."""
    if not ratios:
        return ""
    names = f"the perplexity of {next(iter(ratios))}" if len(ratios) == 1 else "perplexities"
    if not all(math.isfinite(ratio) for ratio in ratios.values()):
        return f", and {names} {'is' if len(ratios) == 1 else 'are'} not finite, too"
    most = max(ratios.values())
    calm = most <= CALM_PERPLEXITY
    if most <= 1:
        return f", though {names} did not rise"
    if calm:
        return f", though {names} rose by {'only' if len(ratios) == 1 else 'at most'} {most - 1:.0%}"
    return f", and {names} rose by {'' if len(ratios) == 1 else 'up to '}{most - 1:.0%}, too"


def _by_name(scores: Iterable[Score]) -> dict[tuple[str, str], Score]:
    return {(score.task, score.metric): score for score in scores}


def _answers(scores: dict[tuple[str, str], Score]) -> dict[str, float]:
    return {metric: score.value for (task, metric), score in scores.items() if task == TASK}


def _faults(old: dict[str, float], new: dict[str, float]) -> list[str]:
    both = old.keys() & new.keys()
    faults = []
    if "repetition" in both and new["repetition"] - old["repetition"] >= REPETITION_RISE:
        faults.append(f"{new['repetition']:.0%} of their four-token runs repeat (before: {old['repetition']:.0%})")
    if "length" in both and not old["length"] / LENGTH_FACTOR < new["length"] < LENGTH_FACTOR * old["length"]:
        faults.append(f"they have {new['length']:.0f} tokens (before: {old['length']:.0f})")
    if "log_likelihood" in both and not old["log_likelihood"] - new["log_likelihood"] < LIKELIHOOD_FALL:
        faults.append(
            f"the dense model's answers have a log-likelihood of {new['log_likelihood']:.2f} nats per token (before: "
            f"{old['log_likelihood']:.2f})"
        )
    if "exact_match" in both and new["exact_match"] < EXACT_MATCH_SHARE * old["exact_match"]:
        faults.append(f"{new['exact_match']:.0%} of them are right (before: {old['exact_match']:.0%})")
    return faults
