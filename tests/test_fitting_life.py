"""The figure of a fit's life in docs/extending.md is what a fit does: which hook is called when."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import pytest

from layershap import HammingProcess, LayerPruner, Rescale, StratifiedSampler, SurrogateSearch, protocols
from layershap.compensation import Compensation, RefusesEarly, ScalesSkippedLayers
from layershap.scoring.evaluate import task_scores
from layershap.tasks import Task
from layershap.utilities import PerplexityRatio

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
CALLS: list[str] = []

HOOKS = {
    "utility": (protocols.Utility, protocols.ResamplingUtility, protocols.QuestionUtility),
    "sampler": (
        protocols.Sampler,
        protocols.AdaptiveSampler,
        protocols.UniformSampler,
        protocols.StrataSampler,
        protocols.LeaveOneOutSampler,
    ),
    "surrogate": (
        protocols.Surrogate,
        protocols.ClosedFormSurrogate,
        protocols.InteractionSurrogate,
        protocols.RefittableSurrogate,
    ),
    "selector": (protocols.Selector, protocols.SearchingSelector, protocols.HoldsBack),
    "compensation": (Compensation, RefusesEarly, ScalesSkippedLayers),
}
EVERYWHERE = "utility.score"


def own_members(protocol, kind):
    return {name for name, value in vars(protocol).items() if isinstance(value, kind) and name[0] != "_"}


def methods(part):
    return {name for protocol in HOOKS[part] for name in own_members(protocol, type(lambda: 0))}


def watched(part):
    """A class whose hooks are written down when they are called."""

    def decorate(cls):
        for name in methods(part) & set(dir(cls)):
            setattr(cls, name, _written_down(getattr(cls, name), f"{part}.{name}"))
        return cls

    return decorate


def _written_down(method, name):
    @functools.wraps(method)
    def wrapper(*args, **kwargs):
        CALLS.append(name)
        return method(*args, **kwargs)

    return wrapper


@watched("utility")
class Ratio(PerplexityRatio):
    def per_question(self, statistics):
        return self.score(statistics)[:, None]


@watched("utility")
class TiedRatio(PerplexityRatio):
    """Its sequences belong together in pairs."""

    def resample(self, n_sequences, rng):
        first = 2 * rng.integers(n_sequences // 2, size=n_sequences // 2)
        return np.stack([first, first + 1], axis=1).ravel()


@watched("sampler")
class Learning(StratifiedSampler):
    def update(self, masks, scores):
        self.seen_ = len(masks)


@watched("surrogate")
class Process(HammingProcess):
    pass


@watched("selector")
class Search(SurrogateSearch):
    pass


@watched("compensation")
class Scaled(Rescale):
    pass


def figure():
    """The hooks of each stage of `fit`, and of what comes after it."""
    (text,) = re.findall(r"^```text\n(fit\(model.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    life, after = text.split("\n\n")
    named = r"\b(?:utility|sampler|surrogate|selector|compensation)\.\w+"
    stages = [set(re.findall(named, stage)) for stage in re.split(r"^ \d+  ", life, flags=re.MULTILINE)[1:]]
    return stages, {line.split()[0].rstrip(","): set(re.findall(named, line)) for line in after.splitlines()}


def test_the_figure_names_every_hook_and_no_other():
    stages, after = figure()
    every = {
        f"{part}.{name}"
        for part, kinds in HOOKS.items()
        for kind in kinds
        for name in own_members(kind, (type(lambda: 0), property))
    }
    assert set().union(*stages, *after.values()) == every


@pytest.mark.filterwarnings("ignore::layershap.SurrogateQualityWarning")
@pytest.mark.parametrize("utility", [Ratio(), TiedRatio()], ids=["parts", "tied"])
def test_a_fit_calls_the_hooks_in_the_order_of_the_figure(utility, stories, stories_calibration):
    stages, after = figure()
    tied = isinstance(utility, protocols.ResamplingUtility)
    # Of so few layers all masks are drawn, and tell by themselves how values change with the text.
    never = {"surrogate.refitted_values"} | (set() if tied else {"utility.resample"})
    callable_hooks = {f"{part}.{name}" for part in HOOKS for name in methods(part)} - never - {EVERYWHERE}
    expected = [stage & callable_hooks for stage in stages if stage & callable_hooks]
    pruner = LayerPruner(
        utility=utility,
        sampler=Learning(leave_one_out=True, neighbours=True),
        surrogate=Process(max_iter=2),
        selector=Search(),
        compensation=Scaled(in_game=True),
        max_remove=2,
        random_state=0,
    )
    CALLS.clear()
    pruner.fit(stories[0], stories_calibration)
    assert EVERYWHERE in CALLS
    seen: list[set[str]] = [set() for _ in expected]
    at = 0
    for call in CALLS:
        if call == EVERYWHERE:
            continue
        while call not in expected[at]:
            at += 1
            assert at < len(expected), f"{call} after the last stage that names it"
        seen[at].add(call)
    # What two neighbouring stages name is written down for the first of them.
    for stage, before, found in zip(expected, [set(), *seen], seen):
        assert stage <= found | before

    def calls_of(action):
        CALLS.clear()
        action()
        return set(CALLS)

    assert calls_of(lambda: pruner.removed_layers(2)) == after["removed_layers"]
    transform = after["removed_layers"] | after["transform"] | after["then"]
    assert calls_of(lambda: pruner.transform(stories[0], 2)) == transform
    assert calls_of(lambda: pruner.interactions_) == after["interactions_"]
    assert calls_of(lambda: pruner.contributions_at(1)) == after["contributions_at"]
    assert after["report_"] <= calls_of(lambda: pruner.report_)


def test_a_task_is_asked_per_question(stories, stories_calibration):
    task = Task("ratio", stories_calibration, Ratio(), {"ratio": Ratio()})
    CALLS.clear()
    task_scores(stories[0], task)
    assert figure()[1]["evaluate(model"] <= set(CALLS)
