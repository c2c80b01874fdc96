"""Both forwards of an engine, and masks to run through them."""

from __future__ import annotations

import numpy as np

from layershap import find_layers
from layershap.forward.engine import Engine
from layershap.forward.plain import PlainForward
from layershap.forward.settings import EngineSettings
from layershap.masks import distinct
from layershap.shapley import sample_strata


def engine_for(
    model, calibration, statistics=("nll",), batch_tokens=64, memory_budget=2**30, layers=None, head_bytes=2**25
):
    settings = EngineSettings(batch_tokens, memory_budget, head_bytes)
    return Engine(model, find_layers(model, layers), calibration, statistics, settings)


def plain(engine, masks):
    forward = PlainForward(engine.model, engine.stack, engine.tokens, engine.statistics, engine.settings)
    with engine.inference():
        return forward.run(masks, lambda work: None)


def fused(engine, masks):
    assert engine.path == "fused", engine.note
    parts = [engine.run(sweep.masks_UL, lambda work: None) for sweep in engine.plan(masks).sweeps]
    return {name: np.concatenate([part[name] for part in parts]) for name in engine.statistics}


def some_masks(n_layers, count=12):
    rng = np.random.default_rng(0)
    masks = sample_strata(n_layers, range(n_layers + 1), count, rng)
    return distinct(np.concatenate([masks, np.ones((1, n_layers), bool), np.zeros((1, n_layers), bool)]))
