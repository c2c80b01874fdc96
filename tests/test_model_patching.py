"""A model is changed in place for a while: whatever overlaps, it is afterwards what it was, and no thread is fooled."""

from __future__ import annotations

import ctypes
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import torch

from layershap import LayerGame, LayerPruner, ModelInUseError, find_layers, find_sublayers, skip_layers, skip_sublayers
from layershap.model.patching import claimed, evaluation_mode, patched

IDS = torch.arange(8, 24)[None]


def logits(model, skipped=()):
    with torch.no_grad(), skip_layers(model, skipped):
        return model(IDS).logits


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0), (0, 2, 1), (1, 0, 2)])
def test_contexts_that_overlap_without_nesting_each_take_their_own_away(stories, order):
    model, _ = stories
    stack = find_layers(model)
    sets = [{1}, {1, 3}, {0, 3}]
    expected = {skipped: logits(model, skipped) for skipped in [(), (1,), (1, 3), (0, 3), (0, 1, 3)]}
    contexts = [skip_layers(model, layers, stack=stack) for layers in sets]
    for context in contexts:
        context.__enter__()
    open_ = {0, 1, 2}
    for leaving in order:
        contexts[leaving].__exit__(None, None, None)
        open_.discard(leaving)
        skipped = tuple(sorted(set().union(*(sets[i] for i in open_))))
        with torch.no_grad():
            assert torch.equal(model(IDS).logits, expected[skipped])
    assert not any("forward" in vars(layer) for layer in stack.layers)


def test_generators_that_skip_sublayers_and_are_left_in_any_order(stories):
    model, _ = stories
    players = find_sublayers(model)
    before = logits(model)

    def skipping(sublayers):
        with skip_sublayers(model, sublayers, stack=players):
            yield

    first, second = skipping([0, 1]), skipping([1, 2])
    next(first), next(second)
    first.close()
    with torch.no_grad():
        inside = model(IDS).logits
    second.close()
    with skip_sublayers(model, [1, 2], stack=players), torch.no_grad():
        assert torch.equal(inside, model(IDS).logits)
    assert torch.equal(logits(model), before)


def test_a_forward_of_the_users_own_comes_back(stories):
    model = deepcopy(stories[0])
    layer = model.model.layers[2]
    original = layer.forward
    layer.forward = lambda *args, **kwargs: 2 * original(*args, **kwargs)
    own = vars(layer)["forward"]
    doubled = logits(model)
    first, second = skip_layers(model, [2]), skip_layers(model, [2, 3])
    first.__enter__(), second.__enter__()
    first.__exit__(None, None, None), second.__exit__(None, None, None)
    assert vars(layer)["forward"] is own
    assert torch.equal(logits(model), doubled)


def test_what_lies_below_a_patch_is_what_is_still_there(stories):
    layer = stories[0].model.layers[0]
    trace = []

    def adding(name):
        def make(index, original):
            def forward(*args, **kwargs):
                trace.append(name)
                return original(*args, **kwargs)

            return forward

        return make

    contexts = [patched([layer], adding(name)) for name in "abc"]
    for context in contexts:
        context.__enter__()
    with torch.no_grad():
        stories[0](IDS)
        contexts[1].__exit__(None, None, None)
        stories[0](IDS)
        contexts[0].__exit__(None, None, None)
        stories[0](IDS)
        contexts[2].__exit__(None, None, None)
        stories[0](IDS)
    assert "".join(trace) == "cba" + "ca" + "c"


@pytest.mark.parametrize("other", [[1], [3]])
def test_another_thread_is_refused_by_name(stories, other):
    model, _ = stories
    stack = find_layers(model)
    before = logits(model)

    def skip():
        with skip_layers(model, other, stack=stack):
            pytest.fail("two threads skip layers of one model")

    with skip_layers(model, [1], stack=stack), ThreadPoolExecutor(1) as pool:
        with pytest.raises(ModelInUseError, match=r"'MainThread' is working on this model .*copy"):
            pool.submit(skip).result()
        with pytest.raises(ModelInUseError):
            pool.submit(LayerGame, model, IDS).result()
    assert torch.equal(logits(model), before)
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(logits, model).result(), before)


def test_a_thread_that_ended_inside_a_context_bars_nobody(stories):
    model, _ = stories
    expected = logits(model)
    context = evaluation_mode(model)
    thread = threading.Thread(target=context.__enter__)
    thread.start()
    thread.join()
    assert torch.equal(logits(model), expected)
    context.__exit__(None, None, None)
    assert torch.equal(logits(model), expected)


def test_fits_in_threads_on_one_model_are_right_or_refused(stories, stories_calibration):
    model, _ = stories
    settings = {"n_masks": 20, "random_state": 0}
    alone = LayerPruner(**settings).fit(model, stories_calibration).scores_
    before = logits(model)

    def fit(delay):
        time.sleep(delay)
        try:
            return LayerPruner(**settings).fit(model, stories_calibration).scores_
        except ModelInUseError:
            return None

    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(fit, [0.0, 0.02]))
        right = [scores for scores in found if scores is not None]
        assert right, "each was refused because of the other"
        assert all(np.array_equal(scores, alone) for scores in right)
        assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(logits(model), before)


def test_fits_in_threads_on_copies(stories, stories_calibration):
    models = [stories[0], deepcopy(stories[0])]
    with ThreadPoolExecutor(2) as pool:
        games = list(pool.map(lambda model: LayerGame(model, stories_calibration), models))
        first, second = pool.map(lambda game: game(~np.eye(5, dtype=bool)), games)
    assert np.array_equal(first, second)


def hold(model):
    with claimed(model.modules()):
        pass


def test_an_interrupt_at_any_moment_leaves_the_modes_as_they_were(stories):
    """Ctrl-C comes between any two steps of Python code."""
    another_thread = ThreadPoolExecutor(1)
    model = deepcopy(stories[0]).train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    main = threading.get_ident()
    interrupted = 0
    for delay in np.random.default_rng(0).uniform(0, 4e-4, 200).tolist():
        stop = threading.Event()

        def interrupt(delay=delay, stop=stop):
            end = time.perf_counter() + delay
            while time.perf_counter() < end:
                pass
            if not stop.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(KeyboardInterrupt))

        thread = threading.Thread(target=interrupt)
        try:
            thread.start()
            with evaluation_mode(model), patched(model.model.layers, lambda index, original: original):
                pass
            stop.set()
            thread.join()
        except KeyboardInterrupt:
            interrupted += 1
            try:
                thread.join()
            except KeyboardInterrupt:
                thread.join()
        assert [module.training for module in model.modules()] == modes
        assert not any("forward" in vars(module) for module in model.modules())
        another_thread.submit(hold, model).result()  # none is still held by this one
    assert interrupted > 0
    another_thread.shutdown()
