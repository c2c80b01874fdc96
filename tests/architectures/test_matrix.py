"""The architecture matrix: every causal LM type of transformers that can be built tiny."""

from __future__ import annotations

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .build import NOT_BUILT, model_types
from .expected import (
    NO_CACHED_GENERATION,
    NO_SUBLAYERS,
    NOT_CAUSAL,
    NOT_FOLDED,
    NOT_REFITTED,
    PARTLY_REFITTED,
    PLAIN_PATH,
    PROTECTED,
    RECIPE_ONLY,
    UNSUPPORTED,
    WARNED_ONLY,
)
from .matrix import Row, measure
from .summary import PROPERTY, row_to_text

# One of each kind: plain, encoder-decoder halves, per-layer lists, index lists, prefix counts, family rules, refusals.
# fmt: off
FAST = [
    "afmoe", "bamba", "bart", "beam", "bert", "bloom", "codegen", "cohere2", "dbrx", "deepseek_v3", "diffllama",
    "dots1", "ernie4_5_moe", "falcon", "gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "git",
    "glm_moe_dsa", "gpt2", "gpt_neo", "gpt_neox", "gpt_neox_japanese", "gpt_oss", "gptj", "jamba", "lfm2",
    "llama", "llama4_text", "mamba2", "minicpm3", "minimax", "mistral", "mixtral", "mllama", "modernbert-decoder",
    "mpt", "nemotron_h", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_next",
    "recurrent_gemma", "reformer", "roberta", "rwkv", "smollm3", "stablelm", "starcoder2", "whisper", "xglm",
    "xlm", "xlnet", "xlstm", "zamba", "zamba2", "zaya",
]
# fmt: on


def assert_row(row: Row) -> None:
    """The row is exactly what `expected` says, for the layers measured."""
    name = row.model_type
    assert bool(row.unsupported) == (name in UNSUPPORTED), row.unsupported
    if row.unsupported:
        return
    assert row.protected == PROTECTED.get(name, [])
    assert row.errors == []
    assert row.skip_is_delete, f"skipping and deleting differ by {row.skip_difference}"
    assert row.causal == (name not in NOT_CAUSAL)
    assert row.forward == ("plain" if name in PLAIN_PATH else "fused"), row.forward_note
    assert row.forward_agrees, f"the {row.forward} forward and plain skipping differ by {row.forward_gap}"
    assert row.intact_generates == (name not in NO_CACHED_GENERATION)
    assert row.generation_broken == []
    recipe = [i for i in RECIPE_ONLY.get(name, []) if i in row.measured]
    warned = [i for i in WARNED_ONLY.get(name, []) if i in row.measured]
    assert row.recipe_only == recipe
    assert row.warned == sorted(recipe + warned)
    assert row.lost == []
    assert row.silently_wrong == []
    assert row.sublayers.isdecimal() == (name not in NO_SUBLAYERS), row.sublayers
    assert (row.rescale == "folds") == (name not in NOT_FOLDED), row.rescale
    assert "wrong by" not in row.rescale, row.rescale
    every_layer = list(range(row.n_layers))
    assert row.refit_layers == ([] if name in NOT_REFITTED else PARTLY_REFITTED.get(name, every_layer))
    assert row.refit_agrees, f"a refit leaves {row.refit_error:.2f} of the error"
    assert bool(row.refit_error) == bool(row.refit_layers)
    assert bool(row.refit_reason) == (row.refit_layers != every_layer)


def test_every_type_is_built_or_accounted_for():
    assert set(model_types()) | set(NOT_BUILT) == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert len(FAST) >= 40
    assert set(FAST) <= set(model_types())


def test_the_reach():
    """What `assert_row` holds each type to, added up: at least this many types can do it."""
    n_types, found = len(model_types()), len(model_types()) - len(UNSUPPORTED)
    assert n_types >= 183
    assert found >= 176  # and skipping equals deleting in all of them
    assert found - len(PLAIN_PATH) >= 178
    assert found - len(RECIPE_ONLY) >= 169
    assert found >= 180  # plain or recipe reload, none silently wrong
    assert found - len(NOT_FOLDED) >= 127
    assert found - len(NOT_REFITTED) >= 117  # some layers at least
    assert found - len(NOT_REFITTED) - len(PARTLY_REFITTED) >= 102


@pytest.mark.parametrize("model_type", FAST)
def test_some_families(model_type):
    assert_row(measure(model_type, layers=(1, 5)))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", model_types())
def test_every_family(model_type, record_property):
    row = measure(model_type)
    record_property(PROPERTY, row_to_text(row))
    assert_row(row)
