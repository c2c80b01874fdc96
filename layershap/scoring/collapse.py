"""Whether a model's answers have collapsed though its perplexity has not, in a sentence."""

from __future__ import annotations

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
"""Factor by which perplexity rises at most where it is said not to have collapsed."""


def collapse(before: Iterable[Score], after: Iterable[Score]) -> str:
    """What of the answers has collapsed while perplexity hasn't; empty if nothing has, or perplexity says it already.

    Parameters
    ----------
    before, after : iterable of Score
        Scores of the dense model and of the pruned one, on the same texts and prompts (`layershap.evaluate`). Without
        perplexities among them, the answers are judged alone.
    """
    old, new = _by_name(before), _by_name(after)
    shared = [key for key in old if key[1] == "perplexity" and key in new]
    # No perplexity is below 1; a file may say otherwise.
    ratios = {key: new[key].value / max(old[key].value, 1.0) for key in shared}
    if any(not ratio <= CALM_PERPLEXITY for ratio in ratios.values()):  # NaN isn't calm
        return ""
    faults = _faults(_answers(old), _answers(new))
    if not faults:
        return ""
    calm = "".join(f", though the perplexity of {key[0]} is only {ratio:.2f} times" for key, ratio in ratios.items())
    if len(ratios) > 1:
        calm = f", though perplexities are at most {max(ratios.values()):.2f} times"
    calm += " as high" if ratios else ""
    return f"Warning: the answers of the pruned model have collapsed{calm}: {'; '.join(faults)}."


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
